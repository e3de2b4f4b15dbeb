"""Polygons: outlines with holes and several parts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from eachmask.structures.masks import Index, Masks, as_index
from eachmask.structures.outline import Ring
from eachmask.structures.rle import RLE
from eachmask.structures.runs import Runs


class Polygons(Masks):
    """N masks, each enclosed by outer rings and pierced by holes.

    Rings are (K, 2) float (x, y), K >= 3, not closed. COCO's polygon lists know no holes: there all rings
    of an object are united, which is what :meth:`from_coco` does and pycocotools too.

    Args:
        outers: for each mask its outer rings.
        holes: for each mask its holes; () means none anywhere.
        size: (height, width) of the canvas.
    """

    def __init__(
        self, outers: Sequence[Sequence[Ring]], holes: Sequence[Sequence[Ring]], size: tuple[int, int]
    ) -> None:
        self.outers = [list(rings) for rings in outers]
        self.holes = [list(rings) for rings in holes] if len(holes) else [[] for _ in outers]
        if len(self.outers) != len(self.holes):
            raise ValueError(f"outer rings of {len(outers)} masks, holes of {len(holes)}")
        self.size = (int(size[0]), int(size[1]))

    @staticmethod
    def from_coco(segmentations: Sequence[Sequence[Sequence[float]]], size: tuple[int, int]) -> Polygons:
        """COCO's ``[[x1, y1, x2, y2, ...], ...]`` per mask."""
        outers = [[np.asarray(ring, np.float64).reshape(-1, 2) for ring in rings] for rings in segmentations]
        return Polygons(outers, (), size)  # type: ignore[arg-type]

    def to_coco(self) -> list[list[list[float]]]:
        """COCO's lists; holes are left out, since the format unites all rings."""
        return [[[float(v) for v in ring.reshape(-1)] for ring in rings] for rings in self.outers]

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
        a lake is land again.
        """
        masks = [
            _even_odd(_fill([*outer, *holes], self.size)) if holes else _fill(outer, self.size).union()
            for outer, holes in zip(self.outers, self.holes, strict=True)
        ]
        return RLE.cat(masks) if masks else RLE.empty(self.size)


def _fill(rings: Sequence[Ring], size: tuple[int, int]) -> RLE:
    """One mask per ring; rings of fewer than three points enclose nothing and are left out."""
    from hotcoco import mask as compiled

    flat: list[Any] = [[float(v) for v in ring.reshape(-1)] for ring in rings if len(ring) >= 3]
    return RLE.from_coco([compiled.fr_poly(ring, *size) for ring in flat], size)


def _even_odd(rings: RLE) -> RLE:
    """One mask of the pixels in an odd number of masks: edges that meet in pairs cancel out."""
    edges, times = np.unique(np.concatenate([rings.runs.start, rings.runs.stop]), return_counts=True)
    edges = edges[times % 2 == 1]
    runs = Runs(np.zeros(len(edges) // 2, np.int64), edges[0::2], edges[1::2])
    return RLE.from_runs(runs, 1, rings.size)
