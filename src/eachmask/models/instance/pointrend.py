"""PointRend: masks painted as a renderer paints, coarsely inside and finely along the boundary.

Kirillov, Wu, He, Girshick: "PointRend: Image Segmentation as Rendering", CVPR 2020, arXiv 1912.08193.

The idea: a light head guesses a 7 x 7 mask; the rest is a function of a *point*, a small perceptron that reads the
fine feature map and the coarse guess there. The mask is doubled in size again and again, and each time only the few
hundred most undecided cells are asked anew, so that 224 x 224 costs hardly more than 28 x 28.

The same numbers as MMDetection's and Detectron2's PointRend (see ``tests/parity``). Where we differ: besides what
:mod:`~eachmask.models.detection.faster_rcnn` says, subdivision starts at the finest grid that is asked whole (28 x 28),
and only the predicted class's logit is computed there.

Shapes: R RoIs of all images, P points of each, C channels of the pyramid, K classes, M = 224 the side of a mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

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
    RoIConfig,
    light_fpn,
    resnet_fpn,
)
from eachmask.models.detection.rpn import Raw
from eachmask.models.instance.mask_rcnn import zero_of
from eachmask.models.protocol import Detections
from eachmask.ops.mask_targets import mask_targets
from eachmask.ops.points import most_uncertain_cells, point_sample, sample_uncertain_points, uncertainty
from eachmask.ops.roi import in_groups
from eachmask.structures import DecodeOptions, Instances, Masks
from eachmask.tasks.instances import INSTANCES

ROI_CHUNK_SIZE = 32
"""RoIs are rendered in groups of so many: 32 x 784 points x 336 channels are 34 MB, whatever max_detections is."""


@dataclass(frozen=True)
class RegionHeadConfig:
    """The light head on the finest map of each region (paper, section 4.1)."""

    grid_size: int = 14
    """It reads a grid of so many points per side of the box."""
    mask_size: int = 7
    """Side of the coarse mask."""
    layers: int = 2
    width: int = 1024


@dataclass(frozen=True)
class PointHeadConfig:
    """The perceptron of a point."""

    layers: int = 3
    width: int = 256
    coarse_in_each: bool = True
    """The coarse guess enters every layer, the last one too; else the first alone (Detectron2's semantic form)."""


@dataclass(frozen=True)
class PointsConfig:
    """The points of the loss, and those of rendering."""

    per_object: int = 196
    """Points per object in the loss ..."""
    oversample: float = 3.0
    """... sampled from so many times as many ..."""
    importance: float = 0.75
    """... of which this share are the most uncertain ones."""
    mask_size: int = 224
    """Side of a rendered mask."""
    per_subdivision: int = 784
    """Cells that are asked anew after each doubling."""


@dataclass(frozen=True)
class Config(faster_rcnn.Config):
    """Faster R-CNN's choices and those of the two mask heads."""

    region_head: RegionHeadConfig = RegionHeadConfig()
    point_head: PointHeadConfig = PointHeadConfig()
    points: PointsConfig = PointsConfig()
    train_on_predicted: bool = False
    """The masks of the loss lie in the boxes that the box head predicts instead of the proposals (Detectron2)."""


# Blocks, in the order of the data -------------------------------------------------------------------------------------


class RegionHead(nn.Module):
    """A region's features halved in size, then fully connected: the coarse mask, or a perceptron's weights.

    Args:
        channels: C.
        num_outputs: length of the answer.
    """

    def __init__(self, channels: int, num_outputs: int, config: RegionHeadConfig) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, channels, 2, stride=2)
        widths = [channels * (config.grid_size // 2) ** 2, *[config.width] * config.layers]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in zip(widths[:-1], widths[1:], strict=True))
        self.outputs = nn.Linear(widths[-1], num_outputs)
        nn.init.kaiming_normal_(self.reduce.weight, mode="fan_out", nonlinearity="relu")
        for layer in self.layers:
            nn.init.kaiming_uniform_(cast(Tensor, layer.weight), a=1)
        nn.init.normal_(self.outputs.weight, std=0.001)
        for layer in (self.reduce, *self.layers, self.outputs):
            nn.init.zeros_(layer.bias)

    def forward(self, regions: Tensor) -> Tensor:
        """(R, C, 14, 14) -> (R, num_outputs)."""
        x = F.relu(self.reduce(regions)).flatten(1)
        for layer in self.layers:
            x = F.relu(layer(x))
        result: Tensor = self.outputs(x)
        return result


class PointHead(nn.Module):
    """The perceptron of a point; the coarse guess enters every layer anew (paper, section 3.3)."""

    def __init__(self, channels: int, num_classes: int, config: PointHeadConfig) -> None:
        super().__init__()
        self.coarse_in_each = config.coarse_in_each
        again = num_classes if config.coarse_in_each else 0
        widths = [channels + num_classes, *[config.width + again] * config.layers]
        self.layers = nn.ModuleList(nn.Conv1d(inputs, config.width, 1) for inputs in widths[:-1])
        self.classes = nn.Conv1d(widths[-1], num_classes, 1)
        for layer in self.layers:
            nn.init.kaiming_normal_(cast(Tensor, layer.weight), mode="fan_out", nonlinearity="relu")
        nn.init.normal_(self.classes.weight, std=0.001)
        for layer in (*self.layers, self.classes):
            nn.init.zeros_(layer.bias)

    def forward(self, fine: Tensor, coarse: Tensor, labels: Tensor) -> Tensor:
        """(R, C, P) and (R, K, P) features, (R,) classes -> (R, P) logits of those classes alone."""
        hidden = self.hidden(fine, coarse)
        logits = torch.bmm(self.classes.weight[labels].transpose(1, 2), hidden)[:, 0]
        return logits + self.classes.bias[labels, None]  # type: ignore[index]

    def hidden(self, fine: Tensor, coarse: Tensor) -> Tensor:
        """What the last layer reads: (R, D + K, P); (R, D, P) where the coarse guess enters the first layer alone."""
        x = torch.cat([fine, coarse], dim=1)
        for layer in self.layers:
            x = F.relu(layer(x))
            x = torch.cat([x, coarse], dim=1) if self.coarse_in_each else x
        return x

    def every_class(self, fine: Tensor, coarse: Tensor) -> Tensor:
        """(R, C, P) and (R, K, P) features -> (R, K, P) logits."""
        logits: Tensor = self.classes(self.hidden(fine, coarse))
        return logits


# The model ------------------------------------------------------------------------------------------------------------


class PointRend(FasterRCNN):
    """Faster R-CNN whose masks are rendered."""

    task = INSTANCES
    needs = frozenset({"masks"})
    config: Config

    def __init__(self, backbone: FPN, num_classes: int, config: Config | None = None) -> None:
        config = config or Config()
        super().__init__(backbone, num_classes, config)
        self.build_point_heads(backbone.channels[0])

    def build_point_heads(self, channels: int) -> None:
        """The two parts: of a region, and of a point."""
        c = self.config
        self.coarse_head = RegionHead(channels, self.num_classes * c.region_head.mask_size**2, c.region_head)
        self.point_head = PointHead(channels, self.num_classes, c.point_head)

    def mask_modules(self) -> tuple[nn.Module, ...]:
        """What has weights that only objects teach."""
        return self.coarse_head, self.point_head

    def represent(self, features: Features, boxes: list[Tensor]) -> Tensor:
        """What is known of each region as a whole: coarse logits (R, K, 7, 7)."""
        regions = read_grid(features, boxes, self.config.region_head.grid_size)
        size = self.config.region_head.mask_size
        logits: Tensor = self.coarse_head(regions).view(-1, self.num_classes, size, size)
        return logits

    def point_logits(self, fine: Tensor, points: Tensor, region: Tensor, labels: Tensor) -> Tensor:
        """Whether points are inside: (R, C, P) features, (R, P, 2) in 0..1 of the box -> (R, P).

        Args:
            region: from :meth:`represent`.
            labels: (R,) classes.
        """
        logits: Tensor = self.point_head(fine, point_sample(region, points), labels)
        return logits

    # Training

    def head_losses(self, raw: Raw, sampled: list[Sampled], targets: list[Instances]) -> dict[str, Tensor]:
        """Adds the masks' losses on positive RoIs."""
        losses = super().head_losses(raw, sampled, targets)
        chosen = positives(sampled, self.num_classes)
        labels = torch.cat([s.labels for s in chosen])
        if not len(labels):
            return losses | {"point": zero_of(*self.mask_modules())}
        boxes, matched = [s.boxes for s in chosen], [s.matched for s in chosen]
        if self.config.train_on_predicted:
            boxes = self.predicted_boxes(raw, boxes, labels)
        region = self.represent(raw.features, boxes)
        losses |= self.region_losses(region, labels, targets, matched, boxes)
        with torch.no_grad():
            points = self.training_points(region, labels)
            columns = zip(targets, matched, boxes, points.split([len(b) for b in boxes]), strict=True)
            inside = torch.cat([point_targets(target.gt_masks, m, b, p) for target, m, b, p in columns])
        logits = self.point_logits(read_points(raw.features, boxes, points), points, region, labels)
        return losses | {"point": F.binary_cross_entropy_with_logits(logits.float(), inside)}

    @torch.no_grad()
    def predicted_boxes(self, raw: Raw, boxes: list[Tensor], labels: Tensor) -> list[Tensor]:
        """Where the box head moves these RoIs if they are of these classes (R,).

        Not clipped to the image, like Detectron2's, but kept within half an image around it: a box sixty times too
        large, which an untrained head may ask for, would take minutes to compare with the true mask.
        """
        head = self.config.box_head
        deltas = self.run_box_head(raw.features, boxes)[1].float()
        of_class = torch.zeros_like(labels) if head.class_agnostic else labels
        deltas = deltas[torch.arange(len(labels), device=labels.device), of_class]
        result = []
        for b, d, (height, width) in zip(boxes, deltas.split([len(b) for b in boxes]), raw.sizes, strict=True):
            limit = b.new_tensor([width, height, width, height])
            moved = self.moved(b, d, head.weights)
            result.append(torch.minimum(torch.maximum(moved, -0.5 * limit), 1.5 * limit))
        return result

    def region_losses(
        self, region: Tensor, labels: Tensor, targets: list[Instances], matched: list[Tensor], boxes: list[Tensor]
    ) -> dict[str, Tensor]:
        """Mean cross-entropy of the true class's coarse mask."""
        size = self.config.region_head.mask_size
        columns = zip(targets, matched, boxes, strict=True)
        gt_masks = torch.cat([coarse_targets(target.gt_masks, m, b, size) for target, m, b in columns])
        logits = region[torch.arange(len(labels), device=labels.device), labels].float()
        return {"mask": F.binary_cross_entropy_with_logits(logits, gt_masks)}

    def training_points(self, region: Tensor, labels: Tensor) -> Tensor:
        """Points of the loss (R, P, 2), mostly where the coarse mask is undecided (section 3.1)."""
        c = self.config.points
        logits = region[torch.arange(len(labels), device=labels.device), labels][:, None]
        return sample_uncertain_points(logits.float(), c.per_object, c.oversample, c.importance)

    # Prediction

    def select_heads(self, raw: Raw, found: Detections, options: DecodeOptions) -> Detections:
        """Renders each kept box's mask: 0.2 MB each, whatever the image's size."""
        if not options.with_masks:
            return found
        groups = zip(
            in_groups(list(found.boxes), ROI_CHUNK_SIZE), torch.cat(found.labels).split(ROI_CHUNK_SIZE), strict=True
        )
        masks = torch.cat([self.render(raw.features, boxes, labels).float().sigmoid() for boxes, labels in groups])
        return found._replace(masks=found.per_image(masks))

    def render(self, features: Features, boxes: list[Tensor], labels: Tensor) -> Tensor:
        """Adaptive subdivision (section 3.1, "inference"): boxes of all images, (R,) classes -> (R, M, M) logits."""
        c = self.config.points
        region = self.represent(features, boxes)
        side = self.first_side()
        grid = grid_points(side, region.device).expand(len(labels), -1, -1)
        logits = self.point_logits(read_points(features, boxes, grid), grid, region, labels)
        mask = logits.view(-1, 1, side, side)
        while side < c.mask_size and len(labels):
            side *= 2
            mask = F.interpolate(mask, scale_factor=2, mode="bilinear", align_corners=False)
            index, points = most_uncertain_cells(uncertainty(mask), c.per_subdivision)
            logits = self.point_logits(read_points(features, boxes, points.to(mask)), points.to(mask), region, labels)
            mask = mask.flatten(1).scatter(1, index, logits).view(-1, 1, side, side)
        return mask[:, 0] if len(labels) else region.new_zeros((0, c.mask_size, c.mask_size))

    def first_side(self) -> int:
        """Side of the finest grid all of whose cells are asked: the coarse mask's, doubled while they are that few."""
        side, c = self.config.region_head.mask_size, self.config.points
        while 4 * side**2 <= c.per_subdivision and 2 * side <= c.mask_size:
            side *= 2
        return side


# Points and targets ---------------------------------------------------------------------------------------------------


def grid_points(side: int, device: torch.device) -> Tensor:
    """Centers of side x side cells, row by row: (1, side^2, 2) as (x, y) in 0..1."""
    centers = (torch.arange(side, device=device) + 0.5) / side
    y, x = torch.meshgrid(centers, centers, indexing="ij")
    return torch.stack([x, y], dim=-1).view(1, -1, 2)


def read_grid(features: Features, boxes: Sequence[Tensor], size: int) -> Tensor:
    """The finest map at the cell centers of a regular grid in each box: (R, C, size, size)."""
    points = grid_points(size, features.maps[0].device).expand(sum(len(b) for b in boxes), -1, -1)
    return torch.unflatten(read_points(features, boxes, points), 2, (size, size))


def read_points(features: Features, boxes: Sequence[Tensor], points: Tensor) -> Tensor:
    """The finest map at points of boxes, bilinear; outside the map it is 0.

    Args:
        boxes: for each image (R_b, 4) px.
        points: (R, P, 2) as (x, y) in 0..1 of each box, images in order.

    Returns:
        (R, C, P) in the map's type.
    """
    level, stride = features.maps[0], features.strides[0]
    extent = points.new_tensor([level.shape[3], level.shape[2]]) * stride
    parts = []
    for image, b, p in zip(level.split(1), boxes, points.split([len(b) for b in boxes]), strict=True):
        place = in_image(b, p) / extent
        read = F.grid_sample(image.float(), 2 * place[None] - 1, mode="bilinear", align_corners=False)
        parts.append(read[0].transpose(0, 1))
    return torch.cat(parts).to(level.dtype)


def in_image(boxes: Tensor, points: Tensor) -> Tensor:
    """Points (R, P, 2) in 0..1 of boxes (R, 4) -> pixels of the image."""
    corner, far = boxes[:, None, :2], boxes[:, None, 2:]
    return corner + points * (far - corner)


def coarse_targets(masks: Masks, matched: Tensor, boxes: Tensor, size: int) -> Tensor:
    """The true mask of each RoI, 0 or 1, on the coarse grid: (R, size, size)."""
    return (mask_targets(masks, matched, boxes, size, aligned=True) >= 0.5).to(boxes)


def point_targets(masks: Masks, matched: Tensor, boxes: Tensor, points: Tensor) -> Tensor:
    """How much of the object is at each point: the bitmap read bilinearly, (R, P) in 0..1.

    Each object is read in its own crop, outside of which its bitmap is 0 anyway.

    Args:
        masks: of the image's objects.
        matched: (R,) which object each RoI stands for.
        boxes: (R, 4) px.
        points: (R, P, 2) in 0..1 of each box.
    """
    result = points.new_zeros(points.shape[:2])
    place = in_image(boxes, points)
    for index in matched.unique().tolist():
        bitmaps = masks[index].to_bitmaps()
        crop = torch.from_numpy(bitmaps.crops[0]).to(points)
        if crop.numel():
            rows = torch.nonzero(matched == index).squeeze(1)
            corner = points.new_tensor(bitmaps.origins[0])
            inside = (place[rows] - corner) / points.new_tensor([crop.shape[1], crop.shape[0]])
            result[rows] = point_sample(crop[None, None], inside.view(1, -1, 2)).view(len(rows), -1)
    return result


# Variants -------------------------------------------------------------------------------------------------------------

DETECTRON2 = Config(rpn=SHORT_RPN, conventions=conventions.DETECTRON2, train_on_predicted=True)
MMDET = Config(rpn=SHORT_RPN, roi=RoIConfig(allow_low_quality_matches=True), conventions=conventions.MMDET)
LIGHT = Config(
    rpn=LIGHT_RPN,
    box_head=LIGHT_BOX_HEAD,
    region_head=RegionHeadConfig(width=256),
    point_head=PointHeadConfig(width=64),
    points=PointsConfig(per_object=98, mask_size=112, per_subdivision=196),
)
"""For small networks on small images."""


def pointrend_r50_fpn(num_classes: int = 80, **config: Any) -> PointRend:
    """ResNet-50: the authors' ``pointrend_rcnn_R_50_FPN`` in Detectron2; wants BGR."""
    chosen = changed(DETECTRON2, config)
    return PointRend(resnet_fpn("resnet50", chosen.norm_eps, stride_first=True), num_classes, chosen)


def pointrend_r50_fpn_mmdet(num_classes: int = 80, **config: Any) -> PointRend:
    """ResNet-50: MMDetection's ``point-rend_r50-caffe_fpn_ms``; wants BGR."""
    chosen = changed(MMDET, config)
    return PointRend(resnet_fpn("resnet50", chosen.norm_eps, stride_first=True), num_classes, chosen)


def pointrend_lite0_fpn(num_classes: int = 80, **config: Any) -> PointRend:
    """EfficientNet-Lite0 with narrow heads and masks of 112 x 112, for CPUs."""
    return PointRend(light_fpn("tf_efficientnet_lite0"), num_classes, changed(LIGHT, config))
