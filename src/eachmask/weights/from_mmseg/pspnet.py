"""MMSegmentation's PSPNet (``pspnet_r50-d8``, ``pspnet_r101-d8``)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from eachmask.weights.from_mmseg.heads import AUX, RESNET, pooling
from eachmask.weights.renaming import Rule, rename

RULES: tuple[Rule, ...] = (*RESNET, *AUX, *pooling("classifier.0."), (r"^decode_head\.conv_seg\.", "classifier.2."))


def convert(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """MMSegmentation's state dict -> that of our ``pspnet_*``.

    Raises:
        UserError: an entry that no rule knows.
    """
    return rename(state, RULES, "MMSegmentation")
