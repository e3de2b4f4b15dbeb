"""Faster R-CNN: a network that proposes boxes, and a head that names and mends them.

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
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eachmask.backbones.features import Features
from eachmask.backbones.fpn import FPN, Pyramid
from eachmask.backbones.networks import ResNet, Swin, Timm
from eachmask.models.detection import rpn
from eachmask.models.detection.fast_rcnn import Sampled, box_losses, select
from eachmask.models.detection.rpn import RPN, Raw
from eachmask.ops.match import learnable, match_objects, sample
from eachmask.ops.roi import roi_align, roi_pool
from eachmask.structures import DecodeOptions, ImageBatch, Instances
from eachmask.structures import boxes as box_ops


@dataclass(frozen=True)
class Config(rpn.Config):
    """What a variant may change of both stages. Defaults are those of the papers, as torchvision has them."""

    roi_levels: int = 4
    """So many of the finest levels are pooled from."""
    roi_size: int = 7
    roi_pooling: Literal["align", "pool"] = "align"
    """RoIAlign, or RoIPool with its two roundings, in all heads: the ablation of Mask R-CNN's table 2."""
    sampling_ratio: int = 2
    """RoIAlign's points per bin and side; 0 takes as many as the bin has pixels."""
    roi_aligned: bool = False
    """RoIAlign with pixel centers at .5, as Detectron2 corrected it."""
    proposal_jitter: float = 0.0
    """When training, each proposal moves by up to this share of its sides, which also change by up to that share."""
    roi_iou: float = 0.5
    """A proposal with this IoU to an object is taken for it."""
    roi_rescue: bool = False
    """An object's best proposal, if above ``roi_iou``, stands for it whatever else it overlaps (MMDetection)."""
    roi_batch: int = 512
    """Proposals per image in the loss ..."""
    roi_positive: float = 0.25
    """... and the largest share of objects among them."""
    box_convs: int = 0
    """3 x 3 convolutions of the box head, before its fully connected layers."""
    box_layers: int = 2
    box_width: int = 1024
    box_weights: box_ops.Weights = (10.0, 10.0, 5.0, 5.0)
    box_agnostic: bool = False
    """One box for all classes instead of one for each."""
    smooth_l1_beta: float = 1 / 9
    """Where smooth L1 turns from a parabola to a line; 0 is L1."""
    min_side: float = 1e-2
    """Detections narrower than this, px, are dropped."""
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

    def __init__(self, channels: int, config: Config) -> None:
        super().__init__()
        self.convs = nn.Sequential(*(_conv_norm_relu(channels, channels) for _ in range(config.box_convs)))
        self.roi_size = config.roi_size
        widths = [channels * config.roi_size**2, *[config.box_width] * config.box_layers]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in zip(widths[:-1], widths[1:], strict=True))
        self.out_features = widths[-1]
        self.channels_last = False

    def for_inference(self) -> BoxHead:
        """A twin whose first layer's columns lie as channels-last RoIs do, so that none is copied to be flattened."""
        if self.channels_last:
            return self
        twin = copy.deepcopy(self)
        first = twin.layers[0]
        columns = first.weight.detach().unflatten(1, (-1, self.roi_size**2)).transpose(1, 2).flatten(1)
        first.weight = nn.Parameter(columns.contiguous(), requires_grad=False)  # type: ignore[assignment]
        twin.channels_last = True
        return twin

    def forward(self, rois: Tensor) -> Tensor:
        """(R, C, 7, 7) -> (R, D)."""
        x = self.convs(rois)
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


class FasterRCNN(nn.Module):
    """Two-stage detection with three verbs; masks and keypoints are added by subclasses' heads.

    Args:
        backbone: gives Features of equal channels on every level, see :class:`~eachmask.backbones.fpn.FPN`.
        num_classes: K, without background.
    """

    def __init__(self, backbone: FPN, num_classes: int, config: Config | None = None) -> None:
        super().__init__()
        self.config = config = config or Config()
        self.num_classes = num_classes
        self.backbone = backbone
        channels = backbone.channels[0]
        self.rpn = RPN(channels, len(backbone.strides), config)
        self.box_head = BoxHead(channels, config)
        self.box_predictor = BoxPredictor(self.box_head.out_features, num_classes, config.box_agnostic)

    def forward(self, images: ImageBatch) -> Raw:
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
            proposals = self.propose(raw, self.config.rpn_candidates_training, self.config.proposals_training)
            sampled = [
                self.sample_proposals(self._jittered(boxes, size), target)
                for boxes, size, target in zip(proposals, raw.sizes, targets, strict=True)
            ]
        return losses | self.head_losses(raw, sampled, targets)

    def head_losses(self, raw: Raw, sampled: list[Sampled], targets: list[Instances]) -> dict[str, Tensor]:
        """Losses of what stands on the proposals; subclasses add theirs."""
        logits, deltas = self.run_box_head(raw.features, [s.boxes for s in sampled])
        labels = torch.cat([s.labels for s in sampled])
        wanted = torch.cat([self._box_targets(s) for s in sampled])
        return box_losses(logits, deltas, labels, wanted, self.config.smooth_l1_beta)

    def decode(self, raw: Raw, options: DecodeOptions) -> list[Instances]:
        """Proposals through the box head, suppression per class; the best first."""
        boxes = self.propose(raw, self.config.rpn_candidates, self.config.proposals)
        results = [
            select(
                mended, probabilities, size, self.limits(options), self.config.min_side, self.config.class_agnostic_nms
            )
            for (mended, probabilities), size in zip(self.judge(raw, boxes), raw.sizes, strict=True)
        ]
        return self.decode_heads(raw, results, options)

    def judge(self, raw: Raw, boxes: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """What the second stage makes of proposals (P, 4): boxes (P, K or 1, 4) within the image, scores (P, K)."""
        logits, deltas = self.run_box_head(raw.features, boxes)
        counts = [len(b) for b in boxes]
        results = []
        for image_boxes, image_logits, image_shifts, size in zip(
            boxes, logits.split(counts), deltas.split(counts), raw.sizes, strict=True
        ):
            mended = self.shifted(image_boxes[:, None], image_shifts.float(), self.config.box_weights)
            results.append((box_ops.clip(mended, size), image_logits.float().softmax(dim=-1)[:, :-1]))
        return results

    def decode_heads(self, raw: Raw, instances: list[Instances], options: DecodeOptions) -> list[Instances]:
        """What subclasses add to the kept boxes."""
        return instances

    def limits(self, options: DecodeOptions) -> tuple[float, float, int]:
        """Score threshold, NMS threshold and largest number of what :meth:`decode_heads` is given."""
        return options.limits(self.config)

    def shifted(self, boxes: Tensor, deltas: Tensor, weights: box_ops.Weights) -> Tensor:
        """Boxes (..., 4) moved and scaled by what a head said of them; not clipped."""
        return box_ops.decode(deltas, boxes, weights, self.config.symmetric_clip)

    # Proposals and regions

    def propose(self, raw: Raw, candidates: int, keep: int) -> list[Tensor]:
        """The first stage's boxes (P, 4) of each image, see :meth:`RPN.propose`; nothing is learnt through them."""
        return [boxes.detach() for boxes in self.rpn.propose(raw, candidates, keep)]

    def sample_proposals(
        self, proposals: Tensor, target: Instances, iou: float | None = None, with_truth: bool = True
    ) -> Sampled:
        """Proposals and true boxes -> a balanced set with labels (background = K).

        Args:
            iou: from here on a proposal stands for an object; the model's own by default.
            with_truth: the true boxes are proposals too.
        """
        c = self.config
        iou = c.roi_iou if iou is None else iou
        truth = target.boxes.to(proposals)
        matched = match_objects(proposals, target, iou, iou, rescue=iou if c.roi_rescue else None, moves=c.rescue_moves)
        boxes = proposals
        if with_truth:
            own = learnable(target, truth.device)[0]
            boxes, matched = torch.cat([proposals, truth[own]]), torch.cat([matched, own])
        positive, negative = sample(matched, c.roi_batch, c.roi_positive)
        chosen = torch.nonzero(positive | negative).squeeze(1)
        matched = matched[chosen]
        labels = torch.full_like(matched, self.num_classes)
        assert target.labels is not None
        labels[matched >= 0] = target.labels.to(labels.device)[matched[matched >= 0]]
        matched_boxes = truth[matched.clamp(min=0)] if len(truth) else boxes[chosen]
        return Sampled(boxes[chosen], labels, matched, matched_boxes, chosen >= len(proposals))

    def run_box_head(self, features: Features, boxes: list[Tensor]) -> tuple[Tensor, Tensor]:
        """RoIs of all images in one go -> (R, K + 1) logits, (R, K or 1, 4) deltas."""
        return self.box_predictor(self.box_head(self.pool(features, boxes, self.config.roi_size)))

    def pool(self, features: Features, boxes: list[Tensor], size: int) -> Tensor:
        """RoIAlign (or RoIPool) from the level that fits each box: (R, C, size, size), in the features' type.

        Cut in float32: in bfloat16 a corner at 800 px would be off by up to two pixels.
        """
        c = self.config
        maps = [level.float() for level in features.maps[: c.roi_levels]]
        strides = features.strides[: c.roi_levels]
        if c.roi_pooling == "pool":
            rois = roi_pool(maps, boxes, size, strides)
        else:
            rois = roi_align(maps, boxes, size, strides, c.sampling_ratio, c.roi_aligned)
        return rois.to(features.maps[0].dtype)

    def _jittered(self, boxes: Tensor, size: tuple[int, int]) -> Tensor:
        """Proposals (P, 4) moved and scaled at random, so that the heads see more than the same few boxes."""
        share = self.config.proposal_jitter
        if not share:
            return boxes
        x, y, w, h = box_ops.convert(boxes, "xyxy", "cxcywh").unbind(-1)
        dx, dy, dw, dh = ((torch.rand_like(boxes) * 2 - 1) * share).unbind(-1)
        moved = torch.stack([x + dx * w, y + dy * h, w * (1 + dw), h * (1 + dh)], dim=-1)
        clipped = box_ops.clip(box_ops.convert(moved, "cxcywh", "xyxy"), size)
        solid = (clipped[:, 2:] - clipped[:, :2] >= 1e-3).all(dim=1)
        return torch.where(solid[:, None], clipped, boxes)

    def _box_targets(self, sampled: Sampled) -> Tensor:
        return box_ops.encode(sampled.matched_boxes, sampled.boxes, self.config.box_weights)


def _conv_norm_relu(in_channels: int, out_channels: int) -> nn.Sequential:
    conv = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True))


# Variants -------------------------------------------------------------------------------------------------------------

V2: dict[str, Any] = {"rpn_depth": 2, "box_convs": 4, "box_layers": 1}
"""Changes of the second generation; its pyramid has batch normalization too."""

_BOTH: dict[str, Any] = {"exact_anchors": True, "roi_aligned": True, "sampling_ratio": 0, "rpn_beta": 0.0,
                         "smooth_l1_beta": 0.0, "proposals_training": 1000}  # fmt: skip
DETECTRON2 = _BOTH | {"rpn_divisor": "batch", "min_side": 1e-6}
"""What Detectron2's two-stage models do otherwise; their backbones are built with ``stride_first=True``."""
MMDET = _BOTH | {"rpn_rescue": 0.3, "rescue_moves": True, "rpn_divisor": "counted", "symmetric_clip": True,
                 "min_side": 0.0}  # fmt: skip
"""What MMDetection's do otherwise."""


def resnet_fpn(
    name: str,
    norm_eps: float = 1e-5,
    norm: Callable[[int], nn.Module] | None = None,
    stride_first: bool = False,
) -> FPN:
    """A ResNet with a pyramid of five levels, strides 4 ... 64."""
    return FPN(ResNet(name, norm_eps, stride_first), Pyramid(norm=norm))


def faster_rcnn_r50_fpn(num_classes: int = 80, **config: Any) -> FasterRCNN:
    """ResNet-50: torchvision's ``fasterrcnn_resnet50_fpn``."""
    chosen = Config(**config)
    return FasterRCNN(resnet_fpn("resnet50", chosen.norm_eps), num_classes, chosen)


def faster_rcnn_r50_fpn_v2(num_classes: int = 80, **config: Any) -> FasterRCNN:
    """ResNet-50 with deeper heads, normalized: torchvision's ``fasterrcnn_resnet50_fpn_v2``."""
    chosen = Config(**(V2 | config))
    return FasterRCNN(resnet_fpn("resnet50", chosen.norm_eps, nn.BatchNorm2d), num_classes, chosen)


LIGHT: dict[str, Any] = {"anchor_sizes": (16, 32, 64, 128, 256), "box_width": 256, "proposals": 300,
                         "rpn_candidates": 500}  # fmt: skip
"""For small networks on small images."""


def light_fpn(name: str, first: int = 0) -> FPN:
    """A timm network with a pyramid of 128 channels, from stride 4 on (8 with ``first=1``)."""
    return FPN(Timm(name), Pyramid(channels=128, first=first))


def swin_fpn(name: str) -> FPN:
    """A Swin transformer with a pyramid of 256 channels."""
    return FPN(Swin(name))


def faster_rcnn_r50_fpn_mmdet(num_classes: int = 80, **config: Any) -> FasterRCNN:
    """ResNet-50: MMDetection's ``faster-rcnn_r50_fpn_1x_coco``."""
    return faster_rcnn_r50_fpn(num_classes, **(MMDET | config))


def faster_rcnn_timm_fpn(num_classes: int = 80, backbone: str = "convnext_tiny", **config: Any) -> FasterRCNN:
    """Any network of timm's that lists its features, named by ``backbone``; full-size heads."""
    return FasterRCNN(FPN(Timm(backbone)), num_classes, Config(**config))


def faster_rcnn_lite0_fpn(num_classes: int = 80, **config: Any) -> FasterRCNN:
    """EfficientNet-Lite0, for processors without a GPU."""
    return FasterRCNN(light_fpn("tf_efficientnet_lite0"), num_classes, Config(**(LIGHT | config)))
