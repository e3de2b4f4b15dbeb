"""SAM 2's memory: what is kept of a frame, and how a later frame reads it.

Ravi et al.: "SAM 2: Segment Anything in Images and Videos", 2024, arXiv 2408.00714, section 4 and appendix D; rotary
codes of places after Su et al.: "RoFormer", 2021, arXiv 2104.09864, for x and y apart.

Shapes: N objects, C channels of features, M of memory, h x w cells of a frame, S tokens of memory.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eachmask.models.instance.boundaryformer import map_encoding
from eachmask.models.promptable.mask_decoder import MLP
from eachmask.models.promptable.prompt_encoder import ChannelNorm

_INPUT_CODE = 0.1
"""Share of the code of places that is added to a frame's features."""
_BASE = 10000.0
"""Of the wavelengths of sine codes."""


@dataclass(frozen=True)
class MemoryConfig:
    """What is remembered, and how it is read."""

    width: int = 64
    """M."""
    frames: int = 7
    """Whose maps are read: this many less one before the present one, besides all that were prompted."""
    pointers: int = 16
    """Frames whose object pointers are read."""
    layers: int = 4
    """Of the attention."""
    heads: int = 1
    mlp: int = 2048
    theta: float = 10000.0
    """Of the rotary code: the longest wavelength, in cells, over 2 pi."""
    fusers: int = 2
    """Blocks of the encoder that mix features and mask."""
    scale: float = 20.0
    bias: float = -10.0
    """Of the mask's probability, before it is encoded."""


# Codes ----------------------------------------------------------------------------------------------------------------


def time_code(times: Tensor, channels: int) -> Tensor:
    """(P,) -> (P, channels): all sines, then all cosines."""
    half = channels // 2
    exponents = torch.div(torch.arange(half, device=times.device), 2, rounding_mode="floor") * 2 / half
    angles = times[:, None] / _BASE**exponents
    return torch.cat([angles.sin(), angles.cos()], 1)


def rotations(channels: int, size: tuple[int, int], theta: float, device: torch.device) -> Tensor:
    """Angles by which pairs of channels are turned at each of h x w cells, first
    for x, then for y: (h w, channels / 2)."""
    height, width = size
    speeds = 1 / theta ** (torch.arange(0, channels, 4, device=device)[: channels // 4].float() / channels)
    cells = torch.arange(height * width, device=device)
    x, y = (cells % width).float(), torch.div(cells, width, rounding_mode="floor").float()
    return torch.cat([x[:, None] * speeds, y[:, None] * speeds], 1)


def turned(x: Tensor, angles: Tensor) -> Tensor:
    """(..., L, D) with neighboring pairs of channels turned by angles (L, D / 2)."""
    a, b = x[..., 0::2], x[..., 1::2]
    sin, cos = angles.sin(), angles.cos()
    return torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2)


# Reading --------------------------------------------------------------------------------------------------------------


class RotaryAttention(nn.Module):
    """Attention whose queries and keys are turned by where they lie; keys and values may be of another width."""

    def __init__(self, width: int, heads: int, outside: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.out = nn.Linear(width, width), nn.Linear(width, width)
        self.k, self.v = nn.Linear(outside, width), nn.Linear(outside, width)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, angles: Tensor, placeless: int = 0) -> Tensor:
        """(N, L, C), (N, S, outside), (N, S, outside) -> (N, L, C).

        Args:
            angles: (L, C / heads / 2), of the cells of a frame; the keys are of any number of such frames.
            placeless: the last keys, which lie nowhere.
        """
        query, key, value = (
            x.unflatten(2, (self.heads, -1)).transpose(1, 2) for x in (self.q(q), self.k(k), self.v(v))
        )
        placed = key.shape[2] - placeless
        frames = placed // len(angles)
        key = torch.cat([turned(key[:, :, :placed], angles.repeat(frames, 1)), key[:, :, placed:]], 2)
        mixed = F.scaled_dot_product_attention(turned(query, angles), key, value)
        return self.out(mixed.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class MemoryLayer(nn.Module):
    """A frame looks at itself and at memory, and thinks."""

    def __init__(self, width: int, config: MemoryConfig) -> None:
        super().__init__()
        self.self_attention = RotaryAttention(width, config.heads, width)
        self.to_memory = RotaryAttention(width, config.heads, config.width)
        self.mlp = MLP((width, config.mlp, width))
        self.norms = nn.ModuleList([nn.LayerNorm(width) for _ in range(3)])

    def forward(self, x: Tensor, memory: Tensor, code: Tensor, angles: Tensor, pointers: int) -> Tensor:
        """(N, h w, C) -> same shape; see :class:`MemoryAttention`."""
        own = self.norms[0](x)
        x = x + self.self_attention(own, own, own, angles)
        x = x + self.to_memory(self.norms[1](x), memory + code, memory, angles, pointers)
        return x + self.mlp(self.norms[2](x))  # type: ignore[no-any-return]


class MemoryAttention(nn.Module):
    """A frame's features, with what memory says of them."""

    def __init__(self, width: int, config: MemoryConfig) -> None:
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList([MemoryLayer(width, config) for _ in range(config.layers)])
        self.norm = nn.LayerNorm(width)

    def forward(self, features: Tensor, memory: Tensor, code: Tensor, pointers: int) -> Tensor:
        """(N, C, h, w) -> same shape.

        Args:
            memory: (N, S, M): maps of frames, row by row, then the tokens of pointers.
            code: (N, S, M), of places and times; added to keys alone.
            pointers: tokens at the end of memory that lie nowhere.
        """
        size = (features.shape[2], features.shape[3])
        place = map_encoding(features[0], 1.0)
        x = (features + _INPUT_CODE * place).flatten(2).transpose(1, 2)
        angles = rotations(features.shape[1] // self.config.heads, size, self.config.theta, features.device)
        for layer in self.layers:
            x = layer(x, memory, code, angles, pointers)
        return self.norm(x).transpose(1, 2).unflatten(2, size)  # type: ignore[no-any-return]


# Writing --------------------------------------------------------------------------------------------------------------


class FuserBlock(nn.Module):
    """ConvNeXt's: each channel looks around by itself, then all of a place think together."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.around = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = ChannelNorm(width)
        self.mlp = MLP((width, 4 * width, width), F.gelu)
        self.gamma = nn.Parameter(torch.full((width,), 1e-6))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) -> same shape."""
        rows = self.mlp(self.norm(self.around(x)).permute(0, 2, 3, 1))
        return x + (self.gamma * rows).permute(0, 3, 1, 2)  # type: ignore[no-any-return]


class MemoryEncoder(nn.Module):
    """What is kept of a frame and the mask of an object."""

    def __init__(self, width: int, config: MemoryConfig) -> None:
        super().__init__()
        widths = [width // 4**i for i in (4, 3, 2, 1, 0)]  # each has four times the channels at half the size
        layers: list[nn.Module] = []
        for before, after in zip(widths, widths[1:], strict=False):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), ChannelNorm(after), nn.GELU()]
        self.masks = nn.Sequential(*layers, nn.Conv2d(width, width, 1))
        self.features = nn.Conv2d(width, width, 1)
        self.fuser = nn.Sequential(*(FuserBlock(width) for _ in range(config.fusers)))
        self.out = nn.Conv2d(width, config.width, 1)

    def forward(self, features: Tensor, masks: Tensor) -> Tensor:
        """(N, C, h, w), (N, 1, 16 h, 16 w) scaled probabilities -> (N, M, h, w)."""
        return self.out(self.fuser(self.features(features) + self.masks(masks)))  # type: ignore[no-any-return]
