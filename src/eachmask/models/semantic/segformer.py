"""SegFormer: a pyramid of light attention, and a head that only mixes channels.

Xie, Wang, Yu, Anandkumar, Alvarez, Luo: "SegFormer: Simple and Efficient Design for Semantic Segmentation with
Transformers", NeurIPS 2021, arXiv 2105.15203.

The idea: attention sees the whole image in every block, so a head need not look around any more. Its backbone
(:mod:`~eachmask.backbones.mix_transformer`) has maps at strides 4 to 32; each is brought to the same number of
channels, enlarged to stride 4, and all of them, side by side, pass two 1 x 1 convolutions. Nothing in it depends on the
image's size, and the smallest form has 3.7 million weights.

The same numbers as MMSegmentation's ``segformer_mit-b0`` (see ``tests/parity``). Where we differ from the paper: as
there, each level is normalized and rectified before all are joined; transformers' form is read by ``hf:OWNER/NAME``.

Shapes: B images of H x W px, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from eachmask.backbones.mix_transformer import MixTransformer, MixTransformerConfig
from eachmask.models.config import changed
from eachmask.models.semantic.deeplabv3 import conv_bn_relu
from eachmask.models.semantic.labeling import Labeling, PixelLoss, Raw, resized
from eachmask.structures import ImageBatch
from eachmask.structures.spatial import Spatial


@dataclass(frozen=True)
class Config:
    """What a variant may change."""

    backbone: MixTransformerConfig = MixTransformerConfig()
    width: int = 256
    dropout: float = 0.1
    loss: PixelLoss = PixelLoss(mean_over="all")
    resized_twice: bool = True
    """Scores go from the network's size to that of the image by way of the size that the network saw, as MMSegmentation
    and Detectron2 have it; else directly."""


class SegFormer(Labeling):
    """A Mix Transformer and the head."""

    def __init__(self, num_classes: int, config: Config) -> None:
        super().__init__()
        self.num_classes, self.config, self.loss = num_classes, config, config.loss
        self.resized_twice = config.resized_twice
        self.backbone = MixTransformer(config.backbone)
        width, levels = config.width, config.backbone.widths
        self.levels = nn.ModuleList(conv_bn_relu(c, width, 1) for c in levels)
        self.join = conv_bn_relu(len(levels) * width, width, 1)
        self.dropout = nn.Dropout2d(config.dropout)
        self.classes = nn.Conv2d(width, num_classes, 1)

    def forward(self, images: ImageBatch, given: Sequence[Spatial] | None = None) -> Raw:
        """(B, 3, H, W) -> (B, K, H / 4, W / 4)."""
        maps = self.backbone(images.tensor).maps
        levels = [resized(level(x), maps[0].shape[-2:]) for level, x in zip(self.levels, maps, strict=True)]
        logits = self.classes(self.dropout(self.join(torch.cat(levels, dim=1))))
        height, width = images.tensor.shape[-2:]
        return Raw(logits, None, (height, width), images.sizes)


# Variants -------------------------------------------------------------------------------------------------------------

WIDE = (64, 128, 320, 512)


def segformer_b0(num_classes: int = 150, **config: Any) -> SegFormer:
    """MiT-B0: MMSegmentation's ``segformer_mit-b0_8xb2-160k_ade20k-512x512``; trains on a CPU."""
    return SegFormer(num_classes, changed(Config(), config))


def segformer_b1(num_classes: int = 150, **config: Any) -> SegFormer:
    """MiT-B1."""
    return _wide((2, 2, 2, 2), num_classes, config)


def segformer_b2(num_classes: int = 150, **config: Any) -> SegFormer:
    """MiT-B2, with MMSegmentation's head."""
    return _wide((3, 4, 6, 3), num_classes, config)


def segformer_b5(num_classes: int = 150, **config: Any) -> SegFormer:
    """MiT-B5, with MMSegmentation's head."""
    return _wide((3, 6, 40, 3), num_classes, config)


def _wide(depths: tuple[int, ...], num_classes: int, config: dict[str, Any]) -> SegFormer:
    start = Config(replace(MixTransformerConfig(), widths=WIDE, depths=depths))
    return SegFormer(num_classes, changed(start, config))
