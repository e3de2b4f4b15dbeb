"""Detectron2's Semantic FPN and Panoptic FPN (``semantic_R_50_FPN_1x``, ``panoptic_fpn_R_*``)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from eachmask.weights.from_detectron2 import two_stage
from eachmask.weights.from_detectron2.backbone import fpn
from eachmask.weights.renaming import Rule, rename, unwrapped

HEAD: tuple[Rule, ...] = (
    *(
        (rf"^sem_seg_head\.p{level + 2}\.{2 * i}\.{theirs}", f"head.scales.{level}.{i}.{number}.")
        for level in range(4)
        for i in range(3)
        for theirs, number in ((r"norm\.", 1), ("", 0))
    ),
    (r"^sem_seg_head\.predictor\.", "head.classes."),
)


def convert(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Detectron2's state dict of either model -> ours.

    Raises:
        UserError: an entry that no rule knows.
    """
    state = unwrapped(state)
    if "proposal_generator.rpn_head.conv.weight" not in state:
        return rename(state, (*HEAD, *fpn()), "Detectron2")
    own = {name: value for name, value in state.items() if name.startswith("sem_seg_head.")}
    detector = two_stage.convert({name: value for name, value in state.items() if name not in own})
    return {f"detector.{name}": value for name, value in detector.items()} | rename(own, HEAD, "Detectron2")
