"""EfficientSAM: Segment Anything with a small plain encoder.

Xiong, Varadarajan, Wu, Xiang, Xiao, Zhu, Dai, Wang, Sun, Iandola, Krishnamoorthi, Chandra: "EfficientSAM: Leveraged
Masked Image Pretraining for Efficient Segment Anything", CVPR 2024, arXiv 2312.00863.

The idea: a small ViT that was pretrained to rebuild the features of SAM's encoder from a few patches is good enough to
take its place. It looks everywhere in every block, has no windows and no relative positions.

Where its decoder differs from SAM's: every block keeps the residual of its self-attention, and in later ones the code
of the tokens' places is part of what is kept; GELU throughout; features are normalized over all channels and places
together. Prompts are always six points: fewer are filled up, more are cut. There are no rough masks, and a point
beside the object says where it is and no more. Images are stretched to a square; masks reach the image by bicubic
resizing.

Shapes: as in :mod:`eachmask.models.promptable.sam`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eachmask.models.config import changed
from eachmask.models.promptable import sam
from eachmask.models.promptable.mask_decoder import MLP, DecoderConfig, Enlarge, TwoWayBlock
from eachmask.models.promptable.prompt_encoder import BESIDE, NOTHING, PromptEncoder
from eachmask.models.promptable.sam import SAM
from eachmask.structures import Preprocess, UserError
from eachmask.structures.soft_masks import Samples


@dataclass(frozen=True)
class PlainConfig:
    """A plain vision transformer."""

    image_size: int = 1024
    pretrained_size: int = 224
    """Side of the images that its position code is of; it is resized to the grid."""
    patch: int = 16
    width: int = 192
    depth: int = 12
    heads: int = 3
    mlp_ratio: float = 4.0


@dataclass(frozen=True)
class Config(sam.Config):
    """What a variant may change."""

    encoder: PlainConfig = PlainConfig()  # type: ignore[assignment]
    points: int = 6
    """Points of every object."""


# Blocks ---------------------------------------------------------------------------------------------------------------


class PlainViT(nn.Module):
    """(B, 3, H, W) -> (B, h, w, C)."""

    def __init__(self, config: PlainConfig) -> None:
        super().__init__()
        side = config.pretrained_size // config.patch
        self.patches = nn.Conv2d(3, config.width, config.patch, stride=config.patch)
        self.positions = nn.Parameter(torch.zeros(1, side, side, config.width))
        nn.init.trunc_normal_(self.positions, std=0.02)
        self.blocks = nn.ModuleList([Block(config) for _ in range(config.depth)])

    def forward(self, x: Tensor) -> Tensor:
        """What the last block says of every patch."""
        x = self.patches(x).permute(0, 2, 3, 1)
        planes = self.positions.permute(0, 3, 1, 2).float()
        code = F.interpolate(planes, x.shape[1:3], mode="bicubic", align_corners=False)  # also to its own size
        size = x.shape[1:3]
        x = (x + code.permute(0, 2, 3, 1)).flatten(1, 2)
        for block in self.blocks:
            x = block(x)
        return x.unflatten(1, size)  # type: ignore[no-any-return]


class Block(nn.Module):
    """Attention among all patches, then an MLP."""

    def __init__(self, config: PlainConfig) -> None:
        super().__init__()
        width, inner = config.width, int(config.width * config.mlp_ratio)
        self.heads = config.heads
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, inner), nn.GELU(), nn.Linear(inner, width))

    def forward(self, x: Tensor) -> Tensor:
        """(B, h w, C), same shape."""
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        x = x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm2(x))  # type: ignore[no-any-return]


class EfficientBlock(TwoWayBlock):
    """SAM's, with other residuals and GELU."""

    def __init__(self, config: DecoderConfig, first: bool) -> None:
        super().__init__(config, first, F.gelu)

    def among_themselves(self, tokens: Tensor, code: Tensor) -> Tensor:
        """Self-attention, always beside what was there; the code stays in the tokens from the second block on."""
        tokens = tokens if self.first else tokens + code
        return tokens + self.self_attention(tokens, tokens, tokens)  # type: ignore[no-any-return]


class OneGroupEnlarge(Enlarge):
    """Normalized over all channels and places together."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.norm = nn.GroupNorm(1, width // 4)

    def normalize(self, x: Tensor) -> Tensor:
        """See :meth:`Enlarge.normalize`."""
        return self.norm(x.flatten(1, 2).transpose(1, 2)).transpose(1, 2).reshape(x.shape)  # type: ignore[no-any-return]


class PointEncoder(PromptEncoder):
    """Points and corners alone; what is nothing keeps its place, and what lies beside the object has nothing else."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        del self.masks, self.no_mask

    def forward(self, points: Tensor, kinds: Tensor, size: tuple[int, int]) -> Tensor:
        """See :meth:`PromptEncoder.forward`."""
        code = self.position(points / points.new_tensor([size[1], size[0]]))
        return code + self.kinds(kinds) * (kinds != BESIDE)[..., None]  # type: ignore[no-any-return]

    def dense(self, logits: Tensor | None) -> Tensor:
        """Nothing is added to the features.

        Raises:
            UserError: there are rough masks.
        """
        if logits is not None:
            raise UserError("this model takes no rough masks: give points or boxes, or a model such as sam_vit_b")
        return torch.zeros((), device=self.kinds.weight.device)


# The model ------------------------------------------------------------------------------------------------------------


class EfficientSAM(SAM):
    """SAM with a plain encoder and six points."""

    samples: ClassVar[Samples] = "cubic"
    config: Config

    def __init__(self, num_classes: int = 1, config: Config | None = None) -> None:
        config = config or Config()
        super().__init__(PlainViT(config.encoder), config.encoder.width, num_classes, config, EfficientBlock)
        self.prompts = PointEncoder(config.prompts)
        width, inner, layers = config.decoder.width, config.decoder.iou_width, config.decoder.iou_layers
        self.decoder.enlarge = OneGroupEnlarge(width)
        masks = config.decoder.masks
        self.decoder.classifiers = nn.ModuleList([MLP((width, width, width, width // 8), F.gelu) for _ in range(masks)])
        self.decoder.iou = MLP((width, *[inner] * (layers - 1), masks), F.gelu)

    def tokens(self, points: Tensor, kinds: Tensor, padded: tuple[int, int]) -> Tensor:
        """Six points of each object; places are counted from (-1, -1) where there is nothing."""
        num = self.config.points
        kinds = F.pad(kinds, (0, max(0, num - kinds.shape[1])), value=NOTHING)[:, :num]
        points = F.pad(points, (0, 0, 0, max(0, num - points.shape[1])))[:, :num]
        points = torch.where((kinds == NOTHING)[..., None], -1.0, points)
        return self.prompts(points + 0.5, kinds, padded)  # type: ignore[no-any-return]


# Variants -------------------------------------------------------------------------------------------------------------

PREPROCESS = Preprocess(short_side=None, fixed_size=(1024, 1024), divisor=1)
"""What the authors' weights are for."""


def efficient_sam_ti(num_classes: int = 1, **config: Any) -> EfficientSAM:
    """A ViT of 192 channels."""
    return EfficientSAM(num_classes, changed(Config(), config))


def efficient_sam_s(num_classes: int = 1, **config: Any) -> EfficientSAM:
    """A ViT of 384 channels."""
    return EfficientSAM(num_classes, changed(Config(PlainConfig(width=384, heads=6)), config))
