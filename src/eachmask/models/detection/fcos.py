"""FCOS: every place of the feature maps says what it is in and how far the four sides of that object are.

Tian, Shen, Chen, He: "FCOS: Fully Convolutional One-Stage Object Detection", ICCV 2019, arXiv 1904.01355; with the
later improvements of arXiv 2006.09214 (center sampling, GIoU, centerness beside the distances), which are the default.

The idea: no anchors. A place that lies inside an object's box learns its class and its distances (left, top, right,
bottom) to the box; objects are shared out among the levels by size. Places far from the center draw poor boxes, so
each also learns its *centerness*, which lowers their scores before suppression.

The same numbers as MMDetection's ``fcos_r50-caffe_fpn_gn-head`` (``**FIRST``) and its improved form (see
``tests/parity``). Where we differ: crowd regions are ignored; distances are pixels in losses and decoding alike.

Shapes: B images, L levels, P places of all levels of one image (fine to coarse, row by row), N objects, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eachmask.backbones.features import Features
from eachmask.backbones.fpn import FPN, Pyramid
from eachmask.backbones.networks import ResNet, Timm
from eachmask.ops.anchors import flatten_anchors
from eachmask.ops.losses import giou, sigmoid_focal
from eachmask.ops.match import IGNORED, UNMATCHED, learnable
from eachmask.ops.nms import nms
from eachmask.structures import DecodeOptions, ImageBatch, Instances
from eachmask.structures import boxes as box_ops

BoxLoss = Literal["giou", "iou", "smoothed"]
Score = Literal["product", "root"]
Ranked = Literal["class", "product"]


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
class Config:
    """What a variant may change. Defaults are those of the improved FCOS."""

    depth: int = 4
    """Convolutions of each tower."""
    agnostic: bool = False
    """One score for all classes together: every object gets label 0, and something else has to tell them apart."""
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
    ranges: tuple[float, ...] = (64, 128, 256, 512)
    """Largest distance, px, of the objects of each level but the last; each next level starts where one ends."""
    radius: float | None = 1.5
    """Only places this near the center, in strides, stand for an object; None: all within its box."""
    box_loss: BoxLoss = "giou"
    """1 - GIoU, or -log IoU, or 1 - GIoU with one square stride more in the IoU's numerator and denominator."""
    score: Score = "product"
    """Class probability times centerness, or the root of that."""
    threshold_on: Ranked = "class"
    """What the score threshold applies to, before any root."""
    candidates: int = 1000
    """Best (place, class) pairs of each level that go into suppression ..."""
    best_by: Ranked = "class"
    """... by the class alone (MMDetection), or by its product with the centerness (the authors)."""
    clip_first: bool = True
    """Boxes are cut at the image's border before suppression instead of after it."""
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

    def __init__(self, channels: int, num_classes: int, num_levels: int, config: Config) -> None:
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


def tower(in_channels: int, channels: int, depth: int, groups: int = 0, bias: bool = True) -> nn.Sequential:
    """3 x 3 convolutions, each with ReLU, in between group normalization if groups > 0."""
    layers = []
    for i in range(depth):
        conv = nn.Conv2d(in_channels if i == 0 else channels, channels, 3, padding=1, bias=bias)
        nn.init.normal_(conv.weight, std=0.01)
        if conv.bias is not None:
            nn.init.zeros_(conv.bias)
        norm = [nn.GroupNorm(groups, channels)] if groups else []
        layers.append(nn.Sequential(conv, *norm, nn.ReLU(inplace=True)))
    return nn.Sequential(*layers)


def output(channels: int, num: int, prior: float | None = None, kernel: int = 3) -> nn.Conv2d:
    """A last convolution; with a prior its sigmoid starts there (Lin et al., RetinaNet, section 4.1)."""
    conv = nn.Conv2d(channels, num, kernel, padding=kernel // 2)
    nn.init.normal_(conv.weight, std=0.01)
    nn.init.constant_(conv.bias, 0.0 if prior is None else -math.log((1 - prior) / prior))  # type: ignore[arg-type]
    return conv


# The model ------------------------------------------------------------------------------------------------------------


class FCOS(nn.Module):
    """Detection without anchors, with three verbs; others hang masks on its places and boxes.

    Args:
        backbone: gives Features of equal channels on every level, see :class:`~eachmask.backbones.fpn.FPN`.
        num_classes: K.
    """

    def __init__(self, backbone: nn.Module, num_classes: int, config: Config | None = None) -> None:
        super().__init__()
        self.config = config = config or Config()
        self.num_classes = num_classes
        self.backbone = backbone
        strides: Any = backbone.strides
        channels: Any = backbone.channels
        self.head = FCOSHead(channels[0], 1 if config.agnostic else num_classes, len(strides), config)

    def forward(self, images: ImageBatch) -> Raw:
        """(B, 3, H, W) -> what the head says of every place."""
        features = self.backbone(images.tensor)
        said = [
            self.head(level, i, stride)
            for i, (level, stride) in enumerate(zip(features.maps, features.strides, strict=True))
        ]
        height, width = images.tensor.shape[-2:]
        logits, distances, centerness, towers = zip(*said, strict=True)
        return Raw(features, logits, distances, centerness, towers, images.sizes, (height, width))

    def losses(self, raw: Raw, targets: list[Instances]) -> dict[str, Tensor]:
        """Focal loss of the classes, (G)IoU loss of the boxes, cross-entropy of the centerness (eq. 2 of the paper).

        Args:
            targets: one per image, in pixels of the batch, with labels.
        """
        return self.detection_losses(raw, targets, self.assign(raw, targets))

    def decode(self, raw: Raw, options: DecodeOptions) -> list[Instances]:
        """Scores lowered by centerness, suppression per class; the best first."""
        return [found.clipped() for found in self.keep(raw, options)]

    def points(self, raw: Raw) -> list[Tensor]:
        """(H W, 2) image coordinates of the places of every level, on the batch's device."""
        shapes = [(int(x.shape[-2]), int(x.shape[-1])) for x in raw.logits]
        return level_points(shapes, raw.features.strides, raw.logits[0].device)

    def assign(self, raw: Raw, targets: list[Instances], centers: Sequence[Tensor] | None = None) -> list[Tensor]:
        """The object of every place: (P,) per image, see :func:`assign`.

        Args:
            centers: (N, 2) of each image, to sample around instead of the boxes' centers.
        """
        points, c = self.points(raw), self.config
        return [
            assign(points, raw.features.strides, target, c.ranges, c.radius, None if centers is None else centers[i])
            for i, target in enumerate(targets)
        ]

    def detection_losses(self, raw: Raw, targets: list[Instances], matched: list[Tensor]) -> dict[str, Tensor]:
        """The three losses, given every place's object.

        Args:
            matched: (P,) of each image: index of the object, UNMATCHED or IGNORED.
        """
        logits = flat(raw.logits).flatten(0, 1).float()
        index = torch.cat(matched)
        wanted = torch.zeros_like(logits)
        places = torch.nonzero(index >= 0).squeeze(1)
        wanted[places, self.matched_columns(targets, matched)] = 1
        num_positive = max(len(places), 1)
        focal = sigmoid_focal(logits, wanted, weight=(index != IGNORED).float()[:, None])

        points = torch.cat(self.points(raw)).repeat(len(targets), 1)
        found = flat(raw.distances).flatten(0, 1)[places]
        truth = distances_to(points[places], matched_boxes(targets, matched, points))
        quality = centerness(truth)
        if self.config.box_loss == "giou":
            errors = giou(boxes_from(points[places], found), boxes_from(points[places], truth))
        elif self.config.box_loss == "smoothed":
            levels = zip(self.points(raw), raw.features.strides, strict=True)
            strides = torch.cat([torch.full_like(p[:, :1], s) for p, s in levels]).repeat(len(targets), 1)[places]
            errors = _smoothed_giou(found / strides, truth / strides)
        else:
            errors = -torch.log(iou_of_distances(found, truth).clamp(min=1e-6))
        said = flat(raw.centerness).flatten()[places].float()
        return {
            "class": focal / num_positive,
            "box": (errors * quality).sum() / quality.sum().clamp(min=1e-6),
            "centerness": F.binary_cross_entropy_with_logits(said, quality, reduction="sum") / num_positive,
        }

    def matched_columns(self, targets: list[Instances], matched: list[Tensor]) -> Tensor:
        """Which of the class scores each of all images' matched places is to raise: (M,)."""
        labels = matched_labels(targets, matched)
        return torch.zeros_like(labels) if self.config.agnostic else labels

    @torch.no_grad()
    def keep(self, raw: Raw, options: DecodeOptions) -> list[Kept]:
        """What survives suppression in each image, the best first, with the place that it comes from."""
        points = self.points(raw)
        return [self._keep(raw, i, points, options) for i in range(len(raw.sizes))]

    def reported(self, product: Tensor) -> Tensor:
        """The score of class probability times centerness."""
        return product.sqrt() if self.config.score == "root" else product

    def _keep(self, raw: Raw, image: int, points: list[Tensor], options: DecodeOptions) -> Kept:
        c, asked = self.config, options.score_threshold
        boxes, scores, labels, places, before = [], [], [], [], 0
        for logits, distances, center, places_at in zip(raw.logits, raw.distances, raw.centerness, points, strict=True):
            probability = logits[image].flatten(1).float().sigmoid()  # (K, H W)
            center = center[image].flatten().float().sigmoid()
            forms = {"class": probability, "product": probability * center}
            # What a user asks for is compared with what is reported, bit for bit: a root's square is another number.
            compared = forms[c.threshold_on] if asked is None else self.reported(forms[c.threshold_on])
            threshold = c.score_threshold if asked is None else asked
            _, label, place = best_pairs(compared, threshold, c.candidates, forms[c.best_by])
            score = self.reported(forms["product"][label, place])
            if asked is not None:
                sure = score > asked
                score, label, place = score[sure], label[sure], place[sure]
            boxes.append(boxes_from(places_at[place], distances[image].flatten(1).T[place]))
            scores.append(score)
            labels.append(label)
            places.append(place + before)
            before += len(places_at)
        size = raw.sizes[image]
        kept = Kept(
            Instances(image_size=size, boxes=torch.cat(boxes), labels=torch.cat(labels), scores=torch.cat(scores)),
            torch.cat(places),
        )
        if c.clip_first:
            kept = Kept(kept.clipped(), kept.places)
        return suppress(kept, options, c.nms_threshold, c.max_detections)


# Places, target assignment, selection ---------------------------------------------------------------------------------


class Kept(NamedTuple):
    """Detections of one image and where they come from."""

    instances: Instances
    places: Tensor  # (N,) int64 in 0..P-1

    def clipped(self) -> Instances:
        """The detections with boxes cut at the image's border."""
        found = self.instances
        boxes = box_ops.clip(found.boxes, found.image_size)
        return Instances(found.image_size, boxes, labels=found.labels, scores=found.scores)


def level_points(
    shapes: Sequence[tuple[int, int]], strides: Sequence[int], device: torch.device | None = None
) -> list[Tensor]:
    """(H W, 2) x and y of the centers of every level's cells, px, row by row (section 3.1).

    Args:
        shapes: (rows, columns) of each level.
    """
    result = []
    for (rows, columns), stride in zip(shapes, strides, strict=True):
        y = (torch.arange(rows, dtype=torch.float32, device=device) + 0.5) * stride
        x = (torch.arange(columns, dtype=torch.float32, device=device) + 0.5) * stride
        y, x = torch.meshgrid(y, x, indexing="ij")
        result.append(torch.stack([x.reshape(-1), y.reshape(-1)], dim=1))
    return result


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


def distances_to(points: Tensor, boxes: Tensor) -> Tensor:
    """Left, top, right, bottom distances (..., 4) from points (..., 2) to the sides of boxes (..., 4) (eq. 1)."""
    return torch.cat([points - boxes[..., :2], boxes[..., 2:] - points], dim=-1)


def boxes_from(points: Tensor, distances: Tensor) -> Tensor:
    """Undo of :func:`distances_to`: (..., 4) xyxy."""
    return torch.cat([points - distances[..., :2], points + distances[..., 2:]], dim=-1)


def centerness(distances: Tensor) -> Tensor:
    """sqrt(min(l, r) / max(l, r) * min(t, b) / max(t, b)), 1 in the middle of a box and 0 at its border (eq. 3).

    Args:
        distances: (N, 4) positive.
    """
    x, y = distances[:, 0::2], distances[:, 1::2]
    return (x.amin(1) / x.amax(1) * (y.amin(1) / y.amax(1))).clamp(min=0).sqrt()


def matched_labels(targets: list[Instances], matched: list[Tensor]) -> Tensor:
    """Labels of all images' matched places, in their order."""
    labels = []
    for target, index in zip(targets, matched, strict=True):
        assert target.labels is not None
        labels.append(target.labels.to(index.device)[index[index >= 0]])
    return torch.cat(labels)


def matched_boxes(targets: list[Instances], matched: list[Tensor], like: Tensor) -> Tensor:
    """(M, 4) boxes of all images' matched places, in their order, in the type and on the device of ``like``."""
    return torch.cat([t.boxes.to(like)[index[index >= 0]] for t, index in zip(targets, matched, strict=True)])


def flat(levels: Sequence[Tensor]) -> Tensor:
    """Levels (B, D, H, W) -> (B, P, D)."""
    return torch.cat([flatten_anchors(level, level.shape[1]) for level in levels], dim=1)


def best_pairs(
    scores: Tensor, threshold: float, most: int, order_by: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """The best pairs of class and place above a threshold.

    Args:
        scores: (K, H W).
        order_by: (K, H W) what says which are the best, if not the scores.

    Returns:
        values (of ``order_by`` where it is given), labels and places, best first.
    """
    label, place = torch.nonzero(scores > threshold, as_tuple=True)
    value = (scores if order_by is None else order_by)[label, place]
    order = torch.sort(value, descending=True, stable=True).indices[:most]
    return value[order], label[order], place[order]


def suppress(kept: Kept, options: DecodeOptions, nms_threshold: float, max_detections: int) -> Kept:
    """Greedy suppression per class; the user's limits come before the model's. Boxes without area go."""
    found = kept.instances
    assert found.scores is not None and found.labels is not None
    solid = torch.nonzero((found.boxes[:, 2:] > found.boxes[:, :2]).all(1)).squeeze(1)
    iou = nms_threshold if options.nms_threshold is None else options.nms_threshold
    most = max_detections if options.max_detections is None else options.max_detections
    index = solid[nms(found.boxes[solid], found.scores[solid], found.labels[solid], iou)[:most]]
    return Kept(
        Instances(found.image_size, found.boxes[index], labels=found.labels[index], scores=found.scores[index]),
        kept.places[index],
    )


def _smoothed_giou(found: Tensor, truth: Tensor) -> Tensor:
    """1 - GIoU of boxes around the same points, 1 added to both areas of the IoU: (M, 4), (M, 4) -> (M,)."""
    common, hull = torch.minimum(found, truth), torch.maximum(found, truth)
    inner, outer, a, b = ((d[:, 0] + d[:, 2]) * (d[:, 1] + d[:, 3]) for d in (common, hull, found, truth))
    union = a + b - inner
    return 1 - (inner + 1) / (union + 1) + (outer - union) / outer.clamp(min=1e-6)


def iou_of_distances(found: Tensor, truth: Tensor, margin: float = 0.0) -> Tensor:
    """IoU of boxes around the same points, from their distances: (M, 4), (M, 4) -> (M,).

    Args:
        margin: added to all widths and heights, px.
    """
    common = torch.minimum(found, truth)
    areas = [(d[:, 0] + d[:, 2] + margin) * (d[:, 1] + d[:, 3] + margin) for d in (common, found, truth)]
    return areas[0] / (areas[1] + areas[2] - areas[0]).clamp(min=1e-6)


# Variants -------------------------------------------------------------------------------------------------------------

FIRST: dict[str, Any] = {"conv_bias": False, "distance": "exp", "centerness_on": "class", "radius": None,
                         "box_loss": "iou", "nms_threshold": 0.5}  # fmt: skip
"""What the paper's first version did otherwise, with group normalization in the heads."""


def p3_to_p7(backbone: nn.Module, channels: int = 256) -> FPN:
    """A pyramid of strides 8 ... 128: three levels of the backbone's maps, two by strided convolutions of the third."""
    return FPN(backbone, Pyramid(channels=channels, first=1, extra="convs"))


def fcos_r50_fpn(num_classes: int = 80, **config: Any) -> FCOS:
    """ResNet-50 that halves maps where Caffe's do: MMDetection's improved FCOS, with ``**FIRST`` its first."""
    return FCOS(p3_to_p7(ResNet("resnet50", stride_first=True)), num_classes, Config(**config))


def fcos_lite0_fpn(num_classes: int = 80, **config: Any) -> FCOS:
    """EfficientNet-Lite0 and towers of two narrow convolutions, for processors without a GPU."""
    light = {"depth": 2, "groups": 16} | config
    return FCOS(p3_to_p7(Timm("tf_efficientnet_lite0"), 128), num_classes, Config(**light))
