"""Semantic FPN and Panoptic FPN compute what Detectron2's and MMSegmentation's compute."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from parity.dense import dense, open_dense
from parity.recorded import (
    CASES,
    batch,
    check_decoded,
    check_gradients,
    check_pyramid,
    check_raw,
    losses_on_recorded_proposals,
    recorded,
    run,
    two_stage_settings,
)

from eachmask import models
from eachmask.models.panoptic.panoptic_fpn import MergeConfig, merge_things_and_stuff
from eachmask.models.semantic.labeling import batch_labels, extent_of, resized
from eachmask.ops import pixel_losses
from eachmask.structures import DecodeOptions, SemanticMap
from eachmask.structures.class_scores import ClassScores
from eachmask.weights import from_mmseg_semfpn as mmseg
from eachmask.weights.from_detectron2 import panoptic_fpn as detectron2


@pytest.fixture(scope="module", params=recorded("detectron2_semantic_fpn", "mmseg_semfpn"))
def semantic(request):
    fixture = open_dense(request.param)
    theirs = fixture.manifest["system"].startswith("mmseg")
    variant = models.semantic_fpn_r50_mmseg if theirs else models.semantic_fpn_r50
    return run(fixture, variant, (mmseg if theirs else detectron2).convert, {})


def test_semantic_maps(semantic):
    fixture, model, raw = semantic
    check_pyramid(fixture, model.backbone(batch(fixture).tensor).maps)
    names = fixture.manifest["raw"]
    check_raw(fixture, "sem_low" if "sem_low" in names else "decode_low", raw.logits)
    check_raw(fixture, "sem_logits" if "sem_logits" in names else "logits", resized(raw.logits, raw.padded))
    for case, sizes in fixture.manifest["cases"].items():
        seen = raw._replace(sizes=(tuple(sizes["img_shape"]),))
        (found,) = model.decode(seen, DecodeOptions())
        labels = found.resize(tuple(sizes["ori_shape"])).labels
        differing, same = fixture.compare_full(f"{case}.sem_labels", labels.numpy())
        change = fixture.manifest["stability"]["label_change"]
        assert same and differing / labels.numel() <= max(1e-3, 5 * change)


def test_semantic_loss(semantic):
    fixture, model, raw = semantic
    shape = fixture.manifest["made"]["target_labels"]["shape"]
    target = SemanticMap(torch.from_numpy(dense().make_label_map(*shape, model.num_classes, seed=4)))
    losses = fixture.manifest["losses"]
    expected = losses.get("loss_sem_seg", losses.get("decode.loss_ce"))
    assert float(model.losses(raw, [target])["pixels"]) == pytest.approx(expected, rel=1e-3)
    convert = (mmseg if fixture.manifest["system"].startswith("mmseg") else detectron2).convert
    with torch.enable_grad():
        found = model.losses(model(batch(fixture)), [target])
        check_gradients(fixture, model, found, lambda theirs: next(iter(convert({theirs: torch.zeros(1)}))))


@pytest.fixture(scope="module", params=recorded("detectron2_panoptic_fpn"))
def panoptic(request):
    fixture = open_dense(request.param)
    said = fixture.manifest["config"]
    things = said["num_thing_classes"]
    said["num_classes"] = things + said["num_sem_classes"] - 1
    usual = {"rpn_nms": 0.7, "rpn_pre": 1000, "rpn_post": 1000}
    for name, value in usual.items():
        said.setdefault(name, value)
    settings = {
        "detector": two_stage_settings(fixture), "width": said["sem_conv_dims"],
        "stuff": list(range(things, said["num_classes"])), "semantic_weight": said["sem_loss_weight"],
        "merge": {"score_threshold": said["instance_score_thresh"], "overlap_threshold": said["overlap_thresh"],
                  "stuff_area": said["stuff_area"]},
    }  # fmt: skip
    return run(fixture, models.panoptic_fpn_r50, detectron2.convert, settings)


def test_panoptic_heads(panoptic):
    fixture, model, raw = panoptic
    check_pyramid(fixture, raw.detection.features.maps)
    for level in range(4):
        check_raw(fixture, f"sem_scale.p{level + 2}", model.head.scaled(level, raw.detection.features.maps[level]))
    check_raw(fixture, "sem_low", raw.logits)
    check_raw(fixture, "sem_logits", resized(raw.logits, raw.padded))


def test_panoptic_segments(panoptic):
    fixture, model, raw = panoptic
    (found,) = model.decode(raw, DecodeOptions())
    check_segments(fixture, model, "plain", found)
    (objects,) = model.detector.decode(raw.detection, DecodeOptions())
    labels = model.select(raw, DecodeOptions()).labels[0]
    for case in ("merge_loose", "merge_strict"):
        numbers = [float(n) for n in re.findall(r"\d+\.?\d*", fixture.manifest["full"][f"{case}.panoptic"]["note"])]
        overlap, area, score = numbers
        config = MergeConfig(score, overlap, int(area))
        kept = objects[objects.scores >= config.score_threshold]
        merged = merge_things_and_stuff(kept, labels, model.things, model.config.stuff, config)
        check_segments(fixture, model, case, merged)


def check_segments(fixture, model, case, found):
    """The same segments in the same order; a stuff category is numbered from 1 behind "things"."""
    expected = fixture.manifest["panoptic"][case]
    stuff = {label: number for number, label in enumerate(model.config.stuff, start=1)}
    assert [stuff.get(s.label, s.label) for s in found.segments] == [s["category_id"] for s in expected]
    differing, same = fixture.compare_full(f"{case}.panoptic", found.ids.numpy().astype(np.int16))
    assert same and differing / found.ids.numel() <= 1e-3


def test_panoptic_losses(panoptic):
    fixture, model, raw = panoptic
    labels = torch.from_numpy(fixture.full("target.sem_seg").astype(np.int64))
    semantic = SemanticMap(labels)
    logits = resized(raw.logits.float(), raw.padded)
    loss = model.config.semantic_weight * pixel_losses.cross_entropy(logits, batch_labels([semantic], raw.padded))
    assert float(loss) == pytest.approx(fixture.manifest["losses"]["loss_sem_seg"], rel=1e-3)


def objects(ran):
    """The half of the network that finds objects, as Mask R-CNN's recordings are compared."""
    return ran._replace(model=ran.model.detector, raw=ran.raw.detection)


@pytest.mark.parametrize("case", CASES)
def test_objects(panoptic, case):
    check_decoded(objects(panoptic), case)


def test_panoptic_maps_of_a_resized_image(panoptic):
    """Detectron2 merges at the size of the image, where the limit of stuff counts more pixels."""
    fixture, model, raw = panoptic
    sizes = fixture.manifest["detections"]["padded_rescaled"]
    valid, size = (tuple(sizes[key]) for key in ("img_shape", "ori_shape"))
    (found,) = model.detector.decode(objects(panoptic).seen("padded_rescaled"), DecodeOptions())
    found = found[found.scores >= model.config.merge.score_threshold].resize(size)
    grid = raw.logits[0]
    labels = ClassScores(grid, extent_of(valid, grid.shape[-2:], raw.padded), through=valid).labels(size)
    merged = merge_things_and_stuff(found, labels, model.things, model.config.stuff, model.config.merge)
    check_segments(fixture, model, "padded_rescaled", merged)


def test_losses_and_gradients_of_both_halves(panoptic):
    fixture, model, _ = panoptic
    with torch.enable_grad():
        raw = model(batch(fixture))
        found = losses_on_recorded_proposals(objects(panoptic._replace(raw=raw)))
        labels = batch_labels(
            [SemanticMap(torch.from_numpy(fixture.full("target.sem_seg").astype(np.int64)))], raw.padded
        )
        pixels = pixel_losses.cross_entropy(resized(raw.logits.float(), raw.padded), labels)
        found["semantic"] = model.config.semantic_weight * pixels
        assert float(sum(found.values()).detach()) == pytest.approx(fixture.manifest["losses"]["total"], rel=1e-3)
        check_gradients(fixture, model, found, name_within_the_detector, ("detector.backbone.backbone",))


def name_within_the_detector(theirs):
    (name,) = detectron2.convert({theirs: torch.zeros(1)})
    return f"detector.{name}" if name.startswith("backbone") else name
