from __future__ import annotations

import numpy as np
import pytest
import torch

from eachmask.structures import RLE, Prompts, UserError

SIZE = (40, 60)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "there is no prompt: give a point"),
        ({"points": [[61, 5]]}, r"the point \(61, 5\) lies outside the image of 60 x 40 pixels"),
        ({"points": [[-1, 5]]}, "lies outside"),
        ({"points": [[float("nan"), 5]]}, "lies outside"),
        ({"scribbles": [[[1, 1], [1, 50]]]}, r"the point \(1, 50\) lies outside"),
        ({"extremes": [[[1, 1], [2, 2], [3, 3], [70, 3]]]}, r"\(70, 3\) lies outside"),
        ({"boxes": [[5, 5, 5, 9]]}, r"the box \(5, 5, 5, 9\) has no area"),
        ({"boxes": [[9, 9, 5, 5]]}, "has no area"),
        ({"boxes": [[70, 5, 90, 9]]}, "has no area in the image of 60 x 40"),
        ({"boxes": [[1, 2, 3]]}, r"boxes must be \(n, 4\), not \(1, 3\)"),
        ({"points": [1, 2]}, r"points must be \(n, 2\)"),
        ({"points": [[1, 2]], "signs": [True, False]}, "2 signs for 1 prompts"),
        ({"points": [[1, 2]], "point_objects": [1]}, "no prompt speaks of object 0"),
        ({"boxes": [[1, 2, 3, 4]], "box_objects": [-1]}, "object -1: number the objects 0, 1, 2"),
        ({"masks": RLE.from_bitmaps(np.ones((1, 5, 6), bool))}, r"rough masks are on \(5, 6\)"),
    ],
)
def test_what_cannot_be_meant_is_said(given, message):
    with pytest.raises(UserError, match=message):
        Prompts(SIZE, **given)


def test_clicks_speak_of_one_object_and_boxes_of_one_each():
    clicks = Prompts(SIZE, points=[[1, 2], [3, 4]])
    assert len(clicks) == 1 and clicks.signs.tolist() == [True, True] and clicks.point_objects.tolist() == [0, 0]
    boxes = Prompts(SIZE, boxes=[[0, 0, 5, 5], [10, 10, 99, 99]], texts=["cat", "dog"])
    assert len(boxes) == 2 and boxes.boxes[1].tolist() == [10, 10, 60, 40]
    assert repr(boxes) == "Prompts(2 objects on 40 x 60: 2 boxes, 2 texts)"
    assert boxes.of(1).texts == ("dog",) and len(boxes.of(-1)) == 1 and boxes.of(1).box_objects.tolist() == [0]
    with pytest.raises(IndexError):
        boxes.of(2)


def several() -> Prompts:
    masks = np.zeros((2, *SIZE), bool)
    masks[0, 5:10, 5:10] = masks[1, 20:30, 40:50] = True
    return Prompts(
        SIZE,
        points=[[6, 6], [45, 25], [59, 39]],
        signs=[True, True, False],
        point_objects=[0, 1, 0],
        boxes=[[5, 5, 10, 10], [40, 20, 50, 30]],
        extremes=[[[5, 7], [10, 7], [7, 5], [7, 10]]],
        scribbles=[[[4, 4], [20, 20], [50, 30]]],
        scribble_signs=[False],
        masks=RLE.from_bitmaps(masks),
        texts=["a small one", "another"],
    )


def test_objects_keep_their_numbers_in_a_window():
    window = several().crop((30, 10, 60, 40))
    assert len(window) == 2 and window.image_size == (30, 30)
    assert window.points.tolist() == [[15, 15], [29, 29]] and window.point_objects.tolist() == [1, 0]
    assert window.signs.tolist() == [True, False]
    assert window.boxes.tolist() == [[10, 10, 20, 20]] and window.box_objects.tolist() == [1]
    assert window.masks.boxes().tolist() == [[10, 10, 20, 20]] and window.mask_objects.tolist() == [1]
    assert window.scribbles[0].tolist() == [[20, 20]] and not window.scribble_signs[0]
    assert len(window.extremes) == 0 and window.texts == several().texts
    nothing = Prompts(SIZE, points=[[6, 6]]).crop((30, 10, 60, 40))
    assert len(nothing) == 1 and len(nothing.points) == 0, "a tile without a click is no mistake"
    assert repr(nothing) == "Prompts(1 object on 30 x 30: none)"


def test_extreme_points_stay_those_of_what_is_seen():
    assert several().crop((7, 0, 40, 40)).extremes.tolist() == [[[0, 7], [3, 7], [0, 5], [0, 10]]]


def test_everything_moves_together():
    large = several().resize((80, 180))
    assert large.points[1].tolist() == [135, 50] and large.boxes[1].tolist() == [120, 40, 150, 60]
    assert large.masks.boxes()[1].tolist() == [120, 40, 150, 60] and large.extremes[0, 1].tolist() == [30, 14]
    mirrored = several().flip()
    assert mirrored.points[0].tolist() == [54, 6] and mirrored.boxes[0].tolist() == [50, 5, 55, 10]
    assert mirrored.masks.boxes()[0].tolist() == [50, 5, 55, 10]
    edge = Prompts(SIZE, points=[[0, 0]]).flip()
    assert edge.points.tolist() == [[60, 0]], "a click on the very border stays one"


def test_a_map_moves_centers_of_pixels_to_centers_of_pixels():
    """A quarter turn about the first pixel, then three pixels to the right: row r goes to column 3 + r."""
    turned = Prompts(SIZE, points=[[0.5, 2.5], [4.5, 0.5]]).warp(np.array([[0.0, 1, 3], [1, 0, 0]]), (60, 40))
    assert turned.points.tolist() == [[5.5, 0.5], [3.5, 4.5]]


def test_one_object_of_several():
    one = several().of(0)
    assert len(one) == 1 and one.points.tolist() == [[6, 6], [59, 39]] and one.texts == ("a small one",)
    assert len(one.scribbles) == 1 and len(several().of(1).scribbles) == 0
    assert several().of(1).masks.boxes().tolist() == [[40, 20, 50, 30]]
    assert torch.equal(one.boxes, several().boxes[:1])
