"""BoundaryFormer: a transformer that predicts each object's outline as a polygon, taught by masks alone.

Lazarow, Xu, Tu: "Instance Segmentation With Mask-Supervised Polygonal Boundary Transformers", CVPR 2022. Its attention
is that of Zhu et al., "Deformable DETR", ICLR 2021, arXiv 2010.04159.

The idea: an ellipse in each box is refined by a few decoder layers. Every vertex is a query that talks to the other
vertices of its polygon, looks at the pyramid at a few learned places around itself, and moves; between layers the
number of vertices doubles. No true polygon is needed: the polygon is rasterised softly, and the Dice loss against the
true mask flows back into the vertices.

The same numbers as the authors' ``boundaryformer_rcnn_R_50_FPN_1x`` (see ``tests/parity``). Where we differ: besides
what :mod:`~eachmask.models.detection.faster_rcnn` says, the nearest edge of each pixel is found without gradient, so
that the rasteriser's memory does not grow with the number of vertices; images of a batch are decoded one by one.

Shapes: N boxes of one image, P vertices (8, 16, 32, 64), D channels of the pyramid, E heads, L levels, S places.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eachmask.backbones.features import Features
from eachmask.backbones.fpn import FPN
from eachmask.models.config import changed
from eachmask.models.detection import conventions, faster_rcnn
from eachmask.models.detection.fast_rcnn import Sampled, positives
from eachmask.models.detection.faster_rcnn import (
    LIGHT_BOX_HEAD,
    LIGHT_RPN,
    SHORT_RPN,
    FasterRCNN,
    light_fpn,
    resnet_fpn,
)
from eachmask.models.detection.rpn import Raw
from eachmask.models.instance.mask_rcnn import zero_of
from eachmask.models.protocol import Detections
from eachmask.ops.losses import dice
from eachmask.ops.mask_targets import mask_targets
from eachmask.ops.soft_rasterizer import soft_polygons
from eachmask.structures import DecodeOptions, Instances
from eachmask.tasks.instances import INSTANCES

BOX_CHUNK_SIZE = 128
"""Polygons are decoded in groups of so many: 128 x 64 vertices x 32 samples x 256 channels are read level by level."""


@dataclass(frozen=True)
class PolygonHeadConfig:
    """The decoder of outlines."""

    first_points: int = 8
    """Vertices that the first layer moves; each following layer has twice as many ..."""
    num_points: int = 64
    """... up to these, so that they also say how many layers there are."""
    attention_heads: int = 8
    samples: int = 4
    """Places that each head of each vertex looks at on each level."""
    feedforward: int = 1024
    levels: int = 4
    """So many of the finest levels are looked at."""
    raster_size: int = 64
    """The polygon and the true mask are compared on a grid of so many cells per side of the box."""
    smoothness: float = 0.1
    """Of the rasteriser, in squared cells of that grid."""


@dataclass(frozen=True)
class Config(faster_rcnn.Config):
    """Faster R-CNN's choices and the polygon decoder's."""

    polygon_head: PolygonHeadConfig = PolygonHeadConfig()


# Blocks, in the order of the data -------------------------------------------------------------------------------------


class DeformableAttention(nn.Module):
    """Each query looks at a few places of its own choice on each level (Deformable DETR, eq. 3), within its box.

    Args:
        width: D.
    """

    def __init__(self, width: int, config: PolygonHeadConfig) -> None:
        super().__init__()
        self.heads, self.levels, self.samples = config.attention_heads, config.levels, config.samples
        places = self.heads * self.levels * self.samples
        self.offsets = nn.Linear(width, places * 2)
        self.weights = nn.Linear(width, places)
        self.values = nn.Linear(width, width)
        self.output = nn.Linear(width, width)
        for layer in (self.offsets, self.weights):
            nn.init.zeros_(layer.weight)
        for layer in (self.weights, self.values, self.output):
            nn.init.zeros_(layer.bias)
        for layer in (self.values, self.output):
            nn.init.xavier_uniform_(layer.weight)
        with torch.no_grad():
            self.offsets.bias.copy_(self._star().flatten())

    def _star(self) -> Tensor:
        """Heads look in different directions, their samples 1, 2, ... cells away: (E, L, S, 2)."""
        angle = torch.arange(self.heads) * (2 * math.pi / self.heads)
        ray = torch.stack([angle.cos(), angle.sin()], dim=-1)
        ray = ray / ray.abs().amax(dim=-1, keepdim=True)
        steps = torch.arange(1, self.samples + 1)
        return (ray[:, None] * steps[:, None])[:, None].repeat(1, self.levels, 1, 1)

    def forward(self, queries: Tensor, places: Tensor, boxes: Tensor, memory: list[Tensor]) -> Tensor:
        """What the queries see: (N, P, D).

        Args:
            queries: (N, P, D).
            places: (N, P, 2) of the vertices, 0..1 of their box.
            boxes: (N, 4) in 0..1 of the image.
            memory: the image's levels (D, h, w).
        """
        num, points, _ = queries.shape
        shape = (num * points, self.heads, self.levels, self.samples)
        offsets = self.offsets(queries).view(num, points, *shape[1:], 2)
        weights = self.weights(queries).view(*shape[:2], -1).softmax(-1).view(shape)
        corner, sides = boxes[:, :2], boxes[:, 2:] - boxes[:, :2]
        seen = 0
        for i, level in enumerate(memory):
            height, width = level.shape[1:]
            cells = queries.new_tensor([width, height])
            at = places[:, :, None, None] + offsets[:, :, :, i] / cells  # in the box
            at = at * sides[:, None, None, None] + corner[:, None, None, None]  # in the image
            grid = 2 * at.flatten(0, 1).transpose(0, 1) - 1  # (E, N P, S, 2)
            values = self.values(level.flatten(1).T).T.reshape(self.heads, -1, height, width)
            read = F.grid_sample(values, grid, mode="bilinear", align_corners=False)  # (E, D / E, N P, S)
            seen = seen + (read * weights[:, :, i].transpose(0, 1)[:, None]).sum(-1)
        assert isinstance(seen, Tensor)
        return self.output(seen.permute(2, 0, 1).reshape(num, points, -1))


class DecoderLayer(nn.Module):
    """Vertices talk to each other, look at the image, and think: a post-norm transformer layer."""

    def __init__(self, width: int, config: PolygonHeadConfig) -> None:
        super().__init__()
        self.talk = nn.MultiheadAttention(width, config.attention_heads, batch_first=True)
        self.talk_norm = nn.LayerNorm(width)
        self.look = DeformableAttention(width, config)
        self.look_norm = nn.LayerNorm(width)
        self.think = nn.Sequential(
            nn.Linear(width, config.feedforward), nn.ReLU(), nn.Linear(config.feedforward, width)
        )
        self.think_norm = nn.LayerNorm(width)
        for name, parameter in (*self.talk.named_parameters(), *self.think.named_parameters()):
            if name.endswith("weight"):
                nn.init.xavier_uniform_(parameter)

    def forward(self, x: Tensor, index: Tensor, places: Tensor, boxes: Tensor, memory: list[Tensor]) -> Tensor:
        """(N, P, D) -> (N, P, D).

        Args:
            index: (P, D) encoding of each vertex's number; the rest as in :class:`DeformableAttention`.
        """
        queries = x + index
        x = self.talk_norm(x + self.talk(queries, queries, x, need_weights=False)[0])
        x = self.look_norm(x + self.look(x + index, places, boxes, memory))
        thought: Tensor = self.think_norm(x + self.think(x))
        return thought


class PolygonHead(nn.Module):
    """From boxes to polygons, coarse to fine (paper, section 3)."""

    numbers: Tensor

    def __init__(self, width: int, config: PolygonHeadConfig) -> None:
        super().__init__()
        self.config = config
        num_layers = int(math.log2(config.num_points // config.first_points)) + 1
        self.levels = nn.Parameter(torch.randn(config.levels, width))
        self.layers = nn.ModuleList(DecoderLayer(width, config) for _ in range(num_layers))
        self.steps = nn.ModuleList(_perceptron(width) for _ in range(num_layers))
        self.register_buffer("numbers", vertex_encoding(config.num_points, 2 * width), persistent=False)

    def forward(self, maps: list[Tensor], boxes: Tensor) -> list[Tensor]:
        """Every layer's polygons, the last one's the best: (N, P, 2) as (x, y) in 0..1 of the box.

        Args:
            maps: one image's levels (D, h, w), over the image without its padding.
            boxes: (N, 4) in 0..1 of the image.
        """
        memory = [m + map_encoding(m) + level[:, None, None] for m, level in zip(maps, self.levels, strict=True)]
        width = maps[0].shape[0]
        stride = self.config.num_points // self.config.first_points
        x = self.numbers[::stride, width:].expand(len(boxes), -1, -1)
        places = first_polygon(self.config.first_points).to(x).expand(len(boxes), -1, -1)
        polygons = []
        for i, (layer, step) in enumerate(zip(self.layers, self.steps, strict=True)):
            if i:
                stride //= 2
                added = self.numbers[stride :: 2 * stride, width:].expand(len(boxes), -1, -1)
                x = torch.stack([x, added], dim=2).flatten(1, 2)
                places = torch.stack([places, (places + places.roll(-1, dims=1)) / 2], dim=2).flatten(1, 2)
            x = layer(x, self.numbers[::stride, :width], places, boxes, memory)
            places = torch.sigmoid(torch.logit(places, eps=1e-5) + step(x))
            polygons.append(places)
        return polygons


def first_polygon(num_points: int) -> Tensor:
    """Vertices evenly around the circle that almost fills the box, (num_points, 2), to the authors' 0.01 of a radian.

    They find the vertices by walking round in steps of 0.01 until a share of the way is reached.
    """
    walk = round(2 * math.pi / 0.01)
    steps = torch.tensor([max(1, math.ceil(i * walk / num_points)) for i in range(num_points)])
    angle = steps * 0.01
    return 0.5 + 0.49 * torch.stack([angle.cos(), angle.sin()], dim=-1)


def vertex_encoding(num_points: int, width: int) -> Tensor:
    """Sines and cosines of the vertex's number (Vaswani et al., arXiv 1706.03762, section 3.5): (num_points, width)."""
    frequency = torch.exp(torch.arange(0, width, 2) * (-math.log(10000.0) / width))
    angle = torch.arange(num_points)[:, None] * frequency
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)


def map_encoding(level: Tensor, first: float = 0.5) -> Tensor:
    """Sines and cosines of each cell's place, half of the channels for y, half for x: (D, h, w).

    Args:
        first: place of the first cell; Deformable DETR takes its center, DETR and Mask2Former its end, 1.
    """
    channels, height, width = level.shape
    half = channels // 2
    frequency = 10000.0 ** (-2 * (torch.arange(half, device=level.device) // 2) / half)

    def encode(count: int) -> Tensor:
        place = (torch.arange(count, device=level.device) + first) / (count + 1e-6) * (2 * math.pi)
        angle = place[:, None] * frequency
        return torch.stack([angle[:, 0::2].sin(), angle[:, 1::2].cos()], dim=-1).flatten(1).T.to(level)

    y, x = encode(height)[:, :, None].expand(-1, -1, width), encode(width)[:, None].expand(-1, height, -1)
    return torch.cat([y, x])


# The model ------------------------------------------------------------------------------------------------------------


class BoundaryFormer(FasterRCNN):
    """Faster R-CNN with outlines."""

    task = INSTANCES
    needs = frozenset({"masks"})
    config: Config

    def __init__(self, backbone: FPN, num_classes: int, config: Config | None = None) -> None:
        config = config or Config()
        super().__init__(backbone, num_classes, config)
        self.polygon_head = PolygonHead(backbone.channels[0], config.polygon_head)

    def head_losses(self, raw: Raw, sampled: list[Sampled], targets: list[Instances]) -> dict[str, Tensor]:
        """Adds the Dice loss of the rasterised polygons of positive RoIs, mean over layers (section 3.3)."""
        losses = super().head_losses(raw, sampled, targets)
        chosen = positives(sampled, self.num_classes)
        if not sum(len(s.boxes) for s in chosen):
            return losses | {"mask": zero_of(self.polygon_head)}
        c = self.config.polygon_head
        size = c.raster_size
        gt_masks = [
            mask_targets(target.gt_masks, s.matched, s.boxes, size, aligned=True) >= 0.5
            for target, s in zip(targets, chosen, strict=True)
        ]
        gt_raster = torch.cat(gt_masks).float()[None]
        layers = zip(*(p for p in self.polygons(raw, [s.boxes for s in chosen]) if p), strict=True)
        rasters = [soft_polygons(torch.cat(layer) * size, (size, size), c.smoothness) for layer in layers]
        dices = [dice(raster.clamp(1e-5, 1 - 1e-5)[None], gt_raster, "plain", eps=1.0) for raster in rasters]
        return losses | {"mask": torch.cat(dices).mean()}

    def select_heads(self, raw: Raw, found: Detections, options: DecodeOptions) -> Detections:
        """Adds each kept box's outline. The masks know no threshold."""
        if not options.with_masks:
            return found
        outlines = []
        for boxes, layers in zip(found.boxes, self.polygons(raw, list(found.boxes)), strict=True):
            corner, sides = boxes[:, None, :2], boxes[:, None, 2:] - boxes[:, None, :2]
            outlines.append(corner + layers[-1] * sides if layers else boxes.new_zeros((0, 1, 2)))
        return found._replace(outlines=tuple(outlines))

    def polygons(self, raw: Raw, boxes: list[Tensor]) -> list[list[Tensor]]:
        """For each image every layer's polygons (N, P, 2) in 0..1 of its boxes; an empty list where it has no box."""
        result = []
        for index, (image_boxes, (height, width)) in enumerate(zip(boxes, raw.sizes, strict=True)):
            layers: list[Tensor] = []
            if len(image_boxes):
                maps = self.unpadded(raw.features, index, (height, width))
                shares = image_boxes / image_boxes.new_tensor([width, height, width, height])
                parts = [self.polygon_head(maps, part) for part in shares.split(BOX_CHUNK_SIZE)]
                layers = [torch.cat(layer) for layer in zip(*parts, strict=True)]
            result.append(layers)
        return result

    def unpadded(self, features: Features, index: int, size: tuple[int, int]) -> list[Tensor]:
        """One image's levels, each stretched so that its (height, width) fill the whole map: (D, h, w) float32.

        RoIAlign of the whole image with as many bins as the map has cells, and so one point per bin.
        """
        count = self.config.polygon_head.levels
        result = []
        for level, stride in zip(features.maps[:count], features.strides[:count], strict=True):
            rows, columns = level.shape[-2:]
            whole = level[index : index + 1].float()
            if size == (rows * stride, columns * stride):
                result.append(whole[0])
                continue
            grids = [
                ((torch.arange(cells, device=level.device) + 0.5) / cells * (valid / (stride * cells)) * 2 - 1)
                for cells, valid in ((rows, size[0]), (columns, size[1]))
            ]
            y, x = torch.meshgrid(*grids, indexing="ij")
            grid = torch.stack([x, y], dim=-1)[None]
            result.append(F.grid_sample(whole, grid, mode="bilinear", padding_mode="border", align_corners=False)[0])
        return result


def _perceptron(width: int) -> nn.Sequential:
    """Features -> how far to move, in logits of the place; at first nowhere."""
    layers = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 2))
    nn.init.zeros_(layers[-1].weight)  # type: ignore[arg-type]
    nn.init.zeros_(layers[-1].bias)  # type: ignore[arg-type]
    return layers


# Variants -------------------------------------------------------------------------------------------------------------


DETECTRON2 = Config(rpn=SHORT_RPN, conventions=conventions.DETECTRON2)
LIGHT = Config(
    rpn=LIGHT_RPN,
    box_head=LIGHT_BOX_HEAD,
    polygon_head=PolygonHeadConfig(num_points=32, attention_heads=4, feedforward=256, levels=3, raster_size=32),
)


def boundaryformer_r50_fpn(num_classes: int = 80, **config: Any) -> BoundaryFormer:
    """ResNet-50: the authors' ``boundaryformer_rcnn_R_50_FPN_1x``; wants BGR."""
    chosen = changed(DETECTRON2, config)
    return BoundaryFormer(resnet_fpn("resnet50", chosen.norm_eps, stride_first=True), num_classes, chosen)


def boundaryformer_lite0_fpn(num_classes: int = 80, **config: Any) -> BoundaryFormer:
    """EfficientNet-Lite0 with a narrow decoder of up to 32 vertices, for CPUs."""
    return BoundaryFormer(light_fpn("tf_efficientnet_lite0"), num_classes, changed(LIGHT, config))
