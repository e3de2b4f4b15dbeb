"""From prompts to masks: the two-way mask decoder of Segment Anything.

Kirillov et al.: "Segment Anything", 2023, arXiv 2304.02643, appendix A.

The idea: the tokens of an object (one for each mask that may be meant, one that judges them, and its prompts) and the
cells of the image look at each other in turn, twice. Afterwards each mask's token has become the weights w of a linear
classifier, and the mask is its answer at every place x of the enlarged features F:

    logits(x) = w . F(x).

A click may mean the whole, a part or a part of the part, so there are three masks to choose from, and one more for
where the prompts leave no doubt. The token that judges predicts the IoU of each mask with what is meant.

Where we differ: what all objects of an image have in common is computed once; and since transposed convolutions of
stride 2 with kernels of 2 x 2 do not overlap, the enlarged features stay sorted by the cell that they come from, so
that norms and products run along the last axis; only the finished masks are put in order. The numbers are the same.

Shapes: P objects, T tokens of each, C channels, h x w cells of the feature grid, M masks of an object (4).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eachmask.models.promptable.prompt_encoder import ChannelNorm

_OBJECTS_CHUNK_SIZE = 8
"""Objects whose enlarged features are held at once: 4 MB each at 64 x 64 cells, four times over."""

Activation = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class DecoderConfig:
    """How prompts and image become masks."""

    width: int = 256
    """C: channels of tokens and features."""
    depth: int = 2
    """Blocks of the two-way transformer."""
    heads: int = 8
    mlp: int = 2048
    """Hidden channels of the blocks' MLPs."""
    masks: int = 4
    """M: the first is for prompts that leave no doubt, the rest are whole, part and subpart."""
    iou_layers: int = 3
    iou_width: int = 256
    """Of the MLP that predicts IoUs."""


class Decoded(NamedTuple):
    """What is said of P objects."""

    logits: Tensor  # (P, M, 4 h, 4 w)
    ious: Tensor  # (P, M) predicted, about 0..1
    tokens: Tensor  # (P, M, C) of the masks, after the transformer
    presence: Tensor | None = None  # (P,) logit: the object can be seen at all


class MLP(nn.Module):
    """Linear layers with an activation between."""

    def __init__(self, widths: Sequence[int], activation: Activation = F.relu) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(a, b) for a, b in pairwise(widths)])
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """(..., widths[0]) -> (..., widths[-1])."""
        for layer in self.layers[:-1]:
            x = self.activation(layer(x))
        return self.layers[-1](x)  # type: ignore[no-any-return]


class Attention(nn.Module):
    """Attention whose inner width may be smaller than its outer one; batches of 1 and of P go together."""

    def __init__(self, width: int, heads: int, inner: int | None = None) -> None:
        super().__init__()
        inner = width if inner is None else inner
        self.heads = heads
        self.q, self.k, self.v = (nn.Linear(width, inner) for _ in range(3))
        self.out = nn.Linear(inner, width)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """(P or 1, L, C), (P or 1, S, C), (P or 1, S, C) -> (P, L, C)."""
        num = max(q.shape[0], k.shape[0])
        parts = (self._split(self.q(q), num), self._split(self.k(k), num), self._split(self.v(v), num))
        mixed = F.scaled_dot_product_attention(*parts)
        return self.out(mixed.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]

    def _split(self, x: Tensor, num: int) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2).expand(num, -1, -1, -1)  # type: ignore[no-any-return]


class TwoWayBlock(nn.Module):
    """Tokens look at each other and at the image, think, and then the image looks at them."""

    def __init__(self, config: DecoderConfig, first: bool, activation: Activation = F.relu) -> None:
        super().__init__()
        width, heads = config.width, config.heads
        self.first = first
        self.self_attention = Attention(width, heads)
        self.to_image = Attention(width, heads, width // 2)
        self.mlp = MLP((width, config.mlp, width), activation)
        self.from_image = Attention(width, heads, width // 2)
        self.norms = nn.ModuleList([nn.LayerNorm(width) for _ in range(4)])

    def forward(self, tokens: Tensor, image: Tensor, code: Tensor, image_code: Tensor) -> tuple[Tensor, Tensor]:
        """One round.

        Args:
            tokens: (P, T, C); code: (P, T, C), of the tokens as they were at first.
            image: (P or 1, h w, C); image_code: (1, h w, C), of the cells' places.

        Returns:
            tokens (P, T, C) and image (P, h w, C).
        """
        tokens = self.norms[0](self.among_themselves(tokens, code))
        keys = image + image_code
        tokens = self.norms[1](tokens + self.to_image(tokens + code, keys, image))
        tokens = self.norms[2](tokens + self.mlp(tokens))
        image = self.norms[3](image + self.from_image(keys, tokens + code, tokens))
        return tokens, image

    def among_themselves(self, tokens: Tensor, code: Tensor) -> Tensor:
        """Self-attention; in the first block the tokens are their own code, and its answer replaces them."""
        if self.first:
            return self.self_attention(tokens, tokens, tokens)  # type: ignore[no-any-return]
        asking = tokens + code
        return tokens + self.self_attention(asking, asking, tokens)  # type: ignore[no-any-return]


class TwoWayTransformer(nn.Module):
    """Some rounds, and a last look of the tokens at the image."""

    def __init__(self, config: DecoderConfig, block: type[TwoWayBlock] = TwoWayBlock) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([block(config, first=i == 0) for i in range(config.depth)])
        self.last = Attention(config.width, config.heads, config.width // 2)
        self.norm = nn.LayerNorm(config.width)

    def forward(self, tokens: Tensor, image: Tensor, image_code: Tensor) -> tuple[Tensor, Tensor]:
        """(P, T, C), (P or 1, h w, C), (1, h w, C) -> tokens (P, T, C), image (P, h w, C)."""
        code = tokens
        for block in self.blocks:
            tokens, image = block(tokens, image, code, image_code)
        tokens = tokens + self.last(tokens + code, image + image_code, image)
        return self.norm(tokens), image


class Enlarge(nn.Module):
    """Features at four times the resolution, sorted by the cell that they come from."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.ConvTranspose2d(width, width // 4, 2, stride=2)
        self.norm: nn.Module = ChannelNorm(width // 4)
        self.second = nn.ConvTranspose2d(width // 4, width // 8, 2, stride=2)

    def forward(self, image: Tensor, finer: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Each cell as 16 of a quarter of its sides.

        Args:
            image: (P, h w, C).
            finer: features of the encoder to add, sorted alike: (1, h w, 4, C/4) and (1, h w, 16, C/8).

        Returns:
            (P, h w, 16, C/8): first by quarters (row, column), then by quarters of these.
        """
        x = in_four(self.first, image)
        x = F.gelu(self.normalize(x if finer is None else x + finer[0]))
        x = in_four(self.second, x).flatten(2, 3)
        return F.gelu(x if finer is None else x + finer[1])

    def normalize(self, x: Tensor) -> Tensor:
        """(P, h w, 4, C/4) -> the same, normalized over the channels."""
        norm = self.norm
        return F.layer_norm(x, norm.weight.shape, norm.weight, norm.bias, norm.eps)  # type: ignore[arg-type]


def in_four(layer: nn.ConvTranspose2d, x: Tensor) -> Tensor:
    """A transposed convolution of stride 2 and kernel 2 x 2, place by place: (..., C) -> (..., 4, C')."""
    weight = layer.weight.permute(2, 3, 1, 0).flatten(0, 2)  # (4 C', C)
    assert layer.bias is not None
    return F.linear(x, weight, layer.bias.repeat(4)).unflatten(-1, (4, -1))  # type: ignore[no-any-return]


def in_order(values: Tensor, grid: tuple[int, int]) -> Tensor:
    """(..., h w, 16), sorted by cells -> (..., 4 h, 4 w)."""
    lead, (height, width) = values.shape[:-2], grid
    x = values.reshape(-1, height, width, 2, 2, 2, 2)  # y, x, then half y, half x, then quarter y, quarter x
    return x.permute(0, 1, 3, 5, 2, 4, 6).reshape(*lead, 4 * height, 4 * width)


def by_cells(features: Tensor, times: int) -> Tensor:
    """Features (B, C', times h, times w), times 2 or 4 -> (B, h w, times ** 2, C'), sorted as :class:`Enlarge` does."""
    if times == 2:
        x = features.unflatten(3, (-1, 2)).unflatten(2, (-1, 2))  # B, C', y, half y, x, half x
        return x.permute(0, 2, 4, 3, 5, 1).flatten(3, 4).flatten(1, 2)  # type: ignore[no-any-return]
    x = features.unflatten(3, (-1, 2, 2)).unflatten(2, (-1, 2, 2))
    return x.permute(0, 2, 5, 3, 6, 4, 7, 1).flatten(3, 6).flatten(1, 2)  # type: ignore[no-any-return]


class MaskDecoder(nn.Module):
    """The masks of P objects on one image, or on one each.

    Args:
        block: of the transformer.
        presence: there is a token that says whether the object can be seen at all (SAM 2).
    """

    def __init__(self, config: DecoderConfig, block: type[TwoWayBlock] = TwoWayBlock, presence: bool = False) -> None:
        super().__init__()
        width = config.width
        self.config = config
        self.iou_token = nn.Embedding(1, width)
        self.mask_tokens = nn.Embedding(config.masks, width)
        self.presence_token = nn.Embedding(1, width) if presence else None
        self.presence = MLP((width, width, width, 1)) if presence else None
        self.transformer = TwoWayTransformer(config, block)
        self.enlarge = Enlarge(width)
        self.classifiers = nn.ModuleList([MLP((width, width, width, width // 8)) for _ in range(config.masks)])
        self.iou = MLP((width, *[config.iou_width] * (config.iou_layers - 1), config.masks))

    def forward(
        self, features: Tensor, code: Tensor, prompts: Tensor, finer: tuple[Tensor, Tensor] | None = None
    ) -> Decoded:
        """All masks of each object and what they are thought to be worth.

        Args:
            features: (P or 1, C, h, w): of the image, with the rough masks added.
            code: (1, C, h, w), of the cells' places.
            prompts: (P, T, C), tokens; T may be 0.
            finer: see :meth:`Enlarge.forward`.
        """
        said, image = self.discuss(features, code, prompts)
        logits = self.masks(said.tokens, image, features.shape[-2:], finer)  # type: ignore[arg-type]
        return said._replace(logits=logits)

    def discuss(self, features: Tensor, code: Tensor, prompts: Tensor) -> tuple[Decoded, Tensor]:
        """All but the masks themselves: ``logits`` are empty; and what the image has become, (P, h w, C)."""
        own = [self.iou_token.weight, self.mask_tokens.weight]
        own = own if self.presence_token is None else [self.presence_token.weight, *own]
        head = torch.cat(own).expand(prompts.shape[0], -1, -1).to(prompts.dtype)
        rows, codes = features.flatten(2).transpose(1, 2), code.flatten(2).transpose(1, 2)
        tokens, image = self.transformer(torch.cat([head, prompts], dim=1), rows, codes)
        first = len(own) - 2
        masks = tokens[:, first + 1 : first + 1 + self.config.masks]
        presence = None if self.presence is None else self.presence(tokens[:, 0])[:, 0].float()
        ious = self.iou(tokens[:, first]).float()
        return Decoded(ious[:, :0], ious if presence is None else ious.sigmoid(), masks, presence), image

    def masks(
        self, tokens: Tensor, image: Tensor, grid: tuple[int, int], finer: tuple[Tensor, Tensor] | None = None
    ) -> Tensor:
        """The logits (P, M, 4 h, 4 w) of what :meth:`discuss` gave."""
        if not len(tokens):
            return image.new_zeros(0, tokens.shape[1], 4 * grid[0], 4 * grid[1])
        chunks = zip(tokens.split(_OBJECTS_CHUNK_SIZE), image.split(_OBJECTS_CHUNK_SIZE), strict=True)
        return torch.cat([self.some_masks(*some, grid, finer) for some in chunks])

    def some_masks(
        self, tokens: Tensor, image: Tensor, grid: tuple[int, int], finer: tuple[Tensor, Tensor] | None = None
    ) -> Tensor:
        """:meth:`masks` of as many objects as fit into a CPU's caches."""
        weights = torch.stack([net(tokens[:, i]) for i, net in enumerate(self.classifiers)], dim=1)
        enlarged = self.enlarge(image, finer).flatten(1, 2)  # (P, h w 16, C/8)
        logits = weights @ enlarged.transpose(1, 2)
        return in_order(logits.unflatten(2, (-1, 16)), grid).float()
