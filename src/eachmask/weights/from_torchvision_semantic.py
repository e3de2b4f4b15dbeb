"""torchvision's official checkpoints of semantic segmentation, renamed to ours."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from eachmask.weights.renaming import Rule, rename

LRASPP: tuple[Rule, ...] = (
    (r"^classifier\.cbr\.", "narrow."),
    (r"^classifier\.scale\.", "gate."),
    (r"^classifier\.(low|high)_classifier\.", r"\1_classifier."),
)
RULES: tuple[Rule, ...] = (
    (r"^backbone\.(\d+)\.", r"backbone.net.\1."),  # MobileNetV3 is numbered
    (r"^backbone\.", "backbone."),
    *LRASPP,
    (r"^classifier\.", "classifier."),
    (r"^aux_classifier\.", "aux_classifier."),
)


def convert(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """torchvision's state dict of an FCN, a DeepLabv3 or an LR-ASPP -> that of our variant of the same name.

    Raises:
        UserError: an entry that no rule knows.
    """
    return rename(state, RULES, "torchvision")
