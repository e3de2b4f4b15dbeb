"""ViT with windows: the plain vision transformer of ViTDet and Segment Anything.

Li, Mao, Girshick, He: "Exploring Plain Vision Transformer Backbones for Object Detection", ECCV 2022, arXiv 2203.16527;
with the decomposed relative positions of Li et al., "MViTv2", CVPR 2022, arXiv 2112.01526 (equation 4).

The idea: a plain transformer keeps one resolution throughout. Attention among all patches of a large image is dear, so
most blocks only look within windows, and a few, evenly spread, look everywhere. How much patch i attends to patch j is

    softmax((q_i . k_j) / sqrt(d) + q_i . R_h[y_i - y_j] + q_i . R_w[x_i - x_j]).

The last, of 4096 x 4096 entries for each head, is made head by head, so that memory stays flat.

Shapes: B images, h x w patches, C channels, n heads of d channels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_SCORES_CHUNK_SIZE = 1 << 24
"""Attention scores (floats) that are held at once."""


@dataclass(frozen=True)
class ViTConfig:
    """A vision transformer with windows."""

    image_size: int = 1024
    """Side of the images that the position code is for, px; for others it is resized."""
    patch: int = 16
    width: int = 768
    """C."""
    depth: int = 12
    heads: int = 12
    window: int = 14
    """Side of the windows, patches; 0: every block looks everywhere."""
    everywhere: tuple[int, ...] = (2, 5, 8, 11)
    """Blocks that look everywhere."""
    mlp_ratio: float = 4.0


class WindowViT(nn.Module):
    """(B, 3, H, W) -> (B, h, w, C)."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        side = config.image_size // config.patch
        self.config = config
        self.patches = nn.Conv2d(3, config.width, config.patch, stride=config.patch)
        self.positions = nn.Parameter(torch.zeros(1, side, side, config.width))
        nn.init.trunc_normal_(self.positions, std=0.02)
        windows = [0 if i in config.everywhere else config.window for i in range(config.depth)]
        self.blocks = nn.ModuleList([Block(config, window, window or side) for window in windows])

    def forward(self, x: Tensor) -> Tensor:
        """What the last block says of every patch."""
        x = self.patches(x).permute(0, 2, 3, 1)
        x = x + resized(self.positions, (x.shape[1], x.shape[2]))
        for block in self.blocks:
            x = block(x)
        return x


class Block(nn.Module):
    """Attention within windows or everywhere, then an MLP.

    Args:
        window: side of the windows, 0: none; span: patches along a side that the relative positions are for.
    """

    def __init__(self, config: ViTConfig, window: int, span: int) -> None:
        super().__init__()
        width, inner = config.width, int(config.width * config.mlp_ratio)
        self.window = window
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attention = RelativeAttention(width, config.heads, span)
        self.mlp = nn.Sequential(nn.Linear(width, inner), nn.GELU(), nn.Linear(inner, width))

    def forward(self, x: Tensor) -> Tensor:
        """(B, h, w, C), same shape."""
        seen = self.norm1(x)
        if self.window:
            windows = in_windows(seen, self.window)
            seen = out_of_windows(self.attention(windows), (x.shape[1], x.shape[2]))
        else:
            seen = self.attention(seen)
        x = x + seen
        return x + self.mlp(self.norm2(x))  # type: ignore[no-any-return]


class RelativeAttention(nn.Module):
    """Attention among all patches of a map, by what they are and by how far apart they lie."""

    def __init__(self, width: int, heads: int, span: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.down = nn.Parameter(torch.zeros(2 * span - 1, width // heads))
        self.across = nn.Parameter(torch.zeros(2 * span - 1, width // heads))

    def forward(self, x: Tensor) -> Tensor:
        """(B, h, w, C), same shape."""
        height, width = x.shape[1:3]
        q, k, v = self.qkv(x).flatten(1, 2).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        tables = relative(self.down, height), relative(self.across, width)
        step = max(1, min(self.heads, _SCORES_CHUNK_SIZE // (len(x) * (height * width) ** 2)))
        parts = []
        for first in range(0, self.heads, step):
            some = slice(first, first + step)
            scores = distances(q[:, some], (height, width), tables)
            parts.append(F.scaled_dot_product_attention(q[:, some], k[:, some], v[:, some], attn_mask=scores))
        mixed = torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]
        return self.out(mixed.transpose(1, 2).reshape(x.shape))  # type: ignore[no-any-return]


def distances(q: Tensor, size: tuple[int, int], tables: tuple[Tensor, Tensor]) -> Tensor:
    """What is added to the scores for how far apart patches lie.

    Args:
        q: (B, n, h w, d), not scaled; tables: (h, h, d) and (w, w, d), see :func:`relative`.

    Returns:
        (B, n, h w, h w).
    """
    places = q.unflatten(2, size)
    down = torch.einsum("bnhwd,hkd->bnhwk", places, tables[0].to(q.dtype))
    across = torch.einsum("bnhwd,wkd->bnhwk", places, tables[1].to(q.dtype))
    return (down[..., :, None] + across[..., None, :]).flatten(4).flatten(2, 3)


def relative(table: Tensor, side: int) -> Tensor:
    """A table (2 s - 1, d) of distances -> (side, side, d) of pairs of places; resized where it is for another side."""
    num = 2 * side - 1
    if len(table) != num:
        table = F.interpolate(table.float().T[None], num, mode="linear", align_corners=False)[0].T.to(table.dtype)
    place = torch.arange(side, device=table.device)
    return table[place[:, None] - place + side - 1]


def resized(positions: Tensor, size: tuple[int, int]) -> Tensor:
    """A position code (1, h, w, C) for maps of another size, bicubic."""
    if positions.shape[1:3] == size:
        return positions
    planes = positions.permute(0, 3, 1, 2).float()
    return F.interpolate(planes, size, mode="bicubic", align_corners=False).permute(0, 2, 3, 1).to(positions.dtype)


def in_windows(x: Tensor, side: int) -> Tensor:
    """(B, h, w, C), with zeros at the right and bottom -> (B windows, side, side, C)."""
    height, width = x.shape[1:3]
    x = F.pad(x, (0, 0, 0, -width % side, 0, -height % side))
    return x.unflatten(2, (-1, side)).unflatten(1, (-1, side)).transpose(2, 3).flatten(0, 2)  # type: ignore[no-any-return]


def out_of_windows(windows: Tensor, size: tuple[int, int]) -> Tensor:
    """Undo of :func:`in_windows` for maps of (h, w)."""
    side = windows.shape[1]
    rows, columns = (-(-length // side) for length in size)
    x = windows.unflatten(0, (-1, rows, columns)).transpose(2, 3).flatten(3, 4).flatten(1, 2)
    return x[:, : size[0], : size[1]]  # type: ignore[no-any-return]
