"""The way up from a backbone's maps for networks that are handed a trimap: every level is told what it knows.

Shapes: B images of H x W px.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from eachmask.models.matting.small_unet import conv

STRIDE = 32
"""Sides are padded to multiples of it, px."""
PLANES = 3
"""What the ladder is told of a trimap."""
FAR = 1e6
"""Distance from what is not in the image, px."""


class TrimapLadder(nn.Module):
    """U-Net's expanding path (Ronneberger et al. 2015) from stride 32 to stride 2.

    Args:
        channels: of the backbone's maps at strides 2, 4, 8, 16, 32.
        widths: of the ladder at strides 16, 8, 4, 2.
    """

    def __init__(self, channels: Sequence[int], widths: Sequence[int]) -> None:
        super().__init__()
        fine_to_coarse = [channels[0] + (3 + PLANES) * 2 * 2, *(width + PLANES for width in channels[1:-1])]
        below = channels[-1] + PLANES
        self.rungs = nn.ModuleList()
        for skip, width in zip(reversed(fine_to_coarse), widths, strict=True):
            self.rungs.append(conv(below + skip, width))
            below = width
        self.last = conv(below, below)

    def forward(self, images: Tensor, planes: Tensor, maps: Sequence[Tensor]) -> Tensor:
        """(B, 3, H, W), :func:`planes_of` trimaps and maps at strides 2..32 -> (B, widths[-1], H/2, W/2)."""
        pixels = F.pixel_unshuffle(torch.cat([images, planes], 1), 2)
        skips = [torch.cat([maps[0], pixels], 1)]
        skips += [torch.cat([found, F.avg_pool2d(planes, 2**level)], 1) for level, found in enumerate(maps[1:], 2)]
        x = skips.pop()
        for rung, skip in zip(self.rungs, reversed(skips), strict=True):
            x = rung(torch.cat([F.interpolate(x, size=skip.shape[-2:], mode="nearest"), skip], 1))
        found: Tensor = self.last(x)
        return found


def planes_of(known: Tensor) -> Tensor:
    """Foreground, unknown and background (B, 3, H, W) of 0 and 1 -> foreground, unknown and the share of the way.

    The last is 1 within the foreground, 0 in the background, and between them falls with the distances from both: in a
    band that was drawn along an outline the outline is at one half.
    """
    near = []
    for surely, _, not_at_all in known.cpu().numpy():
        away, off = _distances(surely), _distances(not_at_all)
        near.append(torch.from_numpy(off / np.maximum(away + off, 1e-6)))
    return torch.cat([known[:, :2], torch.stack(near)[:, None].to(known)], 1)


def _distances(plane: NDArray[np.float32]) -> NDArray[np.float32]:
    """From each pixel to the nearest where the plane is 1, px; far where none is."""
    if not plane.any():
        return np.full(plane.shape, FAR, np.float32)
    return np.asarray(cv2.distanceTransform((plane == 0).astype(np.uint8), cv2.DIST_L2, 5), np.float32)


def padded(values: Tensor) -> Tensor:
    """(B, C, H, W) with zeros at the right and the bottom, up to multiples of 32."""
    return F.pad(values, (0, -values.shape[3] % STRIDE, 0, -values.shape[2] % STRIDE))
