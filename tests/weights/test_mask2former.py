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
    "encoder.layers.{n}.self_attn.sampling_offsets": "layers.{n}.look.offsets",
    "encoder.layers.{n}.self_attn.attention_weights": "layers.{n}.look.weights",
    "encoder.layers.{n}.self_attn.value_proj": "layers.{n}.look.values",
    "encoder.layers.{n}.self_attn.output_proj": "layers.{n}.look.output",
    "encoder.layers.{n}.ffn.layers.0.0": "layers.{n}.think.0", "encoder.layers.{n}.ffn.layers.1": "layers.{n}.think.2",
    "encoder.layers.{n}.norms.0": "layers.{n}.look_norm", "encoder.layers.{n}.norms.1": "layers.{n}.think_norm",
    "lateral_convs.0.conv": "lateral.0", "lateral_convs.0.gn": "lateral.1",
    "output_convs.0.conv": "smooth.0", "output_convs.0.gn": "smooth.1", "mask_feature": "masks",
}  # fmt: skip
QUERIES = {
    "transformer_decoder.layers.{n}.cross_attn.attn": "layers.{n}.look",
    "transformer_decoder.layers.{n}.self_attn.attn": "layers.{n}.talk",
    "transformer_decoder.layers.{n}.ffn.layers.0.0": "layers.{n}.think.0",
    "transformer_decoder.layers.{n}.ffn.layers.1": "layers.{n}.think.2",
    "transformer_decoder.layers.{n}.norms.0": "layers.{n}.look_norm",
    "transformer_decoder.layers.{n}.norms.1": "layers.{n}.talk_norm",
    "transformer_decoder.layers.{n}.norms.2": "layers.{n}.think_norm",
    "transformer_decoder.post_norm": "norm", "cls_embed": "classes",
    "mask_embed.0": "mask_embed.0", "mask_embed.2": "mask_embed.1", "mask_embed.4": "mask_embed.2",
}  # fmt: skip
TABLES = {
    "pixel_decoder.level_encoding.weight": "pixel_decoder.level_embed", "query_feat.weight": "decoder.content",
    "query_embed.weight": "decoder.position", "level_embed.weight": "decoder.level_embed",
}  # fmt: skip


def as_theirs(
    model: torch.nn.Module, head: str, state: dict[str, torch.Tensor] | None = None
) -> dict[str, torch.Tensor]:
    """Our weights under their names (of mmdet/models/dense_heads/mask2former_head.py and what it is made of).

    Args:
        state: some of the model's weights; by default all.
    """
    names = {ours: f"{head}.{theirs}" for theirs, ours in TABLES.items()}
    parts = {}
    for place in ({"i": i, "n": n} for i in range(3) for n in range(len(model.decoder.layers))):
        for where, theirs_of in (("decoder", QUERIES), ("pixel_decoder", PIXELS)):
            deeper = f"{head}.pixel_decoder" if where == "pixel_decoder" else head
            for theirs, ours in theirs_of.items():
                parts[f"{where}.{ours}.".format(**place)] = f"{deeper}.{theirs}.".format(**place)
    found = {}
    for name, value in (model.state_dict() if state is None else state).items():
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
