"""SimpleClick: a plain vision transformer that sees the clicks and its own previous mask beside the image.

Liu, Xu, Bertasius, Niethammer: "SimpleClick: Interactive Image Segmentation with Simple Vision Transformers", ICCV
2023, arXiv 2210.11006.

The idea: no network that is made for clicks, but a plain transformer as masked autoencoders pretrain it. A second patch
embedding, of the previous mask and of disks around the clicks, is added to that of the image; a pyramid is made of the
last map alone; and the mask that came out goes in again with the next click.

Where we differ: nothing in the network or in how it is asked (see :mod:`eachmask.models.promptable.clicking`). Training
simulates clicks on one object of each image at a time.

Shapes: B images of H x W px, T patches of C channels; H and W are those that the network was made for, or both
multiples of a window of patches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eachmask.models.config import changed
from eachmask.models.promptable.clicking import PREPROCESS, DiskNetwork, LearnConfig, ZoomConfig


@dataclass(frozen=True)
class TransformerConfig:
    """The plain transformer."""

    width: int = 768
    depth: int = 12
    heads: int = 12
    mlp_ratio: float = 4.0
    patch: int = 16
    window: int = 14
    """Side of the windows that most blocks attend in, patches."""
    group: int = 6
    """The last block of each group of so many attends to all patches."""
    side: int = 448
    """The position code is of images of this side, px."""


@dataclass(frozen=True)
class Config:
    """What a variant may change."""

    transformer: TransformerConfig = TransformerConfig()
    pyramid: tuple[int, int, int, int] = (128, 256, 512, 1024)
    """Channels of the maps at strides 4 to 32."""
    head_width: int = 256
    radius: float = 5.0
    """Of the disks around clicks, px of the network's input."""
    zoom: ZoomConfig = ZoomConfig(size=(448, 448), after=-1)
    learn: LearnConfig = LearnConfig()
    mirror: bool = True
    mask_threshold: float = 0.49


# Transformer ----------------------------------------------------------------------------------------------------------


class Attention(nn.Module):
    """Multi-head self-attention over T tokens."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        b, t, c = x.shape
        q, k, v = self.qkv(x).view(b, t, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        found = F.scaled_dot_product_attention(q, k, v)
        mixed: Tensor = self.proj(found.transpose(1, 2).reshape(b, t, c))
        return mixed


class Block(nn.Module):
    """Attention and a two-layer perceptron, each normalized before and added after."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        width, hidden = config.width, int(config.width * config.mlp_ratio)
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width, config.heads)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, hidden), "fc2": nn.Linear(hidden, width)})

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        x = x + self.attn(self.norm1(x))
        out: Tensor = x + self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm2(x))))
        return out


class Transformer(nn.Module):
    """Blocks that attend in windows, and every ``group``-th to everything."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        side = config.side // config.patch
        self.patch_embed = nn.Conv2d(3, config.width, config.patch, config.patch)
        self.pos_embed = nn.Parameter(torch.zeros(1, side * side, config.width))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        nn.init.trunc_normal_(self.pos_embed, std=0.02)

    def forward(self, images: Tensor, added: Tensor) -> Tensor:
        """Images (B, 3, H, W) and what is added to their patches (B, C, h, w) -> (B, C, h, w)."""
        x = self.patch_embed(images) + added
        rows, columns = x.shape[2:]
        x = x.flatten(2).transpose(1, 2) + self.positions(rows, columns)
        for number, block in enumerate(self.blocks, start=1):
            x = self._windowed(block, x, rows, columns) if number % self.config.group else block(x)
        found: Tensor = x.transpose(1, 2).reshape(len(x), -1, rows, columns)
        return found

    def positions(self, rows: int, columns: int) -> Tensor:
        """(1, rows x columns, C): the position code, resized where there are other than it was made for."""
        side = self.config.side // self.config.patch
        if (rows, columns) == (side, side):
            return self.pos_embed
        grid: Tensor = self.pos_embed.reshape(1, side, side, -1).permute(0, 3, 1, 2)
        return F.interpolate(grid, (rows, columns), mode="bicubic").flatten(2).transpose(1, 2)

    def _windowed(self, block: nn.Module, x: Tensor, rows: int, columns: int) -> Tensor:
        w, (b, _, c) = self.config.window, x.shape
        x = x.view(b, rows // w, w, columns // w, w, c).transpose(2, 3).reshape(-1, w * w, c)
        x = block(x).view(b, rows // w, columns // w, w, w, c)
        return x.transpose(2, 3).reshape(b, rows * columns, c)


# Pyramid and head -----------------------------------------------------------------------------------------------------


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(1, channels)


class Pyramid(nn.Module):
    """Four maps at strides 4, 8, 16, 32 from the one at stride 16 (Li et al., ViTDet, arXiv 2203.16527)."""

    def __init__(self, width: int, channels: tuple[int, int, int, int]) -> None:
        super().__init__()
        a, b, c, d = channels
        wide, middle, coarse = max(2 * a, width // 2), max(b, width // 2), max(d, 2 * width)
        up, conv = nn.ConvTranspose2d, nn.Conv2d
        self.levels = nn.ModuleList(
            [
                nn.Sequential(
                    up(width, wide, 2, 2), _norm(wide), nn.GELU(),
                    up(wide, wide // 2, 2, 2), _norm(wide // 2), conv(wide // 2, a, 1), _norm(a), nn.GELU(),
                ),
                nn.Sequential(up(width, middle, 2, 2), _norm(middle), conv(middle, b, 1), _norm(b), nn.GELU()),
                nn.Sequential(conv(width, c, 1), _norm(c), nn.GELU()),
                nn.Sequential(conv(width, coarse, 2, 2), _norm(coarse), conv(coarse, d, 1), _norm(d), nn.GELU()),
            ]
        )  # fmt: skip

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, C, h, w) -> maps of 4 h, 2 h, h and h / 2 rows."""
        return [level(x) for level in self.levels]


class FusionHead(nn.Module):
    """Maps of one width each, resized to the finest, side by side, and mixed (SegFormer's head, arXiv 2105.15203)."""

    def __init__(self, channels: tuple[int, ...], width: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(c, width, 1) for c in channels)
        self.fusion = nn.Conv2d(width * len(channels), width, 1)
        self.mask = nn.Conv2d(width, 1, 1)

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Maps from fine to coarse -> (B, 1, h, w) logits of the finest map's size."""
        size = maps[0].shape[2:]
        thin = [conv(x).relu() for conv, x in zip(self.convs, maps, strict=True)]
        thin = [F.interpolate(x, size, mode="bilinear") for x in thin]
        found: Tensor = self.mask(self.fusion(torch.cat(thin, 1)).relu())
        return found


# Model ----------------------------------------------------------------------------------------------------------------


class SimpleClick(DiskNetwork):
    """A plain transformer with a second patch embedding (:class:`~eachmask.models.protocol.Promptable`)."""

    preprocess = PREPROCESS

    def __init__(self, num_classes: int = 1, config: Config | None = None) -> None:
        super().__init__()
        self.num_classes, self.config = num_classes, config or Config()
        config = self.config
        self.zoom, self.learn, self.mirror = config.zoom, config.learn, config.mirror
        self.threshold = config.mask_threshold
        patch, width = config.transformer.patch, config.transformer.width
        self.click_embed = nn.Conv2d(3, width, patch, patch)
        self.backbone = Transformer(config.transformer)
        self.pyramid = Pyramid(width, config.pyramid)
        self.head = FusionHead(config.pyramid, config.head_width)

    def from_maps(self, images: Tensor, maps: Tensor) -> tuple[Tensor, ...]:
        size = (images.shape[2], images.shape[3])
        x = self.backbone(images, self.click_embed(maps))
        return (F.interpolate(self.head(self.pyramid(x)), size, mode="bilinear", align_corners=True),)


# Variants -------------------------------------------------------------------------------------------------------------


LARGE = Config(transformer=TransformerConfig(width=1024, depth=24, heads=16, group=6), pyramid=(192, 384, 768, 1536))
HUGE = Config(
    transformer=TransformerConfig(width=1280, depth=32, heads=16, patch=14, window=16, group=8),
    pyramid=(240, 480, 960, 1920),
)
TINY = Config(
    transformer=TransformerConfig(width=192, depth=8, heads=3, window=7, group=2, side=224),
    pyramid=(32, 64, 128, 256),
    head_width=64,
    zoom=ZoomConfig(size=(224, 224), after=-1),
)


def simpleclick_vit_b(num_classes: int = 1, **config: Any) -> SimpleClick:
    """ViT-B, 448 px."""
    return SimpleClick(num_classes, changed(Config(), config))


def simpleclick_vit_l(num_classes: int = 1, **config: Any) -> SimpleClick:
    """ViT-L, 448 px."""
    return SimpleClick(num_classes, changed(LARGE, config))


def simpleclick_vit_h(num_classes: int = 1, **config: Any) -> SimpleClick:
    """ViT-H with patches of 14 px, 448 px."""
    return SimpleClick(num_classes, changed(HUGE, config))


def simpleclick_vit_t(num_classes: int = 1, **config: Any) -> SimpleClick:
    """Eight blocks of 192 channels, 224 px: without a GPU."""
    return SimpleClick(num_classes, changed(TINY, config))
