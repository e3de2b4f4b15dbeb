"""Segment Anything against recorded outputs of its authors' code."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import pytest
from parity.prompted import (
    check_array,
    check_everything,
    check_masks,
    config_of,
    image_of,
    open_prompted,
    prompts_in,
    said_in,
)
from parity.recorded import batch, check_raw, on, weights
from torch import Tensor

from eachmask.inference.prompt_predictor import PromptPredictor
from eachmask.inference.session import Session
from eachmask.models.promptable.sam import PREPROCESS, SAM, Embedding, sam_vit_b, size_of
from eachmask.structures.logit_masks import LogitMasks
from eachmask.structures.soft_masks import Canvas
from eachmask.weights import from_sam
from eachmask.weights.file import ModelInfo
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


# What users ask -------------------------------------------------------------------------------------------------------


class Asked(NamedTuple):
    fixture: Any
    predictor: PromptPredictor
    session: Session


@pytest.fixture(scope="module")
def asked(ran: Ran) -> Asked:
    said = ran.fixture.manifest["config"]
    side = said["img_size"]
    mean, std = (tuple(v / 255 for v in said[name]) for name in ("pixel_mean", "pixel_std"))
    preprocess = replace(PREPROCESS, mean=mean, std=std, short_side=side, long_side=side, divisor=side)
    info = ModelInfo("sam_vit_b", preprocess=preprocess)
    predictor = PromptPredictor(ran.model, info, device="cpu", precision="fp32", optimize=False)
    return Asked(ran.fixture, predictor, predictor.look_at(image_of(ran.fixture)))


def picture_cases(fixture: Any) -> list[str]:
    """Prompts that were asked about the image."""
    names = (name.split(".") for name in fixture.manifest["masks"] if name.startswith("picture."))
    return sorted({parts[1] for parts in names if len(parts) == 4})


@on(*SYSTEMS)
def test_what_is_seen_of_an_image(ran, asked):
    if "picture.preprocessed" in ran.fixture.manifest["raw"]:
        seen = asked.predictor.info.preprocess([image_of(ran.fixture)])
        check_raw(ran.fixture, "picture.preprocessed", seen.tensor)
        assert list(seen.sizes[0]) == ran.fixture.arr("picture.input_size").tolist()
    check_raw(ran.fixture, "picture.features", asked.session.embedded.embedding.features)


@on(*SYSTEMS)
def test_answers_in_the_images_own_pixels(ran, asked):
    for case in picture_cases(ran.fixture):
        for kind in ("multi", "single"):
            found = answers(asked.session, prompts_in(ran.fixture, case), kind == "single")
            name = f"picture.{case}.{kind}"
            check_raw(ran.fixture, f"{name}.low_res", found.masks.logits)
            check_array(ran.fixture, f"{name}.iou", found.scores.numpy())
            check_masks(ran.fixture, f"{name}.masks", found.masks.to_rle().decode())


@on("sam_small", "sam_vit_b")
def test_a_correction_hears_the_earlier_answer(ran, asked):
    prompts = prompts_in(ran.fixture, "point")
    first = asked.session.predict(prompts)  # of a lone point the best one
    every = answers(asked.session, prompts, False)
    assert int(every.scores.argmax()) == ran.fixture.scalar("picture.second.best")
    second = asked.session.predict(prompts, previous=first)
    check_raw(ran.fixture, "picture.second.low_res", second.masks.logits)
    check_array(ran.fixture, "picture.second.iou", second.scores.numpy())
    check_masks(ran.fixture, "picture.second.masks", second.masks.to_rle().decode())


@on(*SYSTEMS)
def test_everything(ran, asked):
    said = dict(ran.fixture.manifest["config"]["automatic"])
    for layers in said.pop("crop_n_layers"):
        config = config_of(said | {"crop_n_layers": layers})
        image = asked.predictor.prepare(image_of(ran.fixture))
        check_everything(ran.fixture, f"auto.crop{layers}", asked.predictor.looking(config).all_masks(image))


class Said(NamedTuple):
    """All that was answered, also where no pixel is left of a mask."""

    masks: LogitMasks
    scores: Tensor


def answers(session: Session, prompts: Any, single: bool) -> Said:
    """The mask of prompts that leave no doubt, or the three others, in the network's order."""
    predictor, embedded = session.predictor, session.embedded
    raw = predictor.model.prompted(embedded.embedding, [prompts.resize(embedded.seen_size)])
    chosen = slice(0, 1) if single else slice(1, None)
    logits = raw.logits[0, chosen]
    canvas = Canvas(size_of(logits), raw.padded, raw.sizes[0], embedded.image_size, predictor.model.samples)
    return Said(LogitMasks(logits, canvas), raw.ious[0, chosen])
