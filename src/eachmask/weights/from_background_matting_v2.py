"""Background Matting V2's checkpoints (PeterL1n/BackgroundMattingV2, MIT): our names are theirs."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from eachmask.weights.renaming import Rule, rename

RULES: tuple[Rule, ...] = ((r"^(backbone|aspp|decoder|refiner)\.", r"\1."),)

LICENSE = "MIT (code and weights of the checkpoint's makers; their training images have terms of their own)"


def convert(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The authors' state dict -> ours (``background_matting_v2_mobilenetv2`` and ``_resnet50``)."""
    return rename(state, RULES, "Background Matting V2")
