"""What every network that labels pixels promises: the three verbs on awkward input, and that it can memorize."""

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
from eachmask.structures import Category, DecodeOptions, ImageBatch, SemanticMap
from eachmask.tasks.semantic import SEMANTIC

CLASSES = (Category(1, "ground", is_thing=False), Category(2, "disk"), Category(3, "square"))
SMALL_VGG = {"width": 32, "kernel": 3}


@dataclass(frozen=True)
class Case:
    """A variant small enough for a test."""

    variant: str
    config: dict[str, Any] = field(default_factory=dict)
    learning_rate: float = 2e-3
    """With which it memorizes; 0 where a sibling of the same code does that for it."""

    def build(self) -> nn.Module:
        torch.manual_seed(0)
        return models.variant(self.variant)(num_classes=3, **self.config).eval()


CASES = [
    Case("fcn32s_lite0"),
    Case("fcn16s_lite0", learning_rate=0),
    Case("fcn8s_lite0"),
    Case("fcn8s_vgg16", SMALL_VGG | {"backbone": "vgg11"}, learning_rate=0),
    Case("fcn_resnet50", {"backbone": "tf_efficientnet_lite0", "stride": 16}, learning_rate=0),
    Case("deeplabv3_lite0"),
    Case("semantic_fpn_lite0"),
    Case("semantic_fpn_swin_t", {"swin": {"width": 24, "depths": (1, 1, 1, 1)}, "width": 32}, learning_rate=0),
    Case("deeplabv3_mobilenet_v3_large", learning_rate=0),
    Case("deeplabv3plus_lite0"),
    Case("pspnet_lite0"),
    Case("upernet_lite0", {"width": 32}),
    Case("segformer_b0", {"backbone": {"widths": (16, 32, 40, 64), "depths": (1, 1, 1, 1)}, "width": 32}),
    Case("pointrend_semantic_lite0", {"points": {"per_image": 256, "per_doubling": 256}}),
    Case("lraspp_lite0"),
    Case("lraspp_mobilenet_v3_large", learning_rate=0),
    Case("segnet_tiny", {"widths": (8, 16, 24)}),
    Case("deconvnet_tiny", {"widths": (8, 16, 24), "bottleneck": 32}),
    Case("segnet_vgg16", {"backbone": "vgg11_bn"}, learning_rate=0),
    Case("dilated_context_lite0", {"dilations": (1, 2, 1)}),
    Case("sliding_window", {"widths": (8, 16), "hidden": 16}),
    Case("unet_tiny", {"border_weight": 10.0}),
    Case("unet_s5_d16", {"width": 8}, learning_rate=0),
    Case("unet_lite0", {"up": "sub_pixel"}, learning_rate=0),
]
SIBLINGS = {
    "deconvnet_vgg16": "deconvnet_tiny",
    "deeplabv3_resnet50": "deeplabv3_lite0",
    "deeplabv3_resnet101": "deeplabv3_lite0",
    "deeplabv3plus_r50_d8": "deeplabv3plus_lite0",
    "deeplabv3plus_r52": "deeplabv3plus_lite0",
    "deeplabv3plus_r103": "deeplabv3plus_lite0",
    "dilated_context_resnet50": "dilated_context_lite0",
    "fcn16s_vgg16": "fcn16s_lite0",
    "fcn32s_vgg16": "fcn32s_lite0",
    "fcn_resnet101": "fcn_resnet50",
    "pointrend_semantic_r50": "pointrend_semantic_lite0",
    "pointrend_semantic_r50_mmseg": "pointrend_semantic_lite0",
    "pointrend_semantic_r101": "pointrend_semantic_lite0",
    "pspnet_r50_d8": "pspnet_lite0",
    "pspnet_r50_d8_align": "pspnet_lite0",
    "pspnet_r101_d8": "pspnet_lite0",
    "segformer_b1": "segformer_b0",
    "segformer_b2": "segformer_b0",
    "segformer_b5": "segformer_b0",
    "semantic_fpn_r50": "semantic_fpn_lite0",
    "semantic_fpn_r50_mmseg": "semantic_fpn_lite0",
    "unet": "unet_tiny",
    "upernet_r50": "upernet_lite0",
    "upernet_swin_t": "upernet_lite0",
    "upernet_swin_s": "upernet_lite0",
    "upernet_swin_b": "upernet_lite0",
}
"""Large variants -> the small one of the same code; they are only built here."""


@pytest.fixture(scope="module", params=CASES, ids=lambda case: case.variant)
def case(request: pytest.FixtureRequest) -> Case:
    return request.param


@pytest.fixture(scope="module")
def model(case: Case) -> nn.Module:
    return case.build()


def scene(size: tuple[int, int], seed: int) -> tuple[torch.Tensor, SemanticMap]:
    """A disk and a square on the ground, and a stripe that does not count."""
    rng = np.random.default_rng(seed)
    height, width = size
    yy, xx = np.mgrid[:height, :width]
    labels = np.zeros(size, np.int64)
    labels[(yy - height * 0.4) ** 2 + (xx - width * 0.3) ** 2 < (height * 0.28) ** 2] = 1
    labels[height // 2 :, int(width * 0.55) : int(width * 0.95)] = 2
    colors = np.array([[0.1, 0.2, 0.1], [0.9, 0.3, 0.2], [0.2, 0.4, 0.9]])
    image = (colors[labels] + 0.05 * rng.standard_normal((*size, 3)) - 0.4) / 0.25
    labels[:3] = 255
    return torch.from_numpy(image.transpose(2, 0, 1)).float(), SemanticMap(torch.from_numpy(labels), CLASSES)


def scenes(*sizes: tuple[int, int]) -> tuple[ImageBatch, list[SemanticMap]]:
    pairs = [scene(size, seed) for seed, size in enumerate(sizes)]
    return ImageBatch.from_tensors([image for image, _ in pairs]), [target for _, target in pairs]


def predict(model: nn.Module, batch: ImageBatch) -> list[SemanticMap]:
    with torch.inference_mode():
        return model.decode(model(batch), DecodeOptions())


def test_every_variant_is_here():
    check_complete("semantic", (case.variant for case in CASES), SIBLINGS)


@pytest.mark.parametrize("name", sorted(SIBLINGS))
def test_large_variants_are_built_of_the_same_code(name):
    large, small = without_numbers(name, SIBLINGS[name], num_classes=3)
    assert type(large) is type(small) and large.num_classes == 3


def test_is_a_model_of_the_task(model):
    assert isinstance(model, Model) and model.task is SEMANTIC


def test_every_pixel_of_each_image_gets_a_class(model):
    sizes = ((50, 70), (64, 96), (33, 31))
    found = predict(model, scenes(*sizes)[0])
    assert [seen.image_size for seen in found] == list(sizes)
    assert all(int(seen.labels.max()) < 3 and seen.labels.dtype == torch.uint8 for seen in found)


def test_bf16_predicts_and_learns(model):
    batch, targets = scenes((64, 96), (80, 64))
    with torch.autocast("cpu", torch.bfloat16):
        found = predict(model, batch)
    assert [seen.image_size for seen in found] == [(64, 96), (80, 64)]
    check_learns_in_bf16(model, batch, targets)


def test_same_result_twice_and_with_saved_weights(case, model):
    batch, _ = scenes((50, 70))
    other = models.variant(case.variant)(num_classes=3, **case.config).eval()
    other.load_state_dict(copy.deepcopy(model.state_dict()))
    first, second, third = (predict(m, batch)[0] for m in (model, model, other))
    assert torch.equal(first.labels, second.labels) and torch.equal(first.labels, third.labels)


def test_the_labels_are_the_best_of_the_logits_at_full_size(model):
    batch, _ = scenes((64, 96))
    with torch.inference_mode():
        raw = model(batch)
        full = nn.functional.interpolate(model.grids(raw), size=raw.padded, mode="bilinear", align_corners=False)
        (seen,) = model.decode(raw, DecodeOptions())
    best = full[0, :, :64, :96].argmax(0)
    assert float((seen.labels.long() != best).float().mean()) < 1e-3


@pytest.mark.parametrize("what", ["classes", "one class", "nothing", "a tiny image"])
def test_losses_are_finite_and_reach_every_parameter(model, what):
    model = copy.deepcopy(model)
    batch, targets = scenes((64, 96), (80, 64))
    if what == "one class":
        targets = [SemanticMap(torch.ones_like(target.labels), CLASSES) for target in targets]
    if what == "nothing":
        targets = [SemanticMap(torch.full_like(target.labels, 255), CLASSES) for target in targets]
    if what == "a tiny image":
        batch = ImageBatch(batch.tensor, ((5, 3), batch.sizes[1]))
        targets[0] = SemanticMap(torch.zeros(5, 3, dtype=torch.long), CLASSES)
    losses = model.losses(model(batch), targets)
    assert all(value.ndim == 0 and torch.isfinite(value) for value in losses.values()), losses
    assert what != "nothing" or all(float(value) == 0 for value in losses.values())
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, f"{name} has no part in the losses"
        assert torch.isfinite(parameter.grad).all(), name


def test_what_does_not_count_is_not_learnt(model):
    batch, (target,) = scenes((64, 96))
    with torch.no_grad():
        raw = model(batch)
        as_it_is = model.losses(raw, [target])
        raw.logits[..., :1, :] += 0.0
        named = SemanticMap(torch.where(target.labels == 255, 1, target.labels.long()), CLASSES)
        known = model.losses(raw, [named])
    assert float(as_it_is["pixels"]) != float(known["pixels"])


@pytest.mark.parametrize(
    "loss", [{"dice": 1.0}, {"lovasz": 1.0}, {"gamma": 2.0}, {"hard": 0.25}, {"class_weights": [1, 2, 3]}]
)
def test_other_losses_are_chosen_by_config(loss):
    batch, targets = scenes((64, 64))
    usual, other = (models.lraspp_lite0(3, loss=chosen) for chosen in ({}, loss))
    other.load_state_dict(usual.state_dict())
    first, second = (float(sum(m.eval().losses(m(batch), targets).values()).detach()) for m in (usual, other))
    assert first != second and np.isfinite(second)


@pytest.mark.slow
def test_memorizes_a_few_images(case):
    if not case.learning_rate:
        pytest.skip("a sibling of the same code memorizes for it")
    model = case.build()
    batch, targets = scenes((96, 128), (128, 96), (128, 128))
    optimizer = torch.optim.Adam(model.parameters(), lr=case.learning_rate)
    worst = 0.0
    for step in range(300):
        learn(model, batch, targets, optimizer, step, clip=5.0)
        if step % 50 == 49:
            found = predict(model.eval(), batch)
            worst = min(SEMANTIC.scoring.quality(*pair) for pair in zip(found, targets, strict=True))
            if worst > 0.85:
                return
    pytest.fail(f"the mean IoU of an image is {worst}")
