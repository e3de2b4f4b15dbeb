"""Centers and offsets: things as what points to one place (Panoptic-DeepLab, arXiv 1911.10194, sections 3.1 and 3.2).

Places are (row, column) of pixels, counted from 0 at the center of the first one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from eachmask.structures import PanopticMap

DISTANCES_CHUNK_SIZE = 1 << 22
"""Distances between pixels and centers that exist at once."""


def find_centers(heat: Tensor, threshold: float, window: int, top_k: int) -> Tensor:
    """(N, 2) int64 places of the local maxima of a map (H, W), by rows.

    Args:
        threshold: a center is above it.
        window: a center is the highest value, or one of the highest, of so many px around it, odd.
        top_k: a center is above the k-th highest of the maxima, so that fewer than k are left.

    >>> heat = torch.zeros(5, 7)
    >>> heat[1, 1], heat[1, 2], heat[3, 5] = 0.9, 0.8, 0.5
    >>> find_centers(heat, 0.1, 3, 10).tolist()
    [[1, 1], [3, 5]]
    """
    values = torch.where(heat > threshold, heat, -1.0)
    highest = F.max_pool2d(values[None, None], window, stride=1, padding=window // 2)[0, 0]
    values = torch.where(values == highest, values, -1.0)
    least = values.flatten().topk(min(top_k, values.numel())).values[-1].clamp(min=0)
    return (values > least).nonzero()


def nearest_center(inside: Tensor, offsets: Tensor, centers: Tensor) -> Tensor:
    """(H, W) int64: for each pixel 1 + the number of the center nearest to where it points; 0 outside.

    Args:
        inside: (H, W) bool; offsets: (2, H, W) px, rows and columns; centers: (N, 2).

    >>> nearest_center(torch.tensor([[True, True, False]]), torch.zeros(2, 1, 3), torch.tensor([[0, 2], [0, 0]]))
    tensor([[2, 1, 0]])
    """
    ids = torch.zeros(inside.shape, dtype=torch.int64, device=inside.device)
    if not len(centers):
        return ids
    ys, xs = inside.nonzero(as_tuple=True)
    found = []
    for y, x in zip(*(place.split(max(1, DISTANCES_CHUNK_SIZE // len(centers))) for place in (ys, xs)), strict=True):
        down = (y + offsets[0, y, x])[:, None] - centers[:, 0]
        across = (x + offsets[1, y, x])[:, None] - centers[:, 1]
        found.append((down**2 + across**2).argmin(1) + 1)
    if found:
        ids[ys, xs] = torch.cat(found)
    return ids


def means_of(ids: Tensor, areas: Tensor) -> Tensor:
    """(2, N) float64: the mean row and the mean column of each id's pixels; 0 of those without any.

    Args:
        ids: (H, W) int64, 0 .. N - 1; areas: (N,) how many pixels each has.

    >>> means_of(torch.tensor([[0, 1, 1]]), torch.tensor([1, 2])).tolist()
    [[0.0, 0.0], [0.0, 1.5]]
    """
    flat = ids.flatten()
    sums = [torch.bincount(flat, axis.flatten(), minlength=len(areas)) for axis in places(ids)]
    return torch.stack(sums) / areas.clamp(min=1)


def places(ids: Tensor) -> Tensor:
    """(2, H, W) float64: the row and the column of each pixel of a map (H, W).

    >>> places(torch.zeros(1, 2)).tolist()
    [[[0.0, 0.0]], [[0.0, 1.0]]]
    """
    sides = (torch.arange(n, dtype=torch.float64, device=ids.device) for n in ids.shape)
    return torch.stack(torch.meshgrid(*sides, indexing="ij"))


class CenterTargets(NamedTuple):
    """What is learnt from one image, on its padded batch."""

    small: Tensor  # (H, W) bool, pixels of small things
    heat: Tensor  # (H, W) float32, 1 on a center
    known: Tensor  # (H, W) bool, where the heat counts: segments that are no crowd
    offsets: Tensor  # (2, H, W) float32 px, rows and columns: center minus pixel
    inside: Tensor  # (H, W) bool, where offsets count: things that are no crowd


def center_targets(
    target: PanopticMap, things: Sequence[int], padded: tuple[int, int], sigma: float, small_area: int
) -> CenterTargets:
    """Where things have their means, and how far each of their pixels is from its own.

    The heat is a Gaussian around the pixel of the mean, cut off at 3 sigma, and the higher of two that overlap.

    Args:
        things: labels of things.
        padded: (height, width) of the batch, not smaller than the map.
        small_area: things with fewer pixels are small.

    >>> from eachmask.structures import Segment
    >>> learnt = center_targets(PanopticMap(torch.tensor([[7, 7, 7]]), (Segment(7, 0),)), [0], (1, 4), 1.0, 10)
    >>> learnt.offsets[1].tolist(), learnt.inside.tolist()
    ([[1.0, 0.0, -1.0, 0.0]], [[True, True, True, False]])
    """
    segments = sorted(target.segments, key=lambda segment: segment.id)
    ids = target.ids.cpu()
    numbers = torch.tensor([0, *(segment.id for segment in segments)])
    place = torch.searchsorted(numbers.int(), ids.contiguous())
    area = torch.bincount(place.flatten(), minlength=len(numbers))
    means = means_of(place, area)
    thing = torch.tensor([False, *(segment.label in things for segment in segments)])
    certain = torch.tensor([False, *(not segment.crowd for segment in segments)])
    height, width = ids.shape
    heat = torch.zeros(height, width)
    for number in thing.nonzero()[:, 0].tolist():
        _warm(heat, means[:, number].round().long().tolist(), sigma)
    offsets = torch.where(thing[place], means[:, place] - places(place), 0.0).float()
    result = (
        (thing & (area < small_area))[place], heat, certain[place], offsets, (thing & certain)[place],
    )  # fmt: skip
    more = (0, padded[1] - width, 0, padded[0] - height)
    return CenterTargets(*(F.pad(one, more) for one in result))


def _warm(heat: Tensor, center: Sequence[int], sigma: float) -> None:
    """Raise the heat around a center."""
    reach = int(3 * sigma + 1)
    rows, columns = (slice(max(0, c - reach), c + reach + 1) for c in center)
    part = heat[rows, columns]
    down, across = (torch.arange(part.shape[axis]) + max(0, c - reach) - c for axis, c in enumerate(center))
    distance = down[:, None] ** 2 + across**2
    torch.maximum(part, torch.exp(-distance / (2 * sigma**2)), out=part)
