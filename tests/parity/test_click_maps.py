"""Maps of clicks and windows around them against recorded outputs of RITM's code."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from parity.clicked import check, extra, open_extra, recorded_clicks
from parity.recorded import recorded, weights

from eachmask.models.promptable.ritm import click_features
from eachmask.ops.click_maps import Clicks, Window, disks, distances


@pytest.fixture(scope="module", params=recorded("click_protocol"))
def fixture(request: pytest.FixtureRequest) -> Any:
    return open_extra(request.param)


@pytest.fixture(scope="module")
def size(fixture: Any) -> tuple[int, int]:
    said = fixture.manifest["config"]
    return said["height"], said["width"]


def test_disks_and_distances(fixture, size):
    clicks = recorded_clicks(fixture.arr("maps.points"))
    for name in fixture.manifest["masks"]:
        if found := re.fullmatch(r"maps\.disk(\d+)", name):
            pixels, _ = fixture.compare_mask(name, disks(clicks, size, float(found[1])).bool().numpy())
            assert pixels == 0, name
    for name in fixture.manifest["raw"]:
        if found := re.fullmatch(r"maps\.distance(\d+)", name):
            check(fixture, name, distances(clicks, size, float(found[1])))


def test_features_of_clicks(fixture, size):
    layers = click_features(64)
    state = {name.removeprefix("maps_transform."): value for name, value in weights(fixture).items()}
    layers.load_state_dict(state)
    clicks = recorded_clicks(fixture.arr("maps.points"))
    seed = int(re.search(r"make_mask_logits\(\d+, \d+, (\d+)\)", str(fixture.manifest["input"]))[1])  # type: ignore[index]
    previous = torch.from_numpy(extra().make_mask_logits(*size, seed)).sigmoid().expand(2, 1, *size)
    maps = torch.cat([previous, disks(clicks, size)], 1)
    check(fixture, "ritm.coord_features", maps)
    check(fixture, "ritm.maps_transform", layers(maps))


def test_windows(fixture, size):
    for said in fixture.scalar("zoom.windows"):
        top, bottom, left, right = said["box"]
        inside = torch.zeros(size, dtype=torch.bool)
        inside[top : bottom + 1, left : right + 1] = True
        places = torch.tensor([click[1:] for click in said["clicks"]], dtype=torch.float32).reshape(1, -1, 2)
        signs = torch.tensor([[1 if click[0] else -1 for click in said["clicks"]]], dtype=torch.int64).reshape(1, -1)
        tight = Window.around(inside, Clicks(places, signs))
        assert tight is not None
        window = tight.expanded(said["ratio"], said["min_crop"], size)
        assert [window.top, window.bottom, window.left, window.right] == said["window"]
    for said in fixture.scalar("zoom.box_iou"):
        assert Window(*said["a"]).iou(Window(*said["b"])) == pytest.approx(said["iou"])
