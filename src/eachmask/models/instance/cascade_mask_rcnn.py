"""Cascade Mask R-CNN: Cascade R-CNN that also paints each object.

Cai, Vasconcelos: "Cascade R-CNN: High Quality Object Detection and Instance Segmentation", TPAMI 2019, arXiv
1906.09756, section 5.

The idea: masks are painted in the last, best boxes. During training a mask head can stand at the first stage, or one
at every stage, each learning from its own stage's boxes; when predicting, all of them paint in the final boxes and
their probabilities are averaged (section 5.2, figure 5).

The same numbers as MMDetection's Cascade Mask R-CNN (a head at each stage) and Detectron2's (one head, trained on the
first stage's proposals); see ``tests/parity``.

Shapes: R RoIs of all images, K classes, M = 28 the side of a mask.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eachmask.backbones.features import Features
from eachmask.backbones.fpn import FPN
from eachmask.models.detection import cascade_rcnn, faster_rcnn
from eachmask.models.detection.cascade_rcnn import CascadeRCNN
from eachmask.models.detection.fast_rcnn import Sampled
from eachmask.models.detection.faster_rcnn import light_fpn, resnet_fpn
from eachmask.models.detection.rpn import Raw
from eachmask.models.instance import mask_rcnn
from eachmask.models.instance.mask_rcnn import ROIS_AT_ONCE, MaskHead, sampled_mask_targets
from eachmask.ops.roi import in_groups
from eachmask.structures import DecodeOptions, Instances, RoIMasks


@dataclass(frozen=True)
class Config(cascade_rcnn.Config, mask_rcnn.Config):
    """The cascade's choices and the mask head's."""

    mask_every_stage: bool = True
    """A mask head per stage, their probabilities averaged; otherwise one, trained on the first stage's proposals."""


class CascadeMaskRCNN(CascadeRCNN):
    """Cascade R-CNN with mask heads; see Faster R-CNN for the three verbs."""

    config: Config

    def __init__(self, backbone: FPN, num_classes: int, config: Config | None = None) -> None:
        config = config or Config()
        super().__init__(backbone, num_classes, config)
        num_heads = len(config.stage_ious) if config.mask_every_stage else 1
        self.mask_heads = nn.ModuleList(MaskHead(backbone.channels[0], num_classes, config) for _ in range(num_heads))

    def stage_losses(self, stage: int, raw: Raw, sampled: list[Sampled], targets: list[Instances]) -> dict[str, Tensor]:
        """Mean binary cross-entropy of the true class's mask on the stage's positive RoIs."""
        if stage >= len(self.mask_heads):
            return {}
        head = self.mask_heads[stage]
        boxes, labels, wanted = sampled_mask_targets(sampled, targets, self.num_classes, self.config)
        if not len(labels):
            return {"mask": torch.stack([p.sum() for p in head.parameters()]).sum() * 0}
        logits = head(self.pool(raw.features, boxes, self.config.mask_roi_size), labels)
        return {"mask": F.binary_cross_entropy_with_logits(logits.float(), wanted)}

    def decode_heads(self, raw: Raw, instances: list[Instances], options: DecodeOptions) -> list[Instances]:
        """Adds each kept box's mask, the mean of all heads'."""
        if not options.with_masks:
            return instances
        labels = torch.cat([i.labels for i in instances if i.labels is not None])
        probabilities = self.mask_probabilities(raw.features, [i.boxes for i in instances], labels)
        return [
            replace(i, masks=RoIMasks(p, i.boxes, i.image_size, options.mask_threshold, options.paste))
            for i, p in zip(instances, probabilities.split([len(i) for i in instances]), strict=True)
        ]

    def mask_probabilities(self, features: Features, boxes: list[Tensor], labels: Tensor) -> Tensor:
        """Boxes of all images with a class each -> (R, M, M) 0..1."""
        parts = []
        for some, k in zip(in_groups(boxes, ROIS_AT_ONCE), labels.split(ROIS_AT_ONCE), strict=True):
            rois = self.pool(features, some, self.config.mask_roi_size)
            parts.append(torch.stack([head(rois, k).float().sigmoid() for head in self.mask_heads]).mean(dim=0))
        return torch.cat(parts)


# Variants -------------------------------------------------------------------------------------------------------------


def cascade_mask_rcnn_r50_fpn_mmdet(num_classes: int = 80, **config: Any) -> CascadeMaskRCNN:
    """ResNet-50: MMDetection's ``cascade-mask-rcnn_r50_fpn_1x_coco``."""
    chosen = Config(**(cascade_rcnn.MMDET | {"mask_binary": True} | config))
    return CascadeMaskRCNN(resnet_fpn("resnet50", chosen.norm_eps), num_classes, chosen)


def cascade_mask_rcnn_r50_fpn_detectron2(num_classes: int = 80, **config: Any) -> CascadeMaskRCNN:
    """ResNet-50 that halves maps first: Detectron2's ``cascade_mask_rcnn_R_50_FPN_1x``; wants BGR."""
    preset = cascade_rcnn.DETECTRON2 | {"mask_binary": True, "mask_every_stage": False}
    chosen = Config(**(preset | config))
    return CascadeMaskRCNN(resnet_fpn("resnet50", chosen.norm_eps, stride_first=True), num_classes, chosen)


def cascade_mask_rcnn_r101_fpn(num_classes: int = 80, **config: Any) -> CascadeMaskRCNN:
    """ResNet-101: MMDetection's ``cascade-mask-rcnn_r101_fpn_1x_coco``."""
    chosen = Config(**(cascade_rcnn.MMDET | {"mask_binary": True} | config))
    return CascadeMaskRCNN(resnet_fpn("resnet101", chosen.norm_eps), num_classes, chosen)


def cascade_mask_rcnn_lite0_fpn(num_classes: int = 80, **config: Any) -> CascadeMaskRCNN:
    """EfficientNet-Lite0 with narrow heads, for processors without a GPU."""
    chosen = Config(**(faster_rcnn.LIGHT | {"mask_width": 128} | config))
    return CascadeMaskRCNN(light_fpn("tf_efficientnet_lite0"), num_classes, chosen)


def cascade_mask_rcnn_lite0_p3(num_classes: int = 80, **config: Any) -> CascadeMaskRCNN:
    """EfficientNet-Lite0 with narrow heads on strides 8 ... 64, one mask head: for photographs on a processor."""
    light = mask_rcnn.LIGHT_P3 | {"mask_every_stage": False}
    return CascadeMaskRCNN(light_fpn("tf_efficientnet_lite0", first=1), num_classes, Config(**(light | config)))
