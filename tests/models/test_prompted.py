"""What models promise that answer prompts alone: awkward images, awkward prompts, awkward targets.

A new one joins with one line in ``CASES``; :mod:`models.test_contract` is the same for models that find everything.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
import torch
from models.siblings import without_numbers
from one_step import check_learns_in_bf16, learn
from torch import nn

from eachmask import models
from eachmask.inference.prompt_predictor import PromptPredictor
from eachmask.models.config import changed
from eachmask.models.protocol import Model, Promptable
from eachmask.structures import RLE, DecodeOptions, ImageBatch, Instances, Preprocess, Prompts, UserError
from eachmask.weights.header import ModelInfo

Ask = Callable[[Instances], Prompts]


def clicks(targets: Instances) -> Prompts:
    """One in the middle of each object, and one beside it in the corner of the image."""
    points, numbers = [], []
    for i, mask in enumerate(targets.gt_masks.to_rle().decode()):
        row, column = np.argwhere(mask)[mask.sum() // 2]
        points.append([column + 0.5, row + 0.5])
        numbers.append(i)
    points.append([0.5, 0.5])
    signs = [True] * len(numbers) + [False]
    return Prompts(targets.image_size, points=points, signs=signs, point_objects=[*numbers, 0])


def extremes(targets: Instances) -> Prompts:
    """The four outermost places of each object."""
    found = []
    for mask in targets.gt_masks.to_rle().decode():
        places = np.argwhere(mask)[:, ::-1] + 0.5
        order = [places[:, 0].argmin(), places[:, 0].argmax(), places[:, 1].argmin(), places[:, 1].argmax()]
        found.append(places[order])
    return Prompts(targets.image_size, extremes=torch.from_numpy(np.stack(found)).float())


@dataclass(frozen=True)
class Case:
    """A variant small enough for a test."""

    variant: str
    config: dict[str, Any] = field(default_factory=dict)
    ask: Ask = clicks
    refused: str = "boxes"
    """A kind of prompts that it cannot answer."""
    learning_rate: float = 1e-3
    steps: int = 300

    def build(self) -> nn.Module:
        torch.manual_seed(0)
        return models.variant(self.variant)(num_classes=1, **self.config).eval()


CASES = [
    Case(
        "simpleclick_vit_t",
        {"transformer": {"depth": 4, "side": 112, "group": 2}, "zoom": {"size": (112, 112)}},
        learning_rate=5e-4,
    ),
    Case("ritm_lite0", {"zoom": {"size": (96,)}}),
    Case("dextr_lite0", {"size": 128}, extremes, "points"),
    Case("dextr_r18", {"size": 96}, extremes, "points", learning_rate=0),
    Case("clicks_lite0", {"grid": 32}, refused="texts"),
    Case("latent_diversity_lite0", {"masks": 3, "zoom": {"size": (96,)}}),
    Case("polygon_rnn_lite0", {"size": 96, "grid": 24}, extremes, "points"),
    Case("ritm_hrnet18s", {"zoom": {"size": (96,)}}, learning_rate=0),
]

SIBLINGS = {
    "dextr_r101": "dextr_r18",
    "simpleclick_vit_b": "simpleclick_vit_t",
    "simpleclick_vit_l": "simpleclick_vit_t",
    "simpleclick_vit_h": "simpleclick_vit_t",
    "ritm_hrnet18": "ritm_hrnet18s",
    "ritm_hrnet32": "ritm_hrnet18s",
}
"""Large variants -> the small one of the same code that keeps the promises for them."""


@pytest.fixture(scope="module", params=CASES, ids=[case.variant for case in CASES])
def case(request: pytest.FixtureRequest) -> Case:
    return request.param


@pytest.fixture(scope="module")
def model(case: Case) -> nn.Module:
    return case.build()


def scene(size: tuple[int, int], num: int = 2, seed: int = 0) -> tuple[torch.Tensor, Instances]:
    """An image (3, H, W) of ellipses and its targets."""
    rng = np.random.default_rng(seed)
    ys, xs = np.mgrid[: size[0], : size[1]] + 0.5
    image = rng.normal(0, 0.1, (3, *size)).astype(np.float32)
    label_map = np.zeros(size, np.int32)
    for i in range(num):
        cy, cx = size[0] * rng.uniform(0.35, 0.65), size[1] * (i + rng.uniform(0.4, 0.6)) / num  # side by side
        ry, rx = rng.uniform(0.15, 0.25, 2) * min(size)
        inside = ((ys - cy) / ry) ** 2 + ((xs - cx) / rx) ** 2 <= 1
        label_map[inside & (label_map == 0)] = i + 1
        image[i % 3, inside] += 1.5
    masks = RLE.from_label_map(label_map)
    return torch.from_numpy(image), Instances(size, torch.from_numpy(masks.boxes()), masks)


def scenes(*sizes: tuple[int, int]) -> tuple[ImageBatch, list[Instances]]:
    pairs = [scene(size, seed=seed) for seed, size in enumerate(sizes)]
    return ImageBatch.from_tensors([image for image, _ in pairs]), [target for _, target in pairs]


@torch.inference_mode()
def answers(model: Any, batch: ImageBatch, prompts: list[Prompts], **options: Any) -> list[Instances]:
    return model.decode(model.prompted(model.encode(batch), prompts), DecodeOptions(**options))


def check_valid(found: Instances, size: tuple[int, int], num: int) -> None:
    assert found.image_size == size and found.masks is not None and found.masks.size == size
    assert found.scores is not None and ((found.scores >= 0) & (found.scores <= 1)).all()
    assert found.track_ids is not None and set(found.track_ids.tolist()) <= set(range(num))
    x1, y1, x2, y2 = found.boxes.unbind(1)
    assert ((x1 >= 0) & (y1 >= 0) & (x1 <= x2) & (y1 <= y2) & (x2 <= size[1]) & (y2 <= size[0])).all()
    assert (found.masks.area() > 0).all()


@pytest.mark.parametrize("name", sorted(SIBLINGS))
def test_large_variants_are_built_of_the_same_code(name):
    large, small = without_numbers(name, SIBLINGS[name])
    assert {type(module) for module in large.children()} == {type(module) for module in small.children()}


def test_obeys_the_protocol(case, model):
    assert isinstance(model, Model) and isinstance(model, Promptable)
    assert model.max_classes == 1 and model.needs == {"masks"} and model.answers_only
    assert changed(model.config, case.config) == model.config


def test_odd_sizes_and_several_objects_in_one_batch(case, model):
    sizes = [(33, 65), (64, 47), (97, 41)]
    batch, targets = scenes(*sizes)
    prompts = [case.ask(target) for target in targets]
    found = answers(model, batch, prompts, mask_threshold=0.05)
    assert sum(len(some) for some in found) > 0
    for some, size, asked in zip(found, sizes, prompts, strict=True):
        check_valid(some, size, len(asked))


def test_bf16_answers_and_learns(case, model):
    batch, targets = scenes((64, 96), (80, 64))
    prompts = [case.ask(target) for target in targets]
    with torch.autocast("cpu", torch.bfloat16):
        found = answers(model, batch, prompts, mask_threshold=0.05)
    for some, size, asked in zip(found, batch.sizes, prompts, strict=True):
        check_valid(some, size, len(asked))
    check_learns_in_bf16(model, batch, targets)


def test_without_prompts_it_says_what_it_wants(case, model):
    batch, _ = scenes((33, 65))
    with pytest.raises(UserError, match="give"), torch.inference_mode():
        model.decode(model(batch), DecodeOptions())


def test_prompts_that_it_cannot_see_are_refused(case, model):
    batch, _ = scenes((33, 65))
    values: dict[str, Any] = {"boxes": [[1, 1, 9, 9]], "points": [[5, 5]], "texts": ["cat"]}
    for kind in {case.refused, "texts"}:
        with pytest.raises(UserError, match="give"):
            answers(model, batch, [Prompts((33, 65), **{kind: values[kind]})])


def test_same_result_twice_and_from_saved_weights(case, model):
    torch.manual_seed(99)
    other = models.variant(case.variant)(num_classes=1, **case.config).eval()
    other.load_state_dict(copy.deepcopy(model.state_dict()))
    batch, (target,) = scenes((50, 70))
    runs = [answers(m, batch, [case.ask(target)], mask_threshold=0.05)[0] for m in (model, model, other)]
    for found in runs[1:]:
        assert torch.equal(found.scores, runs[0].scores)
        assert np.array_equal(found.masks.to_rle().counts, runs[0].masks.to_rle().counts)


def test_a_predictor_answers_in_the_images_own_pixels(case, model):
    predictor = PromptPredictor(
        copy.deepcopy(model), ModelInfo(case.variant, case.config, Preprocess(short_side=None), ()), device="cpu"
    )
    image = np.random.default_rng(0).integers(0, 255, (60, 90, 3), dtype=np.uint8)
    _, target = scene((60, 90))
    prompts = case.ask(target)
    options = DecodeOptions(mask_threshold=0.05)
    embedded = pickle.loads(pickle.dumps(predictor.embed(image)))
    found = predictor.predict(embedded, prompts, options=options)
    check_valid(found, (60, 90), len(prompts))
    again = predictor.predict(image, prompts, options=options)
    assert np.array_equal(found.masks.to_rle().counts, again.masks.to_rle().counts)
    if predictor.finds_everything:
        assert predictor.everything(image).image_size == (60, 90)
    else:
        with pytest.raises(UserError, match="give"):
            predictor.everything(image)


@pytest.mark.parametrize("what", ["objects", "nothing", "one of each", "crowd", "a single pixel", "a tiny image"])
def test_losses_are_finite_and_reach_every_parameter(case, model, what):
    model = copy.deepcopy(model)
    batch, targets = scenes((64, 96), (80, 64))
    if what == "nothing":
        targets = [target[:0] for target in targets]
    elif what == "one of each":
        targets[0] = targets[0][:0]
    elif what == "crowd":
        targets = [replace(target, crowd=torch.ones(len(target), dtype=torch.bool)) for target in targets]
    elif what == "a single pixel":
        targets = [of_bitmap(target.image_size, (slice(5, 6), slice(7, 8))) for target in targets]
    elif what == "a tiny image":  # as a strong jitter of scale makes them, in a batch that is as large as ever
        batch = replace(batch, sizes=((5, 3), batch.sizes[1]))
        targets[0] = of_bitmap((5, 3), (slice(None), slice(None)))
    torch.manual_seed(1)
    losses = model.losses(model(batch), targets)
    assert all(value.ndim == 0 and torch.isfinite(value) for value in losses.values()), losses
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, f"{name} has no part in the losses of a batch with {what}"
        assert torch.isfinite(parameter.grad).all(), name


def of_bitmap(size: tuple[int, int], where: tuple[slice, slice]) -> Instances:
    bitmap = np.zeros((1, *size), bool)
    bitmap[0][where] = True
    masks = RLE.from_bitmaps(bitmap)
    return Instances(size, torch.from_numpy(masks.boxes()), masks)


@pytest.mark.slow
def test_memorizes_a_few_images(case):
    if not case.learning_rate:
        pytest.skip("a sibling of the same code memorizes for it")
    model = case.build()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.1  # a few hundred steps are too few for the 0.01 of some backbones
    batch, targets = scenes((96, 128), (128, 96), (128, 128))
    optimizer = torch.optim.Adam(model.parameters(), lr=case.learning_rate)
    worst = 0.0
    for step in range(case.steps):
        learn(model, batch, targets, optimizer, step, clip=5.0)
        if step % 50 == 49:
            worst = least_overlap(model.eval(), case, batch, targets)
            if worst > 0.7:
                return
    pytest.fail(f"the worst answer has an IoU of {worst}")


def least_overlap(model: nn.Module, case: Case, batch: ImageBatch, targets: list[Instances]) -> float:
    """Of all objects, the smallest IoU with the answer that is meant for it."""
    least = 1.0
    for found, target in zip(answers(model, batch, [case.ask(t) for t in targets]), targets, strict=True):
        iou = found.masks.iou(target.masks)
        for number, area in enumerate(target.masks.area().tolist()):
            rows = np.flatnonzero((found.track_ids == number).numpy())
            if area >= 64:
                least = min(least, float(iou[rows, number].max(initial=0.0)))
    return least
