"""FCOS: every place of the feature maps says what it is in and how far the four sides of that object are.

Tian, Shen, Chen, He: "FCOS: Fully Convolutional One-Stage Object Detection", ICCV 2019, arXiv 1904.01355; with the
later improvements of arXiv 2006.09214 (center sampling, GIoU, centerness beside the distances), which are the default.

The idea: no anchors. A place that lies inside an object's box learns its class and its distances (left, top, right,
bottom) to the box; objects are shared out among the levels by size. Places far from the center predict poor boxes, so
each also learns its *centerness*, which lowers their scores before suppression.

The same numbers as MMDetection's ``fcos_r50-caffe_fpn_gn-head`` (``**FIRST``) and its improved form (see
``tests/parity``). Where we differ: crowd regions are ignored; distances are pixels in losses and decoding alike.

Shapes: B images, L levels, P places of all levels of one image (fine to coarse, row by row), N objects, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Literal, NamedTuple, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eachmask.backbones.features import Features
from eachmask.backbones.fpn import FPN, Pyramid
from eachmask.backbones.networks import ResNet, Timm
from eachmask.models.config import changed
from eachmask.models.detection.dense import (
    Kept,
    best_pairs,
    detections,
    flat,
    join_levels,
    matched_boxes,
    matched_labels,
    output,
    suppress,
    tower,
)
from eachmask.models.protocol import Detections, Detector, Network
from eachmask.ops.losses import giou, sigmoid_focal
from eachmask.ops.match import IGNORED, UNMATCHED, learnable
from eachmask.ops.point_boxes import (
    boxes_from,
    centerness,
    distances_to,
    iou_of_distances,
    level_points,
    smoothed_giou_loss,
)
from eachmask.structures import DecodeOptions, ImageBatch, Instances
from eachmask.structures import boxes as box_ops
from eachmask.tasks.boxes import BOXES

if TYPE_CHECKING:
    from eachmask.structures.spatial import Spatial

RawT = TypeVar("RawT")
SelectedT = TypeVar("SelectedT")


class Raw(NamedTuple):
    """What the head said of every place of every level."""

    features: Features
    logits: tuple[Tensor, ...]  # per level (B, K, H, W)
    distances: tuple[Tensor, ...]  # per level (B, 4, H, W): left, top, right, bottom, px
    centerness: tuple[Tensor, ...]  # per level (B, 1, H, W) logits
    towers: tuple[Tensor, ...]  # per level (B, C, H, W): the box tower, on which other models hang more outputs
    sizes: tuple[tuple[int, int], ...]  # valid (height, width) of each image
    batch_size: tuple[int, int]  # padded (height, width)


@dataclass(frozen=True)
class HeadConfig:
    """The towers and what is read from them."""

    depth: int = 4
    """Convolutions of each tower."""
    groups: int = 32
    """Of the towers' group normalization; 0 leaves it out."""
    conv_bias: bool = True
    """The towers' convolutions have a bias, although normalization follows."""
    scales: bool = True
    """One learnt factor per level for the distances."""
    distance: Literal["relu", "exp"] = "relu"
    """Distances are ReLU(x) strides, or exp(x) pixels."""
    centerness_on: Literal["box", "class"] = "box"
    """The tower that the centerness is read from."""


@dataclass(frozen=True)
class AssignConfig:
    """Which places learn which object, and how their boxes are compared."""

    ranges: tuple[float, ...] = (64, 128, 256, 512)
    """Largest distance, px, of the objects of each level but the last; each next level starts where one ends."""
    radius: float | None = 1.5
    """Only places this near the center, in strides, stand for an object; None: all within its box."""
    box_loss: Literal["giou", "iou", "smoothed"] = "giou"
    """1 - GIoU, or -log IoU, or 1 - GIoU with one square stride more in the IoU's numerator and denominator."""


@dataclass(frozen=True)
class SelectConfig:
    """What goes into suppression."""

    score: Literal["product", "root"] = "product"
    """Class probability times centerness, or the root of that."""
    threshold_on: Literal["class", "product"] = "class"
    """What the model's own score threshold applies to, before any root; a user's is of the score that is reported."""
    candidates: int = 1000
    """Best (place, class) pairs of each level ..."""
    best_by: Literal["class", "product"] = "class"
    """... by the class alone (MMDetection), or by its product with the centerness (the authors)."""
    clip_first: bool = True
    """Boxes are cut at the image's border before suppression instead of after it."""


@dataclass(frozen=True)
class Config:
    """What a variant may change. Defaults are those of the improved FCOS."""

    agnostic: bool = False
    """One score for all classes together: every object gets label 0, and something else has to tell them apart."""
    head: HeadConfig = HeadConfig()
    assign: AssignConfig = AssignConfig()
    select: SelectConfig = SelectConfig()
    score_threshold: float = 0.05
    nms_threshold: float = 0.6
    max_detections: int = 100


# Blocks, in the order of the data -------------------------------------------------------------------------------------


class FCOSHead(nn.Module):
    """Two towers of convolutions, the same for every level; classes from one, distances from the other.

    Args:
        channels: of the levels and the towers.
        num_levels: one scale each.
    """

    def __init__(self, channels: int, num_classes: int, num_levels: int, config: HeadConfig) -> None:
        super().__init__()
        self.distance, self.centerness_on = config.distance, config.centerness_on
        self.class_tower = tower(channels, channels, config.depth, config.groups, config.conv_bias)
        self.box_tower = tower(channels, channels, config.depth, config.groups, config.conv_bias)
        self.classes = output(channels, num_classes, prior=0.01)
        self.distances = output(channels, 4)
        self.centerness = output(channels, 1)
        self.scales = nn.ParameterList(nn.Parameter(torch.tensor(1.0)) for _ in range(num_levels * config.scales))

    def forward(self, level: Tensor, index: int, stride: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """One level (B, C, H, W) -> logits (B, K, H, W), distances (B, 4, H, W) px, centerness, the box tower."""
        classes, boxes = self.class_tower(level), self.box_tower(level)
        distances = self.distances(boxes)
        if len(self.scales):
            distances = distances * self.scales[index]
        # In float32: the largest distances are beyond half precision's whole numbers.
        distances = torch.relu(distances).float() * stride if self.distance == "relu" else distances.float().exp()
        centerness = self.centerness(boxes if self.centerness_on == "box" else classes)
        return self.classes(classes), distances, centerness, boxes


# The model ------------------------------------------------------------------------------------------------------------


class PointDetector(Network[RawT, SelectedT, Instances], Generic[RawT, SelectedT]):
    """A network with FCOS's head, and perhaps more: models that hang masks on its places and boxes are of this kind.

    Args:
        backbone: gives Features of equal channels on every level, see :class:`~eachmask.backbones.fpn.FPN`.
        num_classes: K.
    """

    config: Config

    def __init__(self, backbone: FPN, num_classes: int, config: Config) -> None:
        super().__init__()
        self.config = config
        self.num_classes = num_classes
        self.backbone = backbone
        num = 1 if config.agnostic else num_classes
        self.head = FCOSHead(backbone.channels[0], num, len(backbone.strides), config.head)

    def detect(self, images: ImageBatch) -> Raw:
        """(B, 3, H, W) -> what FCOS's head says of every place."""
        features = self.backbone(images.tensor)
        said = [
            self.head(level, i, stride)
            for i, (level, stride) in enumerate(zip(features.maps, features.strides, strict=True))
        ]
        height, width = images.tensor.shape[-2:]
        logits, distances, centerness, towers = zip(*said, strict=True)
        return Raw(features, logits, distances, centerness, towers, images.sizes, (height, width))

    def points(self, raw: Raw) -> list[Tensor]:
        """(H W, 2) image coordinates of the places of every level, on the batch's device."""
        shapes = [(int(x.shape[-2]), int(x.shape[-1])) for x in raw.logits]
        return level_points(shapes, raw.features.strides, raw.logits[0].device)

    def detection(self, raw: RawT) -> Raw:
        """What FCOS's head says, of all that the network does."""
        return cast(Raw, getattr(raw, "detection", raw))

    # Learning

    def losses(self, raw: RawT, targets: list[Instances]) -> dict[str, Tensor]:
        """Focal loss of the classes, (G)IoU loss of the boxes, cross-entropy of the centerness (eq. 2 of the paper),
        and what further heads learn.

        Args:
            targets: one per image, in pixels of the batch, with labels.
        """
        said = self.detection(raw)
        matched = self.assign(said, targets)
        return self.detection_losses(said, targets, matched) | self.head_losses(raw, matched, targets)

    def head_losses(self, raw: RawT, matched: list[Tensor], targets: list[Instances]) -> dict[str, Tensor]:
        """Losses of subclasses' heads.

        Args:
            matched: (P,) of each image: the object of every place, UNMATCHED or IGNORED.
        """
        return {}

    def assign(self, raw: Raw, targets: list[Instances], centers: Sequence[Tensor] | None = None) -> list[Tensor]:
        """The object of every place: (P,) per image, see :func:`assign`.

        Args:
            centers: (N, 2) of each image, to sample around instead of the boxes' centers.
        """
        points, c = self.points(raw), self.config.assign
        return [
            assign(points, raw.features.strides, target, c.ranges, c.radius, None if centers is None else centers[i])
            for i, target in enumerate(targets)
        ]

    def detection_losses(self, raw: Raw, targets: list[Instances], matched: list[Tensor]) -> dict[str, Tensor]:
        """The three losses, given every place's object.

        Args:
            matched: (P,) of each image: index of the object, UNMATCHED or IGNORED.
        """
        places = torch.nonzero(torch.cat(matched) >= 0).squeeze(1)
        num_positive = max(len(places), 1)
        points = torch.cat(self.points(raw)).repeat(len(targets), 1)
        distances = flat(raw.distances).flatten(0, 1)[places]
        gt_distances = distances_to(points[places], matched_boxes(targets, matched, points))
        quality = centerness(gt_distances)
        errors = self._box_errors(raw, points[places], places, distances, gt_distances)
        logits = flat(raw.centerness).flatten()[places].float()
        return {
            "class": self.class_loss(raw, targets, matched) / num_positive,
            "box": (errors * quality).sum() / quality.sum().clamp(min=1e-6),
            "centerness": F.binary_cross_entropy_with_logits(logits, quality, reduction="sum") / num_positive,
        }

    def class_loss(self, raw: Raw, targets: list[Instances], matched: list[Tensor]) -> Tensor:
        """Summed focal loss of all places that are not ignored."""
        logits, index = flat(raw.logits).flatten(0, 1).float(), torch.cat(matched)
        labels = matched_labels(targets, matched)
        gt_scores = torch.zeros_like(logits)
        gt_scores[index >= 0, torch.zeros_like(labels) if self.config.agnostic else labels] = 1
        return sigmoid_focal(logits, gt_scores, weight=(index != IGNORED).float()[:, None])

    def _box_errors(self, raw: Raw, points: Tensor, places: Tensor, distances: Tensor, gt_distances: Tensor) -> Tensor:
        """How wrong the boxes of matched places are: (M,).

        Args:
            points: (M, 2); places: (M,) among those of all images; distances, gt_distances: (M, 4) px.
        """
        kind = self.config.assign.box_loss
        if kind == "giou":
            return giou(boxes_from(points, distances), boxes_from(points, gt_distances))
        if kind == "iou":
            return -torch.log(iou_of_distances(distances, gt_distances).clamp(min=1e-6))
        levels = zip(self.points(raw), raw.features.strides, strict=True)
        strides = torch.cat([torch.full_like(p[:, :1], s) for p, s in levels]).repeat(len(raw.sizes), 1)[places]
        return smoothed_giou_loss(distances / strides, gt_distances / strides)

    # Predicting

    @torch.no_grad()
    def select(self, raw: RawT, options: DecodeOptions) -> SelectedT:
        """Scores lowered by centerness, suppression per class, and what the heads add; the best first."""
        return self.select_heads(raw, self.keep(self.detection(raw), self.box_options(options)), options)

    def select_heads(self, raw: RawT, kept: list[Kept], options: DecodeOptions) -> SelectedT:
        """What subclasses' heads make of the detections of each image, the best first."""
        raise NotImplementedError

    @property
    def max_objects(self) -> int:
        """The pairs of place and class that go into suppression."""
        return self.config.select.candidates * len(self.backbone.strides)

    def box_options(self, options: DecodeOptions) -> DecodeOptions:
        """What is asked of the detections that :meth:`select_heads` is given."""
        return options

    @torch.no_grad()
    def keep(self, raw: Raw, options: DecodeOptions) -> list[Kept]:
        """What survives suppression in each image, the best first, with the place that it comes from."""
        points, result = self.points(raw), []
        for image, size in enumerate(raw.sizes):
            levels = zip(raw.logits, raw.distances, raw.centerness, points, strict=True)
            kept = [self.candidates(x[image], d[image], c[image], here, options) for x, d, c, here in levels]
            joined = join_levels(kept, [len(here) for here in points])
            result.append(self.suppress(joined, size, options))
        return result

    def candidates(
        self, logits: Tensor, distances: Tensor, center: Tensor, points: Tensor, options: DecodeOptions
    ) -> Kept:
        """The best pairs of place and class of one level of one image.

        Args:
            logits: (K, H, W); distances: (4, H, W); center: (1, H, W) logits; points: (H W, 2).
        """
        c, asked = self.config.select, options.score_threshold
        probability = logits.flatten(1).float().sigmoid()
        forms = {"class": probability, "product": probability * center.flatten().float().sigmoid()}
        # What a user asks for is compared with what is reported, bit for bit: a root's square is another number.
        compared = forms[c.threshold_on] if asked is None else self._reported(forms[c.threshold_on])
        threshold = self.config.score_threshold if asked is None else asked
        _, label, place = best_pairs(compared, threshold, c.candidates, forms[c.best_by])
        score = self._reported(forms["product"][label, place])
        kept = Kept(boxes_from(points[place], distances.flatten(1).T[place]), label, score, place)
        return kept if asked is None else kept.take(score > asked)

    def _reported(self, product: Tensor) -> Tensor:
        """The score of class probability times centerness."""
        return product.sqrt() if self.config.select.score == "root" else product

    def suppress(self, kept: Kept, size: tuple[int, int], options: DecodeOptions) -> Kept:
        """Suppression in an image of this (height, width), the best first."""
        kept = kept.clipped(size) if self.config.select.clip_first else kept
        return suppress(kept, options.limits(self.config))


class FCOS(PointDetector[Raw, Detections], Detector[Raw]):
    """Detection without anchors; see :class:`PointDetector`."""

    task = BOXES

    def __init__(self, backbone: FPN, num_classes: int, config: Config | None = None) -> None:
        super().__init__(backbone, num_classes, config or Config())

    def forward(self, images: ImageBatch, given: Sequence[Spatial] | None = None) -> Raw:
        """(B, 3, H, W) -> what the head says of every place."""
        return self.detect(images)

    def select_heads(self, raw: Raw, kept: list[Kept], options: DecodeOptions) -> Detections:
        """Boxes as they are."""
        return detections(raw.sizes, kept)


# Target assignment ----------------------------------------------------------------------------------------------------


def assign(
    points: Sequence[Tensor],
    strides: Sequence[int],
    target: Instances,
    ranges: Sequence[float],
    radius: float | None = None,
    centers: Tensor | None = None,
) -> Tensor:
    """Which object every place stands for (section 3.2): it lies within it and the level has its size.

    Of several objects the smallest one is taken. Places within crowd regions that stand for nothing are ignored.

    Args:
        points: (H W, 2) of every level, px.
        ranges: largest distance of each level but the last, px.
        radius: only places within this many strides of the object's center (along both axes) and within its box.
        centers: (N, 2) of all objects instead of the boxes' centers.

    Returns:
        (P,) int64: index of the object, UNMATCHED or IGNORED.
    """
    device = points[0].device
    boxes = target.boxes.to(device, torch.float32)
    single, crowd = learnable(target, device)
    areas = box_ops.area(boxes[single])
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2 if centers is None else centers.to(boxes)
    ends = [-1.0, *ranges, math.inf]
    result = []
    for places, stride, low, high in zip(points, strides, ends[:-1], ends[1:], strict=True):
        matched = torch.full((len(places),), UNMATCHED, dtype=torch.int64, device=device)
        if len(single):
            distances = distances_to(places[:, None], boxes[single][None])  # (H W, N, 4)
            inside = distances.amin(-1) > 0
            if radius is not None:
                offset = (places[:, None] - middle[single][None]).abs().amax(-1)
                inside &= offset < radius * stride
            furthest = distances.amax(-1)
            cost = torch.where(inside & (furthest >= low) & (furthest <= high), areas, math.inf)
            smallest, index = cost.min(dim=1)
            matched = torch.where(smallest < math.inf, single[index], matched)
        if len(crowd):
            covered = (distances_to(places[:, None], boxes[crowd][None]).amin(-1) > 0).any(1)
            matched[covered & (matched == UNMATCHED)] = IGNORED
        result.append(matched)
    return torch.cat(result)


# Variants -------------------------------------------------------------------------------------------------------------

FIRST: dict[str, Any] = {
    "head": {"conv_bias": False, "distance": "exp", "centerness_on": "class"},
    "assign": {"radius": None, "box_loss": "iou"},
    "nms_threshold": 0.5,
}
"""What the paper's first version did otherwise, with group normalization in the heads."""
LIGHT = HeadConfig(depth=2, groups=16)
"""For small networks."""


def p3_to_p7(backbone: nn.Module, channels: int = 256) -> FPN:
    """A pyramid of strides 8 ... 128: three levels of the backbone's maps, two by strided convolutions of the third."""
    return FPN(backbone, Pyramid(channels=channels, first=1, extra="convs"))


def fcos_r50_fpn(num_classes: int = 80, **config: Any) -> FCOS:
    """ResNet-50 that halves maps where Caffe's do: MMDetection's improved FCOS, with ``**FIRST`` its first."""
    return FCOS(p3_to_p7(ResNet("resnet50", stride_first=True)), num_classes, changed(Config(), config))


def fcos_lite0_fpn(num_classes: int = 80, **config: Any) -> FCOS:
    """EfficientNet-Lite0 and towers of two narrow convolutions, for CPUs."""
    return FCOS(p3_to_p7(Timm("tf_efficientnet_lite0"), 128), num_classes, changed(Config(head=LIGHT), config))
