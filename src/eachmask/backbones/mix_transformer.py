"""Mix Transformer (MiT): SegFormer's backbone, a pyramid of attention that sees few keys.

Xie, Wang, Yu, Anandkumar, Alvarez, Luo: "SegFormer: Simple and Efficient Design for Semantic Segmentation with
Transformers", NeurIPS 2021, arXiv 2105.15203, section 3.1.

Patches overlap, every token asks a map of keys that is 8, 4, 2 times smaller per side, and a depthwise convolution
between the two layers of each perceptron tells tokens where they are, so that no positions have to be learnt and images
may have any size.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eachmask.backbones.features import Features


@dataclass(frozen=True)
class MixTransformerConfig:
    """What variants differ in; defaults: MiT-B0."""

    widths: tuple[int, ...] = (32, 64, 160, 256)
    depths: tuple[int, ...] = (2, 2, 2, 2)
    heads: tuple[int, ...] = (1, 2, 5, 8)
    reductions: tuple[int, ...] = (8, 4, 2, 1)
    """By how much the map of keys is smaller per side."""
    expansion: int = 4
    """Of the perceptrons."""
    drop_path: float = 0.1
    """Share of the last block's results that are left out in training; falls to 0 at the first block."""


NORM_EPS = 1e-6


class MixTransformer(nn.Module):
    """Maps at strides 4, 8, 16, 32."""

    def __init__(self, config: MixTransformerConfig) -> None:
        super().__init__()
        c = config
        self.channels, self.strides = c.widths, (4, 8, 16, 32)
        before = (3, *c.widths[:-1])
        rates = [c.drop_path * i / max(sum(c.depths) - 1, 1) for i in range(sum(c.depths))]
        self.stages = nn.ModuleList(
            Stage(before[i], i, c, rates[sum(c.depths[:i]) : sum(c.depths[: i + 1])]) for i in range(4)
        )

    def forward(self, images: Tensor) -> Features:
        """(B, 3, H, W) -> four maps."""
        maps, x = [], images
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return Features(tuple(maps), self.strides, self.channels)


class Stage(nn.Module):
    """Overlapping patches of a map, blocks, and a norm.

    Args:
        channels: of the map before.
        number: 0..3.
        drop_path: of each block.
    """

    def __init__(self, channels: int, number: int, config: MixTransformerConfig, drop_path: list[float]) -> None:
        super().__init__()
        width, kernel = config.widths[number], 7 if number == 0 else 3
        self.patches = nn.Conv2d(channels, width, kernel, stride=4 if number == 0 else 2, padding=kernel // 2)
        self.patch_norm = nn.LayerNorm(width, NORM_EPS)
        self.blocks = nn.ModuleList(Block(number, config, rate) for rate in drop_path)
        self.norm = nn.LayerNorm(width, NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, D, h, w)."""
        x = self.patches(x)
        size = (x.shape[2], x.shape[3])
        tokens = self.patch_norm(x.flatten(2).transpose(1, 2))
        for block in self.blocks:
            tokens = block(tokens, size)
        result: Tensor = self.norm(tokens)
        return as_map(result, size)


class Block(nn.Module):
    """Attention to a smaller map, and a perceptron that looks at its neighbors."""

    def __init__(self, number: int, config: MixTransformerConfig, drop_path: float) -> None:
        super().__init__()
        from torchvision.ops import StochasticDepth

        width, reduction = config.widths[number], config.reductions[number]
        self.norm1, self.norm2 = nn.LayerNorm(width, NORM_EPS), nn.LayerNorm(width, NORM_EPS)
        self.attention = nn.MultiheadAttention(width, config.heads[number], batch_first=True)
        self.reduce = nn.Conv2d(width, width, reduction, stride=reduction) if reduction > 1 else None
        self.reduced_norm = nn.LayerNorm(width, NORM_EPS) if reduction > 1 else None
        hidden = width * config.expansion
        self.widen = nn.Conv2d(width, hidden, 1)
        self.neighbors = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.narrow = nn.Conv2d(hidden, width, 1)
        self.drop_path = StochasticDepth(drop_path, "row")

    def forward(self, tokens: Tensor, size: tuple[int, int]) -> Tensor:
        """(B, h w, D) of a map of (h, w) -> the same."""
        x = self.norm1(tokens)
        keys = self.keys(x, size)
        tokens = tokens + self.drop_path(self.attention(x, keys, keys, need_weights=False)[0])
        x = self.narrow(F.gelu(self.neighbors(self.widen(as_map(self.norm2(tokens), size)))))
        result: Tensor = tokens + self.drop_path(x.flatten(2).transpose(1, 2))
        return result

    def keys(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """What is asked: the tokens, or those of a smaller map."""
        if self.reduce is None or self.reduced_norm is None:
            return x
        result: Tensor = self.reduced_norm(self.reduce(as_map(x, size)).flatten(2).transpose(1, 2))
        return result


def as_map(tokens: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, h w, D) -> (B, D, h, w)."""
    return torch.unflatten(tokens.transpose(1, 2), 2, size).contiguous()
