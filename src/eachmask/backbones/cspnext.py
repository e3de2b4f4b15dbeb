"""CSPNeXt and its pyramid: RTMDet's backbone (Lyu et al., arXiv 2212.07784, section 3.1 and figure 3).

A stage splits its channels: one half passes, the other goes through blocks of a 3 x 3 and a large 5 x 5 depth-wise
convolution; the halves are joined, weighted by channel and mixed. The pyramid is built of the same stages, top down
and then bottom up (PAFPN, arXiv 1803.01534). Widths and depths are those of the largest network times two factors.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eachmask.backbones.features import Features

STAGES = ((64, 128, 3), (128, 256, 6), (256, 512, 6), (512, 1024, 3))
"""(channels in, channels out, blocks) at factor 1, strides 4, 8, 16, 32."""

POOLS = 3
"""Maxima of the last stage's spatial pyramid pooling (He et al., arXiv 1406.4729), over windows of 5, 9 and 13: one of
5 x 5 cells, and again, and again."""


class ConvNorm(nn.Module):
    """Convolution without bias, batch normalization, SiLU."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(out_channels)
        self.act = nn.SiLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H / stride, W / stride)."""
        result: Tensor = self.act(self.bn(self.conv(x)))
        return result

    def for_inference(self) -> nn.Module:
        """Once normalization and activation are folded in, the convolution alone."""
        rest: tuple[nn.Module, ...] = (self.bn, self.act)
        return self.conv if all(isinstance(part, nn.Identity) for part in rest) else self


class Block(nn.Module):
    """3 x 3, then 5 x 5 depth-wise and 1 x 1 (figure 3b).

    Args:
        identity: add the input to the output.
    """

    def __init__(self, channels: int, identity: bool) -> None:
        super().__init__()
        self.conv = ConvNorm(channels, channels, 3)
        self.depthwise = ConvNorm(channels, channels, 5, groups=channels)
        self.pointwise = ConvNorm(channels, channels, 1)
        self.identity = identity

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        result: Tensor = self.pointwise(self.depthwise(self.conv(x)))
        return result + x if self.identity else result


class ChannelAttention(nn.Module):
    """Each channel weighted by a function of the channels' means."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        return x * F.hardsigmoid(self.fc(x.mean(dim=(2, 3), keepdim=True)))


class CSPLayer(nn.Module):
    """Two halves, one through blocks, joined (Wang et al., CSPNet, arXiv 1911.11929)."""

    def __init__(
        self, in_channels: int, out_channels: int, num_blocks: int, identity: bool, attention: bool = False
    ) -> None:
        super().__init__()
        middle = out_channels // 2
        self.main = ConvNorm(in_channels, middle, 1)
        self.short = ConvNorm(in_channels, middle, 1)
        self.blocks = nn.Sequential(*(Block(middle, identity) for _ in range(num_blocks)))
        self.attention = ChannelAttention(2 * middle) if attention else nn.Identity()
        self.final = ConvNorm(2 * middle, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H, W)."""
        joined = torch.cat([self.blocks(self.main(x)), self.short(x)], dim=1)
        result: Tensor = self.final(self.attention(joined))
        return result


class Pooling(nn.Module):
    """The map beside its maxima over windows of several sizes."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduce = ConvNorm(channels, channels // 2, 1)
        self.expand = ConvNorm(channels // 2 * (POOLS + 1), channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        maps = [self.reduce(x)]
        for _ in range(POOLS):
            maps.append(F.max_pool2d(maps[-1], 5, 1, 2))
        result: Tensor = self.expand(torch.cat(maps, dim=1))
        return result


class CSPNeXt(nn.Module):
    """A stem of three convolutions and four stages: maps at strides 8, 16 and 32.

    Args:
        deepen: factor of the number of blocks.
        widen: factor of the channels.
    """

    def __init__(self, deepen: float = 1.0, widen: float = 1.0) -> None:
        super().__init__()
        half, whole = int(STAGES[0][0] * widen // 2), int(STAGES[0][0] * widen)
        self.stem = nn.Sequential(ConvNorm(3, half, 3, stride=2), ConvNorm(half, half, 3), ConvNorm(half, whole, 3))
        stages = []
        for i, (inner, outer, blocks) in enumerate(STAGES):
            last = i == len(STAGES) - 1
            channels = int(outer * widen)
            parts: list[nn.Module] = [ConvNorm(int(inner * widen), channels, 3, stride=2)]
            if last:
                parts.append(Pooling(channels))
            parts.append(CSPLayer(channels, channels, max(round(blocks * deepen), 1), not last, attention=True))
            stages.append(nn.Sequential(*parts))
        self.stages = nn.ModuleList(stages)
        self.channels = tuple(int(outer * widen) for _, outer, _ in STAGES[1:])
        self.strides = (8, 16, 32)

    def forward(self, images: Tensor) -> Features:
        """(B, 3, H, W) -> three maps."""
        x = self.stem(images)
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return Features(tuple(maps[1:]), self.strides, self.channels)


@dataclass(frozen=True)
class Neck:
    """What sizes differ in about the pyramid."""

    channels: int = 256
    """Of every level that leaves it."""
    blocks: int = 3
    """In each of its stages."""


class CSPNeXtPAFPN(nn.Module):
    """A backbone with a pyramid that goes down and up again, each step one CSP stage without identity.

    Args:
        backbone: gives Features, each map twice as wide as the finer one or of any width.
    """

    def __init__(self, backbone: nn.Module, neck: Neck | None = None) -> None:
        super().__init__()
        neck = neck or Neck()
        self.backbone = backbone
        widths: tuple[int, ...] = tuple(backbone.channels)  # type: ignore[arg-type]
        down = range(len(widths) - 1, 0, -1)  # from the coarsest map
        up = range(len(widths) - 1)
        self.reduce = nn.ModuleList(ConvNorm(widths[i], widths[i - 1], 1) for i in down)
        self.top_down = nn.ModuleList(CSPLayer(2 * widths[i - 1], widths[i - 1], neck.blocks, False) for i in down)
        self.downsample = nn.ModuleList(ConvNorm(widths[i], widths[i], 3, stride=2) for i in up)
        self.bottom_up = nn.ModuleList(CSPLayer(2 * widths[i], widths[i + 1], neck.blocks, False) for i in up)
        self.out = nn.ModuleList(ConvNorm(width, neck.channels, 3) for width in widths)
        self.strides: tuple[int, ...] = tuple(backbone.strides)  # type: ignore[arg-type]
        self.channels = (neck.channels,) * len(widths)

    def forward(self, images: Tensor) -> Features:
        """(B, 3, H, W) -> one level for each map of the backbone."""
        maps = self.backbone(images).maps
        x = maps[-1]
        waiting = []
        for reduce, stage, below in zip(self.reduce, self.top_down, reversed(maps[:-1]), strict=True):
            x = reduce(x)
            waiting.append(x)
            x = stage(torch.cat([F.interpolate(x, size=below.shape[-2:], mode="nearest"), below], dim=1))
        levels = [x]
        for downsample, stage, above in zip(self.downsample, self.bottom_up, reversed(waiting), strict=True):
            levels.append(stage(torch.cat([downsample(levels[-1]), above], dim=1)))
        finished = tuple(conv(level) for conv, level in zip(self.out, levels, strict=True))
        return Features(finished, self.strides, self.channels)
