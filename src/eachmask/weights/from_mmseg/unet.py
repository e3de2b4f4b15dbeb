"""MMSegmentation's U-Net."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from eachmask.weights.renaming import rename

LAYERS = {("0", "conv"): "0", ("0", "bn"): "1", ("1", "conv"): "3", ("1", "bn"): "4"}
"""(convolution, part) of a pair -> its place among our layers."""
PAIRS = tuple(
    rule
    for (number, part), ours in LAYERS.items()
    for rule in (
        (rf"^backbone\.encoder\.(\d)\.[01]\.convs\.{number}\.{part}\.", rf"encoder.\1.{ours}."),
        (rf"^backbone\.decoder\.(\d)\.conv_block\.convs\.{number}\.{part}\.", rf"decoder.\1.convs.{ours}."),
    )
)
RULES = (
    *PAIRS,
    (r"^backbone\.decoder\.(\d)\.upsample\.interp_upsample\.1\.conv\.", r"decoder.\1.up.1."),
    (r"^backbone\.decoder\.(\d)\.upsample\.interp_upsample\.1\.bn\.", r"decoder.\1.up.2."),
    (r"^decode_head\.convs\.0\.conv\.", "classifier.0."),
    (r"^decode_head\.convs\.0\.bn\.", "classifier.1."),
    (r"^decode_head\.conv_seg\.", "classifier.4."),
    (r"^auxiliary_head\.convs\.0\.conv\.", "aux_classifier.0."),
    (r"^auxiliary_head\.convs\.0\.bn\.", "aux_classifier.1."),
    (r"^auxiliary_head\.conv_seg\.", "aux_classifier.4."),
)


def convert(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """MMSegmentation's state dict of a U-Net with bilinear enlargement -> that of our ``unet_s5_d16``.

    Raises:
        UserError: an entry that no rule knows.
    """
    return rename(state, RULES, "MMSegmentation")
