"""RITM against recorded outputs of its authors' code."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from parity.clicked import check, check_clicked, open_extra, previous_mask, recorded_clicks
from parity.recorded import recorded, weights

from eachmask.models.promptable.clicking import ZoomConfig
from eachmask.models.promptable.ritm import RITM, ritm_hrnet18, ritm_hrnet18s
from eachmask.weights import from_ritm
from eachmask.weights.adopt import adopt
from eachmask.weights.renaming import fill

CASES: dict[str, dict[str, Any]] = {
    "cvpr": {"zoom": ZoomConfig(size=(400,)), "mirror": True, "max_side": None},
    "no_zoom": {"zoom": ZoomConfig(), "mirror": False, "max_side": None},
    "limit": {"zoom": ZoomConfig(), "mirror": True, "max_side": 120},
}


@pytest.fixture(scope="module", params=recorded("ritm"))
def fixture(request: pytest.FixtureRequest) -> Any:
    return open_extra(request.param)


@pytest.fixture(scope="module")
def model(fixture: Any) -> RITM:
    said = fixture.manifest["config"]
    build = ritm_hrnet18s if said["small"] else ritm_hrnet18
    model = build(hrnet={"width": said["width"]}, ocr_width=said["ocr_width"], radius=float(said["norm_radius"])).eval()
    fill(model, from_ritm.convert(weights(fixture)))
    return model


def test_raw_outputs(fixture, model):
    image = torch.from_numpy(fixture.input())
    size = (image.shape[2], image.shape[3])
    clicks, previous = recorded_clicks(fixture.arr("plain.points")), previous_mask(fixture)
    added = model.click_features(model.maps(previous, clicks, size))
    check(fixture, "plain.maps_transform", added)
    seen: dict[str, torch.Tensor] = {}
    watched = {"plain.layer1": model.backbone.layer1, "plain.pixel_features": model.head.features}
    hooks = [
        module.register_forward_hook(lambda _, __, out, name=name: seen.update({name: out}))
        for name, module in (watched | {"plain.ocr": model.head.mix}).items()
    ]
    mask, rough = model.logits(image, previous, clicks)
    for hook in hooks:
        hook.remove()
    for name, value in seen.items():
        check(fixture, name, value)
    maps = model.backbone(image, added).maps
    for name in fixture.manifest["raw"]:
        if found := re.fullmatch(r"plain\.stage4\.(\d)", name):
            check(fixture, name, maps[int(found[1])])
    check(fixture, "plain.logits", mask)
    check(fixture, "plain.logits_aux", rough)


@pytest.mark.parametrize("case", list(CASES))
def test_click_by_click(fixture, model, case):
    if case not in fixture.manifest["cases"]:
        pytest.skip("not in this recording")
    for name, value in CASES[case].items():
        setattr(model, name, value)
    check_clicked(fixture, case, model)


def test_a_checkpoint_as_its_authors_write_it_becomes_a_model(fixture, model, tmp_path):
    if fixture.manifest["config"]["small"]:
        return
    config = {"class": "isegm.model.is_hrnet_model.HRNetModel", "params": {"width": {"type": "builtin", "value": 18}}}
    torch.save({"state_dict": weights(fixture), "config": config}, tmp_path / "coco_lvis_h18_itermask.pth")
    adopted, info = adopt(tmp_path / "coco_lvis_h18_itermask.pth", "ritm_hrnet18")
    assert info.preprocess.short_side is None and [c.name for c in info.categories] == ["object"]
    for name, value in model.state_dict().items():
        assert torch.equal(adopted.state_dict()[name], value), name
