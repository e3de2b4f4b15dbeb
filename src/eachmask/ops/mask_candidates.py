"""Candidates with masks of their own: from cells of grids to the instances of one image.

The last steps of SOLO and SOLOv2 (Wang et al., arXiv 2003.10152, section 3.3): local maxima of the class scores; scores
times *maskness*, the mean probability within the mask; Matrix NMS. Candidates may be thousands on an image of any
size, so their maps are made in groups, and made again for the few that remain.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from eachmask.ops.nms import mask_iou, mask_nms, matrix_nms
from eachmask.ops.suppression import suppress_by
from eachmask.structures import SoftMasks, decode
from eachmask.structures.decode import Suppression

MAP_CHUNK_SIZE = 1 << 21
"""Maps are made in groups of so many numbers."""

OVERLAP = 0.5
"""IoU of masks from which suppression drops one, where a user asks for such a suppression and names none."""

TIE = 1e-5
"""Neighbors whose scores differ by a smaller share are equal. A grid finer than the map that it was stretched from is
flat at its edges; there the last bits of a runtime's sums would choose the objects."""

FREE = -1.0
"""Score of a slot that holds no candidate."""


class Candidates(NamedTuple):
    """Cells of one image that may be objects, by level."""

    levels: Tensor  # (N,)
    cells: Tensor  # (N,) row * S + column
    labels: Tensor  # (N,)
    scores: Tensor  # (N,) of the class
    min_areas: Tensor  # (N,) cells of a map; a mask must have more


def find_candidates(logits: list[Tensor], threshold: float, min_areas: Sequence[int]) -> Candidates:
    """Cells above the threshold that are not below their left, upper and upper left neighbors' scores.

    Args:
        logits: per level (K, S, S) of one image; min_areas: per level.

    >>> logits = torch.full((1, 4, 4), -9.0)
    >>> logits[0, 1, 2] = 2.0
    >>> found = find_candidates([logits], 0.1, [0])
    >>> found.cells.tolist(), [round(score, 3) for score in found.scores.tolist()]
    ([6], [0.881])
    """
    parts = []
    for index, level in enumerate(logits):
        scores = level.float().sigmoid()
        best = F.max_pool2d(scores[None], 2, stride=1, padding=1)[0, :, :-1, :-1]
        scores = torch.where(scores >= best * (1 - TIE), scores, 0).flatten(1).T  # (S S, K)
        cells, labels = torch.nonzero(scores > threshold, as_tuple=True)
        level_of, area = torch.full_like(cells, index), torch.full_like(cells, min_areas[index])
        parts.append((level_of, cells, labels, scores[cells, labels], area))
    return Candidates(*(torch.cat(column) for column in zip(*parts, strict=True)))


class MapGeometry(NamedTuple):
    """Where maps lie in the image; all sizes are (height, width)."""

    maps: tuple[int, int]  # cells
    padded: tuple[int, int]  # px that the maps span
    valid: tuple[int, int]  # px of the image in them


class Limits(NamedTuple):
    """What is kept."""

    candidate: float  # scores of classes above this are looked at
    candidates: int  # so many of the best go into suppression
    sigma: float  # of Matrix NMS
    greedy: float | None  # IoU from which the lower-scoring goes, if suppression shall be greedy
    score: float  # at least, after suppression
    most: int  # instances
    suppression: Suppression | None = None  # that a user asks for; None: Matrix NMS, or greedy if there is an IoU


class Chosen(NamedTuple):
    """What is left of one image's candidates, best first."""

    rows: Tensor  # (N,) of the candidates
    labels: Tensor  # (N,)
    scores: Tensor  # (N,)


def choose(
    found: Candidates,
    maps_of: Callable[[Tensor], Tensor],
    geometry: MapGeometry,
    limits: Limits,
    mask_threshold: float,
) -> Chosen:
    """Scores times maskness, suppression by the masks.

    Args:
        maps_of: indices of candidates (n,) -> their maps (n, *geometry.maps), probabilities.

    >>> found = Candidates(*(torch.tensor(row) for row in ([0, 0], [5, 6], [0, 0], [0.75, 0.5], [0, 0])))
    >>> geometry = MapGeometry((4, 4), (16, 16), (16, 16))
    >>> limits = Limits(0.1, 100, 2.0, 0.5, 0.05, 10)
    >>> chosen = choose(found, lambda rows: torch.ones(len(rows), 4, 4), geometry, limits, 0.5)  # all over each other
    >>> chosen.rows.tolist(), chosen.scores.tolist()
    ([0], [0.75])
    """
    index, scores, inside = score_masks(found, maps_of, geometry, limits.candidates, mask_threshold)
    labels = found.labels[index]
    order, scores = suppress(inside, scores, labels, limits)
    return Chosen(index[order], labels[order], scores)


def pack_maps(
    num: int, maps_of: Callable[[slice], Tensor], geometry: MapGeometry, mask_threshold: float
) -> tuple[SoftMasks, Tensor]:
    """The masks of objects, and boxes around them (N, 4) px.

    Args:
        num: N.
        maps_of: some of 0..N-1 -> their maps (n, *geometry.maps), probabilities.

    >>> geometry = MapGeometry((4, 4), (16, 16), (16, 16))
    >>> masks, boxes = pack_maps(1, lambda rows: torch.ones(1, 4, 4), geometry, 0.5)
    >>> masks.area().tolist(), boxes.shape
    ([256], torch.Size([1, 4]))
    """
    step = maps_at_once(geometry)
    groups = (maps_of(slice(first, first + step)) for first in range(0, max(num, 1), step))
    parts = [SoftMasks.from_maps(m, geometry.padded, geometry.valid, mask_threshold) for m in groups]
    masks = SoftMasks.join(parts)
    return masks, masks.rough_boxes()


def score_masks(
    found: Candidates,
    maps_of: Callable[[Tensor], Tensor],
    geometry: MapGeometry,
    most: int,
    threshold: float,
    power: float = 1.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Scores times maskness, the mean probability within the mask; masks too small for their level are dropped.

    Maps are made in groups, and of these the bits of the best masks so far are kept, in as many slots.

    Args:
        most: so many candidates are kept.
        threshold: of the maps' probabilities.
        power: of the maskness, by which scores are multiplied.

    Returns:
        index (n,) of the best candidates, in no order, their scores (n,) and masks (n, H, W) bool.

    >>> found = Candidates(*(torch.tensor(row) for row in ([0, 0], [5, 6], [0, 0], [0.75, 0.5], [0, 16])))
    >>> geometry = MapGeometry((4, 4), (16, 16), (16, 16))
    >>> index, scores, masks = score_masks(found, lambda rows: torch.full((len(rows), 4, 4), 0.5), geometry, 10, 0.5)
    >>> index.tolist(), scores.tolist(), masks.shape  # the second one's mask is too small for its level
    ([0], [0.375], torch.Size([1, 4, 4]))
    """
    num = min(most, len(found.cells))
    index, scores = torch.zeros_like(found.cells[:num]), torch.full_like(found.scores[:num], FREE)
    masks = torch.empty((num, *geometry.maps), dtype=torch.bool, device=index.device)
    for group in torch.arange(len(found.cells), device=index.device).split(maps_at_once(geometry)):
        maps = maps_of(group)
        inside = maps >= threshold
        area = inside.flatten(1).sum(1)
        maskness = (maps * inside).flatten(1).sum(1) / area.clamp(min=1)
        new = torch.where(area > found.min_areas[group], found.scores[group] * maskness**power, FREE)
        best = torch.cat([scores, new]).topk(num).indices
        enter = best[best >= num] - num
        enter = enter[new[enter] != FREE]
        stays = torch.zeros_like(scores, dtype=torch.bool)
        stays[best[best < num]] = True
        # Nobody leaves before all slots are filled, and these are filled from the first on.
        slots = torch.nonzero(~stays | (scores == FREE)).squeeze(1)[: len(enter)]
        index[slots], scores[slots], masks[slots] = group[enter], new[enter], inside[enter]
    filled = int((scores != FREE).sum())
    return index[:filled], scores[:filled], masks[:filled]


def maps_at_once(geometry: MapGeometry) -> int:
    """How many maps to make together.

    >>> maps_at_once(MapGeometry((256, 256), (1024, 1024), (1024, 1024)))
    32
    """
    return max(1, MAP_CHUNK_SIZE // (geometry.maps[0] * geometry.maps[1]))


def suppress(masks: Tensor, scores: Tensor, labels: Tensor, limits: Limits) -> tuple[Tensor, Tensor]:
    """Matrix NMS or greedy suppression, unless the user asks for another.

    Args:
        masks: (N, H, W) bool; scores: (N,); labels: (N,).

    Returns:
        index of the kept, best first, and their new scores.

    >>> masks = torch.ones(2, 4, 4, dtype=torch.bool)
    >>> limits = Limits(0.1, 100, 2.0, 0.5, 0.05, 10)
    >>> index, scores = suppress(masks, torch.tensor([0.5, 0.75]), torch.tensor([0, 0]), limits)
    >>> index.tolist(), scores.tolist()
    ([1], [0.75])
    """
    return suppress_by_iou(mask_iou(masks, labels), scores, labels, limits)


def suppress_by_iou(iou: Tensor, scores: Tensor, labels: Tensor, limits: Limits) -> tuple[Tensor, Tensor]:
    """:func:`suppress` for who knows the (N, N) IoU already, 0 for pairs of other labels.

    >>> iou, labels = torch.tensor([[1.0, 0.9], [0.9, 1.0]]), torch.tensor([0, 0])
    >>> index, scores = suppress_by_iou(iou, torch.tensor([0.5, 0.75]), labels, Limits(0.1, 100, 2.0, None, 0.05, 10))
    >>> index.tolist(), [round(score, 3) for score in scores.tolist()]
    ([1, 0], [0.75, 0.099])
    """
    overlap = OVERLAP if limits.greedy is None else limits.greedy
    how = limits.suppression or ("matrix" if limits.greedy is None else "hard")
    if how in ("soft", "fast"):
        return suppress_by(iou, scores, decode.Limits(limits.score, overlap, limits.most, how))
    if how == "matrix":
        scores = matrix_nms(iou, scores, labels, limits.sigma)
        order = scores.argsort(descending=True, stable=True)
    else:
        order = mask_nms(iou, scores, overlap)
    order = order[scores[order] >= limits.score][: limits.most]
    return order, scores[order]
