"""Mask2Former of MMDetection and MMSegmentation: every entry has its place."""

from __future__ import annotations

import pytest
import torch

from eachmask import models
from eachmask.structures import UserError
from eachmask.weights.from_mmdet.mask2former import convert
from eachmask.weights.renaming import fill

SMALL = {
    "width": 64,
    "heads": 2,
    "encoder_layers": 1,
    "encoder_ffn": 32,
    "decoder_layers": 1,
    "decoder_ffn": 32,
    "queries": 5,
}
PIXELS = {
    "input_convs.{i}.conv": "inputs.{i}.0", "input_convs.{i}.gn": "inputs.{i}.1",
    "encoder.layers.0.self_attn.sampling_offsets": "layers.0.look.offsets",
    "encoder.layers.0.self_attn.attention_weights": "layers.0.look.weights",
    "encoder.layers.0.self_attn.value_proj": "layers.0.look.values",
    "encoder.layers.0.self_attn.output_proj": "layers.0.look.output",
    "encoder.layers.0.ffn.layers.0.0": "layers.0.think.0", "encoder.layers.0.ffn.layers.1": "layers.0.think.2",
    "encoder.layers.0.norms.0": "layers.0.look_norm", "encoder.layers.0.norms.1": "layers.0.think_norm",
    "lateral_convs.0.conv": "lateral.0", "lateral_convs.0.gn": "lateral.1",
    "output_convs.0.conv": "smooth.0", "output_convs.0.gn": "smooth.1", "mask_feature": "masks",
}  # fmt: skip
QUERIES = {
    "transformer_decoder.layers.0.cross_attn.attn": "layers.0.look",
    "transformer_decoder.layers.0.self_attn.attn": "layers.0.talk",
    "transformer_decoder.layers.0.ffn.layers.0.0": "layers.0.think.0",
    "transformer_decoder.layers.0.ffn.layers.1": "layers.0.think.2",
    "transformer_decoder.layers.0.norms.0": "layers.0.look_norm",
    "transformer_decoder.layers.0.norms.1": "layers.0.talk_norm",
    "transformer_decoder.layers.0.norms.2": "layers.0.think_norm",
    "transformer_decoder.post_norm": "norm", "cls_embed": "classes",
    "mask_embed.0": "mask_embed.0", "mask_embed.2": "mask_embed.1", "mask_embed.4": "mask_embed.2",
}  # fmt: skip
TABLES = {
    "pixel_decoder.level_encoding.weight": "pixel_decoder.level_embed", "query_feat.weight": "decoder.content",
    "query_embed.weight": "decoder.position", "level_embed.weight": "decoder.level_embed",
}  # fmt: skip


def as_theirs(model: torch.nn.Module, head: str) -> dict[str, torch.Tensor]:
    """Our weights under their names (of mmdet/models/dense_heads/mask2former_head.py and what it is made of)."""
    names = {ours: f"{head}.{theirs}" for theirs, ours in TABLES.items()}
    parts = {f"decoder.{ours}.": f"{head}.{theirs}." for theirs, ours in QUERIES.items()}
    for i in range(3):
        filled = {theirs.format(i=i): ours.format(i=i) for theirs, ours in PIXELS.items()}
        parts |= {f"pixel_decoder.{ours}.": f"{head}.pixel_decoder.{theirs}." for theirs, ours in filled.items()}
    found = {}
    for name, value in model.state_dict().items():
        start = next((ours for ours in parts if name.startswith(ours)), None)
        renamed = names.get(name, name if start is None else parts[start] + name.removeprefix(start))
        found[renamed] = value
    return found


@pytest.mark.parametrize("head", ["panoptic_head", "decode_head"])
def test_every_entry_has_its_place(head):
    torch.manual_seed(0)
    ours, model = (models.mask2former_r50(num_classes=4, **SMALL) for _ in range(2))
    theirs = as_theirs(ours, head)
    assert all(name.startswith((head, "backbone.")) for name in theirs)
    fill(model, convert({"state_dict": theirs}))
    expected = ours.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())


def test_an_unknown_entry_is_named():
    with pytest.raises(UserError, match="panoptic_head.strange"):
        convert({"panoptic_head.strange": torch.zeros(1)})
