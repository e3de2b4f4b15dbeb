"""DEXTR against recorded outputs of its authors' code."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from parity.clicked import check, open_extra, picture
from parity.recorded import deterministic, recorded, weights

from eachmask.models.promptable.dextr import DEXTR, Window, bumps, dextr_r101, extreme_candidates
from eachmask.structures import Preprocess, Prompts
from eachmask.weights import from_dextr
from eachmask.weights.renaming import fill


@pytest.fixture(scope="module", params=recorded("dextr"))
def fixture(request: pytest.FixtureRequest) -> Any:
    return open_extra(request.param)


@pytest.fixture(scope="module")
def model(fixture: Any) -> DEXTR:
    said = fixture.manifest["config"]
    model = dextr_r101(
        size=said["size"],
        margin=said["pad"],
        width=float(said["sigma"]),
        mask_threshold=said["threshold"],
        pools=said["psp_sizes"],
    ).eval()
    fill(model, from_dextr.convert(weights(fixture)))
    return model


def test_bumps(fixture):
    for name, size, points, width in (
        ("odd", (7, 9), [[4, 3]], 3.0),
        ("edge", (12, 10), [[0, 11]], 10.0),
        ("outside", (8, 8), [[-2, 3]], 4.0),
        ("default_centre", (6, 9), [[3, 3]], None),
    ):
        if f"gaussian.{name}" not in fixture.manifest["arrays"]:
            continue
        expected = fixture.arr(f"gaussian.{name}")
        if width is None:
            width = 10.0
        assert expected.shape == size
        if name == "default_centre":  # of unknown width, and highest where it was put
            assert np.unravel_index(expected.argmax(), size) == (3, 3)
            continue
        assert bumps(torch.tensor(points), size, width).numpy() == pytest.approx(expected, abs=1e-6), name


def test_where_extreme_points_are_drawn_from(fixture):
    mask = fixture.mask("extreme.mask")[0]
    for reach, said in fixture.scalar("extreme.candidates").items():
        counts = [len(places) for places in extreme_candidates(mask, int(reach))]
        assert counts == [said[side] for side in ("left", "right", "top", "bottom")]


def test_raw_outputs(fixture, model):
    said = fixture.manifest["input"]
    make = deterministic().make_input
    colors = 60 * make(said["height"], said["width"], said["seed"]) + 120
    heat = 80 * np.abs(make(said["height"], said["width"], said["seed"] + 1)[:, :1])
    seen = torch.from_numpy(np.concatenate([colors, heat], 1).astype(np.float32))
    maps = model.resnet(seen).maps
    for number, found in enumerate(maps, start=1):
        check(fixture, f"plain.layer{number}", found)
    for number, pool in enumerate(model.head.pools):
        check(fixture, f"plain.pool{number}", pool(maps[-1]))
    check(fixture, "plain.logits", model.head(maps[-1]))


def test_from_four_points_to_the_mask(fixture, model):
    image = picture(fixture)
    size = image.shape[:2]
    seen = Preprocess(short_side=None)([image]).tensor[0][:, : size[0], : size[1]]
    for case in fixture.manifest["config"]["cases"]:
        points = torch.from_numpy(fixture.arr(f"case.{case}.points")).long()
        window = Window.around(points, model.config.margin)
        assert list(window) == fixture.arr(f"case.{case}.bbox").tolist()
        assert list(window.size) == fixture.arr(f"case.{case}.crop_shape")[:2].tolist()
        assert torch.equal(
            window.seen(points, model.config.size), torch.from_numpy(fixture.arr(f"case.{case}.points512")).long()
        )
        network = model.seen(seen, points, window)
        info, values = fixture.raw(f"case.{case}.resized")
        index = deterministic().sample_indices(int(np.prod(info["shape"])))
        assert np.abs(network[:3].permute(1, 2, 0).numpy().reshape(-1)[index] - values).max() <= 2
        check(fixture, f"case.{case}.heatmap", network[3])
        if f"case.{case}.logits64" not in fixture.manifest["raw"]:
            continue  # of some the network's input alone is recorded
        check(fixture, f"case.{case}.logits64", model.logits(network[None]))
        check(fixture, f"case.{case}.probability", model.probability(network))
        prompts = Prompts(size, extremes=(points + 0.5)[None].float())
        found = model.answer(seen, prompts)
        check(fixture, f"case.{case}.full_probability", found)
        for name, threshold in (("mask", model.threshold), ("mask_half", 0.5)):
            if f"case.{case}.{name}" in fixture.manifest["masks"]:
                pixels, iou = fixture.compare_mask(f"case.{case}.{name}", (found > threshold)[None].numpy())
                assert iou > 0.99 or 0 <= pixels <= 20, (case, name, pixels, iou)
