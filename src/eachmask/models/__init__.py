"""Models: one paper, one file. The name of a model is the name of its variant function, wherever it is used.

``eachmask.models.mask_rcnn_r50_fpn(num_classes=3)`` builds an untrained network; the file it lives in is imported
only then.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable
from typing import Any

from eachmask.structures.errors import UserError

VARIANTS = {
    "faster_rcnn_r50_fpn": "detection.faster_rcnn",
    "faster_rcnn_r50_fpn_v2": "detection.faster_rcnn",
    "faster_rcnn_lite0_fpn": "detection.faster_rcnn",
    "keypoint_rcnn_r50_fpn": "instance.keypoint_rcnn",
    "mask_rcnn_r50_fpn": "instance.mask_rcnn",
    "mask_rcnn_r50_fpn_v2": "instance.mask_rcnn",
    "mask_rcnn_r18_fpn": "instance.mask_rcnn",
    "mask_rcnn_lite0_fpn": "instance.mask_rcnn",
    "mask_rcnn_swin_t_fpn": "instance.mask_rcnn",
    "panoptic_deeplab_lite0": "instance.panoptic_deeplab",
}
"""Variant function -> the module below ``eachmask.models`` that defines it."""


def variant(name: str) -> Callable[..., Any]:
    """The variant function of that name.

    Raises:
        UserError: there is none; the message has the nearest names.
    """
    if name not in VARIANTS:
        near = difflib.get_close_matches(name, VARIANTS, n=3) or list(VARIANTS)
        raise UserError(f"there is no model {name!r}; did you mean {' or '.join(near)}?")
    module = importlib.import_module(f"{__name__}.{VARIANTS[name]}")
    function: Callable[..., Any] = getattr(module, name)
    return function


def __getattr__(name: str) -> Any:
    if name in VARIANTS:
        return variant(name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*VARIANTS, "VARIANTS", "variant"])
