"""Polygons: outlines with holes and several parts."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from eachmask.structures.masks import Index, Masks, as_index
from eachmask.structures.outline import Ring
from eachmask.structures.rle import RLE
from eachmask.structures.rle_codec import decode_strings
from eachmask.structures.runs import Runs, counts_to_runs, unite_touching

_FAR = 10
"""A vertex so many canvas sides away is a broken file (filling walks along every edge, pixel by pixel)."""


class Polygons(Masks):
    """N masks, each enclosed by outer rings and pierced by holes.

    >>> card = Polygons.from_coco([[[0, 0, 8, 0, 8, 4, 0, 4]]], (10, 10))
    >>> card.area().tolist()
    [32]
    >>> card.resize((20, 20)).to_coco()
    [[[0.0, 0.0, 16.0, 0.0, 16.0, 8.0, 0.0, 8.0]]]

    Rings are (K, 2) float (x, y), K >= 3, not closed. COCO's polygon lists know no holes: there all rings
    of an object are united, which is what :meth:`from_coco` does and pycocotools too.

    Args:
        outers: for each mask its outer rings.
        holes: for each mask its holes; () means none anywhere.
        size: (height, width) of the canvas.

    Raises:
        ValueError: a ring is not (K, 2), or not every mask has its list of holes.
    """

    def __init__(
        self, outers: Sequence[Sequence[Ring]], holes: Sequence[Sequence[Ring]], size: tuple[int, int]
    ) -> None:
        self.outers = [list(rings) for rings in outers]
        self.holes = [list(rings) for rings in holes] if len(holes) else [[] for _ in outers]
        if len(self.outers) != len(self.holes):
            raise ValueError(f"outer rings of {len(outers)} masks, holes of {len(holes)}")
        for ring in chain(*self.outers, *self.holes):
            if ring.ndim != 2 or ring.shape[1] != 2:
                raise ValueError(f"a ring must be (K, 2), not {ring.shape}")
        self.size = (int(size[0]), int(size[1]))

    @staticmethod
    def from_coco(segmentations: Sequence[Sequence[Sequence[float]]], size: tuple[int, int]) -> Polygons:
        """COCO's ``[[x1, y1, x2, y2, ...], ...]`` per mask.

        Raises:
            ValueError: a ring has an odd number of values or something that is no number.
        """
        outers = [[np.asarray(ring, np.float64).reshape(-1, 2) for ring in rings] for rings in segmentations]
        return Polygons(outers, (), size)

    def to_coco(self) -> list[list[list[float]]]:
        """COCO's lists; holes are left out, since the format unites all rings."""
        return [[ring.reshape(-1).astype(float).tolist() for ring in rings] for rings in self.outers]

    def __len__(self) -> int:
        return len(self.outers)

    def __getitem__(self, index: Index) -> Polygons:
        chosen = as_index(index, len(self))
        return Polygons([self.outers[i] for i in chosen], [self.holes[i] for i in chosen], self.size)

    def to_polygons(self) -> Polygons:
        return self

    def resize(self, size: tuple[int, int]) -> Polygons:
        """Vertices scaled: exact."""
        factor = np.array([size[1] / self.size[1], size[0] / self.size[0]])

        def scaled(masks: list[list[Ring]]) -> list[list[Ring]]:
            return [[(ring * factor).astype(ring.dtype) for ring in rings] for rings in masks]

        return Polygons(scaled(self.outers), scaled(self.holes), size)

    def to_rle(self) -> RLE:
        """Bit-equal to pycocotools' ``frPyObjects`` + ``merge`` where there are no holes.

        With holes a pixel is inside where an odd number of rings goes around it, so that an island in
        a lake is land again. Rings of fewer than three points enclose nothing.

        Raises:
            ValueError: a vertex is not finite, or absurdly far from the canvas.
        """
        rings: list[Ring] = []
        masks: list[int] = []
        for i, (outer, holes) in enumerate(zip(self.outers, self.holes, strict=True)):
            here = [ring for ring in chain(outer, holes) if len(ring) >= 3]
            rings += here
            masks += [i] * len(here)
        filled = _fill(rings, self.size)
        runs = Runs(np.array(masks, np.int64)[filled.owner], filled.start, filled.stop)
        pierced = np.array([len(holes) > 0 for holes in self.holes], bool)[runs.owner]
        span = self.size[0] * self.size[1] + 1
        merged = [_united(_where(runs, ~pierced), span), _even_odd(_where(runs, pierced), span)]
        return RLE.from_runs(_sorted(Runs(*map(np.concatenate, zip(*merged, strict=True))), span), len(self), self.size)


def _fill(rings: Sequence[Ring], size: tuple[int, int]) -> Runs:
    """Runs of each ring by itself, as COCO draws it; ``owner`` is the ring."""
    from hotcoco import mask as compiled

    if not rings:
        return Runs(*(np.zeros(0, np.int64) for _ in range(3)))
    vertices = np.concatenate(rings)
    limit = _FAR * max(*size, 100)
    if not (np.abs(vertices) <= limit).all():
        x, y = vertices[~(np.abs(vertices) <= limit).all(1)][0]
        raise ValueError(f"the vertex ({x:g}, {y:g}) cannot belong to an image of {size[0]} x {size[1]} pixels")
    flat = [ring.reshape(-1).tolist() for ring in rings]
    return counts_to_runs(*decode_strings([rle["counts"] for rle in compiled.fr_py_objects(flat, *size)]))


def _where(runs: Runs, chosen: NDArray[np.bool_]) -> Runs:
    return Runs(*(column[chosen] for column in runs))


def _sorted(runs: Runs, span: int) -> Runs:
    order = np.argsort(runs.owner * span + runs.start, kind="stable")
    return Runs(*(column[order] for column in runs))


def _united(runs: Runs, span: int) -> Runs:
    """Pixels in any of a mask's runs."""
    return unite_touching(_sorted(runs, span))


def _even_odd(runs: Runs, span: int) -> Runs:
    """Pixels in an odd number of a mask's runs: edges that meet in pairs cancel out."""
    lift = runs.owner * span
    edges, times = np.unique(np.concatenate([runs.start + lift, runs.stop + lift]), return_counts=True)
    edges = edges[times % 2 == 1]
    start, stop = edges[0::2], edges[1::2]
    return Runs(start // span, start % span, stop - start // span * span)
