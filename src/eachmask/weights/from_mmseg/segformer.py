"""MMSegmentation's SegFormer (``segformer_mit-b*``)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from eachmask.weights.from_mmseg.heads import conv
from eachmask.weights.renaming import Rule, rename

BLOCK = (
    (r"attn\.attn\.", "attention."),
    (r"attn\.sr\.", "reduce."),
    (r"attn\.norm\.", "reduced_norm."),
    (r"ffn\.layers\.0\.", "widen."),
    (r"ffn\.layers\.1\.", "neighbors."),
    (r"ffn\.layers\.4\.", "narrow."),
    (r"", ""),  # norm1, norm2
)
RULES: tuple[Rule, ...] = (
    (r"^backbone\.layers\.(\d)\.0\.projection\.", r"backbone.stages.\1.patches."),
    (r"^backbone\.layers\.(\d)\.0\.norm\.", r"backbone.stages.\1.patch_norm."),
    (r"^backbone\.layers\.(\d)\.2\.", r"backbone.stages.\1.norm."),
    *(
        (rf"^backbone\.layers\.(\d)\.1\.(\d+)\.{theirs}", rf"backbone.stages.\1.blocks.\2.{ours}")
        for theirs, ours in BLOCK
    ),
    *(
        (rf"^decode_head\.convs\.(\d)\.{theirs}\.", rf"levels.\1.{number}.")
        for theirs, number in (("conv", 0), ("bn", 1))
    ),
    *conv(r"decode_head\.fusion_conv\.", "join."),
    (r"^decode_head\.conv_seg\.", "classes."),
)  # fmt: skip


def convert(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """MMSegmentation's state dict -> that of our ``segformer_*``.

    Raises:
        UserError: an entry that no rule knows.
    """
    return rename(state, RULES, "MMSegmentation")
