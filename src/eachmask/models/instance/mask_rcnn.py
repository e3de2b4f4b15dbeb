"""Mask R-CNN: Faster R-CNN that also paints each object.

He, Gkioxari, Dollar, Girshick: "Mask R-CNN", ICCV 2017 (Marr Prize), arXiv 1703.06870.

The idea: a third small head, a fully convolutional one, predicts a 28 x 28 mask for each box, in parallel to class
and box. RoIAlign keeps pixels where they are instead of rounding; a mask per class with a sigmoid each means that
classes do not compete for pixels: the box head alone decides what the object is.

The same numbers as torchvision's ``maskrcnn_resnet50_fpn`` and ``_v2`` (see ``tests/parity``). Where we differ:
besides what :mod:`~eachmask.models.detection.faster_rcnn` says, only the predicted class's mask is computed, and
masks stay 28 x 28 (``RoIMasks``) until somebody needs the pixels. These then lie at the box as it was predicted;
torchvision moves its corners to whole pixels first. On large boxes that is a pixel at the outline, but on boxes of 8 to
16 px the two agree at a median IoU of only 0.84: ``DecodeOptions(paste="torchvision")`` (``--paste torchvision``)
gives torchvision's pixels exactly.

Shapes: B images, R RoIs of all images, K classes, M = 28 the side of a mask.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eachmask.backbones.features import Features
from eachmask.backbones.fpn import FPN, Pyramid
from eachmask.backbones.networks import ResNet, Timm
from eachmask.backbones.pafpn import PAFPN, PLAIN
from eachmask.models.config import changed
from eachmask.models.detection import conventions, faster_rcnn
from eachmask.models.detection.conventions import Conventions
from eachmask.models.detection.fast_rcnn import Sampled, positives
from eachmask.models.detection.faster_rcnn import (
    LIGHT_BOX_HEAD,
    LIGHT_RPN,
    P3_ROI,
    P3_RPN,
    SHORT_RPN,
    V2_BOX_HEAD,
    V2_RPN,
    FasterRCNN,
    RoIConfig,
    light_fpn,
    resnet_fpn,
    swin_fpn,
)
from eachmask.models.detection.rpn import Raw
from eachmask.models.protocol import Detections
from eachmask.ops.mask_targets import mask_targets
from eachmask.ops.roi import in_groups
from eachmask.structures import DecodeOptions, Instances
from eachmask.tasks.instances import INSTANCES

ROI_CHUNK_SIZE = 512
"""RoIs are cut out and painted in groups of so many, so that memory stays flat whatever max_detections is."""

UPSAMPLE_CHUNK_SIZE = 16
"""... and when predicting, their last layers run on so few that 16 x 28 x 28 x 256 numbers stay in the cache."""


@dataclass(frozen=True)
class MaskHeadConfig:
    """The third head."""

    roi_size: int = 14
    """Side of the pooled grid; masks are twice as fine."""
    convs: int = 4
    width: int = 256
    norm: bool = False
    """Batch normalization (v2)."""
    class_agnostic: bool = False
    """One mask for all classes instead of one for each (section 4.1, class-specific against class-agnostic)."""


@dataclass(frozen=True)
class Config(faster_rcnn.Config):
    """Faster R-CNN's choices and the mask head's."""

    mask_head: MaskHeadConfig = MaskHeadConfig()


class MaskHead(nn.Module):
    """Convolutions, one doubling, one mask per class (paper, figure 4, right)."""

    def __init__(self, channels: int, num_classes: int, config: MaskHeadConfig) -> None:
        super().__init__()
        widths = [channels, *[config.width] * config.convs]
        self.convs = nn.Sequential(
            *(conv_relu(a, b, config.norm) for a, b in zip(widths[:-1], widths[1:], strict=True))
        )
        self.upsample = nn.ConvTranspose2d(widths[-1], config.width, 2, stride=2)
        self.masks = nn.Conv2d(config.width, 1 if config.class_agnostic else num_classes, 1)
        nn.init.kaiming_normal_(self.upsample.weight, mode="fan_out", nonlinearity="relu")
        # Torchvision scales these by the number of classes too: with one, weights of size 1 and a loss of 3 to begin.
        nn.init.normal_(self.masks.weight, std=0.01)
        for layer in (self.upsample, self.masks):
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, rois: Tensor, labels: Tensor) -> Tensor:
        """(R, C, 14, 14) and the class of each (R,) -> (R, M, M) logits of that class alone."""
        return self.predict(self.convs(rois), labels)

    def predict(self, x: Tensor, labels: Tensor) -> Tensor:
        """What the convolutions made of the RoIs (R, C', m, m), as the mask of one class each: (R, 2 m, 2 m)."""
        size = max(1, len(x) if torch.is_grad_enabled() else UPSAMPLE_CHUNK_SIZE)
        parts = zip(x.split(size), labels.split(size), strict=True)
        return torch.cat([self._predict(part, chosen) for part, chosen in parts])

    def _predict(self, x: Tensor, labels: Tensor) -> Tensor:
        """Double (R, C, m, m) in size and predict one class: (R, 2 m, 2 m).

        A transposed 2 x 2 convolution with stride 2 makes four pixels of each, by one matrix; as only a weighted
        sum of their channels is wanted, they need not be put in place before it.
        """
        count, channels, height, width = x.shape
        matrix = self.upsample.weight.permute(0, 2, 3, 1).flatten(1)  # (C, 2 * 2 * C')
        bias = self.upsample.bias.repeat(4)  # type: ignore[union-attr]
        pixels = x.permute(0, 2, 3, 1).reshape(-1, channels)
        quadruples = torch.addmm(bias, pixels, matrix).relu_()
        labels = labels if self.masks.out_channels > 1 else torch.zeros_like(labels)
        quadruples = quadruples.view(count, height * width * 4, self.upsample.out_channels)
        logits = torch.bmm(quadruples, self.masks.weight[labels].squeeze(-1))
        logits = logits.view(count, height, width, 2, 2) + self.masks.bias[labels].view(-1, 1, 1, 1, 1)  # type: ignore[index]
        return logits.permute(0, 1, 3, 2, 4).reshape(count, 2 * height, 2 * width)


class MaskRCNN(FasterRCNN):
    """Faster R-CNN with a mask head."""

    task = INSTANCES
    needs = frozenset({"masks"})
    config: Config

    def __init__(self, backbone: FPN, num_classes: int, config: Config | None = None) -> None:
        config = config or Config()
        super().__init__(backbone, num_classes, config)
        self.build_mask_head(backbone.channels[0])

    def build_mask_head(self, channels: int) -> None:
        """What paints the kept boxes."""
        self.mask_head = MaskHead(channels, self.num_classes, self.config.mask_head)

    def head_losses(self, raw: Raw, sampled: list[Sampled], targets: list[Instances]) -> dict[str, Tensor]:
        """Adds the mask loss: mean binary cross-entropy of the true class's mask on positive RoIs (section 3)."""
        losses = super().head_losses(raw, sampled, targets)
        boxes, labels, gt_masks = self.mask_targets(sampled, targets)
        if not len(labels):
            return losses | {"mask": zero_of(self.mask_head)}
        logits = self.mask_logits(raw.features, boxes, labels)
        return losses | {"mask": F.binary_cross_entropy_with_logits(logits.float(), gt_masks)}

    def select_heads(self, raw: Raw, found: Detections, options: DecodeOptions) -> Detections:
        """Adds each kept box's mask."""
        if not options.with_masks:
            return found
        logits = self.mask_logits(raw.features, list(found.boxes), torch.cat(found.labels))
        return found._replace(masks=found.per_image(logits.float().sigmoid()))

    def mask_logits(self, features: Features, boxes: list[Tensor], labels: Tensor) -> Tensor:
        """Boxes of all images with a class each -> (R, M, M)."""
        size = self.config.mask_head.roi_size
        parts = zip(in_groups(boxes, ROI_CHUNK_SIZE), labels.split(ROI_CHUNK_SIZE), strict=True)
        return torch.cat([self.mask_head(self.pool(features, b, size), k) for b, k in parts])

    def mask_targets(self, sampled: list[Sampled], targets: list[Instances]) -> tuple[list[Tensor], Tensor, Tensor]:
        """What the mask head learns from, see :func:`sampled_mask_targets`."""
        c = self.config
        chosen = positives(sampled, self.num_classes)
        return sampled_mask_targets(chosen, targets, 2 * c.mask_head.roi_size, c.conventions)


def sampled_mask_targets(
    positive: list[Sampled], targets: list[Instances], side: int, conventions: Conventions
) -> tuple[list[Tensor], Tensor, Tensor]:
    """What a mask head learns from.

    Args:
        positive: RoIs that stand for objects.
        side: M.

    Returns:
        the RoIs of each image (N_b, 4) px, the class of each (R,), and the mask that each should show (R, M, M), 0..1.

    Raises:
        ValueError: an image with positive RoIs has no masks.
    """
    gt_masks = [
        mask_targets(target.gt_masks, s.matched, s.boxes, side, conventions.roi_aligned)
        if len(s.boxes)
        else s.boxes.new_zeros((0, side, side))
        for target, s in zip(targets, positive, strict=True)
    ]
    masks, labels = torch.cat(gt_masks), torch.cat([s.labels for s in positive])
    return [s.boxes for s in positive], labels, (masks >= 0.5).to(masks) if conventions.binary_masks else masks


def zero_of(*modules: nn.Module) -> Tensor:
    """A loss of 0 in which all parameters have a part, as distributed training wants it: there is nothing to learn."""
    return torch.stack([p.sum() for module in modules for p in module.parameters()]).sum() * 0


def conv_relu(in_channels: int, out_channels: int, norm: bool) -> nn.Sequential:
    """3 x 3, maybe with batch normalization."""
    conv = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=not norm)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    layers = [conv, nn.BatchNorm2d(out_channels)] if norm else [conv]
    return nn.Sequential(*layers, nn.ReLU(inplace=True))


# Variants -------------------------------------------------------------------------------------------------------------


V2 = Config(rpn=V2_RPN, box_head=V2_BOX_HEAD, mask_head=MaskHeadConfig(norm=True))
MMDET = Config(rpn=SHORT_RPN, roi=RoIConfig(allow_low_quality_matches=True), conventions=conventions.MMDET)
DETECTRON2 = Config(rpn=SHORT_RPN, conventions=conventions.DETECTRON2)
"""What torchvision's second generation, MMDetection's and Detectron2's models do otherwise."""
LIGHT = Config(rpn=LIGHT_RPN, box_head=LIGHT_BOX_HEAD, mask_head=MaskHeadConfig(width=128))
LIGHT_P3 = replace(LIGHT, rpn=P3_RPN, roi=P3_ROI)
"""For small networks on small images; with a pyramid that starts at stride 8."""


def mask_rcnn_r50_fpn(num_classes: int = 80, **config: Any) -> MaskRCNN:
    """ResNet-50: torchvision's ``maskrcnn_resnet50_fpn``."""
    return _on_resnet("resnet50", num_classes, changed(Config(), config))


def mask_rcnn_r50_fpn_v2(num_classes: int = 80, **config: Any) -> MaskRCNN:
    """ResNet-50 with deeper heads, normalized: torchvision's ``maskrcnn_resnet50_fpn_v2``."""
    chosen = changed(V2, config)
    return MaskRCNN(resnet_fpn("resnet50", chosen.norm_eps, nn.BatchNorm2d), num_classes, chosen)


def mask_rcnn_r50_fpn_mmdet(num_classes: int = 80, **config: Any) -> MaskRCNN:
    """ResNet-50: MMDetection's ``mask-rcnn_r50_fpn_1x_coco``."""
    return _on_resnet("resnet50", num_classes, changed(MMDET, config))


def mask_rcnn_r50_fpn_detectron2(num_classes: int = 80, **config: Any) -> MaskRCNN:
    """ResNet-50 that halves maps first: Detectron2's ``mask_rcnn_R_50_FPN_1x``; wants BGR."""
    chosen = changed(DETECTRON2, config)
    return MaskRCNN(resnet_fpn("resnet50", chosen.norm_eps, stride_first=True), num_classes, chosen)


def mask_rcnn_r50_pafpn(num_classes: int = 80, **config: Any) -> MaskRCNN:
    """ResNet-50 with path aggregation in the pyramid alone: MMDetection's ``PAFPN``."""
    chosen = changed(MMDET, config)
    return MaskRCNN(PAFPN(ResNet("resnet50", chosen.norm_eps), bottom_up=PLAIN), num_classes, chosen)


def mask_rcnn_lite0_pafpn(num_classes: int = 80, **config: Any) -> MaskRCNN:
    """EfficientNet-Lite0 with narrow heads and path aggregation."""
    backbone = PAFPN(Timm("tf_efficientnet_lite0"), Pyramid(channels=128), PLAIN)
    return MaskRCNN(backbone, num_classes, changed(LIGHT, config))


def mask_rcnn_r18_fpn(num_classes: int = 80, **config: Any) -> MaskRCNN:
    """ResNet-18, full-size heads."""
    return _on_resnet("resnet18", num_classes, changed(Config(), config))


def mask_rcnn_lite0_fpn(num_classes: int = 80, **config: Any) -> MaskRCNN:
    """EfficientNet-Lite0 with narrow heads, for CPUs."""
    return MaskRCNN(light_fpn("tf_efficientnet_lite0"), num_classes, changed(LIGHT, config))


def mask_rcnn_lite0_p3(num_classes: int = 80, **config: Any) -> MaskRCNN:
    """EfficientNet-Lite0 with narrow heads on strides 8 ... 64: half the work, for objects of 16 px and more."""
    return MaskRCNN(light_fpn("tf_efficientnet_lite0", first=1), num_classes, changed(LIGHT_P3, config))


def mask_rcnn_r34_fpn(num_classes: int = 80, **config: Any) -> MaskRCNN:
    """ResNet-34, full-size heads."""
    return _on_resnet("resnet34", num_classes, changed(Config(), config))


def mask_rcnn_r101_fpn(num_classes: int = 80, **config: Any) -> MaskRCNN:
    """ResNet-101: MMDetection's ``mask-rcnn_r101_fpn_1x_coco``."""
    return _on_resnet("resnet101", num_classes, changed(MMDET, config))


def mask_rcnn_x101_fpn(num_classes: int = 80, **config: Any) -> MaskRCNN:
    """ResNeXt-101, 32 groups of 8 (arXiv 1611.05431): MMDetection's ``mask-rcnn_x101-32x8d_fpn``."""
    return _on_resnet("resnext101_32x8d", num_classes, changed(MMDET, config))


def mask_rcnn_swin_t_fpn(num_classes: int = 80, **config: Any) -> MaskRCNN:
    """Swin-T (torchvision's), full-size heads."""
    return _on_swin("swin_t", num_classes, config)


def mask_rcnn_swin_s_fpn(num_classes: int = 80, **config: Any) -> MaskRCNN:
    """Swin-S (torchvision's), full-size heads."""
    return _on_swin("swin_s", num_classes, config)


def mask_rcnn_swin_b_fpn(num_classes: int = 80, **config: Any) -> MaskRCNN:
    """Swin-B (torchvision's), full-size heads."""
    return _on_swin("swin_b", num_classes, config)


def mask_rcnn_swin_v2_t_fpn(num_classes: int = 80, **config: Any) -> MaskRCNN:
    """Swin-T of the second version (torchvision's), full-size heads."""
    return _on_swin("swin_v2_t", num_classes, config)


def mask_rcnn_swin_v2_s_fpn(num_classes: int = 80, **config: Any) -> MaskRCNN:
    """Swin-S of the second version (torchvision's), full-size heads."""
    return _on_swin("swin_v2_s", num_classes, config)


def mask_rcnn_swin_v2_b_fpn(num_classes: int = 80, **config: Any) -> MaskRCNN:
    """Swin-B of the second version (torchvision's), full-size heads."""
    return _on_swin("swin_v2_b", num_classes, config)


def mask_rcnn_swin_t_fpn_mmdet(num_classes: int = 80, **config: Any) -> MaskRCNN:
    """Swin-T: MMDetection's ``mask-rcnn_swin-t-p4-w7_fpn_1x_coco`` and the original of its authors."""
    return _on_swin("swin_t", num_classes, config, MMDET)


def mask_rcnn_swin_s_fpn_mmdet(num_classes: int = 80, **config: Any) -> MaskRCNN:
    """Swin-S: MMDetection's ``mask-rcnn_swin-s-p4-w7_fpn_amp-ms-crop-3x_coco``."""
    return _on_swin("swin_s", num_classes, config, MMDET)


def mask_rcnn_timm_fpn(num_classes: int = 80, backbone: str = "convnext_tiny", **config: Any) -> MaskRCNN:
    """Any network of timm's that lists its features, named by ``backbone``; full-size heads."""
    return MaskRCNN(FPN(Timm(backbone)), num_classes, changed(Config(), config))


def _on_resnet(name: str, num_classes: int, config: Config) -> MaskRCNN:
    return MaskRCNN(resnet_fpn(name, config.norm_eps), num_classes, config)


def _on_swin(name: str, num_classes: int, config: dict[str, Any], start: Config | None = None) -> MaskRCNN:
    """Settings of the backbone are those under ``swin``; MMDetection's keep their windows shifted."""
    changes = {"keeps_shift": start is not None} | config.pop("swin", {})
    return MaskRCNN(swin_fpn(name, changes), num_classes, changed(start or Config(), config))
