"""Mask2Former: queries look only where they believe their object to be.

Cheng, Misra, Schwing, Kirillov, Girdhar: "Masked-attention Mask Transformer for Universal Image Segmentation", CVPR
2022, arXiv 2112.01527.

The idea: as in MaskFormer, each query says a class and a mask. Cross-attention to the whole image learns slowly, so a
query attends only to the pixels of the mask that the layer before has predicted for it (section 3.2.1); layers take the
maps of strides 32, 16 and 8 in turns, made by an encoder of deformable attention; and losses are computed on points
instead of pixels, which needs a third of the memory (section 3.3).

The same numbers as the authors' code and transformers' (see ``tests/parity``). Deformable attention is torch's
``grid_sample``, not a compiled operator.

Shapes: B images, Q queries, D channels, L tokens of all levels, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eachmask.backbones.networks import ResNet, Timm
from eachmask.backbones.swin import Swin
from eachmask.models.config import changed
from eachmask.models.instance.boundaryformer import DeformableAttention, PolygonHeadConfig, map_encoding
from eachmask.models.panoptic.queries import (
    InstanceAnswers,
    PanopticAnswers,
    QueryConfig,
    QueryNetwork,
    Raw,
    Said,
    SemanticAnswers,
)
from eachmask.ops.points import point_sample, sample_uncertain_points
from eachmask.ops.query_losses import (
    class_cost,
    cross_entropy_cost,
    cross_entropy_sum,
    dice_cost,
    dice_sum,
    match_queries,
)
from eachmask.structures import ImageBatch
from eachmask.structures.spatial import Spatial

N = TypeVar("N", bound="Mask2FormerNetwork")

LEVELS = 3
"""Strides 32, 16 and 8."""
SAMPLES = 4
"""Places that a head looks at on each level."""


@dataclass(frozen=True)
class Config(QueryConfig):
    """What variants change."""

    width: int = 256
    """D of the queries."""
    pixel_width: int | None = None
    """D of the pixel decoder; None: ``width``. Where they differ, a convolution per level stands between them."""
    mask_width: int | None = None
    """Channels of the masks' features; None: ``width``."""
    heads: int = 8
    encoder_layers: int = 6
    encoder_ffn: int = 1024
    decoder_layers: int = 9
    decoder_ffn: int = 2048
    num_points: int = 12544
    """Of each mask in the losses, 112 x 112."""
    oversample: float = 3.0
    importance: float = 0.75


# The pixel decoder ----------------------------------------------------------------------------------------------------


class LevelsAttention(DeformableAttention):
    """Deformable attention of all levels' cells to all levels (Deformable DETR, eq. 3)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__(width, PolygonHeadConfig(attention_heads=heads, levels=LEVELS, samples=SAMPLES))

    def forward(self, queries: Tensor, places: Tensor, memory: list[Tensor]) -> Tensor:  # type: ignore[override]
        """What the queries see: (B, L, D).

        Args:
            queries: (B, L, D).
            places: (L, 2) of the queries as (x, y), 0..1 of the batch.
            memory: the levels (B, D, h, w).
        """
        batch, count, _ = queries.shape
        shape = (batch, count, self.heads, self.levels, self.samples)
        offsets = self.offsets(queries).view(*shape, 2)
        weights = self.weights(queries).view(*shape[:3], -1).softmax(-1).view(shape)
        seen: Tensor | None = None
        for i, level in enumerate(memory):
            height, width = level.shape[2:]
            cells = queries.new_tensor([width, height])
            at = places[:, None, None] + offsets[:, :, :, i] / cells
            grid = (2 * at - 1).transpose(1, 2).flatten(0, 1)  # (B E, L, S, 2)
            values = self.values(level.flatten(2).mT).mT.reshape(batch * self.heads, -1, height, width)
            read = F.grid_sample(values, grid.to(values), mode="bilinear", align_corners=False)  # (B E, D / E, L, S)
            part = (read * weights[:, :, :, i].transpose(1, 2).flatten(0, 1)[:, None]).sum(-1)
            seen = part if seen is None else seen + part
        assert seen is not None
        found: Tensor = self.output(seen.reshape(batch, -1, count).mT)
        return found


class EncoderLayer(nn.Module):
    """Deformable attention and two linear layers, each added and normalized."""

    def __init__(self, width: int, heads: int, ffn: int) -> None:
        super().__init__()
        self.look, self.look_norm = LevelsAttention(width, heads), nn.LayerNorm(width)
        self.think, self.think_norm = perceptron(width, ffn), nn.LayerNorm(width)

    def forward(self, x: Tensor, encoding: Tensor, places: Tensor, shapes: Sequence[torch.Size]) -> Tensor:
        """(B, L, D) -> the same."""
        x = self.look_norm(x + self.look(x + encoding, places, _levels(x, shapes)))
        thought: Tensor = self.think_norm(x + self.think(x))
        return thought


class PixelDecoder(nn.Module):
    """From the backbone's four maps to three for the queries and one for the masks (section 3.2.2).

    Args:
        channels: of the backbone's maps, fine to coarse.
    """

    def __init__(self, channels: Sequence[int], config: Config) -> None:
        super().__init__()
        width = config.pixel_width or config.width
        coarse_first = list(channels[:0:-1])
        self.inputs = nn.ModuleList(nn.Sequential(nn.Conv2d(c, width, 1), norm(width)) for c in coarse_first)
        self.level_embed = nn.Parameter(torch.randn(LEVELS, width))
        self.layers = nn.ModuleList(
            EncoderLayer(width, config.heads, config.encoder_ffn) for _ in range(config.encoder_layers)
        )
        self.lateral = nn.Sequential(nn.Conv2d(channels[0], width, 1, bias=False), norm(width))
        self.smooth = nn.Sequential(nn.Conv2d(width, width, 3, padding=1, bias=False), norm(width), nn.ReLU())
        self.masks = nn.Conv2d(width, config.mask_width or config.width, 1)

    def forward(self, maps: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
        """Maps of strides 4 ... 32 -> those of strides 32, 16, 8 (B, D, h, w), and the masks' features of stride 4."""
        levels = [project(x) for project, x in zip(self.inputs, maps[:0:-1], strict=True)]
        shapes = [level.shape[2:] for level in levels]
        x = torch.cat([level.flatten(2).mT for level in levels], dim=1)
        encodings = [
            map_encoding(lv[0], 1.0) + e[:, None, None] for lv, e in zip(levels, self.level_embed, strict=True)
        ]
        encoding = torch.cat([e.flatten(1).mT for e in encodings])
        places = torch.cat([_centers(shape, x) for shape in shapes])
        for layer in self.layers:
            x = layer(x, encoding, places, shapes)
        levels = _levels(x, shapes)
        fine = self.lateral(maps[0])
        fine = fine + F.interpolate(levels[-1], fine.shape[2:], mode="bilinear", align_corners=False)
        return levels, self.masks(self.smooth(fine))


def _levels(x: Tensor, shapes: Sequence[torch.Size]) -> list[Tensor]:
    """(B, L, D), level after level -> maps (B, D, h, w)."""
    found, start = [], 0
    for height, width in shapes:
        end = start + height * width
        found.append(x[:, start:end].mT.unflatten(2, (height, width)))
        start = end
    return found


def _centers(shape: torch.Size, like: Tensor) -> Tensor:
    """(h w, 2) centers of a map's cells as (x, y) in 0..1."""
    y, x = ((torch.arange(n, device=like.device) + 0.5) / n for n in shape)
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).flatten(0, 1).to(like)


def norm(width: int) -> nn.GroupNorm:
    """Groups of channels normalized together."""
    return nn.GroupNorm(32, width)


def perceptron(width: int, hidden: int) -> nn.Sequential:
    """Two linear layers."""
    return nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, width))


# The queries ----------------------------------------------------------------------------------------------------------


class DecoderLayer(nn.Module):
    """Masked attention to the image, attention among queries, and two linear layers; in this order (section 3.2.1)."""

    def __init__(self, width: int, heads: int, ffn: int) -> None:
        super().__init__()
        self.look = nn.MultiheadAttention(width, heads, batch_first=True)
        self.talk = nn.MultiheadAttention(width, heads, batch_first=True)
        self.think = perceptron(width, ffn)
        self.look_norm, self.talk_norm, self.think_norm = (nn.LayerNorm(width) for _ in range(3))

    def forward(self, x: Tensor, position: Tensor, memory: Tensor, encoding: Tensor, blocked: Tensor) -> Tensor:
        """(B, Q, D) -> the same.

        Args:
            position: (Q, D) of the queries.
            memory: (B, h w, D) of one level; encoding: (h w, D) of its places.
            blocked: (B, Q, h w) True where a query must not look.
        """
        mask = blocked.repeat_interleave(self.look.num_heads, dim=0)
        seen = self.look(x + position, memory + encoding, memory, attn_mask=mask, need_weights=False)[0]
        x = self.look_norm(x + seen)
        queries = x + position
        x = self.talk_norm(x + self.talk(queries, queries, x, need_weights=False)[0])
        thought: Tensor = self.think_norm(x + self.think(x))
        return thought


class Decoder(nn.Module):
    """Queries through all layers; each layer's predictions tell the next one where to look."""

    def __init__(self, num_classes: int, config: Config) -> None:
        super().__init__()
        width = config.width
        self.heads, pixel_width = config.heads, config.pixel_width or width
        self.inputs = nn.ModuleList(
            nn.Identity() if pixel_width == width else nn.Conv2d(pixel_width, width, 1) for _ in range(LEVELS)
        )
        self.content = nn.Parameter(torch.randn(config.queries, width))
        self.position = nn.Parameter(torch.randn(config.queries, width))
        self.level_embed = nn.Parameter(torch.randn(LEVELS, width))
        self.layers = nn.ModuleList(
            DecoderLayer(width, config.heads, config.decoder_ffn) for _ in range(config.decoder_layers)
        )
        self.norm = nn.LayerNorm(width)
        self.classes = nn.Linear(width, num_classes + 1)
        widths = (width, width, config.mask_width or width)
        self.mask_embed = nn.ModuleList(nn.Linear(width, out) for out in widths)

    def forward(self, levels: list[Tensor], features: Tensor) -> list[Said]:
        """Maps of strides 32, 16, 8, and the masks' features -> what is said before the first layer and after each."""
        levels = [project(level) for project, level in zip(self.inputs, levels, strict=True)]
        encodings = [map_encoding(level[0], 1.0).flatten(1).mT for level in levels]
        memory = [lv.flatten(2).mT + e for lv, e in zip(levels, self.level_embed, strict=True)]
        x = self.content.expand(len(features), -1, -1)
        said = [self.predict(x, features)]
        for number, layer in enumerate(self.layers):
            i = number % LEVELS
            blocked = where_not(said[-1][1], levels[i].shape[2:])
            x = layer(x, self.position, memory[i], encodings[i], blocked)
            said.append(self.predict(x, features))
        return said

    def predict(self, x: Tensor, features: Tensor) -> Said:
        """Classes and masks of queries (B, Q, D)."""
        x = self.norm(x)
        first, second, last = self.mask_embed
        embedding = last(second(first(x).relu()).relu())
        return self.classes(x), torch.einsum("bqd,bdhw->bqhw", embedding, features)


@torch.no_grad()
def where_not(masks: Tensor, size: torch.Size) -> Tensor:
    """(B, Q, h w) True where a query's mask (B, Q, H, W) says no; all False for one that says so everywhere."""
    small = F.interpolate(masks.float(), size, mode="bilinear", align_corners=False).flatten(2)
    blocked = small.sigmoid() < 0.5
    return blocked & ~blocked.all(dim=-1, keepdim=True)


# The model ------------------------------------------------------------------------------------------------------------


class Mask2FormerNetwork(QueryNetwork):
    """Network and losses; what is answered is said by subclasses."""

    config: Config

    def __init__(self, backbone: nn.Module, num_classes: int, config: Config) -> None:
        super().__init__()
        self.num_classes, self.config = num_classes, config
        self.put_on(backbone)
        self.decoder = Decoder(num_classes, config)

    def put_on(self, backbone: Any) -> None:
        """Stand on a backbone of strides 4 ... 32; the pixel decoder, which reads its maps, is new."""
        self.backbone, self.pixel_decoder = backbone, PixelDecoder(backbone.channels, self.config)

    def forward(self, images: ImageBatch, given: Sequence[Spatial] | None = None) -> Raw:
        """(B, 3, H, W) -> classes and masks of every layer."""
        levels, features = self.pixel_decoder(self.backbone(images.tensor).maps)
        *earlier, last = self.decoder(levels, features)
        height, width = images.tensor.shape[-2:]
        return Raw(last[0], last[1], tuple(earlier), (height, width), images.sizes)

    def match(self, said: Said, labels: list[Tensor], masks: list[Tensor]) -> list[Said]:
        """By class and by the mask at random points, the same for all masks of an image."""
        c, matched = self.config, []
        with torch.no_grad():
            for classes, logits, own, targets in zip(*said, labels, masks, strict=True):
                points = torch.rand(1, c.num_points, 2, device=logits.device)
                seen = point_sample(logits[None].float(), points)[0]
                gt_masks = point_sample(targets[None].float(), points)[0]
                costs = c.loss.classes * class_cost(classes, own)
                costs = costs + c.loss.mask * cross_entropy_cost(seen, gt_masks)
                matched.append(match_queries(costs + c.loss.dice * dice_cost(seen, gt_masks)))
        return matched

    def mask_losses(self, logits: Tensor, matched: list[Said], masks: list[Tensor]) -> tuple[Tensor, Tensor]:
        """At points, most of them where the mask is undecided."""
        c = self.config
        seen = torch.cat([m[queries] for m, (queries, _) in zip(logits, matched, strict=True)])[:, None].float()
        gt_masks = torch.cat([m[targets] for m, (_, targets) in zip(masks, matched, strict=True)])[:, None].float()
        with torch.no_grad():
            points = sample_uncertain_points(seen, c.num_points, c.oversample, c.importance)
            gt_values = point_sample(gt_masks, points).flatten(1)
        found = point_sample(seen, points).flatten(1)
        count = max(sum(len(m) for m in masks), 1)
        return cross_entropy_sum(found, gt_values) / count, dice_sum(found, gt_values) / count


class Mask2Former(Mask2FormerNetwork, PanopticAnswers):
    """Panoptic maps; :meth:`select_instances` and :meth:`select_semantic` give the other answers of one network."""


class InstanceMask2Former(Mask2FormerNetwork, InstanceAnswers):
    """The same, for instances alone."""


class SemanticMask2Former(Mask2FormerNetwork, SemanticAnswers):
    """The same, for semantic maps alone."""


# Variants -------------------------------------------------------------------------------------------------------------

LIGHT = Config(
    queries=50, width=128, heads=4, encoder_layers=3, encoder_ffn=256, decoder_layers=6, decoder_ffn=512,
    num_points=3136,
)  # fmt: skip
"""For small networks on small images."""


def mask2former_r50(num_classes: int = 133, **config: Any) -> Mask2Former:
    """ResNet-50, panoptic: the authors' ``maskformer2_R50_bs16_50ep`` of COCO panoptic."""
    return Mask2Former(ResNet("resnet50"), num_classes, changed(Config(), config))


def mask2former_r50_instance(num_classes: int = 80, **config: Any) -> InstanceMask2Former:
    """ResNet-50, instances: the authors' ``maskformer2_R50_bs16_50ep`` of COCO instances."""
    return InstanceMask2Former(ResNet("resnet50"), num_classes, changed(Config(), config))


def mask2former_r50_semantic(num_classes: int = 150, **config: Any) -> SemanticMask2Former:
    """ResNet-50, semantic: the authors' ``maskformer2_R50_bs16_160k`` of ADE20K."""
    return SemanticMask2Former(ResNet("resnet50"), num_classes, changed(Config(), config))


def mask2former_swin_t(num_classes: int = 133, **config: Any) -> Mask2Former:
    """Swin-T, panoptic; settings of the backbone are those under ``swin``."""
    return _on_swin(Mask2Former, "swin_t", num_classes, config)


def mask2former_swin_s(num_classes: int = 133, **config: Any) -> Mask2Former:
    """Swin-S, panoptic."""
    return _on_swin(Mask2Former, "swin_s", num_classes, config)


def mask2former_swin_b(num_classes: int = 133, **config: Any) -> Mask2Former:
    """Swin-B (windows of 12), panoptic."""
    return _on_swin(Mask2Former, "swin_b", num_classes, {"swin": {"window": 12}} | config)


def mask2former_swin_l(num_classes: int = 133, **config: Any) -> Mask2Former:
    """Swin-L (windows of 12), 200 queries, panoptic."""
    return _on_swin(Mask2Former, "swin_l", num_classes, {"swin": {"window": 12}, "queries": 200} | config)


def mask2former_swin_t_instance(num_classes: int = 80, **config: Any) -> InstanceMask2Former:
    """Swin-T, instances."""
    return _on_swin(InstanceMask2Former, "swin_t", num_classes, config)


def mask2former_swin_t_semantic(num_classes: int = 150, **config: Any) -> SemanticMask2Former:
    """Swin-T, semantic."""
    return _on_swin(SemanticMask2Former, "swin_t", num_classes, config)


def mask2former_lite0(num_classes: int = 133, **config: Any) -> Mask2Former:
    """EfficientNet-Lite0 with narrow decoders, panoptic."""
    return Mask2Former(Timm("tf_efficientnet_lite0"), num_classes, changed(LIGHT, config))


def mask2former_lite0_instance(num_classes: int = 80, **config: Any) -> InstanceMask2Former:
    """EfficientNet-Lite0 with narrow decoders, instances."""
    return InstanceMask2Former(Timm("tf_efficientnet_lite0"), num_classes, changed(LIGHT, config))


def mask2former_lite0_semantic(num_classes: int = 150, **config: Any) -> SemanticMask2Former:
    """EfficientNet-Lite0 with narrow decoders, semantic."""
    return SemanticMask2Former(Timm("tf_efficientnet_lite0"), num_classes, changed(LIGHT, config))


def _on_swin(kind: type[N], name: str, num_classes: int, config: Mapping[str, Any]) -> N:
    settings = dict(config)
    swin = {"keeps_shift": True, "drop_path": 0.3} | settings.pop("swin", {})
    return kind(Swin(name, swin), num_classes, changed(Config(), settings))
