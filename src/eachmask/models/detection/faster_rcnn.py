"""Faster R-CNN: a network that proposes boxes, and a head that names and refines them.

Ren, He, Girshick, Sun: "Faster R-CNN: Towards Real-Time Object Detection with Region Proposal Networks", NeurIPS 2015,
arXiv 1506.01497; on a feature pyramid as in Lin et al., arXiv 1612.03144; the ``_v2`` variants follow Li et al.,
"Benchmarking Detection Transfer Learning with Vision Transformers", arXiv 2111.11429.

The idea: the proposals that Fast R-CNN is given come from a network too. One small convolutional head
(:mod:`~eachmask.models.detection.rpn`) says of every anchor box whether it holds *something* and how to shift it; the
best few hundred survive suppression. RoIAlign cuts each out of the pyramid, and a second head gives it a class and a
tighter box. Both see the same features, so proposals cost almost nothing.

The same numbers as torchvision's ``fasterrcnn_resnet50_fpn`` and ``_v2`` (see ``tests/parity``). Where we differ:
background is the *last* class of the box head, so that labels are indices; regression has no background rows; crowd
regions are ignored in both stages; nothing depends on ``self.training``.

Shapes: B images, P proposals of one image, R RoIs of all images, K classes.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eachmask.backbones.features import Features
from eachmask.backbones.fpn import FPN, Pyramid
from eachmask.backbones.networks import ResNet, Timm
from eachmask.backbones.swin import Swin
from eachmask.models.config import changed
from eachmask.models.detection.conventions import MMDET, TORCHVISION, Conventions
from eachmask.models.detection.fast_rcnn import Sampled, box_losses, keep_best
from eachmask.models.detection.rpn import RPN, Raw, RPNConfig
from eachmask.models.protocol import Detections, Detector
from eachmask.ops.match import learnable, match_objects, sample
from eachmask.ops.roi import roi_align, roi_pool
from eachmask.structures import DecodeOptions, ImageBatch, Instances
from eachmask.structures import boxes as box_ops
from eachmask.structures.decode import Limits
from eachmask.tasks.boxes import BOXES

if TYPE_CHECKING:
    from eachmask.models.detection.faster_rcnn_c4 import C4
    from eachmask.structures.spatial import Spatial


@dataclass(frozen=True)
class RoIConfig:
    """How proposals are learnt from and cut out of the features."""

    levels: int = 4
    """So many of the finest levels are pooled from."""
    pooling: Literal["align", "pool"] = "align"
    """RoIAlign, or RoIPool with its two roundings, in all heads: the ablation of Mask R-CNN's table 2, e.g.
    ``mask_rcnn_r50_fpn(num_classes=3, roi={"pooling": "pool"})``."""
    fg_iou: float = 0.5
    """A proposal with this IoU to an object is taken for it."""
    allow_low_quality_matches: bool = False
    """An object's best proposal, if above ``fg_iou``, stands for it whatever else it overlaps (MMDetection)."""
    batch_size: int = 512
    """Proposals per image in the loss ..."""
    positive_fraction: float = 0.25
    """... and the largest share of objects among them."""
    jitter: float = 0.0
    """When training, each proposal moves by up to this share of its sides, which also change by up to that share."""


@dataclass(frozen=True)
class BoxHeadConfig:
    """What stands on each proposal."""

    roi_size: int = 7
    """Side of the pooled grid."""
    convs: int = 0
    """3 x 3 convolutions before the fully connected layers."""
    layers: int = 2
    width: int = 1024
    weights: box_ops.Weights = (10.0, 10.0, 5.0, 5.0)
    """Factors of the deltas of x, y, width and height."""
    class_agnostic: bool = False
    """One box for all classes instead of one for each."""


@dataclass(frozen=True)
class Config:
    """What a variant may change of both stages. Defaults are those of the papers, as torchvision has them."""

    rpn: RPNConfig = RPNConfig()
    roi: RoIConfig = RoIConfig()
    box_head: BoxHeadConfig = BoxHeadConfig()
    conventions: Conventions = TORCHVISION
    class_agnostic_nms: bool = False
    """Each box gets its likeliest class alone and the score that it is anything at all (1 - background), and boxes of
    different classes suppress one another: for data too small to tell classes apart as well as objects."""
    score_threshold: float = 0.05
    nms_threshold: float = 0.5
    max_detections: int = 100
    norm_eps: float = 1e-5
    """Of the backbone's batch normalization; torchvision's first COCO weights want 0."""


# Blocks, in the order of the data -------------------------------------------------------------------------------------


class BoxHead(nn.Module):
    """From pooled RoIs to one vector each: convolutions (v2), then fully connected layers (v1 and v2)."""

    def __init__(self, channels: int, config: BoxHeadConfig) -> None:
        super().__init__()
        self.convs = nn.Sequential(*(_conv_norm_relu(channels, channels) for _ in range(config.convs)))
        self.roi_size = config.roi_size
        widths = [channels * config.roi_size**2, *[config.width] * config.layers]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in zip(widths[:-1], widths[1:], strict=True))
        self.out_features = widths[-1]
        self.channels_last = False

    def for_inference(self) -> BoxHead:
        """A twin whose first layer's columns lie as channels-last RoIs do, so that none is copied to be flattened."""
        if self.channels_last:
            return self
        twin = copy.deepcopy(self)
        first = cast(nn.Linear, twin.layers[0])
        columns = first.weight.detach().unflatten(1, (-1, self.roi_size**2)).transpose(1, 2).flatten(1)
        first.weight = nn.Parameter(columns.contiguous(), requires_grad=False)
        twin.channels_last = True
        return twin

    def forward(self, rois: Tensor) -> Tensor:
        """(R, C, 7, 7) -> (R, D)."""
        x: Tensor = self.convs(rois)
        x = (x.permute(0, 2, 3, 1) if self.channels_last else x).flatten(1)
        for layer in self.layers:
            x = F.relu(layer(x))
        return x


class BoxPredictor(nn.Module):
    """Class logits, background last, and a box per class (or one for all)."""

    def __init__(self, in_features: int, num_classes: int, agnostic: bool = False) -> None:
        super().__init__()
        self.classes = nn.Linear(in_features, num_classes + 1)
        self.deltas = nn.Linear(in_features, 4 if agnostic else num_classes * 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(R, D) -> (R, K + 1) logits, (R, K or 1, 4) deltas."""
        return self.classes(x), self.deltas(x).unflatten(1, (-1, 4))


# The model ------------------------------------------------------------------------------------------------------------


class FasterRCNN(Detector[Raw]):
    """Two-stage detection; masks and keypoints are added by subclasses' heads.

    Args:
        backbone: gives Features of equal channels on every level, see :class:`~eachmask.backbones.fpn.FPN`.
        num_classes: K, without background.
    """

    task = BOXES

    def __init__(self, backbone: FPN | C4, num_classes: int, config: Config | None = None) -> None:
        super().__init__()
        self.config = config = config or Config()
        self.num_classes = num_classes
        self.backbone = backbone
        channels = backbone.channels[0]
        self.rpn = RPN(channels, len(backbone.strides), config.rpn, config.conventions)
        self.build_box_head(channels)

    def build_box_head(self, channels: int) -> None:
        """What gives proposals a class and a box; cascades have several."""
        head = self.config.box_head
        self.box_head = BoxHead(channels, head)
        self.box_predictor = BoxPredictor(self.box_head.out_features, self.num_classes, head.class_agnostic)

    def forward(self, images: ImageBatch, given: Sequence[Spatial] | None = None) -> Raw:
        """(B, 3, H, W) -> the pyramid, and the proposal network's answer on it."""
        features = self.backbone(images.tensor)
        objectness, deltas = zip(*(self.rpn(level) for level in features.maps), strict=True)
        height, width = images.tensor.shape[-2:]
        return Raw(features, objectness, deltas, images.sizes, (height, width))

    def losses(self, raw: Raw, targets: list[Instances]) -> dict[str, Tensor]:
        """Both stages' classification and box losses (paper, eq. 1), on sampled anchors and proposals.

        Args:
            targets: one per image, in pixels of the batch, with labels.
        """
        losses = self.rpn.losses(raw, targets)
        with torch.no_grad():
            c = self.config.rpn
            proposals = self.propose(raw, c.pre_nms_top_n_training, c.post_nms_top_n_training)
            sampled = [
                self.sample_proposals(self._jittered(boxes, size), target)
                for boxes, size, target in zip(proposals, raw.sizes, targets, strict=True)
            ]
        return losses | self.head_losses(raw, sampled, targets)

    def head_losses(self, raw: Raw, sampled: list[Sampled], targets: list[Instances]) -> dict[str, Tensor]:
        """Losses of what stands on the proposals; subclasses add theirs."""
        logits, deltas = self.run_box_head(raw.features, [s.boxes for s in sampled])
        labels = torch.cat([s.labels for s in sampled])
        return box_losses(logits, deltas, labels, self.gt_deltas(sampled), self.config.conventions.smooth_l1_beta)

    def select(self, raw: Raw, options: DecodeOptions) -> Detections:
        """Proposals through the box head, suppression per class; the best first."""
        c = self.config
        boxes = self.propose(raw, c.rpn.pre_nms_top_n, c.rpn.post_nms_top_n)
        kept = [
            keep_best(refined, probabilities, self.limits(options), c.conventions.min_side, c.class_agnostic_nms)
            for refined, probabilities in self.second_stage(raw, boxes)
        ]
        return self.select_heads(raw, Detections.of(raw.sizes, kept), options)

    def second_stage(self, raw: Raw, boxes: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """What the box head makes of proposals (P, 4): boxes (P, K or 1, 4) within the image, scores (P, K)."""
        return self.refined_all(raw, boxes, *self.run_box_head(raw.features, boxes))

    def refined_all(self, raw: Raw, boxes: list[Tensor], logits: Tensor, deltas: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Each image's proposals moved by their deltas (R, K or 1, 4), and the classes' probabilities (P, K)."""
        counts = [len(b) for b in boxes]
        columns = zip(boxes, logits.split(counts), deltas.split(counts), raw.sizes, strict=True)
        results = []
        for image_boxes, image_logits, image_deltas, size in columns:
            refined = self.moved(image_boxes[:, None], image_deltas.float(), self.config.box_head.weights)
            results.append((box_ops.clip(refined, size), image_logits.float().softmax(dim=-1)[:, :-1]))
        return results

    def select_heads(self, raw: Raw, found: Detections, options: DecodeOptions) -> Detections:
        """What subclasses add to the kept boxes."""
        return found

    def limits(self, options: DecodeOptions) -> Limits:
        """What is asked of the detections that :meth:`select_heads` is given."""
        return options.limits(self.config)

    def moved(self, boxes: Tensor, deltas: Tensor, weights: box_ops.Weights) -> Tensor:
        """Boxes (..., 4) moved and scaled by what a head said of them; not clipped."""
        return box_ops.decode(deltas, boxes, weights, self.config.conventions.symmetric_clip)

    # Proposals and regions

    @property
    def max_objects(self) -> int:
        """One of each class for every proposal."""
        return self.config.rpn.post_nms_top_n * self.num_classes

    def propose(self, raw: Raw, pre_nms_top_n: int, post_nms_top_n: int) -> list[Tensor]:
        """The first stage's boxes (P, 4) of each image, see :meth:`RPN.propose`; nothing is learnt through them."""
        return [boxes.detach() for boxes in self.rpn.propose(raw, pre_nms_top_n, post_nms_top_n)]

    def sample_proposals(
        self, proposals: Tensor, target: Instances, iou: float | None = None, with_gt: bool = True
    ) -> Sampled:
        """Proposals and the objects' own boxes -> a balanced set with labels (background = K).

        Args:
            iou: from here on a proposal stands for an object; the model's own by default.
            with_gt: the objects' own boxes are proposals too.
        """
        c = self.config.roi
        matched = self.match_proposals(proposals, target, c.fg_iou if iou is None else iou)
        boxes = proposals
        if with_gt:
            own = learnable(target, proposals.device)[0]
            boxes, matched = torch.cat([proposals, target.boxes.to(proposals)[own]]), torch.cat([matched, own])
        positive, negative = sample(matched, c.batch_size, c.positive_fraction)
        chosen = torch.nonzero(positive | negative).squeeze(1)
        sampled = self.with_labels(boxes[chosen], matched[chosen], target)
        return sampled._replace(is_gt=chosen >= len(proposals))

    def match_proposals(self, proposals: Tensor, target: Instances, iou: float) -> Tensor:
        """The object that each proposal (P, 4) stands for, UNMATCHED or IGNORED: (P,)."""
        lowest = iou if self.config.roi.allow_low_quality_matches else None
        moves = self.config.conventions.low_quality_moves
        return match_objects(proposals, target, iou, iou, allow_low_quality_matches=lowest, moves=moves)

    def with_labels(self, boxes: Tensor, matched: Tensor, target: Instances) -> Sampled:
        """Boxes (S, 4) with the label and box of the object (S,) that each stands for, negative for background."""
        positive = matched >= 0
        labels = torch.full_like(matched, self.num_classes)
        labels[positive] = target.labels.to(labels.device)[matched[positive]]
        gt_boxes = target.boxes.to(boxes)
        return Sampled(boxes, labels, matched, gt_boxes[matched.clamp(min=0)] if len(gt_boxes) else boxes)

    def run_box_head(self, features: Features, boxes: list[Tensor]) -> tuple[Tensor, Tensor]:
        """RoIs of all images in one go -> (R, K + 1) logits, (R, K or 1, 4) deltas."""
        rois = self.pool(features, boxes, self.config.box_head.roi_size)
        result: tuple[Tensor, Tensor] = self.box_predictor(self.box_head(rois))
        return result

    def pool(self, features: Features, boxes: list[Tensor], size: int) -> Tensor:
        """RoIAlign (or RoIPool) from the level that fits each box: (R, C, size, size), in the features' type."""
        levels = self.config.roi.levels
        return self.pool_levels(features.maps[:levels], features.strides[:levels], boxes, size)

    def pool_levels(self, maps: Sequence[Tensor], strides: Sequence[int], boxes: list[Tensor], size: int) -> Tensor:
        """As :meth:`pool`, from these levels.

        Cut in float32: in bfloat16 a corner at 800 px would be off by up to two pixels.
        """
        c = self.config.conventions
        levels = [level.float() for level in maps]
        if self.config.roi.pooling == "pool":
            rois = roi_pool(levels, boxes, size, strides)
        else:
            rois = roi_align(levels, boxes, size, strides, c.sampling_ratio, c.roi_aligned)
        return rois.to(maps[0].dtype)

    def gt_deltas(self, sampled: list[Sampled]) -> Tensor:
        """From the sampled boxes of all images to their objects' boxes: (R, 4)."""
        weights = self.config.box_head.weights
        return torch.cat([box_ops.encode(s.matched_boxes, s.boxes, weights) for s in sampled])

    def _jittered(self, boxes: Tensor, size: tuple[int, int]) -> Tensor:
        """Proposals (P, 4) moved and scaled at random, so that the heads see more than the same few boxes."""
        share = self.config.roi.jitter
        if not share:
            return boxes
        x, y, w, h = box_ops.convert(boxes, "xyxy", "cxcywh").unbind(-1)
        dx, dy, dw, dh = ((torch.rand_like(boxes) * 2 - 1) * share).unbind(-1)
        moved = torch.stack([x + dx * w, y + dy * h, w * (1 + dw), h * (1 + dh)], dim=-1)
        clipped = box_ops.clip(box_ops.convert(moved, "cxcywh", "xyxy"), size)
        solid = (clipped[:, 2:] - clipped[:, :2] >= 1e-3).all(dim=1)
        return torch.where(solid[:, None], clipped, boxes)


def _conv_norm_relu(in_channels: int, out_channels: int) -> nn.Sequential:
    conv = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True))


# Variants -------------------------------------------------------------------------------------------------------------

V2_RPN, V2_BOX_HEAD = RPNConfig(depth=2), BoxHeadConfig(convs=4, layers=1)
"""The second generation; its pyramid has batch normalization too."""
SHORT_RPN = RPNConfig(post_nms_top_n_training=1000)
"""Detectron2's and MMDetection's learn from fewer proposals than torchvision's."""
LIGHT_RPN = RPNConfig(anchor_sizes=(16, 32, 64, 128, 256), pre_nms_top_n=500, post_nms_top_n=300)
LIGHT_BOX_HEAD = BoxHeadConfig(width=256)
"""For small networks on small images."""
P3_RPN, P3_ROI = replace(LIGHT_RPN, anchor_sizes=(24, 48, 96, 192)), RoIConfig(levels=3)
"""For small networks whose pyramid starts at stride 8."""


def resnet_fpn(
    name: str,
    norm_eps: float = 1e-5,
    norm: Callable[[int], nn.Module] | None = None,
    stride_first: bool = False,
) -> FPN:
    """A ResNet with a pyramid of five levels, strides 4 ... 64."""
    return FPN(ResNet(name, norm_eps, stride_first), Pyramid(norm=norm))


def light_fpn(name: str, first: int = 0) -> FPN:
    """A timm network with a pyramid of 128 channels, from stride 4 on (8 with ``first=1``)."""
    return FPN(Timm(name), Pyramid(channels=128, first=first))


def swin_fpn(name: str, changes: Mapping[str, Any] | None = None) -> FPN:
    """A Swin transformer with a pyramid of 256 channels.

    Args:
        changes: other values of its :class:`~eachmask.backbones.swin.SwinConfig`.
    """
    return FPN(Swin(name, changes))


def faster_rcnn_r50_fpn(num_classes: int = 80, **config: Any) -> FasterRCNN:
    """ResNet-50: torchvision's ``fasterrcnn_resnet50_fpn``."""
    chosen = changed(Config(), config)
    return FasterRCNN(resnet_fpn("resnet50", chosen.norm_eps), num_classes, chosen)


def faster_rcnn_r50_fpn_v2(num_classes: int = 80, **config: Any) -> FasterRCNN:
    """ResNet-50 with deeper heads, normalized: torchvision's ``fasterrcnn_resnet50_fpn_v2``."""
    chosen = changed(Config(rpn=V2_RPN, box_head=V2_BOX_HEAD), config)
    return FasterRCNN(resnet_fpn("resnet50", chosen.norm_eps, nn.BatchNorm2d), num_classes, chosen)


def faster_rcnn_r50_fpn_mmdet(num_classes: int = 80, **config: Any) -> FasterRCNN:
    """ResNet-50: MMDetection's ``faster-rcnn_r50_fpn_1x_coco``."""
    chosen = changed(Config(rpn=SHORT_RPN, conventions=MMDET), config)
    return FasterRCNN(resnet_fpn("resnet50", chosen.norm_eps), num_classes, chosen)


def faster_rcnn_timm_fpn(num_classes: int = 80, backbone: str = "convnext_tiny", **config: Any) -> FasterRCNN:
    """Any network of timm's that lists its features, named by ``backbone``; full-size heads."""
    return FasterRCNN(FPN(Timm(backbone)), num_classes, changed(Config(), config))


def faster_rcnn_lite0_fpn(num_classes: int = 80, **config: Any) -> FasterRCNN:
    """EfficientNet-Lite0, for CPUs."""
    chosen = changed(Config(rpn=LIGHT_RPN, box_head=LIGHT_BOX_HEAD), config)
    return FasterRCNN(light_fpn("tf_efficientnet_lite0"), num_classes, chosen)
