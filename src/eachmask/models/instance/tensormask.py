"""TensorMask: sliding windows whose outputs are small masks, structured like the image itself.

Chen, Girshick, He, Dollar: "TensorMask: A Foundation for Dense Object Segmentation", ICCV 2019, arXiv 1903.12174.

The idea: as a dense detector says of every place which box it holds, say which *mask*: a V x V window around every
place. Two things make that work: the *aligned* representation, in which a feature predicts what all windows around
say of its own pixel, and the *tensor bipyramid*: coarse levels stand for larger windows, so their masks get more
pixels, not fewer; all levels' masks are predicted on the finest map and re-arranged
(:func:`eachmask.ops.tensormask_align.aligned_to_natural`).

The same numbers as Detectron2's ``tensormask_R_50_FPN_1x`` (see ``tests/parity``). Where we differ: masks are
re-arranged only where they are wanted, for objects found and for windows that learn; crowd regions are ignored.

Shapes: B images, A window sizes, P windows of all levels of one image (fine to coarse, row by row), N objects,
K classes; at level k (stride 4 2^k) a window of V units has (2^k V)^2 mask values.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
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
    matched_boxes,
    matched_labels,
    output,
    suppress,
    tower,
)
from eachmask.models.protocol import Detections, Network, pack_image
from eachmask.ops.anchors import base_anchors, flatten_anchors, grid_anchors
from eachmask.ops.losses import reduce, smooth_l1
from eachmask.ops.mask_targets import mask_targets
from eachmask.ops.match import IGNORED, UNMATCHED, learnable
from eachmask.ops.tensormask_align import aligned_to_natural, bordered
from eachmask.structures import RLE, DecodeOptions, ImageBatch, Instances, Masks, RoIMasks
from eachmask.structures import boxes as box_ops
from eachmask.structures.masks import Index, as_index
from eachmask.tasks.instances import INSTANCES

if TYPE_CHECKING:
    from eachmask.structures.spatial import Spatial


class Raw(NamedTuple):
    """What the heads said of every window, and the features that its mask is made of."""

    features: Features
    logits: tuple[Tensor, ...]  # per level (B, A K, H, W), window by window
    deltas: tuple[Tensor, ...]  # per level (B, 4 A, H, W), encoded against the windows
    mask_features: tuple[Tensor, ...]  # per level (B, C, H, W)
    sizes: tuple[tuple[int, int], ...]  # valid (height, width) of each image


class Selected(NamedTuple):
    """Detections, and the windows that show their masks."""

    found: Detections
    windows: tuple[Tensor, ...]  # of each image (N, 4) px
    grids: tuple[list[Tensor], ...] | None  # of each image N of (V, V), 0..1; None where no masks are wanted


@dataclass(frozen=True)
class WindowConfig:
    """The windows, and which object each stands for (section 3.5)."""

    sides: tuple[int, ...] = (11, 15)
    """In strides of their level."""
    scale: float = 2.0
    """A window this many times larger than an object still stands for it; it must contain the object."""
    radius: float = 1.0
    """The window's center is at most this many strides from the object's."""


@dataclass(frozen=True)
class LossConfig:
    """Focal loss of the classes, cross-entropy of the masks."""

    alpha: float = 0.3
    gamma: float = 3.0
    """Of the focal loss."""
    mask_weight: float = 2.0
    positive_weight: float = 1.5
    """Of the foreground in the mask loss."""


@dataclass(frozen=True)
class Config:
    """What a variant may change. Defaults are those of the paper's last row, as Detectron2 has them."""

    depth: int = 4
    """Convolutions of each tower."""
    width: int = 128
    """Channels of the box and mask towers; the class tower has those of the pyramid."""
    windows: WindowConfig = WindowConfig()
    loss: LossConfig = LossConfig()
    box_weights: box_ops.Weights = (1.5, 1.5, 0.75, 0.75)
    candidates: int = 6000
    """Best (window, class) pairs of all levels that go into suppression."""
    score_threshold: float = 0.05
    nms_threshold: float = 0.5
    max_detections: int = 100


# Blocks, in the order of the data -------------------------------------------------------------------------------------


class TensorMaskHead(nn.Module):
    """Three towers, the same for every level (figure 7 of the paper).

    Args:
        channels: of the levels.
    """

    def __init__(self, channels: int, num_classes: int, config: Config) -> None:
        super().__init__()
        num, width = len(config.windows.sides), config.width
        self.class_tower = tower(channels, channels, config.depth)
        self.box_tower = tower(channels, width, config.depth)
        self.mask_tower = tower(channels, width, config.depth)
        self.classes = output(channels, num * num_classes, prior=0.01)
        self.deltas = output(width, num * 4)
        self.fuse = tower(width, width, 1)
        self.masks = nn.ModuleList(output(width, window**2, kernel=1) for window in config.windows.sides)

    def forward(self, level: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, C, H, W) -> logits (B, A K, H, W), deltas (B, 4 A, H, W), mask features (B, C', H, W)."""
        return self.classes(self.class_tower(level)), self.deltas(self.box_tower(level)), self.mask_tower(level)

    def fused(self, finest: Tensor, level: Tensor, factor: int) -> Tensor:
        """A level's mask features enlarged to the finest map and joined with its own (section 3.4, figure 5).

        Args:
            finest: (B, C', H, W); level: (B, C', H_k, W_k), ``factor`` times coarser.
        """
        if factor > 1:
            level = F.interpolate(level, scale_factor=factor, mode="bilinear", align_corners=False)
        height, width = finest.shape[-2:]
        fused: Tensor = self.fuse(level[..., :height, :width] + finest)
        return fused


# The model ------------------------------------------------------------------------------------------------------------


class TensorMask(Network[Raw, Selected, Instances]):
    """Dense sliding-window segmentation.

    Args:
        backbone: gives Features of equal channels, each level at twice the stride of the one before.
        num_classes: K.
    """

    task = INSTANCES
    needs = frozenset({"masks"})

    def __init__(self, backbone: FPN, num_classes: int, config: Config | None = None) -> None:
        super().__init__()
        self.config = config = config or Config()
        self.num_classes = num_classes
        self.backbone = backbone
        self.head = TensorMaskHead(backbone.channels[0], num_classes, config)

    def forward(self, images: ImageBatch, given: Sequence[Spatial] | None = None) -> Raw:
        """(B, 3, H, W) -> classes, boxes and mask features of every place."""
        features = self.backbone(images.tensor)
        logits, deltas, masks = zip(*(self.head(level) for level in features.maps), strict=True)
        return Raw(features, logits, deltas, masks, images.sizes)

    def anchors(self, raw: Raw) -> list[Tensor]:
        """(H W A, 4) windows of every level, px, on the batch's device; centered on multiples of the stride."""
        result = []
        for level, stride in zip(raw.logits, raw.features.strides, strict=True):
            sides = [stride * window for window in self.config.windows.sides]
            base = base_anchors(sides, (1.0,), rounded=False).to(level.device)
            result.append(grid_anchors(base, (level.shape[-2], level.shape[-1]), (stride, stride)))
        return result

    def natural_masks(self, raw: Raw, image: int, places: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Mask logits of chosen windows of one image, in groups of one size.

        Args:
            places: (M,) indices of windows.

        Yields:
            which of the M (G,) and their logits (G, 2^k V, 2^k V).
        """
        first = 0
        windows = self.config.windows.sides
        for level, features in enumerate(raw.mask_features):
            height, width = features.shape[-2:]
            here = places - first
            first += height * width * len(windows)
            if not bool(((here >= 0) & (places < first)).any()):
                continue
            factor = raw.features.strides[level] // raw.features.strides[0]
            fused = self.head.fused(raw.mask_features[0][image : image + 1], features[image : image + 1], factor)
            for a, window in enumerate(windows):
                chosen = torch.nonzero((here >= 0) & (places < first) & (here % len(windows) == a)).squeeze(1)
                if len(chosen):
                    cell = here[chosen] // len(windows)
                    cells = torch.stack([cell // width, cell % width], dim=1)
                    aligned = bordered(self.head.masks[a](fused)[0].unflatten(0, (window, window)).float())
                    # Few at a time: the coarsest windows have a quarter of a million values each.
                    per = max(1, (1 << 20) // (factor * window) ** 2)
                    for start in range(0, len(chosen), per):
                        part = slice(start, start + per)
                        yield chosen[part], aligned_to_natural(aligned, cells[part], factor)

    def losses(self, raw: Raw, targets: list[Instances]) -> dict[str, Tensor]:
        """Focal loss of all windows; L1 of the boxes and cross-entropy of the masks that stand for an object.

        Args:
            targets: one per image, in pixels of the batch, with labels and masks.
        """
        c = self.config.loss
        anchors = torch.cat(self.anchors(raw))
        matched = [self.assign(raw, target) for target in targets]
        index = torch.cat(matched)
        places = torch.nonzero(index >= 0).squeeze(1)
        logits = torch.cat([flatten_anchors(x, self.num_classes) for x in raw.logits], 1).flatten(0, 1).float()
        deltas = torch.cat([flatten_anchors(x, 4) for x in raw.deltas], 1).flatten(0, 1).float()
        gt_scores = torch.zeros_like(logits)
        gt_scores[places, matched_labels(targets, matched)] = 1
        focal = reduce(focal_star(logits, gt_scores, c.alpha, c.gamma), "sum", (index != IGNORED).float()[:, None])
        boxes = matched_boxes(targets, matched, anchors)
        offsets = box_ops.encode(boxes, anchors.repeat(len(targets), 1)[places], self.config.box_weights)
        # What no window needs takes part with nothing, so that every parameter has a gradient in every batch.
        unused = (*self.head.mask_tower.parameters(), *self.head.fuse.parameters(), *self.head.masks.parameters())
        masks = sum((p.sum() * 0 for p in unused), focal.new_zeros(()))
        for image, target in enumerate(targets):
            masks = masks + self._mask_loss(raw, image, target, matched[image], anchors)
        num = max(len(places), 1)
        return {"class": focal / num, "box": smooth_l1(deltas[places], offsets, 0.0) / num, "mask": masks / num}

    def _mask_loss(self, raw: Raw, image: int, target: Instances, matched: Tensor, anchors: Tensor) -> Tensor:
        """Mean cross-entropy of each window's mask, summed over windows and weighted."""
        c = self.config.loss
        total = anchors.new_zeros(())
        places = torch.nonzero(matched >= 0).squeeze(1)
        if not len(places):
            return total
        emphasis = anchors.new_tensor(c.positive_weight)
        for group, logits in self.natural_masks(raw, image, places):
            here = places[group]
            gt_masks = mask_targets(target.gt_masks, matched[here], anchors[here], logits.shape[-1], aligned=True)
            loss = F.binary_cross_entropy_with_logits(
                logits, (gt_masks >= 0.5).float(), pos_weight=emphasis, reduction="sum"
            )
            total = total + loss * (c.mask_weight / logits.shape[-1] ** 2)
        return total

    @torch.no_grad()
    def select(self, raw: Raw, options: DecodeOptions) -> Selected:
        """The best windows of all levels, suppression of their boxes per class; the best first."""
        anchors = torch.cat(self.anchors(raw))
        every, grids = [], []
        for image, size in enumerate(raw.sizes):
            kept = self._keep(raw, image, anchors, options).clipped(size)
            kept = kept.take(torch.nonzero((kept.boxes[:, 2:] > kept.boxes[:, :2]).all(1)).squeeze(1))
            grids.append(self._grids(raw, image, kept.places) if options.with_masks else [])
            every.append(kept)
        windows = tuple(anchors[kept.places] for kept in every)
        return Selected(detections(raw.sizes, every), windows, tuple(grids) if options.with_masks else None)

    def pack(self, selected: Selected, options: DecodeOptions) -> list[Instances]:
        """A mask fills its window, not the box that was regressed from it."""
        results = [pack_image(selected.found, i, options) for i in range(len(selected.found.sizes))]
        for found, windows, grids in zip(results, selected.windows, selected.grids or (), strict=False):
            found.masks = WindowMasks(grids, windows, found.image_size, options.mask_threshold)
        return results

    def _grids(self, raw: Raw, image: int, places: Tensor) -> list[Tensor]:
        """The masks of chosen windows (M,) of one image: M of (V, V), 0..1.

        In half precision: a grid of the coarsest windows has a quarter of a million cells.
        """
        grids: list[Tensor] = [torch.zeros(0)] * len(places)
        for group, logits in self.natural_masks(raw, image, places):
            for i, grid in zip(group.tolist(), logits.sigmoid().half(), strict=True):
                grids[i] = grid
        return grids

    # Target assignment, selection

    def assign(self, raw: Raw, target: Instances) -> Tensor:
        """Which object every window stands for (section 3.5): (P,) index, UNMATCHED or IGNORED.

        The window contains the object, is not much larger, and is centered on it; and this is so for one object only.
        Windows mostly within a crowd are ignored.
        """
        c, result = self.config.windows, []
        anchors, strides = self.anchors(raw), raw.features.strides
        boxes = target.boxes.to(anchors[0])
        single, crowd = learnable(target, boxes.device)
        smallest = (min(c.sides) - 1) * strides[0]  # the finest windows take what is smaller still
        for windows, stride in zip(anchors, strides, strict=True):
            matched = torch.full((len(windows),), UNMATCHED, dtype=torch.int64, device=boxes.device)
            times = torch.zeros_like(matched)
            middle, side = (windows[:, :2] + windows[:, 2:]) / 2, (windows[:, 2:] - windows[:, :2]).amax(1) - stride
            for i in single.tolist():
                box = boxes[i]
                contained = (windows[:, :2] <= box[:2]).all(1) & (windows[:, 2:] >= box[2:]).all(1)
                longest = (box[2:] - box[:2]).amax() * c.scale
                central = (middle - (box[:2] + box[2:]) / 2).norm(dim=1) <= c.radius * stride
                own = contained & central & (side <= longest.clamp(min=smallest))
                matched[own] = i
                times += own
            matched[times > 1] = UNMATCHED
            if len(crowd):
                covered = box_ops.coverage(windows, boxes[crowd]).amax(1) > 0.5
                matched[covered & (matched == UNMATCHED)] = IGNORED
            result.append(matched)
        return torch.cat(result)

    @property
    def max_objects(self) -> int:
        """The pairs of window and class that go into suppression."""
        return self.config.candidates

    def _keep(self, raw: Raw, image: int, anchors: Tensor, options: DecodeOptions) -> Kept:
        c = self.config
        logits = torch.cat([flatten_anchors(x[image : image + 1], self.num_classes)[0] for x in raw.logits])
        deltas = torch.cat([flatten_anchors(x[image : image + 1], 4)[0] for x in raw.deltas])
        score, label, place = best_pairs(logits.float().sigmoid_().T, options.limits(c)[0], c.candidates)
        boxes = box_ops.decode(deltas[place].float(), anchors[place], c.box_weights)
        return suppress(Kept(boxes, label, score, place), options.limits(c))


# Losses, masks --------------------------------------------------------------------------------------------------------


def focal_star(logits: Tensor, targets: Tensor, alpha: float, gamma: float) -> Tensor:
    """-log sigmoid(gamma x_t) / gamma, x_t the logit towards the target (RetinaNet's appendix A, FL* with beta = 0).

    Args:
        logits: any shape; targets: the same, 0 or 1.
        alpha: weight of positives, 1 - alpha of negatives.
    """
    loss = F.softplus(-gamma * logits * (2 * targets - 1)) / gamma
    return loss * (alpha * targets + (1 - alpha) * (1 - targets))


class WindowMasks(Masks):
    """N square grids of probabilities, of different sizes, each filling its window; pasted on demand.

    Args:
        grids: N tensors (m, m) in 0..1.
        windows: (N, 4) xyxy px.
        size: (height, width) of the canvas.
        threshold: foreground from this probability on.
    """

    def __init__(self, grids: list[Tensor], windows: Tensor, size: tuple[int, int], threshold: float) -> None:
        self.grids, self.windows, self.threshold = grids, windows, threshold
        self.size = (int(size[0]), int(size[1]))
        self._rle: RLE | None = None

    def __len__(self) -> int:
        return len(self.grids)

    def __getitem__(self, index: Index) -> WindowMasks:
        chosen = as_index(index, len(self))
        windows = self.windows[torch.from_numpy(chosen).to(self.windows.device)]
        return WindowMasks([self.grids[i] for i in chosen], windows, self.size, self.threshold)

    def to(self, device: torch.device | str) -> WindowMasks:
        """The grids on another device."""
        grids = [grid.to(device) for grid in self.grids]
        return WindowMasks(grids, self.windows.to(device), self.size, self.threshold)

    def resize(self, size: tuple[int, int]) -> WindowMasks:
        """Only the windows grow."""
        return WindowMasks(self.grids, box_ops.resize(self.windows, self.size, size), size, self.threshold)

    def to_rle(self) -> RLE:
        """Grids of one size together, then back in their order."""
        if self._rle is None:
            sides = np.array([len(grid) for grid in self.grids], np.int64)
            order = np.argsort(sides, kind="stable")
            parts: list[Masks] = []
            for side in np.unique(sides):
                own = np.flatnonzero(sides == side)
                grids = torch.stack([self.grids[i] for i in own])
                parts.append(RoIMasks(grids, self.windows[torch.from_numpy(own)], self.size, self.threshold))
            self._rle = Masks.cat(parts)[np.argsort(order)] if parts else RLE.empty(self.size)
        return self._rle


# Variants -------------------------------------------------------------------------------------------------------------


def _pyramid(channels: int) -> Pyramid:
    """Strides 4 ... 128; sums are halved, P6 is made of C5 and P7 of ReLU(P6)."""
    return Pyramid(channels=channels, extra="convs", convs_of="backbone", merge="mean")


def tensormask_r50_fpn(num_classes: int = 80, **config: Any) -> TensorMask:
    """ResNet-50 that halves maps where Caffe's do, with bipyramid: Detectron2's ``tensormask_R_50_FPN``."""
    return TensorMask(FPN(ResNet("resnet50", stride_first=True), _pyramid(256)), num_classes, changed(Config(), config))


def tensormask_lite0_fpn(num_classes: int = 80, **config: Any) -> TensorMask:
    """EfficientNet-Lite0 and narrow towers of two convolutions, for CPUs."""
    return TensorMask(
        FPN(Timm("tf_efficientnet_lite0"), _pyramid(96)), num_classes, changed(Config(depth=2, width=64), config)
    )
