"""SDS: simultaneous detection and segmentation, the first instance segmentation with a convolutional network.

Hariharan, Arbelaez, Girshick, Malik: "Simultaneous Detection and Segmentation", ECCV 2014, arXiv 1407.1808.

The idea: R-CNN on *regions*. Every proposal is a region, not only a box, and two networks look at it: one at its box,
one at its box with all but the region painted in the mean color. Support vector machines score what both say, and a
small predictor makes a coarse mask of the object, to correct what the bottom-up region got wrong.

This is the paper's variant C, both networks learnt together. Where we differ: regions come from selective search, not
MCG; region and coarse mask are combined on a grid over the box, not on superpixels; overlap in suppression is that
of the boxes; otherwise as :mod:`~eachmask.models.detection.rcnn` says.

Shapes: B images, P proposals of one image, R RoIs of all images, 2 D numbers describe one, K classes, g = 10 the side
of the coarse mask, M = 28 that of a mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eachmask.backbones.networks import ResNet, Timm
from eachmask.models.config import changed
from eachmask.models.detection import rcnn
from eachmask.models.detection.fast_rcnn import (
    LIGHT_SEARCH,
    Sampled,
    SamplingConfig,
    labeled,
    positives,
    sample_proposals,
)
from eachmask.models.detection.rcnn import CROP_CHUNK_SIZE, Raw, describe, hinge_loss, of_length, signs_of, warp
from eachmask.models.instance.mask_rcnn import zero_of
from eachmask.models.protocol import Detections, Detector
from eachmask.ops.mask_targets import mask_targets
from eachmask.ops.match import learnable
from eachmask.ops.selective_search import Proposals
from eachmask.ops.suppression import suppress_boxes
from eachmask.structures import DecodeOptions, ImageBatch, Instances, Masks
from eachmask.structures import boxes as box_ops
from eachmask.structures.decode import Limits
from eachmask.tasks.instances import INSTANCES

if TYPE_CHECKING:
    from eachmask.structures.spatial import Spatial


@dataclass(frozen=True)
class RefinementConfig:
    """The masks."""

    coarse_side: int = 10
    """Side of the coarse mask (section 3.4)."""
    side: int = 28
    """Side of the grid on which it is combined with the region."""


@dataclass(frozen=True)
class Config(rcnn.Config):
    """R-CNN's choices and those of the masks."""

    refinement: RefinementConfig = RefinementConfig()


# Blocks, in the order of the data -------------------------------------------------------------------------------------


class Refinement(nn.Module):
    """Predicts the object coarsely and combines that with the region (section 3.4)."""

    def __init__(self, features: int, num_classes: int, coarse_side: int) -> None:
        super().__init__()
        self.coarse_side = coarse_side
        self.predict = nn.Linear(features, num_classes * coarse_side**2)
        self.combine = nn.Linear(3, 1)  # of coarse mask, region and both
        nn.init.normal_(self.predict.weight, std=0.01)
        nn.init.zeros_(self.predict.bias)
        nn.init.constant_(self.combine.weight, 2.0)
        nn.init.constant_(self.combine.bias, -3.0)

    def forward(self, features: Tensor, labels: Tensor, shapes: Tensor) -> tuple[Tensor, Tensor]:
        """Descriptions, a class each and regions -> logits of the coarse and of the combined mask.

        Args:
            features: (R, 2 D); labels: (R,); shapes: (R, M, M) share of the region in each cell, 0..1.

        Returns:
            (R, g, g) and (R, M, M).
        """
        every = self.predict(features).unflatten(1, (-1, self.coarse_side, self.coarse_side))
        coarse = every[torch.arange(len(labels), device=labels.device), labels].float()
        side = shapes.shape[-2:]
        enlarged = F.interpolate(coarse[:, None].sigmoid(), side, mode="bilinear", align_corners=False)[:, 0]
        logits = self.combine(torch.stack([enlarged, shapes, enlarged * shapes], dim=-1).to(features.dtype))
        return coarse, logits.squeeze(-1).float()


# The model ------------------------------------------------------------------------------------------------------------


class SDS(Detector[Raw]):
    """Two networks on every region.

    Args:
        box_backbone, region_backbone: give Features; only the last maps are looked at.
        num_classes: K, without background.
    """

    task = INSTANCES
    needs = frozenset({"masks"})

    def __init__(
        self, box_backbone: nn.Module, region_backbone: nn.Module, num_classes: int, config: Config | None = None
    ) -> None:
        super().__init__()
        self.config = config = config or Config()
        self.num_classes = num_classes
        self.backbone = nn.ModuleDict({"box": box_backbone, "region": region_backbone})
        features = int(box_backbone.channels[-1] + region_backbone.channels[-1])  # type: ignore[index]
        self.classes = nn.Linear(features, num_classes + 1)  # only for fine-tuning
        self.svms = nn.Linear(features, num_classes)
        for layer in (self.classes, self.svms):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)
        nn.init.constant_(self.svms.bias, -1.0)
        self.refinement = Refinement(features, num_classes, config.refinement.coarse_side)

    def forward(self, images: ImageBatch, given: Sequence[Spatial] | None = None) -> Raw:
        """(B, 3, H, W) -> regions; the networks run on crops, in the other two verbs."""
        return Raw(images.tensor, self.config.search.run(images), images.sizes)

    def losses(self, raw: Raw, targets: list[Instances]) -> dict[str, Tensor]:
        """Log loss of the fine-tuning, hinge loss of the SVMs, cross-entropy of both masks.

        Args:
            targets: one per image, in pixels of the batch, with labels and masks.
        """
        c = self.config
        with torch.no_grad():
            chosen = [
                sample_regions(p, target, self.num_classes, c.sampling, c.svm.bg_iou, c.refinement.side)
                for p, target in zip(raw.proposals, targets, strict=True)
            ]
        if not sum(len(r.shapes) for r in chosen):
            return self._no_losses(raw, chosen)
        features, shapes = self._described(raw.pixels, chosen)
        labels = torch.cat([r.sampled.labels for r in chosen])
        margins = self.svms(of_length(features.detach().float()))
        return {
            "class": F.cross_entropy(self.classes(features).float(), labels),
            "svm": hinge_loss(margins, torch.cat([r.signs for r in chosen]), c.svm.hard),
        } | self._mask_losses(features, shapes, labels, chosen, targets)

    def select(self, raw: Raw, options: DecodeOptions) -> Detections:
        """The SVMs' scores of all regions, suppression per class, and the refined mask of what is left."""
        kept, masks = [], []
        for i, (proposals, size) in enumerate(zip(raw.proposals, raw.sizes, strict=True)):
            shapes = region_grids(proposals.regions, self.config.refinement.side).to(raw.pixels.device)
            parts = zip(proposals.boxes.split(CROP_CHUNK_SIZE), shapes.split(CROP_CHUNK_SIZE), strict=True)
            features = torch.cat([self._crops_described(raw.pixels[i : i + 1], [b], s) for b, s in parts])
            scores = (self.config.svm.slope * self.svms(of_length(features.float())).float()).sigmoid()
            boxes, labels, best, index = keep_regions(proposals.boxes, scores, size, options.limits(self.config))
            kept.append((boxes, labels, best))
            if options.with_masks:
                masks.append(self.refinement(features[index], labels, shapes[index])[1].sigmoid())
        return Detections.of(raw.sizes, kept)._replace(masks=tuple(masks) if options.with_masks else None)

    def _no_losses(self, raw: Raw, chosen: list[SampledRegions]) -> dict[str, Tensor]:
        """All regions lie in crowds: look at one, learn nothing."""
        chosen = [_first_alone(raw.proposals[0], self.num_classes, self.config.refinement.side), *chosen[1:]]
        features, shapes = self._described(raw.pixels, chosen)
        nothing = self.classes(features).sum() + self.svms(features).sum()
        masks = self.refinement(features, torch.zeros_like(chosen[0].sampled.labels), shapes)
        nothing = (nothing + sum(m.sum() for m in masks)) * 0
        return {name: nothing for name in ("class", "svm", "coarse", "mask")}

    def _described(self, pixels: Tensor, chosen: list[SampledRegions]) -> tuple[Tensor, Tensor]:
        shapes = torch.cat([r.shapes for r in chosen])
        return self._crops_described(pixels, [r.sampled.boxes for r in chosen], shapes), shapes

    def _crops_described(self, pixels: Tensor, boxes: list[Tensor], shapes: Tensor) -> Tensor:
        """(R, 2 D): what one network says of each box, and the other of each region alone (section 3.2)."""
        side, context = self.config.crop.side, self.config.crop.context
        crops = warp(pixels.float(), boxes, side, context)
        inner = side - 2 * context
        region = F.interpolate(shapes[:, None], (inner, inner), mode="bilinear", align_corners=False) >= 0.5
        alone = crops * F.pad(region.to(crops), [context] * 4)  # 0 is the mean color
        parts = (self.backbone["box"], crops), (self.backbone["region"], alone)
        return torch.cat([describe(backbone, x.to(pixels.dtype)) for backbone, x in parts], dim=1)

    def _mask_losses(
        self, features: Tensor, shapes: Tensor, labels: Tensor, chosen: list[SampledRegions], targets: list[Instances]
    ) -> dict[str, Tensor]:
        rows = torch.nonzero(labels < self.num_classes).squeeze(1)
        if not len(rows):
            nothing = zero_of(self.refinement)
            return {"coarse": nothing, "mask": nothing}
        positive = positives([r.sampled for r in chosen], self.num_classes)
        losses = {}
        masks = self.refinement(features[rows], labels[rows], shapes[rows])
        for name, logits in zip(("coarse", "mask"), masks, strict=True):
            columns = zip(targets, positive, strict=True)
            gt_masks = [mask_targets(t.gt_masks, s.matched, s.boxes, logits.shape[-1]) for t, s in columns]
            losses[name] = F.binary_cross_entropy_with_logits(logits, torch.cat(gt_masks))
        return losses


# Regions --------------------------------------------------------------------------------------------------------------


class SampledRegions(NamedTuple):
    """Regions of one image to learn from."""

    sampled: Sampled
    shapes: Tensor  # (S, M, M) share of the region in the cells of its box, 0..1
    signs: Tensor  # (S, K) see rcnn.signs_of


def region_grids(regions: Masks, side: int) -> Tensor:
    """(N, side, side) which share of each cell of its tight box a region covers; zeros for an empty one."""
    grids = torch.zeros(len(regions), side, side)
    for grid, crop in zip(grids, regions.to_bitmaps().crops, strict=True):
        if crop.size:
            pixels = torch.from_numpy(crop.astype("float32"))
            grid.copy_(F.interpolate(pixels[None, None], (side, side), mode="area")[0, 0])
    return grids


def sample_regions(
    proposals: Proposals, target: Instances, num_classes: int, config: SamplingConfig, low: float = 0.3, side: int = 28
) -> SampledRegions:
    """Regions and the objects themselves -> a balanced set, by how many pixels they share (section 3.2).

    Args:
        low: see ``SVMConfig.bg_iou``.
        side: M.
    """
    if target.masks is None:
        raise ValueError("regions are learnt from masks, but a target has none")
    device = proposals.boxes.device
    single, crowd = learnable(target, device)
    single = single[torch.from_numpy(target.masks.area() > 0).to(device)[single]]
    gt_masks = target.masks[single.cpu()].to_rle()
    overlap = torch.cat(
        [torch.from_numpy(gt_masks.iou(r)).float() for r in (proposals.regions.resize(gt_masks.size), gt_masks)], dim=1
    ).to(device)
    boxes = torch.cat([proposals.boxes, torch.from_numpy(gt_masks.boxes()).to(proposals.boxes)])
    in_crowd = (box_ops.coverage(boxes, target.boxes.to(boxes)[crowd]) > 0.5).any(dim=1)
    chosen, matched = sample_proposals(overlap, in_crowd, config)
    sampled = labeled(boxes[chosen], single, matched, target, num_classes)
    num = len(proposals.boxes)
    shapes = torch.zeros(len(chosen), side, side)
    old, new = (chosen < num).cpu(), (chosen >= num).cpu()
    shapes[old] = region_grids(proposals.regions[chosen.cpu()[old]], side)
    shapes[new] = region_grids(gt_masks[chosen.cpu()[new] - num], side)
    signs = signs_of(overlap[:, chosen], target.labels.to(device)[single], in_crowd[chosen], num_classes, low)
    return SampledRegions(sampled, shapes.to(device), signs)


def keep_regions(
    boxes: Tensor, probabilities: Tensor, size: tuple[int, int], limits: Limits | tuple[float, float, int]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(P, 4) boxes that stay where they are and (P, K) probabilities -> what is kept, best first.

    Args:
        size: (height, width) of the image.
        limits: score threshold, NMS threshold and largest number, and how to suppress if not greedily.

    Returns:
        (N, 4) boxes within the image, (N,) labels, scores and numbers of the proposals.
    """
    limits = Limits(*limits)
    proposal, label = torch.nonzero(probabilities > limits.score_threshold, as_tuple=True)
    scores = probabilities[proposal, label].float()
    keep, scores = suppress_boxes(boxes[proposal], scores, label, limits)
    kept = proposal[keep]
    return box_ops.clip(boxes[kept], size), label[keep], scores, kept


def _first_alone(proposals: Proposals, num_classes: int, side: int) -> SampledRegions:
    boxes = proposals.boxes[:1]
    background = torch.full((1,), num_classes, device=boxes.device)
    shapes = region_grids(proposals.regions[[0]], side).to(boxes)
    sampled = Sampled(boxes, background, background * 0 - 1, boxes)
    return SampledRegions(sampled, shapes, boxes.new_zeros(1, num_classes))


# Variants -------------------------------------------------------------------------------------------------------------


LIGHT = Config(search=LIGHT_SEARCH, crop=rcnn.LIGHT_CROP, nms_threshold=0.5)


def sds_r50(num_classes: int = 80, **config: Any) -> SDS:
    """Two ResNet-50 on 2000 regions."""
    return SDS(ResNet("resnet50"), ResNet("resnet50"), num_classes, changed(Config(), config))


def sds_lite0(num_classes: int = 80, **config: Any) -> SDS:
    """Two EfficientNet-Lite0 on at most 300 regions, in crops of 64 x 64 px."""
    box_backbone, region_backbone = Timm("tf_efficientnet_lite0"), Timm("tf_efficientnet_lite0")
    return SDS(box_backbone, region_backbone, num_classes, changed(LIGHT, config))
