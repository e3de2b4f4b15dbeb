"""RLE: packed COCO run-length masks, the single truth about which pixels belong to an object."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from eachmask.structures import runs as arithmetic
from eachmask.structures.masks import Index, Masks, as_index, check_same_canvas
from eachmask.structures.rle_codec import Counts, Offsets, decode_strings, encode_strings
from eachmask.structures.runs import Pieces, Runs

if TYPE_CHECKING:
    from eachmask.structures.bitmaps import Bitmaps
    from eachmask.structures.polygons import Polygons


class RLE(Masks):
    """N masks as two arrays, whatever N is: cheap to index, to send and to keep by the million.

    Args:
        counts: (R,) uint32, all masks' runs behind one another; column-major, background first.
        offsets: (N + 1,) int64, where each mask's runs begin.
        size: (height, width); every mask's runs add up to height * width.

    Raises:
        ValueError: the runs of a mask do not fill the canvas.
    """

    def __init__(self, counts: Counts, offsets: Offsets, size: tuple[int, int]) -> None:
        self.counts, self.offsets, self.size = counts, offsets, (int(size[0]), int(size[1]))
        totals = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])[offsets]
        wrong = np.flatnonzero(np.diff(totals) != self.size[0] * self.size[1])
        if len(wrong):
            pixels = np.diff(totals)[wrong[0]]
            raise ValueError(
                f"mask {wrong[0]} has {pixels} pixels in its runs, but the canvas is {size[0]} x {size[1]}"
            )

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: Index) -> RLE:
        chosen = as_index(index, len(self))
        lengths = np.diff(self.offsets)[chosen]
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        source = np.arange(offsets[-1]) + np.repeat(self.offsets[:-1][chosen] - offsets[:-1], lengths)
        return RLE(self.counts[source], offsets, self.size)

    # From and to other forms ------------------------------------------------------------------

    @staticmethod
    def empty(size: tuple[int, int]) -> RLE:
        """No masks."""
        return RLE(np.zeros(0, np.uint32), np.zeros(1, np.int64), size)

    @staticmethod
    def from_coco(rles: Sequence[dict[str, Any]], size: tuple[int, int] | None = None) -> RLE:
        """COCO dicts ``{"size": [h, w], "counts": str | bytes | list}``; size is needed where there is none.

        Raises:
            ValueError: sizes differ, no size is known, or the counts are broken.
        """
        if size is None:
            if not rles:
                raise ValueError("without masks the canvas size must be given")
            size = (int(rles[0]["size"][0]), int(rles[0]["size"][1]))
        for i, rle in enumerate(rles):
            if tuple(rle["size"]) != tuple(size):
                raise ValueError(f"mask {i} is on {tuple(rle['size'])}, expected {tuple(size)} (height, width)")
        listed = [i for i, rle in enumerate(rles) if not isinstance(rle["counts"], str | bytes)]
        if not listed:
            return RLE(*decode_strings([rle["counts"] for rle in rles]), size)
        parts = [
            np.asarray(rle["counts"], np.uint32) if i in set(listed) else decode_strings([rle["counts"]])[0]
            for i, rle in enumerate(rles)
        ]
        offsets = np.concatenate([[0], np.cumsum([len(part) for part in parts])]).astype(np.int64)
        return RLE(np.concatenate(parts), offsets, size)

    def to_coco(self) -> list[dict[str, Any]]:
        """COCO dicts with the counts as ``str``, JSON-ready."""
        return [{"size": list(self.size), "counts": s} for s in encode_strings(self.counts, self.offsets)]

    @staticmethod
    def from_bitmaps(bitmaps: NDArray[Any]) -> RLE:
        """(N, H, W) bool -> RLE; for few or small masks (use ``Bitmaps`` for crops)."""
        num, height, width = bitmaps.shape
        flat = np.zeros((num, height * width + 2), np.int8)
        flat[:, 1:-1] = bitmaps.astype(bool).transpose(0, 2, 1).reshape(num, height * width)
        change = np.diff(flat, axis=1)
        owner, start = np.nonzero(change == 1)
        stop = np.nonzero(change == -1)[1]
        return RLE.from_runs(Runs(owner, start, stop), num, (height, width))

    @staticmethod
    def from_label_map(labels: NDArray[Any]) -> RLE:
        """(H, W) integers -> one mask per positive value, ascending; one pass, whatever their number."""
        height, width = labels.shape
        flat = np.ascontiguousarray(labels.T).reshape(-1)
        if not flat.size:
            return RLE.empty((height, width))
        start = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
        stop = np.append(start[1:], flat.size)
        value = flat[start]
        chosen = value > 0
        names, owner = np.unique(value[chosen], return_inverse=True)
        order = np.argsort(owner, kind="stable")
        runs = Runs(owner[order], start[chosen][order], stop[chosen][order])
        return RLE.from_runs(runs, len(names), (height, width))

    @staticmethod
    def from_runs(runs: Runs, num: int, size: tuple[int, int]) -> RLE:
        """Sorted foreground runs of num masks -> RLE."""
        return RLE(*arithmetic.runs_to_counts(runs, num, size[0] * size[1]), size)

    @staticmethod
    def from_pieces(pieces: Pieces, num: int, size: tuple[int, int]) -> RLE:
        """Vertical strokes of num masks in any order -> RLE; what leaves the canvas is cut off."""
        return RLE.from_runs(arithmetic.pieces_to_runs(pieces, size), num, size)

    @staticmethod
    def cat(parts: Sequence[RLE]) -> RLE:
        """All masks of several collections on one canvas.

        Raises:
            ValueError: no parts, or different canvases.
        """
        if not parts:
            raise ValueError("nothing to join: the canvas size would be unknown")
        for part in parts:
            check_same_canvas(parts[0], part)
        lengths = np.concatenate([np.diff(part.offsets) for part in parts])
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        return RLE(np.concatenate([part.counts for part in parts]), offsets, parts[0].size)

    @cached_property
    def runs(self) -> Runs:
        """Foreground runs of all masks."""
        return arithmetic.counts_to_runs(self.counts, self.offsets)

    def pieces(self) -> Pieces:
        """Vertical strokes of all masks."""
        return arithmetic.runs_to_pieces(self.runs, self.size[0])

    def decode(self) -> NDArray[np.bool_]:
        """(N, H, W) bool: for tests and single small images only."""
        height, width = self.size
        canvas = np.zeros((len(self), width * height), bool)
        canvas[arithmetic.flat_pixels(self.runs)] = True
        return canvas.reshape(len(self), width, height).transpose(0, 2, 1)

    def to_rle(self) -> RLE:
        return self

    def to_bitmaps(self) -> Bitmaps:
        from eachmask.structures.bitmaps import Bitmaps

        boxes = arithmetic.run_boxes(self.runs, len(self), self.size[0])
        crops = []
        bounds = np.searchsorted(self.runs.owner, np.arange(len(self) + 1))
        for i, (x1, y1, x2, y2) in enumerate(boxes):
            chosen = slice(bounds[i], bounds[i + 1])
            window = Runs(*(column[chosen] for column in self.runs))
            _, flat = arithmetic.flat_pixels(window)
            crop = np.zeros((x2 - x1, y2 - y1), bool)  # column-major, like the runs
            crop[flat // self.size[0] - x1, flat % self.size[0] - y1] = True
            crops.append(crop.T)
        return Bitmaps(crops, boxes[:, :2].astype(np.int32), self.size)

    def to_polygons(self) -> Polygons:
        return self.to_bitmaps().to_polygons()

    def to_label_map(self) -> NDArray[np.int32]:
        height, width = self.size
        owner, flat = arithmetic.flat_pixels(self.runs)
        canvas = np.zeros(width * height, np.int32)
        canvas[flat[::-1]] = owner[::-1] + 1  # the last write stays: the earliest mask
        return np.ascontiguousarray(canvas.reshape(width, height).T)

    # Measures -----------------------------------------------------------------------------------

    def area(self) -> NDArray[np.int64]:
        length = self.runs.stop - self.runs.start
        return np.bincount(self.runs.owner, length, minlength=len(self)).astype(np.int64)

    def boxes(self) -> NDArray[np.float32]:
        return arithmetic.run_boxes(self.runs, len(self), self.size[0]).astype(np.float32)

    def intersection(self, other: Masks) -> NDArray[np.int64]:
        other = other.to_rle()
        check_same_canvas(self, other)
        result = np.zeros((len(self), len(other)), np.int64)
        rows, columns = _neighbours(self, other)
        result[rows, columns] = arithmetic.common_pixels(self.runs, other.runs, rows, columns)
        return result

    def iou(self, other: Masks) -> NDArray[np.float64]:
        other = other.to_rle()
        check_same_canvas(self, other)
        result = np.zeros((len(self), len(other)))
        rows, columns = _neighbours(self, other)
        if 10 * len(rows) < result.size:  # few objects meet: look at the pairs that do
            common = arithmetic.common_pixels(self.runs, other.runs, rows, columns)
            union = self.area()[rows] + other.area()[columns] - common
            result[rows, columns] = common / np.maximum(union, 1)
        elif result.size:
            from hotcoco import mask as compiled

            result[:] = compiled.iou(self.to_coco(), other.to_coco(), [False] * len(other))
        return result

    # Moves --------------------------------------------------------------------------------------

    def shift(self, dx: int, dy: int, size: tuple[int, int]) -> RLE:
        p = self.pieces()
        return RLE.from_pieces(Pieces(p.owner, p.x + dx, p.top + dy, p.bottom + dy), len(self), size)

    def crop(self, box: Sequence[int]) -> RLE:
        x1, y1, x2, y2 = (int(v) for v in box)
        if x2 <= x1 or y2 <= y1:
            raise ValueError(f"the window {(x1, y1, x2, y2)} is empty")
        return self.shift(-x1, -y1, (y2 - y1, x2 - x1))

    def flip(self, horizontal: bool = True) -> RLE:
        height, width = self.size
        p = self.pieces()
        if horizontal:
            p = Pieces(p.owner, width - 1 - p.x, p.top, p.bottom)
        else:
            p = Pieces(p.owner, p.x, height - p.bottom, height - p.top)
        return RLE.from_pieces(p, len(self), self.size)

    def resize(self, size: tuple[int, int]) -> RLE:
        """Bilinear, decided at one half; each mask costs its own box."""
        if tuple(size) == self.size:
            return self
        return self.to_bitmaps().resize(size).to_rle()

    def union(self) -> RLE:
        runs = self.runs
        order = np.argsort(runs.start, kind="stable")
        one = Runs(np.zeros(len(order), np.int64), runs.start[order], runs.stop[order])
        return RLE.from_runs(arithmetic.unite_touching(one), 1, self.size)


def _neighbours(a: RLE, b: RLE) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Pairs (i, j), in order of i, whose boxes have pixels in common."""
    p, q = a.boxes(), b.boxes()
    meet = (p[:, None, 2:] > q[None, :, :2]).all(-1) & (q[None, :, 2:] > p[:, None, :2]).all(-1)
    rows, columns = np.nonzero(meet)
    return rows, columns
