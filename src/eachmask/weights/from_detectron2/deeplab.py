"""Detectron2's DeepLabv3+ (``deeplab_v3_plus_R_*``)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from eachmask.weights.from_detectron2.backbone import COMPUTED, resnet
from eachmask.weights.renaming import Rule, rename

STEM: tuple[Rule, ...] = tuple(
    (rf"^backbone\.stem\.conv{i}\.{theirs}", f"backbone.stem.{3 * (i - 1) + number}.")
    for i in (1, 2, 3)
    for theirs, number in ((r"norm\.", 1), ("", 0))
)


def conv(theirs: str, ours: str) -> tuple[Rule, ...]:
    """Rules of a convolution with a norm, or of a depthwise and a pointwise one with norms.

    Args:
        theirs: what stands before, a pattern. ours: what stands before in ours.
    """
    return (
        (rf"^{theirs}depthwise\.norm\.", f"{ours}1."),
        (rf"^{theirs}depthwise\.", f"{ours}0."),
        (rf"^{theirs}pointwise\.norm\.", f"{ours}4."),
        (rf"^{theirs}pointwise\.", f"{ours}3."),
        (rf"^{theirs}norm\.", f"{ours}1."),
        (rf"^{theirs}(?=weight|bias)", f"{ours}0."),
    )


def two_convs(theirs: str, ours: str) -> tuple[Rule, ...]:
    """Rules of two convolutions, or of a single separable one."""
    return (*conv(rf"{theirs}0\.", f"{ours}0."), *conv(rf"{theirs}1\.", f"{ours}1."), *conv(theirs, f"{ours}0."))


def decoder(theirs: str, ours: str) -> tuple[Rule, ...]:
    """Rules of a decoder: ASPP on ``res5``, and finer maps from ``res2`` on."""
    aspp = rf"{theirs}res5\.project_conv\."
    return (
        (rf"^{aspp}convs\.4\.1\.", f"{ours}aspp.convs.4.1."),
        *(rule for i in range(4) for rule in conv(rf"{aspp}convs\.{i}\.", f"{ours}aspp.convs.{i}.")),
        *conv(rf"{aspp}project\.", f"{ours}aspp.project."),
        *(rule for i in (0, 1) for rule in conv(rf"{theirs}res{i + 2}\.project_conv\.", f"{ours}low.{i}.")),
        *(rule for i in (0, 1) for rule in two_convs(rf"{theirs}res{i + 2}\.fuse_conv\.", f"{ours}fuse.{i}.")),
    )


BACKBONE: tuple[Rule, ...] = (*STEM, *resnet(r"backbone\.", "backbone."), *COMPUTED)
SEMANTIC: tuple[Rule, ...] = (
    *BACKBONE,
    *decoder(r"sem_seg_head\.decoder\.", "classifier."),
    (r"^sem_seg_head\.predictor\.", "classes."),
)


def convert(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Detectron2's state dict -> that of our ``deeplabv3plus_r52`` or ``_r103``.

    Raises:
        UserError: an entry that no rule knows.
    """
    return rename(state, SEMANTIC, "Detectron2")
