"""Mask R-CNN: Faster R-CNN that also paints each object.

He, Gkioxari, Dollar, Girshick: "Mask R-CNN", ICCV 2017 (Marr Prize), arXiv 1703.06870.

The idea: a third small head, a fully convolutional one, predicts a 28 x 28 mask for each box, in parallel to class
and box. RoIAlign keeps pixels where they are instead of rounding; a mask per class with a sigmoid each means that
classes do not compete for pixels: the box head alone decides what the object is.

The same numbers as torchvision's ``maskrcnn_resnet50_fpn`` and ``_v2`` (see ``tests/parity``). Where we differ:
besides what :mod:`~eachmask.models.detection.faster_rcnn` says, only the predicted class's mask is computed, and
masks stay 28 x 28 (``RoIMasks``) until somebody needs the pixels.

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
from eachmask.models.detection import faster_rcnn
from eachmask.models.detection.fast_rcnn import Sampled
from eachmask.models.detection.faster_rcnn import FasterRCNN, light_fpn, resnet_fpn, swin_fpn
from eachmask.models.detection.rpn import Raw
from eachmask.ops.mask_targets import mask_targets
from eachmask.ops.roi import in_groups
from eachmask.structures import DecodeOptions, Instances, RoIMasks

ROIS_AT_ONCE = 512
"""RoIs are cut out and painted in groups of so many, so that memory stays flat whatever max_detections is."""

UPSAMPLED_AT_ONCE = 16
"""... and when predicting, their last layers run on so few that 16 x 28 x 28 x 256 numbers stay in the cache."""


@dataclass(frozen=True)
class Config(faster_rcnn.Config):
    """Faster R-CNN's choices and the mask head's."""

    mask_roi_size: int = 14
    mask_convs: int = 4
    mask_width: int = 256
    mask_norm: bool = False
    """Batch normalization in the mask head (v2)."""
    mask_agnostic: bool = False
    """One mask for all classes instead of one for each (section 4.1, class-specific against class-agnostic)."""
    mask_binary: bool = False
    """True masks at the head's size are 0 or 1 instead of shares of pixels (Detectron2, MMDetection)."""


class MaskHead(nn.Module):
    """Convolutions, one doubling, one mask per class (paper, figure 4, right)."""

    def __init__(self, channels: int, num_classes: int, config: Config) -> None:
        super().__init__()
        widths = [channels, *[config.mask_width] * config.mask_convs]
        self.convs = nn.Sequential(
            *(_conv_relu(a, b, config.mask_norm) for a, b in zip(widths[:-1], widths[1:], strict=True))
        )
        self.upsample = nn.ConvTranspose2d(widths[-1], config.mask_width, 2, stride=2)
        self.masks = nn.Conv2d(config.mask_width, 1 if config.mask_agnostic else num_classes, 1)
        nn.init.kaiming_normal_(self.upsample.weight, mode="fan_out", nonlinearity="relu")
        # Torchvision scales these by the number of classes too: with one, weights of size 1 and a loss of 3 to begin.
        nn.init.normal_(self.masks.weight, std=0.01)
        for layer in (self.upsample, self.masks):
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, rois: Tensor, labels: Tensor) -> Tensor:
        """(R, C, 14, 14) and the class of each (R,) -> (R, M, M) logits of that class alone."""
        return self.draw(self.convs(rois), labels)

    def draw(self, x: Tensor, labels: Tensor) -> Tensor:
        """What the convolutions made of the RoIs (R, C', m, m), as the mask of one class each: (R, 2 m, 2 m)."""
        at_once = max(1, len(x) if torch.is_grad_enabled() else UPSAMPLED_AT_ONCE)
        parts = zip(x.split(at_once), labels.split(at_once), strict=True)
        return torch.cat([self._draw(part, chosen) for part, chosen in parts])

    def _draw(self, x: Tensor, labels: Tensor) -> Tensor:
        """Double (R, C, m, m) in size and paint one class: (R, 2 m, 2 m).

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
    """Faster R-CNN with a mask head; see there for the three verbs."""

    config: Config

    def __init__(self, backbone: FPN, num_classes: int, config: Config | None = None) -> None:
        config = config or Config()
        super().__init__(backbone, num_classes, config)
        self.mask_head = MaskHead(backbone.channels[0], num_classes, config)

    def head_losses(self, raw: Raw, sampled: list[Sampled], targets: list[Instances]) -> dict[str, Tensor]:
        """Adds the mask loss: mean binary cross-entropy of the true class's mask on positive RoIs (section 3)."""
        losses = super().head_losses(raw, sampled, targets)
        boxes, labels, wanted = sampled_mask_targets(sampled, targets, self.num_classes, self.config)
        if not len(labels):
            return losses | {"mask": torch.stack([p.sum() for p in self.mask_head.parameters()]).sum() * 0}
        logits = self.mask_logits(raw.features, boxes, labels)
        return losses | {"mask": F.binary_cross_entropy_with_logits(logits.float(), wanted)}

    def decode_heads(self, raw: Raw, instances: list[Instances], options: DecodeOptions) -> list[Instances]:
        """Adds each kept box's mask."""
        if not options.with_masks:
            return instances
        labels = torch.cat([i.labels for i in instances if i.labels is not None])
        logits = self.mask_logits(raw.features, [i.boxes for i in instances], labels)
        probabilities = logits.float().sigmoid().split([len(i) for i in instances])
        return [
            replace(i, masks=RoIMasks(p, i.boxes, i.image_size, options.mask_threshold, options.paste))
            for i, p in zip(instances, probabilities, strict=True)
        ]

    def mask_logits(self, features: Features, boxes: list[Tensor], labels: Tensor) -> Tensor:
        """Boxes of all images with a class each -> (R, M, M)."""
        parts = zip(in_groups(boxes, ROIS_AT_ONCE), labels.split(ROIS_AT_ONCE), strict=True)
        return torch.cat([self.mask_head(self.pool(features, b, self.config.mask_roi_size), k) for b, k in parts])


def sampled_mask_targets(
    sampled: list[Sampled], targets: list[Instances], num_classes: int, config: Config
) -> tuple[list[Tensor], Tensor, Tensor]:
    """What a mask head learns from.

    Returns:
        the positive RoIs of each image (N_b, 4) px, the class of each (R,), and the mask that each should show
        (R, M, M), 0..1.

    Raises:
        ValueError: an image with positive RoIs has no masks.
    """
    positive = [s.labels < num_classes for s in sampled]
    boxes = [s.boxes[p] for s, p in zip(sampled, positive, strict=True)]
    labels = torch.cat([s.labels[p] for s, p in zip(sampled, positive, strict=True)])
    side = 2 * config.mask_roi_size
    wanted = [
        mask_targets(target.gt_masks, s.matched[p], b, side, config.roi_aligned)
        if len(b)
        else b.new_zeros((0, side, side))
        for target, s, p, b in zip(targets, sampled, positive, boxes, strict=True)
    ]
    masks = torch.cat(wanted)
    return boxes, labels, (masks >= 0.5).to(masks) if config.mask_binary else masks


def _conv_relu(in_channels: int, out_channels: int, norm: bool) -> nn.Sequential:
    conv = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=not norm)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    layers = [conv, nn.BatchNorm2d(out_channels)] if norm else [conv]
    return nn.Sequential(*layers, nn.ReLU(inplace=True))


# Variants -------------------------------------------------------------------------------------------------------------


def mask_rcnn_r50_fpn(num_classes: int = 80, **config: Any) -> MaskRCNN:
    """ResNet-50: torchvision's ``maskrcnn_resnet50_fpn``."""
    chosen = Config(**config)
    return MaskRCNN(resnet_fpn("resnet50", chosen.norm_eps), num_classes, chosen)


def mask_rcnn_r50_fpn_v2(num_classes: int = 80, **config: Any) -> MaskRCNN:
    """ResNet-50 with deeper heads, normalized: torchvision's ``maskrcnn_resnet50_fpn_v2``."""
    chosen = Config(**(faster_rcnn.V2 | {"mask_norm": True} | config))
    return MaskRCNN(resnet_fpn("resnet50", chosen.norm_eps, nn.BatchNorm2d), num_classes, chosen)


MMDET: dict[str, Any] = faster_rcnn.MMDET | {"roi_rescue": True, "mask_binary": True}
DETECTRON2: dict[str, Any] = faster_rcnn.DETECTRON2 | {"mask_binary": True}
"""What MMDetection's and Detectron2's models do otherwise; also for the models built on them."""


def mask_rcnn_r50_fpn_mmdet(num_classes: int = 80, **config: Any) -> MaskRCNN:
    """ResNet-50: MMDetection's ``mask-rcnn_r50_fpn_1x_coco``."""
    return mask_rcnn_r50_fpn(num_classes, **(MMDET | config))


def mask_rcnn_r50_fpn_detectron2(num_classes: int = 80, **config: Any) -> MaskRCNN:
    """ResNet-50 that halves maps first: Detectron2's ``mask_rcnn_R_50_FPN_1x``; wants BGR."""
    chosen = Config(**(DETECTRON2 | config))
    return MaskRCNN(resnet_fpn("resnet50", chosen.norm_eps, stride_first=True), num_classes, chosen)


def mask_rcnn_r50_pafpn(num_classes: int = 80, **config: Any) -> MaskRCNN:
    """ResNet-50 with path aggregation in the pyramid alone: MMDetection's ``PAFPN``."""
    chosen = Config(**(MMDET | config))
    return MaskRCNN(PAFPN(ResNet("resnet50", chosen.norm_eps), bottom_up=PLAIN), num_classes, chosen)


def mask_rcnn_lite0_pafpn(num_classes: int = 80, **config: Any) -> MaskRCNN:
    """EfficientNet-Lite0 with narrow heads and path aggregation."""
    backbone = PAFPN(Timm("tf_efficientnet_lite0"), Pyramid(channels=128), PLAIN)
    return MaskRCNN(backbone, num_classes, Config(**(faster_rcnn.LIGHT | {"mask_width": 128} | config)))


def mask_rcnn_r18_fpn(num_classes: int = 80, **config: Any) -> MaskRCNN:
    """ResNet-18, full-size heads."""
    chosen = Config(**config)
    return MaskRCNN(resnet_fpn("resnet18", chosen.norm_eps), num_classes, chosen)


def mask_rcnn_lite0_fpn(num_classes: int = 80, **config: Any) -> MaskRCNN:
    """EfficientNet-Lite0 with narrow heads, for processors without a GPU."""
    return MaskRCNN(
        light_fpn("tf_efficientnet_lite0"), num_classes, Config(**(faster_rcnn.LIGHT | {"mask_width": 128} | config))
    )


LIGHT_P3: dict[str, Any] = faster_rcnn.LIGHT | {"anchor_sizes": (24, 48, 96, 192), "roi_levels": 3, "mask_width": 128}
"""For small networks whose pyramid starts at stride 8."""


def mask_rcnn_lite0_p3(num_classes: int = 80, **config: Any) -> MaskRCNN:
    """EfficientNet-Lite0 with narrow heads on strides 8 ... 64: half the work, for objects of 16 px and more."""
    return MaskRCNN(light_fpn("tf_efficientnet_lite0", first=1), num_classes, Config(**(LIGHT_P3 | config)))


def mask_rcnn_r34_fpn(num_classes: int = 80, **config: Any) -> MaskRCNN:
    """ResNet-34, full-size heads."""
    chosen = Config(**config)
    return MaskRCNN(resnet_fpn("resnet34", chosen.norm_eps), num_classes, chosen)


def mask_rcnn_r101_fpn(num_classes: int = 80, **config: Any) -> MaskRCNN:
    """ResNet-101: MMDetection's ``mask-rcnn_r101_fpn_1x_coco``."""
    chosen = Config(**(MMDET | config))
    return MaskRCNN(resnet_fpn("resnet101", chosen.norm_eps), num_classes, chosen)


def mask_rcnn_x101_fpn(num_classes: int = 80, **config: Any) -> MaskRCNN:
    """ResNeXt-101, 32 groups of 8 (arXiv 1611.05431): MMDetection's ``mask-rcnn_x101-32x8d_fpn``."""
    chosen = Config(**(MMDET | config))
    return MaskRCNN(resnet_fpn("resnext101_32x8d", chosen.norm_eps), num_classes, chosen)


def mask_rcnn_swin_t_fpn(num_classes: int = 80, **config: Any) -> MaskRCNN:
    """Swin-T (torchvision's), full-size heads."""
    return MaskRCNN(swin_fpn("swin_t"), num_classes, Config(**config))


def mask_rcnn_swin_s_fpn(num_classes: int = 80, **config: Any) -> MaskRCNN:
    """Swin-S (torchvision's), full-size heads."""
    return MaskRCNN(swin_fpn("swin_s"), num_classes, Config(**config))


def mask_rcnn_swin_b_fpn(num_classes: int = 80, **config: Any) -> MaskRCNN:
    """Swin-B (torchvision's), full-size heads."""
    return MaskRCNN(swin_fpn("swin_b"), num_classes, Config(**config))


def mask_rcnn_timm_fpn(num_classes: int = 80, backbone: str = "convnext_tiny", **config: Any) -> MaskRCNN:
    """Any network of timm's that lists its features, named by ``backbone``; full-size heads."""
    return MaskRCNN(FPN(Timm(backbone)), num_classes, Config(**config))
