from __future__ import annotations

import numpy as np
import pytest

from eachmask.ops.regions import boundary_of, largest_regions, region_borders, superpixels


def ridge() -> np.ndarray:
    """A column of strength 1 between two plains."""
    strength = np.zeros((12, 21))
    strength[:, 10] = 1
    return strength


def test_basins_end_at_ridges():
    regions = superpixels(ridge())
    assert regions.min() == 1 and regions.max() == 2
    assert len(np.unique(regions[:, :10])) == len(np.unique(regions[:, 11:])) == 1


def test_every_pixel_of_the_mask_belongs_to_a_region_and_no_other():
    rng = np.random.default_rng(0)
    mask = rng.random((30, 40)) < 0.4
    regions = superpixels(rng.random((30, 40)), mask)
    assert ((regions > 0) == mask).all()
    assert set(np.unique(regions)) == set(range(regions.max() + 1))


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (5, 5)])
def test_a_plain_is_one_region(shape):
    assert (superpixels(np.zeros(shape)) == 1).all()


def test_smoothing_grows_while_there_are_too_many():
    noise = np.random.default_rng(0).random((60, 60))
    assert superpixels(noise, sigma=0.5, max_regions=60).max() <= 60 < superpixels(noise, sigma=0.5).max()


def test_borders_have_length_and_mean_strength():
    regions = np.array([[1, 1, 2], [1, 3, 2], [0, 3, 3]])
    strength = np.array([[0, 0.2, 0.4], [0, 0, 1.0], [1, 0, 0]])
    borders = region_borders(regions, strength)
    assert borders.edges.tolist() == [[0, 1], [0, 2], [1, 2]]
    assert borders.lengths.tolist() == [1, 2, 2]
    assert borders.strengths.tolist() == pytest.approx([0.4, (0 + 0.2) / 2, 1.0])


def test_regions_that_do_not_touch_have_no_border():
    borders = region_borders(np.array([[1, 0, 2]]), np.zeros((1, 3)))
    assert borders.edges.shape == (0, 2) and len(borders.strengths) == len(borders.lengths) == 0


def test_the_border_of_an_object_is_its_own_pixels_and_not_the_images_rim():
    ids = np.array([[1, 1, 2, 2], [1, 1, 2, 2], [1, 1, 0, 0]])
    assert boundary_of(ids).astype(int).tolist() == [[0, 1, 1, 0], [0, 1, 1, 1], [0, 1, 0, 0]]


def test_specks_join_what_is_around_them():
    rng = np.random.default_rng(0)
    mask = rng.random((60, 80)) < 0.3
    mask[:, :30] = True
    strength = rng.random((60, 80))
    specks = superpixels(strength, mask, max_regions=20)
    specks[~mask] = superpixels(strength, ~mask, max_regions=20)[~mask] + specks.max()
    assert specks.max() > 100, "each part of the mask is a region at least"
    few = largest_regions(specks, strength, 40)
    assert set(np.unique(few)) == set(range(1, 41))
    area = np.bincount(specks.ravel())
    for number in np.argsort(-area)[:5]:
        assert len(np.unique(few[specks == number])) == 1, "the largest stay whole"
    assert largest_regions(few, strength, 40) is few
