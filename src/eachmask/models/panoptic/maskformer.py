"""MaskFormer: semantic and panoptic segmentation as a set of masks with a class each.

Cheng, Schwing, Kirillov: "Per-Pixel Classification is Not All You Need for Semantic Segmentation", NeurIPS 2021, arXiv
2107.06278.

The idea: instead of a class for every pixel, predict N pairs of a class and a binary mask, and learn them by matching
them with the classes or objects that are there. A pixel decoder (a small pyramid) makes features at stride 4; a
transformer decoder as of DETR makes N queries of the coarsest map; a mask is the product of a query's embedding with
the features. What is a segment is then a matter of the annotation: the same network learns semantic and panoptic maps.

The same numbers as the authors' code and transformers' (see ``tests/parity``).

Shapes: B images, Q queries, D channels, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eachmask.backbones.networks import ResNet, Timm
from eachmask.backbones.swin import Swin
from eachmask.models.config import changed
from eachmask.models.instance.boundaryformer import map_encoding
from eachmask.models.panoptic.mask2former import norm, perceptron
from eachmask.models.panoptic.queries import PanopticAnswers, QueryConfig, QueryNetwork, Raw, Said, SemanticAnswers
from eachmask.ops.query_losses import LossWeights, class_cost, dice_cost, dice_sum, focal_cost, focal_sum, match_queries
from eachmask.structures import ImageBatch
from eachmask.structures.spatial import Spatial

N = TypeVar("N", bound="MaskFormerNetwork")


@dataclass(frozen=True)
class Config(QueryConfig):
    """What variants change."""

    width: int = 256
    """D of the queries."""
    mask_width: int = 256
    """Channels of the masks' features, and of the pyramid unless it has a width of its own."""
    pyramid_width: int | None = None
    """Channels of the pyramid; None: ``mask_width``."""
    heads: int = 8
    encoder_layers: int = 0
    """Of a transformer on the coarsest map, which the pyramid reads too (the authors' panoptic models have 6)."""
    decoder_layers: int = 6
    ffn: int = 2048
    early_norm: bool = True
    """What earlier layers say is read through the last norm; transformers does without, and lets the zeros before the
    first layer say something too. It matters to the losses alone."""
    loss: LossWeights = LossWeights(classes=1.0, mask=20.0, dice=1.0)


class EncoderLayer(nn.Module):
    """Attention among the cells of the coarsest map."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        width = config.width
        self.talk = nn.MultiheadAttention(width, config.heads, batch_first=True)
        self.think = perceptron(width, config.ffn)
        self.talk_norm, self.think_norm = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, x: Tensor, encoding: Tensor) -> Tensor:
        """(B, h w, D) -> the same; encoding (h w, D)."""
        placed = x + encoding
        x = self.talk_norm(x + self.talk(placed, placed, x, need_weights=False)[0])
        thought: Tensor = self.think_norm(x + self.think(x))
        return thought


class PixelDecoder(nn.Module):
    """From the backbone's four maps to the masks' features at stride 4, and what the queries look at.

    Args:
        channels: of the backbone's maps, fine to coarse.
    """

    def __init__(self, channels: Sequence[int], config: Config) -> None:
        super().__init__()
        width = config.pyramid_width or config.mask_width
        self.encoded = config.encoder_layers > 0
        self.input = nn.Conv2d(channels[-1], config.width, 1)
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.encoder_layers))
        self.stem = _conv(config.width if self.encoded else channels[-1], width)
        fine = list(channels[-2::-1])
        self.lateral = nn.ModuleList(nn.Sequential(nn.Conv2d(c, width, 1, bias=False), norm(width)) for c in fine)
        self.smooth = nn.ModuleList(_conv(width, width) for _ in fine)
        self.masks = nn.Conv2d(width, config.mask_width, 3, padding=1)

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Maps of strides 4 ... 32 -> the coarsest one for the queries (B, D, h, w), and features of stride 4."""
        coarse = self.input(maps[-1])
        tokens = coarse.flatten(2).mT
        for layer in self.layers:
            tokens = layer(tokens, map_encoding(coarse[0], 1.0).flatten(1).mT)
        seen = tokens.mT.reshape(coarse.shape)
        x = self.stem(seen if self.encoded else maps[-1])
        for lateral, smooth, finer in zip(self.lateral, self.smooth, maps[-2::-1], strict=True):
            x = smooth(lateral(finer) + F.interpolate(x, finer.shape[2:], mode="nearest"))
        return seen, self.masks(x)


def _conv(in_channels: int, width: int) -> nn.Sequential:
    """3 x 3, normalized."""
    return nn.Sequential(nn.Conv2d(in_channels, width, 3, padding=1, bias=False), norm(width), nn.ReLU())


class DecoderLayer(nn.Module):
    """Attention among queries, then to the image, then two linear layers (DETR)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        width = config.width
        self.talk = nn.MultiheadAttention(width, config.heads, batch_first=True)
        self.look = nn.MultiheadAttention(width, config.heads, batch_first=True)
        self.think = perceptron(width, config.ffn)
        self.talk_norm, self.look_norm, self.think_norm = (nn.LayerNorm(width) for _ in range(3))

    def forward(self, x: Tensor, position: Tensor, memory: Tensor, encoding: Tensor) -> Tensor:
        """(B, Q, D) -> the same.

        Args:
            position: (Q, D) of the queries; memory: (B, h w, D); encoding: (h w, D) of its places.
        """
        placed = x + position
        x = self.talk_norm(x + self.talk(placed, placed, x, need_weights=False)[0])
        x = self.look_norm(x + self.look(x + position, memory + encoding, memory, need_weights=False)[0])
        thought: Tensor = self.think_norm(x + self.think(x))
        return thought


class MaskFormerNetwork(QueryNetwork):
    """Network and losses; what is answered is said by subclasses."""

    config: Config

    def __init__(self, backbone: nn.Module, num_classes: int, config: Config) -> None:
        super().__init__()
        width = config.width
        self.num_classes, self.config = num_classes, config
        self.put_on(backbone)
        self.position = nn.Parameter(torch.randn(config.queries, width))
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.decoder_layers))
        self.norm = nn.LayerNorm(width)
        self.classes = nn.Linear(width, num_classes + 1)
        self.mask_embed = nn.ModuleList(nn.Linear(width, out) for out in (width, width, config.mask_width))

    def put_on(self, backbone: Any) -> None:
        """Stand on a backbone of strides 4 ... 32; the pixel decoder, which reads its maps, is new."""
        self.backbone, self.pixel_decoder = backbone, PixelDecoder(backbone.channels, self.config)

    def forward(self, images: ImageBatch, given: Sequence[Spatial] | None = None) -> Raw:
        """(B, 3, H, W) -> classes and masks of every layer."""
        seen, features = self.pixel_decoder(self.backbone(images.tensor).maps)
        memory, encoding = seen.flatten(2).mT, map_encoding(seen[0], 1.0).flatten(1).mT
        states = [self.position.new_zeros(len(seen), *self.position.shape)]
        for layer in self.layers:
            states.append(layer(states[-1], self.position, memory, encoding))
        last = self.norm(states.pop())
        earlier = [self.norm(x) for x in states[1:]] if self.config.early_norm else states
        said = [self.predict(x, features) for x in (*earlier, last)]
        height, width = images.tensor.shape[-2:]
        return Raw(said[-1][0], said[-1][1], tuple(said[:-1]), (height, width), images.sizes)

    def predict(self, x: Tensor, features: Tensor) -> Said:
        """Classes and masks of queries (B, Q, D)."""
        first, second, last = self.mask_embed
        embedding = last(second(first(x).relu()).relu())
        return self.classes(x), torch.einsum("bqd,bdhw->bqhw", embedding, features)

    def match(self, said: Said, labels: list[Tensor], masks: list[Tensor]) -> list[Said]:
        """By class and by the whole mask, at the resolution of the predictions."""
        weights, matched = self.config.loss, []
        with torch.no_grad():
            for classes, logits, own, targets in zip(*said, labels, masks, strict=True):
                gt_masks = F.interpolate(targets[:, None].float(), logits.shape[1:], mode="nearest").flatten(1)
                seen = logits.flatten(1)
                costs = weights.classes * class_cost(classes, own) + weights.mask * focal_cost(seen, gt_masks)
                matched.append(match_queries(costs + weights.dice * dice_cost(seen, gt_masks)))
        return matched

    def mask_losses(self, logits: Tensor, matched: list[Said], masks: list[Tensor]) -> tuple[Tensor, Tensor]:
        """On all pixels of the batch."""
        seen = torch.cat([m[queries] for m, (queries, _) in zip(logits, matched, strict=True)])
        gt_masks = torch.cat([m[targets] for m, (_, targets) in zip(masks, matched, strict=True)]).float().flatten(1)
        size = masks[0].shape[1:]
        found = F.interpolate(seen[:, None].float(), size, mode="bilinear", align_corners=False).flatten(1)
        count = max(sum(len(m) for m in masks), 1)
        return focal_sum(found, gt_masks) / count, dice_sum(found, gt_masks) / count


class MaskFormer(MaskFormerNetwork, PanopticAnswers):
    """Panoptic maps."""


class SemanticMaskFormer(MaskFormerNetwork, SemanticAnswers):
    """The same, for semantic maps."""


# Variants -------------------------------------------------------------------------------------------------------------

PANOPTIC_CONFIG = Config(encoder_layers=6)
"""The authors' panoptic models."""
LIGHT = Config(queries=50, width=128, mask_width=128, heads=4, decoder_layers=3, ffn=512)
"""For small networks on small images."""


def maskformer_panoptic_r50(num_classes: int = 133, **config: Any) -> MaskFormer:
    """ResNet-50, panoptic: the authors' ``maskformer_panoptic_R50_bs64_554k``."""
    return MaskFormer(ResNet("resnet50"), num_classes, changed(PANOPTIC_CONFIG, config))


def maskformer_semantic_r50(num_classes: int = 150, **config: Any) -> SemanticMaskFormer:
    """ResNet-50, semantic: the authors' ``maskformer_R50_bs16_160k`` of ADE20K."""
    return SemanticMaskFormer(ResNet("resnet50"), num_classes, changed(Config(), config))


def maskformer_panoptic_swin_t(num_classes: int = 133, **config: Any) -> MaskFormer:
    """Swin-T, panoptic; settings of the backbone are those under ``swin``. transformers' have no encoder layers."""
    return _on_swin(MaskFormer, "swin_t", num_classes, config, PANOPTIC_CONFIG)


def maskformer_semantic_swin_t(num_classes: int = 150, **config: Any) -> SemanticMaskFormer:
    """Swin-T, semantic."""
    return _on_swin(SemanticMaskFormer, "swin_t", num_classes, config, Config())


def maskformer_panoptic_lite0(num_classes: int = 133, **config: Any) -> MaskFormer:
    """EfficientNet-Lite0 with a narrow decoder, panoptic."""
    return MaskFormer(Timm("tf_efficientnet_lite0"), num_classes, changed(LIGHT, config))


def maskformer_semantic_lite0(num_classes: int = 150, **config: Any) -> SemanticMaskFormer:
    """EfficientNet-Lite0 with a narrow decoder, semantic."""
    return SemanticMaskFormer(Timm("tf_efficientnet_lite0"), num_classes, changed(LIGHT, config))


def _on_swin(kind: type[N], name: str, num_classes: int, config: Mapping[str, Any], start: Config) -> N:
    settings = dict(config)
    swin = {"keeps_shift": True, "drop_path": 0.3} | settings.pop("swin", {})
    return kind(Swin(name, swin), num_classes, changed(replace(start), settings))
