"""RLE: packed COCO run-length masks, the one place that says which pixels belong to an object."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from eachmask.structures import runs as arithmetic
from eachmask.structures.masks import Index, Masks, Overlaps, as_index, check_same_canvas
from eachmask.structures.outline import trace
from eachmask.structures.rle_codec import Counts, Offsets, decode_strings, encode_strings, offsets_of
from eachmask.structures.runs import ColumnRuns, Runs

if TYPE_CHECKING:
    from eachmask.structures.bitmaps import Bitmaps
    from eachmask.structures.polygons import Polygons


class RLE(Masks):
    """N masks as two arrays, whatever N is: cheap to index, to send and to keep by the million.

    >>> two = RLE.from_label_map(np.array([[1, 1, 0], [1, 2, 2]]))
    >>> two
    RLE(2 masks on 2 x 3)
    >>> two.area().tolist(), two.boxes()[1].tolist()
    ([3, 2], [1.0, 1.0, 3.0, 2.0])
    >>> two.to_coco()[0]
    {'size': [2, 3], 'counts': '033'}
    >>> two.union().area().tolist(), two.crop((0, 0, 1, 2)).area().tolist()
    ([5], [2, 0])

    Args:
        counts: (R,) uint32, all masks' runs behind one another; column-major, background first.
        offsets: (N + 1,) int64, where each mask's runs begin.
        size: (height, width); every mask's runs add up to height * width.

    Raises:
        ValueError: the runs of a mask do not fill the canvas.
    """

    def __init__(self, counts: Counts, offsets: Offsets, size: tuple[int, int]) -> None:
        self.counts, self.offsets, self.size = counts, offsets, (int(size[0]), int(size[1]))
        pixels = np.zeros(len(offsets) - 1, np.int64)
        some = np.diff(offsets) > 0  # where a mask has no runs, the sum would be the next one's first run
        if some.any():
            pixels[some] = np.add.reduceat(counts[: offsets[-1]], offsets[:-1][some], dtype=np.int64)
        wrong = np.flatnonzero(pixels != self.size[0] * self.size[1])
        if len(wrong):
            raise ValueError(
                f"mask {wrong[0]} has {pixels[wrong[0]]} pixels in its runs, but the canvas is {size[0]} x {size[1]}"
            )

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: Index) -> RLE:
        chosen = as_index(index, len(self))
        lengths = np.diff(self.offsets)[chosen]
        source = arithmetic.ranges(self.offsets[:-1][chosen], lengths)
        return RLE(self.counts[source], offsets_of(lengths), self.size)

    def __reduce__(self) -> tuple[Any, ...]:
        return RLE, (self.counts, self.offsets, self.size)  # what is cached does not travel

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
            own = tuple(rle.get("size", size))
            if own != tuple(size):
                raise ValueError(f"mask {i} is on {own}, expected {tuple(size)} (height, width)")
        if all(isinstance(rle["counts"], str | bytes) for rle in rles):
            return RLE(*decode_strings([rle["counts"] for rle in rles]), size)
        parts = [_plain_or_compressed(rle["counts"]) for rle in rles]
        return RLE(np.concatenate(parts), offsets_of([len(part) for part in parts]), size)

    def to_coco(self) -> list[dict[str, Any]]:
        """COCO dicts with the counts as ``str``, JSON-ready."""
        return [{"size": list(self.size), "counts": s} for s in encode_strings(self.counts, self.offsets)]

    @staticmethod
    def from_bitmaps(bitmaps: NDArray[Any]) -> RLE:
        """(N, H, W) bool -> RLE; for few or small masks (use ``Bitmaps`` for crops).

        Raises:
            ValueError: the array is not (N, H, W).
        """
        if bitmaps.ndim != 3:
            raise ValueError(f"bitmaps must be (N, H, W), not {bitmaps.shape}")
        num, height, width = bitmaps.shape
        flat = np.zeros((num, height * width + 2), np.int8)
        flat[:, 1:-1] = bitmaps.astype(bool).transpose(0, 2, 1).reshape(num, height * width)
        change = np.diff(flat, axis=1)
        owner, start = np.nonzero(change == 1)
        stop = np.nonzero(change == -1)[1]
        return RLE.from_runs(Runs(owner, start, stop), num, (height, width))

    @staticmethod
    def from_label_map(labels: NDArray[Any]) -> RLE:
        """(H, W) integers -> one mask per positive value, ascending; one pass, whatever their number.

        Raises:
            ValueError: the map is not (H, W).
        """
        if labels.ndim != 2:
            raise ValueError(f"a label map must be (H, W), not {labels.shape}")
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
    def from_column_runs(column_runs: ColumnRuns, num: int, size: tuple[int, int]) -> RLE:
        """Column runs of num masks in any order -> RLE; what leaves the canvas is cut off."""
        return RLE.from_runs(arithmetic.column_runs_to_runs(column_runs, size), num, size)

    @cached_property
    def runs(self) -> Runs:
        """Foreground runs of all masks."""
        return arithmetic.counts_to_runs(self.counts, self.offsets)

    def column_runs(self) -> ColumnRuns:
        """Column runs of all masks."""
        return arithmetic.runs_to_column_runs(self.runs, self.size[0])

    def decode(self) -> NDArray[np.bool_]:
        """(N, H, W) bool: for tests and single small images only."""
        height, width = self.size
        lift = self.runs.owner * (height * width)
        runs = Runs(self.runs.owner, self.runs.start + lift, self.runs.stop + lift)
        flat = arithmetic.paint(runs, np.ones(len(lift), bool), len(self) * height * width)
        return flat.reshape(len(self), width, height).transpose(0, 2, 1)

    def to_rle(self) -> RLE:
        return self

    def to_bitmaps(self) -> Bitmaps:
        """Cropped bitmaps, one per mask: views of one buffer, column-major as the runs are."""
        from eachmask.structures.bitmaps import Bitmaps

        boxes = self._int_boxes
        width, height = (boxes[:, 2:] - boxes[:, :2]).T
        ends = np.cumsum(width * height)
        p = self.column_runs()
        begin = (ends - width * height - boxes[:, 0] * height - boxes[:, 1])[p.owner] + p.x * height[p.owner]
        window = Runs(p.owner, begin + p.top, begin + p.bottom)
        buffer = arithmetic.paint(window, np.ones(len(p.x), bool), int(ends[-1]) if len(ends) else 0)
        parts = np.split(buffer, ends[:-1])
        crops = [part.reshape(w, h).T for part, w, h in zip(parts, width, height, strict=False)]
        return Bitmaps(crops, boxes[:, :2].astype(np.int32), self.size)

    def to_polygons(self) -> Polygons:
        from eachmask.structures.polygons import Polygons

        return Polygons(*trace(self.column_runs(), len(self)), self.size)

    def to_label_map(self) -> NDArray[np.int32]:
        height, width = self.size
        canvas = arithmetic.paint(self.runs, (self.runs.owner + 1).astype(np.int32), height * width)
        return np.ascontiguousarray(canvas.reshape(width, height).T)

    # Measures -----------------------------------------------------------------------------------

    def area(self) -> NDArray[np.int64]:
        length = self.runs.stop - self.runs.start
        return np.bincount(self.runs.owner, length, minlength=len(self)).astype(np.int64)

    def boxes(self) -> NDArray[np.float32]:
        return self._int_boxes.astype(np.float32)

    @property
    def _int_boxes(self) -> NDArray[np.int64]:
        return arithmetic.run_boxes(self.runs, len(self), self.size[0])

    def overlaps(self, other: Masks) -> Overlaps:
        other = other.to_rle()
        check_same_canvas(self, other)
        rows, columns = arithmetic.neighbors(self._int_boxes, other._int_boxes)
        common = arithmetic.common_pixels(self.runs, other.runs, rows, columns)
        some = common > 0
        return Overlaps(rows[some], columns[some], common[some])

    def intersection(self, other: Masks) -> NDArray[np.int64]:
        result = np.zeros((len(self), len(other)), np.int64)
        rows, columns, common = self.overlaps(other)
        result[rows, columns] = common
        return result

    def iou(self, other: Masks) -> NDArray[np.float64]:
        other = other.to_rle()
        check_same_canvas(self, other)
        result = np.zeros((len(self), len(other)))
        rows, columns = arithmetic.neighbors(self._int_boxes, other._int_boxes)
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
        p = self.column_runs()
        return RLE.from_column_runs(ColumnRuns(p.owner, p.x + dx, p.top + dy, p.bottom + dy), len(self), size)

    def crop(self, box: Sequence[int]) -> RLE:
        x1, y1, x2, y2 = (int(v) for v in box)
        if x2 <= x1 or y2 <= y1:
            raise ValueError(f"the window {(x1, y1, x2, y2)} is empty")
        return self.shift(-x1, -y1, (y2 - y1, x2 - x1))

    def flip(self, horizontal: bool = True) -> RLE:
        height, width = self.size
        p = self.column_runs()
        if horizontal:
            p = ColumnRuns(p.owner, width - 1 - p.x, p.top, p.bottom)
        else:
            p = ColumnRuns(p.owner, p.x, height - p.bottom, height - p.top)
        return RLE.from_column_runs(p, len(self), self.size)

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


def _plain_or_compressed(counts: Any) -> Counts:
    """COCO's counts of one mask, a list or a string."""
    if isinstance(counts, str | bytes):
        return decode_strings([counts])[0]
    plain = np.asarray(counts)
    if plain.ndim != 1 or plain.dtype.kind not in "iu" or (plain < 0).any() or (plain >= 1 << 32).any():
        raise ValueError("the counts of a mask must be a list of whole numbers, none of them negative")
    return plain.astype(np.uint32)
