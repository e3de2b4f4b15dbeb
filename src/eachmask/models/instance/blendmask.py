"""BlendMask: each object mixes a few masks of the whole scene by coarse attention maps of its own.

Chen, Sun, Tian, Shen, Huang, Yan: "BlendMask: Top-Down Meets Bottom-Up for Instance Segmentation", CVPR 2020,
arXiv 2001.00309.

The idea: bottom up, a decoder draws K = 4 *bases* for the image, sharp but knowing no objects; top down, every place of
FCOS predicts K attention maps of 14 x 14, coarse but knowing which object is meant. Bases cut out of the box, times
attention made as large, summed: a mask as sharp as the bases for the price of one multiplication per pixel.

Written from the paper; the same numbers as AdelaiDet's BlendMask (see ``tests/parity``). Where we differ: besides what
:mod:`~eachmask.models.detection.fcos` says, a mask is pasted into the box that its bases were cut from, even where
that reaches beyond the image (AdelaiDet squeezes it into the clipped box); the auxiliary head's background is last.

Shapes: B images, P places of all levels of one image, N objects, K bases, M = 14 attention, R = 56 bases in a box.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eachmask.backbones.networks import ResNet, Timm
from eachmask.models.detection import fcos
from eachmask.models.detection.fcos import FCOS, distances_to, flat, output, p3_to_p7
from eachmask.models.instance.condinst import conv_norm_relu
from eachmask.ops.dynamic import every_fourth
from eachmask.ops.mask_targets import mask_targets
from eachmask.ops.roi import in_groups, roi_align
from eachmask.structures import DecodeOptions, ImageBatch, Instances, RoIMasks

ROIS_AT_ONCE = 128
"""Boxes whose bases are cut out together when predicting."""

IGNORED = -1
"""Semantic target of pixels in crowd regions."""


class Raw(NamedTuple):
    """What FCOS says of every place, the attention it offers there, and the bases."""

    detection: fcos.Raw
    attention: tuple[Tensor, ...]  # per level (B, K M M, H, W)
    bases: Tensor  # (B, K, H, W), stride 4


@dataclass(frozen=True)
class Config(fcos.Config):
    """FCOS's choices, in which AdelaiDet's differ from MMDetection's, and those of the blender."""

    scales: bool = False
    score: fcos.Score = "root"
    threshold_on: fcos.Ranked = "product"
    best_by: fcos.Ranked = "product"
    clip_first: bool = False
    box_loss: fcos.BoxLoss = "smoothed"
    bases: int = 4
    """K (paper, table 3)."""
    base_width: int = 128
    """Channels of the decoder."""
    base_convs: int = 3
    """Convolutions before it doubles its map."""
    attention_size: int = 14
    """M (table 2)."""
    base_size: int = 56
    """R (table 1)."""
    semantic_weight: float = 0.3
    """Of the auxiliary classes of pixels (section 3.1)."""


# Blocks, in the order of the data -------------------------------------------------------------------------------------


class Doubled(nn.Module):
    """Twice the size, bilinearly."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, 2 H, 2 W)."""
        return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


class BasisModule(nn.Module):
    """Three levels of the pyramid to K maps, and while training to the classes of pixels (section 3.1)."""

    def __init__(self, channels: int, num_classes: int, config: Config) -> None:
        super().__init__()
        width = config.base_width
        self.refine = nn.ModuleList(conv_norm_relu(channels, width) for _ in range(3))
        self.tower = nn.Sequential(
            *(conv_norm_relu(width, width) for _ in range(config.base_convs)),
            Doubled(),
            conv_norm_relu(width, width),
            nn.Conv2d(width, config.bases, 1),
        )
        self.semantic = nn.Sequential(
            conv_norm_relu(channels, width), conv_norm_relu(width, width), nn.Conv2d(width, num_classes + 1, 1)
        )

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """Maps (B, C, H_i, W_i) of strides 8, 16, 32 -> (B, K, H, W) of stride 4."""
        finest, *others = (refine(level) for refine, level in zip(self.refine, levels, strict=False))
        for level in others:
            finest = finest + F.interpolate(level, size=finest.shape[-2:], mode="bilinear", align_corners=False)
        result: Tensor = self.tower(finest)
        return result


def blend(bases: Tensor, attention: Tensor) -> Tensor:
    """Logits of each object's mask: bases times normalized attention, summed (eq. 2 - 5).

    Args:
        bases: (N, K, R, R) cut out of each object's box.
        attention: (N, K, M, M), M <= R.

    Returns:
        (N, R, R).
    """
    size = bases.shape[-2:]
    attention = F.interpolate(attention.float(), size=size, mode="bilinear", align_corners=False)
    return (bases.float() * attention.softmax(dim=1)).sum(dim=1)


# The model ------------------------------------------------------------------------------------------------------------


class BlendMask(FCOS):
    """FCOS with attention at every place, bases and a blender; see there for the three verbs."""

    config: Config

    def __init__(self, backbone: nn.Module, num_classes: int, config: Config | None = None) -> None:
        config = config or Config()
        super().__init__(backbone, num_classes, config)
        channels: Any = backbone.channels
        self.attention = output(channels[0], config.bases * config.attention_size**2)
        self.basis = BasisModule(channels[0], num_classes, config)

    def forward(self, images: ImageBatch) -> Raw:  # type: ignore[override]
        """(B, 3, H, W) -> what FCOS says, attention and bases."""
        detection = super().forward(images)
        attention = tuple(self.attention(level) for level in detection.towers)
        return Raw(detection, attention, self.basis(detection.features.maps))

    def losses(self, raw: Raw, targets: list[Instances]) -> dict[str, Tensor]:  # type: ignore[override]
        """FCOS's losses, the masks' cross-entropy in the true boxes, and that of the classes of pixels.

        Places near the middle of an object count more for its mask, by their centerness.
        """
        matched = self.assign(raw.detection, targets)
        losses = self.detection_losses(raw.detection, targets, matched)
        total, weight = raw.bases.sum() * 0 + sum(level.sum() for level in raw.attention) * 0, 0.0
        attention, points = flat(raw.attention), torch.cat(self.points(raw.detection))
        for image, (target, index) in enumerate(zip(targets, matched, strict=True)):
            places = torch.nonzero(index >= 0).squeeze(1)
            if len(places):
                objects, row = index[places].unique(return_inverse=True)
                boxes = target.boxes.to(points)[objects]
                bases = self.cut(raw.bases[image : image + 1], [boxes])
                logits = blend(bases[row], self.maps(attention[image, places]))
                truth = mask_targets(target.gt_masks, objects, boxes, self.config.base_size, aligned=True)
                truth = (truth >= 0.5).to(logits)[row]
                errors = F.binary_cross_entropy_with_logits(logits, truth, reduction="none").mean(dim=(1, 2))
                quality = fcos.centerness(distances_to(points[places], boxes[row]))
                total, weight = total + (errors * quality).sum(), weight + float(quality.sum())
        return losses | {"mask": total / max(weight, 1e-6), "semantic": self._semantic_loss(raw, targets)}

    def decode(self, raw: Raw, options: DecodeOptions) -> list[Instances]:  # type: ignore[override]
        """FCOS's detections, each blended in the box that its place predicts, also beyond the image's border."""
        kept = self.keep(raw.detection, options)
        results = [one.clipped() for one in kept]
        if not options.with_masks:
            return results
        boxes = [one.instances.boxes for one in kept]
        attention = flat(raw.attention)
        chosen = torch.cat([attention[image, one.places] for image, one in enumerate(kept)])
        groups = zip(in_groups(boxes, ROIS_AT_ONCE), chosen.split(ROIS_AT_ONCE), strict=True)
        blended = [blend(self.cut(raw.bases, group), self.maps(some)).sigmoid() for group, some in groups]
        probabilities = torch.cat(blended).split([len(b) for b in boxes])
        return [
            replace(found, masks=RoIMasks(p, b, found.image_size, options.mask_threshold, options.paste))
            for found, p, b in zip(results, probabilities, boxes, strict=True)
        ]

    def cut(self, bases: Tensor, boxes: list[Tensor]) -> Tensor:
        """The bases in each box (section 3.3): (N, K, R, R).

        Args:
            bases: (B, K, H, W); boxes: (N_b, 4) px of each image.
        """
        return roi_align([bases.float()], boxes, self.config.base_size, [4], sampling=1, aligned=True)

    def maps(self, attention: Tensor) -> Tensor:
        """(N, K M M) -> (N, K, M, M)."""
        return attention.view(-1, self.config.bases, self.config.attention_size, self.config.attention_size)

    def _semantic_loss(self, raw: Raw, targets: list[Instances]) -> Tensor:
        """Cross-entropy of the pixels' classes at stride 8; background is the last class."""
        logits = self.basis.semantic(raw.detection.features.maps[0]).float()
        rows, columns = logits.shape[-2:]
        wanted = torch.stack([classes_of_pixels(t, (rows, columns), self.num_classes) for t in targets])
        wanted = wanted.to(logits.device)
        loss = F.cross_entropy(logits, wanted, ignore_index=IGNORED, reduction="sum")
        return self.config.semantic_weight * loss / max(int((wanted != IGNORED).sum()), 1)


# Target assignment ----------------------------------------------------------------------------------------------------


def classes_of_pixels(target: Instances, shape: tuple[int, int], num_classes: int, stride: int = 8) -> Tensor:
    """(rows, columns) int64: the label of the last object on each first pixel of stride x stride, or num_classes.

    Args:
        shape: (rows, columns).
    """
    wanted = torch.full(shape, num_classes, dtype=torch.int64)
    masks = target.gt_masks
    assert target.labels is not None
    for i, label in enumerate(target.labels.tolist()):
        crowd = target.crowd is not None and bool(target.crowd[i])
        wanted[every_fourth(masks[i], shape, stride, first=0)[0] > 0] = IGNORED if crowd else label
    return wanted


# Variants -------------------------------------------------------------------------------------------------------------


def blendmask_r50_fpn(num_classes: int = 80, **config: Any) -> BlendMask:
    """ResNet-50 with strides where Caffe's models have them: AdelaiDet's ``R_50_1x``."""
    return BlendMask(p3_to_p7(ResNet("resnet50", stride_first=True)), num_classes, Config(**config))


def blendmask_lite0_fpn(num_classes: int = 80, **config: Any) -> BlendMask:
    """EfficientNet-Lite0 and narrow heads, for processors without a GPU."""
    light = {"depth": 2, "groups": 16, "base_width": 64, "base_convs": 1} | config
    return BlendMask(p3_to_p7(Timm("tf_efficientnet_lite0"), 128), num_classes, Config(**light))
