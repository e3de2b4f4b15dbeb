"""Joining looks: by hand on boxes and masks, and its promises on random ones."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from eachmask.ops.looks import WITNESS, join_looks
from eachmask.structures import RLE, Instances

SIZE = (40, 60)


def look(*objects: tuple[tuple[int, int, int, int], float], label: int = 0, masks: bool = True) -> Instances:
    """Rectangles (x1, y1, x2, y2) and their scores."""
    bitmaps = np.zeros((len(objects), *SIZE), bool)
    for bitmap, ((x1, y1, x2, y2), _) in zip(bitmaps, objects, strict=True):
        bitmap[y1:y2, x1:x2] = True
    rle = RLE.from_bitmaps(bitmaps)
    return Instances(
        SIZE,
        boxes=torch.from_numpy(rle.boxes()),
        labels=torch.full((len(objects),), label),
        scores=torch.tensor([score for _, score in objects]),
        masks=rle if masks else None,
    )


def random_look(seed: int) -> Instances:
    rng = np.random.default_rng(seed)
    corners = rng.integers(0, 30, (12, 2))
    found = look(*(((x, y, x + w, y + h), float(s)) for (x, y), (w, h), s in zip(
        corners, rng.integers(4, 30, (12, 2)), np.sort(rng.random(12))[::-1], strict=True)))  # fmt: skip
    found.labels = torch.from_numpy(rng.integers(0, 2, 12))
    return found


WHOLE, LEFT, OTHER = (0, 0, 40, 40), (0, 0, 18, 40), (44, 0, 60, 20)


@pytest.mark.parametrize("masks", [True, False])
def test_what_two_looks_see_is_surer_than_what_one_sees(masks: bool) -> None:
    found = join_looks([look((WHOLE, 0.5), masks=masks), look((WHOLE, 0.5), (OTHER, 0.5), masks=masks)], 0, None)
    first, alone, again = found.scores.tolist()
    assert first == pytest.approx(0.5) and alone == pytest.approx(0.3)
    assert again == pytest.approx(0.5 * 0.5 * math.exp(-1))  # Matrix NMS at an IoU of 1, then a repeat
    assert found.boxes[1].tolist() == list(OTHER)
    assert (found.masks is not None) == masks


def test_a_part_of_what_another_look_sees_whole_comes_later() -> None:
    found = join_looks([look((WHOLE, 0.8)), look((LEFT, 0.7))], 0, None)
    iou = 18 / 40
    assert found.boxes[0].tolist() == list(WHOLE)
    assert found.scores.tolist() == pytest.approx([0.6 * 0.8, 0.6 * 0.7 * math.exp(-(iou**2)) * 0.7], abs=1e-4)


def test_a_faint_object_confirms_nothing() -> None:
    faint = join_looks([look((WHOLE, 0.5)), look((WHOLE, WITNESS - 0.01))], 0, None)
    sure = join_looks([look((WHOLE, 0.5)), look((WHOLE, WITNESS + 0.01))], 0, None)
    assert float(faint.scores[0]) == pytest.approx(0.3) and float(sure.scores[0]) > 0.3


def test_objects_of_one_look_and_of_other_classes_do_not_meet() -> None:
    again = look((WHOLE, 0.5), (WHOLE, 0.4))
    assert join_looks([again, again[:0]], 0, None).scores.tolist() == pytest.approx([0.3, 0.24])
    found = join_looks([look((WHOLE, 0.5)), look((WHOLE, 0.4), label=1)], 0, None)
    assert found.scores.tolist() == pytest.approx([0.3, 0.24]) and found.labels.tolist() == [0, 1]


@pytest.mark.parametrize("seed", range(5))
def test_scores_do_not_rise_and_do_not_depend_on_what_is_asked_for(seed: int) -> None:
    looks = [random_look(2 * seed), random_look(2 * seed + 1)]
    every = join_looks(looks, 0, None)
    assert len(every) == 24 and bool((every.scores[:-1] >= every.scores[1:]).all())
    given = torch.cat([one.scores for one in looks])
    assert bool((every.scores.sort().values <= given.sort().values).all())
    least = 0.3
    shown = join_looks([one.filter(score=WITNESS) for one in looks], least, None)
    expected = every.filter(score=least)
    assert shown.boxes.tolist() == expected.boxes.tolist()
    assert shown.scores.tolist() == pytest.approx(expected.scores.tolist())
    assert shown.masks.area().tolist() == expected.masks.area().tolist()
    assert join_looks(looks, 0, 3).boxes.tolist() == every.boxes[:3].tolist()


def test_no_object_in_any_look() -> None:
    none = look()
    assert len(join_looks([none, none], 0, None)) == 0
