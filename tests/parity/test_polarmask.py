"""PolarMask against recorded outputs of the authors' model."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from parity.recorded import (
    CASES,
    Ran,
    check_detections,
    check_levels,
    check_losses,
    check_pyramid,
    open_fixture,
    recorded,
    run,
)

from eachmask.models.instance.polarmask import polarmask_r50_fpn, rays_to
from eachmask.structures import DecodeOptions, Instances
from eachmask.weights import from_polarmask

NAMES = {"class": "loss_cls", "box": "loss_bbox", "mask": "loss_mask", "centerness": "loss_centerness"}


@pytest.fixture(scope="module", params=recorded("polarmask_r50"))
def ran(request: pytest.FixtureRequest) -> Ran:
    fixture = open_fixture(request.param)
    said = fixture.manifest["config"]
    config = {
        "rays": {"num": said["rays"], "bonus": said["centerness_factor"]},
        "assign": {"ranges": tuple(high for _, high in said["regress_ranges"][:-1])},
        "select": {"candidates": said["nms_pre"]},
        "score_threshold": said["score_thr"],
        "nms_threshold": said["nms"],
        "max_detections": said["max_per_img"],
    }
    return run(fixture, polarmask_r50_fpn, from_polarmask.convert, config)


def test_raw_outputs(ran):
    found = ran.raw.detection
    assert list(found.features.strides) == ran.said["strides"]
    check_pyramid(ran.fixture, found.features.maps)
    check_levels(ran.fixture, cls=found.logits, box=found.distances, centerness=found.centerness, rays=ran.raw.rays)


@pytest.mark.parametrize("case", CASES)
def test_detections(ran, case):
    seen = ran.seen(case)
    (found,) = ran.model.decode(seen, DecodeOptions())
    (kept,) = ran.model.keep(seen.detection, DecodeOptions())  # its scores are not cut at 1
    check_detections(ran.fixture, case, found, scores=kept.scores)


def test_places_and_rays_are_the_authors(ran, monkeypatch):
    """Which places learn which object; their rays but for rounding to whole pixels and degrees."""
    target, labels = ran.target(), ran.fixture.arrays["aux/target_labels"]
    seen: dict[str, torch.Tensor] = {}

    def remember(raw, targets, matched, gt_rays):
        seen.update(matched=matched[0], rays=gt_rays)
        return {}

    monkeypatch.setattr(ran.model, "losses_of", remember)
    ran.model.losses(ran.raw, [target])
    ours = np.where(seen["matched"] >= 0, target.labels.numpy()[seen["matched"].clamp(min=0)] + 1, 0)
    assert np.array_equal(ours, labels)
    difference = np.abs(seen["rays"].numpy() - ran.fixture.arrays["aux/target_rays"])
    # Where a ray grazes the outline, a degree more or less is many pixels.
    assert difference.mean() < 0.5 and np.quantile(difference, 0.98) < 2


def test_losses(ran):
    """With the authors' own targets; with ours, nearly."""
    fixture, model, raw = ran
    target, place = ran.target(), ran.array("aux/target_pos")
    boxes = ran.array("aux/target_boxes")  # distances from the places
    labels = ran.array("aux/target_labels")[place] - 1
    points = torch.cat(model.points(raw.detection))
    matched = torch.full((len(points),), -1)
    matched[place] = torch.arange(len(place))
    corners = torch.cat([points[place] - boxes[:, :2], points[place] + boxes[:, 2:]], dim=1)
    one_each = Instances(target.image_size, corners, labels=labels)
    check_losses(fixture, model.losses_of(raw, [one_each], [matched], ran.array("aux/target_rays")), NAMES)
    for name, value in model.losses(raw, [target]).items():
        assert float(value) == pytest.approx(fixture.manifest["losses"][NAMES[name]], rel=0.1)


def test_rays_end_where_a_square_does():
    square = torch.tensor([[10.0, 10], [30, 10], [30, 30], [10, 30]])
    (inside, outside) = rays_to(torch.tensor([[20.0, 20], [0, 20]]), square, 4)  # down, right, up, left
    assert torch.allclose(inside, torch.full((4,), 10.0))
    assert torch.allclose(outside, torch.tensor([0, 30.0, 0, 0]), atol=1e-5)
