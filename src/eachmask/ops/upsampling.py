"""Ways to enlarge a map, from copying to learnt ones, all without weights of their own.

Shapes: maps are (B, C, h, w); r is the factor, a whole number.

Whoever writes a decoder chooses among these: *bed of nails* and *max unpooling* leave holes that convolutions have to
fill, *nearest*, *bilinear* and *bicubic* interpolate, a *transposed convolution* paints its kernel around every cell,
and *sub-pixel convolution* computes the r x r pixels of a cell as channels.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def bed_of_nails(maps: Tensor, factor: int = 2) -> Tensor:
    """Each value at the top left of its r x r pixels, zeros elsewhere.

    >>> bed_of_nails(torch.tensor([[[[1.0, 2.0]]]]))[0, 0].tolist()
    [[1.0, 0.0, 2.0, 0.0], [0.0, 0.0, 0.0, 0.0]]
    """
    batch, channels, height, width = maps.shape
    result = maps.new_zeros(batch, channels, height, factor, width, factor)
    result[:, :, :, 0, :, 0] = maps
    return result.reshape(batch, channels, height * factor, width * factor)


def interpolated(maps: Tensor, mode: str, factor: int = 2) -> Tensor:
    """Nearest, bilinear or bicubic (Keys' kernel with a = -0.75), pixels taken for squares: corners are not aligned.

    >>> interpolated(torch.tensor([[[[1.0, 2.0]]]]), "bilinear")[0, 0, 0].tolist()
    [1.0, 1.25, 1.75, 2.0]
    """
    corners = None if mode == "nearest" else False
    return F.interpolate(maps, scale_factor=factor, mode=mode, align_corners=corners)


def max_pool(maps: Tensor, factor: int = 2) -> tuple[Tensor, Tensor]:
    """The largest value of each r x r pixels, and the switches: where it was (Zeiler & Fergus, arXiv 1311.2901).

    >>> pooled, switches = max_pool(torch.tensor([[[[1.0, 5.0], [2.0, 3.0]]]]))
    >>> pooled.item(), switches.item()
    (5.0, 1)
    """
    pooled, switches = F.max_pool2d(maps, factor, return_indices=True)
    return pooled, switches


def max_unpool(maps: Tensor, switches: Tensor, size: tuple[int, int], factor: int = 2) -> Tensor:
    """Each value back where the largest one was before pooling, zeros elsewhere.

    Args:
        switches: from :func:`max_pool`.
        size: (height, width) before it; what is left over of odd sides becomes 0.

    >>> maps = torch.tensor([[[[1.0, 5.0], [2.0, 3.0]]]])
    >>> max_unpool(*max_pool(maps), size=(2, 2))[0, 0].tolist()
    [[0.0, 5.0], [0.0, 0.0]]
    """
    return F.max_unpool2d(maps, switches, (factor, factor), output_size=size)


def bilinear_kernel(channels: int, factor: int) -> Tensor:
    """(C, C, 2r - r % 2, the same) weights of a transposed convolution that interpolates each channel for itself.

    Shelhamer, Long, Darrell: arXiv 1605.06211, section 4.3. To be used with stride r and padding ceil((r - 1) / 2).

    >>> bilinear_kernel(1, 2)[0, 0, 1].tolist()
    [0.1875, 0.5625, 0.5625, 0.1875]
    """
    side = 2 * factor - factor % 2
    place = torch.arange(side, dtype=torch.float32)
    center = factor - 1 if side % 2 else factor - 0.5
    line = 1 - (place - center).abs() / factor
    result = torch.zeros(channels, channels, side, side)
    result[torch.arange(channels), torch.arange(channels)] = line[:, None] * line
    return result


def checkerboard(maps: Tensor, factor: int = 2) -> Tensor:
    """() how much the r x r places within a cell differ on the whole: 0 where there is no checkerboard.

    The deviation of the mean values of the places, over the deviation of all values (Odena et al., Distill 2016, show
    the pattern; the measure is ours).

    >>> maps = torch.tensor([[1.0, 0.0], [0.0, 0.0]]).repeat(4, 4)[None, None]
    >>> checkerboard(maps).item(), checkerboard(torch.ones(1, 1, 8, 8)).item()
    (1.0, 0.0)
    """
    height, width = (side // factor * factor for side in maps.shape[-2:])
    maps = maps[..., :height, :width]
    cells = maps.unflatten(-1, (-1, factor)).unflatten(-3, (-1, factor))
    places = cells.mean(dim=(0, 2, 4))  # (C, r, r)
    spread = maps.std(dim=(0, 2, 3), correction=0).clamp(min=1e-12)
    result: Tensor = (places.std(dim=(1, 2), correction=0) / spread).mean()
    return result


def sub_pixel(maps: Tensor, factor: int = 2) -> Tensor:
    """(B, C r^2, h, w) -> (B, C, r h, r w): channels become the pixels of their cell (Shi et al., arXiv 1609.05158).

    >>> sub_pixel(torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 4, 1, 1))[0, 0].tolist()
    [[1.0, 2.0], [3.0, 4.0]]
    """
    result: Tensor = F.pixel_shuffle(maps, factor)
    return result


def icnr_(weight: Tensor, factor: int = 2) -> Tensor:
    """Initialize a convolution before :func:`sub_pixel` so that it begins as nearest-neighbor enlargement.

    Aitken et al., arXiv 1707.02937: the r^2 channels of one pixel begin equal, so there is no checkerboard at first.

    Args:
        weight: (C r^2, ...), already initialized; changed in place.

    >>> icnr_(torch.tensor([[1.0], [2.0], [3.0], [4.0]])).flatten().tolist()
    [1.0, 1.0, 1.0, 1.0]
    """
    with torch.no_grad():
        weight.copy_(weight[:: factor**2].repeat_interleave(factor**2, dim=0))
    return weight
