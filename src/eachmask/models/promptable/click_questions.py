"""Questions: prompts of a batch as tensors, one row per object, and what they say as maps of a window.

Shapes: R questions, K clicks of the one that has most, m the side of a rough mask's grid, S the side of a window's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from eachmask.structures import Prompts, UserError

NUM_SAID = 8
"""Maps of :func:`said_in`."""
NEAR, FAR = 1.5, 0.25
"""Reach of a click: of the sharp map in cells of the grid, of the wide one as a share of the window."""
MAX_SCRIBBLE_POINTS = 16
"""A scribble is so many clicks at most."""
USUAL = 256.0
"""Side of a window in the middle of the scale, px."""


class Questions(NamedTuple):
    """What was said of each object."""

    image: Tensor  # (R,) int64, ascending
    number: Tensor  # (R,) int64 of the object in its image's prompts
    points: Tensor  # (R, K, 2) float xy, px
    signs: Tensor  # (R, K) int64: 1 on the object, 0 beside it, -1 no click
    boxes: Tensor  # (R, 4) float xyxy
    has_box: Tensor  # (R,) bool
    previous: Tensor  # (R, m, m) probabilities of a rough mask or an earlier answer ...
    previous_in: Tensor  # (R, 4) ... and the window that they span
    has_previous: Tensor  # (R,) bool

    @property
    def lone(self) -> Tensor:
        """(R,) bool: a single click is all that was said."""
        return (self.signs >= 0).sum(1).eq(1) & ~self.has_box & ~self.has_previous

    def take(self, rows: Tensor) -> Questions:
        """Some of them."""
        return Questions(*(column[rows] for column in self))

    def with_previous(self, probabilities: Tensor, windows: Tensor) -> Questions:
        """The same, after an answer."""
        return self._replace(
            previous=probabilities, previous_in=windows, has_previous=torch.ones_like(self.has_previous)
        )

    def with_clicks(self, points: Tensor, signs: Tensor) -> Questions:
        """One more click each: (R, 2), and (R,) with -1 for none."""
        return self._replace(
            points=torch.cat([self.points, points[:, None]], 1), signs=torch.cat([self.signs, signs[:, None]], 1)
        )

    def extent(self) -> tuple[Tensor, Tensor]:
        """(R, 4) the box around all that is known to belong to each object, and whether anything is that has an
        extent."""
        mask_boxes, seen = grid_boxes(self.previous > 0.5, self.previous_in)
        seen = seen & self.has_previous
        far = torch.finfo(torch.float32).max
        nowhere = self.boxes.new_tensor([far, far, -far, -far])
        boxes = [
            torch.where(self.has_box[:, None], self.boxes, nowhere),
            torch.where(seen[:, None], mask_boxes, nowhere),
        ]
        on = (self.signs == 1)[..., None]
        clicks = torch.cat(
            [
                torch.where(on, self.points, nowhere[:2]).amin(1),
                torch.where(on, self.points, nowhere[2:]).amax(1),
            ],
            1,
        )
        every = torch.stack([*boxes, clicks])
        known = self.has_box | seen
        return torch.cat([every[..., :2].amin(0), every[..., 2:].amax(0)], 1), known


def questions_of(prompts: Sequence[Prompts], side: int, device: torch.device) -> Questions:
    """One question for each object of each image.

    Args:
        side: of the grid that rough masks are kept in.

    Raises:
        UserError: there are texts.
    """
    if any(asked.texts for asked in prompts):
        raise UserError("this model understands no words: give points, boxes, scribbles or a rough mask")
    objects = [(i, n) for i, asked in enumerate(prompts) for n in range(len(asked))]
    rows = [_clicks(prompts[i], n) for i, n in objects]
    most = max((len(points) for points, _ in rows), default=1) or 1
    points, signs = torch.zeros(len(rows), most, 2), torch.full((len(rows), most), -1)
    for row, (own, marks) in enumerate(rows):
        points[row, : len(own)], signs[row, : len(own)] = own, marks.to(signs)
    boxes = [_box(prompts[i], n) for i, n in objects]
    masks = [_mask(prompts[i], n, side) for i, n in objects]
    none = torch.zeros(4)
    image, number = torch.tensor(objects).reshape(-1, 2).unbind(1)
    columns = (
        image,
        number,
        points,
        signs,
        torch.stack([none if box is None else box for box in boxes]) if boxes else torch.zeros(0, 4),
        torch.tensor([box is not None for box in boxes], dtype=torch.bool),
        torch.stack([mask[0] for mask in masks]) if masks else torch.zeros(0, side, side),
        torch.stack([mask[1] for mask in masks]) if masks else torch.zeros(0, 4),
        torch.tensor([mask[2] for mask in masks], dtype=torch.bool),
    )
    return Questions(*(column.to(device) for column in columns))


def said_in(questions: Questions, windows: Tensor, side: int) -> Tensor:
    """(R, NUM_SAID, S, S): clicks on the object sharp and wide, clicks beside it likewise, the previous answer and
    whether there is one, the box, and how large the window is."""
    x, y, size = places_in(windows, side)
    step = size / side
    dx = (x[:, None] - questions.points[..., :1]) / step[..., :1]
    dy = (y[:, None] - questions.points[..., 1:]) / step[..., 1:]
    squared = dx.square()[:, :, None, :] + dy.square()[:, :, :, None]  # (R, K, S, S)
    maps = []
    for sign in (1, 0):
        near = squared.masked_fill((questions.signs != sign)[..., None, None], torch.inf).amin(1)
        maps += [torch.exp(-near / (2 * NEAR**2)), torch.exp(-near.sqrt() / (FAR * side))]
    was = previous_in(questions, windows, side)
    present = questions.has_previous.to(was)[:, None, None]
    boxes = questions.boxes[:, :, None]
    across = torch.minimum(x - boxes[:, 0], boxes[:, 2] - x) / step[..., 0] + 0.5
    along = torch.minimum(y - boxes[:, 1], boxes[:, 3] - y) / step[..., 1] + 0.5
    box = torch.minimum(across[:, None, :], along[:, :, None]).clamp(0, 1) * questions.has_box.to(x)[:, None, None]
    scale = (size[:, 0].prod(1).sqrt() / USUAL).log2()[:, None, None] / 2
    maps += [was * present, present.expand_as(was), box, scale.expand_as(was)]
    return torch.stack(maps, 1)


def places_in(windows: Tensor, side: int) -> tuple[Tensor, Tensor, Tensor]:
    """x and y (R, S) each of the cells of windows (R, 4), px, and the windows' sizes (R, 1, 2)."""
    cells = (torch.arange(side, device=windows.device, dtype=windows.dtype) + 0.5) / side
    low, size = windows[:, None, :2], (windows[:, 2:] - windows[:, :2])[:, None]
    x, y = (low + cells[None, :, None] * size).unbind(2)
    return x, y, size


def previous_in(questions: Questions, windows: Tensor, side: int) -> Tensor:
    """(R, S, S): the previous answers as windows (R, 4) show them, 0 beyond what they span."""
    if not questions.has_previous.any():
        return questions.previous.new_zeros(len(windows), side, side)
    x, y, _ = places_in(windows, side)
    return resampled(questions.previous, questions.previous_in, x, y)


def resampled(grids: Tensor, spanned: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Grids (R, m, m) that span boxes (R, 4), read at columns x (R, S) and rows y (R, S); 0 beyond."""
    low, size = spanned[:, None, :2], (spanned[:, 2:] - spanned[:, :2]).clamp(min=1e-3)[:, None]
    u, v = 2 * (x - low[..., 0]) / size[..., 0] - 1, 2 * (y - low[..., 1]) / size[..., 1] - 1
    grid = torch.stack([u[:, None, :].expand(-1, y.shape[1], -1), v[:, :, None].expand(-1, -1, x.shape[1])], 3)
    return F.grid_sample(grids[:, None], grid.to(grids), padding_mode="zeros", align_corners=False)[:, 0]


def grid_boxes(masks: Tensor, spanned: Tensor) -> tuple[Tensor, Tensor]:
    """Boxes (R, 4) in px of what is set in grids (R, m, m) bool, and whether anything is."""
    side = masks.shape[-1]
    columns, rows = masks.any(1), masks.any(2)
    seen = columns.any(1)
    index = torch.arange(side, device=masks.device)

    def ends(line: Tensor) -> tuple[Tensor, Tensor]:
        first = torch.where(line, index, side).amin(1)
        last = torch.where(line, index + 1, 0).amax(1)
        return first / side, last / side

    (x1, x2), (y1, y2) = ends(columns), ends(rows)
    low, size = spanned[:, :2], spanned[:, 2:] - spanned[:, :2]
    corners = torch.stack([x1, y1, x2, y2], 1).to(spanned).reshape(-1, 2, 2)
    return (low[:, None] + corners * size[:, None]).flatten(1), seen


def _clicks(prompts: Prompts, number: int) -> tuple[Tensor, Tensor]:
    """(k, 2) and (k,) bool: points of one object, scribbles as some of their points, and its extreme points."""
    own = prompts.point_objects == number
    points, signs = [prompts.points[own].cpu().float()], [prompts.signs[own].cpu()]
    for line, sign, whose in zip(prompts.scribbles, prompts.scribble_signs, prompts.scribble_objects, strict=True):
        if int(whose) == number:
            some = torch.linspace(0, len(line) - 1, min(len(line), MAX_SCRIBBLE_POINTS)).round().long()
            points.append(line.cpu().float()[some])
            signs.append(sign.cpu().expand(len(some)))
    extremes = prompts.extremes[prompts.extreme_objects == number].cpu().float().reshape(-1, 2)
    return torch.cat([*points, extremes]), torch.cat([*signs, torch.ones(len(extremes), dtype=torch.bool)])


def _box(prompts: Prompts, number: int) -> Tensor | None:
    """The box around all boxes and extreme points of one object."""
    corners = [
        prompts.boxes[prompts.box_objects == number].reshape(-1, 2),
        prompts.extremes[prompts.extreme_objects == number].reshape(-1, 2),
    ]
    places = torch.cat([part.cpu().float() for part in corners])
    return torch.cat([places.amin(0), places.amax(0)]) if len(places) else None


def _mask(prompts: Prompts, number: int, side: int) -> tuple[Tensor, Tensor, bool]:
    """A grid of the union of an object's rough masks, the box that it spans, and whether there is any."""
    own = torch.nonzero(prompts.mask_objects == number).flatten().cpu()
    if prompts.masks is None or not len(own):
        return torch.zeros(side, side), torch.tensor([0.0, 0.0, 1.0, 1.0]), False
    bitmaps = prompts.masks[own].to_rle().union().to_bitmaps()
    crop, (x, y) = bitmaps.crops[0], bitmaps.origins[0].tolist()
    return (*shrunk(crop, (x, y), side), True) if crop.size else (torch.zeros(side, side), torch.ones(4), True)


def shrunk(crop: np.ndarray, origin: tuple[int, int], side: int) -> tuple[Tensor, Tensor]:
    """A bitmap as a grid of side x side shares, and the box that it spans; a cell of background all around it."""
    height, width = crop.shape
    pad_y, pad_x = -(-height // (side - 2)), -(-width // (side - 2))
    framed = np.pad(crop.astype(np.float32), ((pad_y, pad_y), (pad_x, pad_x)))
    smaller = framed.shape[0] > side or framed.shape[1] > side
    how = cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
    grid = torch.from_numpy(cv2.resize(framed, (side, side), interpolation=how))
    x, y = origin[0] - pad_x, origin[1] - pad_y
    return grid, torch.tensor([x, y, x + framed.shape[1], y + framed.shape[0]], dtype=torch.float32)
