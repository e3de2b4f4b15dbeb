"""DEXTR's checkpoints (scaelles/DEXTR-PyTorch, GPL-3.0, and therefore not in the catalogue)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from eachmask.weights.renaming import Rule, rename

RULES: tuple[Rule, ...] = (
    (r"^layer5\.stages\.", "head.pools."),
    (r"^layer5\.bottleneck\.", "head.bottleneck."),
    (r"^layer5\.final\.", "head.mask."),
    (r"^(?=conv1|bn1|layer[1-4])", "resnet."),
)


def convert(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The authors' state dict -> ours (``dextr_r101``)."""
    return rename(state, RULES, "DEXTR")
