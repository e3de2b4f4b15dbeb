from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from eachmask.data.sample import Sample
from eachmask.data.samplers import repeat_factors
from eachmask.data.transforms.color import PhotoLight
from eachmask.data.transforms.crop import Flip, LargeScaleJitter, cut, padded
from eachmask.data.transforms.mix import CopyPaste, Mosaic, PhotoMix
from eachmask.data.transforms.objects import MIN_AREA
from eachmask.structures import RLE, Category, Instances, Prompts, SemanticMap

SIZE = (40, 60)


def sample(seed: int = 0, labels: tuple[int, ...] = (0, 1), size: tuple[int, int] = SIZE) -> Sample:
    """A gray image in which every object's pixels have a brightness of their own; the two objects overlap."""
    height, width = size
    bitmaps = np.zeros((2, height, width), bool)
    bitmaps[0, 8:24, 10:30] = True
    bitmaps[1, 16:36, 20:50] = True
    image = np.full((height, width, 3), 0.1 * seed, np.float32)
    image[bitmaps[1]] = 0.9
    image[bitmaps[0]] = 0.6
    masks = RLE.from_bitmaps(bitmaps)
    targets = Instances(image_size=size, boxes=torch.from_numpy(masks.boxes()), masks=masks,
                        labels=torch.tensor(labels), crowd=torch.tensor([False, False]))  # fmt: skip
    return Sample(image, targets, Path(f"{seed}.png"), seed)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_a_window_without_scaling_is_the_image_itself():
    whole = sample()
    window = cut(whole, SIZE, (5, 7, 45, 39))
    assert np.array_equal(window.image, whole.image[7:39, 5:45])
    assert np.array_equal(window.targets.masks.decode(), whole.targets.masks.decode()[:, 7:39, 5:45])
    assert window.targets.boxes[0].tolist() == [5, 1, 25, 17] and window.targets.image_size == (32, 40)


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_image_and_masks_stay_together_when_scaled(factor):
    scaled = (round(SIZE[0] * factor), round(SIZE[1] * factor))
    window = cut(sample(), scaled, (0, 0, scaled[1], scaled[0]))
    first, second = window.targets.masks.decode()
    bright = np.abs(window.image[..., 0] - 0.6) < 0.05
    edge = 72 * factor * 1.1  # one pixel all around
    assert (bright ^ first).sum() < edge, "the first object lies on top, so all of it is seen"
    assert (window.image[second & ~first][:, 0] > 0.55).mean() > 0.9
    assert window.targets.masks.area()[0] == pytest.approx(16 * 20 * factor**2, rel=0.1)


def test_padding_is_at_the_right_and_the_bottom():
    whole = padded(sample(), (64, 64))
    assert whole.image.shape == (64, 64, 3) and np.array_equal(whole.image[:40, :60], sample().image)
    assert (whole.image[40:] == 0.5).all() and (whole.image[:, 60:] == 0.5).all()
    assert whole.targets.image_size == whole.targets.masks.size == (64, 64)
    assert np.array_equal(whole.targets.masks.area(), sample().targets.masks.area())
    gray = padded(replace(sample(), image=(sample().image * 255).astype(np.uint8)), (64, 64))
    assert (gray.image[40:] == 127).all()


def test_jitter_gives_the_window_and_the_same_one_from_the_same_chance():
    jitter = LargeScaleJitter(size=(48, 80), scale=(0.3, 2.5), aspect=0.3)
    areas, full = [], set()
    for seed in range(30):
        once, again = (jitter(sample(), rng(seed)) for _ in range(2))
        height, width = once.targets.image_size
        assert once.image.shape == (height, width, 3) and height <= 48 and width <= 80
        assert once.canvas == (48, 80)
        full.add((height == 48, width == 80))
        assert np.array_equal(once.image, again.image) and torch.equal(once.targets.boxes, again.targets.boxes)
        tight = torch.from_numpy(once.targets.masks.boxes())
        assert torch.equal(once.targets.boxes, tight) and len(once.targets) <= 2
        areas += once.targets.masks.area().tolist()
    assert min(areas) < 100 and max(areas) > 1500, "small and large"
    assert {(True, True), (False, False)} <= full


def test_an_object_of_which_next_to_nothing_is_left_is_ignored():
    window = cut(sample(), SIZE, (29, 0, 60, 17))
    assert window.targets.masks.area().tolist() == [9, 21] and MIN_AREA == 16
    assert window.targets.crowd.tolist() == [True, False]


def test_flip_mirrors_pixels_masks_boxes_and_names():
    points = torch.tensor([[[10.5, 20.5, 2.0], [30.5, 8.5, 2.0]]] * 2)
    whole = sample()
    whole = replace(whole, targets=replace(whole.targets, keypoints=points))
    mirrored = Flip(1.0, ((0, 1),))(whole, rng())
    assert np.array_equal(mirrored.image, whole.image[:, ::-1])
    assert np.array_equal(mirrored.targets.masks.decode(), whole.targets.masks.decode()[:, :, ::-1])
    assert mirrored.targets.keypoints[0, :, 0].tolist() == [60 - 30.5, 60 - 10.5], "left became right"
    assert Flip(0.0)(whole, rng()) is whole


def test_pasted_objects_cover_what_was_there():
    below, above = sample(0), sample(5)
    shifted = above.targets.masks.shift(-6, 0, SIZE)
    above = replace(above, targets=replace(above.targets, masks=shifted).with_boxes_from_masks())
    mixed = CopyPaste(chance=1.0, blur=0)(below, rng(1), lambda: above)
    targets = mixed.targets
    masks = targets.masks.decode()
    pasted = masks[-1]
    assert len(targets) >= 3 and not (masks[:2] & pasted).any(), "what is covered is no longer the object's"
    assert np.array_equal(mixed.image[pasted], above.image[pasted])
    assert np.array_equal(mixed.image[~masks[2:].any(0)], below.image[~masks[2:].any(0)])
    assert torch.equal(targets.boxes, torch.from_numpy(targets.masks.boxes()))


def test_samples_of_different_sizes_are_mixed_on_the_larger_canvas():
    small = cut(sample(5), SIZE, (0, 0, 40, 30))
    for below, above in ((sample(0), small), (small, sample(0))):
        mixed = CopyPaste(chance=1.0)(below, rng(1), lambda above=above: above)
        assert mixed.image.shape == (*SIZE, 3) and mixed.targets.masks.size == mixed.targets.image_size == SIZE
    parts = iter([small, small, small])
    mixed = Mosaic(chance=1.0)(replace(small, canvas=(48, 64)), rng(), lambda: next(parts))
    assert mixed.image.shape == (48, 64, 3) and mixed.targets.image_size == (48, 64)


def test_crowds_are_not_pasted_and_what_is_covered_wholly_is_gone():
    crowd = sample(5)
    crowd = replace(crowd, targets=replace(crowd.targets, crowd=torch.tensor([True, True])))
    assert len(CopyPaste(chance=1.0)(sample(), rng(), lambda: crowd).targets) == 2
    everywhere = RLE.from_bitmaps(np.ones((1, *SIZE), bool))
    wall = replace(sample(5), targets=Instances(image_size=SIZE, boxes=torch.tensor([[0.0, 0, 60, 40]]),
                                                masks=everywhere, labels=torch.tensor([1])))  # fmt: skip
    assert len(CopyPaste(chance=1.0)(sample(), rng(), lambda: wall).targets) == 1


def test_a_mosaic_has_a_quarter_of_each():
    parts = iter([sample(2), sample(3), sample(4)])
    mixed = Mosaic(chance=1.0, reach=0.0)(sample(1), rng(), lambda: next(parts))
    assert mixed.image.shape == (*SIZE, 3)
    for value, corner in zip((0.1, 0.2, 0.3, 0.4), ((0, 0), (0, -1), (-1, 0), (-1, -1)), strict=True):
        assert mixed.image[corner][0] == pytest.approx(value)
    masks = mixed.targets.masks.decode()
    assert (masks[:, :20, :30].any((1, 2)) + masks[:, 20:, 30:].any((1, 2)) <= 1).all(), "nobody crosses the center"
    assert masks.any(0).sum() == sample().targets.masks.union().area()[0], "each quarter shows its own part"


def test_light_keeps_the_range_and_the_masks():
    lights = [PhotoLight()(sample(), rng(seed)) for seed in range(20)]
    assert all(light.image.dtype == np.float32 and 0 <= light.image.min() <= light.image.max() <= 1 for light in lights)
    assert len({float(light.image.mean()) for light in lights}) == 20
    assert lights[0].targets is not None and np.array_equal(PhotoLight()(sample(), rng(3)).image, lights[3].image)
    assert np.allclose(PhotoLight(0, 0, 0, 0, 0)(sample(), rng()).image, sample().image)


def test_repeat_factors_are_the_papers():
    class Set:
        categories = (Category(1, "common"), Category(2, "rare"))

        def __len__(self):
            return 100

        def targets(self, index):
            return sample(labels=(0, 1) if index < 4 else (0, 0)).targets

        def __getitem__(self, index):
            raise AssertionError("images need not be read")

    weights = repeat_factors(Set(), threshold=0.16)
    assert weights[:4] == [2.0] * 4, "sqrt(0.16 / 0.04)"
    assert weights[4:] == [1.0] * 96


def test_maps_and_clicks_move_as_their_image_does():
    image = np.zeros((*SIZE, 3), np.float32)
    image[8:24, 10:30] = 1
    labels = torch.from_numpy((image[..., 0] > 0).astype(np.int64))
    click = Prompts(SIZE, points=torch.tensor([[12.5, 9.5]]))
    whole = Sample(image, SemanticMap(labels, (Category(1, "rest"), Category(2, "thing"))), given=click)
    for changed in (
        cut(whole, SIZE, (5, 7, 45, 39)),
        Flip(1.0, ((0, 1),))(whole, rng()),
        padded(whole, (64, 70)),
        LargeScaleJitter(size=(48, 80), scale=(1.0, 1.0))(whole, rng(3)),
    ):
        height, width = changed.image.shape[:2]
        assert changed.targets.image_size == changed.given.image_size == (height, width)
        bright, thing = changed.image[..., 0] > 0.6, changed.targets.labels.numpy() == 1
        assert (bright ^ thing).sum() <= 0.05 * thing.sum()
        x, y = changed.given.points[0].long().tolist()
        assert thing[y, x], "the click stays on the thing"


def test_a_mix_without_mosaic_is_the_pasting_alone():
    pasted = CopyPaste(chance=1.0)(sample(), rng(1), lambda: sample(5))
    assert np.array_equal(PhotoMix(0.0, CopyPaste(1.0))(sample(), rng(1), lambda: sample(5)).image, pasted.image)
    mosaic = PhotoMix(1.0, CopyPaste(0.0))(sample(1), rng(), lambda: sample(2))
    assert mosaic.image[0, 0, 0] == pytest.approx(0.1) and mosaic.image[-1, -1, 0] == pytest.approx(0.2)
