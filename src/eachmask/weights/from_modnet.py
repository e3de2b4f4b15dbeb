"""MODNet's checkpoints (ZHKKKe/MODNet, Apache-2.0): the backbone is in them twice, in a MobileNetV2 of their own."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from eachmask.weights.renaming import Rule, rename

_BLOCK = r"^lr_branch\.backbone\.model\.features\.(\d+)\.conv\."
_FIRST = r"^lr_branch\.backbone\.model\.features\.1\.conv\."
RULES: tuple[Rule, ...] = (
    (r"^backbone\.", ""),
    (rf"{_FIRST}([01])\.", r"features.1.conv.0.\1."),
    (rf"{_FIRST}3\.", "features.1.conv.1."),
    (rf"{_FIRST}4\.", "features.1.conv.2."),
    (rf"{_BLOCK}([01])\.", r"features.\1.conv.0.\2."),
    (rf"{_BLOCK}3\.", r"features.\1.conv.1.0."),
    (rf"{_BLOCK}4\.", r"features.\1.conv.1.1."),
    (rf"{_BLOCK}6\.", r"features.\1.conv.2."),
    (rf"{_BLOCK}7\.", r"features.\1.conv.3."),
    (r"^lr_branch\.backbone\.model\.features\.", "features."),
    (r"^lr_branch\.backbone\.model\.classifier\.", ""),
    (r"^(lr|hr|f)_branch\.", r"\1_branch."),
)

LICENSE = "Apache-2.0 (code and weights of the checkpoint's makers)"


def convert(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The authors' state dict -> ours (``modnet``)."""
    return rename(state, RULES, "MODNet")
