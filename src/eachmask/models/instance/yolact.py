"""YOLACT: masks as sums of a few drawings that the whole image shares.

Bolya, Zhou, Xiao, Lee: "YOLACT: Real-time Instance Segmentation", ICCV 2019, arXiv 1904.02689.

The idea: one branch draws 32 *prototypes* of the whole image; the other, a detector on anchors, predicts beside class
and box 32 *coefficients* per object. An object's mask is the sigmoid of the prototypes weighted by its coefficients,
cropped to its box: one matrix product, with nothing cut out of the features and pooled again.

The same numbers as the authors' release and as MMDetection's version, which differ: :data:`RELEASE`,
:data:`MMDETECTION`. Where we differ: background is the *last* class; crowd regions are neither object nor background
in any loss; a score threshold that the user asks for holds for every detection; a mask's loss is divided by its box's
area, but by one cell at least; images may be padded instead of stretched to a square.

Shapes: B images, A anchors per place, N anchors of all levels, P prototypes, K classes, (h, w) cells of a prototype.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eachmask.backbones.features import Features
from eachmask.backbones.fpn import FPN, Pyramid
from eachmask.backbones.networks import ResNet, Timm
from eachmask.ops.anchors import flatten_anchors, grid_anchors
from eachmask.ops.coarse_masks import coarse_masks
from eachmask.ops.match import IGNORED, UNMATCHED, learnable, match, one_each
from eachmask.ops.nms import fast_nms_of_classes
from eachmask.ops.prototypes import Crops, Drawn, assemble, draw_objects
from eachmask.structures import DecodeOptions, ImageBatch, Instances, SoftMasks
from eachmask.structures import boxes as box_ops
from eachmask.structures.soft_masks import Canvas


class Raw(NamedTuple):
    """What the network says; the first level is the finest."""

    features: Features
    logits: tuple[Tensor, ...]  # per level (B, A (K + 1), H, W), background last
    deltas: tuple[Tensor, ...]  # per level (B, 4 A, H, W), encoded against the anchors
    coefficients: tuple[Tensor, ...]  # per level (B, A P, H, W), -1..1
    prototypes: Tensor  # (B, P, h, w)
    sizes: tuple[tuple[int, int], ...]  # valid (height, width) of each image
    batch_size: tuple[int, int]  # padded (height, width)


@dataclass(frozen=True)
class Config:
    """What a variant may change. Defaults are those of the authors' release."""

    anchor_scales: tuple[tuple[float, ...], ...] = ((24,), (48,), (96,), (192,), (384,))
    """Square roots of the anchors' areas on each level, px."""
    anchor_ratios: tuple[float, ...] = (1.0, 2.0, 0.5)
    """Height over width."""
    square_anchors: bool = True
    """Anchors are as high as they are wide, whatever their ratio: a slip in the authors' code that their published
    weights were trained with."""
    head_relu: bool = True
    """The levels that come from the backbone pass a ReLU before anything reads them."""
    coarse_from_backbone: bool = False
    """The two coarsest levels are made of the backbone's last map instead of the pyramid's."""
    num_prototypes: int = 32
    prototype_convs: int = 3
    """3 x 3 convolutions before the doubling in size; one more follows it."""
    prototype_width: int = 256
    match_high: float = 0.5
    """An anchor with this IoU to an object is positive ..."""
    match_low: float = 0.4
    """... below this it is negative; between them it is not used."""
    learn_empty: bool = False
    """An image without positives teaches that all of it is background, and counts as one positive where losses of
    classes and boxes are divided by their number (MMDetection); otherwise it teaches nothing here."""
    own_anchors: bool = True
    """Of objects that have the same best anchor each gets one of its own; otherwise the last gets it (MMDetection)."""
    crowd_overlap: float = 0.7
    """An anchor that lies in a crowd region by this share is not negative."""
    negatives: int = 3
    """So many times the positives, those that look least like background."""
    box_weight: float = 1.5
    mask_weight: float = 6.125
    semantic_weight: float = 1.0
    semantic_off_by_one: bool = False
    """The semantic map of each class learns the class after it: a slip in MMDetection's code, of no consequence for
    predictions, which do not use these maps."""
    masks_per_image: int = 100
    """Positives whose masks are learnt from, drawn at random where there are more."""
    candidates_per_level: int | None = None
    """Best anchors of each level that go into suppression; None: all."""
    candidates_per_class: int = 200
    clip_first: bool = False
    """Boxes are cut at the image's border before suppression instead of after it."""
    threshold_each: bool = True
    """The class that is reported must itself pass the score threshold. False: it is enough that any class of the
    same anchor passes, so that nearly always ``max_detections`` come out (the release, for a better AP)."""
    score_threshold: float = 0.05
    nms_threshold: float = 0.5
    max_detections: int = 100


RELEASE: dict[str, Any] = {"threshold_each": False}
"""The authors' release to the letter; only what is reported differs from the defaults."""
MMDETECTION: dict[str, Any] = {
    "anchor_scales": ((24.0,), (48.0,), (96.0,), (192.0,), (384.0,)),
    "anchor_ratios": (0.5, 1.0, 2.0),
    "square_anchors": False,
    "head_relu": False,
    "coarse_from_backbone": True,
    "own_anchors": False,
    "learn_empty": True,
    "candidates_per_level": 1000,
    "clip_first": True,
    "semantic_off_by_one": True,
}
"""MMDetection's version of it."""

BOX_WEIGHTS = (10.0, 10.0, 5.0, 5.0)
"""Inverse of the standard deviations 0.1, 0.1, 0.2, 0.2 of the encoded boxes."""


# Blocks, in the order of the data -------------------------------------------------------------------------------------


class Head(nn.Module):
    """Classes, boxes and mask coefficients of every anchor, shared by all levels (figure 4)."""

    def __init__(self, channels: int, num_anchors: int, num_classes: int, num_prototypes: int) -> None:
        super().__init__()
        self.shared = nn.Sequential(_conv(channels, channels, 3), nn.ReLU(inplace=True))
        self.classes = _conv(channels, num_anchors * (num_classes + 1), 3)
        self.deltas = _conv(channels, num_anchors * 4, 3)
        self.coefficients = _conv(channels, num_anchors * num_prototypes, 3)

    def forward(self, level: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, C, H, W) -> logits (B, A (K + 1), H, W), deltas (B, 4 A, H, W), coefficients (B, A P, H, W)."""
        x = self.shared(level)
        return self.classes(x), self.deltas(x), self.coefficients(x).tanh()


class Protonet(nn.Sequential):
    """Prototypes from the finest level, at twice its size (figure 3): (B, C, H, W) -> (B, P, 2 H, 2 W), none negative.

    Args:
        channels: C.
    """

    def __init__(self, channels: int, config: Config) -> None:
        width = config.prototype_width
        layers: list[nn.Module] = []
        for i in range(config.prototype_convs):
            layers += [_conv(channels if i == 0 else width, width, 3), nn.ReLU(inplace=True)]
        layers.append(nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False))
        layers += [_conv(width, width, 3), nn.ReLU(inplace=True)]
        layers += [_conv(width, config.num_prototypes, 1), nn.ReLU(inplace=True)]
        super().__init__(*layers)


# The model ------------------------------------------------------------------------------------------------------------


class YOLACT(nn.Module):
    """A detector on anchors with mask coefficients, and prototypes to weight with them.

    Args:
        backbone: a pyramid of equal channels on every level; as many levels as ``config.anchor_scales`` has.
        num_classes: K, without background.
    """

    def __init__(self, backbone: FPN, num_classes: int, config: Config | None = None) -> None:
        super().__init__()
        self.config = config = config or Config()
        self.num_classes = num_classes
        self.backbone = backbone
        channels = backbone.channels[0]
        num_anchors = len(config.anchor_ratios) * len(config.anchor_scales[0])
        self.protonet = Protonet(channels, config)
        self.head = Head(channels, num_anchors, num_classes, config.num_prototypes)
        self.semantic = _conv(channels, num_classes, 1)

    def forward(self, images: ImageBatch) -> Raw:
        """(B, 3, H, W) -> the pyramid and both branches' answers."""
        features = self.backbone(images.tensor)
        if self.config.head_relu:
            from_backbone = len(self.backbone.lateral)
            maps = (*(m.relu() for m in features.maps[:from_backbone]), *features.maps[from_backbone:])
            features = features._replace(maps=maps)
        logits, deltas, coefficients = zip(*(self.head(level) for level in features.maps), strict=True)
        height, width = images.tensor.shape[-2:]
        prototypes = self.protonet(features.maps[0])
        return Raw(features, logits, deltas, coefficients, prototypes, images.sizes, (height, width))

    def anchors(self, raw: Raw) -> Tensor:
        """(N, 4) px: rows, columns, then the anchors of the place (scales outside, ratios inside)."""
        height, width = raw.batch_size
        ratios = torch.tensor(self.config.anchor_ratios)
        result = []
        for level, scales in zip(raw.logits, self.config.anchor_scales, strict=True):
            rows, columns = level.shape[-2:]
            scale = torch.tensor(scales)[:, None]
            w = (scale / ratios.sqrt()).reshape(-1)
            h = w if self.config.square_anchors else (scale * ratios.sqrt()).reshape(-1)
            base = torch.stack([-w, -h, w, h], dim=1) / 2
            result.append(grid_anchors(base, (rows, columns), (height / rows, width / columns), first=0.5))
        return torch.cat(result).to(raw.prototypes.device)

    # Learning

    def losses(self, raw: Raw, targets: list[Instances]) -> dict[str, Tensor]:
        """Class, box, mask and semantic loss (sections 3.2, 3.4 and 4), each per positive but the last.

        Args:
            targets: one per image, in pixels of the batch, with labels and masks.
        """
        logits, deltas, coefficients = self._flat(raw)
        anchors = self.anchors(raw)
        matched = torch.stack([self.assign(anchors, target) for target in targets])
        counts = (matched >= 0).sum(dim=1)
        num_positive = max(int(counts.sum()), 1)
        num_learnt = int(counts.clamp(min=1).sum()) if self.config.learn_empty else num_positive
        with torch.autocast(raw.prototypes.device.type, enabled=False):
            mask, drawn = self.mask_loss(raw, coefficients, matched, targets)
            losses = {
                "class": self.class_loss(logits, matched, targets) / num_learnt,
                "box": self.box_loss(deltas, anchors, matched, targets) / num_learnt * self.config.box_weight,
                "mask": mask / num_positive * self.config.mask_weight,
                "semantic": self.semantic_loss(raw, targets) / len(targets) * self.config.semantic_weight,
            }
            return losses | self.rescoring_losses(raw, drawn, num_positive)

    def rescoring_losses(self, raw: Raw, drawn: list[Drawn], num_positive: int) -> dict[str, Tensor]:
        """What subclasses add that judge the masks."""
        return {}

    def assign(self, anchors: Tensor, target: Instances) -> Tensor:
        """(N,) index of each anchor's object, UNMATCHED or IGNORED (section 4)."""
        truth = target.boxes.to(anchors)
        single, crowd = learnable(target, anchors.device)
        iou = box_ops.iou(truth[single], anchors)
        matched = match(iou, self.config.match_high, self.config.match_low)
        best = one_each(iou) if self.config.own_anchors else enumerate(iou.argmax(dim=1).tolist())
        for index, anchor in best:
            matched[anchor] = index
        matched = torch.where(matched >= 0, single[matched.clamp(min=0)], matched) if len(single) else matched
        if len(crowd):
            covered = box_ops.coverage(anchors, truth[crowd]).max(dim=1).values > self.config.crowd_overlap
            matched[covered & (matched == UNMATCHED)] = IGNORED
        return matched

    def class_loss(self, logits: Tensor, matched: Tensor, targets: list[Instances]) -> Tensor:
        """Summed cross-entropy of positives and of the hardest negatives, per image three to one."""
        labels = torch.full_like(matched, self.num_classes)
        for row, index, target in zip(labels, matched, targets, strict=True):
            assert target.labels is not None
            positive = index >= 0
            row[positive] = target.labels.to(row.device)[index[positive]]
        error = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view_as(matched)
        used = matched >= 0
        # A negative's error is how little it looks like background.
        hardness = torch.where(matched == UNMATCHED, error.detach(), -1.0)
        for image, ranked in enumerate(hardness):
            num_negative, num_positive = int((ranked >= 0).sum()), int(used[image].sum())
            num = min(self.config.negatives * num_positive, num_negative)
            if self.config.learn_empty and not num_positive:
                num = num_negative
            used[image, ranked.topk(num).indices] = True
        return error[used].sum() + logits.sum() * 0

    def box_loss(self, deltas: Tensor, anchors: Tensor, matched: Tensor, targets: list[Instances]) -> Tensor:
        """Summed smooth L1 of the positives' boxes."""
        total = deltas.sum() * 0
        for found, index, target in zip(deltas, matched, targets, strict=True):
            positive = torch.nonzero(index >= 0).squeeze(1)
            wanted = box_ops.encode(target.boxes.to(anchors)[index[positive]], anchors[positive], BOX_WEIGHTS)
            total = total + F.smooth_l1_loss(found[positive], wanted, reduction="sum")
        return total

    def mask_loss(
        self, raw: Raw, coefficients: Tensor, matched: Tensor, targets: list[Instances]
    ) -> tuple[Tensor, list[Drawn]]:
        """Summed cross-entropy of the positives' masks, each cropped to its object's box and divided by its area.

        Returns:
            the loss, and what was compared, object by object, for those who want to judge the masks.
        """
        total = (raw.prototypes.sum() + coefficients.sum()) * 0
        drawn = []
        for image, (index, target) in enumerate(zip(matched, targets, strict=True)):
            positive = torch.nonzero(index >= 0).squeeze(1)
            limit = self.config.masks_per_image
            scale = max(len(positive) / limit, 1.0)
            if scale > 1:
                positive = positive[torch.randperm(len(positive), device=positive.device)[:limit]]
            parts = raw.prototypes[image], coefficients[image, positive], index[positive]
            for one in draw_objects(*parts, target, raw.batch_size):
                wanted = one.wanted.expand_as(one.probabilities)
                error = F.binary_cross_entropy(one.probabilities, wanted, reduction="sum")
                total = total + error * (scale / one.area)
                drawn.append(one)
        return total, drawn

    def semantic_loss(self, raw: Raw, targets: list[Instances]) -> Tensor:
        """Cross-entropy of a map per class, on the finest level, in training only (section 3.4): summed over images.

        Cells in a crowd region do not count.
        """
        logits = self.semantic(raw.features.maps[0].float())
        grid = (int(logits.shape[2]), int(logits.shape[3]))
        total: Tensor = logits.sum() * 0
        for found, target in zip(logits, targets, strict=True):
            wanted = np.zeros((self.num_classes, *grid), np.float32)
            weight = np.ones(grid, np.float32)
            assert target.labels is not None
            crowd = [False] * len(target) if target.crowd is None else target.crowd.tolist()
            coarse = coarse_masks(target.gt_masks, raw.batch_size, grid)
            for one, label, is_crowd in zip(coarse, target.labels.tolist(), crowd, strict=True):
                if is_crowd:
                    one.paint(weight, 0)
                else:
                    one.paint(wanted[label - self.config.semantic_off_by_one], 1)
            error = F.binary_cross_entropy_with_logits(found, torch.from_numpy(wanted).to(found), reduction="none")
            total = total + (error * torch.from_numpy(weight).to(found)).sum() / weight.size
        return total

    # Predicting

    @torch.no_grad()
    def decode(self, raw: Raw, options: DecodeOptions) -> list[Instances]:
        """Fast NMS per class; masks from the prototypes, pixels only when asked for. The best first."""
        logits, deltas, coefficients = self._flat(raw)
        anchors = self.anchors(raw)
        counts = [level[0].numel() // (self.num_classes + 1) for level in raw.logits]
        results = []
        for image, size in enumerate(raw.sizes):
            probabilities = logits[image].softmax(dim=-1)[:, :-1]
            chosen = self._candidates(probabilities, counts, options)
            boxes = box_ops.decode(deltas[image, chosen], anchors[chosen], BOX_WEIGHTS)
            if self.config.clip_first:
                boxes = box_ops.clip(boxes, size)
            row, label, scores = self._suppressed(boxes, probabilities[chosen], options)
            found = Instances(size, box_ops.clip(boxes[row], size), labels=label, scores=scores)
            drawings = coefficients[image, chosen[row]]
            results.append(self.decode_masks(raw, image, found, boxes[row], drawings, options))
        return results

    def decode_masks(
        self, raw: Raw, image: int, found: Instances, boxes: Tensor, coefficients: Tensor, options: DecodeOptions
    ) -> Instances:
        """The detections of one image with their masks.

        Args:
            boxes: (N, 4) px as suppression saw them, perhaps beyond the border.
            coefficients: (N, P).
        """
        if options.with_masks:
            crops = assemble(raw.prototypes[image], coefficients, boxes, raw.batch_size)
            found.masks = soft_masks(crops, raw, image, options.mask_threshold)
        return found

    def _candidates(self, probabilities: Tensor, counts: list[int], options: DecodeOptions) -> Tensor:
        """Indices of the anchors that go into suppression."""
        best = probabilities.max(dim=1).values
        limit = self.config.candidates_per_level
        if limit is not None:
            starts = np.cumsum([0, *counts[:-1]]).tolist()
            parts = zip(best.split(counts), starts, strict=True)
            index = torch.cat([part.topk(min(limit, len(part))).indices + start for part, start in parts])
        else:
            index = torch.arange(len(best), device=best.device)
        return index[best[index] > options.limits(self.config)[0]]

    def _suppressed(self, boxes: Tensor, scores: Tensor, options: DecodeOptions) -> tuple[Tensor, Tensor, Tensor]:
        """Rows, labels and scores of the detections that stay, the best first."""
        score_threshold, nms_threshold, max_detections = options.limits(self.config)
        each = self.config.threshold_each or options.score_threshold is not None
        row, label = fast_nms_of_classes(
            boxes, scores, nms_threshold, self.config.candidates_per_class, score_threshold if each else None
        )
        scores = scores[row, label]
        order = torch.argsort(scores, descending=True, stable=True)[:max_detections]
        return row[order], label[order], scores[order]

    def _flat(self, raw: Raw) -> tuple[Tensor, Tensor, Tensor]:
        """(B, N, K + 1) logits, (B, N, 4) deltas and (B, N, P) coefficients, all float32."""
        widths = (self.num_classes + 1, 4, self.config.num_prototypes)
        parts = zip((raw.logits, raw.deltas, raw.coefficients), widths, strict=True)
        return tuple(torch.cat([flatten_anchors(x, width) for x in p], 1).float() for p, width in parts)  # type: ignore[return-value]


# Masks ----------------------------------------------------------------------------------------------------------------


def soft_masks(crops: Crops, raw: Raw, image: int, threshold: float) -> SoftMasks:
    """Masks of one image that are made bigger and cut at the threshold when somebody needs their pixels.

    Of an image that fills the batch the grid is resized at once to whatever size is wanted, as the reference does.
    """
    grid = (int(raw.prototypes.shape[2]), int(raw.prototypes.shape[3]))
    size = raw.sizes[image]
    padded, valid = (grid, grid) if size == raw.batch_size else (raw.batch_size, size)
    return SoftMasks(crops.values, crops.origins, Canvas(grid, padded, valid, size), threshold)


def _conv(in_channels: int, out_channels: int, kernel: int) -> nn.Conv2d:
    conv = nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2)
    nn.init.xavier_uniform_(conv.weight)
    assert conv.bias is not None
    nn.init.zeros_(conv.bias)
    return conv


# Variants -------------------------------------------------------------------------------------------------------------


def yolact_fpn(backbone: nn.Module, config: Config, channels: int = 256) -> FPN:
    """Five levels, strides 8 ... 128, doubled bilinearly (section 3.4)."""
    pyramid = Pyramid(
        channels=channels,
        first=1,
        extra="convs",
        convs_of="backbone" if config.coarse_from_backbone else "pyramid",
        convs_relu=False,
        first_relu=config.head_relu and not config.coarse_from_backbone,
        upsample="bilinear",
    )
    return FPN(backbone, pyramid)


def yolact_r50(num_classes: int = 80, **config: Any) -> YOLACT:
    """ResNet-50, for images of 550 x 550."""
    chosen = Config(**config)
    return YOLACT(yolact_fpn(ResNet("resnet50"), chosen), num_classes, chosen)


def yolact_r101(num_classes: int = 80, **config: Any) -> YOLACT:
    """ResNet-101, for images of 550 x 550: the paper's base model."""
    chosen = Config(**config)
    return YOLACT(yolact_fpn(ResNet("resnet101"), chosen), num_classes, chosen)


LIGHT: dict[str, Any] = {"anchor_scales": ((16,), (32,), (64,), (128,), (256,)), "square_anchors": False,
                         "prototype_convs": 1, "prototype_width": 96}  # fmt: skip
"""For small networks on images of any size."""


def yolact_lite0(num_classes: int = 80, **config: Any) -> YOLACT:
    """EfficientNet-Lite0 with narrow branches, for processors without a GPU."""
    chosen = Config(**(LIGHT | config))
    return YOLACT(yolact_fpn(Timm("tf_efficientnet_lite0"), chosen, channels=96), num_classes, chosen)
