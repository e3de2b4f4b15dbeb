"""Detectron2's Panoptic-DeepLab (``panoptic_deeplab_R_52_*``, with and without separable convolutions)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from eachmask.weights.from_detectron2.deeplab import BACKBONE, decoder, two_convs
from eachmask.weights.renaming import Rule, rename

PANOPTIC: tuple[Rule, ...] = (
    *BACKBONE,
    *decoder(r"sem_seg_head\.decoder\.", "decoder."),
    *decoder(r"ins_embed_head\.decoder\.", "center_decoder."),
    *two_convs(r"sem_seg_head\.head\.", "semantic_head.0."),
    (r"^sem_seg_head\.predictor\.", "semantic_head.1."),
    *two_convs(r"ins_embed_head\.center_head\.", "center_head.0."),
    (r"^ins_embed_head\.center_predictor\.", "center_head.1."),
    *two_convs(r"ins_embed_head\.offset_head\.", "offset_head.0."),
    (r"^ins_embed_head\.offset_predictor\.", "offset_head.1."),
)


def convert(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Detectron2's state dict -> that of our ``panoptic_deeplab_r52`` or ``panoptic_deeplab_r52_dsconv``.

    Raises:
        UserError: an entry that no rule knows.
    """
    return rename(state, PANOPTIC, "Detectron2")
