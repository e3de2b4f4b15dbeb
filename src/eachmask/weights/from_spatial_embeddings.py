"""Checkpoints of SpatialEmbeddings' branched ERFNet -> ours."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from eachmask.weights.renaming import Rule, rename

RULES: tuple[Rule, ...] = (
    (r"^encoder\.output_conv\.", ""),  # only for training the encoder alone
    (r"^(encoder|decoders)\.", r"\1."),
)


def convert(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The authors' state dict -> that of :class:`eachmask.models.proposal_free.erfnet.ERFNet`."""
    return rename(state, RULES, "SpatialEmbeddings")
