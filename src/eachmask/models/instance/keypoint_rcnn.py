"""Keypoint R-CNN: Mask R-CNN's idea for poses. Each keypoint is a mask with one pixel on.

He, Gkioxari, Dollar, Girshick: "Mask R-CNN", ICCV 2017, arXiv 1703.06870, section 5.

The idea: for each person box a head predicts one 56 x 56 map per keypoint; a softmax over all places of a map says
where that keypoint is. The maps are enlarged to the box and their highest place is read off.

The same places as torchvision's ``keypointrcnn_resnet50_fpn`` (see ``tests/parity``). Every kept box gets all
keypoints; a keypoint's score is the softmax at its peak, 0..1, as Detectron2 reports it (torchvision: the logit).

Shapes: R RoIs of all images, P keypoints, M = 56 the side of a map.
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
from eachmask.models.detection import faster_rcnn
from eachmask.models.detection.fast_rcnn import Sampled, positives
from eachmask.models.detection.faster_rcnn import (
    LIGHT_BOX_HEAD,
    LIGHT_RPN,
    P3_ROI,
    P3_RPN,
    FasterRCNN,
    light_fpn,
    resnet_fpn,
)
from eachmask.models.detection.rpn import Raw
from eachmask.models.instance.mask_rcnn import zero_of
from eachmask.models.protocol import Detections
from eachmask.ops.roi import in_groups
from eachmask.structures import DecodeOptions, Instances
from eachmask.tasks.keypoints import KEYPOINTS

ROI_CHUNK_SIZE = 256
"""RoIs are cut out and searched in groups of so many, so that memory stays flat whatever max_detections is."""


@dataclass(frozen=True)
class KeypointHeadConfig:
    """The third head."""

    num_keypoints: int = 17
    roi_size: int = 14
    """Side of the pooled grid; maps are four times as fine."""
    convs: int = 8
    width: int = 512


@dataclass(frozen=True)
class Config(faster_rcnn.Config):
    """Faster R-CNN's choices and the keypoint head's."""

    keypoint_head: KeypointHeadConfig = KeypointHeadConfig()


class KeypointHead(nn.Module):
    """Eight convolutions, a learned doubling to 28, a bilinear one to 56 (section 5, implementation details)."""

    def __init__(self, channels: int, config: KeypointHeadConfig) -> None:
        super().__init__()
        widths = [channels, *[config.width] * config.convs]
        layers: list[nn.Module] = []
        for a, b in zip(widths[:-1], widths[1:], strict=True):
            layers += [nn.Conv2d(a, b, 3, padding=1), nn.ReLU(inplace=True)]
        self.convs = nn.Sequential(*layers)
        self.upsample = nn.ConvTranspose2d(widths[-1], config.num_keypoints, 4, stride=2, padding=1)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        # So that all places start about equally likely; peaks by chance would first have to be unlearnt.
        nn.init.normal_(self.upsample.weight, std=0.01)

    def forward(self, rois: Tensor) -> Tensor:
        """(R, C, 14, 14) -> (R, P, 56, 56) logits."""
        return F.interpolate(self.upsample(self.convs(rois)), scale_factor=2, mode="bilinear", align_corners=False)


class KeypointRCNN(FasterRCNN):
    """Faster R-CNN with a keypoint head."""

    task = KEYPOINTS
    backbone_from = "clicks"
    needs = frozenset({"keypoints"})
    config: Config

    def __init__(self, backbone: FPN, num_classes: int = 1, config: Config | None = None) -> None:
        config = config or Config()
        super().__init__(backbone, num_classes, config)
        self.keypoint_head = KeypointHead(backbone.channels[0], config.keypoint_head)

    def head_losses(self, raw: Raw, sampled: list[Sampled], targets: list[Instances]) -> dict[str, Tensor]:
        """Adds the keypoint loss: cross-entropy over the places of each visible keypoint's map."""
        losses = super().head_losses(raw, sampled, targets)
        chosen = positives(sampled, self.num_classes)
        boxes = [s.boxes for s in chosen]
        if not sum(len(b) for b in boxes):
            return losses | {"keypoint": zero_of(self.keypoint_head)}
        logits = self.keypoint_logits(raw.features, boxes)
        gt_keypoints = torch.cat(
            [_keypoints_of(target).to(s.boxes)[s.matched] for target, s in zip(targets, chosen, strict=True)]
        )
        place, valid = keypoint_targets(gt_keypoints, torch.cat(boxes), logits.shape[-1])
        if not valid.any():
            return losses | {"keypoint": logits.sum() * 0}
        flat = logits.float().flatten(2)[valid]
        return losses | {"keypoint": F.cross_entropy(flat, place[valid])}

    def keypoint_logits(self, features: Features, boxes: list[Tensor]) -> Tensor:
        """Boxes of all images -> (R, P, M, M)."""
        size = self.config.keypoint_head.roi_size
        groups = in_groups(boxes, ROI_CHUNK_SIZE)
        return torch.cat([self.keypoint_head(self.pool(features, group, size)) for group in groups])

    def select_heads(self, raw: Raw, found: Detections, options: DecodeOptions) -> Detections:
        """Adds each kept box's keypoints."""
        logits = found.per_image(self.keypoint_logits(raw.features, list(found.boxes)).float())
        keypoints = (read_keypoints(maps, boxes) for maps, boxes in zip(logits, found.boxes, strict=True))
        return found._replace(keypoints=tuple(keypoints))


def keypoint_targets(points: Tensor, boxes: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Keypoints in pixels -> the place of each in its box's map.

    Args:
        points: (R, P, 3) x, y, visibility; boxes: (R, 4); side: of the map.

    Returns:
        (R, P) int64 places ``row * side + column``, and (R, P) bool: visible and inside the box.
    """
    corner, size = boxes[:, None, :2], boxes[:, None, 2:] - boxes[:, None, :2]
    place = torch.floor((points[..., :2] - corner) * (side / size)).to(torch.int64)
    # A point on the right or lower border belongs to the last row or column.
    place = torch.where(points[..., :2] == boxes[:, None, 2:], torch.full_like(place, side - 1), place)
    inside = ((place >= 0) & (place < side)).all(-1)
    valid = inside & (points[..., 2] > 0)
    x, y = place.unbind(-1)
    return (y * side + x) * valid, valid


def read_keypoints(logits: Tensor, boxes: Tensor) -> Tensor:
    """The highest place of each map and its probability.

    Args:
        logits: (R, P, M, M); boxes: (R, 4).

    Returns:
        (R, P, 3): x, y in pixels and the probability, 0..1.
    """
    found = find_peaks(logits, boxes)
    likely = (found[..., 2] - logits.flatten(2).logsumexp(-1)).exp()
    return torch.cat([found[..., :2], likely.clamp(max=1)[..., None]], dim=-1)  # bicubic enlargement overshoots


def find_peaks(logits: Tensor, boxes: Tensor) -> Tensor:
    """The highest place of each map, after bicubic enlargement to the box (Detectron's way).

    Args:
        logits: (R, P, M, M); boxes: (R, 4).

    Returns:
        (R, P, 3): x, y in pixels and the height of the peak, a logit.
    """
    result = logits.new_zeros((len(logits), logits.shape[1], 3))
    for i, (maps, box) in enumerate(zip(logits, boxes, strict=True)):
        size = (box[2:] - box[:2]).clamp(min=1)
        width, height = (int(v) for v in size.ceil().tolist())
        large = F.interpolate(maps[None], size=(height, width), mode="bicubic", align_corners=False)[0]
        place = large.flatten(1).argmax(dim=1)
        row, column = place.div(width, rounding_mode="floor"), place % width
        result[i, :, 0] = (column + 0.5) * (size[0] / width) + box[0]
        result[i, :, 1] = (row + 0.5) * (size[1] / height) + box[1]
        result[i, :, 2] = large.flatten(1).gather(1, place[:, None]).squeeze(1)
    return result


def _keypoints_of(target: Instances) -> Tensor:
    if target.keypoints is None:
        raise ValueError("Keypoint R-CNN learns from keypoints, but a target has none")
    return target.keypoints


# Variants -------------------------------------------------------------------------------------------------------------

LIGHT = Config(rpn=LIGHT_RPN, box_head=LIGHT_BOX_HEAD, keypoint_head=KeypointHeadConfig(convs=4, width=128))
LIGHT_P3 = replace(
    LIGHT,
    rpn=replace(P3_RPN, pre_nms_top_n_training=600, post_nms_top_n_training=300),
    roi=replace(P3_ROI, batch_size=128),
    box_head=replace(LIGHT_BOX_HEAD, class_agnostic=True),
)


def keypoint_rcnn_r50_fpn(num_classes: int = 1, **config: Any) -> KeypointRCNN:
    """ResNet-50, 17 keypoints of a person: torchvision's ``keypointrcnn_resnet50_fpn``."""
    chosen = changed(Config(), config)
    return KeypointRCNN(resnet_fpn("resnet50", chosen.norm_eps), num_classes, chosen)


def keypoint_rcnn_lite0_fpn(num_classes: int = 1, **config: Any) -> KeypointRCNN:
    """EfficientNet-Lite0 with narrow heads, for CPUs."""
    return KeypointRCNN(light_fpn("tf_efficientnet_lite0"), num_classes, changed(LIGHT, config))


def keypoint_rcnn_lite0_p3(num_classes: int = 1, **config: Any) -> KeypointRCNN:
    """EfficientNet-Lite0 with narrow heads on strides 8 ... 64: half the work, for people of 16 px and more."""
    return KeypointRCNN(light_fpn("tf_efficientnet_lite0", first=1), num_classes, changed(LIGHT_P3, config))
