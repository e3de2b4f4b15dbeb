"""Masks: one noun for N masks on one canvas, whatever they are kept as.

Six representations behind one set of methods: :class:`~eachmask.structures.rle.RLE` (exact), ``Polygons``,
``Bitmaps`` (cropped), ``RoIMasks`` (what a box head predicts, not pasted yet), ``SoftMasks`` (crops of coarse maps) and
``LogitMasks`` (a promptable network's answers); models add their own. A representation says how to become RLE; every
verb has a definition through RLE here and may have a cheaper one of its own.
No verb builds N x H x W.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from eachmask.structures.rle_codec import offsets_of

if TYPE_CHECKING:
    import torch

    from eachmask.structures.bitmaps import Bitmaps
    from eachmask.structures.polygons import Polygons
    from eachmask.structures.rle import RLE

_BAND = 1 << 22
"""Pixels of a label map that are looked at at a time."""
Index = Any
"""An int, slice, bool mask or index array / tensor."""


class Overlaps(NamedTuple):
    """The pairs of masks that share pixels, (P,) each, sorted by row.

    >>> from eachmask.structures.rle import RLE
    >>> masks = RLE.from_bitmaps(np.array([[[1, 1, 0]], [[0, 1, 1]]], bool))
    >>> masks.overlaps(masks).pixels.tolist()
    [2, 1, 1, 2]
    """

    rows: NDArray[np.int64]
    """Index into the first collection."""
    columns: NDArray[np.int64]
    """Index into the second one."""
    pixels: NDArray[np.int64]
    """What the two have in common, at least 1."""


class Masks(ABC):
    """N masks on a canvas of ``size`` = (height, width).

    >>> from eachmask.structures.rle import RLE
    >>> masks: Masks = RLE.from_bitmaps(np.array([[[1, 1, 0]], [[0, 1, 1]]], bool))
    >>> masks
    RLE(2 masks on 1 x 3)
    >>> masks.area().tolist(), masks.boxes().tolist(), masks.to_label_map().tolist()
    ([2, 2], [[0.0, 0.0, 2.0, 1.0], [1.0, 0.0, 3.0, 1.0]], [[1, 1, 2]])
    >>> masks.iou(masks).round(2).tolist()
    [[1.0, 0.33], [0.33, 1.0]]
    """

    size: tuple[int, int]

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: Index) -> Masks:
        """The chosen masks; a single int keeps the result a collection of one."""

    @abstractmethod
    def to_rle(self) -> RLE:
        """The exact pixels, as COCO counts them."""

    @abstractmethod
    def resize(self, size: tuple[int, int]) -> Masks:
        """The masks on a canvas stretched to (height, width)."""

    def __iter__(self) -> Iterator[Masks]:
        """One by one, each a collection of one."""
        return (self[i] for i in range(len(self)))

    @staticmethod
    def cat(parts: Sequence[Masks]) -> RLE:
        """All parts' masks behind one another.

        Raises:
            ValueError: no parts, or different canvases.
        """
        from eachmask.structures.rle import RLE

        check_joinable(parts)
        rles = [part.to_rle() for part in parts]
        lengths = np.concatenate([np.diff(rle.offsets) for rle in rles])
        return RLE(np.concatenate([rle.counts for rle in rles]), offsets_of(lengths), rles[0].size)

    def to(self, device: torch.device | str) -> Masks:
        """What a representation keeps in tensors goes to the device; all else stays in memory."""
        return self

    def area(self) -> NDArray[np.int64]:
        """(N,) foreground pixels."""
        return self.to_rle().area()

    def visible_area(self) -> NDArray[np.int64]:
        """(N,) pixels that each has in :meth:`to_label_map`: its area without what earlier masks cover."""
        rle, (height, width) = self.to_rle(), self.size
        visible = np.zeros(len(rle), np.int64)
        step = max(1, _BAND // max(1, width))
        for top in range(0, height, step):  # a map of the whole image can be large
            band = rle.crop((0, top, width, min(top + step, height))) if height > step else rle
            visible += np.bincount(band.to_label_map().ravel(), minlength=len(rle) + 1)[1:]
        return visible

    def boxes(self) -> NDArray[np.float32]:
        """(N, 4) tight xyxy, half-open; zeros for an empty mask."""
        return self.to_rle().boxes()

    def crop(self, box: Sequence[int]) -> RLE:
        """What lies in the window (x1, y1, x2, y2), whole pixels; the window may leave the canvas.

        Raises:
            ValueError: the window is empty.
        """
        return self.to_rle().crop(box)

    def shift(self, dx: int, dy: int, size: tuple[int, int]) -> RLE:
        """Moved by whole pixels onto a canvas of another size; what falls off it is gone."""
        return self.to_rle().shift(dx, dy, size)

    def pad(self, margins: Sequence[int]) -> RLE:
        """A canvas larger by (left, top, right, bottom) pixels."""
        left, top, right, bottom = margins
        return self.shift(left, top, (self.size[0] + top + bottom, self.size[1] + left + right))

    def flip(self, horizontal: bool = True) -> RLE:
        """Mirrored left to right, or top to bottom."""
        return self.to_rle().flip(horizontal)

    def overlaps(self, other: Masks) -> Overlaps:
        """Which masks meet, and in how many pixels: for thousands of objects, where N x M is too much."""
        return self.to_rle().overlaps(other)

    def intersection(self, other: Masks) -> NDArray[np.int64]:
        """(N, M) common pixels; pairs whose boxes are apart cost nothing."""
        return self.to_rle().intersection(other)

    def iou(self, other: Masks) -> NDArray[np.float64]:
        """(N, M) intersection over union, 0 where both are empty."""
        return self.to_rle().iou(other)

    def union(self) -> RLE:
        """One mask of all pixels that are in any."""
        return self.to_rle().union()

    def to_bitmaps(self) -> Bitmaps:
        """Cropped bitmaps, one per mask."""
        return self.to_rle().to_bitmaps()

    def to_polygons(self) -> Polygons:
        """Outlines along pixel edges, with holes: exact."""
        return self.to_rle().to_polygons()

    def to_label_map(self) -> NDArray[np.int32]:
        """(H, W): 0 is background, i + 1 the i-th mask; where masks overlap the earlier one wins."""
        return self.to_rle().to_label_map()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self)} masks on {self.size[0]} x {self.size[1]})"


def as_index(index: Index, num: int) -> NDArray[np.int64]:
    """Any index -> positions (K,).

    Raises:
        IndexError: out of range, or a bool mask of another length.

    >>> as_index(slice(None, None, -1), 3).tolist(), as_index(np.array([True, False, True]), 3).tolist()
    ([2, 1, 0], [0, 2])
    """
    if hasattr(index, "detach"):
        index = index.detach().cpu().numpy()
    if isinstance(index, int | np.integer):
        index = [index]
    if not isinstance(index, slice):
        index = np.asarray(index)
        if index.dtype == bool and index.shape != (num,):
            raise IndexError(f"a bool index of shape {index.shape} for {num} masks")
        if index.size == 0 and index.dtype != bool:
            index = index.astype(np.int64)
    return np.ascontiguousarray(np.arange(num)[index])  # torch takes no reversed views


def check_same_canvas(masks: Masks, other: Masks) -> None:
    """Raises ValueError where two collections are not of one image.

    >>> from eachmask.structures.rle import RLE
    >>> check_same_canvas(RLE.empty((4, 4)), RLE.empty((4, 4)))
    """
    if masks.size != other.size:
        raise ValueError(f"masks on {masks.size} and on {other.size} (height, width) are not of the same image")


def check_joinable(parts: Sequence[Masks]) -> None:
    """Raises ValueError where there are no collections, or where they are not of one image.

    >>> from eachmask.structures.rle import RLE
    >>> check_joinable([RLE.empty((4, 4)), RLE.empty((4, 4))])
    """
    if not parts:
        raise ValueError("nothing to join: the canvas size would be unknown")
    for part in parts:
        check_same_canvas(parts[0], part)
