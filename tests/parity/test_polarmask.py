"""PolarMask against recorded outputs of the authors' model."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import pytest
import torch
from parity.recorded import batch, check_detections, check_losses, check_raw, open_fixture, recorded, weights

from eachmask.models.instance.polarmask import PolarMask, Raw, polarmask_r50_fpn, rays_to
from eachmask.structures import RLE, DecodeOptions, Instances
from eachmask.weights import from_polarmask
from eachmask.weights.renaming import fill

SYSTEMS = recorded("polarmask_r50")
NAMES = {"class": "loss_cls", "box": "loss_bbox", "mask": "loss_mask", "centerness": "loss_centerness"}


@lru_cache(maxsize=1)
def ran(stem: str) -> tuple[Any, PolarMask, Raw]:
    """The fixture, our model with its weights, and what it says of its input."""
    fixture = open_fixture(stem)
    said = fixture.manifest["config"]
    model = polarmask_r50_fpn(
        num_classes=said["num_classes"],
        num_rays=said["rays"],
        bonus=said["centerness_factor"],
        ranges=tuple(high for _, high in said["regress_ranges"][:-1]),
        candidates=said["nms_pre"],
        score_threshold=said["score_thr"],
        nms_threshold=said["nms"],
        max_detections=said["max_per_img"],
    ).eval()
    fill(model, from_polarmask.convert(weights(fixture)))
    with torch.no_grad():
        return fixture, model, model(batch(fixture))


def truth(fixture: Any, raw: Raw) -> Instances:
    target = fixture.target()
    masks = RLE.from_bitmaps(target["masks"])
    boxes, labels = torch.from_numpy(target["boxes"]), torch.from_numpy(target["labels"])
    return Instances(raw.detection.sizes[0], boxes, masks=masks, labels=labels)


@pytest.mark.parametrize("stem", SYSTEMS)
def test_raw_outputs(stem):
    fixture, _, raw = ran(stem)
    assert list(raw.detection.features.strides) == fixture.manifest["config"]["strides"]
    for i, rays in enumerate(raw.rays):
        check_raw(fixture, f"neck.{i}", raw.detection.features.maps[i])
        check_raw(fixture, f"cls.{i}", raw.detection.logits[i])
        check_raw(fixture, f"box.{i}", raw.detection.distances[i])
        check_raw(fixture, f"centerness.{i}", raw.detection.centerness[i])
        check_raw(fixture, f"rays.{i}", rays)


@pytest.mark.parametrize("stem", SYSTEMS)
def test_detections(stem):
    fixture, model, raw = ran(stem)
    for name, case in fixture.manifest["detections"].items():
        here = raw._replace(detection=raw.detection._replace(sizes=(tuple(case["img_shape"]),)))
        (found,) = model.decode(here, DecodeOptions())
        (kept,) = model.keep(here.detection, DecodeOptions())  # its scores are not cut at 1
        check_detections(fixture, name, found.resize(case["ori_shape"]), scores=kept.instances.scores)


@pytest.mark.parametrize("stem", SYSTEMS)
def test_places_and_rays_are_the_authors(stem):
    """Which places learn which object; their rays but for rounding to whole pixels and degrees."""
    fixture, model, raw = ran(stem)
    target, labels = truth(fixture, raw), fixture.arrays["aux/target_labels"]
    seen: dict[str, torch.Tensor] = {}

    def remember(raw, targets, matched, wanted_rays):
        seen.update(matched=matched[0], rays=wanted_rays)
        return {}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, "losses_of", remember)
        model.losses(raw, [target])
    ours = np.where(seen["matched"] >= 0, target.labels.numpy()[seen["matched"].clamp(min=0)] + 1, 0)
    assert np.array_equal(ours, labels)
    difference = np.abs(seen["rays"].numpy() - fixture.arrays["aux/target_rays"])
    # Where a ray grazes the outline, a degree more or less is many pixels.
    assert difference.mean() < 0.5 and np.quantile(difference, 0.98) < 2


@pytest.mark.parametrize("stem", SYSTEMS)
def test_losses(stem):
    """With the authors' own targets; with ours, nearly."""
    fixture, model, raw = ran(stem)
    target, place = truth(fixture, raw), torch.from_numpy(fixture.arrays["aux/target_pos"])
    boxes = torch.from_numpy(fixture.arrays["aux/target_boxes"])  # distances from the places
    labels = torch.from_numpy(fixture.arrays["aux/target_labels"])[place] - 1
    points = torch.cat(model.points(raw.detection))
    matched = torch.full((len(points),), -1)
    matched[place] = torch.arange(len(place))
    one_each = Instances(
        target.image_size,
        torch.cat([points[place] - boxes[:, :2], points[place] + boxes[:, 2:]], dim=1),
        labels=labels,
    )
    rays = torch.from_numpy(fixture.arrays["aux/target_rays"])
    check_losses(fixture, model.losses_of(raw, [one_each], [matched], rays), NAMES)
    for name, value in model.losses(raw, [target]).items():
        assert float(value) == pytest.approx(fixture.manifest["losses"][NAMES[name]], rel=0.1)


def test_rays_end_where_a_square_does():
    square = torch.tensor([[10.0, 10], [30, 10], [30, 30], [10, 30]])
    (inside, outside) = rays_to(torch.tensor([[20.0, 20], [0, 20]]), square, 4)  # down, right, up, left
    assert torch.allclose(inside, torch.full((4,), 10.0))
    assert torch.allclose(outside, torch.tensor([0, 30.0, 0, 0]), atol=1e-5)
