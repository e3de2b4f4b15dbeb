"""The region proposal network: a small head on every level of a pyramid says where something is.

Ren, He, Girshick, Sun: "Faster R-CNN: Towards Real-Time Object Detection with Region Proposal Networks", NeurIPS 2015,
arXiv 1506.01497, section 3.1; on a feature pyramid as in Lin et al., arXiv 1612.03144, section 4.1.

The idea: at every place of the map stand *anchors*, boxes of a few sizes and shapes. One small convolutional head says
of each whether it holds *something*, of whatever class, and how to move it; the best few hundred survive suppression.
It is the first stage of :mod:`~eachmask.models.detection.faster_rcnn`, and shares its features.

Where we differ: crowd regions are neither something nor nothing; nothing depends on ``self.training``.

Shapes: B images, A anchors per place, P proposals of one image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eachmask.backbones.features import Features
from eachmask.models.detection.conventions import TORCHVISION, Conventions
from eachmask.ops.anchors import base_anchors, flatten_anchors, grid_anchors
from eachmask.ops.losses import smooth_l1
from eachmask.ops.match import match_objects, sample
from eachmask.ops.nms import nms
from eachmask.structures import Instances
from eachmask.structures import boxes as box_ops

UNWEIGHTED = (1.0, 1.0, 1.0, 1.0)
"""The deltas of anchors are learnt as they are encoded."""


class Raw(NamedTuple):
    """Features and what the proposal network said of them."""

    features: Features
    objectness: tuple[Tensor, ...]  # per level (B, A, H, W) logits
    deltas: tuple[Tensor, ...]  # per level (B, 4 A, H, W), encoded against the anchors
    sizes: tuple[tuple[int, int], ...]  # valid (height, width) of each image
    batch_size: tuple[int, int]  # padded (height, width)


@dataclass(frozen=True)
class RPNConfig:
    """What a variant may change. Defaults are those of the papers, as torchvision has them."""

    anchor_sizes: tuple[int, ...] = (32, 64, 128, 256, 512)
    """Side of the square anchor on each level, px; all of them on a backbone's only map."""
    anchor_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    """Height over width."""
    depth: int = 1
    """3 x 3 convolutions of the head."""
    fg_iou: float = 0.7
    """An anchor with this IoU to an object is positive ..."""
    bg_iou: float = 0.3
    """... below this it is negative; between them it is not used."""
    inside_only: bool = False
    """Only anchors that lie within the image are learnt from (paper, section 3.1.3)."""
    batch_size: int = 256
    """Anchors per image in the loss, half of them positive if there are as many."""
    nms_threshold: float = 0.7
    pre_nms_top_n: int = 1000
    """Best anchors of each level that go into suppression when predicting."""
    post_nms_top_n: int = 1000
    """Proposals per image that survive it, when predicting."""
    pre_nms_top_n_training: int = 2000
    post_nms_top_n_training: int = 2000


class RPN(nn.Module):
    """Objectness and box deltas of every anchor from shared convolutions, and what follows from them.

    Args:
        channels: of each level.
        num_levels: of the features.
    """

    def __init__(
        self, channels: int, num_levels: int, config: RPNConfig, conventions: Conventions = TORCHVISION
    ) -> None:
        super().__init__()
        self.config, self.conventions = config, conventions
        sizes = config.anchor_sizes
        self.level_sizes = [(size,) for size in sizes] if num_levels > 1 else [sizes]  # sides of each level's anchors
        num_anchors = len(config.anchor_ratios) * len(self.level_sizes[0])
        self.convs = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(config.depth))
        self.relus = nn.ModuleList(nn.ReLU(inplace=True) for _ in range(config.depth))
        self.objectness = nn.Conv2d(channels, num_anchors, 1)
        self.deltas = nn.Conv2d(channels, 4 * num_anchors, 1)
        for layer in (*self.convs, self.objectness, self.deltas):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)

    def forward(self, level: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, H, W) -> (B, A, H, W) logits, (B, 4 A, H, W) deltas."""
        for conv, relu in zip(self.convs, self.relus, strict=True):
            level = relu(conv(level))
        return self.objectness(level), self.deltas(level)

    def anchors(self, raw: Raw) -> list[Tensor]:
        """(H W A, 4) of every level, on the batch's device."""
        height, width = raw.batch_size
        device = raw.objectness[0].device
        exact = self.conventions.exact_anchors
        result = []
        for level, sizes, stride in zip(raw.objectness, self.level_sizes, raw.features.strides, strict=True):
            rows, columns = level.shape[-2:]
            base = torch.cat([base_anchors((s,), self.config.anchor_ratios, rounded=not exact) for s in sizes])
            step = (stride, stride) if exact else (height // rows, width // columns)
            result.append(grid_anchors(base, (rows, columns), step).to(device))
        return result

    def losses(self, raw: Raw, targets: list[Instances]) -> dict[str, Tensor]:
        """Binary cross-entropy on sampled anchors, smooth L1 on the positive ones' deltas (section 3.1.2, eq. 1)."""
        anchors = torch.cat(self.anchors(raw))
        logits = torch.cat([flatten_anchors(x, 1) for x in raw.objectness], 1).squeeze(-1).float()
        deltas = torch.cat([flatten_anchors(x, 4) for x in raw.deltas], 1).float()
        matched = [self.assign(anchors, target, size) for target, size in zip(targets, raw.sizes, strict=True)]
        sampled = [sample(m, self.config.batch_size, 0.5) for m in matched]
        positive, negative = (torch.stack(column) for column in zip(*sampled, strict=True))
        used = positive | negative
        gt_deltas = torch.stack([_encoded(t, anchors, m) for t, m in zip(targets, matched, strict=True)])
        objectness = F.binary_cross_entropy_with_logits(logits[used], positive[used].float(), reduction="sum")
        boxes = smooth_l1(deltas[positive], gt_deltas[positive], self.conventions.rpn_smooth_l1_beta)
        divisor = self._divisor(positive, negative)
        return {"rpn_objectness": objectness / divisor, "rpn_box": boxes / divisor}

    def _divisor(self, positive: Tensor, negative: Tensor) -> int:
        """Of both losses, from which anchors (B, P) were sampled."""
        kind = self.conventions.rpn_divisor
        if kind == "batch":
            return self.config.batch_size * len(positive)
        if kind == "counted":
            return int((positive.sum(dim=1).clamp(min=1) + negative.sum(dim=1).clamp(min=1)).sum())
        return max(int((positive | negative).sum()), 1)

    def assign(self, anchors: Tensor, target: Instances, size: tuple[int, int]) -> Tensor:
        """(P,) index of each anchor's object, UNMATCHED or IGNORED (section 3.1.2).

        Args:
            size: valid (height, width) of the image.
        """
        c, conventions = self.config, self.conventions
        return match_objects(
            anchors,
            target,
            c.fg_iou,
            c.bg_iou,
            allow_low_quality_matches=conventions.low_quality_iou,
            moves=conventions.low_quality_moves,
            usable=inside(anchors, size) if c.inside_only else None,
        )

    def propose(self, raw: Raw, pre_nms_top_n: int, post_nms_top_n: int) -> list[Tensor]:
        """The most object-like anchors of each image, shifted, clipped and suppressed per level: (P, 4) each.

        Gradients of the boxes pass to the deltas.

        Args:
            pre_nms_top_n: so many of each level go into suppression ...
            post_nms_top_n: ... and so many of each image come out.
        """
        boxes, scores, levels = [], [], []
        for i, (logits, deltas, anchors) in enumerate(zip(raw.objectness, raw.deltas, self.anchors(raw), strict=True)):
            logits = flatten_anchors(logits.detach(), 1).squeeze(-1).float()  # (B, H W A)
            best, index = logits.topk(min(pre_nms_top_n, logits.shape[1]), dim=1)
            chosen = flatten_anchors(deltas, 4).float().gather(1, index[..., None].expand(-1, -1, 4))
            boxes.append(box_ops.decode(chosen, anchors[index], UNWEIGHTED, self.conventions.symmetric_clip))
            scores.append(best.sigmoid())
            levels.append(torch.full_like(index, i))
        columns = zip(torch.cat(boxes, 1), torch.cat(scores, 1), torch.cat(levels, 1), raw.sizes, strict=True)
        return [_suppress(*column, threshold=self.config.nms_threshold, keep=post_nms_top_n) for column in columns]


def inside(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Which boxes (P, 4) do not cross the border of an image (height, width): (P,) bool."""
    height, width = size
    x1, y1, x2, y2 = boxes.unbind(1)
    return (x1 >= 0) & (y1 >= 0) & (x2 < width) & (y2 < height)


def _encoded(target: Instances, anchors: Tensor, matched: Tensor) -> Tensor:
    """(P, 4) deltas from each anchor to its object (to any where it has none)."""
    gt_boxes = target.boxes.to(anchors)
    if not len(gt_boxes):
        return torch.zeros_like(anchors)
    return box_ops.encode(gt_boxes[matched.clamp(min=0)], anchors, UNWEIGHTED)


def _suppress(
    boxes: Tensor, scores: Tensor, levels: Tensor, size: tuple[int, int], *, threshold: float, keep: int
) -> Tensor:
    boxes = box_ops.clip(boxes, size)
    solid = (boxes[:, 2:] - boxes[:, :2] >= 1e-3).all(dim=1)
    boxes, scores, levels = boxes[solid], scores[solid], levels[solid]
    return boxes[nms(boxes.detach(), scores, levels, threshold)[:keep]]
