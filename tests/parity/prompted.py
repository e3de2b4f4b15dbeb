"""Recordings of promptable networks: their helper module, and prompts in our words."""

from __future__ import annotations

import importlib.util
import sys
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from parity.recorded import FOLDER, deterministic
from torch import Tensor

from eachmask.inference.everything import EverythingConfig
from eachmask.models.promptable.prompt_encoder import FIRST_CORNER, NOTHING, SECOND_CORNER
from eachmask.models.promptable.prompt_tokens import Said
from eachmask.structures import Prompts


@lru_cache(maxsize=1)
def extra() -> Any:
    """The helper module of these fixtures, which imports the one of the others."""
    spec = importlib.util.spec_from_file_location("fixture_extra", FOLDER / "fixture_extra.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault("deterministic", deterministic())
    spec.loader.exec_module(module)
    return module


def open_prompted(stem: str) -> Any:
    """The fixture (``fixture_extra.Fixture``) of a stem."""
    return extra().Fixture(stem)


def image_of(fixture: Any) -> Any:
    """The image (H, W, 3) uint8 of the cases ``picture.*``."""
    said = fixture.manifest["input"]["picture"]
    return extra().make_picture(said["height"], said["width"], said["seed"])


def said_in(fixture: Any, case: str, padding: bool = False) -> Said:
    """The prompts of a case ``plain.*``, as the prompt encoder gets them."""
    named = fixture.manifest["cases"][case]["prompts"]

    def given(name: str) -> Tensor | None:
        return torch.from_numpy(fixture.arr(f"prompt.{case}.{name}")).float() if name in named else None

    points, labels, boxes = given("points"), given("labels"), given("boxes")
    num = len(boxes) if points is None and boxes is not None else 1 if points is None else len(points)
    places = torch.zeros(num, 0, 2) if points is None else points
    kinds = torch.zeros(num, 0) if labels is None else torch.where(labels < 0, NOTHING, labels)
    if padding or (points is not None and boxes is None):
        places = torch.cat([places, torch.zeros(num, 1, 2)], 1)
        kinds = torch.cat([kinds, torch.full((num, 1), NOTHING)], 1)
    if boxes is not None:
        places = torch.cat([places, boxes.reshape(-1, 2, 2)], 1)
        kinds = torch.cat([kinds, torch.tensor([[FIRST_CORNER, SECOND_CORNER]]).expand(num, -1)], 1)
    mask = None
    if "mask_prompt" in named:
        about = fixture.manifest["input"]["mask_prompt"]
        mask = torch.from_numpy(extra().make_mask_logits(about["side"], about["side"], about["seed"]))[None]
    return Said(torch.arange(num), places, kinds.long(), mask, False)


def prompts_in(fixture: Any, case: str, **more: Any) -> Prompts:
    """The prompts of one object of a case ``picture.*``, in the image's own pixels."""
    about = fixture.manifest["input"]["picture"]
    given: dict[str, Any] = dict(more)
    names = fixture.manifest["arrays"]
    if f"picture.{case}.point_coords" in names:
        given["points"] = torch.from_numpy(fixture.arr(f"picture.{case}.point_coords")).float()
        given["signs"] = torch.from_numpy(fixture.arr(f"picture.{case}.point_labels")) > 0
    if f"picture.{case}.box" in names:
        given["boxes"] = torch.from_numpy(fixture.arr(f"picture.{case}.box")).float().reshape(1, 4)
    return Prompts((about["height"], about["width"]), **given)


def check_array(fixture: Any, name: str, ours: Any) -> None:
    """A whole recorded array, within a thousandth of its largest magnitude."""
    error = fixture.compare_arr(name, ours)
    assert error < 1e-3, f"{name}: error {error:.2e}"


def check_masks(fixture: Any, name: str, ours: Any) -> None:
    """IoU above 0.99, or at most 20 pixels that differ."""
    pixels, iou = fixture.compare_mask(name, ours)
    assert iou > 0.99 or 0 <= pixels <= 20, f"{name}: {pixels} pixels differ, IoU {iou:.4f}"


# Everything mode ------------------------------------------------------------------------------------------------------


WORDS = {
    "points_per_side": "points_per_side",
    "points_per_batch": "points_per_batch",
    "pred_iou_thresh": "iou_threshold",
    "stability_score_thresh": "stability_threshold",
    "stability_score_offset": "stability_offset",
    "box_nms_thresh": "nms_threshold",
    "crop_n_layers": "crop_layers",
    "crop_nms_thresh": "crop_nms_threshold",
    "crop_overlap_ratio": "crop_overlap",
    "crop_n_points_downscale_factor": "crop_points_factor",
    "min_mask_region_area": "min_region_area",
}
"""The authors' settings -> ours."""


def config_of(said: dict[str, Any]) -> EverythingConfig:
    return EverythingConfig(**{WORDS[name]: value for name, value in said.items()})


def check_everything(fixture: Any, name: str, found: Any) -> None:
    """The recorded masks, no more and no fewer, with boxes within 1 px."""
    assert len(found.masks) == fixture.scalar(f"{name}.count"), name
    corners = np.concatenate([found.boxes[:, :2], found.boxes[:, 2:] - found.boxes[:, :2]], 1)
    order = matched(corners, fixture.arr(f"{name}.bbox"))
    assert np.abs(corners[order] - fixture.arr(f"{name}.bbox")).max(initial=0) <= 1
    check_array(fixture, f"{name}.predicted_iou", found.ious[order])
    assert np.abs(found.stability[order] - fixture.arr(f"{name}.stability_score")).max(initial=0) < 1e-2
    if f"{name}.segmentation" in fixture.manifest["masks"]:
        check_masks(fixture, f"{name}.segmentation", found.masks[order].decode())


def matched(boxes: Any, targets: Any) -> Any:
    """For each target the nearest box: masks of nearly equal scores may change places."""
    return np.abs(boxes[None] - targets[:, None]).sum(2).argmin(1)
