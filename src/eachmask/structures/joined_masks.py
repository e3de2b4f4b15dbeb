"""Masks of several origins behind one noun: what a network found in several looks at one image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from eachmask.structures.masks import Index, Masks, as_index, check_joinable
from eachmask.structures.rle import RLE

if TYPE_CHECKING:
    import torch


@dataclass(eq=False, repr=False)
class JoinedMasks(Masks):
    """Masks of several collections in any order, each computed as its own collection does, when somebody asks.

    >>> one, two = (RLE.from_bitmaps(np.array([row], bool)) for row in ([[1, 1, 0]], [[0, 0, 1]]))
    >>> masks = JoinedMasks.of([one, two])[[1, 0]]
    >>> masks, masks.to_rle().area().tolist()
    (JoinedMasks(2 masks on 1 x 3), [1, 2])
    """

    parts: tuple[Masks, ...]
    rows: NDArray[np.int64]
    """(N,) which of the parts' masks, counted through all parts."""

    @staticmethod
    def of(parts: Sequence[Masks]) -> JoinedMasks:
        """All parts' masks behind one another.

        Raises:
            ValueError: no parts, or different canvases.
        """
        check_joinable(parts)
        return JoinedMasks(tuple(parts), np.arange(sum(map(len, parts))))

    @property
    def size(self) -> tuple[int, int]:  # type: ignore[override]
        """(height, width) of the canvas."""
        return self.parts[0].size

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Index) -> JoinedMasks:
        return JoinedMasks(self.parts, self.rows[as_index(index, len(self))])

    def to_rle(self) -> RLE:
        """The pixels of those that are asked for alone."""
        wanted, where = np.unique(self.rows, return_inverse=True)
        first, chosen = 0, []
        for part in self.parts:
            mine = wanted[(wanted >= first) & (wanted < first + len(part))] - first
            chosen.append(part[mine].to_rle())
            first += len(part)
        return Masks.cat(chosen)[where]

    def resize(self, size: tuple[int, int]) -> JoinedMasks:
        """Each part as it resizes itself."""
        return JoinedMasks(tuple(part.resize(size) for part in self.parts), self.rows)

    def to(self, device: torch.device | str) -> JoinedMasks:
        return JoinedMasks(tuple(part.to(device) for part in self.parts), self.rows)
