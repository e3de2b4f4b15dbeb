"""CondInst's pieces against their definitions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from scipy import ndimage

from eachmask.models.config import changed
from eachmask.models.instance import condinst
from eachmask.models.instance.condinst import aligned_upsample, centers_of_mass, condinst_lite0_fpn
from eachmask.ops.dynamic import apply_networks
from eachmask.ops.nms import lower_repeats
from eachmask.structures import RLE, DecodeOptions, ImageBatch, Instances


def test_aligned_upsampling_keeps_cells_at_their_places():
    torch.manual_seed(0)
    x = torch.randn(1, 2, 5, 6)
    for factor in (1, 2, 4):
        found = aligned_upsample(x, factor)
        assert found.shape == (1, 2, 5 * factor, 6 * factor)
        for row in range(5 * factor):
            for column in range(6 * factor):
                y = min(max((row - factor // 2) / factor, 0), 4)
                z = min(max((column - factor // 2) / factor, 0), 5)
                (y0, z0), (v, w) = (int(y), int(z)), (y % 1, z % 1)
                y1, z1 = min(y0 + 1, 4), min(z0 + 1, 5)
                expected = (1 - v) * ((1 - w) * x[..., y0, z0] + w * x[..., y0, z1])
                expected = expected + v * ((1 - w) * x[..., y1, z0] + w * x[..., y1, z1])
                assert torch.allclose(found[..., row, column], expected, atol=1e-5)


def test_places_stand_for_objects_near_their_center_of_mass():
    bitmaps = np.zeros((2, 40, 50), bool)
    bitmaps[0, 10:30, 5:8] = bitmaps[0, 27:30, 5:45] = True  # an L: its mass is not in the middle of its box
    masks = RLE.from_bitmaps(bitmaps)
    boxes = torch.from_numpy(masks.boxes())
    boxes[1] = torch.tensor([2.0, 4.0, 6.0, 8.0])  # no pixels: the box must do
    found = centers_of_mass(Instances((40, 50), boxes, masks=masks, labels=torch.tensor([0, 0])))
    ys, xs = np.nonzero(bitmaps[0])
    assert torch.allclose(found, torch.tensor([[xs.mean(), ys.mean()], [4.0, 6.0]], dtype=torch.float32))


def test_masks_do_not_depend_on_how_many_are_computed_together(monkeypatch):
    torch.manual_seed(0)
    model = condinst_lite0_fpn(num_classes=2).eval()
    batch = ImageBatch.from_tensors([torch.randn(3, 64, 96)])
    with torch.no_grad():
        raw = model(batch)
        options = DecodeOptions(score_threshold=0.001, max_detections=9)
        (together,) = model.decode(raw, options)
        monkeypatch.setattr("eachmask.ops.dynamic.PIXEL_CHUNK_SIZE", 1)
        (alone,) = model.decode(raw, options)
    assert len(together) == 9
    assert np.array_equal(together.masks.to_rle().counts, alone.masks.to_rle().counts)


def test_masks_can_rank_the_detections():
    """Scores times maskness squared, then Matrix NMS, against the definitions written out."""
    torch.manual_seed(0)
    plain = condinst_lite0_fpn(num_classes=2, nms_threshold=0.8).eval()
    ranking = {"sigma": 1.5, "maskness_power": 2.0}
    ranked = condinst_lite0_fpn(num_classes=2, nms_threshold=0.8, ranking=ranking).eval()
    ranked.load_state_dict(plain.state_dict())
    batch = ImageBatch.from_tensors([torch.randn(3, 64, 96)])
    with torch.no_grad():
        raw = plain(batch)
        (all_of_them,) = plain.decode(raw, DecodeOptions(score_threshold=0.0, max_detections=40))
        kept = plain.keep(raw.detection, DecodeOptions(score_threshold=0.0, max_detections=40))[0]
        kernels = torch.cat([raw.kernels.controller(level).flatten(2) for level in raw.kernels.levels], 2)[0].T[
            kept.places
        ]
        probability = apply_networks(raw.mask_features[0], kernels, plain.places(raw, kept.places)).sigmoid()
        inside = probability >= 0.5
        maskness = (probability * inside).sum((1, 2)) / inside.sum((1, 2)).clamp(min=1)
        scores = all_of_them.scores * maskness**2
        expected = {}
        for j in range(len(scores)):
            decay = [1.0]
            for i in range(len(scores)):
                if scores[i] > scores[j] and all_of_them.labels[i] == all_of_them.labels[j]:
                    better = (scores > scores[i]) & (all_of_them.labels == all_of_them.labels[i])
                    own = max((_iou(inside[i], inside[k]) for k in torch.nonzero(better).flatten()), default=0.0)
                    decay.append(float(np.exp(-1.5 * _iou(inside[i], inside[j]) ** 2) / np.exp(-1.5 * own**2)))
            if inside[j].any():
                expected[*all_of_them.boxes[j].tolist(), int(all_of_them.labels[j])] = float(scores[j]) * min(decay)
        ranked.config = changed(ranked.config, {"ranking": {"candidates": 40}})
        (found,) = ranked.decode(raw, DecodeOptions(score_threshold=0.0, max_detections=9))
    best = sorted(expected.values(), reverse=True)[:9]
    np.testing.assert_allclose(found.scores.numpy(), best, rtol=1e-4)
    for box, label, score in zip(found.boxes.tolist(), found.labels.tolist(), found.scores.tolist(), strict=True):
        assert abs(expected[*box, label] - score) < 1e-5
    least = float(np.mean(best[4:6]))
    (fewer,) = ranked.decode(raw, DecodeOptions(score_threshold=least))
    assert len(fewer) == 5 and torch.allclose(fewer.scores, found.scores[:5])
    assert np.array_equal(fewer.masks.to_rle().counts, found.masks[:5].to_rle().counts)


def test_repeats_and_parts_lose_score_but_where_a_user_suppresses(monkeypatch):
    torch.manual_seed(0)
    model = condinst_lite0_fpn(num_classes=1, nms_threshold=0.8, ranking={"sigma": 1.0, "candidates": 40}).eval()
    with torch.no_grad():
        raw = model(ImageBatch.from_tensors([torch.randn(3, 64, 96)]))
        options = DecodeOptions(score_threshold=0.0, max_detections=12)
        (before,) = model.decode(raw, options)
        seen = []
        monkeypatch.setattr(condinst, "lower_repeats", lambda *given: seen.append(given) or lower_repeats(*given))
        model.config = changed(model.config, {"ranking": {"repeat_factor": 0.5, "part_factor": 0.75}})
        (after,) = model.decode(raw, options)
        (asked,) = model.decode(raw, replace(options, suppression="matrix"))
        least = float(after.scores[5:7].mean())
        (fewer,) = model.decode(raw, replace(options, score_threshold=least))
    iou, areas, scores, *factors = seen[0]
    assert factors == [0.5, 0.75] and torch.equal(scores, before.scores) and len(iou) == len(areas) == 12
    lowered = lower_repeats(iou, areas, scores, 0.5, 0.75)
    assert (lowered < scores).any() and torch.equal(after.scores, lowered.sort(descending=True).values)
    order = [before.boxes.tolist().index(box) for box in after.boxes.tolist()]
    assert torch.equal(lowered[order], after.scores)
    assert torch.equal(asked.scores, before.scores)
    assert torch.equal(fewer.scores, after.scores[:6])


def test_specks_are_left_out_at_every_size():
    torch.manual_seed(0)
    model = condinst_lite0_fpn(num_classes=1, score_threshold=0.0, max_detections=4).eval()
    model.controller.weight.data *= 50  # masks of many regions
    with torch.no_grad():
        raw = model(ImageBatch.from_tensors([torch.randn(3, 64, 96)]))
        (whole,) = model.decode(raw, DecodeOptions())
        model.config = changed(model.config, {"mask": {"least_region": 0.2}})
        (clean,) = model.decode(raw, DecodeOptions())
    for size in ((64, 96), (128, 192)):
        before, after = (one.masks.resize(size).to_rle().decode() for one in (whole, clean))
        assert (after < before).any()
        for mask, rest in zip(before, after, strict=True):
            regions, _ = ndimage.label(mask, np.ones((3, 3)))
            sizes = np.bincount(regions.ravel())[1:]
            large = sizes >= 0.2 * mask.sum()
            large[sizes.argmax() if len(sizes) else ()] = True
            np.testing.assert_array_equal(rest, np.isin(regions, np.flatnonzero(large) + 1))


def _iou(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a & b).sum() / (a | b).sum().clamp(min=1))
