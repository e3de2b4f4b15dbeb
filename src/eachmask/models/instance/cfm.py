"""CFM: segment proposals mask the features instead of the pixels.

Dai, He, Sun: "Convolutional Feature Masking for Joint Object and Stuff Segmentation", CVPR 2015, arXiv 1412.1283.

The idea: SDS paints pixels over and runs a network on each region; here the network runs once on the whole image,
and a region is cut out of its *features*: what lies outside is set to zero, as if the network had looked at the region
alone, but with no artificial edges in its input. One pathway sees the box, the other the masked region.

This is the paper's design A. Where we differ: features come from the pyramid level that fits the box and are pooled on
one grid (the paper pools a pyramid of grids from VGG's last map); classes have a softmax, not support vector machines;
regions are from selective search; only objects, no stuff.

Shapes: B images, P proposals of one image, R RoIs of all images, K classes, M = 28 the side of a mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eachmask.backbones.features import Features
from eachmask.backbones.fpn import FPN
from eachmask.models.config import changed
from eachmask.models.detection.fast_rcnn import (
    LIGHT_SEARCH,
    Raw,
    SamplingConfig,
    SearchConfig,
    light_pyramid,
    resnet_pyramid,
)
from eachmask.models.instance.sds import keep_regions, region_grids, sample_regions
from eachmask.models.protocol import Detections, Detector
from eachmask.ops.roi import roi_align
from eachmask.structures import DecodeOptions, ImageBatch, Instances
from eachmask.tasks.instances import INSTANCES

if TYPE_CHECKING:
    from eachmask.structures.spatial import Spatial

REGION_CHUNK_SIZE = 256
"""Regions are pooled and scored in groups of so many when predicting."""


@dataclass(frozen=True)
class HeadConfig:
    """The two pathways on each region."""

    roi_size: int = 7
    """Side of the grid that they are given; it is pooled twice as fine."""
    width: int = 1024
    mask_side: int = 28
    """Side of the grid on which a region is kept."""


@dataclass(frozen=True)
class Config:
    """Fast R-CNN's choices on proposals, but for those of box regression, which there is none of."""

    search: SearchConfig = SearchConfig()
    sampling: SamplingConfig = SamplingConfig()
    head: HeadConfig = HeadConfig()
    score_threshold: float = 0.05
    nms_threshold: float = 0.3
    max_detections: int = 100


# Blocks, in the order of the data -------------------------------------------------------------------------------------


def mask_features(rois: Tensor, shapes: Tensor) -> Tensor:
    """Zero outside the region (paper, section 3.1): (R, C, n, n) and (R, M, M) shares in 0..1 -> (R, C, n, n).

    A cell of features belongs to the region where at least half of its pixels do, and the best cell always does,
    so that a thin region is not lost.
    """
    share = F.adaptive_avg_pool2d(shapes[:, None], (rois.shape[-2], rois.shape[-1]))
    best = share.flatten(1).amax(dim=1).view(-1, 1, 1, 1)
    return rois * (share >= best.clamp(max=0.5)).to(rois)


class Head(nn.Module):
    """Two pathways of fully connected layers, joined for the class (paper, figure 2, A)."""

    def __init__(self, in_features: int, width: int, num_classes: int) -> None:
        super().__init__()
        self.box, self.region = (
            nn.Sequential(nn.Linear(in_features, width), nn.ReLU(True), nn.Linear(width, width), nn.ReLU(True))
            for _ in range(2)
        )
        self.classes = nn.Linear(2 * width, num_classes + 1)
        nn.init.normal_(self.classes.weight, std=0.01)
        nn.init.zeros_(self.classes.bias)

    def forward(self, rois: Tensor, shapes: Tensor) -> Tensor:
        """(R, C, 2 n, 2 n) features and (R, M, M) regions -> (R, K + 1) logits, background last."""
        box = self.box(F.max_pool2d(rois, 2).flatten(1))
        region = self.region(F.max_pool2d(mask_features(rois, shapes), 2).flatten(1))
        logits: Tensor = self.classes(torch.cat([box, region], dim=1))
        return logits


# The model ------------------------------------------------------------------------------------------------------------


class CFM(Detector[Raw]):
    """Regions classified by masked features.

    Args:
        backbone: gives Features of equal channels on every level.
        num_classes: K, without background.
    """

    task = INSTANCES
    needs = frozenset({"masks"})

    def __init__(self, backbone: FPN, num_classes: int, config: Config | None = None) -> None:
        super().__init__()
        self.config = config = config or Config()
        self.num_classes = num_classes
        self.backbone = backbone
        self.head = Head(backbone.channels[0] * config.head.roi_size**2, config.head.width, num_classes)

    def forward(self, images: ImageBatch, given: Sequence[Spatial] | None = None) -> Raw:
        """(B, 3, H, W) -> the pyramid; and regions, which no weight has a part in."""
        return Raw(self.backbone(images.tensor), self.config.search.run(images), images.sizes)

    def losses(self, raw: Raw, targets: list[Instances]) -> dict[str, Tensor]:
        """Log loss of the class, on sampled regions.

        Args:
            targets: one per image, in pixels of the batch, with labels and masks.
        """
        c = self.config
        with torch.no_grad():
            chosen = [
                sample_regions(p, target, self.num_classes, c.sampling, side=c.head.mask_side)
                for p, target in zip(raw.proposals, targets, strict=True)
            ]
        boxes, shapes = [r.sampled.boxes for r in chosen], torch.cat([r.shapes for r in chosen])
        logits = self.head(self.pool(raw.features, boxes), shapes).float()
        labels = torch.cat([r.sampled.labels for r in chosen])
        return {"class": F.cross_entropy(logits, labels) if len(labels) else logits.sum() * 0}

    def select(self, raw: Raw, options: DecodeOptions) -> Detections:
        """Scores of all regions, suppression per class; a detection's mask is its region."""
        kept, masks = [], []
        for i, (proposals, size) in enumerate(zip(raw.proposals, raw.sizes, strict=True)):
            shapes = region_grids(proposals.regions, self.config.head.mask_side).to(proposals.boxes)
            features = raw.features._replace(maps=tuple(m[i : i + 1] for m in raw.features.maps))
            parts = zip(proposals.boxes.split(REGION_CHUNK_SIZE), shapes.split(REGION_CHUNK_SIZE), strict=True)
            logits = torch.cat([self.head(self.pool(features, [b]), s) for b, s in parts])
            probabilities = logits.float().softmax(dim=1)[:, :-1]
            *best, index = keep_regions(proposals.boxes, probabilities, size, options.limits(self.config))
            kept.append((best[0], best[1], best[2]))
            masks.append(shapes[index])
        return Detections.of(raw.sizes, kept)._replace(masks=tuple(masks) if options.with_masks else None)

    def pool(self, features: Features, boxes: list[Tensor]) -> Tensor:
        """(R, C, 2 n, 2 n): finer than the head's grid, so that the region's outline counts before the maximum."""
        maps = [level.float() for level in features.maps]
        rois = roi_align(maps, boxes, 2 * self.config.head.roi_size, features.strides, aligned=True)
        return rois.to(features.maps[0].dtype)


# Variants -------------------------------------------------------------------------------------------------------------


LIGHT = Config(search=LIGHT_SEARCH, head=HeadConfig(width=256), nms_threshold=0.5)


def cfm_r50_fpn(num_classes: int = 80, **config: Any) -> CFM:
    """ResNet-50 and the eight strategies of fast selective search."""
    return CFM(resnet_pyramid("resnet50"), num_classes, changed(Config(), config))


def cfm_lite0(num_classes: int = 80, **config: Any) -> CFM:
    """EfficientNet-Lite0 and one strategy, for CPUs."""
    return CFM(light_pyramid(), num_classes, changed(LIGHT, config))
