"""MMDetection's SOLO, decoupled SOLO and SOLOv2 checkpoints (Apache-2.0), renamed to ours."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from eachmask.weights.from_mmdet.backbone import fpn
from eachmask.weights.renaming import Rule, rename

_CONV = {"conv": 0, "gn": 1}
"""Their convolution modules are our sequences."""

_FEATURES = r"^mask_head\.mask_feature_head\."


def _tower(theirs: str, ours: str) -> tuple[Rule, ...]:
    return tuple((rf"^mask_head\.{theirs}\.(\d)\.{part}\.", rf"{ours}.\1.{i}.") for part, i in _CONV.items())


RULES: tuple[Rule, ...] = (
    *fpn(4),
    *_tower("cls_convs", "categories.convs"),
    (r"^mask_head\.conv_cls\.", "categories.output."),
    # SOLO
    *_tower("mask_convs", "mask_branch.convs"),
    *_tower("mask_convs_x", "mask_branch.x_convs"),
    *_tower("mask_convs_y", "mask_branch.y_convs"),
    (r"^mask_head\.conv_mask_list\.(\d)\.", r"mask_branch.masks.\1."),
    (r"^mask_head\.conv_mask_list_(x|y)\.(\d)\.", r"mask_branch.\1_masks.\2."),
    # SOLOv2
    *_tower("kernel_convs", "kernels.convs"),
    (r"^mask_head\.conv_kernel\.", "kernels.output."),
    *(
        (rf"{_FEATURES}convs_all_levels\.(\d)\.conv(\d)\.{part}\.", rf"mask_branch.levels.\1.\2.{i}.")
        for part, i in _CONV.items()
    ),
    *((rf"{_FEATURES}conv_pred\.{part}\.", f"mask_branch.output.{i}.") for part, i in _CONV.items()),
)


def convert(state: Mapping[str, Tensor], project: str = "MMDetection") -> dict[str, Tensor]:
    """MMDetection's state dict of any of these models -> that of our variant of the same name.

    Args:
        project: whose weights these were at first, for messages.

    Raises:
        UserError: an entry that no rule knows.
    """
    result = rename(state, RULES, project)
    # Their deformable convolutions have no bias before a normalization, ours always have one.
    deformable = [name.removesuffix("conv_offset.weight") for name in result if name.endswith("conv_offset.weight")]
    biases = {f"{name}bias": torch.zeros_like(result[f"{name}weight"][:, 0, 0, 0]) for name in deformable}
    return {name.replace(".conv_offset.", ".offsets."): value for name, value in result.items()} | biases
