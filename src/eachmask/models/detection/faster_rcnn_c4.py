"""Faster R-CNN on one map: the ResNet's fourth stage proposes, its fifth is the box head ("C4").

He, Zhang, Ren, Sun: "Deep Residual Learning for Image Recognition", CVPR 2016, arXiv 1512.03385, appendix A, after Ren
et al., arXiv 1506.01497; the baseline that feature pyramids were measured against.

The idea: a network trained on whole images is cut in two. All images share everything up to stride 16; each proposal
is cut out there at 14 x 14 and goes through the last stage alone, as if it were an image. That makes the head very
heavy: most of the time per image is spent in it, and it grows with the number of proposals.

All anchor sizes stand on the one map, so there are fifteen anchors per place.

Shapes: B images, R RoIs of all images, K classes.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from eachmask.backbones.features import Features
from eachmask.backbones.networks import ResNet
from eachmask.models.config import changed
from eachmask.models.detection.conventions import DETECTRON2
from eachmask.models.detection.faster_rcnn import LIGHT_RPN, BoxHeadConfig, BoxPredictor, Config, FasterRCNN
from eachmask.models.detection.rpn import RPNConfig

PAPER = Config(
    rpn=RPNConfig(pre_nms_top_n=6000, pre_nms_top_n_training=12000), box_head=BoxHeadConfig(roi_size=14, layers=0)
)
"""The one-map models, as in Detectron2."""


class C4(nn.Module):
    """A ResNet read after its fourth stage: one map at stride 16.

    The backbone keeps its last stage, so that ImageNet's weights fit the whole of it; the box head runs it.
    """

    def __init__(self, backbone: ResNet) -> None:
        super().__init__()
        self.backbone = backbone
        self.channels = (backbone.channels[2],)
        self.strides = (backbone.strides[2],)

    def forward(self, images: Tensor) -> Features:
        """(B, 3, H, W) -> (B, C4, H / 16, W / 16)."""
        backbone = self.backbone
        x = backbone.maxpool(backbone.relu(backbone.bn1(backbone.conv1(images))))
        for layer in (backbone.layer1, backbone.layer2, backbone.layer3):
            x = layer(x)
        return Features((x,), self.strides, self.channels)


class FasterRCNNC4(FasterRCNN):
    """Faster R-CNN whose box head is the backbone's last stage."""

    backbone: C4

    def __init__(self, backbone: C4, num_classes: int, config: Config | None = None) -> None:
        super().__init__(backbone, num_classes, config or PAPER)

    def build_box_head(self, channels: int) -> None:
        """Nothing but the backbone's last stage stands before the predictor."""
        c = self.config.box_head
        self.box_predictor = BoxPredictor(self.backbone.backbone.channels[3], self.num_classes, c.class_agnostic)

    def run_box_head(self, features: Features, boxes: list[Tensor]) -> tuple[Tensor, Tensor]:
        """RoIs of all images in one go -> (R, K + 1) logits, (R, K or 1, 4) deltas."""
        rois = self.pool(features, boxes, self.config.box_head.roi_size)
        last: Any = self.backbone.backbone.layer4
        x = last(rois).mean(dim=(2, 3)) if len(rois) else rois.new_zeros(0, self.box_predictor.classes.in_features)
        result: tuple[Tensor, Tensor] = self.box_predictor(x)
        return result


# Variants -------------------------------------------------------------------------------------------------------------


def faster_rcnn_r50_c4(num_classes: int = 80, **config: Any) -> FasterRCNNC4:
    """ResNet-50 that halves maps first, as in the paper: Detectron2's ``faster_rcnn_R_50_C4``."""
    chosen = changed(replace(PAPER, conventions=DETECTRON2), config)
    return FasterRCNNC4(C4(ResNet("resnet50", chosen.norm_eps, stride_first=True)), num_classes, chosen)


def faster_rcnn_r18_c4(num_classes: int = 80, **config: Any) -> FasterRCNNC4:
    """ResNet-18, smaller regions and fewer of them."""
    rpn = replace(PAPER.rpn, anchor_sizes=LIGHT_RPN.anchor_sizes, post_nms_top_n=300)
    small = replace(PAPER, rpn=rpn, box_head=replace(PAPER.box_head, roi_size=8))
    chosen = changed(small, config)
    return FasterRCNNC4(C4(ResNet("resnet18", chosen.norm_eps)), num_classes, chosen)
