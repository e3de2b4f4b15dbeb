"""Panoptic-DeepLab computes what Detectron2's computes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from parity.dense import open_dense
from parity.recorded import batch, check_losses, check_raw, doubled, recorded, run

from eachmask import models
from eachmask.models.panoptic import panoptic_deeplab
from eachmask.models.semantic.labeling import resized
from eachmask.ops.center_offsets import center_targets, find_centers
from eachmask.structures import DecodeOptions, PanopticMap, Segment
from eachmask.weights.from_detectron2 import panoptic_deeplab as detectron2
from eachmask.weights.renaming import rename


@pytest.fixture(scope="module", params=recorded("detectron2_panoptic_deeplab"))
def ran(request):
    fixture = open_dense(request.param)
    said = fixture.manifest["config"]
    target = said["target"]
    settings = {
        "stuff": [label for label in range(said["num_classes"]) if label not in said["thing_ids"]],
        "decoder": {
            "mean_window": said["aspp_pool_window"], "low_widths": said["project_channels"],
            "width": said["sem_decoder"],
        },
        "center_width": said["ins_decoder"], "head_width": said["sem_head"], "center_head_width": said["ins_head"],
        "group": {
            "center_threshold": said["center_threshold"], "window": said["nms_kernel"], "top_k": said["top_k"],
            "stuff_area": said["stuff_area"],
        },
        "sigma": target["sigma"], "hard": said["sem_top_k"], "small_area": target["small_instance_area"],
        "small_weight": target["small_instance_weight"], "center_weight": said["center_loss_weight"],
        "offset_weight": said["offset_loss_weight"],
    }  # fmt: skip
    name = "panoptic_deeplab_r52" + ("_dsconv" if said["depthwise_separable"] else "")
    return run(fixture, models.variant(name), detectron2.convert, settings)


def target_of(fixture):
    ids = torch.from_numpy(fixture.full("target.panoptic").astype(np.int32))
    said = fixture.manifest["target_segments"]
    return PanopticMap(ids, tuple(Segment(s["id"], s["category_id"], crowd=bool(s["iscrowd"])) for s in said))


def test_maps(ran):
    fixture, model, raw = ran
    maps = model.backbone(batch(fixture).tensor).maps
    for name, level in (("res2", 0), ("res3", 1), ("res5", -1)):
        check_raw(fixture, f"backbone.{name}", maps[level])
    check_raw(fixture, "sem_low", raw.logits)
    check_raw(fixture, "center_low", raw.centers)
    check_raw(fixture, "offset_low", raw.offsets)
    check_raw(fixture, "sem_logits", resized(raw.logits, raw.padded))
    check_raw(fixture, "center", resized(raw.centers, raw.padded))
    check_raw(fixture, "offset", model.offsets_in_pixels(raw))


@pytest.mark.parametrize("case", ["plain", "padded_rescaled"])
def test_segments(ran, case, monkeypatch):
    """Detectron2 numbers the things of each class from 1 on, in the order of their centers, here of the recorded ones.

    At the border interpolation repeats a value, up to its last bit: whether one or both of two such pixels are centers
    is the processor's decision. ``test_centers`` compares ours.
    """
    fixture, model, raw = ran
    centers = torch.from_numpy(fixture.full(f"{case}.center_points").astype(np.int64))
    monkeypatch.setattr(panoptic_deeplab, "find_centers", lambda *_: centers)
    said = fixture.manifest["detections"][case]
    valid, size = (tuple(said[key]) for key in ("img_shape", "ori_shape"))
    seen = raw._replace(sizes=(valid,))
    if size == valid:
        (found,) = model.decode(seen, DecodeOptions())
    else:
        found = model.at_size(seen, 0, size, DecodeOptions())
    divisor = fixture.manifest["config"]["label_divisor"]
    numbers, counts = np.full(size, -1, np.int32), {}
    scores = {}
    for segment in found.segments:
        thing = segment.label in model.things
        counts[segment.label] = counts.get(segment.label, 0) + thing
        numbers[found.ids.numpy() == segment.id] = segment.label * divisor + counts[segment.label]
        if thing:
            scores[segment.label * divisor + counts[segment.label]] = segment.score
    differing, same = fixture.compare_full(f"{case}.panoptic", numbers)
    assert same and differing / numbers.size <= max(1e-3, 5 * fixture.manifest["stability"]["panoptic_change"])
    expected = fixture.detections(case)["scores"].clip(0, 1)
    assert [scores[key] for key in sorted(scores)] == pytest.approx(expected, abs=1e-3)


def test_centers(ran):
    fixture, model, raw = ran
    c = model.config.group
    heat = resized(raw.centers, raw.padded)[0, 0]
    ours = find_centers(heat, c.center_threshold, c.window, c.top_k)
    theirs = torch.from_numpy(fixture.full("plain.center_points").astype(np.int64))
    assert len(ours) > 50 and abs(len(ours) - len(theirs)) < 5
    for some, others in ((ours, theirs), (theirs, ours)):
        near = (some[:, None] - others).abs().amax(2) <= c.window // 2
        equal = (heat[tuple(some.T)][:, None] - heat[tuple(others.T)]).abs() < 1e-6
        assert (near & equal).any(1).all()  # itself, or a neighbor of which it is a repetition


def test_targets(ran):
    fixture, model, raw = ran
    c = model.config
    target = target_of(fixture)
    learnt = center_targets(target, model.things, raw.padded, c.sigma, c.small_area)
    check_raw(fixture, "target.center", learnt.heat)
    check_raw(fixture, "target.offset", learnt.offsets)
    assert fixture.compare_full("target.center_weights", learnt.known[None].byte().numpy()) == (0, True)
    assert fixture.compare_full("target.offset_weights", learnt.inside[None].byte().numpy()) == (0, True)
    weights = torch.where(learnt.small, int(c.small_weight), 1).byte().numpy()
    assert fixture.compare_full("target.sem_seg_weights", weights) == (0, True)
    assert fixture.compare_full("target.sem_seg", target.to_semantic().labels.byte().numpy()) == (0, True)


def test_losses_and_gradients(ran):
    fixture, model, _ = ran
    with torch.enable_grad(), doubled(model):
        losses = model.losses(model(batch(fixture)), [target_of(fixture)])
        sum(losses.values()).backward()
    check_losses(fixture, losses, {"semantic": "loss_sem_seg", "center": "loss_center", "offset": "loss_offset"})
    own = dict(model.named_parameters())
    for theirs in fixture.manifest["grads"]:
        (name,) = rename({theirs: torch.zeros(1)}, detectron2.PANOPTIC, "Detectron2")
        error, same = fixture.compare_grad(theirs, own[name].grad.numpy())
        assert same and error < (5e-2 if theirs.startswith("backbone") else 1e-3), (theirs, error)
    model.zero_grad()
