"""Hypercolumns: every pixel of a box is classified by what all layers say above it.

Hariharan, Arbelaez, Girshick, Malik: "Hypercolumns for Object Segmentation and Fine-grained Localization", CVPR 2015,
arXiv 1411.5752.

The idea: late layers know what an object is and early ones where its edges are, so a pixel is described by the column
of all layers' values at its place. Whether it belongs to the object depends on where in the box it is: the box has a
K x K grid of linear classifiers, and each pixel asks the nearest ones, interpolated.

A linear classifier of a column is a sum of 1 x 1 convolutions, one per layer, so each runs at its layer's own pace and
only the answers are enlarged (section 4). Where we differ: boxes come from Fast R-CNN, trained together; the columns
are the backbone's maps cut out by RoIAlign.

Shapes: B images, R RoIs of all images, K classes, g x g classifiers, M = 28 the side of a mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eachmask.backbones.features import Features
from eachmask.backbones.fpn import FPN
from eachmask.models.config import changed
from eachmask.models.detection import fast_rcnn
from eachmask.models.detection.fast_rcnn import (
    LIGHT_HEAD,
    LIGHT_SEARCH,
    FastRCNN,
    Sampled,
    light_pyramid,
    positives,
    resnet_pyramid,
)
from eachmask.models.instance.mask_rcnn import zero_of
from eachmask.models.protocol import Detections
from eachmask.ops.mask_targets import mask_targets
from eachmask.ops.roi import in_groups, roi_align
from eachmask.ops.selective_search import Proposals
from eachmask.structures import DecodeOptions, ImageBatch, Instances
from eachmask.tasks.instances import INSTANCES

if TYPE_CHECKING:
    from eachmask.structures.spatial import Spatial

ROI_CHUNK_SIZE = 64
"""RoIs are painted in groups of so many when predicting."""


class Raw(NamedTuple):
    """The pyramid for boxes, the backbone's own maps for columns, and proposals."""

    features: Features
    proposals: tuple[Proposals, ...]
    sizes: tuple[tuple[int, int], ...]
    columns: Features


@dataclass(frozen=True)
class ColumnsConfig:
    """The columns and what stands on them."""

    classifiers: int = 10
    """g: so many classifiers on each side of the box (section 3.1)."""
    mask_side: int = 28
    """M; the paper has 50."""
    levels: int = 3
    """So many of the backbone's coarsest maps make a column."""


@dataclass(frozen=True)
class Config(fast_rcnn.Config):
    """Fast R-CNN's choices and those of the columns."""

    columns: ColumnsConfig = ColumnsConfig()


# Blocks, in the order of the data -------------------------------------------------------------------------------------


def interpolation(classifiers: int, side: int) -> Tensor:
    """How much each pixel listens to each classifier: (g g, M, M), summing to 1 over the classifiers.

    Classifiers stand in the middle of their cells of the box; between them weights are bilinear (section 3.1).
    """
    place = (torch.arange(side) + 0.5) * (classifiers / side) - 0.5
    place = place.clamp(0, classifiers - 1)
    weight = (1 - (place[None] - torch.arange(classifiers)[:, None]).abs()).clamp(min=0)  # (g, M)
    return torch.einsum("iy,jx->ijyx", weight, weight).flatten(0, 1)


class ColumnHead(nn.Module):
    """A grid of classifiers per class, as one 1 x 1 convolution per layer."""

    listening: Tensor

    def __init__(self, channels: tuple[int, ...], num_classes: int, config: ColumnsConfig) -> None:
        super().__init__()
        num = config.classifiers**2
        self.weights = nn.ParameterList(torch.randn(num_classes, num, c) * 0.01 for c in channels)
        self.biases = nn.Parameter(torch.zeros(num_classes, num))
        self.register_buffer("listening", interpolation(config.classifiers, config.mask_side), persistent=False)

    def forward(self, columns: list[Tensor], labels: Tensor) -> Tensor:
        """Each layer's RoIs (R, C_l, n_l, n_l) and the class of each -> (R, M, M) probabilities, above 0 and below 1.

        As in the paper it is the classifiers' probabilities that are interpolated.
        """
        side = self.listening.shape[-2:]
        total = self.biases[labels][:, :, None, None].float()
        for weight, layer in zip(self.weights, columns, strict=True):
            answers = torch.bmm(weight[labels], layer.flatten(2)).unflatten(2, layer.shape[-2:])
            total = total + F.interpolate(answers.float(), side, mode="bilinear", align_corners=False)
        probabilities: Tensor = (total.sigmoid() * self.listening).sum(dim=1)
        return probabilities.clamp(1e-6, 1 - 1e-6)


# The model ------------------------------------------------------------------------------------------------------------


class Hypercolumns(FastRCNN):
    """Fast R-CNN with a mask from hypercolumns."""

    task = INSTANCES
    needs = frozenset({"masks"})
    config: Config

    def __init__(self, backbone: FPN, num_classes: int, config: Config | None = None) -> None:
        config = config or Config()
        super().__init__(backbone, num_classes, config)
        channels = tuple(backbone.backbone.channels)[-config.columns.levels :]
        self.mask_head = ColumnHead(channels, num_classes, config.columns)

    def forward(self, images: ImageBatch, given: Sequence[Spatial] | None = None) -> Raw:  # type: ignore[override]
        """(B, 3, H, W) -> the pyramid, the backbone's maps under it, and proposals."""
        backbone: Features = self.backbone.backbone(images.tensor)
        levels = self.config.columns.levels
        columns = Features(backbone.maps[-levels:], backbone.strides[-levels:], backbone.channels[-levels:])
        proposals = self.config.search.run(images)
        return Raw(_pyramid(self.backbone, backbone.maps), proposals, images.sizes, columns)

    def head_losses(self, raw: Raw, sampled: list[Sampled], targets: list[Instances]) -> dict[str, Tensor]:  # type: ignore[override]
        """Mean log loss of the pixels of positive RoIs."""
        chosen = positives(sampled, self.num_classes)
        labels = torch.cat([s.labels for s in chosen])
        if not len(labels):
            return {"mask": zero_of(self.mask_head)}
        side, columns = self.config.columns.mask_side, zip(targets, chosen, strict=True)
        share = torch.cat([mask_targets(target.gt_masks, s.matched, s.boxes, side) for target, s in columns])
        inside = self.probabilities(raw.columns, [s.boxes for s in chosen], labels)
        return {"mask": -(share * inside.log() + (1 - share) * (1 - inside).log()).mean()}

    def select_heads(self, raw: Raw, found: Detections, options: DecodeOptions) -> Detections:  # type: ignore[override]
        """Adds each kept box's mask."""
        if not options.with_masks:
            return found
        groups = zip(
            in_groups(list(found.boxes), ROI_CHUNK_SIZE), torch.cat(found.labels).split(ROI_CHUNK_SIZE), strict=True
        )
        masks = torch.cat([self.probabilities(raw.columns, boxes, labels) for boxes, labels in groups])
        return found._replace(masks=found.per_image(masks))

    def probabilities(self, columns: Features, boxes: list[Tensor], labels: Tensor) -> Tensor:
        """Boxes of all images with a class each -> (R, M, M).

        The finest layer is cut at half the mask's side, each coarser one at half of that: no finer than it is.
        """
        rois = []
        for i, (level, stride) in enumerate(zip(columns.maps, columns.strides, strict=True)):
            side = max(2, self.config.columns.mask_side // 2 ** (i + 1))
            rois.append(roi_align([level.float()], boxes, side, (stride,), aligned=True).to(level.dtype))
        probabilities: Tensor = self.mask_head(rois, labels)
        return probabilities


def _pyramid(fpn: FPN, maps: tuple[Tensor, ...]) -> Features:
    """The pyramid over maps that are already there."""
    maps = maps[fpn.pyramid.first :]
    x = fpn.lateral[-1](maps[-1])
    levels = [fpn.smooth[-1](x)]
    for i in range(len(maps) - 2, -1, -1):
        x = fpn.merged(i, maps[i], x)
        levels.insert(0, fpn.smooth[i](x))
    return fpn.with_extra(levels, maps[-1])


# Variants -------------------------------------------------------------------------------------------------------------


LIGHT = Config(LIGHT_SEARCH, head=LIGHT_HEAD, columns=ColumnsConfig(classifiers=5), nms_threshold=0.5)


def hypercolumns_r50_fpn(num_classes: int = 80, **config: Any) -> Hypercolumns:
    """ResNet-50 with 10 x 10 classifiers per class."""
    return Hypercolumns(resnet_pyramid("resnet50"), num_classes, changed(Config(), config))


def hypercolumns_lite0(num_classes: int = 80, **config: Any) -> Hypercolumns:
    """EfficientNet-Lite0 with 5 x 5 classifiers per class, for CPUs."""
    return Hypercolumns(light_pyramid(), num_classes, changed(LIGHT, config))
