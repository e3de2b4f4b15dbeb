"""Fast R-CNN: one pass over the image, then a small head on every proposal.

Girshick: "Fast R-CNN", ICCV 2015, arXiv 1504.08083.

The idea: R-CNN runs a network on every proposal, so two thousand times per image; here the network runs once on the
whole image, and RoIPool cuts a small grid of fixed size out of its features for each proposal. A head of fully
connected layers then gives class and box together, and one multi-task loss trains everything at once, instead of a
network, support vector machines and box regressors one after the other.

Where we differ: pooled from the pyramid level that fits the proposal (Lin et al., arXiv 1612.03144), not from VGG16's
last map; background that overlaps no object by ``sampling.bg_iou`` is used where there is too little of the harder
kind; the fully connected layers are not compressed (section 3.1). Proposals come from selective search inside
``forward``.

Shapes: B images, P proposals of one image, R RoIs of all images, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eachmask.backbones.features import Features
from eachmask.backbones.fpn import FPN, Pyramid
from eachmask.backbones.networks import ResNet, Timm
from eachmask.models.config import changed
from eachmask.models.protocol import Detections, Detector
from eachmask.ops.losses import smooth_l1
from eachmask.ops.match import learnable
from eachmask.ops.roi import roi_pool
from eachmask.ops.selective_search import FAST, SINGLE, Proposals, Search, search_batch
from eachmask.ops.suppression import suppress_boxes
from eachmask.structures import DecodeOptions, ImageBatch, Instances
from eachmask.structures import boxes as box_ops
from eachmask.structures.decode import Limits
from eachmask.tasks.boxes import BOXES

if TYPE_CHECKING:
    from eachmask.structures.spatial import Spatial


class Raw(NamedTuple):
    """The pyramid, and where selective search says that something might be."""

    features: Features
    proposals: tuple[Proposals, ...]  # of each image, boxes in px of the batch
    sizes: tuple[tuple[int, int], ...]  # valid (height, width) of each image


@dataclass(frozen=True)
class SearchConfig:
    """Where the proposals come from."""

    strategies: Literal["fast", "single"] = "fast"
    """Of selective search: the eight of its paper's "fast" set, or one."""
    side: int = 500
    """Larger images are searched at this longer side, px."""
    proposals: int = 2000
    """Per image, at most."""
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """Of the preprocessing, which selective search has to undo; it looks at the image's own colors."""
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    @property
    def options(self) -> Search:
        """The same for :mod:`eachmask.ops.selective_search`."""
        strategies = FAST if self.strategies == "fast" else SINGLE
        return Search(strategies, self.side, most=self.proposals, mean=self.mean, std=self.std)

    def run(self, images: ImageBatch) -> tuple[Proposals, ...]:
        """The proposals of each image, boxes in px of the batch; no weight has a part in them."""
        return tuple(search_batch(images, self.options))


@dataclass(frozen=True)
class SamplingConfig:
    """Which proposals are learnt from (paper, section 2.3, "mini-batch sampling")."""

    fg_iou: float = 0.5
    """A proposal with this IoU to an object is taken for it."""
    bg_iou: float = 0.1
    """Background between this IoU and ``fg_iou`` is learnt from first: it is the harder kind."""
    batch_size: int = 64
    """Proposals per image in the loss ..."""
    positive_fraction: float = 0.25
    """... and the largest share of objects among them."""


@dataclass(frozen=True)
class HeadConfig:
    """The two fully connected layers on each proposal."""

    roi_size: int = 7
    """Side of the pooled grid."""
    width: int = 1024
    """VGG16 has 4096."""
    box_weights: box_ops.Weights = (10.0, 10.0, 5.0, 5.0)
    smooth_l1_beta: float = 1.0
    """Where smooth L1 turns from a parabola to a line."""


@dataclass(frozen=True)
class Config:
    """What a variant may change. Defaults are those of the paper (sections 2.3 and 3) with a pyramid."""

    search: SearchConfig = SearchConfig()
    sampling: SamplingConfig = SamplingConfig()
    head: HeadConfig = HeadConfig()
    score_threshold: float = 0.05
    nms_threshold: float = 0.3
    max_detections: int = 100


# Blocks, in the order of the data -------------------------------------------------------------------------------------


class Head(nn.Module):
    """Two fully connected layers, then class and box beside each other (paper, figure 1)."""

    def __init__(self, in_features: int, width: int, num_classes: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(in_features, width), nn.ReLU(inplace=True), nn.Linear(width, width), nn.ReLU(inplace=True)
        )
        self.classes = nn.Linear(width, num_classes + 1)
        self.deltas = nn.Linear(width, 4 * num_classes)
        for layer, std in ((self.classes, 0.01), (self.deltas, 0.001)):
            nn.init.normal_(layer.weight, std=std)
            nn.init.zeros_(layer.bias)

    def forward(self, rois: Tensor) -> tuple[Tensor, Tensor]:
        """(R, ...) -> (R, K + 1) logits, background last, and (R, K, 4) deltas of the box."""
        x = self.layers(rois.flatten(1))
        return self.classes(x), self.deltas(x).unflatten(1, (-1, 4))


# The model ------------------------------------------------------------------------------------------------------------


class FastRCNN(Detector[Raw]):
    """Detection on given proposals; masks are added by subclasses' heads.

    Args:
        backbone: gives Features of equal channels on every level.
        num_classes: K, without background.
    """

    task = BOXES

    def __init__(self, backbone: FPN, num_classes: int, config: Config | None = None) -> None:
        super().__init__()
        self.config = config = config or Config()
        self.num_classes = num_classes
        self.backbone = backbone
        self.head = Head(backbone.channels[0] * config.head.roi_size**2, config.head.width, num_classes)

    def forward(self, images: ImageBatch, given: Sequence[Spatial] | None = None) -> Raw:
        """(B, 3, H, W) -> the pyramid; and proposals, which no weight has a part in."""
        return Raw(self.backbone(images.tensor), self.config.search.run(images), images.sizes)

    def losses(self, raw: Raw, targets: list[Instances]) -> dict[str, Tensor]:
        """Log loss of the class and smooth L1 of the box, on sampled proposals (paper, eq. 1).

        Args:
            targets: one per image, in pixels of the batch, with labels.
        """
        c = self.config
        with torch.no_grad():
            sampled = [
                sample_boxes(p.boxes, target, self.num_classes, c.sampling)
                for p, target in zip(raw.proposals, targets, strict=True)
            ]
        logits, deltas = self.head(self.pool(raw.features, [s.boxes for s in sampled]))
        labels = torch.cat([s.labels for s in sampled])
        gt_deltas = torch.cat([box_ops.encode(s.matched_boxes, s.boxes, c.head.box_weights) for s in sampled])
        losses = box_losses(logits, deltas, labels, gt_deltas, c.head.smooth_l1_beta)
        return losses | self.head_losses(raw, sampled, targets)

    def head_losses(self, raw: Raw, sampled: list[Sampled], targets: list[Instances]) -> dict[str, Tensor]:
        """Losses of what subclasses have on the same proposals."""
        return {}

    def select(self, raw: Raw, options: DecodeOptions) -> Detections:
        """All proposals through the head, suppression per class; the best first."""
        boxes = [p.boxes for p in raw.proposals]
        counts = [len(b) for b in boxes]
        logits, deltas = self.head(self.pool(raw.features, boxes))
        kept = []
        for image_boxes, image_logits, image_deltas, size in zip(
            boxes, logits.split(counts), deltas.split(counts), raw.sizes, strict=True
        ):
            moved = box_ops.decode(image_deltas.float(), image_boxes[:, None], self.config.head.box_weights)
            probabilities = image_logits.float().softmax(dim=-1)[:, :-1]
            kept.append(keep_best(box_ops.clip(moved, size), probabilities, options.limits(self.config)))
        return self.select_heads(raw, Detections.of(raw.sizes, kept), options)

    def select_heads(self, raw: Raw, found: Detections, options: DecodeOptions) -> Detections:
        """What subclasses add to the kept boxes."""
        return found

    def pool(self, features: Features, boxes: list[Tensor]) -> Tensor:
        """RoIPool in float32, whatever the features are in: (R, C, 7, 7)."""
        maps = [level.float() for level in features.maps]
        return roi_pool(maps, boxes, self.config.head.roi_size, features.strides).to(features.maps[0].dtype)


# Losses, selection ----------------------------------------------------------------------------------------------------


def box_losses(
    logits: Tensor, deltas: Tensor, labels: Tensor, gt_deltas: Tensor, beta: float = 1 / 9
) -> dict[str, Tensor]:
    """Cross-entropy over K + 1 classes; smooth L1 on the true class's deltas, per RoI (paper, eq. 1 - 3).

    Args:
        logits: (R, K + 1); deltas: (R, K or 1, 4); labels: (R,), K is background; gt_deltas: (R, 4).
        beta: of smooth L1, 0 is L1.
    """
    logits, deltas = logits.float(), deltas.float()
    if not len(labels):
        return {"class": logits.sum() * 0, "box": deltas.sum() * 0}
    positive = torch.nonzero(labels < logits.shape[1] - 1).squeeze(1)
    of_class = labels[positive] if deltas.shape[1] > 1 else torch.zeros_like(positive)
    error = smooth_l1(deltas[positive, of_class], gt_deltas[positive], beta)
    return {"class": F.cross_entropy(logits, labels), "box": error / len(labels)}


def keep_best(
    boxes: Tensor,
    probabilities: Tensor,
    limits: Limits | tuple[float, float, int],
    min_side: float = 1e-2,
    class_agnostic_nms: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """(P, K or 1, 4) boxes and (P, K) probabilities -> boxes (N, 4), labels and scores (N,) of one image, best first.

    Args:
        limits: score threshold, NMS threshold and largest number, and how to suppress if not greedily.
        min_side: boxes narrower than this, px, are dropped.
        class_agnostic_nms: each box gets its likeliest class alone and the sum of its probabilities as score, and boxes
            of different classes suppress one another.
    """
    limits = Limits(*limits)
    score_threshold = limits.score_threshold
    if class_agnostic_nms:
        something, likeliest = probabilities.sum(dim=1), probabilities.argmax(dim=1)
        proposal = torch.nonzero(something > score_threshold).squeeze(1)
        label, scores = likeliest[proposal], something[proposal].clamp(max=1.0)
    else:
        proposal, label = torch.nonzero(probabilities > score_threshold, as_tuple=True)
        scores = probabilities[proposal, label]
    boxes = boxes[proposal, label if boxes.shape[1] > 1 else 0]
    solid = torch.nonzero((boxes[:, 2:] - boxes[:, :2] >= min_side).all(dim=1)).squeeze(1)
    boxes, scores, label = boxes[solid], scores[solid], label[solid]
    rivals = torch.zeros_like(label) if class_agnostic_nms else label
    keep, scores = suppress_boxes(boxes, scores, rivals, limits)
    return boxes[keep], label[keep], scores


def select(boxes: Tensor, probabilities: Tensor, size: tuple[int, int], limits: Limits) -> Instances:
    """:func:`keep_best` as the instances of an image of this (height, width)."""
    kept, labels, scores = keep_best(boxes, probabilities, limits)
    return Instances(size, kept, labels=labels, scores=scores)


# Target assignment ----------------------------------------------------------------------------------------------------


class Sampled(NamedTuple):
    """Proposals of one image that the heads learn from."""

    boxes: Tensor  # (S, 4)
    labels: Tensor  # (S,) 0..K-1, K is background
    matched: Tensor  # (S,) index of the object, negative for background
    matched_boxes: Tensor  # (S, 4) the object's box (anything for background)
    is_gt: Tensor | None = None  # (S,) bool, is an object's own box that was added to the proposals


def positives(sampled: Sequence[Sampled], num_classes: int) -> list[Sampled]:
    """Of each image only those that stand for an object."""
    kept = []
    for s in sampled:
        rows = torch.nonzero(s.labels < num_classes).squeeze(1)
        kept.append(Sampled(s.boxes[rows], s.labels[rows], s.matched[rows], s.matched_boxes[rows]))
    return kept


def sample_boxes(boxes: Tensor, target: Instances, num_classes: int, config: SamplingConfig) -> Sampled:
    """Proposals (P, 4) and the objects' own boxes -> a balanced set with labels (background = K)."""
    gt_boxes = target.boxes.to(boxes)
    single, crowd = learnable(target, boxes.device)
    boxes = torch.cat([boxes, gt_boxes[single]])
    in_crowd = (box_ops.coverage(boxes, gt_boxes[crowd]) > 0.5).any(dim=1)
    chosen, matched = sample_proposals(box_ops.iou(gt_boxes[single], boxes), in_crowd, config)
    return labeled(boxes[chosen], single, matched, target, num_classes)


def sample_proposals(overlap: Tensor, in_crowd: Tensor, config: SamplingConfig) -> tuple[Tensor, Tensor]:
    """Which proposals to learn from.

    Args:
        overlap: (N, P) IoU of the objects to learn with the proposals.
        in_crowd: (P,) True: no background, whatever it overlaps.

    Returns:
        (S,) index of the proposal, objects first, and (S,) of its object, -1 for background.
    """
    num, share = config.batch_size, config.positive_fraction
    num_proposals = overlap.shape[1]
    if len(overlap):
        best, index = overlap.max(dim=0)
    else:
        best, index = overlap.new_zeros(num_proposals), in_crowd.new_zeros(num_proposals, dtype=torch.int64)
    chance = torch.rand(num_proposals, device=overlap.device)
    is_object = best >= config.fg_iou
    positive = _first(chance, is_object, int(num * share))
    hard = (best >= config.bg_iou).to(chance)
    negative = _first(chance + hard, ~is_object & ~in_crowd, num - len(positive))
    matched = torch.cat([index[positive], torch.full_like(negative, -1)])
    return torch.cat([positive, negative]), matched


def labeled(boxes: Tensor, single: Tensor, matched: Tensor, target: Instances, num_classes: int) -> Sampled:
    """Sampled proposals with the label and box of their object.

    Args:
        boxes: (S, 4).
        single: numbers of the objects to learn among the target's.
        matched: (S,) index into ``single``, -1 for background.
    """
    positive = matched >= 0
    objects = matched.clone()
    objects[positive] = single[matched[positive]]
    labels = torch.full_like(matched, num_classes)
    labels[positive] = target.labels.to(labels.device)[objects[positive]]
    matched_boxes = boxes.clone()
    matched_boxes[positive] = target.boxes.to(boxes)[objects[positive]]
    return Sampled(boxes, labels, objects, matched_boxes)


def _first(value: Tensor, among: Tensor, num: int) -> Tensor:
    """Indices of the largest values among those marked, at most so many."""
    index = torch.nonzero(among).squeeze(1)
    return index[value[index].argsort(descending=True)[:num]]


# Variants -------------------------------------------------------------------------------------------------------------

LIGHT_SEARCH = SearchConfig(strategies="single", side=160, proposals=300)
LIGHT_HEAD = HeadConfig(width=256)
LIGHT = Config(search=LIGHT_SEARCH, head=LIGHT_HEAD, nms_threshold=0.5)
"""For small networks on small images."""


def light_pyramid(name: str = "tf_efficientnet_lite0") -> FPN:
    """A timm network with a pyramid of 128 channels, strides 4 ... 32."""
    return FPN(Timm(name), Pyramid(channels=128, extra=None))


def resnet_pyramid(name: str) -> FPN:
    """A ResNet with a pyramid of 256 channels, strides 4 ... 32."""
    return FPN(ResNet(name), Pyramid(extra=None))


def fast_rcnn_r50_fpn(num_classes: int = 80, **config: Any) -> FastRCNN:
    """ResNet-50 and the eight strategies of fast selective search."""
    return FastRCNN(resnet_pyramid("resnet50"), num_classes, changed(Config(), config))


def fast_rcnn_r18_fpn(num_classes: int = 80, **config: Any) -> FastRCNN:
    """ResNet-18 and the eight strategies of fast selective search."""
    return FastRCNN(resnet_pyramid("resnet18"), num_classes, changed(Config(), config))


def fast_rcnn_lite0(num_classes: int = 80, **config: Any) -> FastRCNN:
    """EfficientNet-Lite0 and one strategy, for CPUs."""
    return FastRCNN(light_pyramid(), num_classes, changed(LIGHT, config))
