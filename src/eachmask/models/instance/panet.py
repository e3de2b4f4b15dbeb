"""PANet: Mask R-CNN in which every region sees every level of a pyramid with a short cut from fine to coarse.

Liu, Qi, Qin, Shi, Jia: "Path Aggregation Network for Instance Segmentation", CVPR 2018, arXiv 1803.01534 (winner of the
COCO 2017 instance segmentation challenge).

The idea: three small changes let information flow. A second path from the bottom up brings fine edges to coarse maps
(:mod:`eachmask.backbones.pafpn`). A region is cut out of *all* levels, and the heads take the largest of the answers
(adaptive feature pooling), instead of one level chosen by the region's size. A fully connected branch, which knows
where in the region a pixel lies, adds a class-agnostic mask to the convolutional one.

Where we differ: the heads of the paper's best model are normalized over GPUs; ours use batch normalization with the
box head's four convolutions, and nothing in the mask head. The levels' first layers have weights of their own.

Shapes: R RoIs of all images, K classes, L = 4 levels, M = 28 the side of a mask.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from eachmask.backbones.features import Features
from eachmask.backbones.fpn import FPN, Pyramid
from eachmask.backbones.networks import ResNet, Timm
from eachmask.backbones.pafpn import PAFPN, BottomUp
from eachmask.models.config import changed
from eachmask.models.detection.fast_rcnn import Sampled
from eachmask.models.detection.faster_rcnn import LIGHT_RPN, BoxHead, BoxHeadConfig, BoxPredictor
from eachmask.models.detection.rpn import Raw
from eachmask.models.instance import mask_rcnn
from eachmask.models.instance.mask_rcnn import (
    ROI_CHUNK_SIZE,
    MaskHead,
    MaskHeadConfig,
    MaskRCNN,
    conv_relu,
    zero_of,
)
from eachmask.ops.roi import in_groups
from eachmask.structures import Instances, UserError


@dataclass(frozen=True)
class Config(mask_rcnn.Config):
    """Mask R-CNN's choices; the heads must have a convolution to fuse after."""

    box_head: BoxHeadConfig = BoxHeadConfig(convs=4, layers=1)
    """The heavier head (paper, table 3), levels fused after its first convolution."""

    def __post_init__(self) -> None:
        if self.box_head.convs < 1 or self.mask_head.convs < 2:
            raise UserError(
                "levels are fused after a convolution: box_head.convs must be 1 or more, mask_head.convs 2 or more"
            )


class AdaptivePooling(nn.Module):
    """A head's first layer on each level's cut-out of a region, and the largest answer (section 3.2, figure 6)."""

    def __init__(self, in_channels: int, out_channels: int, num_levels: int, norm: bool) -> None:
        super().__init__()
        self.levels = nn.ModuleList(conv_relu(in_channels, out_channels, norm) for _ in range(num_levels))

    def forward(self, rois: list[Tensor]) -> Tensor:
        """L tensors (R, C, m, m) -> (R, C', m, m)."""
        answers = (layer(x) for layer, x in zip(self.levels, rois, strict=True))
        largest: Tensor = next(answers)
        for answer in answers:
            largest = torch.maximum(largest, answer)
        return largest


class FusedMaskHead(MaskHead):
    """Mask R-CNN's head less its first convolution, and a fully connected branch off its third (section 3.3, figure 4).

    The branch: two convolutions, the second half as wide, then one layer that says of each of M x M places whether it
    is object or not.
    """

    def __init__(self, num_classes: int, config: MaskHeadConfig) -> None:
        width = config.width
        super().__init__(width, num_classes, replace(config, convs=config.convs - 1))
        self.branch = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width // 2, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Flatten(),
            nn.Linear(width // 2 * config.roi_size**2, (2 * config.roi_size) ** 2),
        )

    def forward(self, rois: Tensor, labels: Tensor) -> Tensor:
        """(R, C, 14, 14) after adaptive pooling and the class of each (R,) -> (R, M, M) logits of that class."""
        before_last = self.convs[:-1](rois)
        anywhere = self.branch(before_last)
        logits = self.predict(self.convs[-1](before_last), labels)
        fused: Tensor = logits + anywhere.view_as(logits)
        return fused


class PANet(MaskRCNN):
    """Mask R-CNN on a PAFPN with the two other changes."""

    config: Config

    def __init__(self, backbone: FPN, num_classes: int, config: Config | None = None) -> None:
        super().__init__(backbone, num_classes, config or Config())

    def build_box_head(self, channels: int) -> None:
        """Its first convolution is the pooling's."""
        head = self.config.box_head
        self.box_pooling = AdaptivePooling(channels, channels, self.config.roi.levels, norm=True)
        self.box_head = BoxHead(channels, replace(head, convs=head.convs - 1))
        self.box_predictor = BoxPredictor(self.box_head.out_features, self.num_classes, head.class_agnostic)

    def build_mask_head(self, channels: int) -> None:
        """Its first convolution is the pooling's."""
        head = self.config.mask_head
        self.mask_pooling = AdaptivePooling(channels, head.width, self.config.roi.levels, norm=head.norm)
        self.mask_head = FusedMaskHead(self.num_classes, head)

    def head_losses(self, raw: Raw, sampled: list[Sampled], targets: list[Instances]) -> dict[str, Tensor]:
        """Those of Mask R-CNN."""
        losses = super().head_losses(raw, sampled, targets)
        # Without a positive RoI the mask's first layer has no part in them, which distributed training forbids.
        return losses | {"mask": losses["mask"] + zero_of(self.mask_pooling)}

    def run_box_head(self, features: Features, boxes: list[Tensor]) -> tuple[Tensor, Tensor]:
        """RoIs of all images in one go -> (R, K + 1) logits, (R, K, 4) deltas."""
        rois = self.box_pooling(self.pool_every_level(features, boxes, self.config.box_head.roi_size))
        result: tuple[Tensor, Tensor] = self.box_predictor(self.box_head(rois))
        return result

    def mask_logits(self, features: Features, boxes: list[Tensor], labels: Tensor) -> Tensor:
        """Boxes of all images with a class each -> (R, M, M)."""
        parts = []
        for some, k in zip(in_groups(boxes, ROI_CHUNK_SIZE), labels.split(ROI_CHUNK_SIZE), strict=True):
            rois = self.mask_pooling(self.pool_every_level(features, some, self.config.mask_head.roi_size))
            parts.append(self.mask_head(rois, k))
        return torch.cat(parts)

    def pool_every_level(self, features: Features, boxes: list[Tensor], size: int) -> list[Tensor]:
        """Each region out of every level: L tensors (R, C, size, size)."""
        levels = zip(features.maps[: self.config.roi.levels], features.strides, strict=False)
        return [self.pool_levels([level], [stride], boxes, size) for level, stride in levels]


# Variants -------------------------------------------------------------------------------------------------------------


LIGHT = Config(rpn=LIGHT_RPN, box_head=BoxHeadConfig(convs=1, layers=1, width=256), mask_head=mask_rcnn.LIGHT.mask_head)


def panet_r50_fpn(num_classes: int = 80, **config: Any) -> PANet:
    """ResNet-50, all three changes and the heavier box head."""
    chosen = changed(Config(), config)
    backbone = PAFPN(ResNet("resnet50", chosen.norm_eps), bottom_up=BottomUp(norm=nn.BatchNorm2d))
    return PANet(backbone, num_classes, chosen)


def panet_lite0_fpn(num_classes: int = 80, **config: Any) -> PANet:
    """EfficientNet-Lite0 with narrow heads, for CPUs."""
    backbone = PAFPN(Timm("tf_efficientnet_lite0"), Pyramid(channels=128), BottomUp(norm=nn.BatchNorm2d))
    return PANet(backbone, num_classes, changed(LIGHT, config))
