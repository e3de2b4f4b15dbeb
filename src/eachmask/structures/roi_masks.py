"""RoIMasks: what a box head predicts, kept small until somebody needs the pixels."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from eachmask.structures import boxes as box_ops
from eachmask.structures.masks import Index, Masks, as_index
from eachmask.structures.paste_runs import paste_to_rle
from eachmask.structures.rle import RLE


class RoIMasks(Masks):
    """N grids of probabilities, each spanning its box; pasted on demand, straight into runs.

    >>> masks = RoIMasks(torch.ones(1, 28, 28), torch.tensor([[2.0, 3, 8, 9]]), (20, 20))
    >>> masks.area().tolist(), masks.resize((40, 40)).area().tolist()
    ([36], [144])

    Args:
        probabilities: (N, m, m) float in 0..1.
        boxes: (N, 4) float xyxy in pixels of the canvas (``roi_boxes``; :meth:`boxes` are the pixels' own).
        size: (height, width) of the canvas.
        threshold: foreground from this probability on.
        paste: ``accurate`` samples at the exact box, ``compatible`` does what torchvision does.

    Raises:
        ValueError: grids and boxes do not pair off.
    """

    def __init__(
        self,
        probabilities: Tensor,
        boxes: Tensor,
        size: tuple[int, int],
        threshold: float = 0.5,
        paste: Literal["accurate", "compatible"] = "accurate",
    ) -> None:
        if len(probabilities) != len(boxes):
            raise ValueError(f"{len(probabilities)} mask grids for {len(boxes)} boxes")
        self.probabilities, self.roi_boxes = probabilities, boxes
        self.size, self.threshold, self.paste = (int(size[0]), int(size[1])), threshold, paste
        self._rle: RLE | None = None

    def __len__(self) -> int:
        return len(self.probabilities)

    def __getitem__(self, index: Index) -> RoIMasks:
        chosen = torch.from_numpy(as_index(index, len(self)))
        grids = self.probabilities[chosen.to(self.probabilities.device)]
        return self._with(grids, self.roi_boxes[chosen.to(self.roi_boxes.device)], self.size)

    def to(self, device: torch.device | str) -> RoIMasks:
        """The grids on another device."""
        return self._with(self.probabilities.to(device), self.roi_boxes.to(device), self.size)

    def resize(self, size: tuple[int, int]) -> RoIMasks:
        """Only the boxes grow; the grids are pasted at the final size, without a second sampling."""
        return self._with(self.probabilities, box_ops.resize(self.roi_boxes, self.size, size), size)

    def to_rle(self) -> RLE:
        if self._rle is None:
            counts, offsets = paste_to_rle(self.probabilities, self.roi_boxes, self.size, self.threshold, self.paste)
            self._rle = RLE(counts, offsets, self.size)
        return self._rle

    def _with(self, probabilities: Tensor, boxes: Tensor, size: tuple[int, int]) -> RoIMasks:
        return RoIMasks(probabilities, boxes, size, self.threshold, self.paste)
