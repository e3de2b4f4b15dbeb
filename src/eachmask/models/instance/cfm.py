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

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eachmask.backbones.features import Features
from eachmask.backbones.fpn import FPN
from eachmask.models.detection import fast_rcnn
from eachmask.models.detection.fast_rcnn import Raw, light_pyramid, resnet_pyramid
from eachmask.models.instance.sds import region_grids, sample_regions, select_regions
from eachmask.ops.roi import roi_align
from eachmask.ops.selective_search import search_batch
from eachmask.structures import DecodeOptions, ImageBatch, Instances, RoIMasks

REGIONS_AT_ONCE = 256
"""Regions are pooled and judged in groups of so many when predicting."""


@dataclass(frozen=True)
class Config(fast_rcnn.Config):
    """Fast R-CNN's choices on proposals, but for those of box regression, which there is none of.

    ``roi_size`` is the side of the grid that the head is given; it is pooled twice as fine.
    """

    mask_side: int = 28
    """Side of the grid on which a region is kept."""


# Blocks, in the order of the data -------------------------------------------------------------------------------------


def mask_features(rois: Tensor, shapes: Tensor) -> Tensor:
    """Zero outside the region (paper, section 3.1): (R, C, n, n) and (R, M, M) shares in 0..1 -> (R, C, n, n).

    A cell of features belongs to the region where at least half of its pixels do, and the best cell always does,
    so that a thin region is not lost.
    """
    share = F.adaptive_avg_pool2d(shapes[:, None], rois.shape[-2:])
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
        return self.classes(torch.cat([box, region], dim=1))


# The model ------------------------------------------------------------------------------------------------------------


class CFM(nn.Module):
    """Regions classified by masked features, with three verbs.

    Args:
        backbone: gives Features of equal channels on every level.
        num_classes: K, without background.
    """

    def __init__(self, backbone: FPN, num_classes: int, config: Config | None = None) -> None:
        super().__init__()
        self.config = config = config or Config()
        self.num_classes = num_classes
        self.backbone = backbone
        self.head = Head(backbone.channels[0] * config.roi_size**2, config.box_width, num_classes)

    def forward(self, images: ImageBatch) -> Raw:
        """(B, 3, H, W) -> the pyramid; and regions, which no weight has a part in."""
        return Raw(self.backbone(images.tensor), tuple(search_batch(images, self.config.search)), images.sizes)

    def losses(self, raw: Raw, targets: list[Instances]) -> dict[str, Tensor]:
        """Log loss of the class, on sampled regions.

        Args:
            targets: one per image, in pixels of the batch, with labels and masks.
        """
        with torch.no_grad():
            chosen = [
                sample_regions(p, target, self.num_classes, self.config, side=self.config.mask_side)
                for p, target in zip(raw.proposals, targets, strict=True)
            ]
        boxes, shapes = [r.sampled.boxes for r in chosen], torch.cat([r.shapes for r in chosen])
        logits = self.head(self.pool(raw.features, boxes), shapes).float()
        labels = torch.cat([r.sampled.labels for r in chosen])
        return {"class": F.cross_entropy(logits, labels) if len(labels) else logits.sum() * 0}

    def decode(self, raw: Raw, options: DecodeOptions) -> list[Instances]:
        """Scores of all regions, suppression per class; a detection's mask is its region."""
        results = []
        for i, (proposals, size) in enumerate(zip(raw.proposals, raw.sizes, strict=True)):
            shapes = region_grids(proposals.regions, self.config.mask_side).to(proposals.boxes)
            features = raw.features._replace(maps=tuple(m[i : i + 1] for m in raw.features.maps))
            parts = zip(proposals.boxes.split(REGIONS_AT_ONCE), shapes.split(REGIONS_AT_ONCE), strict=True)
            logits = torch.cat([self.head(self.pool(features, [b]), s) for b, s in parts])
            probabilities = logits.float().softmax(dim=1)[:, :-1]
            found, kept = select_regions(proposals.boxes, probabilities, size, options.limits(self.config))
            if options.with_masks:
                found.masks = RoIMasks(shapes[kept], found.boxes, size, options.mask_threshold, options.paste)
            results.append(found)
        return results

    def pool(self, features: Features, boxes: list[Tensor]) -> Tensor:
        """(R, C, 2 n, 2 n): finer than the head's grid, so that the region's outline counts before the maximum."""
        maps = [level.float() for level in features.maps]
        rois = roi_align(maps, boxes, 2 * self.config.roi_size, features.strides, aligned=True)
        return rois.to(features.maps[0].dtype)


# Variants -------------------------------------------------------------------------------------------------------------


def cfm_r50_fpn(num_classes: int = 80, **config: Any) -> CFM:
    """ResNet-50 and the eight strategies of fast selective search."""
    return CFM(resnet_pyramid("resnet50"), num_classes, Config(**config))


def cfm_lite0(num_classes: int = 80, **config: Any) -> CFM:
    """EfficientNet-Lite0 and one strategy, for processors without a GPU."""
    return CFM(light_pyramid(), num_classes, Config(**(fast_rcnn.LIGHT | config)))
