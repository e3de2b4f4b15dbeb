"""PolarMask: an object is a center and the lengths of 36 rays to its outline.

Xie, Sun, Song, Wang, Liu, Liang, Shen, Luo: "PolarMask: Single Shot Instance Segmentation with Polar Representation",
CVPR 2020, arXiv 1909.13226. Written from the paper.

The idea: FCOS regresses four distances to the sides of a box; ask for 36 distances in all directions instead, and the
mask comes with them, without a mask head. The rays of one object are learnt together by the ratio of what the two
shapes have in common to what they cover (Polar IoU), and places with very unequal rays score less (Polar centerness).

The same numbers as the authors' ``polar_768_1x_r50`` (see ``tests/parity``). Where we differ: rays are cut with the
outline exactly instead of in whole degrees; scores end at 1; crowd regions are ignored.

Shapes: B images, P places of all levels of one image, M places that stand for an object, N objects, V = 36 rays; ray
k points at (sin, cos) of k 360 / V degrees, so that ray 0 points down.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eachmask.backbones.fpn import FPN
from eachmask.backbones.networks import ResNet, Timm
from eachmask.models.config import changed
from eachmask.models.detection import fcos
from eachmask.models.detection.dense import Kept, flat, matched_boxes, output, tower
from eachmask.models.detection.fcos import PointDetector
from eachmask.models.protocol import Detections, pack_image
from eachmask.ops.point_boxes import boxes_from, distances_to, iou_of_distances
from eachmask.ops.suppression import suppress_boxes
from eachmask.structures import RLE, Bitmaps, DecodeOptions, ImageBatch, Instances, Masks
from eachmask.structures import boxes as box_ops
from eachmask.structures.masks import Index, as_index
from eachmask.tasks.instances import INSTANCES

if TYPE_CHECKING:
    from eachmask.structures.spatial import Spatial

SHORTEST = 1e-6
"""Length of a ray that does not meet the outline, px (section 3.2)."""


class Raw(NamedTuple):
    """What FCOS's head said of every place, and the rays."""

    detection: fcos.Raw
    rays: tuple[Tensor, ...]  # per level (B, V, H, W) px


class Selected(NamedTuple):
    """Detections, and where their rays end."""

    found: Detections
    corners: tuple[Tensor, ...] | None  # of each image (N, V, 2) px, x and y; None where no masks are wanted


@dataclass(frozen=True)
class RayConfig:
    """The rays and the Polar centerness."""

    num: int = 36
    bonus: float = 0.5
    """Added to the centerness before it multiplies the score, so that it lowers none by more than half."""
    first_length: float = 1.0
    """Of all distances and rays before training, px."""


@dataclass(frozen=True)
class Config(fcos.Config):
    """FCOS's choices, as the paper made them, and those of the rays."""

    head: fcos.HeadConfig = fcos.HeadConfig(conv_bias=False, distance="exp", centerness_on="class")
    assign: fcos.AssignConfig = fcos.AssignConfig(box_loss="iou")
    rays: RayConfig = RayConfig()
    nms_threshold: float = 0.5


# Blocks ---------------------------------------------------------------------------------------------------------------


class RayHead(nn.Module):
    """A third tower with one output per ray (figure 2 of the paper).

    Args:
        channels: of the levels and the tower.
        num_levels: one scale each.
    """

    def __init__(self, channels: int, num_levels: int, config: Config) -> None:
        super().__init__()
        c = config.head
        self.tower = tower(channels, channels, c.depth, c.groups, c.conv_bias)
        self.rays = output(channels, config.rays.num)
        self.scales = nn.ParameterList(nn.Parameter(torch.tensor(1.0)) for _ in range(num_levels))

    def forward(self, level: Tensor, index: int) -> Tensor:
        """(B, C, H, W) -> (B, V, H, W) px."""
        logs: Tensor = self.rays(self.tower(level)) * self.scales[index]
        return logs.float().exp()


# The model ------------------------------------------------------------------------------------------------------------


class PolarMask(PointDetector[Raw, Selected]):
    """FCOS with rays; see :class:`~eachmask.models.detection.fcos.PointDetector`."""

    task = INSTANCES
    needs = frozenset({"masks"})
    config: Config

    def __init__(self, backbone: FPN, num_classes: int, config: Config | None = None) -> None:
        config = config or Config()
        super().__init__(backbone, num_classes, config)
        self.ray_head = RayHead(backbone.channels[0], len(backbone.strides), config)
        for last in (self.head.distances, self.ray_head.rays):
            assert last.bias is not None
            nn.init.constant_(last.bias, math.log(config.rays.first_length))

    def forward(self, images: ImageBatch, given: Sequence[Spatial] | None = None) -> Raw:
        """(B, 3, H, W) -> classes, boxes, centerness and rays of every place."""
        detection = self.detect(images)
        return Raw(detection, tuple(self.ray_head(level, i) for i, level in enumerate(detection.features.maps)))

    # Learning

    def losses(self, raw: Raw, targets: list[Instances]) -> dict[str, Tensor]:
        """Focal loss, IoU of the boxes, Polar IoU (eq. 9) and Polar centerness (eq. 3).

        Args:
            targets: one per image, in pixels of the batch, with labels and masks.
        """
        outlines = [[outline(target, i) for i in range(len(target))] for target in targets]
        # Of whole pixels, as the authors' are: places on the sampling region's very border depend on it.
        centers = [torch.stack([*map(mass_center, here)]).floor() if here else torch.zeros(0, 2) for here in outlines]
        matched = self.assign(raw.detection, targets, centers)
        points = torch.cat(self.points(raw.detection))
        gt_rays = [self._gt_rays(points, here, index) for here, index in zip(outlines, matched, strict=True)]
        return self.losses_of(raw, targets, matched, torch.cat(gt_rays))

    def _gt_rays(self, points: Tensor, outlines: Sequence[Tensor], matched: Tensor) -> Tensor:
        """The rays of each matched place of one image, (M, V) px.

        Args:
            points: (P, 2); outlines: (C, 2) of each object; matched: (P,) the object of each place, or negative.
        """
        result = points.new_zeros(len(points), self.config.rays.num)
        for i in sorted(set(matched[matched >= 0].tolist())):
            own = torch.nonzero(matched == i).squeeze(1)
            result[own] = rays_to(points[own].cpu(), outlines[i], self.config.rays.num).to(result)
        return result[matched >= 0]

    def losses_of(
        self, raw: Raw, targets: list[Instances], matched: list[Tensor], gt_rays: Tensor
    ) -> dict[str, Tensor]:
        """The four losses, given every place's object.

        Args:
            matched: (P,) of each image: index of the object, UNMATCHED or IGNORED.
            gt_rays: (M, V) of all images' matched places, in their order.
        """
        places = torch.nonzero(torch.cat(matched) >= 0).squeeze(1)
        points = torch.cat(self.points(raw.detection)).repeat(len(targets), 1)[places]
        quality = polar_centerness(gt_rays)
        total = quality.sum().clamp(min=1e-6)
        distances = flat(raw.detection.distances).flatten(0, 1)[places]
        gt_distances = distances_to(points, matched_boxes(targets, matched, points))
        # Pixels at both ends count, as they did before boxes were half-open.
        boxes = -torch.log(iou_of_distances(distances, gt_distances, margin=1.0))
        rays = polar_iou_loss(flat(raw.rays).flatten(0, 1)[places], gt_rays)
        logits = flat(raw.detection.centerness).flatten()[places].float()
        centerness = F.binary_cross_entropy_with_logits(logits, quality, reduction="sum")
        return {
            "class": self.class_loss(raw.detection, targets, matched) / (len(places) + len(targets)),
            "box": (boxes * quality).sum() / total,
            "mask": (rays * quality).sum() / total,
            "centerness": centerness / max(len(places), 1),
        }

    # Predicting

    def select_heads(self, raw: Raw, kept: list[Kept], options: DecodeOptions) -> Selected:
        """The ends of the rays; scores at most 1."""
        sizes = raw.detection.sizes
        found = Detections.of(sizes, [(one.boxes, one.labels, one.scores.clamp(max=1)) for one in kept])
        if not options.with_masks:
            return Selected(found, None)
        rays, points = flat(raw.rays).float(), torch.cat(self.points(raw.detection))
        corners = []
        for image, (one, (height, width)) in enumerate(zip(kept, sizes, strict=True)):
            here = ends(points[one.places], rays[image, one.places])
            corners.append(here.clamp(min=0).minimum(here.new_tensor([width - 1, height - 1])))
        return Selected(found, tuple(corners))

    def pack(self, selected: Selected, options: DecodeOptions) -> list[Instances]:
        """Masks stay polygons until somebody needs the pixels."""
        results = [pack_image(selected.found, i, options) for i in range(len(selected.found.sizes))]
        for found, corners in zip(results, selected.corners or (), strict=False):
            found.masks = RayMasks(corners.cpu().numpy(), found.image_size)
        return results

    @property
    def max_objects(self) -> int:
        """One of each class for every place that goes into suppression."""
        return super().max_objects * self.num_classes

    def candidates(
        self, logits: Tensor, distances: Tensor, center: Tensor, points: Tensor, options: DecodeOptions
    ) -> Kept:
        """The best places of one level of one image with all their classes; scores may exceed 1.

        Args:
            logits: (K, H, W); distances: (4, H, W); center: (1, H, W) logits; points: (H W, 2).
        """
        c, asked = self.config, options.score_threshold
        probability = logits.flatten(1).float().sigmoid()
        quality = center.flatten().float().sigmoid()
        best = (probability.amax(0) * quality).topk(min(c.select.candidates, len(points))).indices
        probability = probability[:, best]
        score = probability * (quality[best] + c.rays.bonus)
        # The model's own threshold is of the class alone; a user's is of the score that is reported.
        sure = probability > c.score_threshold if asked is None else score.clamp(max=1) > asked
        label, chosen = torch.nonzero(sure, as_tuple=True)
        place = best[chosen]
        boxes = boxes_from(points[place], distances.flatten(1).T[place])
        return Kept(boxes, label, score[label, chosen], place)

    def suppress(self, kept: Kept, size: tuple[int, int], options: DecodeOptions) -> Kept:
        """Suppression in an image of this (height, width), the best first."""
        kept = kept.clipped((size[0] - 1, size[1] - 1))
        # Pixels at both ends count, as they did before boxes were half-open.
        larger = kept.boxes + kept.boxes.new_tensor([0, 0, 1, 1])
        index, scores = suppress_boxes(larger, kept.scores, kept.labels, options.limits(self.config))
        return kept.take(index)._replace(scores=scores)


# Rays, outlines, masks ------------------------------------------------------------------------------------------------


class RayMasks(Masks):
    """N polygons around their ray ends, filled on demand with the pixels under their outlines included.

    Args:
        corners: (N, V, 2) float x and y of pixel *centers* (a pixel's own corner is half a pixel before).
        size: (height, width) of the canvas.
    """

    def __init__(self, corners: np.ndarray[Any, np.dtype[np.floating[Any]]], size: tuple[int, int]) -> None:
        self.corners = corners
        self.size = (int(size[0]), int(size[1]))
        self._rle: RLE | None = None

    def __len__(self) -> int:
        return len(self.corners)

    def __getitem__(self, index: Index) -> RayMasks:
        return RayMasks(self.corners[as_index(index, len(self))], self.size)

    def resize(self, size: tuple[int, int]) -> RayMasks:
        """The corners move; nothing is filled twice. Divided, as the authors' are by the scale."""
        return RayMasks(self.corners / box_ops.ratios(size, self.size).numpy(), size)

    def to_rle(self) -> RLE:
        """One object at a time in its own window."""
        if self._rle is None:
            parts = []
            for polygon in np.trunc(self.corners).astype(np.int32):
                low, high = polygon.min(axis=0), polygon.max(axis=0)
                crop = np.zeros((high - low + 1)[::-1], np.uint8)
                cv2.drawContours(crop, [polygon - low], 0, 1, thickness=-1)
                parts.append(Bitmaps([crop], low[None], self.size).to_rle())
            self._rle = Masks.cat(parts) if parts else RLE.empty(self.size)
        return self._rle


def outline(target: Instances, index: int) -> Tensor:
    """(C, 2) pixel centers, x and y, along the outer border of an object's largest part; of its box without a mask.

    Whole numbers are pixel centers here, as in the paper's targets.
    """
    if target.masks is not None:
        bitmaps = target.masks[index].to_bitmaps()
        crop = np.ascontiguousarray(bitmaps.crops[0], np.uint8)
        if crop.any():
            x, y = bitmaps.origins[0].tolist()
            parts, _ = cv2.findContours(crop, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE, offset=(x, y))
            largest = max(parts, key=lambda part: (cv2.contourArea(part), len(part)))
            return torch.from_numpy(largest.reshape(-1, 2)).float()
    x1, y1, x2, y2 = target.boxes[index].tolist()
    return torch.tensor([[x1, y1], [x2, y1], [x2, y2], [x1, y2]])


def mass_center(polygon: Tensor) -> Tensor:
    """(C, 2) -> (2,) the center of mass of what a polygon encloses (section 3.2); of its corners if that is nothing."""
    middle = polygon.mean(dim=0)
    here = polygon - middle  # small numbers, so that areas do not cancel
    there = here.roll(-1, dims=0)
    twice = here[:, 0] * there[:, 1] - here[:, 1] * there[:, 0]
    area = twice.sum()
    if abs(float(area)) < 1e-6:
        return middle
    return middle + ((here + there) * twice[:, None]).sum(dim=0) / (3 * area)


def directions(num: int) -> Tensor:
    """(V, 2) unit vectors, x and y.

    From whole degrees, as the authors' are: the signs of sines and cosines that should be 0 depend on it, and a ray's
    end a hair before a whole pixel belongs to the one before.
    """
    angles = (torch.arange(num) * (360 / num)) / 180 * math.pi
    return torch.stack([angles.sin(), angles.cos()], dim=1)


def rays_to(points: Tensor, polygon: Tensor, num: int) -> Tensor:
    """How far each ray goes until it leaves a polygon for the last time (section 3.2).

    Args:
        points: (M, 2); polygon: (C, 2) corners in order.

    Returns:
        (M, V) px, SHORTEST where a ray does not meet the polygon.
    """
    here = polygon[None] - points[:, None]  # (M, C, 2)
    result = points.new_full((len(points), num), SHORTEST)
    for k, (sine, cosine) in enumerate(directions(num).tolist()):
        along = here[..., 0] * sine + here[..., 1] * cosine
        across = here[..., 0] * cosine - here[..., 1] * sine
        along_next, across_next = along.roll(-1, dims=1), across.roll(-1, dims=1)
        crosses = (across <= 0) != (across_next <= 0)
        share = across / torch.where(crosses, across - across_next, 1.0)
        where = torch.where(crosses, along + (along_next - along) * share, 0.0)
        result[:, k] = where.amax(dim=1).clamp(min=SHORTEST)
    return result


def ends(points: Tensor, rays: Tensor) -> Tensor:
    """(N, 2) and (N, V) px -> (N, V, 2) where the rays end (eq. 1 and 2)."""
    return points[:, None] + rays[..., None] * directions(rays.shape[1]).to(rays)


def polar_centerness(rays: Tensor) -> Tensor:
    """sqrt(shortest / longest): (M, V) -> (M,) in 0..1 (eq. 3)."""
    return (rays.amin(dim=1) / rays.amax(dim=1)).sqrt()


def polar_iou_loss(rays: Tensor, gt_rays: Tensor) -> Tensor:
    """log(sum of the longer / sum of the shorter of each pair of rays): (M, V), (M, V) -> (M,) (eq. 9)."""
    return torch.log(torch.maximum(rays, gt_rays).sum(1) / torch.minimum(rays, gt_rays).sum(1))


# Variants -------------------------------------------------------------------------------------------------------------


LIGHT = Config(
    head=fcos.HeadConfig(depth=2, groups=16, conv_bias=False, distance="exp", centerness_on="class"),
    rays=RayConfig(first_length=16.0),
)
"""For small networks."""


def polarmask_r50_fpn(num_classes: int = 80, **config: Any) -> PolarMask:
    """ResNet-50 that halves maps where Caffe's do: the authors' model."""
    return PolarMask(fcos.p3_to_p7(ResNet("resnet50", stride_first=True)), num_classes, changed(Config(), config))


def polarmask_lite0_fpn(num_classes: int = 80, **config: Any) -> PolarMask:
    """EfficientNet-Lite0 and towers of two narrow convolutions, for CPUs."""
    return PolarMask(fcos.p3_to_p7(Timm("tf_efficientnet_lite0"), 128), num_classes, changed(LIGHT, config))
