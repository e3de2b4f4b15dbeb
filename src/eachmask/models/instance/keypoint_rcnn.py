"""Keypoint R-CNN: Mask R-CNN's idea for poses. Each keypoint is a mask with one pixel on.

He, Gkioxari, Dollar, Girshick: "Mask R-CNN", ICCV 2017, arXiv 1703.06870, section 5.

The idea: for each person box a head draws one 56 x 56 map per keypoint; a softmax over all places of a map says where
that keypoint is. The maps are enlarged to the box and their highest place is read off.

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
from eachmask.models.detection import faster_rcnn
from eachmask.models.detection.fast_rcnn import Sampled
from eachmask.models.detection.faster_rcnn import FasterRCNN, light_fpn, resnet_fpn
from eachmask.models.detection.rpn import Raw
from eachmask.ops.roi import in_groups
from eachmask.structures import DecodeOptions, Instances

ROIS_AT_ONCE = 256
"""RoIs are cut out and searched in groups of so many, so that memory stays flat whatever max_detections is."""


@dataclass(frozen=True)
class Config(faster_rcnn.Config):
    """Faster R-CNN's choices and the keypoint head's."""

    num_keypoints: int = 17
    keypoint_roi_size: int = 14
    keypoint_convs: int = 8
    keypoint_width: int = 512


class KeypointHead(nn.Module):
    """Eight convolutions, a learned doubling to 28, a bilinear one to 56 (section 5, implementation details)."""

    def __init__(self, channels: int, config: Config) -> None:
        super().__init__()
        widths = [channels, *[config.keypoint_width] * config.keypoint_convs]
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
    """Faster R-CNN with a keypoint head; see there for the three verbs."""

    config: Config

    def __init__(self, backbone: FPN, num_classes: int = 1, config: Config | None = None) -> None:
        config = config or Config()
        super().__init__(backbone, num_classes, config)
        self.keypoint_head = KeypointHead(backbone.channels[0], config)

    def head_losses(self, raw: Raw, sampled: list[Sampled], targets: list[Instances]) -> dict[str, Tensor]:
        """Adds the keypoint loss: cross-entropy over the places of each visible keypoint's map."""
        losses = super().head_losses(raw, sampled, targets)
        positive = [s.labels < self.num_classes for s in sampled]
        boxes = [s.boxes[p] for s, p in zip(sampled, positive, strict=True)]
        if not sum(len(b) for b in boxes):
            return losses | {"keypoint": sum(p.sum() for p in self.keypoint_head.parameters()) * 0}
        logits = self.keypoint_logits(raw.features, boxes)
        points = torch.cat(
            [
                _keypoints_of(target).to(b)[s.matched[p]]
                for target, s, p, b in zip(targets, sampled, positive, boxes, strict=True)
            ]
        )
        place, valid = keypoint_targets(points, torch.cat(boxes), logits.shape[-1])
        if not valid.any():
            return losses | {"keypoint": logits.sum() * 0}
        flat = logits.float().flatten(2)[valid]
        return losses | {"keypoint": F.cross_entropy(flat, place[valid])}

    def keypoint_logits(self, features: Features, boxes: list[Tensor]) -> Tensor:
        """Boxes of all images -> (R, P, M, M)."""
        size = self.config.keypoint_roi_size
        groups = in_groups(boxes, ROIS_AT_ONCE)
        return torch.cat([self.keypoint_head(self.pool(features, group, size)) for group in groups])

    def decode_heads(self, raw: Raw, instances: list[Instances], options: DecodeOptions) -> list[Instances]:
        """Adds each kept box's keypoints."""
        boxes = [i.boxes for i in instances]
        parts = self.keypoint_logits(raw.features, boxes).float().split([len(b) for b in boxes])
        return [replace(i, keypoints=read_keypoints(p, b)) for i, p, b in zip(instances, parts, boxes, strict=True)]


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


def keypoint_rcnn_r50_fpn(num_classes: int = 1, **config: Any) -> KeypointRCNN:
    """ResNet-50, 17 keypoints of a person: torchvision's ``keypointrcnn_resnet50_fpn``."""
    chosen = Config(**config)
    return KeypointRCNN(resnet_fpn("resnet50", chosen.norm_eps), num_classes, chosen)


def keypoint_rcnn_lite0_fpn(num_classes: int = 1, **config: Any) -> KeypointRCNN:
    """EfficientNet-Lite0 with narrow heads, for processors without a GPU."""
    light = faster_rcnn.LIGHT | {"keypoint_convs": 4, "keypoint_width": 128}
    return KeypointRCNN(light_fpn("tf_efficientnet_lite0"), num_classes, Config(**(light | config)))


def keypoint_rcnn_lite0_p3(num_classes: int = 1, **config: Any) -> KeypointRCNN:
    """EfficientNet-Lite0 with narrow heads on strides 8 ... 64: half the work, for people of 16 px and more.

    Backbone, pyramid, proposals and box head are those of the bundled ``objects``, from which training starts.
    """
    light = {"anchor_sizes": (24, 48, 96, 192), "roi_levels": 3, "keypoint_convs": 4, "keypoint_width": 128}
    few = {"box_agnostic": True, "roi_batch": 128, "rpn_candidates_training": 600, "proposals_training": 300}
    backbone = light_fpn("tf_efficientnet_lite0", first=1)
    return KeypointRCNN(backbone, num_classes, Config(**(faster_rcnn.LIGHT | light | few | config)))
