"""RetinaNet: dense anchors on a pyramid, and a loss that is not drowned by the easy ones.

Lin, Goyal, Girshick, He, Dollar: "Focal Loss for Dense Object Detection", ICCV 2017, arXiv 1708.02002.

The idea: a one-stage detector asks a hundred thousand anchors of each image, nearly all of them background. The focal
loss multiplies the cross-entropy by (1 - p_t)^gamma, so that what the network is sure of hardly counts, and no
sampling is needed: eq. 5, in :func:`eachmask.ops.losses.sigmoid_focal`.

The same numbers as MMDetection's ``retinanet_r50_fpn_1x_coco`` and torchvision's ``retinanet_resnet50_fpn`` (see
``tests/parity``). Where we differ: crowd regions are ignored.

Shapes: B images, A anchors per place, P anchors of all levels of one image (fine to coarse, row by row), K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from eachmask.backbones.features import Features
from eachmask.backbones.fpn import FPN, Pyramid
from eachmask.backbones.networks import ResNet, Timm
from eachmask.models.config import changed
from eachmask.models.detection.dense import (
    Kept,
    best_pairs,
    detections,
    join_levels,
    matched_boxes,
    matched_labels,
    output,
    suppress,
    tower,
)
from eachmask.models.protocol import Detections, Detector
from eachmask.ops.anchors import base_anchors, flatten_anchors, grid_anchors, octave
from eachmask.ops.losses import sigmoid_focal, smooth_l1
from eachmask.ops.match import IGNORED, match_objects
from eachmask.structures import DecodeOptions, ImageBatch, Instances
from eachmask.structures import boxes as box_ops
from eachmask.tasks.boxes import BOXES

if TYPE_CHECKING:
    from eachmask.structures.spatial import Spatial

UNWEIGHTED = (1.0, 1.0, 1.0, 1.0)


class Raw(NamedTuple):
    """What the head said of every anchor of every level."""

    features: Features
    logits: tuple[Tensor, ...]  # per level (B, A K, H, W), anchor by anchor
    deltas: tuple[Tensor, ...]  # per level (B, 4 A, H, W), encoded against the anchors
    sizes: tuple[tuple[int, int], ...]  # valid (height, width) of each image
    batch_size: tuple[int, int]  # padded (height, width)


@dataclass(frozen=True)
class AnchorConfig:
    """The anchors of every place (section 4)."""

    base_scale: float = 4.0
    """Side of the smallest square anchor of a level, in strides ..."""
    octave_scales: int = 3
    """... of so many that divide an octave."""
    ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    """Height over width."""
    rounded: bool = False
    """Anchors end on whole pixels, and their step is the tensor's size by the level's, as torchvision has them."""
    fg_iou: float = 0.5
    """An anchor with this IoU to an object stands for it ..."""
    bg_iou: float = 0.4
    """... below this it is background; between them it is not used."""


@dataclass(frozen=True)
class LossConfig:
    """Focal loss and smooth L1."""

    alpha: float = 0.25
    gamma: float = 2.0
    """Of the focal loss."""
    smooth_l1_beta: float = 0.0
    """0 is L1."""


@dataclass(frozen=True)
class Config:
    """What a variant may change. Defaults are the paper's, with MMDetection's L1 loss of the boxes."""

    depth: int = 4
    """Convolutions of each tower."""
    anchors: AnchorConfig = AnchorConfig()
    loss: LossConfig = LossConfig()
    symmetric_clip: bool = True
    """A predicted box shrinks by no more than it may grow."""
    norm_eps: float = 1e-5
    """Of the backbone's batch normalization; torchvision's weights want 0."""
    candidates: int = 1000
    """Best (anchor, class) pairs of each level that go into suppression."""
    score_threshold: float = 0.05
    nms_threshold: float = 0.5
    max_detections: int = 100


# Blocks ---------------------------------------------------------------------------------------------------------------


class RetinaHead(nn.Module):
    """Two towers, the same for every level: classes and deltas of every anchor (section 4).

    Args:
        channels: of the levels and the towers.
    """

    def __init__(self, channels: int, num_anchors: int, num_classes: int, depth: int) -> None:
        super().__init__()
        self.class_tower = tower(channels, channels, depth)
        self.box_tower = tower(channels, channels, depth)
        self.classes = output(channels, num_anchors * num_classes, prior=0.01)
        self.deltas = output(channels, num_anchors * 4)

    def forward(self, level: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, H, W) -> logits (B, A K, H, W), deltas (B, 4 A, H, W)."""
        return self.classes(self.class_tower(level)), self.deltas(self.box_tower(level))


# The model ------------------------------------------------------------------------------------------------------------


class RetinaNet(Detector[Raw]):
    """One-stage detection on anchors.

    Args:
        backbone: gives Features of equal channels on every level, see :class:`~eachmask.backbones.fpn.FPN`.
        num_classes: K.
    """

    task = BOXES

    def __init__(self, backbone: FPN, num_classes: int, config: Config | None = None) -> None:
        super().__init__()
        self.config = config = config or Config()
        self.num_classes = num_classes
        self.backbone = backbone
        num_anchors = config.anchors.octave_scales * len(config.anchors.ratios)
        self.head = RetinaHead(backbone.channels[0], num_anchors, num_classes, config.depth)

    def forward(self, images: ImageBatch, given: Sequence[Spatial] | None = None) -> Raw:
        """(B, 3, H, W) -> what the head says of every anchor."""
        features = self.backbone(images.tensor)
        logits, deltas = zip(*(self.head(level) for level in features.maps), strict=True)
        height, width = images.tensor.shape[-2:]
        return Raw(features, logits, deltas, images.sizes, (height, width))

    def anchors(self, raw: Raw) -> list[Tensor]:
        """(H W A, 4) of every level, on the batch's device; centered on multiples of the stride."""
        c, result = self.config.anchors, []
        for level, stride in zip(raw.logits, raw.features.strides, strict=True):
            sides = list(octave(stride * c.base_scale, c.octave_scales))
            rows, columns = level.shape[-2:]
            step = (stride, stride)
            if c.rounded:
                sides = [float(int(side)) for side in sides]
                step = (raw.batch_size[0] // rows, raw.batch_size[1] // columns)
            base = base_anchors(sides, c.ratios, rounded=c.rounded).to(level.device)
            result.append(grid_anchors(base, (rows, columns), step))
        return result

    def losses(self, raw: Raw, targets: list[Instances]) -> dict[str, Tensor]:
        """Focal loss of all anchors, L1 of the deltas of those that stand for an object, both per such anchor.

        Args:
            targets: one per image, in pixels of the batch, with labels.
        """
        c = self.config.loss
        anchors = torch.cat(self.anchors(raw))
        matched = [self.assign(anchors, target) for target in targets]
        index = torch.cat(matched)
        places = torch.nonzero(index >= 0).squeeze(1)
        logits = torch.cat([flatten_anchors(x, self.num_classes) for x in raw.logits], 1).flatten(0, 1).float()
        deltas = torch.cat([flatten_anchors(x, 4) for x in raw.deltas], 1).flatten(0, 1).float()
        gt_scores = torch.zeros_like(logits)
        gt_scores[places, matched_labels(targets, matched)] = 1
        used = (index != IGNORED).float()[:, None]
        focal = sigmoid_focal(logits, gt_scores, c.alpha, c.gamma, weight=used)
        boxes = matched_boxes(targets, matched, anchors)
        gt_deltas = box_ops.encode(boxes, anchors.repeat(len(targets), 1)[places], UNWEIGHTED)
        num_positive = sum(max(int((m >= 0).sum()), 1) for m in matched)  # an image without any counts as one
        errors = smooth_l1(deltas[places], gt_deltas, c.smooth_l1_beta)
        return {"class": focal / num_positive, "box": errors / num_positive}

    def assign(self, anchors: Tensor, target: Instances) -> Tensor:
        """Which object every anchor (P, 4) stands for: (P,) index, UNMATCHED or IGNORED.

        Every object gets its best anchors, however little they overlap; anchors mostly within a crowd are ignored.
        """
        tiny = torch.finfo(torch.float32).tiny  # an object that no anchor meets gets none, instead of all
        c = self.config.anchors
        return match_objects(anchors, target, c.fg_iou, c.bg_iou, allow_low_quality_matches=tiny, moves=True)

    @torch.no_grad()
    def select(self, raw: Raw, options: DecodeOptions) -> Detections:
        """The best anchors of each level, suppression per class; the best first."""
        anchors, limits, kept = self.anchors(raw), options.limits(self.config), []
        for image, size in enumerate(raw.sizes):
            levels = zip(raw.logits, raw.deltas, anchors, strict=True)
            best = [self._candidates(x[image : image + 1], d[image : image + 1], a, limits[0]) for x, d, a in levels]
            joined = join_levels(best, [len(a) for a in anchors])
            kept.append(suppress(joined.clipped(size), limits))
        return detections(raw.sizes, kept)

    @property
    def max_objects(self) -> int:
        """The pairs of anchor and class that go into suppression."""
        return self.config.candidates * len(self.backbone.strides)

    def _candidates(self, logits: Tensor, deltas: Tensor, anchors: Tensor, threshold: float) -> Kept:
        """The best pairs of anchor and class of one level of one image.

        Args:
            logits: (1, A K, H, W); deltas: (1, 4 A, H, W); anchors: (H W A, 4).
        """
        probability = flatten_anchors(logits, self.num_classes)[0].float().sigmoid()
        score, label, place = best_pairs(probability.T, threshold, self.config.candidates)
        offsets = flatten_anchors(deltas, 4)[0, place].float()
        return Kept(
            box_ops.decode(offsets, anchors[place], UNWEIGHTED, self.config.symmetric_clip), label, score, place
        )


# Variants -------------------------------------------------------------------------------------------------------------


def retinanet_r50_fpn(num_classes: int = 80, **config: Any) -> RetinaNet:
    """ResNet-50: MMDetection's ``retinanet_r50_fpn``, whose P6 comes from C5 and P7 from P6 as it is."""
    pyramid = Pyramid(first=1, extra="convs", convs_of="backbone", convs_relu=False)
    chosen = changed(Config(), config)
    return RetinaNet(FPN(ResNet("resnet50", chosen.norm_eps), pyramid), num_classes, chosen)


def retinanet_r50_fpn_torchvision(num_classes: int = 80, **config: Any) -> RetinaNet:
    """ResNet-50: torchvision's ``retinanet_resnet50_fpn``, whose P6 comes from P5 and P7 from ReLU(P6)."""
    chosen = changed(Config(anchors=AnchorConfig(rounded=True), symmetric_clip=False), config)
    pyramid = Pyramid(first=1, extra="convs")
    return RetinaNet(FPN(ResNet("resnet50", chosen.norm_eps), pyramid), num_classes, chosen)


def retinanet_lite0_fpn(num_classes: int = 80, **config: Any) -> RetinaNet:
    """EfficientNet-Lite0, narrow towers of two convolutions and anchors of half the size, for small images."""
    light = Config(depth=2, anchors=AnchorConfig(base_scale=2.0))
    pyramid = Pyramid(channels=128, first=1, extra="convs", convs_of="backbone", convs_relu=False)
    return RetinaNet(FPN(Timm("tf_efficientnet_lite0"), pyramid), num_classes, changed(light, config))
