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
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eachmask.backbones.networks import ResNet, Timm
from eachmask.models.detection import fcos
from eachmask.models.detection.fcos import FCOS, boxes_from, distances_to, flat, iou_of_distances, output, tower
from eachmask.ops.losses import sigmoid_focal
from eachmask.ops.match import IGNORED
from eachmask.ops.nms import nms
from eachmask.structures import RLE, Bitmaps, DecodeOptions, ImageBatch, Instances, Masks
from eachmask.structures import boxes as box_ops
from eachmask.structures.masks import Index, as_index

SHORTEST = 1e-6
"""Length of a ray that does not meet the outline, px (section 3.2)."""


class Raw(NamedTuple):
    """What FCOS's head said of every place, and the rays."""

    detection: fcos.Raw
    rays: tuple[Tensor, ...]  # per level (B, V, H, W) px


@dataclass(frozen=True)
class Config(fcos.Config):
    """FCOS's choices, as the paper made them, and the number of rays."""

    conv_bias: bool = False
    distance: Any = "exp"
    centerness_on: Any = "class"
    box_loss: Any = "iou"
    nms_threshold: float = 0.5
    num_rays: int = 36
    bonus: float = 0.5
    """Added to the centerness before it multiplies the score, so that it lowers none by more than half."""
    first_ray: float = 1.0
    """Length of all distances and rays before training, px."""


# Blocks ---------------------------------------------------------------------------------------------------------------


class RayHead(nn.Module):
    """A third tower with one output per ray (figure 2 of the paper).

    Args:
        channels: of the levels and the tower.
        num_levels: one scale each.
    """

    def __init__(self, channels: int, num_levels: int, config: Config) -> None:
        super().__init__()
        self.tower = tower(channels, channels, config.depth, config.groups, config.conv_bias)
        self.rays = output(channels, config.num_rays)
        self.scales = nn.ParameterList(nn.Parameter(torch.tensor(1.0)) for _ in range(num_levels))

    def forward(self, level: Tensor, index: int) -> Tensor:
        """(B, C, H, W) -> (B, V, H, W) px."""
        logs: Tensor = self.rays(self.tower(level)) * self.scales[index]
        return logs.float().exp()


# The model ------------------------------------------------------------------------------------------------------------


class PolarMask(FCOS):
    """FCOS with rays, with three verbs.

    Args:
        backbone: gives Features of equal channels on every level, see :class:`~eachmask.backbones.fpn.FPN`.
        num_classes: K.
    """

    config: Config

    def __init__(self, backbone: nn.Module, num_classes: int, config: Config | None = None) -> None:
        config = config or Config()
        super().__init__(backbone, num_classes, config)
        strides: Any = backbone.strides
        channels: Any = backbone.channels
        self.ray_head = RayHead(channels[0], len(strides), config)
        for last in (self.head.distances, self.ray_head.rays):
            nn.init.constant_(last.bias, math.log(config.first_ray))  # type: ignore[arg-type]

    def forward(self, images: ImageBatch) -> Raw:  # type: ignore[override]
        """(B, 3, H, W) -> classes, boxes, centerness and rays of every place."""
        detection = super().forward(images)
        return Raw(detection, tuple(self.ray_head(level, i) for i, level in enumerate(detection.features.maps)))

    def losses(self, raw: Raw, targets: list[Instances]) -> dict[str, Tensor]:  # type: ignore[override]
        """Focal loss, IoU of the boxes, Polar IoU (eq. 9) and Polar centerness (eq. 3).

        Args:
            targets: one per image, in pixels of the batch, with labels and masks.
        """
        outlines = [[outline(target, i) for i in range(len(target))] for target in targets]
        # Of whole pixels, as the authors' are: places on the sampling region's very border depend on it.
        centers = [torch.stack([*map(mass_center, here)]).floor() if here else torch.zeros(0, 2) for here in outlines]
        matched = self.assign(raw.detection, targets, centers)
        points = torch.cat(self.points(raw.detection))
        rays = []
        for here, index in zip(outlines, matched, strict=True):
            wanted = points.new_zeros(len(points), self.config.num_rays)
            for i in sorted(set(index[index >= 0].tolist())):
                own = torch.nonzero(index == i).squeeze(1)
                wanted[own] = rays_to(points[own].cpu(), here[i], self.config.num_rays).to(wanted)
            rays.append(wanted[index >= 0])
        return self.losses_of(raw, targets, matched, torch.cat(rays))

    def losses_of(
        self, raw: Raw, targets: list[Instances], matched: list[Tensor], wanted_rays: Tensor
    ) -> dict[str, Tensor]:
        """The four losses, given every place's object.

        Args:
            matched: (P,) of each image: index of the object, UNMATCHED or IGNORED.
            wanted_rays: (M, V) of all images' matched places, in their order.
        """
        logits = flat(raw.detection.logits).flatten(0, 1).float()
        index = torch.cat(matched)
        places = torch.nonzero(index >= 0).squeeze(1)
        wanted = torch.zeros_like(logits)
        wanted[places, self.matched_columns(targets, matched)] = 1
        focal = sigmoid_focal(logits, wanted, weight=(index != IGNORED).float()[:, None])

        points = torch.cat(self.points(raw.detection)).repeat(len(targets), 1)[places]
        quality = polar_centerness(wanted_rays)
        total = quality.sum().clamp(min=1e-6)
        truth = distances_to(points, fcos.matched_boxes(targets, matched, points))
        boxes = -torch.log(iou_of_distances(flat(raw.detection.distances).flatten(0, 1)[places], truth, 1.0))
        rays = polar_iou_loss(flat(raw.rays).flatten(0, 1)[places], wanted_rays)
        said = flat(raw.detection.centerness).flatten()[places].float()
        centerness = F.binary_cross_entropy_with_logits(said, quality, reduction="sum")
        return {
            "class": focal / (len(places) + len(targets)),
            "box": (boxes * quality).sum() / total,
            "mask": (rays * quality).sum() / total,
            "centerness": centerness / max(len(places), 1),
        }

    @torch.no_grad()
    def decode(self, raw: Raw, options: DecodeOptions) -> list[Instances]:  # type: ignore[override]
        """Suppression by the boxes, masks from the rays; the best first, scores at most 1."""
        rays = flat(raw.rays).float()
        points = torch.cat(self.points(raw.detection))
        results = []
        for image, found in enumerate(self.keep(raw.detection, options)):
            instances = replace(found.instances, scores=found.instances.scores.clamp(max=1))  # type: ignore[union-attr]
            if options.with_masks:
                corners = ends(points[found.places], rays[image, found.places])
                height, width = raw.detection.sizes[image]
                corners = corners.clamp(min=0).minimum(corners.new_tensor([width - 1, height - 1]))
                instances = replace(instances, masks=RayMasks(corners.cpu().numpy(), (height, width)))
            results.append(instances)
        return results

    def _keep(self, raw: fcos.Raw, image: int, points: list[Tensor], options: DecodeOptions) -> fcos.Kept:
        """Detections of one image; their scores may exceed 1."""
        c, asked, found, before = self.config, options.score_threshold, [], 0
        for logits, distances, center, level in zip(raw.logits, raw.distances, raw.centerness, points, strict=True):
            probability = logits[image].flatten(1).float().sigmoid()  # (K, H W)
            center = center[image].flatten().float().sigmoid()
            best = (probability.amax(0) * center).topk(min(c.candidates, len(level))).indices
            probability = probability[:, best]
            score = probability * (center[best] + c.bonus)
            # The model's own threshold is of the class alone; a user's is of the score that is reported.
            sure = probability > c.score_threshold if asked is None else score.clamp(max=1) > asked
            label, chosen = torch.nonzero(sure, as_tuple=True)
            score, place = score[label, chosen], best[chosen]
            boxes = boxes_from(level[place], distances[image].flatten(1).T[place])
            found.append((boxes, score, label, place + before))
            before += len(level)
        boxes, scores, labels, places = (torch.cat(column) for column in zip(*found, strict=True))
        height, width = raw.sizes[image]
        boxes = box_ops.clip(boxes, (height - 1, width - 1))
        # Pixels at both ends count, as they did before boxes were half-open.
        iou = c.nms_threshold if options.nms_threshold is None else options.nms_threshold
        most = c.max_detections if options.max_detections is None else options.max_detections
        kept = nms(boxes + boxes.new_tensor([0, 0, 1, 1]), scores, labels, iou)[:most]
        instances = Instances((height, width), boxes[kept], labels=labels[kept], scores=scores[kept])
        return fcos.Kept(instances, places[kept])


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


def polar_iou_loss(rays: Tensor, wanted: Tensor) -> Tensor:
    """log(sum of the longer / sum of the shorter of each pair of rays): (M, V), (M, V) -> (M,) (eq. 9)."""
    return torch.log(torch.maximum(rays, wanted).sum(1) / torch.minimum(rays, wanted).sum(1))


# Variants -------------------------------------------------------------------------------------------------------------


def polarmask_r50_fpn(num_classes: int = 80, **config: Any) -> PolarMask:
    """ResNet-50 that halves maps where Caffe's do: the authors' model."""
    return PolarMask(fcos.p3_to_p7(ResNet("resnet50", stride_first=True)), num_classes, Config(**config))


def polarmask_lite0_fpn(num_classes: int = 80, **config: Any) -> PolarMask:
    """EfficientNet-Lite0 and towers of two narrow convolutions, for processors without a GPU."""
    light: dict[str, Any] = {"depth": 2, "groups": 16, "first_ray": 16.0} | config
    return PolarMask(fcos.p3_to_p7(Timm("tf_efficientnet_lite0"), 128), num_classes, Config(**light))
