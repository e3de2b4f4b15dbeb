"""What models built on Detectron2 have in common: ``res2`` ... ``res5``, norms inside convolutions, ``fpn_lateral``.

Their bottlenecks halve the map in the first convolution (``ResNet(stride_first=True)``), and they want BGR.
"""

from __future__ import annotations

from eachmask.weights.renaming import Rule


def resnet(theirs: str = r"backbone\.bottom_up\.", ours: str = "backbone.backbone.") -> tuple[Rule, ...]:
    """Rules of a ResNet.

    Args:
        theirs, ours: what stands before its entries, theirs as a pattern.
    """
    return (
        (rf"^{theirs}stem\.conv1\.norm\.", f"{ours}bn1."),
        (rf"^{theirs}stem\.conv1\.", f"{ours}conv1."),
        *(
            (rf"^{theirs}res{stage}\.(\d+)\.{there}", rf"{ours}layer{stage - 1}.\1.{here}")
            for stage in (2, 3, 4, 5)
            for there, here in (
                (r"shortcut\.norm\.", "downsample.1."),
                (r"shortcut\.", "downsample.0."),
                *((rf"conv{i}\.norm\.", f"bn{i}.") for i in (1, 2, 3)),
                *((rf"conv{i}\.", f"conv{i}.") for i in (1, 2, 3)),
            )
        ),
    )


RESNET: tuple[Rule, ...] = resnet()

COMPUTED: tuple[Rule, ...] = ((r"^pixel_(mean|std)$", ""), (r"^(proposal_generator\.)?anchor_generator\.", ""))
"""What is no weight but stands in Detectron2's older files, the published ones among them."""


def fpn(first: int = 2) -> tuple[Rule, ...]:
    """Rules of a ResNet with a pyramid.

    Args:
        first: number of the finest stage the pyramid reads; 2 is ``res2``, stride 4.
    """
    numbered = tuple(
        (rf"^backbone\.fpn_{theirs}{stage}\.", f"backbone.{ours}.{stage - first}.")
        for stage in range(first, 6)
        for theirs, ours in (("lateral", "lateral"), ("output", "smooth"))
    )
    extra = ((r"^backbone\.top_block\.p6\.", "backbone.extra.0."), (r"^backbone\.top_block\.p7\.", "backbone.extra.1."))
    return (*RESNET, *numbered, *extra, *COMPUTED)
