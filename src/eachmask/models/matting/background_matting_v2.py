"""Background Matting V2: a second photograph without the person says what is background; errors are refined in patches.

Lin, Ryabtsev, Sengupta, Curless, Seitz, Kemelmacher-Shlizerman: "Real-Time High-Resolution Background Matting", CVPR
2021, arXiv 2012.07810. Written from the paper and from recorded numbers.

The idea: image and clean background, reduced to a quarter, go through a network for segmentation, which says opacity,
foreground, a little hidden knowledge, and where it expects its own error. Most of a large image is plainly background
or plainly person: only the 4 x 4 cells of the highest expected error are computed again, at a half and at full size.

Where we differ: sizes that are no multiples of 4 are padded. What is padded counts as background in the losses.

Shapes: B images of H x W px in 0..1, h x w the reduced size, K cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eachmask.accel.lazy_dynamo import torchvision
from eachmask.models.config import changed
from eachmask.models.matting.background_network import STRIDE, paired
from eachmask.models.matting.network import UNIT, Mattes, MattingNetwork, Target, sobel, start_half_open
from eachmask.structures import DecodeOptions, ImageBatch, Matte
from eachmask.structures.backdrop import Backdrop

HIDDEN = 32
CELL = STRIDE
"""Side of what is refined or not, px."""


class Coarse(NamedTuple):
    """What the network says of the reduced images."""

    alpha: Tensor  # (B, 1, h, w) 0..1
    residual: Tensor  # (B, 3, h, w), to be added to the image
    error: Tensor  # (B, 1, h, w) expected error of alpha, 0..1
    hidden: Tensor  # (B, 32, h, w)


class Raw(NamedTuple):
    """What the network says of a batch."""

    alpha: Tensor  # (B, 1, H, W) 0..1
    foreground: Tensor  # (B, 3, H, W) RGB 0..1
    coarse_alpha: Tensor  # (B, 1, h, w)
    coarse_foreground: Tensor  # (B, 3, h, w)
    error: Tensor  # (B, 1, h, w)
    refined: Tensor  # (B, 1, H/4, W/4) bool, the cells that were computed again
    sizes: tuple[tuple[int, int], ...]  # valid (height, width) of each image


@dataclass(frozen=True)
class Config:
    """What a variant may change."""

    scale: float = 0.25
    """Of the reduced images: 0.25 for HD, 0.125 for 4K."""
    mode: Literal["base", "full", "sampling", "thresholding"] = "sampling"
    """Refine nothing, everything, the cells of the highest expected error, or those where it is above a threshold. The
    paper trains base at scale 1 before it trains the refiner too."""
    sample_pixels: int = 80_000
    """Of mode sampling: so many pixels per image at most."""
    threshold: float = 0.1
    """Of mode thresholding."""
    rates: tuple[int, ...] = (3, 6, 9)
    """Dilations of the atrous pyramid pooling."""
    kernel: Literal[1, 3] = 3
    """Side of the refiner's convolutions; with 1 a cell knows nothing of what is around it."""


# Blocks ---------------------------------------------------------------------------------------------------------------


class MobileNetV2(nn.Module):
    """torchvision's without its last convolution, for six channels: maps at strides 2, 4, 8 and 16."""

    channels = (16, 24, 32, 320)

    def __init__(self) -> None:
        super().__init__()
        self.features = torchvision().models.mobilenet_v2(weights=None).features[:-1]
        self.features[0][0] = nn.Conv2d(6, 32, 3, stride=2, padding=1, bias=False)
        self.features[14].conv[1][0].stride = (1, 1)
        for block in self.features[15:]:
            block.conv[1][0].dilation = block.conv[1][0].padding = (2, 2)

    def forward(self, pair: Tensor) -> list[Tensor]:
        maps, x = [], pair
        for first, last in ((0, 2), (2, 4), (4, 7), (7, 18)):
            x = self.features[first:last](x)
            maps.append(x)
        return maps


class ResNet50(nn.Module):
    """torchvision's, for six channels: maps at strides 2, 4, 8 and 16."""

    channels = (64, 256, 512, 2048)

    def __init__(self) -> None:
        super().__init__()
        net: Any = torchvision().models.resnet50(weights=None, replace_stride_with_dilation=[False, False, True])
        self.conv1 = nn.Conv2d(6, 64, 7, stride=2, padding=3, bias=False)
        self.bn1, self.relu, self.maxpool = net.bn1, net.relu, net.maxpool
        self.layer1, self.layer2, self.layer3, self.layer4 = net.layer1, net.layer2, net.layer3, net.layer4

    def forward(self, pair: Tensor) -> list[Tensor]:
        stem = self.relu(self.bn1(self.conv1(pair)))
        fine = self.layer1(self.maxpool(stem))
        middle = self.layer2(fine)
        return [stem, fine, middle, self.layer4(self.layer3(middle))]


class Decoder(nn.Module):
    """From the deepest map back to the pair of images, with a shortcut from every map on the way."""

    def __init__(self, maps: Sequence[int], widths: Sequence[int] = (256, 128, 64, 48, 5 + HIDDEN)) -> None:
        super().__init__()
        skips = [*maps[::-1][1:], 6]
        for i, skip in enumerate(skips, start=1):
            last = i == len(skips)
            setattr(self, f"conv{i}", nn.Conv2d(widths[i - 1] + skip, widths[i], 3, padding=1, bias=last))
            if not last:
                setattr(self, f"bn{i}", nn.BatchNorm2d(widths[i]))
        self.steps = len(skips)

    def forward(self, deepest: Tensor, shortcuts: Sequence[Tensor]) -> Tensor:
        """Shortcuts from coarse to fine, the last one the pair itself."""
        x = deepest
        for i, shortcut in enumerate(shortcuts, start=1):
            x = getattr(self, f"conv{i}")(torch.cat([_resized(x, shortcut.shape[2:]), shortcut], 1))
            if i < self.steps:
                x = F.relu(getattr(self, f"bn{i}")(x))
        return x


class Refiner(nn.Module):
    """Computes cells of 4 x 4 px again from what is around them, at a half and at full size."""

    def __init__(self, kernel: int, widths: Sequence[int] = (HIDDEN, 24, 16, 12, 4)) -> None:
        super().__init__()
        self.reach = kernel // 2
        self.conv1 = nn.Conv2d(widths[0] + 4 + 6, widths[1], kernel, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[1])
        self.conv2 = nn.Conv2d(widths[1], widths[2], kernel, bias=False)
        self.bn2 = nn.BatchNorm2d(widths[2])
        self.conv3 = nn.Conv2d(widths[2] + 6, widths[3], kernel, bias=False)
        self.bn3 = nn.BatchNorm2d(widths[3])
        self.conv4 = nn.Conv2d(widths[3], widths[4], kernel)

    def forward(self, pair: Tensor, coarse: Coarse, cells: Tensor | None) -> Tensor:
        """(B, 6, H, W), cells (K, 3) as (image, row, column) or None for all -> (B, 4, H, W) alpha and residual."""
        size = (pair.shape[2], pair.shape[3])
        known = torch.cat([coarse.hidden, coarse.alpha, coarse.residual], 1)
        half = (size[0] // 2, size[1] // 2)
        rim, outer = 2 * self.reach, 3 * self.reach  # what two convolutions take, and what they take of the half before
        if cells is None:
            near = torch.cat([_resized(known, half), _resized(pair, half)], 1)
            middle = self._half(F.pad(near, (outer,) * 4))
            wide = F.interpolate(middle, (size[0] + 2 * rim, size[1] + 2 * rim), mode="nearest")
            return self._full(wide, F.pad(pair, (rim,) * 4))
        rough = _resized(torch.cat([coarse.alpha, coarse.residual], 1), size)
        if not len(cells):
            return rough
        near = torch.cat([windows(_resized(part, half), cells, CELL // 2, outer) for part in (known, pair)], 1)
        wide = F.interpolate(self._half(near), scale_factor=2.0, mode="nearest")
        return replaced(rough, self._full(wide, windows(pair, cells, CELL, rim)), cells)

    def _half(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(x)))

    def _full(self, x: Tensor, pair: Tensor) -> Tensor:
        found: Tensor = self.conv4(F.relu(self.bn3(self.conv3(torch.cat([x, pair], 1)))))
        return found


def windows(maps: Tensor, cells: Tensor, side: int, margin: int) -> Tensor:
    """(B, C, H, W) -> (K, C, side + 2 margin, side + 2 margin) around each cell of this side; zeros beyond."""
    whole = side + 2 * margin
    views = F.pad(maps, (margin,) * 4).unfold(2, whole, side).unfold(3, whole, side)
    image, row, column = cells.unbind(1)
    found: Tensor = views[image, :, row, column]
    return found


def replaced(maps: Tensor, patches: Tensor, cells: Tensor) -> Tensor:
    """(B, C, H, W) with (K, C, 4, 4) in the place of the cells."""
    grid = maps.unflatten(3, (-1, CELL)).unflatten(2, (-1, CELL)).permute(0, 2, 4, 1, 3, 5)
    filled = grid.index_put(tuple(cells.unbind(1)), patches.to(maps))
    joined: Tensor = filled.permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)
    return joined


def _resized(values: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(values, tuple(size), mode="bilinear", align_corners=False)


# The model ------------------------------------------------------------------------------------------------------------


class BackgroundMattingV2(MattingNetwork[Raw]):
    """A coarse network, and a refiner of the cells that it expects to be wrong."""

    takes = Backdrop
    preprocess = UNIT

    def __init__(self, num_classes: int, config: Config, backbone: MobileNetV2 | ResNet50) -> None:
        super().__init__()
        self.num_classes, self.config = num_classes, config
        self.backbone = backbone
        self.aspp = torchvision().models.segmentation.deeplabv3.ASPP(backbone.channels[-1], list(config.rates))
        self.decoder = Decoder(backbone.channels)
        self.refiner = Refiner(config.kernel)
        for last in (self.decoder.conv4, self.refiner.conv4):
            start_half_open(last, 0)

    def forward(self, images: ImageBatch, given: Sequence[Any] | None = None) -> Raw:
        """(B, 3, H, W) and the clean background of each -> (B, 1, H, W) and (B, 3, H, W).

        Raises:
            UserError: no background is given.
        """
        pair = paired(images, given)
        height, width = images.tensor.shape[2:]
        reduced = self.reduced(pair)
        coarse = self.coarse(reduced)
        chosen = self.chosen(coarse.error, (pair.shape[2] // CELL, pair.shape[3] // CELL))
        full = self.config.mode == "full"
        found = self.refiner(pair, coarse, None if full else chosen[:, 0].nonzero())[..., :height, :width]
        return Raw(
            found[:, :1].clamp(0, 1),
            (found[:, 1:] + images.tensor).clamp(0, 1),
            coarse.alpha,
            (coarse.residual + reduced[:, :3]).clamp(0, 1),
            coarse.error,
            chosen,
            images.sizes,
        )

    def reduced(self, pair: Tensor) -> Tensor:
        """(B, 6, H, W) -> (B, 6, h, w)."""
        if self.config.scale == 1:
            return pair
        return F.interpolate(
            pair, scale_factor=self.config.scale, mode="bilinear", align_corners=False, recompute_scale_factor=True
        )

    def coarse(self, pair: Tensor) -> Coarse:
        """(B, 6, h, w) image and background."""
        *shortcuts, deepest = self.backbone(pair)
        found = self.decoder(self.aspp(deepest), [*shortcuts[::-1], pair])
        return Coarse(found[:, :1].clamp(0, 1), found[:, 1:4], found[:, 4:5].clamp(0, 1), found[:, 5:].relu())

    def chosen(self, error: Tensor, grid: tuple[int, int]) -> Tensor:
        """(B, 1, h, w) expected error -> (B, 1, *grid) bool, the cells to refine."""
        config = self.config
        if config.mode in ("base", "full"):
            return torch.full((len(error), 1, *grid), config.mode == "full", device=error.device)
        error = _resized(error.detach(), grid)
        if config.mode == "thresholding":
            return error > config.threshold
        flat = error.flatten(1)
        best = flat.topk(min(config.sample_pixels // CELL**2, flat.shape[1]), dim=1, sorted=False).indices
        return (torch.zeros_like(flat).scatter_(1, best, 1.0).view_as(error) > 0) & (error > 0)

    def losses(self, raw: Raw, targets: list[Matte]) -> dict[str, Tensor]:
        """Absolute differences of alpha, of its gradient and of the foreground, fine and coarse; and of the error."""
        fine = Target.of(targets, raw.alpha)
        if self.config.mode == "base":
            return _base_losses(raw, fine)
        size = raw.coarse_alpha.shape[2:]
        small_alpha, small_colors = _resized(fine.alpha, size), _resized(fine.foreground, size)
        known = (_resized(fine.colored, size) > 0).to(raw.alpha)
        expected = _resized(raw.error, raw.alpha.shape[2:])
        made = (_resized(raw.coarse_alpha, raw.alpha.shape[2:]) - fine.alpha).abs()
        return {
            "alpha": F.l1_loss(raw.alpha, fine.alpha),
            "coarse_alpha": F.l1_loss(raw.coarse_alpha, small_alpha),
            "edges": F.l1_loss(sobel(raw.alpha), sobel(fine.alpha)),
            "coarse_edges": F.l1_loss(sobel(raw.coarse_alpha), sobel(small_alpha)),
            "foreground": ((raw.foreground - fine.foreground) * fine.colored).abs().mean(),
            "coarse_foreground": ((raw.coarse_foreground - small_colors) * known).abs().mean(),
            "error": F.mse_loss(expected, made),
        }

    def select(self, raw: Raw, options: DecodeOptions) -> Mattes:
        """All of it."""
        return Mattes.cut(raw.alpha, raw.foreground, raw.sizes)


def _base_losses(raw: Raw, target: Target) -> dict[str, Tensor]:
    """Of the coarse network alone, whose alpha does not learn to be as wrong as was expected."""
    made = (raw.alpha.detach() - target.alpha).abs()
    return {
        "alpha": F.l1_loss(raw.alpha, target.alpha),
        "edges": F.l1_loss(sobel(raw.alpha), sobel(target.alpha)),
        "foreground": ((raw.foreground - target.foreground) * target.colored).abs().mean(),
        "error": F.mse_loss(_resized(raw.error, made.shape[2:]), made),
    }


# Variants -------------------------------------------------------------------------------------------------------------


def background_matting_v2_mobilenetv2(num_classes: int = 1, **config: Any) -> BackgroundMattingV2:
    """MobileNetV2: the light one."""
    return BackgroundMattingV2(num_classes, changed(Config(), config), MobileNetV2())


def background_matting_v2_resnet50(num_classes: int = 1, **config: Any) -> BackgroundMattingV2:
    """ResNet-50."""
    return BackgroundMattingV2(num_classes, changed(Config(), config), ResNet50())
