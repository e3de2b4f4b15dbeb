from __future__ import annotations

import numpy as np
import pytest

from eachmask import UserError
from eachmask.ops.linking import link
from eachmask.structures import RLE


def page(*places: tuple[int, int], side: int = 10) -> RLE:
    """Squares with these upper left corners (x, y)."""
    bitmaps = np.zeros((len(places), 60, 80), bool)
    for bitmap, (x, y) in zip(bitmaps, places, strict=True):
        bitmap[y : y + side, x : x + side] = True
    return RLE.from_bitmaps(bitmaps) if places else RLE.empty((60, 80))


def numbers(pages: list[RLE], **options: float) -> list[list[int]]:
    return [own.tolist() for own in link(pages, **options)]


def test_what_overlaps_is_one_whatever_its_place_in_the_list():
    pages = [page((5, 5), (40, 30)), page((42, 31), (6, 7)), page((7, 9), (44, 30), (60, 5))]
    assert numbers(pages) == [[1, 2], [2, 1], [1, 2, 3]]


def test_the_largest_overlap_wins_and_nothing_is_linked_twice():
    assert numbers([page((10, 10)), page((14, 10), (11, 10))]) == [[1], [2, 1]]
    assert numbers([page((10, 10), (16, 10)), page((15, 10))]) == [[1, 2], [2]]


def test_little_overlap_is_none_but_a_distance_may_link():
    pages = [page((5, 5)), page((14, 5)), page((30, 5))]
    assert numbers(pages) == [[1], [2], [3]]
    assert numbers(pages, max_distance=10) == [[1], [1], [2]]
    assert numbers(pages, max_distance=16) == [[1], [1], [1]]


def test_objects_may_be_missing_for_some_pages():
    pages = [page((5, 5)), page(), page(), page((6, 5))]
    assert numbers(pages, max_gap=1) == [[1], [], [], [2]]
    assert numbers(pages, max_gap=2) == [[1], [], [], [1]]


def test_what_was_seen_last_comes_first():
    pages = [page((10, 10)), page((40, 40)), page((10, 10), (40, 40)), page((12, 10))]
    assert numbers(pages, max_gap=1) == [[1], [2], [1, 2], [1]]


def test_pages_of_different_sizes_are_refused():
    with pytest.raises(UserError, match="page 2 is 30 x 20"):
        link([page((5, 5)), RLE.empty((20, 30))])
