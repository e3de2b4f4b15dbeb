"""U-Net: down to see much, up to see exactly, with a bridge on every level.

Ronneberger, Fischer, Brox: "U-Net: Convolutional Networks for Biomedical Image Segmentation", arXiv 1505.04597.

The idea: a contracting path of 3 x 3 convolutions halves the map four times; an expanding path doubles it again, joins
what the contracting path knew at that size, and convolves both. Convolutions do not pad, so that every pixel of the
result has seen real pixels all around; the image is mirrored at its border to make up for what is lost, and large ones
are cut into tiles. Gaps between objects that touch weigh ten times as much (``Config.border_weight``), else two cells
become one.

Where we differ from the paper: nothing in ``unet``. ``unet_s5_d16`` is MMSegmentation's: padded, with normalization and
bilinear enlargement. ``unet_lite0`` has the padded form above any backbone, whose finest map has stride 2. The objects
between which gaps are weighed are the connected parts of what is not the first class.

Shapes: B images of H x W px, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eachmask.backbones.by_name import backbone_named
from eachmask.models.config import changed
from eachmask.models.semantic.labeling import Labeling, PixelLoss, Raw, batch_labels, resized
from eachmask.ops.pixel_losses import IGNORED, border_weights, cross_entropy
from eachmask.ops.upsampling import bed_of_nails, icnr_, interpolated, sub_pixel
from eachmask.structures import ImageBatch, SemanticMap
from eachmask.structures.spatial import Spatial


@dataclass(frozen=True)
class Config:
    """What a variant may change."""

    backbone: str = ""
    """Of the contracting path; "" is the paper's own."""
    width: int = 64
    """Channels of the finest level, doubled by each coarser one; above a backbone its levels have their own."""
    depth: int = 4
    """How often the map is halved."""
    padded: bool = False
    """Convolutions keep the map's size; else the image is mirrored at its border."""
    norm: bool = False
    up: Literal["transposed", "sub_pixel", "bilinear", "bicubic", "nearest", "nails"] = "transposed"
    """How a level is enlarged; all but the first two have no weights, and a 1 x 1 convolution behind them."""
    head: Literal["plain", "fcn"] = "plain"
    """One 1 x 1 convolution, or a 3 x 3 one before it."""
    aux: bool = False
    """A second head on the last but one level, which only helps in training."""
    aux_weight: float = 0.4
    border_weight: float = 0.0
    """How much gaps between objects count (10 in the paper), see :func:`~eachmask.ops.pixel_losses.border_weights`."""
    border_sigma: float = 5.0
    loss: PixelLoss = PixelLoss()


class UNet(Labeling):
    """Both paths and a head."""

    def __init__(self, num_classes: int, config: Config) -> None:
        super().__init__()
        self.num_classes, self.config = num_classes, config
        c = config
        self.loss, self.aux_weight = c.loss, c.aux_weight
        if c.backbone:
            self.backbone: Any = backbone_named(c.backbone, finest=2)
            widths = list(self.backbone.channels[: c.depth + 1])
        else:
            widths = [c.width << level for level in range(c.depth + 1)]
            self.encoder = nn.ModuleList(
                double_conv(before, after, c) for before, after in zip([3, *widths], widths, strict=False)
            )
        self.decoder = nn.ModuleList(Up(fine, coarse, c) for fine, coarse in zip(widths, widths[1:], strict=False))
        self.classifier = self._head(widths[0], widths[0])
        self.aux_classifier = self._head(widths[1], widths[0]) if c.aux else None

    def forward(self, images: ImageBatch, given: Sequence[Spatial] | None = None) -> Raw:
        """(B, 3, H, W) -> (B, K, H, W), or the half of each side above a backbone."""
        height, width = images.tensor.shape[-2:]
        maps = self._contract(images.tensor if self.config.padded else mirrored(images, self.config.depth))
        levels = [maps[-1]]
        for up, skip in zip(reversed(self.decoder), reversed(maps[:-1]), strict=True):
            levels.append(up(levels[-1], skip))
        aux: Tensor | None = None
        if self.aux_classifier is not None and torch.is_grad_enabled():  # somebody learns
            aux = self.aux_classifier(levels[-2])
        logits = self.classifier(levels[-1])
        return Raw(logits if self.config.padded else logits[..., :height, :width], aux, (height, width), images.sizes)

    def losses(self, raw: Raw, targets: list[SemanticMap]) -> dict[str, Tensor]:
        """Those of :class:`PixelLoss`, and what the gaps between objects weigh."""
        found = super().losses(raw, targets)
        if self.config.border_weight:
            labels = batch_labels(targets, raw.padded)
            weights = torch.stack([self._gaps(own) for own in labels]).to(raw.logits.device)
            logits = resized(raw.logits.float(), raw.padded)
            found["gaps"] = cross_entropy(logits, labels.to(logits.device), pixel_weights=weights)
        return found

    def _contract(self, x: Tensor) -> list[Tensor]:
        if self.config.backbone:
            return list(self.backbone(x).maps[: self.config.depth + 1])
        maps = [self.encoder[0](x)]
        for level in list(self.encoder)[1:]:
            maps.append(level(F.max_pool2d(maps[-1], 2)))
        return maps

    def _head(self, channels: int, width: int) -> nn.Sequential:
        classes = nn.Conv2d(width, self.num_classes, 1)
        if self.config.head == "plain":
            return nn.Sequential(classes)
        return nn.Sequential(*conv(channels, width, 3, self.config), nn.Dropout(0.1), classes)

    def _gaps(self, labels: Tensor) -> Tensor:
        """(H, W) weights of one label map's gaps."""
        from scipy.ndimage import label

        numbers, _ = label((labels != IGNORED) & (labels > 0))
        return border_weights(torch.from_numpy(numbers), self.config.border_weight, self.config.border_sigma)


class Up(nn.Module):
    """One level of the expanding path: twice the size, half the channels, joined with the bridge and convolved."""

    def __init__(self, skip: int, below: int, config: Config) -> None:
        super().__init__()
        if config.up == "transposed":
            self.up: nn.Module = nn.ConvTranspose2d(below, skip, 2, 2)
        elif config.up == "sub_pixel":
            self.up = SubPixel(below, skip)
        else:
            self.up = nn.Sequential(Enlarged(config.up), *conv(below, skip, 1, config))
        self.convs = double_conv(2 * skip, skip, config)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """(B, C, h, w) and the bridge (B, C / 2, about 2 h, 2 w) -> the bridge's size, or the middle of it."""
        x = self.up(x)
        top, left = (skip.shape[-2] - x.shape[-2]) // 2, (skip.shape[-1] - x.shape[-1]) // 2
        skip = skip[..., top : top + x.shape[-2], left : left + x.shape[-1]]
        joined: Tensor = self.convs(torch.cat([skip, x], dim=1))
        return joined


class Enlarged(nn.Module):
    """Twice the size, without weights."""

    def __init__(self, how: Literal["bilinear", "bicubic", "nearest", "nails"]) -> None:
        super().__init__()
        self.how = how

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, 2 h, 2 w)."""
        return bed_of_nails(x) if self.how == "nails" else interpolated(x, self.how)


class SubPixel(nn.Module):
    """The four pixels of a cell as channels, which begin equal."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 4 * width, 1)
        assert self.conv.bias is not None
        for parameter in (self.conv.weight, self.conv.bias):
            icnr_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, width, 2 h, 2 w)."""
        return sub_pixel(self.conv(x))


def conv(channels: int, width: int, kernel: int, config: Config) -> list[nn.Module]:
    """A convolution, normalization where there is any, and a rectifier."""
    layer = nn.Conv2d(channels, width, kernel, padding=kernel // 2 if config.padded else 0, bias=not config.norm)
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    return [layer, *([nn.BatchNorm2d(width)] if config.norm else []), nn.ReLU(inplace=True)]


def double_conv(channels: int, width: int, config: Config) -> nn.Sequential:
    """Two convolutions of 3 x 3."""
    return nn.Sequential(*conv(channels, width, 3, config), *conv(width, width, 3, config))


def input_side(output: int, depth: int) -> tuple[int, int]:
    """What an unpadded U-Net needs for at least so many pixels of one side, and how many it then gives.

    >>> input_side(388, 4)
    (572, 388)
    """
    bottom = 5
    while True:
        side, given = bottom, bottom - 4
        for _ in range(depth):
            side, given = 2 * side + 4, 2 * given - 4
        if given >= output:
            return side, given
        bottom += 1


def mirrored(images: ImageBatch, depth: int) -> Tensor:
    """(B, 3, H, W) -> what an unpadded network needs for it: each image is continued by its own mirror image."""
    height, width = images.tensor.shape[-2:]
    sides = [input_side(side, depth) for side in (height, width)]
    made = []
    for image, size in zip(images.tensor, images.sizes, strict=True):
        rows, columns = (
            reflected(need, (need - given) // 2, valid).to(image.device)
            for (need, given), valid in zip(sides, size, strict=True)
        )
        made.append(image[:, rows][:, :, columns])
    return torch.stack(made)


def reflected(length: int, margin: int, valid: int) -> Tensor:
    """(length,) int64 places in 0..valid-1, mirrored at both ends without doubling the last one.

    >>> reflected(7, 2, 4).tolist()
    [2, 1, 0, 1, 2, 3, 2]
    """
    period = max(2 * valid - 2, 1)
    place = (torch.arange(length) - margin).abs() % period
    return torch.where(place < valid, place, period - place)


# Variants -------------------------------------------------------------------------------------------------------------

PADDED = Config(padded=True, norm=True, up="bilinear", head="fcn", aux=True)


def unet(num_classes: int = 2, **config: Any) -> UNet:
    """The paper's: 64 to 1024 channels, unpadded."""
    return UNet(num_classes, changed(Config(), config))


def unet_tiny(num_classes: int = 2, **config: Any) -> UNet:
    """The paper's with an eighth of the channels and three levels: trains on a CPU."""
    return UNet(num_classes, changed(Config(width=8, depth=3), config))


def unet_s5_d16(num_classes: int = 2, **config: Any) -> UNet:
    """MMSegmentation's: five levels, padded, bilinear, normalized."""
    return UNet(num_classes, changed(PADDED, config))


def unet_lite0(num_classes: int = 2, **config: Any) -> UNet:
    """EfficientNet-Lite0 as the contracting path: trains on a CPU from few images."""
    light = replace(PADDED, backbone="tf_efficientnet_lite0", up="transposed", aux=False, width=16)
    return UNet(num_classes, changed(light, config))
