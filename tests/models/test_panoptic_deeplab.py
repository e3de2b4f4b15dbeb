from __future__ import annotations

import numpy as np
import pytest
import torch

from eachmask.models.instance.panoptic_deeplab import (
    Config,
    Raw,
    find_centers,
    group_pixels,
    largest_parts,
    make_targets,
    panoptic_deeplab_lite0,
)
from eachmask.structures import RLE, DecodeOptions, ImageBatch, Instances


def instances(label: np.ndarray, crowd: list[bool] | None = None) -> Instances:
    masks = RLE.from_label_map(label)
    return Instances(
        image_size=label.shape, boxes=torch.from_numpy(masks.boxes()), masks=masks,
        labels=torch.zeros(len(masks), dtype=torch.int64), crowd=None if crowd is None else torch.tensor(crowd),
    )  # fmt: skip


def discs(height: int = 96, width: int = 128) -> np.ndarray:
    """Touching discs of different sizes."""
    ys, xs = np.mgrid[:height, :width]
    label = np.zeros((height, width), np.int32)
    places = [(20, 20, 12), (20, 43, 11), (60, 30, 20), (60, 80, 5), (70, 89, 5), (20, 100, 3)]
    for i, (cy, cx, r) in enumerate(places, start=1):
        label[((ys - cy) ** 2 + (xs - cx) ** 2 <= r * r) & (label == 0)] = i
    return label


def perfect(label: np.ndarray, config: Config) -> Raw:
    """What a flawless network would say."""
    target, _, heat, offsets, _ = make_targets(instances(label), label.shape, config)
    as_logits = lambda p: torch.logit(torch.from_numpy(p).clamp(1e-4, 1 - 1e-4))[None, None]  # noqa: E731
    foreground = as_logits((target > 0).astype(np.float32))
    return Raw(foreground, as_logits(heat), torch.from_numpy(offsets)[None], (label.shape,))


def test_targets_point_to_the_center_of_mass():
    label = np.zeros((32, 40), np.int32)
    label[4:9, 10:21] = 1
    _, valid, heat, offsets, weight = make_targets(instances(label), (32, 40), Config())
    assert offsets[:, 6, 15].tolist() == [0, 0] and offsets[:, 4, 10].tolist() == [5, 2]
    assert heat[6, 15] == 1 and heat[label == 0].max() == 0 and valid.all()
    assert weight[6, 15] == pytest.approx(10 / np.sqrt(55))


def test_crowd_is_ignored_and_a_padded_batch_allowed():
    label = np.zeros((20, 30), np.int32)
    label[2:8, 2:8], label[10:18, 10:28] = 1, 2
    target, valid, *_ = make_targets(instances(label, [False, True]), (32, 32), Config())
    assert target.shape == (32, 32) and target.max() == 1
    assert not valid[12, 12] and valid[4, 4] and valid[25, 5]


def test_decoding_perfect_maps_gives_the_objects_back():
    label = discs()
    model = panoptic_deeplab_lite0()
    (found,) = model.decode(perfect(label, model.config), DecodeOptions())
    iou = found.masks.iou(instances(label).masks)
    assert len(found) == 6 and np.all(iou.max(0) > 0.95)


def test_doubled_peaks_become_one_center():
    label = np.zeros((64, 64), np.int32)
    label[8:56, 8:56] = 1
    raw = perfect(label, Config())
    raw.heat[0, 0, 20, 20] = 6.0  # a false peak, whose offset still points to the true center
    centers, _ = find_centers(raw.heat[0].sigmoid(), raw.offsets[0].numpy(), Config())
    assert len(centers) == 1 and np.allclose(centers[0], 31.5, atol=1)


def test_grouping_equals_the_nearest_center_of_eq_1():
    rng = np.random.default_rng(0)
    foreground = rng.random((40, 50)) > 0.3
    offsets = rng.normal(0, 4, (2, 40, 50)).astype(np.float32)
    centers = np.array([[5, 6], [30, 10], [44, 35], [12, 31]], np.float32)
    label = group_pixels(foreground, offsets, centers)
    ys, xs = np.mgrid[:40, :50]
    place = np.stack([np.clip(np.rint(xs + offsets[0]), 0, 49), np.clip(np.rint(ys + offsets[1]), 0, 39)], -1)
    distance = np.linalg.norm(place[:, :, None] - centers, axis=-1)
    near = distance[np.arange(40)[:, None], np.arange(50), np.maximum(label - 1, 0)]
    # OpenCV's 5 x 5 mask distance is exact to 2%: the chosen center is the nearest or as good as.
    assert np.all(near[foreground] <= distance.min(-1)[foreground] * 1.03 + 0.5)
    assert np.all((label > 0) == foreground)


def test_largest_part_is_kept_and_holes_filled():
    label = np.zeros((30, 30), np.int32)
    label[2:12, 2:12], label[20:23, 20:23], label[5:7, 5:7] = 1, 1, 0
    label[15:17, 2:4] = 2
    kept = largest_parts(label, min_area=10)
    assert (kept == 1).sum() == 100 and not (kept == 2).any() and not kept[20:].any()


@pytest.mark.parametrize("targets", ["none", "some"])
def test_losses_are_finite_and_reach_every_parameter(targets):
    torch.manual_seed(0)
    model = panoptic_deeplab_lite0()
    batch = ImageBatch.from_tensors([torch.rand(3, 70, 90), torch.rand(3, 64, 64)])
    label = discs(70, 90) if targets == "some" else np.zeros((70, 90), np.int32)
    losses = model.losses(model(batch), [instances(label), instances(np.zeros((64, 64), np.int32))])
    sum(losses.values()).backward()
    assert all(torch.isfinite(v) for v in losses.values())
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_padding_has_no_part_in_the_loss():
    model = panoptic_deeplab_lite0().eval()
    batch = ImageBatch.from_tensors([torch.rand(3, 70, 90)])
    raw = model(batch)
    target = [instances(discs(70, 90))]
    before = model.losses(raw, target)
    noisy = raw._replace(foreground=raw.foreground.clone(), heat=raw.heat.clone())
    noisy.foreground[:, :, 70:] = 9
    noisy.heat[:, :, :, 90:] = 9
    after = model.losses(noisy, target)
    assert all(torch.allclose(before[k], after[k], atol=1e-6) for k in before)


def test_odd_sizes_empty_results_and_repeatability():
    model = panoptic_deeplab_lite0().eval()
    batch = ImageBatch.from_tensors([torch.rand(3, 33, 65)])
    with torch.inference_mode():
        (a,), (b,) = (model.decode(model(batch), DecodeOptions(score_threshold=0.99)) for _ in range(2))
    assert a.image_size == (33, 65) and len(a) == len(b) and a.masks is not None
