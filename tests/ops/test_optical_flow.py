"""Optical flow: labels are carried with the pixels, and what moves by itself is told from the camera's motion."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from eachmask.ops.optical_flow import carried, flow, motion_of, own_motion
from eachmask.structures import RLE


@pytest.fixture
def images() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A frame, the next one and the mask of the object in it: the scene moves by (4, 0), the object by (0, 8) more."""
    rng = np.random.default_rng(0)
    wide = cv2.GaussianBlur(rng.integers(0, 255, (200, 320, 3), dtype=np.uint8), (0, 0), 3)
    thing = cv2.GaussianBlur(rng.integers(0, 255, (60, 60, 3), dtype=np.uint8), (0, 0), 2) // 2 + 100
    before, after = wide[:, 4:304].copy(), wide[:, :300].copy()
    before[60:120, 100:160], after[68:128, 104:164] = thing, thing
    mask = np.zeros((200, 300), bool)
    mask[68:128, 104:164] = True
    return before, after, mask


def test_labels_go_with_the_pixels(images):
    before, after, mask = images
    labels = np.roll(mask, (-8, -4), (0, 1)).astype(np.uint8) * 7
    found = carried(labels, flow(after, before))
    assert set(np.unique(found)) == {0, 7}
    assert ((found == 7) & mask).sum() / ((found == 7) | mask).sum() > 0.9


def test_what_moves_by_itself(images):
    before, after, mask = images
    masks = RLE.from_bitmaps(np.stack([mask, ~mask, np.zeros_like(mask)]))
    thing, scene, nothing = motion_of(masks, own_motion(before, after))
    assert thing == pytest.approx(8 / 300, rel=0.25) and scene < 0.2 * thing and nothing == 0
    assert (own_motion(before[:8, :12], after[:8, :12]) == 0).all(), "too small to say"
