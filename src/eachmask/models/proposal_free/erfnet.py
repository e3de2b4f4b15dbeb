"""ERFNet: a light network of factorized convolutions, with as many decoders as there are questions.

Romera, Alvarez, Bergasa, Arroyo: "ERFNet: Efficient Residual Factorized ConvNet for Real-Time Semantic Segmentation",
IEEE T-ITS 2018; with branches as in the spatial embeddings of Neven et al. (CVPR 2019).

Shapes: B images, (H, W) whose sides are multiples of 8.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

EPS = 1e-3
"""Of batch normalization."""


class Downsampler(nn.Module):
    """Half the resolution: a convolution beside a pooled copy of the input."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out - channels_in, 3, stride=2, padding=1)
        self.bn = nn.BatchNorm2d(channels_out, eps=EPS)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, D, h / 2, w / 2)."""
        return F.relu(self.bn(torch.cat([self.conv(x), F.max_pool2d(x, 2)], dim=1)))


class Factorized(nn.Module):
    """Two pairs of 3 x 1 and 1 x 3 convolutions, the second dilated, beside a shortcut."""

    def __init__(self, channels: int, dropout: float, dilation: int) -> None:
        super().__init__()
        self.conv3x1_1 = nn.Conv2d(channels, channels, (3, 1), padding=(1, 0))
        self.conv1x3_1 = nn.Conv2d(channels, channels, (1, 3), padding=(0, 1))
        self.bn1 = nn.BatchNorm2d(channels, eps=EPS)
        wide = {"padding": (dilation, 0), "dilation": (dilation, 1)}
        self.conv3x1_2 = nn.Conv2d(channels, channels, (3, 1), **wide)  # type: ignore[arg-type]
        wide = {"padding": (0, dilation), "dilation": (1, dilation)}
        self.conv1x3_2 = nn.Conv2d(channels, channels, (1, 3), **wide)  # type: ignore[arg-type]
        self.bn2 = nn.BatchNorm2d(channels, eps=EPS)
        self.dropout = nn.Dropout2d(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> the same."""
        y = F.relu(self.bn1(self.conv1x3_1(F.relu(self.conv3x1_1(x)))))
        y = self.bn2(self.conv1x3_2(F.relu(self.conv3x1_2(y))))
        return F.relu(self.dropout(y) + x)


class Encoder(nn.Module):
    """(B, 3, H, W) -> (B, 128, H / 8, W / 8)."""

    def __init__(self) -> None:
        super().__init__()
        self.initial_block = Downsampler(3, 16)
        fine = [Factorized(64, 0.03, 1) for _ in range(5)]
        coarse = [Factorized(128, 0.3, dilation) for _ in range(2) for dilation in (2, 4, 8, 16)]
        self.layers = nn.Sequential(Downsampler(16, 64), *fine, Downsampler(64, 128), *coarse)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, 128, H / 8, W / 8)."""
        result: Tensor = self.layers(self.initial_block(x))
        return result


class Upsampler(nn.Module):
    """Twice the resolution by a transposed convolution."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose2d(channels_in, channels_out, 3, stride=2, padding=1, output_padding=1)
        self.bn = nn.BatchNorm2d(channels_out, eps=EPS)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, D, 2 h, 2 w)."""
        return F.relu(self.bn(self.conv(x)))


class Decoder(nn.Module):
    """(B, 128, H / 8, W / 8) -> (B, maps, H, W)."""

    def __init__(self, maps: int) -> None:
        super().__init__()
        blocks = [[Factorized(width, 0.0, 1) for _ in range(2)] for width in (64, 16)]
        self.layers = nn.Sequential(Upsampler(128, 64), *blocks[0], Upsampler(64, 16), *blocks[1])
        self.output_conv = nn.ConvTranspose2d(16, maps, 2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 128, h, w) -> (B, maps, 8 h, 8 w)."""
        result: Tensor = self.output_conv(self.layers(x))
        return result


class ERFNet(nn.Module):
    """(B, 3, H, W) -> (B, sum of the branches' maps, H, W).

    Args:
        branches: maps of each decoder.
    """

    def __init__(self, branches: Sequence[int]) -> None:
        super().__init__()
        self.encoder = Encoder()
        self.decoders = nn.ModuleList(Decoder(maps) for maps in branches)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, maps, H, W)."""
        features = self.encoder(images)
        return torch.cat([decoder(features) for decoder in self.decoders], dim=1)
