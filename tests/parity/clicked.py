"""Recordings of networks that see clicks, and how to compare with them."""

from __future__ import annotations

import importlib.util
import sys
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from parity.recorded import FOLDER
from torch import Tensor

from eachmask.models.promptable.clicking import ClickNetwork
from eachmask.ops.click_maps import Clicks
from eachmask.structures import Preprocess, Prompts


@lru_cache(maxsize=1)
def extra() -> Any:
    """The fixtures' second helper module, which imports the first."""
    if str(FOLDER) not in sys.path:
        sys.path.append(str(FOLDER))
    spec = importlib.util.spec_from_file_location("fixture_extra", FOLDER / "fixture_extra.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def open_extra(stem: str) -> Any:
    """The fixture (``fixture_extra.Fixture``) of a stem."""
    return extra().Fixture(stem)


def recorded_clicks(points: np.ndarray) -> Clicks:
    """(B, 2 n, 3): n places on the object, n beside it; row, column and number, negative where there is none."""
    places = torch.from_numpy(points)[..., :2]
    num = places.shape[1] // 2
    signs = torch.tensor([1] * num + [-1] * num).expand(len(places), -1)
    return Clicks(places, torch.where(places.amax(-1) < 0, 0, signs))


def picture(fixture: Any) -> Any:
    """The recorded image, (H, W, 3) uint8."""
    said = fixture.manifest["input"]["picture"]
    image = extra().make_picture(said["height"], said["width"], said["seed"])
    assert extra().digest(image) == said["sha256"]
    return image


def previous_mask(fixture: Any) -> Tensor:
    """(1, 1, H, W) probabilities of the recorded previous mask."""
    said = fixture.manifest["input"]
    return torch.from_numpy(extra().make_mask_logits(said["height"], said["width"], said["seed"]) * 0.3).sigmoid()[None]


def check(fixture: Any, name: str, ours: Tensor) -> None:
    """Same shape, and the largest error below a thousandth of the reference's standard deviation."""
    error, same_shape = fixture.compare_raw(name, ours.detach().numpy())
    assert same_shape, f"{name}: our shape is {tuple(ours.shape)}"
    assert error < 1e-3, f"{name}: error {error:.2e} standard deviations"


def check_clicked(fixture: Any, case: str, model: ClickNetwork) -> None:
    """Probabilities after each of the recorded clicks, and the last mask."""
    image = picture(fixture)
    height, width = image.shape[:2]
    seen = Preprocess(short_side=None)([image]).tensor[0][:, :height, :width]
    clicks = fixture.scalar("clicks")
    for num in range(1, len(clicks) + 1):
        said = clicks[:num]
        points = [[click["column"] + 0.5, click["row"] + 0.5] for click in said]
        prompts = Prompts((height, width), points=points, signs=[click["positive"] for click in said])
        found = model.answer(seen, prompts)
        check(fixture, f"predict.{case}.click{num - 1}.probability", found)
    pixels, iou = fixture.compare_mask(f"predict.{case}.click{num - 1}.mask", (found > model.threshold)[None].numpy())
    assert iou > 0.99 or 0 <= pixels <= 20, (case, pixels, iou)
