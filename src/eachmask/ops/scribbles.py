"""Scribbles as an annotator draws them over what is wrong: the longest line through the middle of each mistake.

After the simulated annotator of the DAVIS challenge (Caelles et al.: "The 2018 DAVIS Challenge on Video Object
Segmentation", arXiv 1803.00557, section 3): mistakes are eroded, since nobody corrects single pixels at a border, and
their skeletons are followed from one end to the other.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse import csgraph
from skimage.measure import label
from skimage.morphology import skeletonize

from eachmask.ops.clicks import depths

Bits = NDArray[np.bool_]
EROSION, MAX_EROSION = 0.15, 16
"""Px by which a mistake is eroded: a share of the square root of its area, at most so many; thin ones by half their
depth."""
STEP = 8
"""Px between the points of a line."""
MIN_AREA = 25
"""Px of a mistake that is corrected."""


class Scribble(NamedTuple):
    """A line on the pixels of one object."""

    number: int
    """Of the object; 0 is the background."""
    line: NDArray[np.float64]
    """(K, 2) xy, px."""


def scribbles_on(found: NDArray[Any], target: NDArray[Any], ignore: int = 255) -> list[Scribble]:
    """One for each label of a label map (H, W) that is missing somewhere, over the largest part that is.

    Args:
        found: what was answered.
        target: what is right; pixels of ``ignore`` do not count.

    >>> target = np.zeros((40, 60), int)
    >>> target[10:30, 10:50] = 3
    >>> (one,) = scribbles_on(np.zeros_like(target), target)
    >>> one.number, bool((np.diff(one.line[:, 0]) > 0).all() or (np.diff(one.line[:, 0]) < 0).all())
    (3, True)
    >>> scribbles_on(target, target)
    []
    """
    drawn = []
    for number in np.unique(target[target != ignore]).tolist():
        line = line_through((target == number) & (found != number))
        if line is not None:
            drawn.append(Scribble(int(number), line))
    return drawn


def line_through(region: Bits) -> NDArray[np.float64] | None:
    """(K, 2) xy, px: the longest line through the largest part of a region (H, W); None where all parts are small.

    >>> region = np.zeros((9, 40), bool)
    >>> region[2:7, 4:36] = True
    >>> line = line_through(region)
    >>> bool((abs(line[:, 1] - 4.5) <= 1).all()), bool(np.ptp(line[:, 0]) > 20)
    (True, True)
    """
    part = _largest(region)
    if np.count_nonzero(part) < MIN_AREA:
        return None
    depth = depths(part, exact=False)
    radius = min(EROSION * float(np.sqrt(np.count_nonzero(part))), MAX_EROSION, float(depth.max()) / 2)
    path = _longest_path(skeletonize(_largest(depth > radius)))  # type: ignore[no-untyped-call]
    points: NDArray[np.float64] = path[np.unique([*range(0, len(path), STEP), len(path) - 1])][:, ::-1] + 0.5
    return points


def _largest(region: Bits) -> Bits:
    """The largest part of a region, by 8 neighbors."""
    parts = label(region, connectivity=2)  # type: ignore[no-untyped-call]
    areas = np.bincount(parts.ravel())
    areas[0] = 0
    largest: Bits = (parts == areas.argmax()) & region
    return largest


def _longest_path(skeleton: Bits) -> NDArray[np.int64]:
    """(K, 2) rows and columns from the pixel that is farthest from any to the one that is farthest from that."""
    places = np.argwhere(skeleton)
    number = np.full(np.array(skeleton.shape) + 2, -1)
    number[1:-1, 1:-1][skeleton] = np.arange(len(places))
    begins, ends = [], []
    for dy, dx in ((0, 1), (1, -1), (1, 0), (1, 1)):
        other = number[places[:, 0] + 1 + dy, places[:, 1] + 1 + dx]
        begins.append(np.flatnonzero(other >= 0))
        ends.append(other[other >= 0])
    rows, columns = np.concatenate(begins), np.concatenate(ends)
    steps = np.linalg.norm(places[rows] - places[columns], axis=1)
    graph = sparse.csr_matrix((steps, (rows, columns)), shape=(len(places), len(places)))
    far = _farthest(graph, 0)[0]
    end, before = _farthest(graph, far)
    path = [end]
    while before[path[-1]] >= 0:
        path.append(int(before[path[-1]]))
    return places[path]


def _farthest(graph: Any, start: int) -> tuple[int, NDArray[np.int32]]:
    """The pixel that is farthest from another one, and of each pixel the one before it on the way there."""
    distance, before = csgraph.dijkstra(graph, directed=False, indices=start, return_predecessors=True)
    return int(np.where(np.isfinite(distance), distance, -1).argmax()), before
