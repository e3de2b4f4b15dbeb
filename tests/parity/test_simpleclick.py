"""SimpleClick against recorded outputs of its authors' code."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from parity.clicked import check, check_clicked, open_extra, previous_mask, recorded_clicks
from parity.recorded import deterministic, recorded, weights

from eachmask.models.promptable.simpleclick import SimpleClick, simpleclick_vit_b
from eachmask.weights import from_simpleclick
from eachmask.weights.renaming import fill

CASES: dict[str, tuple[bool, dict[str, Any]]] = {
    "whole448": (True, {}),
    "noflip": (False, {}),
    "small_crop": (True, {"min_side": 40, "threshold": 0.75, "keep_iou": 0.9}),
}
"""Mirrored too, and what else is different in the zoom."""


@pytest.fixture(scope="module", params=recorded("simpleclick"))
def fixture(request: pytest.FixtureRequest) -> Any:
    return open_extra(request.param)


@pytest.fixture(scope="module")
def model(fixture: Any) -> SimpleClick:
    said = fixture.manifest["config"]
    depth = said["depth"]
    transformer = {
        "width": said["embed_dim"],
        "depth": depth,
        "heads": said["num_heads"],
        "mlp_ratio": float(said["mlp_ratio"]),
        "patch": said["patch_size"],
        "side": said["img_size"],
        "group": 6 if depth == 12 else depth // 4,
    }
    model = simpleclick_vit_b(
        transformer=transformer,
        pyramid=said["neck_out_dims"],
        head_width=said["head_channels"],
        radius=float(said["norm_radius"]),
    ).eval()
    fill(model, from_simpleclick.convert(weights(fixture)))
    return model


@pytest.fixture(scope="module")
def said(fixture: Any) -> dict[str, Any]:
    """What the network sees in the recorded pass."""
    image = torch.from_numpy(fixture.input())
    return {
        "images": image,
        "previous": previous_mask(fixture),
        "clicks": recorded_clicks(fixture.arr("plain.points")),
    }


def test_maps_and_their_patches(fixture, model, said):
    maps = model.maps(said["previous"], said["clicks"], tuple(said["images"].shape[2:]))
    check(fixture, "plain.coord_maps", maps)
    check(fixture, "plain.coord_embed", model.click_embed(maps).flatten(2).transpose(1, 2))
    check(fixture, "plain.patch_embed", model.backbone.patch_embed(said["images"]).flatten(2).transpose(1, 2))


def test_blocks_pyramid_and_logits(fixture, model, said):
    seen: dict[str, torch.Tensor] = {}
    hooks = [
        block.register_forward_hook(lambda _, __, out, name=f"plain.block.{i}": seen.update({name: out}))
        for i, block in enumerate(model.backbone.blocks)
    ]
    hooks += [
        level.register_forward_hook(lambda _, __, out, name=f"plain.neck.{i}": seen.update({name: out}))
        for i, level in enumerate(model.pyramid.levels)
    ]
    hooks.append(model.head.register_forward_hook(lambda _, __, out: seen.update({"plain.logits_quarter": out})))
    (seen["plain.logits"],) = model.logits(**said)
    for hook in hooks:
        hook.remove()
    names = [name for name in fixture.manifest["raw"] if name in seen]
    assert {"plain.block.0", "plain.neck.3", "plain.logits_quarter", "plain.logits"} <= set(names)
    for name in names:
        check(fixture, name, seen[name])


def test_another_size(fixture, model, said):
    if "resized.logits" not in fixture.manifest["raw"]:
        pytest.skip("this recording has one size")
    height, width = fixture.manifest["raw"]["resized.logits"]["shape"][2:]
    image = torch.from_numpy(deterministic().make_input(height, width, 1))
    (found,) = model.logits(image, torch.zeros(1, 1, height, width), said["clicks"])
    check(fixture, "resized.logits", found)


@pytest.mark.parametrize("case", list(CASES))
def test_click_by_click(fixture, model, case):
    if case not in fixture.manifest["cases"] or f"predict.{case}.click0.probability" not in fixture.manifest["raw"]:
        pytest.skip("not in this recording")
    mirror, zoom = CASES[case]
    model.mirror, model.zoom = mirror, replace(model.config.zoom, **zoom)
    check_clicked(fixture, case, model)
