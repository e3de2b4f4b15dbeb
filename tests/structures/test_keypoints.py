from __future__ import annotations

import torch

from eachmask.structures import Category
from eachmask.structures import keypoints as ops
from eachmask.structures.coco import category_to_dict

POINTS = torch.tensor([[[10.0, 4, 2], [0, 0, 0], [3, 9, -1.5]]])
"""Labelled, not labeled, and one whose score is below zero, as a keypoint head may say."""


def test_flip_mirrors_what_is_labeled_and_swaps_names():
    assert ops.flip(POINTS, 20).tolist() == [[[10, 4, 2], [0, 0, 0], [17, 9, -1.5]]]
    assert ops.flip(POINTS, 20, [(0, 1)]).tolist() == [[[0, 0, 0], [10, 4, 2], [17, 9, -1.5]]]
    assert torch.equal(ops.flip(ops.flip(POINTS, 20, [(0, 2)]), 20, [(0, 2)]), POINTS)


def test_crop_forgets_what_is_outside():
    assert ops.crop(POINTS, (2, 1, 10, 10)).tolist() == [[[0, 0, 0], [0, 0, 0], [1, 8, -1.5]]]


def test_resize_leaves_visibility():
    assert ops.resize(POINTS, (10, 20), (20, 10)).tolist() == [[[5, 8, 2], [0, 0, 0], [1.5, 18, -1.5]]]


def test_coco_counts_limbs_from_1() -> None:
    person = Category(1, "person", keypoints=("head", "neck", "hip"), skeleton=((0, 1), (1, 2)))
    assert category_to_dict(person)["skeleton"] == [[1, 2], [2, 3]]


def test_no_objects():
    none = torch.zeros(0, 17, 3)
    assert ops.flip(none, 5).shape == ops.crop(none, (0, 0, 2, 2)).shape == ops.resize(none, (2, 2), (4, 4)).shape


def test_pairs_that_a_mirror_swaps() -> None:
    person = ["nose", "left_eye", "right_eye", "left_hip", "right_hip", "cleft"]
    assert ops.mirror_pairs(person) == ((1, 2), (3, 4))
    assert ops.mirror_pairs(["R_F_paw", "L_F_paw", "tail"]) == ((1, 0),)
    assert ops.mirror_pairs(()) == ()
