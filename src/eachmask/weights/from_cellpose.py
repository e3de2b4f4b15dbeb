"""Checkpoints of Cellpose 1 to 3 (``cyto``, ``nuclei``, ``cyto3`` ...)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from eachmask.weights.renaming import Rule, rename

RULES: tuple[Rule, ...] = (
    (r"^diam_(mean|labels)$", ""),
    (r"^downsample\.down\.res_down_(\d+)\.conv\.conv_(\d)\.", r"network.down.\1.blocks.\2."),
    (r"^downsample\.down\.res_down_(\d+)\.proj\.", r"network.down.\1.projection."),
    (r"^upsample\.up\.res_up_(\d+)\.conv\.conv_0\.", r"network.up.\1.first."),
    (r"^upsample\.up\.res_up_(\d+)\.conv\.conv_1\.conv\.", r"network.up.\1.styled.0.block."),
    (r"^upsample\.up\.res_up_(\d+)\.conv\.conv_2\.conv\.", r"network.up.\1.styled.1.block."),
    (r"^upsample\.up\.res_up_(\d+)\.conv\.conv_3\.conv\.", r"network.up.\1.styled.2.block."),
    (r"^upsample\.up\.res_up_(\d+)\.conv\.conv_1\.full\.", r"network.up.\1.styled.0.style."),
    (r"^upsample\.up\.res_up_(\d+)\.conv\.conv_2\.full\.", r"network.up.\1.styled.1.style."),
    (r"^upsample\.up\.res_up_(\d+)\.conv\.conv_3\.full\.", r"network.up.\1.styled.2.style."),
    (r"^upsample\.up\.res_up_(\d+)\.proj\.", r"network.up.\1.projection."),
    (r"^output\.", "network.output."),
)

LICENSE = "BSD-3-Clause (code of the checkpoint's makers); some of their training images are not for commercial use"


def convert(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Cellpose's state dict -> ours (``cellpose_cyto3`` and its kin)."""
    return rename(state, RULES, "Cellpose")
