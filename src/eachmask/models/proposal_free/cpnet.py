"""Cellpose's network: a U-Net of residual blocks, with a style that tells the decoder what kind of image it is.

Stringer, Wang, Michaelos, Pachitariu: "Cellpose: a generalist algorithm for cellular segmentation", Nature Methods
2021.
Every block is normalization, ReLU, convolution in this order, also the first one on the image.

Shapes: B images, (H, W) whose sides are multiples of ``2 ** (len(channels) - 2)``.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F


def _block(channels_in: int, channels_out: int, kernel: int) -> nn.Sequential:
    return nn.Sequential(
        nn.BatchNorm2d(channels_in, momentum=0.05),
        nn.ReLU(),
        nn.Conv2d(channels_in, channels_out, kernel, padding=kernel // 2),
    )


def _projection(channels_in: int, channels_out: int) -> nn.Sequential:
    return nn.Sequential(nn.BatchNorm2d(channels_in, momentum=0.05), nn.Conv2d(channels_in, channels_out, 1))


class Down(nn.Module):
    """Four blocks with two shortcuts."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int) -> None:
        super().__init__()
        self.projection = _projection(channels_in, channels_out)
        widths = [channels_in, channels_out, channels_out, channels_out]
        self.blocks = nn.ModuleList(_block(width, channels_out, kernel) for width in widths)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, D, h, w)."""
        x = self.projection(x) + self.blocks[1](self.blocks[0](x))
        result: Tensor = x + self.blocks[3](self.blocks[2](x))
        return result


class Styled(nn.Module):
    """A block that a linear map of the style is added to before."""

    def __init__(self, channels: int, style: int, kernel: int) -> None:
        super().__init__()
        self.block = _block(channels, channels, kernel)
        self.style = nn.Linear(style, channels)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """(B, C, h, w), (B, S) -> (B, C, h, w)."""
        result: Tensor = self.block(x + self.style(style)[:, :, None, None])
        return result


class Up(nn.Module):
    """As :class:`Down`, with the style in three blocks; the encoder's map is added before the second."""

    def __init__(self, channels_in: int, channels_out: int, style: int, kernel: int) -> None:
        super().__init__()
        self.projection = _projection(channels_in, channels_out)
        self.first = _block(channels_in, channels_out, kernel)
        self.styled = nn.ModuleList(Styled(channels_out, style, kernel) for _ in range(3))

    def forward(self, x: Tensor, skip: Tensor, style: Tensor) -> Tensor:
        """(B, C, h, w), (B, D, h, w), (B, S) -> (B, D, h, w)."""
        x = self.projection(x) + self.styled[0](self.first(x) + skip, style)
        result: Tensor = x + self.styled[2](self.styled[1](x, style), style)
        return result


class CPNet(nn.Module):
    """Images (B, channels[0], H, W) -> (B, maps, H, W).

    Args:
        channels: of the image, then of every level of the encoder.
        maps: that are wanted.
        kernel: side of the convolutions, px.
    """

    def __init__(self, channels: tuple[int, ...] = (2, 32, 64, 128, 256), maps: int = 3, kernel: int = 3) -> None:
        super().__init__()
        self.channels = channels
        levels = channels[1:]
        self.down = nn.ModuleList(Down(a, b, kernel) for a, b in zip(channels[:-1], levels, strict=True))
        below = [*levels[1:], levels[-1]]
        self.up = nn.ModuleList(Up(a, b, levels[-1], kernel) for a, b in zip(below, levels, strict=True))
        self.output = _block(levels[0], maps, 1)

    def encode(self, images: Tensor) -> list[Tensor]:
        """The encoder's maps, fine to coarse."""
        maps = [self.down[0](images)]
        for down in self.down[1:]:
            maps.append(down(F.max_pool2d(maps[-1], 2)))
        return maps

    def style(self, maps: Sequence[Tensor]) -> Tensor:
        """(B, S) the mean of the coarsest map, of length 1."""
        mean = maps[-1].mean((2, 3))
        return F.normalize(mean, dim=1)

    def decode(self, maps: Sequence[Tensor], style: Tensor) -> Tensor:
        """The encoder's maps and the style -> (B, maps, H, W)."""
        x = self.up[-1](maps[-1], maps[-1], style)
        for up, skip in zip(reversed(self.up[:-1]), reversed(maps[:-1]), strict=True):
            x = up(F.interpolate(x, scale_factor=2, mode="nearest"), skip, style)
        result: Tensor = self.output(x)
        return result

    def forward(self, images: Tensor) -> Tensor:
        """(B, channels[0], H, W) -> (B, maps, H, W)."""
        maps = self.encode(images)
        return self.decode(maps, self.style(maps))
