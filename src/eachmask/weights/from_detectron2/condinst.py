"""CondInst in Detectron2's layout (AdelaiDet's ``MS_R_50_1x``), and the FCOS head that models beside it share."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from eachmask.weights.from_detectron2.backbone import fpn
from eachmask.weights.renaming import Rule, rename

_HEAD = r"^proposal_generator\.fcos_head\."


def fcos(depth: int = 4) -> tuple[Rule, ...]:
    """Rules of an FCOS head whose towers are flat: convolution, group normalization and ReLU by turns."""
    return (
        *(
            (rf"{_HEAD}{theirs}_tower\.{3 * i + place}\.", f"head.{ours}_tower.{i}.{place}.")
            for theirs, ours in (("cls", "class"), ("bbox", "box"))
            for i in range(depth)
            for place in (0, 1)
        ),
        (_HEAD + r"cls_logits\.", "head.classes."),
        (_HEAD + r"bbox_pred\.", "head.distances."),
        (_HEAD + r"ctrness\.", "head.centerness."),
        (_HEAD + r"scales\.(\d)\.scale$", r"head.scales.\1"),
    )


RULES: tuple[Rule, ...] = (
    *fpn(first=3),
    *fcos(),
    (r"^controller\.", "controller."),
    (r"^mask_branch\.tower\.4\.", "mask_branch.project."),
    (r"^mask_branch\.(refine|tower)\.", r"mask_branch.\1."),
    (r"^mask_head\.(sizes_of_interest|_iter)$", ""),  # computed; a counter
)


def scalars(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The levels' factors as numbers instead of vectors of one."""
    return {name: v.reshape(()) if name.startswith("head.scales.") else v for name, v in state.items()}


def convert(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Their state dict -> ours (``condinst_r50_fpn_adelaidet``).

    Raises:
        UserError: an entry that no rule knows.
    """
    return scalars(rename(state, RULES, "AdelaiDet"))
