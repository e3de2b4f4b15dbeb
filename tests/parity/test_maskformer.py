"""MaskFormer computes what its authors' code and transformers' compute."""

from __future__ import annotations

import pytest
import torch
from parity.dense import open_dense
from parity.queries import check_answers, check_layers, check_panoptic, check_total, renamed_by, stuff_of, target_of
from parity.recorded import batch, check_gradients, check_raw, doubled, recorded, run
from parity.swin import swin_settings

from eachmask import models
from eachmask.weights.from_maskformer import convert

TERMS = ("classes", "mask", "dice")
EARLY = ("backbone", "pixel_decoder.smooth", "position")


@pytest.fixture(scope="module", params=recorded("maskformer_panoptic", "maskformer_semantic"))
def authors(request):
    fixture = open_dense(request.param)
    said = fixture.manifest["config"]
    loss = {ours: said["weights"][f"loss_{theirs}"] for ours, theirs in zip(TERMS, ("ce", "mask", "dice"), strict=True)}
    settings = {
        "queries": said["queries"], "stuff": stuff_of(said), "object_threshold": said["object_mask_threshold"],
        "overlap_threshold": said["overlap_threshold"], "width": said["hidden"], "mask_width": said["hidden"],
        "heads": said["heads"], "decoder_layers": said["dec_layers"], "ffn": said["ffn"],
        "loss": loss | {"no_object": said["no_object_weight"]},
    }  # fmt: skip
    kind = fixture.manifest["system"].split("_")[1]
    return run(fixture, models.variant(f"maskformer_{kind}_r50"), convert, settings)


def test_every_layer(authors):
    fixture, model, raw = authors
    maps = model.backbone(batch(fixture).tensor).maps
    for number, found in enumerate(maps, start=2):
        check_raw(fixture, f"backbone.res{number}", found)
    seen, features = model.pixel_decoder(maps)
    check_raw(fixture, "mask_features", features)
    if "transformer_features" in fixture.manifest["raw"]:
        check_raw(fixture, "transformer_features", seen)
    check_layers(fixture, raw, "class_logits", "mask_logits")


def test_answers(authors):
    fixture, model, raw = authors
    check_answers(fixture, model, raw)
    if "panoptic" in fixture.manifest:
        check_panoptic(fixture, model, raw)


def test_losses(authors):
    fixture, model, raw = authors
    found = model.losses(raw, [target_of(fixture)])
    names = {"class": "loss_ce", "mask": "loss_mask", "dice": "loss_dice"}
    check_total(fixture, model, found, names, "total_weighted")


def test_gradients(authors):
    """In float64 the same on every processor; the recording's own rounding is 0.0012 of its fourth decoder layer."""
    fixture, model, _ = authors
    with torch.enable_grad(), doubled(model):
        found = model.losses(model(batch(fixture)), [target_of(fixture)])
        check_gradients(
            fixture, model, found, lambda theirs: next(iter(convert({theirs: torch.zeros(1)}))), EARLY, 2e-3
        )


@pytest.fixture(scope="module", params=recorded("transformers_maskformer"))
def transformers(request):
    fixture = open_dense(request.param)
    said = fixture.manifest["config"]
    said["num_classes"] = said["num_labels"]
    inner = said["decoder_config"]
    settings = {
        "queries": inner["num_queries"], "width": inner["d_model"], "mask_width": said["mask_feature_size"],
        "heads": inner["decoder_attention_heads"], "pyramid_width": said["fpn_feature_size"],
        "encoder_layers": 0,  # whatever the recording's decoder_config says: transformers has none
        "decoder_layers": inner["decoder_layers"], "ffn": inner["decoder_ffn_dim"], "swin": swin_settings(fixture),
        "early_norm": False,
    }  # fmt: skip
    return run(fixture, models.maskformer_panoptic_swin_t, convert, settings)


def test_transformers_layers(transformers):
    fixture, model, raw = transformers
    for number, found in enumerate(model.backbone(batch(fixture).tensor).maps):
        check_raw(fixture, f"encoder.{number}", found)
    check_layers(fixture, raw, "class_queries_logits", "masks_queries_logits")


def test_transformers_losses(transformers):
    fixture, model, raw = transformers
    found = model.losses(raw, [target_of(fixture)])
    names = {"class": "term.loss_cross_entropy", "mask": "term.loss_mask", "dice": "term.loss_dice"}
    check_total(fixture, model, found, names, "total")


def test_transformers_gradients(transformers):
    fixture, model, _ = transformers
    with torch.enable_grad():
        found = model.losses(model(batch(fixture)), [target_of(fixture)])
        check_gradients(fixture, model, found, renamed_by(convert), EARLY)
