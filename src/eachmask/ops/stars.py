"""Star-convex objects: how far an object reaches from each of its pixels, and suppression among such polygons.

Schmidt, Weigert, Broaddus, Myers: "Cell Detection with Star-convex Polygons", MICCAI 2018, arXiv 1806.03535. Distances,
probabilities and suppression equal those of the package ``stardist``.

Ray k of R has the angle 2 pi k / R: ray 0 runs towards larger columns, ray R / 4 towards larger rows.

Shapes: (H, W) the image, N candidates, R rays.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage


def star_distances(ids: np.ndarray, rays: int = 32, grid: int = 1) -> np.ndarray:
    """Distance from every pixel to the end of its object, along each ray.

    A ray walks in steps of 1 px until it comes to a pixel of another number or leaves the image, and is then taken
    back to about the edge between the last two pixels.

    Args:
        ids: (H, W) integers, 0 is background.
        grid: only every so many rows and columns are wanted.

    Returns:
        (ceil(H / grid), ceil(W / grid), R) float32 px, 0 on background.

    >>> ids = np.zeros((9, 9), int)
    >>> ids[2:7, 2:7] = 1
    >>> star_distances(ids, rays=4)[4, 4].tolist()
    [2.5, 2.5, 2.5, 2.5]
    """
    height, width = ids.shape
    seen = ids[::grid, ::grid]
    rows, columns = (np.arange(0, side, grid, dtype=np.float32) for side in ids.shape)
    row, column = np.nonzero(seen)
    result = np.zeros((*seen.shape, rays), np.float32)
    step = np.float32(2 * np.pi / rays)
    for k in range(rays):
        dx, dy = np.cos(np.float32(k) * step), np.sin(np.float32(k) * step)
        back = np.float32(1) - np.float32(0.5) / max(abs(dx), abs(dy))
        r, c, x, y = row, column, np.float32(0), np.float32(0)
        while len(r):
            x, y = x + dx, y + dy
            to_row, to_column = _rounded(rows + y), _rounded(columns + x)
            inside_rows, inside_columns = (to_row >= 0) & (to_row < height), (to_column >= 0) & (to_column < width)
            goes_on = inside_rows[r] & inside_columns[c]
            goes_on[goes_on] = ids[to_row[r[goes_on]], to_column[c[goes_on]]] == seen[r[goes_on], c[goes_on]]
            result[r[~goes_on], c[~goes_on], k] = np.hypot(x - back * dx, y - back * dy)
            r, c = r[goes_on], c[goes_on]
    return result


def _rounded(values: np.ndarray) -> np.ndarray:
    """To the nearest whole number, halves to the even one: 6, 12, 24 ... rays have a step of exactly half a pixel."""
    result: np.ndarray = np.rint(values).astype(np.int64)
    return result


def object_probability(ids: np.ndarray) -> np.ndarray:
    """(H, W) float32: the distance to what is not the object, divided by the largest within it; 0 on background.

    Other objects count as background, the image's border does not (but where one object fills all of the image).

    >>> object_probability(np.array([[0, 1, 1, 1, 0]])).round(1).tolist()
    [[0.0, 0.5, 1.0, 0.5, 0.0]]
    """
    if ids.size and ids.flat[0] > 0 and (ids == ids.flat[0]).all():
        padded: np.ndarray = object_probability(np.pad(ids, 1))[1:-1, 1:-1]
        return padded
    result = np.zeros(ids.shape, np.float32)
    for number, box in enumerate(ndimage.find_objects(ids), start=1):
        if box is None:
            continue
        wide = tuple(slice(max(side.start - 1, 0), side.stop + 1) for side in box)
        inside = ids[wide] == number
        distance = ndimage.distance_transform_edt(inside)
        result[wide][inside] = distance[inside] / (distance.max() + 1e-10)
    return result


def candidates(probability: np.ndarray, threshold: float, border: int = 2) -> np.ndarray:
    """(N, 2) rows and columns of cells above the threshold and away from the border, best first.

    >>> candidates(np.array([[0.9, 0.2, 0.7]]), threshold=0.5, border=0).tolist()
    [[0, 0], [0, 2]]
    """
    height, width = probability.shape[:2]
    inner = np.zeros((height, width), bool)
    inner[border : height - border, border : width - border] = True
    found = np.argwhere((probability > threshold) & inner)
    best_first: np.ndarray = found[np.argsort(-probability[found[:, 0], found[:, 1]], kind="stable")]
    return best_first


def corners(points: np.ndarray, distances: np.ndarray) -> np.ndarray:
    """(N, 2, R) rows and columns of the ends of the rays, px.

    Args:
        points: (N, 2) rows and columns, px; distances: (N, R) px.

    >>> corners(np.array([[5.0, 5.0]]), np.full((1, 4), 2.0)).round().tolist()
    [[[5.0, 7.0, 5.0, 3.0], [7.0, 5.0, 3.0, 5.0]]]
    """
    angles = np.linspace(0, 2 * np.pi, distances.shape[1], endpoint=False)
    ends = np.stack([distances * np.sin(angles), distances * np.cos(angles)], axis=1)
    result: np.ndarray = (ends + points[:, :, None]).astype(np.float32)
    return result


def suppress(points: np.ndarray, distances: np.ndarray, threshold: float) -> np.ndarray:
    """Greedy suppression: a polygon goes where a better one covers too much of the smaller of the two.

    Vertices are cut to whole numbers first (:func:`common_area`). Vertices and shares are single-precision numbers as
    in the package: one that falls on a whole number may be cut to the one below it.

    Args:
        points: (N, 2) rows and columns, px, best first; distances: (N, R) px.
        threshold: largest ``common area / smaller area`` that both survive.

    Returns:
        (K,) positions of those that are left, best first.

    >>> points = np.array([[10.0, 10.0], [10.0, 11.0], [40.0, 40.0]])  # best first
    >>> suppress(points, np.full((3, 8), 5.0), threshold=0.5).tolist()
    [0, 2]
    """
    polygons = _whole_vertices(points, distances)
    if not len(polygons):
        return np.zeros(0, np.int64)
    areas = polygon_areas(polygons)
    low, high = polygons.min(2), polygons.max(2)
    left = np.ones(len(polygons), bool)
    kept = []
    for i in range(len(polygons)):
        if not left[i]:
            continue
        kept.append(i)
        near = left & (low < high[i]).all(1) & (high > low[i]).all(1)
        near[: i + 1] = False
        for other in np.flatnonzero(near):
            smaller = max(min(areas[other], areas[i]), 1e-10)
            share = common_area(polygons[i], polygons[other]) / smaller
            left[other] = np.float32(share) <= np.float32(threshold)
    return np.array(kept, np.int64)


def _whole_vertices(points: np.ndarray, distances: np.ndarray) -> np.ndarray:
    """(N, 2, R) float64 without fractions."""
    distances = distances.astype(np.float32)
    angles = np.arange(distances.shape[1], dtype=np.float32) * np.float32(2 * np.pi / distances.shape[1])
    ends = np.stack([distances * np.sin(angles), distances * np.cos(angles)], axis=1)
    result: np.ndarray = np.trunc(points[:, :, None].astype(np.float32) + ends).astype(np.float64)
    return result


def polygon_areas(polygons: np.ndarray) -> np.ndarray:
    """(N, 2, R) vertices -> (N,) areas (shoelace formula).

    >>> polygon_areas(np.array([[[0.0, 0.0, 2.0, 2.0], [0.0, 3.0, 3.0, 0.0]]])).tolist()
    [6.0]
    """
    y, x = polygons[:, 0], polygons[:, 1]
    result: np.ndarray = np.abs((x * np.roll(y, -1, 1) - np.roll(x, -1, 1) * y).sum(1)) / 2
    return result


def common_area(polygon: np.ndarray, other: np.ndarray) -> float:
    """Area of the intersection of two polygons (2, R) and (2, S) of whole coordinates.

    The corners of the intersection are rounded to whole pixels and a polygon that crosses itself is filled, as the
    library Clipper does it for the package ``stardist``.

    >>> square = np.array([[0, 0, 2, 2], [0, 2, 2, 0]])
    >>> common_area(square, square + 1)
    1.0
    """
    import pyclipper

    clipper = pyclipper.Pyclipper()  # takes columns first; which way corners are rounded depends on it
    try:
        clipper.AddPath(polygon[::-1].T.astype(np.int64).tolist(), pyclipper.PT_SUBJECT, True)
        clipper.AddPath(other[::-1].T.astype(np.int64).tolist(), pyclipper.PT_CLIP, True)
    except pyclipper.ClipperException:  # one of them has no area
        return 0.0
    found = clipper.Execute(pyclipper.CT_INTERSECTION, pyclipper.PFT_NONZERO, pyclipper.PFT_NONZERO)
    return float(sum(pyclipper.Area(path) for path in found))


def paint_stars(points: np.ndarray, distances: np.ndarray, scores: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(H, W) int32: i + 1 where the i-th polygon is, better ones on top.

    Args:
        points: (N, 2) px; distances: (N, R) px; scores: (N,).

    >>> np.bincount(paint_stars(np.array([[4.0, 4.0]]), np.full((1, 4), 2.0), np.array([0.9]), (9, 9)).ravel()).tolist()
    [68, 13]
    """
    from skimage.draw import polygon

    result = np.zeros(size, np.int32)
    ends = corners(points, distances)
    for i in np.argsort(scores, kind="stable"):
        rows, columns = polygon(ends[i, 0], ends[i, 1], size)  # type: ignore[no-untyped-call]
        result[rows, columns] = i + 1
    return result
