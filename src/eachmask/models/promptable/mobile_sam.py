"""MobileSAM: Segment Anything with TinyViT.

Zhang, Han, Qiao, Kim, Bae, Lee, Hong: "Faster Segment Anything: Towards Lightweight SAM for Mobile Applications", 2023,
arXiv 2306.14289; its encoder is Wu, Zhang, Peng, Liu, Xiao, Fu, Yuan: "TinyViT", ECCV 2022, arXiv 2207.10666.

The idea: what costs is the encoder, so a small one learns to give the same features (decoupled distillation), and
prompts and decoder stay what they are. TinyViT begins with convolutions, then comes attention in windows; between
attention and MLP a depthwise convolution lets neighbors talk across windows.

Where we differ: maps need not be square.

Shapes: B images, h x w cells, C channels, n heads, s the side of a window.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eachmask.backbones.window_vit import in_windows, out_of_windows
from eachmask.models.config import changed
from eachmask.models.promptable import sam
from eachmask.models.promptable.sam import SAM


@dataclass(frozen=True)
class TinyViTConfig:
    """TinyViT; one entry for each stage."""

    widths: tuple[int, ...] = (64, 128, 160, 320)
    depths: tuple[int, ...] = (2, 2, 6, 2)
    heads: tuple[int, ...] = (2, 4, 5, 10)
    windows: tuple[int, ...] = (7, 7, 14, 7)
    mlp_ratio: float = 4.0
    expansion: float = 4.0
    """Of the convolutional blocks."""
    local: int = 3
    """Side of the depthwise convolution between attention and MLP."""


@dataclass(frozen=True)
class Config(sam.Config):
    """What a variant may change."""

    encoder: TinyViTConfig = TinyViTConfig()  # type: ignore[assignment]


# The encoder ----------------------------------------------------------------------------------------------------------


class TinyViT(nn.Module):
    """(B, 3, H, W) -> (B, H / 16, W / 16, C)."""

    def __init__(self, config: TinyViTConfig) -> None:
        super().__init__()
        first = config.widths[0]
        self.patches = nn.Sequential(conv_norm(3, first // 2, 3, 2), nn.GELU(), conv_norm(first // 2, first, 3, 2))
        self.stages = nn.ModuleList()
        self.merges = nn.ModuleList()
        last = len(config.widths) - 1
        for i, width in enumerate(config.widths):
            blocks = [Block(config, i) if i else ConvBlock(width, config.expansion) for _ in range(config.depths[i])]
            self.stages.append(nn.Sequential(*blocks))
            if i < last:
                self.merges.append(merge(width, config.widths[i + 1], 2 if i + 1 < last else 1))

    def forward(self, x: Tensor) -> Tensor:
        """What the last stage says of every cell."""
        x = self.stages[0](self.patches(x))
        for merging, stage in zip(self.merges, self.stages[1:], strict=True):
            x = stage(merging(x))
        return x.permute(0, 2, 3, 1)


def conv_norm(inputs: int, outputs: int, side: int = 1, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """A convolution and its normalization."""
    conv = nn.Conv2d(inputs, outputs, side, stride, side // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))


def merge(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    """From one stage to the next."""
    return nn.Sequential(
        conv_norm(inputs, outputs),
        nn.GELU(),
        conv_norm(outputs, outputs, 3, stride, outputs),
        nn.GELU(),
        conv_norm(outputs, outputs),
    )


class ConvBlock(nn.Module):
    """An inverted bottleneck whose last activation follows the sum."""

    def __init__(self, width: int, expansion: float) -> None:
        super().__init__()
        inner = int(width * expansion)
        self.layers = nn.Sequential(
            conv_norm(width, inner), nn.GELU(), conv_norm(inner, inner, 3, 1, inner), nn.GELU(), conv_norm(inner, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w), same shape."""
        return F.gelu(x + self.layers(x))


class Block(nn.Module):
    """Attention in windows, a depthwise convolution, an MLP."""

    def __init__(self, config: TinyViTConfig, stage: int) -> None:
        super().__init__()
        width, inner = config.widths[stage], int(config.widths[stage] * config.mlp_ratio)
        self.window = config.windows[stage]
        self.attention = WindowAttention(width, config.heads[stage], self.window)
        self.local = conv_norm(width, width, config.local, groups=width)
        self.mlp = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, inner), nn.GELU(), nn.Linear(inner, width))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w), same shape."""
        rows = x.permute(0, 2, 3, 1)
        seen = self.attention(in_windows(rows, self.window))
        rows = rows + out_of_windows(seen, (x.shape[2], x.shape[3]))
        rows = self.local(rows.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return (rows + self.mlp(rows)).permute(0, 3, 1, 2)  # type: ignore[no-any-return]


class WindowAttention(nn.Module):
    """Attention with a learned bias for every distance; what was added around the map takes part."""

    index: Tensor

    def __init__(self, width: int, heads: int, side: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.biases = nn.Parameter(torch.zeros(heads, side * side))
        place = torch.arange(side * side)
        rows, columns = place // side, place % side
        index = (rows[:, None] - rows).abs() * side + (columns[:, None] - columns).abs()
        self.register_buffer("index", index, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, s, s, C), same shape."""
        rows = self.norm(x).flatten(1, 2)
        q, k, v = self.qkv(rows).unflatten(-1, (self.heads, 3, -1)).permute(3, 0, 2, 1, 4)
        bias = self.biases[:, self.index].to(q.dtype)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.expand(len(q), -1, -1, -1))
        return self.out(mixed.transpose(1, 2).reshape(x.shape))  # type: ignore[no-any-return]


# Variants -------------------------------------------------------------------------------------------------------------


def mobile_sam(num_classes: int = 1, **config: Any) -> SAM:
    """TinyViT-5M before SAM's decoder."""
    chosen = changed(Config(), config)
    return SAM(TinyViT(chosen.encoder), chosen.encoder.widths[-1], num_classes, chosen)
