"""MobileSAM, EfficientSAM and SAM 2's image half against recorded outputs of their authors' code."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
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
from parity.test_sam import answers, picture_cases

from eachmask.inference.prompt_predictor import PromptPredictor
from eachmask.inference.session import Session
from eachmask.models.promptable import efficient_sam, sam, sam2
from eachmask.models.promptable.mobile_sam import mobile_sam
from eachmask.models.promptable.prompt_encoder import NOTHING
from eachmask.models.promptable.prompt_tokens import Said
from eachmask.models.promptable.sam import Embedding, Raw
from eachmask.structures import DecodeOptions, Preprocess, Prompts
from eachmask.weights import from_efficient_sam, from_mobile_sam, from_sam2
from eachmask.weights.file import ModelInfo
from eachmask.weights.renaming import fill

MOBILE = "mobile_sam"
EFFICIENT = "efficient_sam"
SECOND = ("sam2_small", "sam2_hiera")


class Ran(NamedTuple):
    fixture: Any
    model: Any
    embedding: Embedding
    predictor: PromptPredictor
    session: Session


@pytest.fixture(scope="module")
def ran(request: pytest.FixtureRequest) -> Ran:
    fixture = open_prompted(request.param)
    system, said = fixture.manifest["system"], fixture.manifest["config"]
    build, convert, preprocess = next(make for name, make in MAKERS.items() if system.startswith(name))
    model = build(said).eval()
    fill(model, convert(weights(fixture)))
    info = ModelInfo(system, preprocess=preprocess(said))
    predictor = PromptPredictor(model, info, device="cpu", precision="fp32", optimize=False)
    embedding = model.encode(batch(fixture))
    return Ran(fixture, model, embedding, predictor, predictor.look_at(image_of(fixture)))


def mobile(said: dict[str, Any]) -> Any:
    names = {"widths": "embed_dims", "depths": "depths", "heads": "num_heads", "windows": "window_sizes"}
    encoder = {ours: said[theirs] for ours, theirs in names.items()}
    more = {"mlp_ratio": "mlp_ratio", "expansion": "mbconv_expand_ratio", "local": "local_conv_size"}
    return mobile_sam(encoder=encoder | {ours: said[theirs] for ours, theirs in more.items()})


def mobile_preprocess(said: dict[str, Any]) -> Preprocess:
    side = said["img_size"]
    return replace(sam.PREPROCESS, short_side=side, long_side=side, divisor=side)


def efficient(said: dict[str, Any]) -> Any:
    encoder = {
        "image_size": said["img_size"],
        "patch": said["patch_size"],
        "width": said["embed_dim"],
        "depth": said["depth"],
        "heads": said["num_heads"],
        "mlp_ratio": said["mlp_ratio"],
    }
    decoder = {
        "width": said["neck_dims"][-1],
        "depth": said["decoder_depth"],
        "heads": said["decoder_heads"],
        "mlp": said["decoder_mlp_dim"],
    }
    points = said["decoder_max_num_input_points"]
    prompts = {"width": said["neck_dims"][-1]}
    return efficient_sam.efficient_sam_ti(encoder=encoder, prompts=prompts, decoder=decoder, points=points)


def efficient_preprocess(said: dict[str, Any]) -> Preprocess:
    return replace(efficient_sam.PREPROCESS, fixed_size=(said["img_size"],) * 2)


def second(said: dict[str, Any]) -> Any:
    return sam2.sam2_hiera_t(**second_config(said))


def second_config(said: dict[str, Any]) -> dict[str, Any]:
    hiera, dynamic = said["hiera"], said["dynamic_multimask"]
    encoder = {
        "width": hiera["embed_dim"],
        "heads": hiera["num_heads"],
        "depths": hiera["stages"],
        "everywhere": hiera["global_att_blocks"],
        "windows": hiera["window_spec"],
        "background": hiera["window_pos_embed_bkg_spatial_size"],
    }
    return {
        "encoder": encoder,
        "prompts": {"width": said["d_model"]},
        "decoder": {"width": said["d_model"]},
        "stability_offset": dynamic["delta"],
        "stability_threshold": dynamic["thresh"],
    }


def second_preprocess(said: dict[str, Any]) -> Preprocess:
    return replace(sam2.PREPROCESS, fixed_size=(said["image_size"],) * 2)


MAKERS: dict[str, tuple[Callable[..., Any], ...]] = {
    "mobile_sam": (mobile, from_mobile_sam.convert, mobile_preprocess),
    "efficient_sam": (efficient, from_efficient_sam.convert, efficient_preprocess),
    "sam2": (second, from_sam2.convert, second_preprocess),
}


# MobileSAM ------------------------------------------------------------------------------------------------------------


@on(MOBILE)
def test_mobile_sam(ran):
    check_raw(ran.fixture, "plain.features", ran.embedding.features)
    for case in ran.fixture.manifest["cases"]:
        decoded = ran.model.answer(ran.embedding, 0, said_in(ran.fixture, case))
        check_raw(ran.fixture, f"plain.{case}.low_res", decoded.logits)
        check_array(ran.fixture, f"plain.{case}.iou", decoded.ious.numpy())
    check_raw(ran.fixture, "picture.features", ran.session.embedded.embedding.features)
    check_answers(ran)


def check_answers(ran: Ran) -> None:
    """Both outputs of every prompt on the image."""
    for case in picture_cases(ran.fixture):
        for kind in ("multi", "single"):
            found = answers(ran.session, prompts_in(ran.fixture, case), kind == "single")
            name = f"picture.{case}.{kind}"
            check_raw(ran.fixture, f"{name}.low_res", found.masks.logits)
            check_array(ran.fixture, f"{name}.iou", found.scores.numpy())
            check_masks(ran.fixture, f"{name}.masks", found.masks.to_rle().decode())


@on(MOBILE)
def test_everything_of_mobile_sam(ran):
    said = dict(ran.fixture.manifest["config"]["automatic"])
    image = ran.predictor.prepare(image_of(ran.fixture))
    check_everything(ran.fixture, "auto.crop0", ran.predictor.looking(config_of(said)).all_masks(image))


# EfficientSAM ---------------------------------------------------------------------------------------------------------


@on(EFFICIENT)
def test_efficient_sam(ran):
    fixture = ran.fixture
    check_raw(fixture, "plain.features", ran.embedding.features)
    for name in fixture.manifest["arrays"]:
        case = name.removeprefix("prompt.").removesuffix(".points")
        if not name.startswith("prompt.") or case == name.removeprefix("prompt."):
            continue
        asked = points_of(fixture, case, ran)
        check_raw(fixture, f"plain.{case}.sparse", ran.model.tokens(asked.points, asked.kinds, ran.embedding.padded))
        decoded = ran.model.answer(ran.embedding, 0, asked)
        for kind, chosen in (("multi", slice(1, None)), ("single", slice(0, 1))):
            check_raw(fixture, f"plain.{case}.{kind}.low_res", decoded.logits[None, :, chosen])
            check_array(fixture, f"plain.{case}.{kind}.iou", decoded.ious[None, :, chosen].numpy())


@on(EFFICIENT)
def test_what_efficient_sam_sees_of_an_image(ran):
    fixture = ran.fixture
    if "picture.preprocessed" in fixture.manifest["raw"]:
        check_raw(fixture, "picture.preprocessed", ran.predictor.info.preprocess([image_of(fixture)]).tensor)
    check_raw(fixture, "picture.features", ran.session.embedded.embedding.features)
    height, width = image_of(fixture).shape[:2]
    for case in {name.split(".")[1] for name in fixture.manifest["masks"]}:
        points = torch.from_numpy(fixture.arr(f"prompt.{case}.points"))[0].float()
        labels = torch.from_numpy(fixture.arr(f"prompt.{case}.labels"))[0]
        for number, (places, kinds) in enumerate(zip(points, labels, strict=True)):
            boxes = places[kinds >= 2].reshape(-1, 4)
            lone = (kinds == 0) | (kinds == 1)
            prompts = Prompts(
                (height, width), places[lone], kinds[lone] == 1, boxes=boxes, box_objects=[0] * len(boxes)
            )
            for kind in ("multi", "single"):
                found = answers(ran.session, prompts, kind == "single")
                recorded = torch.from_numpy(fixture.mask(f"picture.{case}.{kind}.masks")[0, number])
                ours = torch.from_numpy(found.masks.to_rle().decode())
                different = int((recorded != ours).sum())
                union = (recorded | ours).sum((1, 2)).clamp(min=1)
                assert different <= 20 or ((recorded & ours).sum((1, 2)) / union).min() > 0.99, (case, kind, different)


def points_of(fixture: Any, case: str, ran: Ran) -> Said:
    """The prompts of a case, in the network's pixels; as many objects as there are queries."""
    points = torch.from_numpy(fixture.arr(f"prompt.{case}.points"))[0].float()
    labels = torch.from_numpy(fixture.arr(f"prompt.{case}.labels"))[0].long()
    about = fixture.manifest["input"]["picture"]
    scale = points.new_tensor([ran.embedding.padded[1] / about["width"], ran.embedding.padded[0] / about["height"]])
    kinds = torch.where(labels < 0, NOTHING, labels)
    return Said(torch.arange(len(points)), points * scale, kinds, None, False)


# SAM 2 ----------------------------------------------------------------------------------------------------------------


@on(*SECOND)
def test_what_sam_2_sees(ran):
    maps = ran.model.look(batch(ran.fixture))
    for i, level in enumerate((maps.finer[1], maps.finer[0], maps.features)):
        check_raw(ran.fixture, f"plain.fpn.{i}", level)
    if "picture.preprocessed" in ran.fixture.manifest["raw"]:
        check_raw(ran.fixture, "picture.preprocessed", ran.predictor.info.preprocess([image_of(ran.fixture)]).tensor)
    check_raw(ran.fixture, "picture.image_embed", ran.session.embedded.embedding.features)


@on(*SECOND)
def test_answers_of_sam_2(ran):
    """The three masks, and the single one after the rule of stability."""
    fixture, session = ran.fixture, ran.session
    embedding = session.embedded.embedding
    names = [name for name in fixture.manifest["raw"] if name.startswith("picture.") and name.endswith(".low_res")]
    for case in sorted({name.split(".")[1] for name in names}):
        asked = second_prompts(ran, case)
        decoded = ran.model.answer(embedding, 0, asked)
        raw = Raw(
            decoded.logits,
            decoded.ious,
            torch.zeros(len(decoded.ious), dtype=torch.int64),
            torch.arange(len(decoded.ious)),
            torch.ones(len(decoded.ious), dtype=torch.bool),
            embedding.sizes,
            embedding.padded,
        )
        single = ran.model.select(raw, DecodeOptions())
        for kind, logits, ious in (
            ("multi", decoded.logits[:, 1:], decoded.ious[:, 1:]),
            ("single", single.logits[:, None], single.scores[:, None]),
        ):
            name = f"picture.{case}.{kind}"
            several = len(fixture.manifest["raw"][f"{name}.low_res"]["shape"]) == 4
            check_raw(fixture, f"{name}.low_res", (logits if several else logits[0]).clamp(-32, 32))
            check_array(fixture, f"{name}.iou", (ious if several else ious[0]).numpy())
        if f"picture.{case}.object_score" in fixture.manifest["arrays"]:
            check_array(fixture, f"picture.{case}.object_score", decoded.presence[:, None].numpy())
            check_raw(fixture, f"picture.{case}.all_masks", decoded.logits)


@on(*SECOND)
def test_masks_of_sam_2_in_the_images_own_pixels(ran):
    for name in ran.fixture.manifest["masks"]:
        parts = name.split(".")
        if parts[0] != "picture" or len(ran.fixture.manifest["masks"][name]["shape"]) != 3:
            continue
        found = answers(ran.session, prompts_in(ran.fixture, parts[1]), parts[2] == "single")
        if parts[2] == "multi":  # a single one may be another after the rule of stability
            check_masks(ran.fixture, name, found.masks.to_rle().decode())


def second_prompts(ran: Ran, case: str) -> Said:
    """The prompts of a case on the image, in the network's pixels."""
    fixture, about = ran.fixture, ran.fixture.manifest["input"]["picture"]
    height, width = ran.session.embedded.seen_size
    scale = torch.tensor([width / about["width"], height / about["height"]])
    arrays = fixture.manifest["arrays"]
    boxes = (
        torch.from_numpy(fixture.arr(f"picture.{case}.box")).float().reshape(-1, 2, 2)
        if (f"picture.{case}.box" in arrays)
        else None
    )
    num = 1 if boxes is None else len(boxes)
    points, kinds = torch.zeros(num, 0, 2), torch.zeros(num, 0, dtype=torch.int64)
    if f"picture.{case}.point_coords" in arrays:
        points = torch.from_numpy(fixture.arr(f"picture.{case}.point_coords")).float()[None]
        kinds = torch.from_numpy(np.asarray(fixture.arr(f"picture.{case}.point_labels"))).long()[None]
    if boxes is not None:
        points = torch.cat([boxes, points], 1)
        kinds = torch.cat([torch.tensor([[2, 3]]).expand(num, -1), kinds], 1)
    points = points * scale
    if points.shape[1]:
        points = torch.cat([points, torch.zeros(num, 1, 2)], 1)
        kinds = torch.cat([kinds, torch.full((num, 1), NOTHING)], 1)
    mask = None
    if case == "mask":
        from parity.prompted import extra

        said = fixture.manifest["input"]["mask_prompt"]
        mask = torch.from_numpy(extra().make_mask_logits(said["side"], said["side"], said["seed"]))[None]
    return Said(torch.arange(num), points, kinds, mask, False)
