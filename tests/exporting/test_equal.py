"""What the matrix calls equal: it sees whatever is decided, and does not count what rounding decides."""

from __future__ import annotations

import pytest
import torch
from exporting import equal

from eachmask.structures import Instances, RoIMasks


def one_object(changed: dict[tuple[int, int], float]) -> Instances:
    """A square of 8 x 8 px in a grid of as many cells, of which some have another probability than 0.9."""
    grid = torch.full((1, 10, 10), 0.1)
    grid[:, 1:9, 1:9] = 0.9
    for (y, x), value in changed.items():
        grid[0, y, x] = value
    boxes = torch.tensor([[0.0, 0, 10, 10]])
    return Instances((10, 10), boxes, RoIMasks(grid, boxes, (10, 10)), scores=torch.tensor([0.5]))


def test_pixels_at_the_threshold_do_not_count() -> None:
    a, b = one_object({(1, 1): 0.5001, (1, 2): 0.4999}), one_object({(1, 1): 0.4999, (1, 2): 0.5001})
    assert a.masks is not None and b.masks is not None and float(a.masks.iou(b.masks)[0, 0]) < 0.99
    equal.check(a, b)


@pytest.mark.parametrize("value", [0.4, 0.502, 0.898])
def test_whatever_else_differs_does(value: float) -> None:
    with pytest.raises(AssertionError):
        equal.check(one_object({}), one_object({(4, 4): value}))
    with pytest.raises(AssertionError):
        equal.check(one_object({(1, 1): 0.4985}), one_object({(1, 1): value}))


def test_masks_that_are_undecided_as_a_whole_are_not_equal_for_that() -> None:
    cells = [(y, x) for y in range(1, 9) for x in range(1, 9)]
    a, b = (one_object({cell: value for cell in cells}) for value in (0.5001, 0.4999))
    with pytest.raises(AssertionError):
        equal.check(a, b)


def test_a_pixel_that_is_sure_counts_in_a_mask_without_probabilities() -> None:
    a, b = one_object({}), one_object({(1, 1): 0.1})
    assert a.masks is not None and b.masks is not None
    assert equal.decided_iou(a.masks.to_rle(), b.masks.to_rle()) == pytest.approx(63 / 64)


def two_objects(scores: tuple[float, float], turned: bool = False) -> Instances:
    boxes = torch.tensor([[0.0, 0, 10, 10], [0.0, 0, 10, 4]])
    order = [1, 0] if turned else [0, 1]
    masks = RoIMasks(torch.full((2, 10, 10), 0.9), boxes[order], (10, 10))
    return Instances((10, 10), boxes[order], masks, scores=torch.tensor(scores))


def test_only_objects_of_equal_scores_come_in_any_order() -> None:
    equal.check(two_objects((0.5, 0.4999)), two_objects((0.5, 0.4999), turned=True))
    with pytest.raises(AssertionError):
        equal.check(two_objects((0.5, 0.4)), two_objects((0.5, 0.4), turned=True))


def boxes_alone(*scores: float, turned: bool = False) -> Instances:
    boxes = torch.tensor([[0.0, 0, 10, 10], [0.0, 0, 10, 4]])
    return Instances((10, 10), boxes.flip(0) if turned else boxes, scores=torch.tensor(scores))


def test_boxes_of_equal_scores_come_in_any_order() -> None:
    equal.check(boxes_alone(0.5, 0.4999), boxes_alone(0.5, 0.4999, turned=True))
    with pytest.raises(AssertionError):
        equal.check(boxes_alone(0.5, 0.4), boxes_alone(0.5, 0.4, turned=True))


@pytest.mark.parametrize(("number", "equals"), [(100, True), (101, False)])
def test_points_of_equal_doubt(number: int, equals: bool) -> None:
    """Of a million probabilities."""
    grid = torch.full((1, 1000, 1000), 0.9)
    other = grid.clone()
    other[0, 0, :number] = 0.92
    box = torch.tensor([[0.0, 0, 1000, 1000]])
    a, b = (Instances((1000, 1000), box, RoIMasks(one, box, (1000, 1000))) for one in (grid, other))
    if equals:
        equal.check(a, b)
    else:
        with pytest.raises(AssertionError, match="101 of 1000000"):
            equal.check(a, b)


def in_box(right: float) -> Instances:
    box = torch.tensor([[0.0, 0, right, 20]])
    return Instances((20, 20), box, RoIMasks(torch.full((1, 14, 14), 0.9), box, (20, 20)), scores=torch.tensor([0.5]))


def test_boxes_are_compared_as_numbers() -> None:
    narrow, wide = in_box(15.561), in_box(15.563)
    assert narrow.masks is not None and wide.masks is not None and wide.masks.area() - narrow.masks.area() == 18
    equal.check(narrow, wide)
    with pytest.raises(AssertionError, match="not close"):
        equal.check(in_box(15.5), in_box(15.61))
