"""RetinaNet against recorded outputs of MMDetection, and against torchvision's."""

from __future__ import annotations

import pytest
import torch
import torchvision
from parity.recorded import (
    CASES,
    Ran,
    check_decoded,
    check_levels,
    check_losses,
    check_pyramid,
    open_fixture,
    recorded,
    run,
)

from eachmask.models.detection.retinanet import retinanet_r50_fpn, retinanet_r50_fpn_torchvision
from eachmask.structures import DecodeOptions, ImageBatch
from eachmask.weights import from_torchvision_retinanet as from_torchvision
from eachmask.weights.from_mmdet import retinanet as from_mmdet
from eachmask.weights.renaming import fill


@pytest.fixture(scope="module", params=recorded("mmdet_retinanet_r50"))
def ran(request: pytest.FixtureRequest) -> Ran:
    fixture = open_fixture(request.param)
    said = fixture.manifest["config"]
    config = {
        "anchors": {
            "base_scale": said["octave_base_scale"],
            "octave_scales": said["scales_per_octave"],
            "ratios": tuple(said["ratios"]),
        },
        "candidates": said["nms_pre"],
        "score_threshold": said["score_thr"],
        "nms_threshold": said["nms"],
        "max_detections": said["max_per_img"],
    }
    return run(fixture, retinanet_r50_fpn, from_mmdet.convert, config)


def test_raw_outputs(ran):
    raw = ran.raw
    assert list(raw.features.strides) == ran.said["strides"]
    check_pyramid(ran.fixture, raw.features.maps)
    check_levels(ran.fixture, cls=raw.logits, box=raw.deltas, anchors=ran.model.anchors(raw))


@pytest.mark.parametrize("case", CASES)
def test_detections(ran, case):
    check_decoded(ran, case)


def test_losses(ran):
    check_losses(ran.fixture, ran.model.losses(ran.raw, [ran.target()]), {"class": "loss_cls", "box": "loss_bbox"})


def test_computes_what_torchvisions_does():
    """On random weights and two images of different sizes, boxes in the network's own coordinates."""
    generator = torch.Generator().manual_seed(0)
    theirs = torchvision.models.detection.retinanet_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=6, min_size=128, max_size=200
    ).eval()
    for name, value in theirs.state_dict().items():
        if name.endswith("running_var") or (value.ndim == 1 and name.endswith("weight")):
            value.copy_((0.3 if "bn3" in name else 1.0) * (0.8 + 0.4 * torch.rand(value.shape, generator=generator)))
        elif value.is_floating_point() and value.ndim > 1:
            gain = 0.02 if "cls_logits" in name or "bbox_reg" in name else 2**0.5
            value.copy_(torch.randn(value.shape, generator=generator) * (gain / value[0].numel() ** 0.5))
        elif "cls_logits" in name:
            value.fill_(-4.0).unflatten(0, (9, 6))[:, 0] = -100.0  # what they call background is a class like any other
    eps = float(theirs.backbone.body.bn1.eps)
    ours = retinanet_r50_fpn_torchvision(num_classes=5, norm_eps=eps, max_detections=10**6).eval()
    theirs.detections_per_img = 10**6
    fill(ours, from_torchvision.convert(theirs.state_dict()))
    images, _ = theirs.transform([torch.rand(3, *size, generator=generator) for size in ((96, 130), (150, 90))])
    features = list(theirs.backbone(images.tensors).values())
    head, anchors = theirs.head(features), theirs.anchor_generator(images, features)
    counts = [9 * f.shape[-2] * f.shape[-1] for f in features]
    expected = theirs.postprocess_detections(
        {k: list(v.split(counts, dim=1)) for k, v in head.items()},
        [list(a.split(counts)) for a in anchors],
        images.image_sizes,
    )
    found = ours.decode(ours(ImageBatch(images.tensors, tuple(images.image_sizes))), DecodeOptions())
    for mine, reference in zip(found, expected, strict=True):
        solid = (reference["boxes"][:, 2:] > reference["boxes"][:, :2]).all(1)  # they keep boxes without area
        reference = {name: value[solid] for name, value in reference.items()}
        assert len(mine) == len(reference["labels"]) > 20
        order, their_order = mine.scores.argsort(descending=True), reference["scores"].argsort(descending=True)
        assert torch.allclose(mine.scores[order], reference["scores"][their_order], atol=1e-5)
        assert torch.allclose(mine.boxes[order], reference["boxes"][their_order], atol=0.05)
        assert torch.equal(mine.labels[order], reference["labels"][their_order] - 1)


def test_older_names_are_known():
    state = {f"head.classification_head.conv.{i}.weight": torch.zeros(1) for i in (0, 2, 4, 6)}
    assert list(from_torchvision.convert(state)) == [f"head.class_tower.{i}.0.weight" for i in range(4)]
