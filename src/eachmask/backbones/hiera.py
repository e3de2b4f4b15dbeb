"""Hiera: a hierarchical vision transformer without bells and whistles.

Ryali, Hu, Bolya, Wei, Fan, Huang, Aggarwal, Chowdhury, Poursaeed, Hoffman, Malik, Li, Feichtenhofer: "Hiera", ICML
2023, arXiv 2306.00989; windows and position codes as SAM 2 has them (Bolya, Ryali, Hoffman, Feichtenhofer: "Window
Attention is Buggy: How not to Interpolate Position Embeddings", ICLR 2024, arXiv 2311.05613).

The idea: stages of attention in windows, each at half the resolution of the one before; the first block of a stage
halves it by pooling its queries. A few blocks look everywhere. The code of places is one for the whole map, resized,
and one for the places within a window, repeated.

Shapes: B images, h x w cells of a stage, C channels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eachmask.backbones.window_vit import in_windows, out_of_windows


@dataclass(frozen=True)
class HieraConfig:
    """One entry of ``depths`` and ``windows`` for each stage."""

    width: int = 96
    """Channels of the first stage; each further one has twice as many."""
    heads: int = 1
    """Of the first stage, likewise."""
    depths: tuple[int, ...] = (1, 2, 7, 2)
    everywhere: tuple[int, ...] = (5, 7, 9)
    """Blocks that look everywhere, counted through all stages."""
    windows: tuple[int, ...] = (8, 4, 14, 7)
    background: tuple[int, int] = (7, 7)
    """(height, width) of the code for the whole map."""
    mlp_ratio: float = 4.0

    @property
    def channels(self) -> tuple[int, ...]:
        """Of each stage."""
        return tuple(self.width * 2**i for i in range(len(self.depths)))


class Hiera(nn.Module):
    """(B, 3, H, W) -> maps (B, C, h, w) at strides 4, 8, 16 and 32."""

    def __init__(self, config: HieraConfig) -> None:
        super().__init__()
        self.config = config
        width, side = config.width, config.windows[0]
        self.patches = nn.Conv2d(3, width, 7, stride=4, padding=3)
        self.positions = nn.Parameter(torch.zeros(1, width, *config.background))
        self.window_positions = nn.Parameter(torch.zeros(1, width, side, side))
        self.blocks = nn.ModuleList()
        for stage, depth in enumerate(config.depths):
            for i in range(depth):
                halves = i == 0 and stage > 0
                window = config.windows[stage - 1 if halves else stage]  # a new stage's first block has the last one's
                if len(self.blocks) in config.everywhere:
                    window = 0
                wide, heads = config.channels[stage], config.heads * 2**stage
                self.blocks.append(Block(wide // 2 if halves else wide, wide, heads, window, halves, config.mlp_ratio))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """What each stage says in the end."""
        x = self.patches(x)
        x = (x + self.code((x.shape[2], x.shape[3]))).permute(0, 2, 3, 1)
        maps, blocks = [], iter(self.blocks)
        for depth in self.config.depths:
            for _ in range(depth):
                x = next(blocks)(x)
            maps.append(x.permute(0, 3, 1, 2))
        return tuple(maps)

    def code(self, size: tuple[int, int]) -> Tensor:
        """Of places, (1, C, h, w)."""
        whole = F.interpolate(self.positions.float(), size, mode="bicubic", align_corners=False)
        side = self.window_positions.shape[-1]
        tiles = self.window_positions.repeat(1, 1, -(-size[0] // side), -(-size[1] // side))
        return whole + tiles[..., : size[0], : size[1]]


class Block(nn.Module):
    """Attention, perhaps to half the resolution, then an MLP."""

    def __init__(self, inputs: int, width: int, heads: int, window: int, halves: bool, mlp_ratio: float) -> None:
        super().__init__()
        self.window, self.halves = window, halves
        self.norm1, self.norm2 = nn.LayerNorm(inputs, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attention = PoolingAttention(inputs, width, heads, halves)
        self.shortcut = nn.Linear(inputs, width) if inputs != width else None
        inner = int(width * mlp_ratio)
        self.mlp = nn.Sequential(nn.Linear(width, inner), nn.GELU(), nn.Linear(inner, width))

    def forward(self, x: Tensor) -> Tensor:
        """(B, h, w, inputs) -> (B, h, w, C), or half of h and w."""
        seen = self.norm1(x)
        if self.shortcut is not None:
            x = self.shortcut(seen)
        x = halved(x) if self.halves else x
        if self.window:
            seen = out_of_windows(self.attention(in_windows(seen, self.window)), (x.shape[1], x.shape[2]))
        else:
            seen = self.attention(seen)
        x = x + seen
        return x + self.mlp(self.norm2(x))  # type: ignore[no-any-return]


class PoolingAttention(nn.Module):
    """Attention whose queries may be pooled."""

    def __init__(self, inputs: int, width: int, heads: int, halves: bool) -> None:
        super().__init__()
        self.heads, self.halves = heads, halves
        self.qkv, self.out = nn.Linear(inputs, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, h, w, inputs) -> (B, h, w, C), or half of h and w."""
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        q = halved(q) if self.halves else q
        parts = (p.flatten(1, 2).unflatten(-1, (self.heads, -1)).transpose(1, 2) for p in (q, k, v))
        mixed = F.scaled_dot_product_attention(*parts)
        return self.out(mixed.transpose(1, 2).reshape(q.shape))  # type: ignore[no-any-return]


def halved(x: Tensor) -> Tensor:
    """The largest of 2 x 2 cells: (B, h, w, C) -> (B, h / 2, w / 2, C)."""
    return F.max_pool2d(x.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)
