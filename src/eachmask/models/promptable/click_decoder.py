"""The networks of :mod:`eachmask.models.promptable.clicks`: what is known of an image, and the answer in a window.

Shapes: B images of H x W px, R questions, S the side of a window's grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eachmask.backbones.fuse import FastConv2d
from eachmask.backbones.fuse.conv import RELU
from eachmask.models.promptable.click_colors import NUM_COLORS

WIDTHS = (16, 32, 64, 96)
"""Channels of what is known of an image, at strides 2, 4, 8 and 16."""
HEADS, HEAD_WIDTH = 8, 8
"""Similarities of every place to the clicked ones, and the length of the vectors that they compare."""
SIMILARITIES = 2 * HEADS
DEEPEST = 128


class Known(NamedTuple):
    """Maps of a batch of images."""

    fine: Tensor  # (B, 16, H / 2, W / 2)
    maps: tuple[Tensor, ...]  # (B, 32, H / 4, W / 4), (B, 64, H / 8, W / 8), (B, 96, H / 16, W / 16)
    keys: Tensor  # (B, 64, H / 8, W / 8): vectors of each head, of length 1
    colors: Tensor  # (B, 3, H / 2, W / 2): the image itself


def conv(inputs: int, outputs: int, kernel: int = 1, stride: int = 1) -> nn.Sequential:
    """Convolution, normalization, ReLU."""
    padding = 0 if stride == kernel else kernel // 2
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(True)
    )


class Block(nn.Module):
    """A depthwise convolution and two that mix channels, added to what came in (Liu et al., arXiv 2201.03545)."""

    def __init__(self, channels: int, kernel: int = 5, wider: int = 2) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, channels, kernel, padding=kernel // 2, groups=channels, bias=False),
            nn.BatchNorm2d(channels),
            nn.Conv2d(channels, wider * channels, 1),
            nn.ReLU(True),
            nn.Conv2d(wider * channels, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        result: Tensor = x + self.layers(x)
        return result

    def for_inference(self) -> nn.Module:
        """The same, once its normalizations are folded."""
        layers = [layer for layer in self.layers if not isinstance(layer, nn.Identity)]
        return FastBlock(*layers) if all(type(layer) is FastConv2d for layer in layers) else self


class FastBlock(nn.Sequential):
    """A :class:`Block` of folded convolutions, the last of which adds to what came in, in its memory."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape; ``x`` must not be read again."""
        y, (*first, last) = x, self
        for layer in first:
            y = layer(y)
        added: Any = last
        return added.add_to(x, y)  # type: ignore[no-any-return]


class Neck(nn.Module):
    """A backbone's coarse maps flow down into the fine ones.

    Args:
        finest: channels of the map at stride 2.
        channels: of the maps at strides 4, 8, 16 and 32.
    """

    def __init__(self, finest: int, channels: Sequence[int]) -> None:
        super().__init__()
        c4, c8, c16, c32 = channels
        w2, w4, w8, w16 = WIDTHS
        self.context = nn.Conv2d(c32, w16, 1)
        self.lateral32, self.lateral16 = conv(c32, w16), conv(c16, w16)
        self.lateral8, self.lateral4 = conv(c8, w8), conv(c4, w4)
        self.down8, self.down4 = nn.Conv2d(w16, w8, 1), nn.Conv2d(w8, w4, 1)
        self.smooth16, self.smooth8, self.smooth4 = Block(w16), Block(w8), Block(w4, 3)
        self.fine = conv(finest + 3, w2)
        self.keys = nn.Conv2d(w8, HEADS * HEAD_WIDTH, 1)

    def forward(self, images: Tensor, maps: Sequence[Tensor]) -> Known:
        """(B, 3, H, W) and the backbone's maps at strides 2 ... 32 -> what is known."""
        finest, c4, c8, c16, c32 = maps
        top = self.lateral32(c32) + self.context(c32.mean((2, 3), keepdim=True))
        e16 = self.smooth16(self.lateral16(c16) + grown(top, c16))
        e8 = self.smooth8(self.lateral8(c8) + grown(self.down8(e16), c8))
        e4 = self.smooth4(self.lateral4(c4) + grown(self.down4(e8), c4))
        colors = F.avg_pool2d(images, 2)
        fine = self.fine(torch.cat([finest, colors], 1))
        return Known(fine, (e4, e8, e16), of_length_one(self.keys(e8)).flatten(1, 2), colors)


class Seen(NamedTuple):
    """What windows show, stretched to grids; Q is R, or 1 where all look through the same one."""

    fine: Tensor  # (Q, 16, 2 S, 2 S)
    maps: tuple[Tensor, ...]  # (Q, 32, S, S), (Q, 64, S / 2, S / 2), (Q, 96, S / 4, S / 4)
    similar: Tensor  # (R, SIMILARITIES, S / 2, S / 2) to clicks on the object and beside it
    said: Tensor  # (R, num_said, S, S) what the user said, as maps
    colored: Tensor  # (R, NUM_COLORS, 2 S, 2 S) what its colors say


class Decoder(nn.Module):
    """A small U-Net from what a window shows and what was said to masks and how good they are.

    Args:
        num_said: maps of what was said.
        num_masks: answers.
    """

    def __init__(self, num_said: int, num_masks: int) -> None:
        super().__init__()
        w2, w4, w8, w16 = WIDTHS
        self.enter = nn.Sequential(conv(w4 + num_said + NUM_COLORS, w4), Block(w4, 3))
        self.halve8, self.join8 = conv(w4, w8, 2, 2), conv(2 * w8 + SIMILARITIES, w8)
        self.halve16, self.join16 = conv(w8, w16, 2, 2), conv(2 * w16, w16)
        self.at8, self.at16 = nn.Sequential(Block(w8), Block(w8)), nn.Sequential(Block(w16), Block(w16))
        self.deepest = nn.Sequential(conv(w16, DEEPEST, 2, 2), Block(DEEPEST), Block(DEEPEST))
        self.overall = nn.Linear(DEEPEST, DEEPEST)
        self.grow16, self.grow8 = nn.Conv2d(DEEPEST, w16, 1), nn.Conv2d(w16, w8, 1)
        self.grow4, self.grow2 = nn.Conv2d(w8, w4, 1), nn.Conv2d(w4, w2, 1)
        self.out16, self.out8, self.out4 = Block(w16), Block(w8), Block(w4, 3)
        self.coarse = nn.Conv2d(w4, num_masks, 3, padding=1)
        self.colored = nn.Conv2d(NUM_COLORS, w2, 1, bias=False)
        self.refine = nn.Sequential(conv(w2, w2, 3), nn.Conv2d(w2, num_masks, 1))
        self.quality = nn.Sequential(nn.Linear(DEEPEST + w4 + 3, 64), nn.ReLU(True), nn.Linear(64, 1))
        self.which = nn.Parameter(torch.zeros(num_masks))

    def forward(self, seen: Seen) -> tuple[Tensor, Tensor]:
        """-> logits (R, M, 2 S, 2 S) and logits of their IoU (R, M)."""
        seen = _rounded(seen)
        e4, e8, e16 = (for_each(x, seen.said) for x in seen.maps)
        x4 = self.enter(torch.cat([e4, seen.said, F.avg_pool2d(seen.colored, 2)], 1))
        x8 = self.at8(self.join8(torch.cat([self.halve8(x4), e8, seen.similar], 1)))
        x16 = self.at16(self.join16(torch.cat([self.halve16(x8), e16], 1)))
        deep = self.deepest(x16)
        overall = torch.relu(self.overall(deep.mean((2, 3))))
        deep = deep + overall[..., None, None]
        y = self.out16(x16 + grown(self.grow16(deep), x16))
        y = self.out8(x8 + grown(self.grow8(y), x8))
        y = self.out4(x4 + grown(self.grow4(y), x4))
        coarse = self.coarse(y)
        # The largest maps: what may be added in its own memory is.
        finest = grown(self.grow2(y), seen.fine).add_(seen.fine)
        fine = self.refine(self._with_colors(finest, seen.colored))
        # One mask after the other: few channels, last in memory, take twice as long, and who reads wants one mask.
        answers = grown(coarse.float().contiguous(), seen.fine).add_(fine)
        return answers, self._qualities(coarse.detach(), y, overall)

    def _with_colors(self, x: Tensor, colored: Tensor) -> Tensor:
        return x.add_(self.colored(colored)).relu_()

    def _qualities(self, coarse: Tensor, y: Tensor, overall: Tensor) -> Tensor:
        inside = coarse.sigmoid().flatten(2)
        area = inside.sum(2).clamp(min=1e-3)
        within = inside @ y.flatten(2).transpose(1, 2) / area[..., None]
        sure = ((inside * inside).sum(2) / area)[..., None]
        share = inside.mean(2, keepdim=True)
        named = self.which[None, :, None].expand(y.shape[0], -1, 1)
        both = [overall[:, None].expand(-1, within.shape[1], -1), within, sure, share, named]
        result: Tensor = self.quality(torch.cat(both, 2))[..., 0]
        return result

    def for_inference(self) -> nn.Module:
        """The same, once its convolutions are exchanged."""
        if type(self.colored) is FastConv2d:
            self.__class__, self.colored.activation = FastDecoder, RELU
        return self


class FastDecoder(Decoder):
    """A :class:`Decoder` whose convolution of colors adds to what is there, and activates, in one pass."""

    def _with_colors(self, x: Tensor, colored: Tensor) -> Tensor:
        added: Any = self.colored
        return added.add_to(x, colored)  # type: ignore[no-any-return]


def _rounded(seen: Seen) -> Seen:
    """In the type that autocast computes in: where types meet, the largest maps would be copied each time."""
    device = seen.fine.device.type
    if not torch.is_autocast_enabled(device):
        return seen
    to = partial(Tensor.to, dtype=torch.get_autocast_dtype(device))
    return Seen(to(seen.fine), tuple(map(to, seen.maps)), to(seen.similar), to(seen.said), to(seen.colored))


def of_length_one(keys: Tensor) -> Tensor:
    """(N, heads x width, ...) -> (N, heads, width, ...): each head's vector by its own length."""
    return F.normalize(keys.unflatten(1, (HEADS, HEAD_WIDTH)), dim=2)


def for_each(x: Tensor, like: Tensor) -> Tensor:
    """(Q, C, H, W) -> (R, C, H, W), as many rows as another has."""
    if not torch.jit.is_tracing() and len(x) == len(like):  # type: ignore[attr-defined, no-untyped-call]
        return x
    return x.expand(like.shape[0], -1, -1, -1).contiguous(memory_format=torch.channels_last)


def grown(x: Tensor, like: Tensor) -> Tensor:
    """Bilinearly in the size of another map."""
    return F.interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=False)
