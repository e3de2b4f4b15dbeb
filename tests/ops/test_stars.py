from __future__ import annotations

import numpy as np
import pytest

from eachmask.ops import stars
from eachmask.ops.stars import common_area, object_probability, paint_stars, polygon_areas, star_distances, suppress


def star(rng: np.random.Generator, rays: int = 24) -> np.ndarray:
    """A polygon of whole coordinates around (50, 50)."""
    angles = np.linspace(0, 2 * np.pi, rays, endpoint=False)
    reach = rng.uniform(5, 40, rays)
    return np.stack([50 + reach * np.sin(angles), 50 + reach * np.cos(angles)])


def test_common_areas_are_those_of_finely_drawn_polygons():
    from skimage.draw import polygon

    rng = np.random.default_rng(0)
    one, *others = (np.round(20 * (star(rng) + rng.uniform(-10, 10, (2, 1)))) for _ in range(7))
    canvas = np.zeros((2400, 2400), bool)
    canvas[polygon(*one, canvas.shape)] = True
    for other in others:
        second = np.zeros_like(canvas)
        second[polygon(*other, canvas.shape)] = True
        area = common_area(one, other)
        assert area == pytest.approx((canvas & second).sum(), rel=5e-3)
        assert area == pytest.approx(common_area(one, other[:, ::-1]), rel=1e-3), "whatever the vertices' direction"
    assert common_area(one, one) == polygon_areas(one[None])[0]
    assert common_area(one, one + np.array([[9000], [0]])) == 0


def test_corners_of_an_intersection_are_whole():
    """The sides cross at (2.5, 2.5), with which the area were 6.25; the package stardist takes (3, 3)."""
    assert common_area(np.array([[0, 0, 5], [0, 5, 0]]), np.array([[0, 0, 5], [0, 5, 5]])) == 7.5


def test_what_has_no_area_has_none_in_common():
    assert common_area(np.zeros((2, 4)), np.array([[0, 0, 2, 2], [0, 2, 2, 0]])) == 0


def test_distances_in_a_square():
    ids = np.zeros((21, 21), np.int32)
    ids[5:16, 5:16] = 3
    found = star_distances(ids, rays=4)
    assert found[10, 10].tolist() == [5.5] * 4 and found[5, 10].tolist() == [5.5, 10.5, 5.5, 0.5]
    assert not found[0].any() and np.array_equal(star_distances(ids, 4, grid=2), found[::2, ::2])


def test_half_pixels_of_sixty_degrees_go_to_the_even_pixel():
    """Six rays: at 60 degrees a step is exactly half a pixel wide. The values are those of the package ``stardist``."""
    ids = np.zeros((14, 14), int)
    ids[2:7, 2:7] = 1
    assert np.allclose(star_distances(ids, rays=6)[2, 4:7, 1], [5.577350, 3.577350, 1.577350], atol=1e-5)


def test_another_object_ends_a_ray_and_counts_as_background():
    ids = np.ones((9, 12), np.int32)
    ids[:, 6:] = 2
    assert star_distances(ids, 4)[4, 5].tolist() == [0.5, 4.5, 5.5, 4.5]
    probability = object_probability(ids)
    assert probability[4, 5] == pytest.approx(1 / 6) and probability[4, 0] == pytest.approx(1)
    assert object_probability(np.ones((5, 5), np.int32))[2, 2] == pytest.approx(1)


def test_discs_of_one_object_are_one():
    points = np.array([[20, 20], [21, 21], [20, 60], [22, 20], [20, 62]])
    distances = np.full((5, 32), 10.0)
    assert suppress(points, distances, 0.5).tolist() == [0, 2]
    assert suppress(points, distances, 1.0).tolist() == [0, 1, 2, 3, 4]
    assert suppress(points[:0], distances[:0], 0.5).tolist() == []


def test_a_small_polygon_within_a_large_one_goes():
    points = np.array([[50, 50], [50, 70]])
    assert suppress(points, np.array([[40.0] * 16, [5.0] * 16]), 0.4).tolist() == [0]


def test_better_ones_are_drawn_on_top():
    drawn = paint_stars(np.array([[10, 10], [10, 16]]), np.full((2, 32), 6.0), np.array([0.6, 0.9]), (20, 30))
    assert drawn[10, 14] == 2 and drawn[10, 6] == 1 and drawn[0, 0] == 0


def test_a_vertex_is_cut_as_single_precision_has_it():
    """The sine of pi is -9e-8 there: 20 px to the left of row 30 lies row 29.999998."""
    (rows, columns), *_ = stars._whole_vertices(np.array([[30, 30]]), np.full((1, 4), 20.0))
    assert rows.tolist() == [30, 50, 29, 10] and columns.tolist() == [50, 30, 10, 30]
