"""What MMSegmentation's models have in common: convolutions with a norm, the auxiliary head, a ResNet."""

from __future__ import annotations

from eachmask.weights.renaming import Rule


def conv(theirs: str, ours: str) -> tuple[Rule, ...]:
    """Rules of a convolution with batch normalization: ``conv`` and ``bn`` -> 0 and 1.

    Args:
        theirs: what stands before, a pattern. ours: what stands before in ours.
    """
    return ((rf"^{theirs}conv\.", f"{ours}0."), (rf"^{theirs}bn\.", f"{ours}1."))


def separable(theirs: str, ours: str) -> tuple[Rule, ...]:
    """Rules of a depthwise convolution and a pointwise one, each with a norm and a rectifier: 0, 1 and 3, 4."""
    return (
        *conv(rf"{theirs}depthwise_conv\.", ours),
        (rf"^{theirs}pointwise_conv\.conv\.", f"{ours}3."),
        (rf"^{theirs}pointwise_conv\.bn\.", f"{ours}4."),
    )


RESNET: tuple[Rule, ...] = ((r"^backbone\.(stem|conv1|bn1|layer[1-4])\.", r"backbone.\1."),)
AUX: tuple[Rule, ...] = (
    *conv(r"auxiliary_head\.convs\.0\.", "aux_classifier."),
    (r"^auxiliary_head\.conv_seg\.", "aux_classifier.4."),
)
POOLING = (
    *(
        (rf"^decode_head\.psp_modules\.(\d)\.1\.{theirs}\.", rf"<top>parts.\1.{ours}.")
        for theirs, ours in (("conv", "1"), ("bn", "2"))
    ),
    *conv(r"decode_head\.bottleneck\.", "<top>join."),
)
"""Of pyramid pooling; ``<top>`` is where it is in the model."""


def pooling(top: str) -> tuple[Rule, ...]:
    """Rules of pyramid pooling at a place in the model."""
    return tuple((theirs, ours.replace("<top>", top)) for theirs, ours in POOLING)
