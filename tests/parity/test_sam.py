"""Segment Anything against recorded outputs of its authors' code."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
from parity.prompted import check_array, open_prompted, said_in
from parity.recorded import batch, check_raw, on, weights

from eachmask.models.promptable.sam import SAM, Embedding, sam_vit_b, size_of
from eachmask.weights import from_sam
from eachmask.weights.renaming import fill

SYSTEMS = ("sam_small", "sam_vit_b")


class Ran(NamedTuple):
    fixture: Any
    model: SAM
    embedding: Embedding


@pytest.fixture(scope="module")
def ran(request: pytest.FixtureRequest) -> Ran:
    fixture = open_prompted(request.param)
    model = sam_vit_b(**settings(fixture.manifest["config"])).eval()
    fill(model, from_sam.convert(weights(fixture)))
    return Ran(fixture, model, model.encode(batch(fixture)))


def settings(said: dict[str, Any]) -> dict[str, Any]:
    """The reference's settings in our words."""
    return {
        "encoder": {
            "image_size": said["img_size"],
            "patch": said["patch_size"],
            "width": said["embed_dim"],
            "depth": said["depth"],
            "heads": said["num_heads"],
            "window": said["window_size"],
            "everywhere": said["global_attn_indexes"],
            "mlp_ratio": said["mlp_ratio"],
        },
        "prompts": {"width": said["prompt_embed_dim"], "mask_width": said["mask_in_chans"]},
        "decoder": {
            "width": said["prompt_embed_dim"],
            "depth": said["decoder_depth"],
            "heads": said["decoder_heads"],
            "mlp": said["decoder_mlp_dim"],
            "iou_layers": said["iou_head_depth"],
            "iou_width": said["iou_head_hidden_dim"],
        },
    }


@on(*SYSTEMS)
def test_features(ran):
    check_raw(ran.fixture, "plain.features", ran.embedding.features)
    check_raw(ran.fixture, "dense_pe", ran.model.prompts.position.grid(size_of(ran.embedding.features)))


@on(*SYSTEMS)
def test_every_kind_of_prompt(ran):
    for case in ran.fixture.manifest["cases"]:
        asked = said_in(ran.fixture, case)
        tokens = ran.model.prompts(asked.points + 0.5, asked.kinds, ran.embedding.padded)
        if tokens.numel():
            check_raw(ran.fixture, f"plain.{case}.sparse", tokens)
        decoded = ran.model.answer(ran.embedding, 0, asked)
        check_raw(ran.fixture, f"plain.{case}.low_res", decoded.logits)
        check_array(ran.fixture, f"plain.{case}.iou", decoded.ious.numpy())
