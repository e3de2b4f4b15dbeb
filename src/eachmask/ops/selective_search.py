"""Selective search: where an object might be, from the image alone, without learning.

Uijlings, van de Sande, Gevers, Smeulders: "Selective Search for Object Recognition", IJCV 104, 2013.

The image is cut into superpixels (Felzenszwalb and Huttenlocher, IJCV 2004; scikit-image's). The two neighbors that
are most alike in color, texture, size and fit become one region, again and again, until the image is one region:
every region on the way is a proposal, small ones and the large ones made of them. Since no single measure fits all
objects, this is done under several strategies and the proposals are joined.

Where we differ: proposals whose boxes are the same (nearly always the same region under two strategies) are kept once;
the random order is repeatable.

Shapes: S superpixels, 2 S - 1 regions of one hierarchy, P proposals.
"""

from __future__ import annotations

import functools
import heapq
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from eachmask.structures import RLE, Bitmaps, ImageBatch
from eachmask.structures import boxes as box_ops

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.int64]

COLOR_BINS = 25
"""Per channel (paper, section 3.2.2)."""
TEXTURE_BINS, ORIENTATIONS = 10, 8
"""Per channel and direction."""
STEEPEST = 1 / math.sqrt(2 * math.pi)
"""Derivative of a step from 0 to 1 under a Gaussian of one pixel: the end of the last texture bin."""


@dataclass(frozen=True)
class Strategy:
    """One way of grouping (paper, sections 3.2 and 3.3)."""

    colors: Literal["hsv", "lab", "rgb", "gray"] = "lab"
    """Color space of superpixels and measures."""
    scale: float = 100.0
    """Felzenszwalb's k: the larger, the larger the superpixels."""
    measures: str = "CTSF"
    """Which similarities are added: C color, T texture, S size, F fill."""


FAST = tuple(
    Strategy(colors, scale, measures)
    for colors in ("hsv", "lab")
    for scale in (50.0, 100.0)
    for measures in ("CTSF", "TSF")
)
"""The paper's "fast" set of eight strategies (table 5): about 2000 boxes per image."""
SINGLE = (Strategy("rgb", 50.0),)
"""One strategy, for small simple images."""


@dataclass(frozen=True)
class Search:
    """How a batch of images is searched."""

    strategies: tuple[Strategy, ...] = FAST
    side: int = 500
    """Larger images are searched at this longer side, px."""
    min_size: int = 20
    """Pixels of the smallest superpixel."""
    most: int = 2000
    """Proposals per image."""
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """What the batch was normalized with ..."""
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)


class Proposals(NamedTuple):
    """Of one image, the most promising first."""

    boxes: Tensor  # (P, 4) xyxy px of the image the boxes are for, on its device
    regions: RLE  # P masks at the size that was searched, tightly within the boxes


class Regions(NamedTuple):
    """What the measures need to know about N regions (paper, section 3.2.2)."""

    color: Floats  # (N, 25 channels) histograms, each summing to 1
    texture: Floats  # (N, 80 channels) likewise
    size: Floats  # (N,) pixels
    boxes: Floats  # (N, 4) xyxy px


# Batches, images ------------------------------------------------------------------------------------------------------


@torch.no_grad()
def search_batch(images: ImageBatch, search: Search) -> list[Proposals]:
    """Proposals for every image of a normalized batch; there is at least one, the whole image.

    The valid part of each image is taken back to 0..1, shrunk to the search's side and searched on the CPU.

    >>> batch = ImageBatch.from_tensors([torch.zeros(3, 16, 16)])
    >>> (found,) = search_batch(batch, Search(strategies=SINGLE))
    >>> found.boxes.tolist()  # nothing but the whole image
    [[0.0, 0.0, 16.0, 16.0]]
    """
    mean, std = (images.tensor.new_tensor(v).float().view(3, 1, 1) for v in (search.mean, search.std))
    found = []
    for tensor, (height, width) in zip(images.tensor, images.sizes, strict=True):
        pixels = tensor[:, :height, :width].float() * std + mean
        factor = search.side / max(height, width)
        if factor < 1:
            small = (max(1, round(height * factor)), max(1, round(width * factor)))
            pixels = F.interpolate(pixels[None], small, mode="area")[0]
        image = pixels.clamp(0, 1).permute(1, 2, 0).double().cpu().numpy()
        boxes, regions = selective_search(image, search.strategies, search.min_size, search.most)
        boxes = box_ops.resize(boxes, regions.size, (height, width))
        found.append(Proposals(boxes.to(images.tensor.device), regions))
    return found


def selective_search(
    image: Floats, strategies: Sequence[Strategy] = FAST, min_size: int = 20, most: int = 2000, seed: int = 0
) -> Proposals:
    """Regions that might be objects.

    Args:
        image: (H, W, 3) RGB in 0..1.
        strategies: their proposals are joined.
        min_size: pixels of the smallest superpixel.
        most: keep at most so many.
        seed: of the order, which is the paper's: the i-th region from the top of its hierarchy comes at
            i * random(0..1), so that large regions tend to come first (section 4.2).

    Returns:
        boxes and regions in pixels of the image; the whole image is always among them.

    >>> image = np.zeros((32, 32, 3))
    >>> image[8:24, 8:24] = 1.0
    >>> found = selective_search(image, SINGLE, min_size=20)
    >>> [0, 0, 32, 32] in found.boxes.tolist(), len(found.boxes) == len(found.regions)
    (True, True)
    """
    size = (image.shape[0], image.shape[1])
    rng = np.random.default_rng(seed)
    # The whole image comes first; a map of one superpixel says so.
    maps, members = [np.zeros(size, np.int64)], [np.ones((1, 1), bool)]
    rank, boxes = [np.zeros(1)], [np.array([[0, 0, size[1], size[0]]])]
    superpixels = functools.cache(functools.partial(_superpixels, image, min_size=min_size))
    for strategy in strategies:
        labels, regions, parents = hierarchy(image, strategy, min_size, superpixels)
        place = len(parents) - np.arange(len(parents))  # the last one made is the first
        rank.append(place * rng.random(len(place)))
        boxes.append(regions.boxes.astype(np.int64))
        maps.append(labels)
        members.append(_members(parents, int(labels.max()) + 1))
    every = np.concatenate(boxes)
    order = np.argsort(np.concatenate(rank), kind="stable")
    first = np.sort(np.unique(every[order], axis=0, return_index=True)[1])[:most]
    chosen = order[first]
    owner, row = _owners([len(b) for b in boxes])
    crops = [
        members[owner[i]][row[i]][maps[owner[i]][y1:y2, x1:x2]]
        for i, (x1, y1, x2, y2) in zip(chosen, every[chosen].tolist(), strict=True)
    ]
    masks = Bitmaps(crops, every[chosen, :2].astype(np.int32), size)
    return Proposals(torch.from_numpy(every[chosen].astype(np.float32)), masks.to_rle())


def hierarchy(
    image: Floats,
    strategy: Strategy,
    min_size: int,
    superpixels: Callable[[str, float], tuple[Ints, Regions, Ints]] | None = None,
) -> tuple[Ints, Regions, Ints]:
    """Superpixels and everything that becomes of them.

    Args:
        superpixels: (color space, scale) -> the superpixels of the image, where several strategies share them.

    Returns:
        (H, W) superpixel of each pixel, the 2 S - 1 regions in the order of their making (superpixels first), and
        (2 S - 1,) the number of the region that each became part of, the last one's being its own.

    >>> image = np.zeros((32, 32, 3))
    >>> image[8:24, 8:24] = 1.0
    >>> labels, regions, parents = hierarchy(image, SINGLE[0], 20)
    >>> num = int(labels.max()) + 1
    >>> len(parents) == len(regions.size) == 2 * num - 1
    True
    """
    make = superpixels or functools.partial(_superpixels, image, min_size=min_size)
    labels, leaves, pairs = make(strategy.colors, strategy.scale)
    return labels, *merge(leaves, pairs, strategy.measures, labels.size)


def _superpixels(image: Floats, colors: str, scale: float, min_size: int) -> tuple[Ints, Regions, Ints]:
    """(H, W) superpixel of each pixel, what the measures need of them, and which are neighbors."""
    from skimage.segmentation import felzenszwalb  # here: every model of the family imports this file, few search

    channels = convert_colors(image, colors)
    if min(image.shape[:2]) < 3:  # too small to have an inside and an outside
        labels = np.zeros(image.shape[:2], np.int64)
    else:
        found = felzenszwalb(channels, scale=scale, sigma=0.8, min_size=min_size, channel_axis=-1)
        labels = found.astype(np.int64)
    return labels, describe(channels, labels), neighbors(labels)


def convert_colors(image: Floats, colors: str) -> Floats:
    """(H, W, 3) RGB in 0..1 -> (H, W, C) of the color space, 0..1 each.

    >>> convert_colors(np.ones((1, 1, 3)), "gray").shape
    (1, 1, 1)
    """
    from skimage.color import rgb2gray, rgb2hsv, rgb2lab

    if colors == "hsv":
        return np.asarray(rgb2hsv(image))
    if colors == "lab":
        return np.asarray(np.clip((rgb2lab(image) + [0, 128, 128]) / [100, 255, 255], 0, 1))
    if colors == "gray":
        return np.asarray(rgb2gray(image))[..., None]
    return image


# Measures -------------------------------------------------------------------------------------------------------------


def describe(channels: Floats, labels: Ints) -> Regions:
    """What the measures need of the S regions of a map.

    Args:
        channels: (H, W, C) in 0..1.
        labels: (H, W) 0..S-1.

    >>> regions = describe(np.zeros((2, 4, 1)), np.array([[0, 0, 1, 1], [0, 0, 1, 1]]))
    >>> regions.size.tolist(), regions.boxes.tolist()
    ([4.0, 4.0], [[0.0, 0.0, 2.0, 2.0], [2.0, 0.0, 4.0, 2.0]])
    """
    from scipy.ndimage import find_objects, gaussian_filter

    num = int(labels.max()) + 1
    flat = labels.reshape(-1)
    size = np.bincount(flat, minlength=num).astype(np.float64)
    color = [_histogram(channel, flat, num, COLOR_BINS, 1.0) for channel in np.moveaxis(channels, -1, 0)]
    texture = []
    for channel in np.moveaxis(channels, -1, 0):
        dy, dx = (gaussian_filter(channel, 1.0, order=order, mode="nearest") for order in ((1, 0), (0, 1)))
        for angle in np.arange(ORIENTATIONS) * (2 * np.pi / ORIENTATIONS):
            slope = np.maximum(np.cos(angle) * dx + np.sin(angle) * dy, 0)
            texture.append(_histogram(slope, flat, num, TEXTURE_BINS, STEEPEST))
    boxes = np.array([[x.start, y.start, x.stop, y.stop] for y, x in find_objects(labels + 1)], np.float64)
    return Regions(_share(np.concatenate(color, 1)), _share(np.concatenate(texture, 1)), size, boxes)


def similarity(a: Regions, b: Regions, measures: str, num_pixels: int) -> Floats:
    """How alike regions are, pair by pair (equations 1, 3, 4, 5 and 6): (N,) the sum of the chosen measures, 0..1 each.

    Args:
        measures: letters of C, T, S and F.
        num_pixels: of the image.

    >>> regions = describe(np.zeros((2, 4, 1)), np.array([[0, 0, 1, 1], [0, 0, 1, 1]]))
    >>> a, b = (Regions(*(values[i : i + 1] for values in regions)) for i in (0, 1))
    >>> similarity(a, b, "C", 8).tolist(), similarity(a, b, "S", 8).tolist()
    ([1.0], [0.0])
    """
    total = np.zeros(np.broadcast_shapes(a.size.shape, b.size.shape))
    if "C" in measures:
        total += np.minimum(a.color, b.color).sum(-1)
    if "T" in measures:
        total += np.minimum(a.texture, b.texture).sum(-1)
    if "S" in measures:
        total += 1 - (a.size + b.size) / num_pixels
    if "F" in measures:
        hull = _hull(a.boxes, b.boxes)
        total += 1 - ((hull[:, 2] - hull[:, 0]) * (hull[:, 3] - hull[:, 1]) - a.size - b.size) / num_pixels
    return total


def union(a: Regions, b: Regions) -> Regions:
    """Pair by pair, two regions as one: no pixel is looked at again (equation 2).

    >>> regions = describe(np.zeros((2, 4, 1)), np.array([[0, 0, 1, 1], [0, 0, 1, 1]]))
    >>> a, b = (Regions(*(values[i : i + 1] for values in regions)) for i in (0, 1))
    >>> union(a, b).boxes.tolist()
    [[0.0, 0.0, 4.0, 2.0]]
    """
    size = a.size + b.size
    weight_a, weight_b = (a.size / size)[:, None], (b.size / size)[:, None]
    color = weight_a * a.color + weight_b * b.color
    texture = weight_a * a.texture + weight_b * b.texture
    return Regions(color, texture, size, _hull(a.boxes, b.boxes))


# Grouping -------------------------------------------------------------------------------------------------------------


def neighbors(labels: Ints) -> Ints:
    """(H, W) -> (E, 2) pairs of regions that share an edge or a corner, each once, smaller number first.

    >>> neighbors(np.array([[0, 0, 1], [2, 2, 2]])).tolist()
    [[0, 1], [0, 2], [1, 2]]
    """
    pairs = []
    for a, b in (
        (labels[:, :-1], labels[:, 1:]),
        (labels[:-1], labels[1:]),
        (labels[:-1, :-1], labels[1:, 1:]),
        (labels[:-1, 1:], labels[1:, :-1]),
    ):
        pairs.append(np.stack([np.minimum(a, b), np.maximum(a, b)], -1)[a != b])
    return np.unique(np.concatenate(pairs).reshape(-1, 2), axis=0)


def merge(leaves: Regions, pairs: Ints, measures: str, num_pixels: int) -> tuple[Regions, Ints]:
    """The greedy grouping (paper, algorithm 1).

    Args:
        leaves: S superpixels.
        pairs: (E, 2) which are neighbors.

    Returns:
        all 2 S - 1 regions and the parent of each, see :func:`hierarchy`; fewer where parts of the map never meet.

    >>> labels = np.array([[0, 0, 1, 1, 2, 2]])
    >>> leaves = describe(np.zeros((1, 6, 1)), labels)
    >>> regions, parents = merge(leaves, neighbors(labels), "S", labels.size)
    >>> parents.tolist(), regions.size.tolist()
    ([3, 3, 4, 4, 4], [2.0, 2.0, 2.0, 4.0, 6.0])
    """
    num = len(leaves.size)
    all_of_them = Regions(*(np.concatenate([v, np.zeros((num - 1, *v.shape[1:]))]) for v in leaves))
    parents = np.arange(2 * num - 1)
    near: list[set[int]] = [set() for _ in range(2 * num - 1)]
    for i, j in pairs.tolist():
        near[i].add(j)
        near[j].add(i)
    scores = similarity(_rows(leaves, pairs[:, 0]), _rows(leaves, pairs[:, 1]), measures, num_pixels)
    queue = [(-score, i, j) for score, (i, j) in zip(scores.tolist(), pairs.tolist(), strict=True)]
    heapq.heapify(queue)
    new = num
    while queue:
        _, i, j = heapq.heappop(queue)
        if parents[i] != i or parents[j] != j:
            continue  # one of them has become part of another region since
        for values, value in zip(all_of_them, union(_rows(all_of_them, [i]), _rows(all_of_them, [j])), strict=True):
            values[new] = value[0]
        parents[i] = parents[j] = new
        near[new] = (near[i] | near[j]) - {i, j}
        around = sorted(near[new])
        for k in around:
            near[k] -= {i, j}
            near[k].add(new)
        alike = similarity(_rows(all_of_them, [new]), _rows(all_of_them, around), measures, num_pixels)
        for score, k in zip(alike.tolist(), around, strict=True):
            heapq.heappush(queue, (-score, k, new))
        new += 1
    return _rows(all_of_them, np.arange(new)), parents[:new]


def _members(parents: Ints, num: int) -> NDArray[np.bool_]:
    """(2 S - 1, S) which of the num superpixels each region is made of."""
    members = np.zeros((len(parents), num), bool)
    members[np.arange(num), np.arange(num)] = True
    for child, parent in enumerate(parents.tolist()):
        if parent != child:
            members[parent] |= members[child]
    return members


def _owners(lengths: list[int]) -> tuple[Ints, Ints]:
    """For all rows of arrays of these lengths, behind one another: number of the array, and row in it."""
    owner = np.repeat(np.arange(len(lengths)), lengths)
    return owner, np.concatenate([np.arange(n) for n in lengths])


def _histogram(values: Floats, owner: Ints, num: int, bins: int, end: float) -> Floats:
    """(num, bins) how many values of each owner lie in each of the bins of 0 .. end; what is above is in the last."""
    place = np.clip((values.reshape(-1) * (bins / end)).astype(np.int64), 0, bins - 1)
    return np.bincount(owner * bins + place, minlength=num * bins).reshape(num, bins).astype(np.float64)


def _share(histograms: Floats) -> Floats:
    return np.asarray(histograms / histograms.sum(1, keepdims=True))


def _hull(a: Floats, b: Floats) -> Floats:
    return np.concatenate([np.minimum(a[:, :2], b[:, :2]), np.maximum(a[:, 2:], b[:, 2:])], axis=1)


def _rows(regions: Regions, index: Any) -> Regions:
    return Regions(*(values[index] for values in regions))
