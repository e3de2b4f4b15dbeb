"""Swin transformers, V1 and V2 (Liu et al., arXiv 2103.14030 and 2111.09883), on torchvision's blocks.

Self-attention in windows of 7 x 7 (8 x 8) tokens; every other block shifts the windows by half, so that neighbors meet,
and between stages four tokens become one. Attention of V1 is computed here, by torch's fused kernel, because projects
disagree on one thing that torchvision does not offer: whether windows are shifted (with what has wrapped around masked)
along a side that a single window covers. The weights of detectors were trained with the shift.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eachmask.accel.lazy_dynamo import torchvision
from eachmask.backbones.features import Features
from eachmask.structures import UserError


@dataclass(frozen=True)
class SwinConfig:
    """What variants differ in. Defaults: Swin-T."""

    width: int = 96
    """Channels of the first stage, doubled by each following one."""
    depths: tuple[int, ...] = (2, 2, 6, 2)
    heads: tuple[int, ...] = (3, 6, 12, 24)
    window: int = 7
    """Side of a window, tokens."""
    version: int = 1
    """2: cosine attention, norms behind it, positions by a small network."""
    drop_path: float = 0.2
    """Share of the last block's results that are left out in training; falls to 0 at the first block."""
    pads: bool = True
    """Images whose sides are no multiples of 4 are padded, as detectors do; else cut, as torchvision's classifiers."""
    keeps_shift: bool = False
    """Windows are shifted also along a side that one window covers (the original detectors, MMDetection)."""


NAMED = {
    "swin_t": SwinConfig(),
    "swin_s": SwinConfig(depths=(2, 2, 18, 2)),
    "swin_b": SwinConfig(width=128, depths=(2, 2, 18, 2), heads=(4, 8, 16, 32)),
    "swin_l": SwinConfig(width=192, depths=(2, 2, 18, 2), heads=(6, 12, 24, 48)),
    "swin_v2_t": SwinConfig(window=8, version=2),
    "swin_v2_s": SwinConfig(depths=(2, 2, 18, 2), window=8, version=2),
    "swin_v2_b": SwinConfig(width=128, depths=(2, 2, 18, 2), heads=(4, 8, 16, 32), window=8, version=2),
}
"""The papers' and torchvision's."""


class Swin(nn.Module):
    """A Swin transformer: maps of its four stages, normalized each.

    Args:
        name: one of :data:`NAMED`.
        changes: other values of its :class:`SwinConfig`; lists stand for tuples.

    Raises:
        UserError: there is no such network, or it has no such setting.
    """

    def __init__(self, name: str, changes: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        if name not in NAMED:
            raise UserError(f"there is no Swin transformer {name!r}, but {', '.join(NAMED)}")
        try:
            values: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in (changes or {}).items()}
            self.config = c = replace(NAMED[name], **values)
        except TypeError as error:
            raise UserError(f"a Swin transformer has no such setting: {error}") from error
        self.name = name
        self.net = nn.Module()
        self.net.features = _network(c).features
        self.channels = tuple(c.width * 2**i for i in range(len(c.depths)))
        self.strides = tuple(4 * 2**i for i in range(len(c.depths)))
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for channels in self.channels)

    def forward(self, images: Tensor) -> Features:
        """(B, 3, H, W) -> four maps, channels first."""
        if self.config.pads:
            height, width = images.shape[-2:]
            images = F.pad(images, (0, -width % 4, 0, -height % 4))
        maps = [
            norm(x).permute(0, 3, 1, 2).contiguous() for norm, x in zip(self.norms, self.tokens(images), strict=True)
        ]
        return Features(tuple(maps), self.strides, self.channels)

    def tokens(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> what each stage gives to the next, (B, h, w, C), not normalized."""
        x, found = images, []
        for number, layer in enumerate(self.net.features):  # type: ignore[arg-type]
            x = layer(x)
            if number % 2:
                found.append(x)
        return found

    def parts(self) -> list[list[nn.Module]]:
        """What an image passes, in order: the patches, then each stage with what halves the map before it."""
        patches, *layers = list(self.net.features)  # type: ignore[arg-type]
        pairs = [[*layers[max(0, i - 1) : i], layers[i]] for i in range(0, len(layers), 2)]
        return [[patches], *([*pair, norm] for pair, norm in zip(pairs, self.norms, strict=True))]


class WindowAttention(nn.Module):
    """Self-attention in shifted windows, with torchvision's parameters and their names.

    Args:
        shift_size: tokens by which windows are shifted, (rows, columns).
        keeps_shift: see :class:`SwinConfig`.
    """

    def __init__(
        self,
        dim: int,
        window_size: list[int],
        shift_size: list[int],
        num_heads: int,
        keeps_shift: bool = False,
        attention_dropout: float = 0.0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.window, self.shift, self.num_heads, self.keeps_shift = (
            window_size[0],
            shift_size[0],
            num_heads,
            keeps_shift,
        )
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.relative_position_bias_table = nn.Parameter(torch.empty((2 * self.window - 1) ** 2, num_heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        self.register_buffer("relative_position_index", relative_index(self.window))

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> the same."""
        batch, height, width, channels = x.shape
        w = self.window
        x = F.pad(x, (0, 0, 0, -width % w, 0, -height % w))
        rows, columns = x.shape[1] // w, x.shape[2] // w
        down, right = self._shift(rows), self._shift(columns)
        x = _rolled(x, down, right)
        tokens = x.view(batch, rows, w, columns, w, channels).transpose(2, 3).reshape(-1, w * w, channels)
        width_of_head = self.proj.in_features // self.num_heads
        qkv = self.qkv(tokens).view(-1, w * w, 3, self.num_heads, width_of_head).permute(2, 0, 3, 1, 4)
        bias = self.bias(batch, rows, columns, down, right)
        found = F.scaled_dot_product_attention(qkv[0], qkv[1], qkv[2], attn_mask=bias)
        tokens = self.proj(found.transpose(1, 2).reshape(tokens.shape))
        x = tokens.view(batch, rows, columns, w, w, channels).transpose(2, 3).reshape(x.shape)
        x = _rolled(x, -down, -right)
        return x[:, :height, :width].contiguous()

    def _shift(self, windows: int | Tensor) -> int | Tensor:
        """Tokens by which so many windows in a row are shifted; while a network is traced, both depend on the image."""
        if self.keeps_shift or not self.shift:
            return self.shift
        return self.shift * (windows > 1)

    def bias(self, batch: int, rows: int, columns: int, down: int | Tensor, right: int | Tensor) -> Tensor:
        """What is added to the logits, (1 or B * windows, heads, w², w²): relative positions, and -100 where two
        tokens are neighbors only because the map has wrapped around."""
        index = self.relative_position_index
        size = self.window**2
        bias = self.relative_position_bias_table[index].view(size, size, -1).permute(2, 0, 1)[None]  # type: ignore[index]
        if not isinstance(down, Tensor) and not (down or right):
            return bias
        regions = [_regions(n, self.window, shift, bias) for n, shift in ((rows, down), (columns, right))]
        region = regions[0][:, None, :, None] * 3 + regions[1][None, :, None, :]
        region = region.expand(rows, columns, self.window, self.window).reshape(rows * columns, size)
        mask = (region[:, :, None] != region[:, None]).to(bias) * -100
        return (bias + mask[:, None]).repeat(batch, 1, 1, 1)


def _rolled(x: Tensor, up: int | Tensor, left: int | Tensor) -> Tensor:
    """(B, H, W, C), moved; what leaves comes back on the other side."""
    if not isinstance(up, Tensor) or not isinstance(left, Tensor):
        return torch.roll(x, (-int(up), -int(left)), (1, 2)) if up or left else x
    for dim, shift in ((1, up), (2, left)):
        x = x.index_select(dim, (torch.arange(x.shape[dim], device=x.device) + shift) % x.shape[dim])
    return x


def _regions(count: int, window: int, shift: int | Tensor, like: Tensor) -> Tensor:
    """(count, window): which part of a side each token is of; 1 and 2 lie in the last window."""
    place = torch.arange(count * window, device=like.device)
    return ((place >= count * window - window).long() + (place >= count * window - shift)).view(count, window)


def relative_index(window: int) -> Tensor:
    """(window⁴,) for each pair of tokens of a window its row in the table of relative positions."""
    place = torch.arange(window)
    offset = place[:, None] - place + window - 1  # (window, window)
    index = offset[:, None, :, None] * (2 * window - 1) + offset[None, :, None, :]
    return index.flatten()


def _network(config: SwinConfig) -> Any:
    swin = torchvision().models.swin_transformer
    c = config

    attention = partial(WindowAttention, keeps_shift=c.keeps_shift)

    block = partial(swin.SwinTransformerBlock, attn_layer=attention)
    return swin.SwinTransformer(
        patch_size=[4, 4], embed_dim=c.width, depths=list(c.depths), num_heads=list(c.heads),
        window_size=[c.window] * 2, stochastic_depth_prob=c.drop_path, num_classes=1,
        block=block if c.version == 1 else swin.SwinTransformerBlockV2,
        downsample_layer=swin.PatchMerging if c.version == 1 else swin.PatchMergingV2,
    )  # fmt: skip
