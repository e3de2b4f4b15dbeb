"""Clicks, boxes and rough masks as vectors: the prompt encoder of Segment Anything.

Kirillov, Mintun, Ravi, Mao, Rolland, Gustafson, Xiao, Whitehead, Berg, Lo, Dollár, Girshick: "Segment Anything", 2023,
arXiv 2304.02643, section 3 and appendix A.

The idea: a point is where it is, plus what it says. *Where* is a random Fourier code (Tancik et al., "Fourier Features
Let Networks Learn High Frequency Functions", 2020, arXiv 2006.10739): of a place c in -1..1 the code is

    (sin 2 pi cG, cos 2 pi cG),  G a fixed matrix of random frequencies.

*What* is a learned vector of its kind: on the object, beside it, the first or second corner of a box. A rough mask is
a small image, which three convolutions bring to the grid of the image's features, to which it is added.

Shapes: P objects, T points of each, C channels, h x w cells of the feature grid.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

BESIDE, ON, FIRST_CORNER, SECOND_CORNER, NOTHING = range(5)
"""Kinds of points. ``NOTHING`` fills up: it lies nowhere, and stands behind the points of an object without a box."""


@dataclass(frozen=True)
class PromptConfig:
    """How prompts become vectors."""

    width: int = 256
    """C: channels of tokens and features."""
    mask_width: int = 16
    """Channels between the convolutions on rough masks."""


class PositionCode(nn.Module):
    """Random Fourier features of places.

    Args:
        width: C, even.
        scale: standard deviation of the frequencies.
    """

    frequencies: Tensor

    def __init__(self, width: int, scale: float = 1.0) -> None:
        super().__init__()
        self.register_buffer("frequencies", scale * torch.randn(2, width // 2))

    def forward(self, places: Tensor) -> Tensor:
        """(..., 2) xy in 0..1 -> (..., C)."""
        angles = 2 * math.pi * ((2 * places.float() - 1) @ self.frequencies.float())
        return torch.cat([angles.sin(), angles.cos()], dim=-1)

    def grid(self, size: tuple[int, int]) -> Tensor:
        """The code of the centers of h x w cells, (1, C, h, w)."""
        height, width = size
        device = self.frequencies.device
        y = (torch.arange(height, device=device) + 0.5) / height
        x = (torch.arange(width, device=device) + 0.5) / width
        places = torch.stack([x.expand(height, -1), y[:, None].expand(-1, width)], dim=-1)
        return self(places).permute(2, 0, 1)[None]  # type: ignore[no-any-return]


class ChannelNorm(nn.Module):
    """LayerNorm over the channels of (B, C, h, w)."""

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Same shape."""
        last = nn.functional.layer_norm(x.permute(0, 2, 3, 1), self.weight.shape, self.weight, self.bias, self.eps)
        return last.permute(0, 3, 1, 2)


class PromptEncoder(nn.Module):
    """Prompts of objects as tokens, and as something to add to the image's features."""

    def __init__(self, config: PromptConfig) -> None:
        super().__init__()
        width, inner = config.width, config.mask_width
        self.position = PositionCode(width)
        self.kinds = nn.Embedding(5, width)
        self.masks = nn.Sequential(
            nn.Conv2d(1, inner // 4, 2, stride=2),
            ChannelNorm(inner // 4),
            nn.GELU(),
            nn.Conv2d(inner // 4, inner, 2, stride=2),
            ChannelNorm(inner),
            nn.GELU(),
            nn.Conv2d(inner, width, 1),
        )
        self.no_mask = nn.Embedding(1, width)

    def forward(self, points: Tensor, kinds: Tensor, size: tuple[int, int]) -> Tensor:
        """Points as tokens.

        Args:
            points: (P, T, 2) xy in pixels of the padded image that the network saw; pixel i has its center at i + 1/2.
            kinds: (P, T) int64: ``ON``, ``BESIDE``, ``FIRST_CORNER`` ...
            size: (height, width) of the padded image.

        Returns:
            (P, T, C).
        """
        places = points / points.new_tensor([size[1], size[0]])
        code = self.position(places) * (kinds != NOTHING)[..., None]
        return code + self.kinds(kinds)  # type: ignore[no-any-return]

    def dense(self, logits: Tensor | None) -> Tensor:
        """Rough masks, to be added to the features.

        Args:
            logits: (P, 1, 4 h, 4 w), positive on the object, such as an earlier answer; None: there are none.

        Returns:
            (P, C, h, w), or (1, C, 1, 1) where there are none.
        """
        return self.no_mask.weight[:, :, None, None] if logits is None else self.masks(logits)
