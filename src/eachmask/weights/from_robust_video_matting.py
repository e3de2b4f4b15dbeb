"""Robust Video Matting's checkpoints (PeterL1n/RobustVideoMatting, GPL-3.0): our names are theirs."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from eachmask.weights.renaming import Rule, rename

RULES: tuple[Rule, ...] = ((r"^(backbone|aspp|decoder|project_mat|project_seg|refiner)\.", r"\1."),)

LICENSE = "GPL-3.0 (code and weights of the checkpoint's makers)"


def convert(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The authors' state dict -> ours (``robust_video_matting_mobilenetv3`` and ``_resnet50``)."""
    return rename(state, RULES, "Robust Video Matting")
