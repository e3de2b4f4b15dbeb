"""Where clicks fall, and prompts that are drawn for training."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from eachmask.ops.clicks import Click, depths, next_click, random_place
from eachmask.ops.prompt_sampling import PromptSampler, box_of, rough_box, rough_mask
from eachmask.structures import RLE, Instances


def square(size: tuple[int, int], x1: int, y1: int, x2: int, y2: int) -> np.ndarray:
    mask = np.zeros(size, bool)
    mask[y1:y2, x1:x2] = True
    return mask


def test_the_border_of_the_image_is_outside():
    depth = depths(np.ones((5, 7), bool))
    assert depth[0, 0] == 1 and depth[2, 3] == 3
    assert np.allclose(depth, depths(np.ones((5, 7), bool), exact=False), rtol=0.05)


def test_a_first_click_is_in_the_middle():
    click = next_click(square((20, 20), 4, 6, 11, 13), np.zeros((20, 20), bool))
    assert click == Click(True, 9, 7) and click.point == (7.5, 9.5)


def test_the_larger_mistake_is_clicked_and_no_place_twice():
    target, found = square((30, 30), 0, 0, 5, 5), square((30, 30), 10, 10, 21, 21)
    first = next_click(target, found)
    assert first == Click(False, 15, 15)
    assert next_click(target, found, [first]) != first


def test_of_equal_mistakes_the_click_is_negative():
    target, found = square((20, 20), 1, 1, 6, 6), square((20, 20), 11, 11, 16, 16)
    assert not next_click(target, found).positive


def test_what_does_not_count_is_not_clicked():
    labels = square((20, 20), 2, 2, 9, 9).astype(np.int8)
    labels[10:, 10:] = -1
    assert next_click(labels, square((20, 20), 10, 10, 20, 20)).positive


def test_random_places_lie_on_the_mask():
    mask, rng = square((30, 40), 5, 5, 20, 9), np.random.default_rng(0)
    for _ in range(50):
        x, y = random_place(mask, rng)
        assert mask[int(y), int(x)]
    with pytest.raises(ValueError, match="empty"):
        random_place(np.zeros((3, 3), bool), rng)


def test_rough_boxes_and_masks_resemble_the_object():
    mask, rng = square((60, 80), 20, 10, 60, 40), np.random.default_rng(0)
    for _ in range(30):
        box, drawn = rough_box(mask, rng, 0.1), rough_mask(mask, rng)
        assert np.abs(np.array(box) - box_of(mask)).max() <= 6
        assert (drawn & mask).sum() / (drawn | mask).sum() > 0.2


@pytest.mark.parametrize("seed", range(5))
def test_prompts_are_about_the_targets_in_their_order(seed):
    masks = np.stack([square((60, 80), 5, 5, 25, 25), square((60, 80), 40, 20, 70, 50), square((60, 80), 0, 50, 3, 53)])
    targets = Instances((60, 80), torch.from_numpy(RLE.from_bitmaps(masks).boxes()), RLE.from_bitmaps(masks))
    own, prompts = PromptSampler(most=2)(targets, np.random.default_rng(seed))
    assert len(own) == len(prompts) == 2  # the third has too few pixels
    bitmaps = own.gt_masks.to_rle().decode()
    for (x, y), sign, number in zip(prompts.points.tolist(), prompts.signs, prompts.point_objects, strict=True):
        assert bitmaps[int(number)][int(y), int(x)] == bool(sign)


def test_without_an_object_there_is_a_click_about_nothing():
    own, prompts = PromptSampler()(Instances.empty((20, 30)), np.random.default_rng(0))
    assert len(prompts) == len(own) == 1 and own.gt_masks.area().tolist() == [0]
