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
from eachmask.models.config import changed
from eachmask.models.detection import cascade_rcnn
from eachmask.models.detection.cascade_rcnn import LIGHT_BOX_HEAD, CascadeRCNN
from eachmask.models.detection.fast_rcnn import Sampled, positives
from eachmask.models.detection.faster_rcnn import LIGHT_RPN, P3_ROI, P3_RPN, light_fpn, resnet_fpn, swin_fpn
from eachmask.models.detection.rpn import Raw
from eachmask.models.instance import mask_rcnn
from eachmask.models.instance.mask_rcnn import ROI_CHUNK_SIZE, MaskHead, sampled_mask_targets, zero_of
from eachmask.models.protocol import Detections
from eachmask.ops.roi import in_groups
from eachmask.structures import DecodeOptions, Instances
from eachmask.tasks.instances import INSTANCES


@dataclass(frozen=True)
class Config(cascade_rcnn.Config, mask_rcnn.Config):
    """The cascade's choices and the mask head's."""

    mask_every_stage: bool = True
    """A mask head per stage, their probabilities averaged; otherwise one, trained on the first stage's proposals."""


class CascadeMaskRCNN(CascadeRCNN):
    """Cascade R-CNN with mask heads."""

    task = INSTANCES
    needs = frozenset({"masks"})
    config: Config

    def __init__(self, backbone: FPN, num_classes: int, config: Config | None = None) -> None:
        config = config or Config()
        super().__init__(backbone, num_classes, config)
        num_heads = len(config.stages.ious) if config.mask_every_stage else 1
        heads = (MaskHead(backbone.channels[0], num_classes, config.mask_head) for _ in range(num_heads))
        self.mask_heads = nn.ModuleList(heads)

    def stage_losses(self, stage: int, raw: Raw, sampled: list[Sampled], targets: list[Instances]) -> dict[str, Tensor]:
        """Mean binary cross-entropy of the true class's mask on the stage's positive RoIs."""
        if stage >= len(self.mask_heads):
            return {}
        head, size = self.mask_heads[stage], self.config.mask_head.roi_size
        chosen = positives(sampled, self.num_classes)
        boxes, labels, gt_masks = sampled_mask_targets(chosen, targets, 2 * size, self.config.conventions)
        if not len(labels):
            return {"mask": zero_of(head)}
        logits = head(self.pool(raw.features, boxes, size), labels)
        return {"mask": F.binary_cross_entropy_with_logits(logits.float(), gt_masks)}

    def select_heads(self, raw: Raw, found: Detections, options: DecodeOptions) -> Detections:
        """Adds each kept box's mask, the mean of all heads'."""
        if not options.with_masks:
            return found
        probabilities = self.mask_probabilities(raw.features, list(found.boxes), torch.cat(found.labels))
        return found._replace(masks=found.per_image(probabilities))

    def mask_probabilities(self, features: Features, boxes: list[Tensor], labels: Tensor) -> Tensor:
        """Boxes of all images with a class each -> (R, M, M) 0..1."""
        parts = []
        for some, k in zip(in_groups(boxes, ROI_CHUNK_SIZE), labels.split(ROI_CHUNK_SIZE), strict=True):
            rois = self.pool(features, some, self.config.mask_head.roi_size)
            parts.append(torch.stack([head(rois, k).float().sigmoid() for head in self.mask_heads]).mean(dim=0))
        return torch.cat(parts)


# Variants -------------------------------------------------------------------------------------------------------------

MMDET = Config(rpn=cascade_rcnn.MMDET.rpn, stages=cascade_rcnn.MMDET.stages, conventions=cascade_rcnn.MMDET.conventions)
SWIN = replace(MMDET, box_head=cascade_rcnn.SWIN.box_head, stages=cascade_rcnn.SWIN.stages)
DETECTRON2 = Config(
    stages=cascade_rcnn.DETECTRON2.stages, conventions=cascade_rcnn.DETECTRON2.conventions, mask_every_stage=False
)
"""What the models of MMDetection, of Swin's authors and of Detectron2 do otherwise."""
LIGHT = Config(rpn=LIGHT_RPN, box_head=LIGHT_BOX_HEAD, mask_head=mask_rcnn.LIGHT.mask_head)


def cascade_mask_rcnn_r50_fpn_mmdet(num_classes: int = 80, **config: Any) -> CascadeMaskRCNN:
    """ResNet-50: MMDetection's ``cascade-mask-rcnn_r50_fpn_1x_coco``."""
    chosen = changed(MMDET, config)
    return CascadeMaskRCNN(resnet_fpn("resnet50", chosen.norm_eps), num_classes, chosen)


def cascade_mask_rcnn_r50_fpn_detectron2(num_classes: int = 80, **config: Any) -> CascadeMaskRCNN:
    """ResNet-50 that halves maps first: Detectron2's ``cascade_mask_rcnn_R_50_FPN_1x``; wants BGR."""
    chosen = changed(DETECTRON2, config)
    return CascadeMaskRCNN(resnet_fpn("resnet50", chosen.norm_eps, stride_first=True), num_classes, chosen)


def cascade_mask_rcnn_r101_fpn(num_classes: int = 80, **config: Any) -> CascadeMaskRCNN:
    """ResNet-101: MMDetection's ``cascade-mask-rcnn_r101_fpn_1x_coco``."""
    chosen = changed(MMDET, config)
    return CascadeMaskRCNN(resnet_fpn("resnet101", chosen.norm_eps), num_classes, chosen)


def cascade_mask_rcnn_swin_t_fpn(num_classes: int = 80, **config: Any) -> CascadeMaskRCNN:
    """Swin-T with the authors' heads."""
    return _on_swin("swin_t", num_classes, config)


def cascade_mask_rcnn_swin_s_fpn(num_classes: int = 80, **config: Any) -> CascadeMaskRCNN:
    """Swin-S with the authors' heads."""
    return _on_swin("swin_s", num_classes, config)


def cascade_mask_rcnn_swin_b_fpn(num_classes: int = 80, **config: Any) -> CascadeMaskRCNN:
    """Swin-B with the authors' heads."""
    return _on_swin("swin_b", num_classes, config)


def cascade_mask_rcnn_swin_v2_t_fpn(num_classes: int = 80, **config: Any) -> CascadeMaskRCNN:
    """Swin-T of the second version with the authors' heads."""
    return _on_swin("swin_v2_t", num_classes, config)


def cascade_mask_rcnn_lite0_fpn(num_classes: int = 80, **config: Any) -> CascadeMaskRCNN:
    """EfficientNet-Lite0 with narrow heads, for CPUs."""
    return CascadeMaskRCNN(light_fpn("tf_efficientnet_lite0"), num_classes, changed(LIGHT, config))


def cascade_mask_rcnn_lite0_p3(num_classes: int = 80, **config: Any) -> CascadeMaskRCNN:
    """EfficientNet-Lite0 with narrow heads on strides 8 ... 64, one mask head: for photographs on a CPU."""
    chosen = changed(replace(LIGHT, rpn=P3_RPN, roi=P3_ROI, mask_every_stage=False), config)
    return CascadeMaskRCNN(light_fpn("tf_efficientnet_lite0", first=1), num_classes, chosen)


def _on_swin(name: str, num_classes: int, config: dict[str, Any]) -> CascadeMaskRCNN:
    """The authors' ``cascade_mask_rcnn_swin_*_giou_4conv1f``; settings of the backbone are those under ``swin``."""
    swin = swin_fpn(name, {"keeps_shift": True} | config.pop("swin", {}))
    return CascadeMaskRCNN(swin, num_classes, changed(SWIN, config))
