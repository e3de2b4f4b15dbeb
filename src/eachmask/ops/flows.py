"""Flows: heat spreads from the middle of every object; its gradient leads each pixel there.

Stringer, Wang, Michaelos, Pachitariu: "Cellpose: a generalist algorithm for cellular segmentation", Nature Methods
2021. Flows, positions and masks equal those of the package ``cellpose`` (version 4). Vectors are (y, x).

Shapes: (H, W) the image, K objects, P pixels that are followed.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage
from scipy.sparse import csr_array
from torch.nn import functional as F

PADDING = 20
"""Cells around the histogram of final positions."""
NEIGHBORS = ((0, 0), (-1, 0), (1, 0), (0, -1), (0, 1), (-1, -1), (-1, 1), (1, -1), (1, 1))
"""Rows and columns, in the order in which the package adds them up."""
FLOW_SCALE = 5.0
"""Networks predict flows of this length."""


def object_centers(ids: np.ndarray) -> np.ndarray:
    """(K, 2) rows and columns of the rounded mean pixel, or of the object's pixel that is nearest to it.

    Args:
        ids: (H, W) numbers 1..K without gaps, 0 is background.

    >>> object_centers(np.array([[1, 1, 1, 0, 2]])).tolist()
    [[0, 1], [0, 4]]
    """
    result = []
    for number, box in enumerate(ndimage.find_objects(ids), start=1):
        if box is None:
            continue
        inside = ids[box] == number
        ys, xs = np.nonzero(inside)
        y, x = int(np.rint(ys.mean())), int(np.rint(xs.mean()))
        if not inside[y, x]:
            nearest = ((ys - y) ** 2 + (xs - x) ** 2).argmin()
            y, x = int(ys[nearest]), int(xs[nearest])
        result.append((y + box[0].start, x + box[1].start))
    return np.array(result, np.int64).reshape(-1, 2)


def object_extents(ids: np.ndarray) -> np.ndarray:
    """(K,) height + width + 2 of every object's box, px; heat spreads for twice as many steps as the largest.

    >>> object_extents(np.array([[1, 1, 1, 0, 2]])).tolist()
    [6, 4]
    """
    boxes = [box for box in ndimage.find_objects(ids) if box is not None]
    return np.array([sum(side.stop - side.start for side in box) + 2 for box in boxes], np.int64)


def flows_of(ids: np.ndarray, steps: int | None = None) -> np.ndarray:
    """Unit vectors towards the middle of each pixel's object.

    Args:
        ids: (H, W) numbers of objects, 0 is background.
        steps: of the heat; None: twice the largest extent.

    Returns:
        (2, H, W) float32 (y, x), 0 on background.

    >>> flow = flows_of(np.array([[1, 1, 1, 0]]))
    >>> flow.shape, flow[1].tolist()  # x: to the right, nowhere, to the left; background
    ((2, 1, 4), [[1.0, 0.0, -1.0, -0.0]])
    """
    result = np.zeros((2, *ids.shape), np.float32)
    if not ids.any():
        return result
    padded = np.pad(ids, 1)
    steps = 2 * int(object_extents(padded).max()) if steps is None else steps
    centers = object_centers(padded)
    heat = _heat(padded, centers, steps)
    down = heat[2:, 1:-1] - heat[:-2, 1:-1]
    right = heat[1:-1, 2:] - heat[1:-1, :-2]
    flow = np.stack([down, right]) * (ids > 0)
    result[:] = flow / (1e-60 + np.sqrt((flow**2).sum(0)))
    return result


def _heat(ids: np.ndarray, centers: np.ndarray, steps: int) -> np.ndarray:
    """(H, W) float64: each step adds 1 at the centers, then every pixel takes a ninth of the sum of its neighborhood.

    The neighborhood is 3 x 3, and pixels of others count as 0. The border of the map must be background.
    """
    flat, width = np.ravel(ids), ids.shape[1]
    inside = np.flatnonzero(flat)
    around = inside[:, None] + np.array([dy * width + dx for dy, dx in NEIGHBORS])
    same = flat[around] == flat[inside, None]
    numbers = np.zeros(flat.size, np.int32)
    numbers[inside] = np.arange(len(inside))
    # A sparse matrix, since the steps are many: nothing is added up for pixels of other objects.
    rows = np.concatenate([[0], np.cumsum(same.sum(1))])
    sums = csr_array((np.ones(rows[-1]), numbers[around[same]], rows), shape=(len(inside), len(inside)))
    heat, sources = np.zeros(len(inside)), numbers[centers[:, 0] * width + centers[:, 1]]
    for _ in range(steps):
        heat[sources] += 1
        heat = sums @ heat / len(NEIGHBORS)
    result = np.zeros(flat.size)
    result[inside] = heat
    return result.reshape(ids.shape)


def follow(flow: np.ndarray, start: np.ndarray, steps: int = 200) -> np.ndarray:
    """Where pixels are led.

    Flows are sampled as in the package: positions are scaled by size - 1, but read as if pixels had corners.

    Args:
        flow: (2, H, W) px per step; start: (2, P) rows and columns.

    Returns:
        (2, P) float32 rows and columns.

    >>> to_the_right = np.stack([np.zeros((4, 4)), np.ones((4, 4))])
    >>> follow(to_the_right, np.array([[1], [0]]), steps=50).round().tolist()  # ends at the border
    [[1.0], [3.0]]
    """
    height, width = flow.shape[1:]
    if not start.shape[1]:
        return np.zeros((2, 0), np.float32)
    scale = torch.tensor([max(width - 1, 1), max(height - 1, 1)], dtype=torch.float32)
    field = torch.from_numpy(np.ascontiguousarray(flow[::-1], np.float32))[None]
    field = field * (2 / scale).view(1, 2, 1, 1)
    places = torch.from_numpy(np.ascontiguousarray(start[::-1].T)).float() / scale * 2 - 1
    for _ in range(steps):
        moved = F.grid_sample(field, places[None, None], align_corners=False)[0, :, 0].T
        places = (places + moved).clamp(-1, 1)
    result: np.ndarray = ((places + 1) * 0.5 * scale).T.numpy()[::-1]
    return np.ascontiguousarray(result)


def masks_of_positions(
    positions: np.ndarray, start: np.ndarray, size: tuple[int, int], max_share: float, min_hits: int = 10
) -> np.ndarray:
    """Pixels that end together are one object.

    Args:
        positions: (2, P) where pixels ended; start: (2, P) where they came from.
        size: (H, W) of the image.
        max_share: of the image that an object may cover.
        min_hits: a seed is where more pixels than this end.

    Returns:
        (H, W) int32, numbered in order of the first pixel.

    >>> start = np.stack([np.zeros(8, int), np.arange(8)])
    >>> ends = np.array([[0] * 8, [1, 1, 1, 1, 7, 7, 7, 7]])
    >>> masks_of_positions(ends, start, (1, 8), max_share=1.0, min_hits=3).tolist()
    [[1, 1, 1, 1, 2, 2, 2, 2]]
    """
    height, width = (side + 2 * PADDING for side in size)
    limits = np.array(size)[:, None] + PADDING - 1
    ends = np.clip(positions.astype(np.int64) + PADDING, 0, limits)
    hits = np.zeros((height, width), np.int64)
    np.add.at(hits, tuple(ends), 1)
    numbers = _grown_seeds(hits, min_hits)
    ids = np.zeros(size, np.int32)
    ids[tuple(start)] = numbers[tuple(ends)]
    area = np.bincount(ids.ravel())
    area[0] = 0
    ids[(area > max_share * ids.size)[ids]] = 0
    return renumbered(ids)


def _grown_seeds(hits: np.ndarray, min_hits: int) -> np.ndarray:
    """Number of the seed that each cell of the histogram belongs to; seeds with more hits win."""
    seeds = np.argwhere((hits == ndimage.maximum_filter(hits, 5, mode="constant")) & (hits > min_hits))
    seeds = seeds[np.argsort(hits[seeds[:, 0], seeds[:, 1]], kind="stable")]
    numbers = np.zeros(hits.shape, np.int32)
    for number, (y, x) in enumerate(seeds, start=1):
        window = (slice(y - 5, y + 6), slice(x - 5, x + 6))
        allowed = hits[window] > 2
        grown = np.zeros((11, 11), bool)
        grown[5, 5] = True
        for _ in range(5):
            grown = ndimage.binary_dilation(grown, np.ones((3, 3))) & allowed
        numbers[window][grown] = number
    return numbers


def renumbered(ids: np.ndarray) -> np.ndarray:
    """(H, W) int32: numbers without gaps, in order of the first pixel, row by row.

    >>> renumbered(np.array([[7, 7, 0, 3]])).tolist()
    [[1, 1, 0, 2]]
    """
    names, first, inverse = np.unique(ids, return_index=True, return_inverse=True)
    order = np.argsort(np.where(names == 0, -1, first), kind="stable")
    new = np.zeros(len(names), np.int32)
    new[order] = np.arange(len(names)) + (0 if (names == 0).any() else 1)
    return new[inverse].reshape(ids.shape)


def flow_errors(ids: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """(K,) mean squared difference between the flows of an object's mask and those that were predicted (units of 5).

    >>> ids = np.array([[1, 1, 1, 0]])
    >>> flow_errors(ids, FLOW_SCALE * flows_of(ids)).tolist()
    [0.0]
    """
    apart = ((flows_of(ids) - flow / FLOW_SCALE) ** 2).sum(0)
    result: np.ndarray = ndimage.mean(apart, ids, np.arange(1, int(ids.max()) + 1))
    return np.asarray(result, np.float64)


def without_holes(ids: np.ndarray, min_area: int) -> np.ndarray:
    """Objects of fewer pixels dropped, holes filled, numbered without gaps.

    An object in another's hole is filled over with it; what then is left of it counts again.

    >>> without_holes(np.array([[1, 1, 1, 0], [1, 0, 1, 0], [1, 1, 1, 2]]), min_area=2).tolist()
    [[1, 1, 1, 0], [1, 1, 1, 0], [1, 1, 1, 0]]
    """
    result = _large_ones(ids, min_area)
    number = 0
    for name, box in enumerate(ndimage.find_objects(result), start=1):
        if box is None:
            continue
        number += 1
        filled = ndimage.binary_fill_holes(result[box] == name)
        result[box][filled] = number
    return _large_ones(result, min_area)


def _large_ones(ids: np.ndarray, min_area: int) -> np.ndarray:
    area = np.bincount(ids.ravel())
    return renumbered(np.where((area < min_area)[ids], 0, ids))


def masks_of_flows(
    flow: np.ndarray,
    probability_logits: np.ndarray,
    *,
    steps: int = 200,
    logit_threshold: float = 0.0,
    max_flow_error: float = 0.4,
    min_area: int = -1,
    max_share: float = 0.4,
    min_hits: int = 10,
) -> np.ndarray:
    """Objects of predicted flows.

    Args:
        flow: (2, H, W) (y, x), unit vectors times 5.
        probability_logits: (H, W); pixels above the threshold are followed.
        min_area: smaller objects are dropped, px; above 0, holes are filled too.
        max_flow_error: objects whose own flows differ more from the predicted ones are dropped; 0 keeps all.
        max_share: of the image that an object may cover.
        min_hits: a seed is where more pixels than this end.

    Returns:
        (H, W) int32 numbers 1..K, 0 is background.

    >>> ids = np.zeros((16, 16), int)
    >>> ids[2:14, 2:14] = 1
    >>> found = masks_of_flows(FLOW_SCALE * flows_of(ids), np.where(ids > 0, 4.0, -4.0), max_share=1.0)
    >>> bool((found == ids).all())
    True
    """
    inside = probability_logits > logit_threshold
    start = np.stack(np.nonzero(inside))
    ends = follow(flow * inside / FLOW_SCALE, start, steps)
    size = (inside.shape[0], inside.shape[1])
    ids = masks_of_positions(ends, start, size, max_share, min_hits)
    if ids.any() and max_flow_error > 0:
        bad = np.concatenate([[False], flow_errors(ids, flow) > max_flow_error])
        ids = np.where(bad[ids], 0, ids).astype(np.int32)
    return without_holes(ids, min_area) if min_area > 0 else renumbered(ids)
