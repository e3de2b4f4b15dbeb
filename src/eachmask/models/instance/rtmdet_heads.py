"""RTMDet-Ins's heads: towers that levels share, kernels of masks, and the features that these read.

For prediction they have faster twins (``for_inference``), equal in what they say of the objects that are found.

Shapes: B images, K classes, 169 kernel weights, C channels.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eachmask.backbones.cspnext import ConvNorm
from eachmask.backbones.fuse.conv import SILU, FastConv2d
from eachmask.backbones.fuse.folding import fold
from eachmask.models.detection.dense import flat
from eachmask.ops.dynamic import num_kernel_weights, on_levels, patches_around


class HeadSizes(NamedTuple):
    """What heads of different networks differ in."""

    num_classes: int
    convs: int  # of each tower
    mask_convs: int
    prototypes: int  # channels of the mask features


class SepBNTower(nn.Module):
    """3 x 3 convolutions shared by the levels, each level with batch normalization of its own (section 3.1)."""

    def __init__(self, channels: int, depth: int, num_levels: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1, bias=False) for _ in range(depth))
        self.norms = nn.ModuleList(
            nn.ModuleList(nn.BatchNorm2d(channels) for _ in range(depth)) for _ in range(num_levels)
        )

    def forward(self, x: Tensor, level: int) -> Tensor:
        """(B, C, H, W) of one level -> the same shape."""
        for conv, norm in zip(self.convs, self.norms[level], strict=True):  # type: ignore[call-overload]
            x = F.silu(norm(conv(x)), inplace=True)
        return x

    def for_inference(self) -> FastTower:
        """A twin with convolutions of each level's own, the statistics folded in."""
        return FastTower(
            [
                [fold(cast(nn.Conv2d, conv), norm, SILU) for conv, norm in zip(self.convs, norms, strict=True)]  # type: ignore[call-overload]
                for norms in self.norms
            ]
        )


class FastTower(nn.Module):
    """A :class:`SepBNTower` for prediction."""

    def __init__(self, convs: list[list[FastConv2d]]) -> None:
        super().__init__()
        self.levels = nn.ModuleList(nn.Sequential(*level) for level in convs)

    def forward(self, x: Tensor, level: int) -> Tensor:
        """(B, C, H, W) of one level -> the same shape."""
        result: Tensor = self.levels[level](x)
        return result


class MaskFeatures(nn.Module):
    """All levels at the size of the finest, mixed, and reduced to a few prototypes (section 3.4)."""

    def __init__(self, channels: int, num_levels: int, sizes: HeadSizes) -> None:
        super().__init__()
        self.fuse = nn.Conv2d(num_levels * channels, channels, 1)
        self.convs = nn.Sequential(*(ConvNorm(channels, channels, 3) for _ in range(sizes.mask_convs)))
        self.project = nn.Conv2d(channels, sizes.prototypes, 1)

    def forward(self, levels: tuple[Tensor, ...]) -> Tensor:
        """Fine to coarse -> (B, 8, H, W)."""
        # Mixing channels and enlarging may change places, and mixing costs less on the small maps.
        first, *rest = self.fuse.weight.split(levels[0].shape[1], dim=1)
        x = F.conv2d(levels[0], first, self.fuse.bias)
        for level, weight in zip(levels[1:], rest, strict=True):
            x = x + F.interpolate(F.conv2d(level, weight), size=x.shape[-2:], mode="bilinear", align_corners=False)
        result: Tensor = self.project(self.convs(x))
        return result


class Heads(nn.Module):
    """Classes, distances and kernels of every place. Classes and distances read the same tower."""

    def __init__(self, channels: int, num_levels: int, sizes: HeadSizes) -> None:
        super().__init__()
        levels = range(num_levels)
        self.tower = SepBNTower(channels, sizes.convs, num_levels)
        self.kernel_towers = nn.ModuleList(
            nn.Sequential(*(ConvNorm(channels, channels, 3) for _ in range(sizes.convs))) for _ in levels
        )
        self.classes = nn.ModuleList(nn.Conv2d(channels, sizes.num_classes, 1) for _ in levels)
        self.distances = nn.ModuleList(nn.Conv2d(channels, 4, 1) for _ in levels)
        self.num_weights = num_kernel_weights(sizes.prototypes)
        self.kernels = nn.ModuleList(nn.Conv2d(channels, self.num_weights, 1) for _ in levels)
        self.mask_features = MaskFeatures(channels, num_levels, sizes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for classes, distances in zip(self.classes, self.distances, strict=True):
            # A score of 0.01 everywhere, as focal losses want.
            nn.init.constant_(classes.bias, -math.log(99))  # type: ignore[arg-type]
            nn.init.ones_(distances.bias)  # type: ignore[arg-type]

    def forward(self, level: Tensor, index: int, stride: int) -> tuple[Tensor, Tensor, Tensor]:
        """(B, C, H, W) -> (B, K, H, W) logits, (B, 4, H, W) px, (B, 169, H, W)."""
        x = self.tower(level, index)
        distances = F.relu(self.distances[index](x)) * stride
        return self.classes[index](x), distances, self.kernels_of(level, index)

    def kernels_of(self, level: Tensor, index: int) -> Tensor:
        """(B, C, H, W) -> (B, 169, H, W)."""
        result: Tensor = self.kernels[index](self.kernel_towers[index](level))
        return result

    def kernels_at(self, kernels: tuple[Tensor, ...], image: int, places: Tensor) -> Tensor:
        """Of all that :meth:`kernels_of` gave of the levels, what an image's places (N,) have: (N, 169)."""
        return flat([level[image : image + 1] for level in kernels])[0, places]

    def for_inference(self) -> Heads:
        """Itself, with kernels that are computed only where somebody asks."""
        self.__class__ = FastHeads
        return self


class FastHeads(Heads):
    """Heads whose kernels are computed where an object was found: a tower of convolutions sees only the squares around
    these places, where everywhere it would cost an eighth of the network's time."""

    def kernels_of(self, level: Tensor, index: int) -> Tensor:
        """(B, C, H, W) -> the same: what kernels are made of."""
        return level

    def kernels_at(self, kernels: tuple[Tensor, ...], image: int, places: Tensor) -> Tensor:
        """As :meth:`Heads.kernels_at`."""
        result = kernels[0].new_zeros((len(places), self.num_weights))
        for index, here, cells in on_levels(kernels, places):
            result[here] = self._networks(kernels[index][image], index, cells).to(result)
        return result

    def _networks(self, level: Tensor, index: int, cells: Tensor) -> Tensor:
        """Of some cells (N,) of a level (C, H, W): (N, 169)."""
        tower: Any = self.kernel_towers[index]
        x, inside = (
            patches_around(one, cells, len(tower)).permute(0, 3, 1, 2) for one in (level, torch.ones_like(level[:1]))
        )
        for i, conv in enumerate(tower, start=1):
            # Whole maps are padded with zeros before every convolution, not only before the first.
            x = conv(x)[..., 1:-1, 1:-1] * inside[..., i:-i, i:-i]
        result: Tensor = self.kernels[index](x).flatten(1)
        return result
