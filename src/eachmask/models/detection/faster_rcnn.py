"""Faster R-CNN: a network that proposes boxes, and a head that names and mends them.

Ren, He, Girshick, Sun: "Faster R-CNN: Towards Real-Time Object Detection with Region Proposal Networks", NeurIPS 2015,
arXiv 1506.01497; on a feature pyramid as in Lin et al., arXiv 1612.03144; the ``_v2`` variants follow Li et al.,
"Benchmarking Detection Transfer Learning with Vision Transformers", arXiv 2111.11429.

The idea: one small convolutional head slides over every level of the pyramid and says of each anchor box whether it
holds *something* and how to shift it. The best few hundred survive suppression; RoIAlign cuts each out of the
pyramid, and a second head gives it a class and a tighter box. Both see the same features, so proposals cost almost
nothing.

The same numbers as torchvision's ``fasterrcnn_resnet50_fpn`` and ``_v2`` (see ``tests/parity``). Where we differ:
background is the *last* class of the box head, so that labels are indices; regression has no background rows; crowd
regions are ignored in both stages; nothing depends on ``self.training``.

Shapes: B images, A anchors per place, P proposals of one image, R RoIs of all images, K classes.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eachmask.backbones.bodies import ResNet, Swin, Timm
from eachmask.backbones.features import Features
from eachmask.backbones.fpn import FPN, Pyramid
from eachmask.ops.anchors import base_anchors, grid_anchors
from eachmask.ops.losses import smooth_l1
from eachmask.ops.match import IGNORED, UNMATCHED, match, sample
from eachmask.ops.nms import nms
from eachmask.ops.roi import roi_align, roi_pool
from eachmask.structures import DecodeOptions, ImageBatch, Instances
from eachmask.structures import boxes as box_ops

Weights = tuple[float, float, float, float]


class Raw(NamedTuple):
    """Features and what the proposal network said of them."""

    features: Features
    objectness: tuple[Tensor, ...]  # per level (B, A, H, W) logits
    shifts: tuple[Tensor, ...]  # per level (B, 4 A, H, W), encoded against the anchors
    sizes: tuple[tuple[int, int], ...]  # valid (height, width) of each image
    batch_size: tuple[int, int]  # padded (height, width)


@dataclass(frozen=True)
class Config:
    """What a variant may change. Defaults are those of the papers, as torchvision has them."""

    anchor_sizes: tuple[int, ...] = (32, 64, 128, 256, 512)
    """Side of the square anchor on each level, px; all of them on a backbone's only map."""
    anchor_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    """Height over width."""
    exact_anchors: bool = False
    """Anchors are as large and as far apart as the level's stride says (Detectron2, MMDetection); torchvision rounds
    their corners to whole pixels and divides the image's side by the map's."""
    rpn_depth: int = 1
    """3 x 3 convolutions of the proposal head."""
    rpn_high: float = 0.7
    """An anchor with this IoU to an object is positive ..."""
    rpn_low: float = 0.3
    """... below this it is negative; between them it is not used."""
    rpn_rescue: float = 0.0
    """The anchors that overlap an object most are positive whatever their IoU, from this one on."""
    rescue_moves: bool = False
    """They then stand for this object even if they overlap another one more (MMDetection)."""
    rpn_inside: bool = False
    """Only anchors that lie within the image are learnt from (paper, section 3.1.3)."""
    rpn_batch: int = 256
    """Anchors per image in the loss, half of them positive if there are as many."""
    rpn_divisor: Literal["sampled", "batch"] = "sampled"
    """The losses are divided by the anchors drawn, or by ``rpn_batch`` times images even if fewer were drawn."""
    rpn_beta: float = 1 / 9
    """Where smooth L1 turns from a parabola to a line; 0 is L1."""
    rpn_nms: float = 0.7
    rpn_candidates: int = 1000
    """Best anchors of each level that go into suppression when predicting."""
    proposals: int = 1000
    """Proposals per image that survive it, when predicting."""
    rpn_candidates_training: int = 2000
    proposals_training: int = 2000
    roi_levels: int = 4
    """So many of the finest levels are pooled from."""
    roi_size: int = 7
    roi_pooling: Literal["align", "pool"] = "align"
    """RoIAlign, or RoIPool with its two roundings, in all heads: the ablation of Mask R-CNN's table 2."""
    roi_sampling: int = 2
    """RoIAlign's points per bin and side; 0 takes as many as the bin has pixels."""
    roi_aligned: bool = False
    """RoIAlign with pixel centres at .5, as Detectron2 corrected it."""
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
    box_weights: Weights = (10.0, 10.0, 5.0, 5.0)
    box_agnostic: bool = False
    """One box for all classes instead of one for each."""
    box_beta: float = 1 / 9
    """Where smooth L1 turns from a parabola to a line; 0 is L1."""
    symmetric_clip: bool = False
    """Boxes shrink no more in one step than they may grow: by 1000 / 16 (MMDetection)."""
    min_side: float = 1e-2
    """Detections narrower than this, px, are dropped."""
    one_label: bool = False
    """Each box gets its likeliest class alone and the score that it is anything at all (1 - background), and boxes of
    different classes suppress one another: for data too small to tell classes apart as well as objects."""
    score_threshold: float = 0.05
    nms_threshold: float = 0.5
    max_detections: int = 100
    norm_eps: float = 1e-5
    """Of the backbone's batch normalisation; torchvision's first COCO weights want 0."""


# Blocks, in the order of the data -------------------------------------------------------------------------------------


class RPNHead(nn.Module):
    """Objectness and box shifts of every anchor, from shared convolutions (paper, section 3.1)."""

    def __init__(self, channels: int, num_anchors: int, depth: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(depth))
        self.relus = nn.ModuleList(nn.ReLU(inplace=True) for _ in range(depth))
        self.objectness = nn.Conv2d(channels, num_anchors, 1)
        self.shifts = nn.Conv2d(channels, 4 * num_anchors, 1)
        for layer in (*self.convs, self.objectness, self.shifts):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)

    def forward(self, level: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, H, W) -> (B, A, H, W) logits, (B, 4 A, H, W) shifts."""
        for conv, relu in zip(self.convs, self.relus, strict=True):
            level = relu(conv(level))
        return self.objectness(level), self.shifts(level)


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
        self.shifts = nn.Linear(in_features, 4 if agnostic else num_classes * 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(R, D) -> (R, K + 1) logits, (R, K or 1, 4) shifts."""
        return self.classes(x), self.shifts(x).unflatten(1, (-1, 4))


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
        num_anchors = len(config.anchor_ratios) * len(self.level_sizes()[0])
        self.rpn = RPNHead(channels, num_anchors, config.rpn_depth)
        self.box_head = BoxHead(channels, config)
        self.box_predictor = BoxPredictor(self.box_head.out_features, num_classes, config.box_agnostic)

    def forward(self, images: ImageBatch) -> Raw:
        """(B, 3, H, W) -> the pyramid, and the proposal network's answer on it."""
        features = self.backbone(images.tensor)
        objectness, shifts = zip(*(self.rpn(level) for level in features.maps), strict=True)
        height, width = images.tensor.shape[-2:]
        return Raw(features, objectness, shifts, images.sizes, (height, width))

    def losses(self, raw: Raw, targets: list[Instances]) -> dict[str, Tensor]:
        """Both stages' classification and box losses (paper, eq. 1), on sampled anchors and proposals.

        Args:
            targets: one per image, in pixels of the batch, with labels.
        """
        losses = self.rpn_losses(raw, targets)
        with torch.no_grad():
            proposals = self.propose(raw, self.config.rpn_candidates_training, self.config.proposals_training)
            sampled = [
                self.sample_proposals(self._jittered(boxes, size), target)
                for boxes, size, target in zip(proposals, raw.sizes, targets, strict=True)
            ]
        return losses | self.head_losses(raw, sampled, targets)

    def head_losses(self, raw: Raw, sampled: list[Sampled], targets: list[Instances]) -> dict[str, Tensor]:
        """Losses of what stands on the proposals; subclasses add theirs."""
        logits, shifts = self.run_box_head(raw.features, [s.boxes for s in sampled])
        labels = torch.cat([s.labels for s in sampled])
        wanted = torch.cat([self._box_targets(s) for s in sampled])
        return box_losses(logits, shifts, labels, wanted, self.config.box_beta)

    def decode(self, raw: Raw, options: DecodeOptions) -> list[Instances]:
        """Proposals through the box head, suppression per class; the best first."""
        boxes = self.propose(raw, self.config.rpn_candidates, self.config.proposals)
        results = [
            select(mended, probabilities, size, self._filled(options), self.config)
            for (mended, probabilities), size in zip(self.judge(raw, boxes), raw.sizes, strict=True)
        ]
        return self.decode_heads(raw, results, options)

    def judge(self, raw: Raw, boxes: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """What the second stage makes of proposals (P, 4): boxes (P, K or 1, 4) within the image, scores (P, K)."""
        logits, shifts = self.run_box_head(raw.features, boxes)
        counts = [len(b) for b in boxes]
        results = []
        for image_boxes, image_logits, image_shifts, size in zip(
            boxes, logits.split(counts), shifts.split(counts), raw.sizes, strict=True
        ):
            mended = self.shifted(image_boxes[:, None], image_shifts.float(), self.config.box_weights)
            results.append((box_ops.clip(mended, size), image_logits.float().softmax(dim=-1)[:, :-1]))
        return results

    def decode_heads(self, raw: Raw, instances: list[Instances], options: DecodeOptions) -> list[Instances]:
        """What subclasses add to the kept boxes."""
        return instances

    # First stage

    def propose(self, raw: Raw, candidates: int, keep: int) -> list[Tensor]:
        """The most object-like anchors of each image, shifted, clipped and suppressed per level: (P, 4) each."""
        anchors = self.anchors(raw)
        boxes, scores, levels = [], [], []
        for i, (logits, shifts, level_anchors) in enumerate(zip(raw.objectness, raw.shifts, anchors, strict=True)):
            logits = flatten_anchors(logits, 1).squeeze(-1).float()  # (B, H W A)
            best, index = logits.topk(min(candidates, logits.shape[1]), dim=1)
            chosen = flatten_anchors(shifts, 4).float().gather(1, index[..., None].expand(-1, -1, 4))
            boxes.append(self.shifted(level_anchors[index], chosen, (1.0, 1.0, 1.0, 1.0)))
            scores.append(best.sigmoid())
            levels.append(torch.full_like(index, i))
        columns = zip(torch.cat(boxes, 1), torch.cat(scores, 1), torch.cat(levels, 1), raw.sizes, strict=True)
        return [
            _suppress_proposals(*column, threshold=self.config.rpn_nms, keep=keep).detach() for column in columns
        ]

    def shifted(self, boxes: Tensor, shifts: Tensor, weights: Weights) -> Tensor:
        """Boxes (..., 4) moved and scaled by what a head said of them; not clipped."""
        if self.config.symmetric_clip:
            low = shifts.new_tensor([-box_ops.MAX_LOG_SCALE * weight for weight in weights[2:]])
            shifts = torch.cat([shifts[..., :2], torch.maximum(shifts[..., 2:], low)], dim=-1)
        return box_ops.decode(shifts, boxes, weights)

    def anchors(self, raw: Raw) -> list[Tensor]:
        """(H W A, 4) of every level, on the batch's device."""
        height, width = raw.batch_size
        device = raw.objectness[0].device
        exact = self.config.exact_anchors
        result = []
        for level, sizes, stride in zip(raw.objectness, self.level_sizes(), raw.features.strides, strict=True):
            rows, columns = level.shape[-2:]
            base = torch.cat([base_anchors((s,), self.config.anchor_ratios, rounded=not exact) for s in sizes])
            step = (stride, stride) if exact else (height // rows, width // columns)
            result.append(grid_anchors(base, (rows, columns), step).to(device))
        return result

    def level_sizes(self) -> list[tuple[int, ...]]:
        """The sides of each level's anchors, px."""
        sizes = self.config.anchor_sizes
        return [(size,) for size in sizes] if len(self.backbone.strides) > 1 else [sizes]

    def rpn_losses(self, raw: Raw, targets: list[Instances]) -> dict[str, Tensor]:
        """Binary cross-entropy on sampled anchors, smooth L1 on the positive ones' shifts."""
        anchors = torch.cat(self.anchors(raw))
        logits = torch.cat([flatten_anchors(x, 1) for x in raw.objectness], 1).squeeze(-1).float()
        shifts = torch.cat([flatten_anchors(x, 4) for x in raw.shifts], 1).float()
        c = self.config
        truth, wanted, weight = [], [], []
        for target, size in zip(targets, raw.sizes, strict=True):
            usable = _inside(anchors, size) if c.rpn_inside else None
            matched = self._match(anchors, target, c.rpn_high, c.rpn_low, rescue=c.rpn_rescue, usable=usable)
            positive, negative = sample(matched, c.rpn_batch, 0.5)
            truth.append((matched >= 0).float())
            weight.append(positive.float() + 2 * negative.float())  # 1 positive, 2 negative, 0 unused
            boxes = target.boxes.to(anchors)
            wanted.append(_encode_matched(boxes, anchors, matched, (1.0, 1.0, 1.0, 1.0)))
        used, positives = torch.stack(weight) > 0, torch.stack(weight) == 1
        objectness = F.binary_cross_entropy_with_logits(logits[used], torch.stack(truth)[used], reduction="sum")
        boxes_loss = smooth_l1(shifts[positives], torch.stack(wanted)[positives], c.rpn_beta)
        divisor = c.rpn_batch * len(targets) if c.rpn_divisor == "batch" else max(int(used.sum()), 1)
        return {"rpn_objectness": objectness / divisor, "rpn_box": boxes_loss / divisor}

    # Second stage

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
        matched = self._match(proposals, target, iou, iou, rescue=iou if c.roi_rescue else None)
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
        """RoIs of all images in one go -> (R, K + 1) logits, (R, K or 1, 4) shifts."""
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
            rois = roi_align(maps, boxes, size, strides, c.roi_sampling, c.roi_aligned)
        return rois.to(features.maps[0].dtype)

    def _match(
        self,
        boxes: Tensor,
        target: Instances,
        high: float,
        low: float,
        *,
        rescue: float | None = None,
        usable: Tensor | None = None,
    ) -> Tensor:
        """Index of each box's object, or UNMATCHED / IGNORED; boxes mostly inside a crowd are ignored.

        Args:
            rescue: an object's best boxes stand for it from this IoU on; None leaves them where they are.
            usable: (P,) False for boxes that are ignored.
        """
        truth = target.boxes.to(boxes)
        single, crowd = learnable(target, boxes.device)
        iou = box_ops.iou(truth[single], boxes)
        if usable is not None:
            iou = torch.where(usable, iou, -1.0)
        matched = match(iou, high, low, rescue is not None, rescue or 0.0, self.config.rescue_moves)
        matched = torch.where(matched >= 0, single[matched.clamp(min=0)], matched) if len(single) else matched
        if len(crowd):
            covered = box_ops.coverage(boxes, truth[crowd]).max(dim=1).values > 0.5
            matched[covered & (matched == UNMATCHED)] = IGNORED
        if usable is not None:
            matched[~usable] = IGNORED
        return matched

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

    def _filled(self, options: DecodeOptions) -> tuple[float, float, int]:
        """Score threshold, NMS threshold and limit: the user's, or else the model's."""
        c, o = self.config, options
        return (
            c.score_threshold if o.score_threshold is None else o.score_threshold,
            c.nms_threshold if o.nms_threshold is None else o.nms_threshold,
            c.max_detections if o.max_detections is None else o.max_detections,
        )


# Target assignment, selection -----------------------------------------------------------------------------------------


class Sampled(NamedTuple):
    """Proposals of one image that the second stage learns from."""

    boxes: Tensor  # (S, 4)
    labels: Tensor  # (S,) 0..K-1, K is background
    matched: Tensor  # (S,) index of the object, negative for background
    matched_boxes: Tensor  # (S, 4) the object's box (anything for background)
    is_truth: Tensor | None = None  # (S,) bool, is a true box that was added to the proposals


def learnable(target: Instances, device: torch.device) -> tuple[Tensor, Tensor]:
    """Indices of the objects to learn from, and of the crowd regions.

    A box without area is neither: no anchor overlaps it, and its logarithmic size would make the loss infinite.
    """
    crowd = torch.zeros(len(target), dtype=torch.bool) if target.crowd is None else target.crowd.cpu()
    sides = (target.boxes[:, 2:] - target.boxes[:, :2]).cpu()
    solid = (sides > 0).all(dim=1)
    return tuple(torch.nonzero(chosen).squeeze(1).to(device) for chosen in (solid & ~crowd, solid & crowd))  # type: ignore[return-value]


def box_losses(
    logits: Tensor, shifts: Tensor, labels: Tensor, wanted: Tensor, beta: float = 1 / 9
) -> dict[str, Tensor]:
    """Cross-entropy over K + 1 classes; smooth L1 on the true class's shifts, per RoI (Fast R-CNN, eq. 1 - 3).

    Args:
        logits: (R, K + 1); shifts: (R, K or 1, 4); labels: (R,), K is background; wanted: (R, 4).
        beta: of smooth L1, 0 is L1.
    """
    logits, shifts = logits.float(), shifts.float()
    if not len(labels):
        return {"class": logits.sum() * 0, "box": shifts.sum() * 0}
    positive = torch.nonzero(labels < logits.shape[1] - 1).squeeze(1)
    of_class = labels[positive] if shifts.shape[1] > 1 else torch.zeros_like(positive)
    error = smooth_l1(shifts[positive, of_class], wanted[positive], beta)
    return {"class": F.cross_entropy(logits, labels), "box": error / len(labels)}


def select(
    boxes: Tensor,
    probabilities: Tensor,
    size: tuple[int, int],
    limits: tuple[float, float, int],
    config: Config | None = None,
) -> Instances:
    """(P, K or 1, 4) boxes and (P, K) probabilities -> the instances of one image, best first."""
    config = config or Config()
    score_threshold, nms_threshold, max_detections = limits
    if config.one_label:
        something, likeliest = probabilities.sum(dim=1), probabilities.argmax(dim=1)
        proposal = torch.nonzero(something > score_threshold).squeeze(1)
        label, scores = likeliest[proposal], something[proposal].clamp(max=1.0)
    else:
        proposal, label = torch.nonzero(probabilities > score_threshold, as_tuple=True)
        scores = probabilities[proposal, label]
    boxes = boxes[proposal, label if boxes.shape[1] > 1 else 0]
    sides = boxes[:, 2:] - boxes[:, :2]
    solid = torch.nonzero((sides >= config.min_side).all(1)).squeeze(1)
    boxes, scores, label = boxes[solid], scores[solid], label[solid]
    rivals = torch.zeros_like(label) if config.one_label else label
    keep = nms(boxes, scores, rivals, nms_threshold)[:max_detections]
    return Instances(image_size=size, boxes=boxes[keep], labels=label[keep], scores=scores[keep])


def _suppress_proposals(
    boxes: Tensor, scores: Tensor, levels: Tensor, size: tuple[int, int], *, threshold: float, keep: int
) -> Tensor:
    boxes = box_ops.clip(boxes, size)
    sides = boxes[:, 2:] - boxes[:, :2]
    solid = torch.nonzero((sides >= 1e-3).all(1)).squeeze(1)
    boxes, scores, levels = boxes[solid], scores[solid], levels[solid]
    return boxes[nms(boxes, scores, levels, threshold)[:keep]]


def _inside(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Which boxes (P, 4) do not cross the border of an image (height, width): (P,) bool."""
    height, width = size
    x1, y1, x2, y2 = boxes.unbind(1)
    return (x1 >= 0) & (y1 >= 0) & (x2 < width) & (y2 < height)


def in_groups(boxes: list[Tensor], at_once: int) -> Iterator[list[Tensor]]:
    """The boxes of all images in runs of so many, for heads that would need too much memory at once.

    Args:
        boxes: (N_b, 4) of each image.

    Yields:
        as many lists as images, most of them empty; one group of nothing where there is no box at all.
    """
    total = sum(len(b) for b in boxes)
    for first in range(0, max(total, 1), at_once):
        group, before = [], 0
        for b in boxes:
            group.append(b[max(first - before, 0) : max(first + at_once - before, 0)])
            before += len(b)
        yield group


def flatten_anchors(level: Tensor, width: int) -> Tensor:
    """(B, A width, H, W) -> (B, H W A, width), the order of the anchors."""
    batch, _, height, columns = level.shape
    return level.view(batch, -1, width, height, columns).permute(0, 3, 4, 1, 2).reshape(batch, -1, width)


def _encode_matched(truth: Tensor, anchors: Tensor, matched: Tensor, weights: Weights) -> Tensor:
    if not len(truth):
        return torch.zeros_like(anchors)
    return box_ops.encode(truth[matched.clamp(min=0)], anchors, weights)


def _conv_norm_relu(in_channels: int, out_channels: int) -> nn.Sequential:
    conv = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True))


# Variants -------------------------------------------------------------------------------------------------------------

V2: dict[str, Any] = {"rpn_depth": 2, "box_convs": 4, "box_layers": 1}
"""Changes of the second generation; its pyramid has batch normalisation too."""


_BOTH: dict[str, Any] = {"exact_anchors": True, "roi_aligned": True, "roi_sampling": 0, "rpn_beta": 0.0,
                         "box_beta": 0.0, "proposals_training": 1000}  # fmt: skip
DETECTRON2 = _BOTH | {"rpn_divisor": "batch", "min_side": 1e-6}
"""What Detectron2's two-stage models do otherwise; their bodies are built with ``stride_first=True``."""
MMDET = _BOTH | {"rpn_rescue": 0.3, "rescue_moves": True, "symmetric_clip": True, "min_side": 0.0}
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
    """ResNet-50 with deeper heads, normalised: torchvision's ``fasterrcnn_resnet50_fpn_v2``."""
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
