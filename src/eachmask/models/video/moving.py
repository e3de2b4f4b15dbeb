"""Clips made of still images, for networks that follow objects: things move, bend, change their light, are covered.

Each frame moves on from the one before by a random affine map, bent by a smooth field. Half of the clips have another
image as their background, which moves on its own, as in the training on still images of STM (Oh et al., ICCV 2019,
arXiv 1904.00607, section 3.3).

Shapes: T frames, N objects, H x W px.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from eachmask.structures import ImageBatch, Instances


@dataclass(frozen=True)
class Config:
    """How things move. Lengths are shares of the image's side."""

    frames: int = 3
    objects: int = 2
    """Of an image that are followed, at most."""
    shift: float = 0.08
    turn: float = 0.2
    """Largest angle, radians."""
    scale: float = 0.12
    """Largest absolute log of the factor; width against height half as much."""
    bend: float = 0.03
    light: float = 0.15
    """Deviation of the gain; offsets are as large."""
    jump_chance: float = 0.15
    """That a frame moves on three times as far."""
    behind_chance: float = 0.5
    """That objects stand before another image."""
    cover_chance: float = 0.3
    """That something passes before them."""
    forget: float = 0.25
    """Chance that the network is not told where an object was."""

    def still(self) -> Config:
        """Two frames and nothing but a common motion."""
        return replace(self, frames=2, jump_chance=0.0, behind_chance=0.0, cover_chance=0.0)


class Clip(NamedTuple):
    """One clip."""

    frames: Tensor  # (T, 3, H, W)
    masks: Tensor  # (T, N, H, W) 0 or 1, of each pixel one at most


def clips(images: ImageBatch, targets: Sequence[Instances], config: Config) -> list[Clip]:
    """A clip of each image that has an object."""
    result = []
    for i, target in enumerate(targets):
        masks = _drawn(target, images.tensor[i], config.objects)
        if len(masks):
            made = clip(images.tensor[i], masks, images.tensor[(i + 1) % len(targets)].flip(2), config)
            result.append(made)
    return result


def on_canvas(bitmaps: NDArray[Any], image: Tensor) -> Tensor:
    """(N, h, w) bool -> (N, H, W) float, as large as the image."""
    masks = torch.from_numpy(bitmaps).to(image)
    return F.pad(masks, (0, image.shape[2] - masks.shape[2], 0, image.shape[1] - masks.shape[1]))


def _drawn(target: Instances, image: Tensor, most: int) -> Tensor:
    """(N, H, W) of some objects, by chance, large ones first in line; each pixel is of one of them."""
    areas = torch.from_numpy(target.gt_masks.area()).float() * ~target.crowd.cpu()
    least = 0.002 * target.image_size[0] * target.image_size[1]
    usable = torch.nonzero(areas >= least).flatten()
    if not len(usable):
        return image.new_zeros(0, *image.shape[1:])
    chosen = usable[torch.multinomial(areas[usable].sqrt(), min(most, len(usable)))]
    chosen = chosen[: int(torch.randint(1, len(chosen) + 1, ()))]
    masks = on_canvas(target[chosen].gt_masks.to_rle().decode(), image)
    return masks * (masks.cumsum(0) <= 1)


def clip(image: Tensor, masks: Tensor, behind: Tensor, config: Config) -> Clip:
    """T frames of one image (3, H, W) and its masks (N, H, W).

    Args:
        behind: (3, H, W) another image, for the background and for what passes.
    """
    placed, passes = bool(torch.rand(()) < config.behind_chance), bool(torch.rand(()) < config.cover_chance)
    own, other = torch.eye(3), torch.eye(3)
    cover = _blob(image) if passes else None
    frames, shapes = [], []
    for t in range(config.frames):
        if t:
            own, other = _moved(own, config), _moved(other, config)
        moved = _warped(torch.cat([image, masks]), _grid(own, image, config))
        frame, shape = moved[:3], (moved[3:] > 0.5).float()
        around = _warped(behind, _grid(other, image, config)) if placed or passes else None
        if placed and around is not None:
            soft = moved[3:].sum(0).clamp(0, 1)
            frame = frame * soft + around * (1 - soft)
        if cover is not None and around is not None and t:
            hides = _warped(cover, _grid(other, image, replace(config, bend=0.0)))
            frame, shape = frame * (1 - hides) + around * hides, shape * (hides < 0.5)
        frames.append(_lit(frame, config.light))
        shapes.append(shape)
    return Clip(torch.stack(frames), torch.stack(shapes))


def _moved(matrix: Tensor, config: Config) -> Tensor:
    """The next map (3, 3) from a frame's places in -1..1 to the image's."""
    far = 3.0 if torch.rand(()) < config.jump_chance else 1.0
    angle, scale, aspect, dx, dy = (torch.rand(5) * 2 - 1).tolist()
    angle, scale, aspect = far * angle * config.turn, far * scale * config.scale, aspect * config.scale / 2
    cos, sin = math.cos(angle), math.sin(angle)
    x, y = math.exp(scale + aspect / 2), math.exp(scale - aspect / 2)
    shift = 2 * far * config.shift
    step = torch.tensor([[x * cos, -y * sin, dx * shift], [x * sin, y * cos, dy * shift], [0, 0, 1]])
    return matrix @ step


def _grid(matrix: Tensor, image: Tensor, config: Config) -> Tensor:
    """(1, H, W, 2) places to look at, bent by a smooth random field."""
    size = image.shape[1:]
    grid = F.affine_grid(matrix[None, :2].to(image), [1, 1, *size], align_corners=False)
    bent = torch.randn(1, 2, 5, 5).to(image) * config.bend
    return grid + F.interpolate(bent, size, mode="bilinear", align_corners=False).permute(0, 2, 3, 1)


def _warped(values: Tensor, grid: Tensor) -> Tensor:
    warped: Tensor = F.grid_sample(values[None], grid, padding_mode="reflection", align_corners=False)[0]
    return warped


def _lit(frame: Tensor, light: float) -> Tensor:
    """Another brightness, contrast and color of a normalized frame, and sometimes blur."""
    gain = torch.exp(torch.randn(3, 1, 1) * light / 3 + torch.randn(()) * light).to(frame)
    frame = frame * gain + (torch.randn(3, 1, 1) * light / 2 + torch.randn(()) * light).to(frame)
    if torch.rand(()) < 0.15:
        kernel = [3, 1] if torch.rand(()) < 0.5 else [1, 3]
        frame = F.avg_pool2d(frame[None], kernel, 1, [side // 2 for side in kernel])[0]
    return frame


def _blob(image: Tensor) -> Tensor:
    """(1, H, W) 0..1: an ellipse anywhere."""
    height, width = image.shape[1:]
    y, x = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    cx, cy, rx, ry = torch.rand(4).tolist()
    inside = ((x - cx) / (0.05 + 0.15 * rx)) ** 2 + ((y - cy) / (0.05 + 0.3 * ry)) ** 2 < 1
    blob: Tensor = inside[None].to(image)
    return blob
