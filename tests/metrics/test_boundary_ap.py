from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from made_scenes import ellipse, made, of_bitmaps

from eachmask.metrics.average_precision import summary
from eachmask.metrics.boundary_ap import band_width, boundary_ap, boundary_band, boundary_iou, boundary_overlap
from eachmask.metrics.coco_matches import mask_overlap, match
from eachmask.structures import RLE


def as_published(mask: np.ndarray, dilation: float = 0.02) -> np.ndarray:
    """The definition, step by step: a border of zeros, d erosions by a 3 x 3 square, the mask less what is left."""
    height, width = mask.shape
    d = max(1, int(round(dilation * np.sqrt(height**2 + width**2))))
    padded = cv2.copyMakeBorder(mask.astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    eroded = cv2.erode(padded, np.ones((3, 3), np.uint8), iterations=d)[1:-1, 1:-1]
    return mask & ~eroded.astype(bool)


@pytest.mark.parametrize("size", [(90, 120), (37, 211), (300, 400), (5, 5)])
@pytest.mark.parametrize("dilation", [0.02, 0.005, 0.1])
def test_band_equals_the_definition(size, dilation):
    rng = np.random.default_rng(0)
    noise = cv2.GaussianBlur(rng.normal(size=size), (0, 0), max(1, min(size) / 20))
    masks = np.stack(
        [
            noise > 0,
            noise > noise.mean() + noise.std(),
            np.ones(size, bool),
            np.zeros(size, bool),
            ellipse(size[0] / 2, 0, size[0] / 3, size[1] / 2, size),  # cut by the image's edge
        ]
    )
    expected = np.stack([as_published(mask, dilation) for mask in masks])
    assert (boundary_band(RLE.from_bitmaps(masks), dilation).decode() == expected).all()


def test_width_of_the_band():
    assert band_width((480, 640)) == 16
    assert band_width((5, 5)) == 1
    assert band_width((1024, 2048), 0.005) == 11


def test_a_large_object_with_a_sloppy_outline_loses():
    size = (200, 200)
    true = RLE.from_bitmaps(ellipse(100, 100, 80, 80, size)[None])
    sloppy = RLE.from_bitmaps(ellipse(100, 100, 74, 74, size)[None])
    assert true.iou(sloppy)[0, 0] > 0.84
    assert boundary_iou(true, sloppy)[0, 0] < 0.2
    assert boundary_iou(true, true)[0, 0] == 1


def test_overlap_is_the_smaller_of_the_two_where_it_can_matter():
    predictions, targets = made(0)
    for found, true in zip(predictions, targets, strict=True):
        if not len(found) or not len(true):
            continue
        plain, ours = mask_overlap(found, true), boundary_overlap(found, true)
        bands = boundary_iou(found.masks, true.masks)
        crowd = true.crowd.numpy()
        relevant = (plain >= 0.5) & ~crowd & (found.labels.numpy()[:, None] == true.labels.numpy())
        assert (ours[relevant] == np.minimum(plain, bands)[relevant]).all()
        assert (ours[:, crowd] == plain[:, crowd]).all()
        assert (ours <= plain).all()


def test_boundary_ap_is_not_above_mask_ap():
    predictions, targets = made(2)
    ours, plain = boundary_ap(predictions, targets, 3), summary(match(predictions, targets, 3))
    assert 0 < ours["ap"] < plain["ap"]


def test_small_objects_are_all_band():
    bitmaps = np.stack([ellipse(20, 20, 2, 2), ellipse(60, 60, 2, 2)])
    true = of_bitmaps(bitmaps, labels=torch.zeros(2, dtype=torch.int64))
    found = of_bitmaps(bitmaps, labels=torch.zeros(2, dtype=torch.int64), scores=torch.tensor([0.9, 0.8]))
    assert boundary_ap([found], [true], 1)["ap"] == pytest.approx(1)
