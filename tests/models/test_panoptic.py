"""What every network with panoptic answers, or answers by queries, promises, and that it can memorize."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from models.siblings import check_complete, without_numbers
from one_step import check_learns_in_bf16, learn
from torch import nn

from eachmask import models
from eachmask.models.protocol import Model
from eachmask.structures import Category, DecodeOptions, ImageBatch, Instances, PanopticMap, Segment, SemanticMap

CLASSES = (Category(1, "ground", is_thing=False), Category(2, "disk"), Category(3, "square"))
QUERIES = {
    "queries": 10, "stuff": [0], "width": 64, "heads": 4, "decoder_layers": 3, "object_threshold": 0.0,
    "overlap_threshold": 0.0,
}  # fmt: skip
FEW = {
    "rpn": {"pre_nms_top_n": 60, "post_nms_top_n": 40, "pre_nms_top_n_training": 60, "post_nms_top_n_training": 40},
    "roi": {"batch_size": 24},
}
SMALL2 = QUERIES | {"encoder_layers": 1, "encoder_ffn": 64, "decoder_ffn": 64, "num_points": 256}
SMALL = QUERIES | {"mask_width": 64, "ffn": 64}


@dataclass(frozen=True)
class Case:
    """A variant small enough for a test."""

    variant: str
    config: dict[str, Any] = field(default_factory=dict)
    learning_rate: float = 1e-3
    """With which it memorizes; 0 where a sibling of the same code does that for it."""

    def build(self) -> nn.Module:
        torch.manual_seed(0)
        return models.variant(self.variant)(num_classes=3, **self.config).eval()


CASES = [
    Case("mask2former_lite0", SMALL2),
    Case("mask2former_lite0_instance", SMALL2),
    Case("mask2former_lite0_semantic", SMALL2, learning_rate=0),
    Case("maskformer_panoptic_lite0", SMALL | {"encoder_layers": 1}),
    Case("maskformer_semantic_lite0", SMALL, learning_rate=0),
    Case("panoptic_fpn_lite0", {"stuff": [0], "detector": FEW, "merge": {"stuff_area": 16}}),
    Case(
        "panoptic_deeplab_mobilenet_v3_large",
        {"stuff": [0], "group": {"stuff_area": 16}, "sigma": 4.0, "backbone": "tf_efficientnet_lite0"},
        learning_rate=2e-3,
    ),
]
SIBLINGS = {
    "mask2former_r50": "mask2former_lite0",
    "mask2former_swin_t": "mask2former_lite0",
    "mask2former_swin_s": "mask2former_lite0",
    "mask2former_swin_b": "mask2former_lite0",
    "mask2former_swin_l": "mask2former_lite0",
    "mask2former_r50_instance": "mask2former_lite0_instance",
    "mask2former_swin_t_instance": "mask2former_lite0_instance",
    "mask2former_r50_semantic": "mask2former_lite0_semantic",
    "mask2former_swin_t_semantic": "mask2former_lite0_semantic",
    "panoptic_deeplab_r52": "panoptic_deeplab_mobilenet_v3_large",
    "panoptic_deeplab_r52_dsconv": "panoptic_deeplab_mobilenet_v3_large",
    "panoptic_fpn_r50": "panoptic_fpn_lite0",
    "panoptic_fpn_r101": "panoptic_fpn_lite0",
    "panoptic_fpn_swin_t": "panoptic_fpn_lite0",
    "maskformer_panoptic_r50": "maskformer_panoptic_lite0",
    "maskformer_panoptic_swin_t": "maskformer_panoptic_lite0",
    "maskformer_semantic_r50": "maskformer_semantic_lite0",
    "maskformer_semantic_swin_t": "maskformer_semantic_lite0",
}
"""Large variants -> the small one of the same code; they are only built here."""


@pytest.fixture(scope="module", params=CASES, ids=lambda case: case.variant)
def case(request: pytest.FixtureRequest) -> Case:
    return request.param


@pytest.fixture(scope="module")
def model(case: Case) -> nn.Module:
    return case.build()


def scene(model: nn.Module, size: tuple[int, int], seed: int) -> tuple[torch.Tensor, Any]:
    """Two disks and a square on the ground, as the model's task wants them."""
    rng = np.random.default_rng(seed)
    height, width = size
    yy, xx = np.mgrid[:height, :width]
    ids = np.ones(size, np.int32)
    for number, (y, x) in enumerate(((0.3, 0.25), (0.7, 0.3)), start=2):
        ids[(yy - height * y) ** 2 + (xx - width * x) ** 2 < (height * 0.17) ** 2] = number
    ids[height // 2 :, int(width * 0.55) : int(width * 0.95)] = 4
    labels = np.array([0, 0, 1, 1, 2])
    colors = np.array([[0.1, 0.2, 0.1], [0.9, 0.3, 0.2], [0.2, 0.4, 0.9]])
    image = (colors[labels[ids]] + 0.05 * rng.standard_normal((*size, 3)) - 0.4) / 0.25
    segments = tuple(Segment(int(i), int(labels[i])) for i in np.unique(ids))
    target: Any = PanopticMap(torch.from_numpy(ids), segments, CLASSES)
    if model.task.target is Instances:
        target = target.to_instances()
    if model.task.target is SemanticMap:
        target = target.to_semantic()
    return torch.from_numpy(image.transpose(2, 0, 1)).float(), target


def scenes(model: nn.Module, *sizes: tuple[int, int]) -> tuple[ImageBatch, list[Any]]:
    pairs = [scene(model, size, seed) for seed, size in enumerate(sizes)]
    return ImageBatch.from_tensors([image for image, _ in pairs]), [target for _, target in pairs]


def predict(model: nn.Module, batch: ImageBatch) -> list[Any]:
    with torch.inference_mode():
        return model.decode(model(batch), DecodeOptions())


def test_every_variant_is_here():
    check_complete("panoptic", (case.variant for case in CASES), SIBLINGS)


@pytest.mark.parametrize("name", sorted(SIBLINGS))
def test_large_variants_are_built_of_the_same_code(name):
    large, small = without_numbers(name, SIBLINGS[name], num_classes=3)
    assert type(large) is type(small) and large.num_classes == 3


def test_is_a_model_of_its_task(model):
    assert isinstance(model, Model)
    assert (
        model.task.name == {Instances: "instances", PanopticMap: "panoptic", SemanticMap: "semantic"}[model.task.target]
    )


def test_results_lie_on_the_valid_area(model):
    sizes = ((50, 70), (64, 96), (33, 31))
    found = predict(model, scenes(model, *sizes)[0])
    assert [seen.image_size for seen in found] == list(sizes)
    assert all(isinstance(seen, model.task.target) for seen in found)
    if model.task.target is PanopticMap:
        for seen in found:
            stuff = [segment.label for segment in seen.segments if segment.label == 0]
            assert len(stuff) <= 1 and all(0 <= segment.label < 3 for segment in seen.segments)


def test_bf16_predicts_and_learns(model):
    batch, targets = scenes(model, (64, 96), (80, 64))
    with torch.autocast("cpu", torch.bfloat16):
        found = predict(model, batch)
    assert [seen.image_size for seen in found] == [(64, 96), (80, 64)]
    check_learns_in_bf16(model, batch, targets)


def test_same_result_twice_and_with_saved_weights(case, model):
    batch, _ = scenes(model, (50, 70))
    other = models.variant(case.variant)(num_classes=3, **case.config).eval()
    other.load_state_dict(copy.deepcopy(model.state_dict()))
    first, second = (predict(m, batch)[0] for m in (model, other))
    assert same(first, second)


def same(first: Any, second: Any) -> bool:
    if isinstance(first, Instances):
        return torch.equal(first.scores, second.scores) and np.array_equal(
            first.masks.to_rle().counts, second.masks.to_rle().counts
        )
    return torch.equal(*((seen.labels if isinstance(seen, SemanticMap) else seen.ids) for seen in (first, second)))


@pytest.mark.parametrize("what", ["objects", "nothing"])
def test_losses_are_finite_and_reach_every_parameter(model, what):
    model = copy.deepcopy(model)
    batch, targets = scenes(model, (64, 96), (80, 64))
    if what == "nothing":
        targets = [nothing(target) for target in targets]
    torch.manual_seed(0)
    losses = model.losses(model(batch), targets)
    assert all(value.ndim == 0 and torch.isfinite(value) for value in losses.values()), losses
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, f"{name} has no part in the losses"
        assert torch.isfinite(parameter.grad).all(), name


def nothing(target: Any) -> Any:
    """An image of the same size in which nothing is annotated."""
    if isinstance(target, Instances):
        return Instances.empty(target.image_size, with_masks=True)
    if isinstance(target, SemanticMap):
        return SemanticMap(torch.full_like(target.labels, 255), CLASSES)
    return PanopticMap(torch.zeros_like(target.ids), (), CLASSES)


@pytest.mark.slow
def test_memorizes_a_few_images(case):
    if not case.learning_rate:
        pytest.skip("a sibling of the same code memorizes for it")
    model = case.build()
    batch, targets = scenes(model, (96, 128), (128, 96))
    optimizer = torch.optim.AdamW(model.parameters(), lr=case.learning_rate)
    worst = 0.0
    for step in range(400):
        learn(model, batch, targets, optimizer, step, clip=1.0)
        if step % 50 == 49:
            found = [model.task.shown(seen, 0.5) for seen in predict(model.eval(), batch)]
            worst = min(model.task.scoring.quality(*pair) for pair in zip(found, targets, strict=True))
            if worst > 0.85:
                return
    pytest.fail(f"the {model.task.scoring.measure} of an image is {worst}")


@torch.no_grad()
def test_maskformers_pyramid_may_be_wider_than_its_masks_features():
    model = models.maskformer_panoptic_lite0(num_classes=3, **SMALL, pyramid_width=96).eval()
    assert model.pixel_decoder.smooth[0][0].weight.shape[:2] == (96, 96)
    seen, features = model.pixel_decoder(model.backbone(torch.zeros(1, 3, 70, 50)).maps)
    assert features.shape == (1, 64, 18, 13) and seen.shape[1] == 64


@torch.no_grad()
def test_mask2formers_pixel_decoder_queries_and_masks_may_have_widths_of_their_own():
    own = {"width": 96, "pixel_width": 64, "mask_width": 40}
    model = models.mask2former_lite0(num_classes=3, **SMALL2 | own).eval()
    levels, features = model.pixel_decoder(model.backbone(torch.zeros(1, 3, 70, 50)).maps)
    assert features.shape == (1, 40, 18, 13) and {level.shape[1] for level in levels} == {64}
    assert model.decoder.inputs[0].weight.shape == (96, 64, 1, 1)
    assert model.decoder(levels, features)[-1][1].shape[2:] == (18, 13)
