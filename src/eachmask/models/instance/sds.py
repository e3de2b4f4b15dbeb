"""SDS: simultaneous detection and segmentation, the first instance segmentation with a convolutional network.

Hariharan, Arbelaez, Girshick, Malik: "Simultaneous Detection and Segmentation", ECCV 2014, arXiv 1407.1808.

The idea: R-CNN on *regions*. Every proposal is a region, not only a box, and two networks look at it: one at its box,
one at its box with all but the region painted in the mean color. Support vector machines score what both say, and a
small predictor draws the object anew on a coarse grid, to mend what the bottom-up region got wrong.

This is the paper's variant C, both networks learnt together. Where we differ: regions come from selective search, not
MCG; region and coarse drawing are combined on a grid over the box, not on superpixels; overlap in suppression is that
of the boxes; otherwise as :mod:`~eachmask.models.detection.rcnn` says.

Shapes: B images, P proposals of one image, R RoIs of all images, 2 D numbers describe one, K classes, g = 10 the side
of the coarse drawing, M = 28 that of a mask.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eachmask.backbones.networks import ResNet, Timm
from eachmask.models.detection import rcnn
from eachmask.models.detection.fast_rcnn import Config as Proposing
from eachmask.models.detection.fast_rcnn import Sampled, draw, labeled
from eachmask.models.detection.rcnn import CROPS_AT_ONCE, Raw, describe, hinge_loss, of_length, signs_of, warp
from eachmask.ops.mask_targets import mask_targets
from eachmask.ops.match import learnable
from eachmask.ops.nms import nms
from eachmask.ops.selective_search import Proposals, search_batch
from eachmask.structures import DecodeOptions, ImageBatch, Instances, Masks, RoIMasks
from eachmask.structures import boxes as box_ops


@dataclass(frozen=True)
class Config(rcnn.Config):
    """R-CNN's choices and those of the masks."""

    coarse: int = 10
    """Side of the coarse drawing (section 3.4)."""
    mask_side: int = 28
    """Side of the grid on which it is combined with the region."""


# Blocks, in the order of the data -------------------------------------------------------------------------------------


class Refinement(nn.Module):
    """Draws the object coarsely and combines that with the region (section 3.4)."""

    def __init__(self, features: int, num_classes: int, coarse: int) -> None:
        super().__init__()
        self.coarse = coarse
        self.draw = nn.Linear(features, num_classes * coarse**2)
        self.combine = nn.Linear(3, 1)  # of drawing, region and both
        nn.init.normal_(self.draw.weight, std=0.01)
        nn.init.zeros_(self.draw.bias)
        nn.init.constant_(self.combine.weight, 2.0)
        nn.init.constant_(self.combine.bias, -3.0)

    def forward(self, features: Tensor, labels: Tensor, shapes: Tensor) -> tuple[Tensor, Tensor]:
        """Descriptions, a class each and regions -> logits of both drawings.

        Args:
            features: (R, 2 D); labels: (R,); shapes: (R, M, M) share of the region in each cell, 0..1.

        Returns:
            (R, g, g) and (R, M, M).
        """
        every = self.draw(features).unflatten(1, (-1, self.coarse, self.coarse))
        coarse = every[torch.arange(len(labels), device=labels.device), labels].float()
        side = shapes.shape[-2:]
        drawn = F.interpolate(coarse[:, None].sigmoid(), side, mode="bilinear", align_corners=False)[:, 0]
        logits = self.combine(torch.stack([drawn, shapes, drawn * shapes], dim=-1).to(features.dtype))
        return coarse, logits.squeeze(-1).float()


# The model ------------------------------------------------------------------------------------------------------------


class SDS(nn.Module):
    """Two networks on every region, with three verbs.

    Args:
        box_backbone, region_backbone: give Features; only the last maps are looked at.
        num_classes: K, without background.
    """

    def __init__(
        self, box_backbone: nn.Module, region_backbone: nn.Module, num_classes: int, config: Config | None = None
    ) -> None:
        super().__init__()
        self.config = config = config or Config()
        self.num_classes = num_classes
        self.backbone = nn.ModuleDict({"box": box_backbone, "region": region_backbone})
        features = box_backbone.channels[-1] + region_backbone.channels[-1]  # type: ignore[index]
        self.classes = nn.Linear(features, num_classes + 1)  # only for fine-tuning
        self.svms = nn.Linear(features, num_classes)
        for layer in (self.classes, self.svms):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)
        nn.init.constant_(self.svms.bias, -1.0)
        self.refinement = Refinement(features, num_classes, config.coarse)

    def forward(self, images: ImageBatch) -> Raw:
        """(B, 3, H, W) -> regions; the networks run on crops, in the other two verbs."""
        return Raw(images.tensor, tuple(search_batch(images, self.config.search)), images.sizes)

    def losses(self, raw: Raw, targets: list[Instances]) -> dict[str, Tensor]:
        """Log loss of the fine-tuning, hinge loss of the SVMs, cross-entropy of both drawings.

        Args:
            targets: one per image, in pixels of the batch, with labels and masks.
        """
        c = self.config
        with torch.no_grad():
            chosen = [
                sample_regions(p, target, self.num_classes, c, c.svm_low, c.mask_side)
                for p, target in zip(raw.proposals, targets, strict=True)
            ]
        if not sum(len(r.shapes) for r in chosen):  # all lie in crowds: look at one, learn nothing
            chosen[0] = _first_alone(raw.proposals[0], self.num_classes, c.mask_side)
            features, shapes = self._described(raw.pixels, chosen)
            nothing = self.classes(features).sum() + self.svms(features).sum()
            drawings = self.refinement(features, torch.zeros_like(chosen[0].sampled.labels), shapes)
            nothing = (nothing + sum(d.sum() for d in drawings)) * 0
            return {name: nothing for name in ("class", "svm", "coarse", "mask")}
        features, shapes = self._described(raw.pixels, chosen)
        labels = torch.cat([r.sampled.labels for r in chosen])
        margins = self.svms(of_length(features.detach().float()))
        return {
            "class": F.cross_entropy(self.classes(features).float(), labels),
            "svm": hinge_loss(margins, torch.cat([r.signs for r in chosen]), c.svm_hard),
        } | self._mask_losses(features, shapes, labels, chosen, targets)

    def decode(self, raw: Raw, options: DecodeOptions) -> list[Instances]:
        """The SVMs' scores of all regions, suppression per class, and the mended drawing of what is left."""
        results = []
        for i, (proposals, size) in enumerate(zip(raw.proposals, raw.sizes, strict=True)):
            shapes = region_grids(proposals.regions, self.config.mask_side).to(raw.pixels.device)
            parts = zip(proposals.boxes.split(CROPS_AT_ONCE), shapes.split(CROPS_AT_ONCE), strict=True)
            features = torch.cat([self._crops_described(raw.pixels[i : i + 1], [b], s) for b, s in parts])
            scores = (self.config.slope * self.svms(of_length(features.float())).float()).sigmoid()
            found, kept = select_regions(proposals.boxes, scores, size, options.limits(self.config))
            if options.with_masks:
                assert found.labels is not None
                logits = self.refinement(features[kept], found.labels, shapes[kept])[1]
                found.masks = RoIMasks(logits.sigmoid(), found.boxes, size, options.mask_threshold, options.paste)
            results.append(found)
        return results

    def _described(self, pixels: Tensor, chosen: list[SampledRegions]) -> tuple[Tensor, Tensor]:
        shapes = torch.cat([r.shapes for r in chosen])
        return self._crops_described(pixels, [r.sampled.boxes for r in chosen], shapes), shapes

    def _crops_described(self, pixels: Tensor, boxes: list[Tensor], shapes: Tensor) -> Tensor:
        """(R, 2 D): what one network says of each box, and the other of each region alone (section 3.2)."""
        side, context = self.config.crop_side, self.config.context
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
            nothing = sum(p.sum() for p in self.refinement.parameters()) * 0
            return {"coarse": nothing, "mask": nothing}
        drawings = self.refinement(features[rows], labels[rows], shapes[rows])
        losses = {}
        for name, logits in zip(("coarse", "mask"), drawings, strict=True):
            wanted = [
                _drawn(target, r.sampled, self.num_classes, logits.shape[-1])
                for target, r in zip(targets, chosen, strict=True)
            ]
            losses[name] = F.binary_cross_entropy_with_logits(logits, torch.cat(wanted))
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
    proposals: Proposals, target: Instances, num_classes: int, config: Proposing, low: float = 0.3, side: int = 28
) -> SampledRegions:
    """Regions and the objects themselves -> a balanced set, by how many pixels they share (section 3.2).

    Args:
        low: see ``Config.svm_low``.
        side: M.
    """
    if target.masks is None or target.labels is None:
        raise ValueError("regions are learnt from masks, but a target has none")
    device = proposals.boxes.device
    single, crowd = learnable(target, device)
    single = single[torch.from_numpy(target.masks.area() > 0).to(device)[single]]
    truth = target.masks[single.cpu()].to_rle()
    overlap = torch.cat(
        [torch.from_numpy(truth.iou(r)).float() for r in (proposals.regions.resize(truth.size), truth)], dim=1
    ).to(device)
    boxes = torch.cat([proposals.boxes, torch.from_numpy(truth.boxes()).to(proposals.boxes)])
    in_crowd = (box_ops.coverage(boxes, target.boxes.to(boxes)[crowd]) > 0.5).any(dim=1)
    chosen, matched = draw(overlap, in_crowd, config)
    sampled = labeled(boxes[chosen], single, matched, target, num_classes)
    num = len(proposals.boxes)
    shapes = torch.zeros(len(chosen), side, side)
    old, new = (chosen < num).cpu(), (chosen >= num).cpu()
    shapes[old] = region_grids(proposals.regions[chosen.cpu()[old]], side)
    shapes[new] = region_grids(truth[chosen.cpu()[new] - num], side)
    signs = signs_of(overlap[:, chosen], target.labels.to(device)[single], in_crowd[chosen], num_classes, low)
    return SampledRegions(sampled, shapes.to(device), signs)


def select_regions(
    boxes: Tensor, probabilities: Tensor, size: tuple[int, int], limits: tuple[float, float, int]
) -> tuple[Instances, Tensor]:
    """(P, 4) boxes that stay where they are, (P, K) probabilities -> instances, best first, and their proposals."""
    score_threshold, nms_threshold, max_detections = limits
    proposal, label = torch.nonzero(probabilities > score_threshold, as_tuple=True)
    scores = probabilities[proposal, label].float()
    keep = nms(boxes[proposal], scores, label, nms_threshold)[:max_detections]
    kept = proposal[keep]
    instances = Instances(size, box_ops.clip(boxes[kept], size), labels=label[keep], scores=scores[keep])
    return instances, kept


def _drawn(target: Instances, sampled: Sampled, num_classes: int, side: int) -> Tensor:
    """(S+, side, side) the object of each positive region, within the region's box."""
    assert target.masks is not None
    rows = torch.nonzero(sampled.labels < num_classes).squeeze(1)
    return mask_targets(target.masks, sampled.matched[rows], sampled.boxes[rows], side)


def _first_alone(proposals: Proposals, num_classes: int, side: int) -> SampledRegions:
    boxes = proposals.boxes[:1]
    background = torch.full((1,), num_classes, device=boxes.device)
    shapes = region_grids(proposals.regions[[0]], side).to(boxes)
    sampled = Sampled(boxes, background, background * 0 - 1, boxes)
    return SampledRegions(sampled, shapes, boxes.new_zeros(1, num_classes))


# Variants -------------------------------------------------------------------------------------------------------------


def sds_r50(num_classes: int = 80, **config: Any) -> SDS:
    """Two ResNet-50 on 2000 regions."""
    return SDS(ResNet("resnet50"), ResNet("resnet50"), num_classes, Config(**config))


def sds_lite0(num_classes: int = 80, **config: Any) -> SDS:
    """Two EfficientNet-Lite0 on at most 300 regions, in crops of 64 x 64 px."""
    box_backbone, region_backbone = Timm("tf_efficientnet_lite0"), Timm("tf_efficientnet_lite0")
    return SDS(box_backbone, region_backbone, num_classes, Config(**(rcnn.LIGHT | config)))
