"""Background Matting: with a second photograph of the background alone, nobody has to draw a trimap.

Sengupta, Jayaram, Curless, Seitz, Kemelmacher-Shlizerman: "Background Matting: The World is Your Green Screen", CVPR
2020, arXiv 2004.00626. Written from the paper.

The idea: what differs from the clean background is the subject, but shadows differ too, and where the subject has the
background's color nothing does. A rough, soft outline of the subject helps there, and is wrong along hair. So the
network has an encoder for each of them and lets the image's own features choose: a selector joins the image with each
cue, the combinator (the "context switching block") joins what they chose. Two decoders say opacity and foreground.

Where we differ: the rough outline is made of the difference of both photographs, not by a network that knows people
alone, so that any subject will do; motion, a cue for videos, is left out; and so is the second stage of training, in
which a discriminator judges composites of footage without mattes.

Shapes: B images of H x W px in 0..1, w the width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eachmask.models.config import changed
from eachmask.models.matting.background_network import paired
from eachmask.models.matting.network import UNIT, Mattes, MattingNetwork, Target, sobel
from eachmask.structures import DecodeOptions, ImageBatch, Matte
from eachmask.structures.backdrop import Backdrop

SHRINK, GROW, BLUR = 5, 21, 13
"""Sides of the squares by which the rough outline is made smaller (specks go), larger and soft, px."""


class Raw(NamedTuple):
    """What the network says of a batch, and what it was shown."""

    alpha: Tensor  # (B, 1, H, W) 0..1
    foreground: Tensor  # (B, 3, H, W) RGB 0..1
    pair: Tensor  # (B, 6, H, W) image and background
    sizes: tuple[tuple[int, int], ...]  # valid (height, width) of each image


@dataclass(frozen=True)
class Config:
    """What a variant may change. Defaults are the paper's."""

    width: int = 64
    """Channels at the image's own resolution; twice and four times as many at a half and a quarter."""
    shared_blocks: int = 7
    """Residual blocks after the combinator ..."""
    own_blocks: int = 3
    """... and in each decoder."""
    differs: float = 0.08
    """From this difference of a color on, 0..1, a pixel belongs to the rough outline."""


# Blocks ---------------------------------------------------------------------------------------------------------------


class Encoder(nn.Module):
    """One of the inputs -> its features at a half and at a quarter of the resolution."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.to_full = _conv(channels, width, 7)
        self.to_half = _conv(width, 2 * width, 3, 2)
        self.to_quarter = _conv(2 * width, 4 * width, 3, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, H, W) -> (B, 2w, H/2, W/2), (B, 4w, H/4, W/4)."""
        half = self.to_half(self.to_full(x))
        return half, self.to_quarter(half)


class ContextSwitching(nn.Module):
    """What the image's features choose of each cue, joined with them (paper, figure 2)."""

    def __init__(self, width: int, cues: int = 2) -> None:
        super().__init__()
        self.selectors = nn.ModuleList(_conv(8 * width, width, 1) for _ in range(cues))
        self.combinator = _conv((4 + cues) * width, 4 * width, 1)

    def forward(self, image: Tensor, cues: Sequence[Tensor]) -> Tensor:
        """(B, 4w, h, w) of the image and of each cue -> (B, 4w, h, w)."""
        chosen = [select(torch.cat([image, cue], 1)) for select, cue in zip(self.selectors, cues, strict=True)]
        joined: Tensor = self.combinator(torch.cat([image, *chosen], 1))
        return joined


class Residual(nn.Module):
    """Two convolutions and what they began with."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = _conv(channels, channels, 3)
        self.second = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = x + self.second(self.first(x))
        return found


class Decoder(nn.Module):
    """Residual blocks, and up to the image's resolution; foregrounds see the image's own map at a half."""

    def __init__(self, width: int, blocks: int, outputs: int, skip: int = 0) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(Residual(4 * width) for _ in range(blocks)))
        self.to_half = _conv(4 * width, 2 * width, 3)
        self.to_full = _conv(2 * width + skip, width, 3)
        self.last = nn.Conv2d(width, outputs, 7, padding=3)

    def forward(self, x: Tensor, skips: Sequence[Tensor] = ()) -> Tensor:
        """(B, 4w, H/4, W/4) and maps at a half -> (B, outputs, H, W) in 0..1."""
        half = self.to_half(_doubled(self.blocks(x)))
        found: Tensor = self.last(self.to_full(_doubled(torch.cat([half, *skips], 1)))).sigmoid()
        return found


def _conv(inputs: int, outputs: int, side: int, stride: int = 1) -> nn.Sequential:
    """Normalized, ReLU."""
    conv = nn.Conv2d(inputs, outputs, side, stride, side // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


def _doubled(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)


def rough_outline(pair: Tensor, differs: float) -> Tensor:
    """Where image and background (B, 6, H, W) differ, without specks, grown, with soft borders: (B, 1, H, W) 0..1."""
    apart = (pair[:, :3] - pair[:, 3:]).abs().amax(1, keepdim=True) >= differs
    solid = -F.max_pool2d(-apart.to(pair), SHRINK, 1, SHRINK // 2)
    grown = F.max_pool2d(solid, GROW, 1, GROW // 2)
    return F.avg_pool2d(F.avg_pool2d(grown, BLUR, 1, BLUR // 2), BLUR, 1, BLUR // 2)


# The model ------------------------------------------------------------------------------------------------------------


class BackgroundMatting(MattingNetwork[Raw]):
    """Encoders of the image and of two cues, a block that chooses among them, and two decoders."""

    takes = Backdrop
    preprocess = UNIT

    def __init__(self, num_classes: int, config: Config) -> None:
        super().__init__()
        self.num_classes, self.config = num_classes, config
        width = config.width
        self.image, self.background, self.outline = Encoder(3, width), Encoder(3, width), Encoder(1, width)
        self.switching = ContextSwitching(width)
        self.blocks = nn.Sequential(*(Residual(4 * width) for _ in range(config.shared_blocks)))
        self.alpha = Decoder(width, config.own_blocks, 1)
        self.foreground = Decoder(width, config.own_blocks, 3, skip=2 * width)

    def forward(self, images: ImageBatch, given: Sequence[Any] | None = None) -> Raw:
        """(B, 3, H, W) and the clean background of each -> (B, 1, H, W) and (B, 3, H, W).

        Raises:
            UserError: no background is given.
        """
        pair = paired(images, given)
        outline = rough_outline(pair, self.config.differs)
        half, image = self.image(pair[:, :3])
        cues = [self.background(pair[:, 3:])[1], self.outline(outline)[1]]
        x = self.blocks(self.switching(image, cues))
        height, width = images.tensor.shape[2:]
        found = [self.alpha(x), self.foreground(x, [half]), pair]
        alpha, foreground, pair = (part[..., :height, :width] for part in found)
        return Raw(alpha, foreground, pair, images.sizes)

    def losses(self, raw: Raw, targets: list[Matte]) -> dict[str, Tensor]:
        """Absolute differences of alpha, of its gradient, of the foreground and of the image that they make (eq. 3)."""
        target = Target.of(targets, raw.alpha)
        image, behind = raw.pair[:, :3], raw.pair[:, 3:]
        return {
            "alpha": F.l1_loss(raw.alpha, target.alpha),
            "edges": F.l1_loss(sobel(raw.alpha), sobel(target.alpha)),
            "foreground": 2 * ((raw.foreground - target.foreground) * target.colored).abs().mean(),
            "image": F.l1_loss(torch.lerp(behind, raw.foreground.float(), raw.alpha.float()), image),
        }

    def select(self, raw: Raw, options: DecodeOptions) -> Mattes:
        """All of it."""
        return Mattes.cut(raw.alpha, raw.foreground, raw.sizes)


# Variants -------------------------------------------------------------------------------------------------------------


def background_matting(num_classes: int = 1, **config: Any) -> BackgroundMatting:
    """As in the paper."""
    return BackgroundMatting(num_classes, changed(Config(), config))


def background_matting_small(num_classes: int = 1, **config: Any) -> BackgroundMatting:
    """A quarter of the channels and half of the blocks: learns and answers on a CPU."""
    return BackgroundMatting(num_classes, changed(Config(width=16, shared_blocks=4, own_blocks=2), config))
