"""BlendMask: each object mixes a few masks of the whole scene by coarse attention maps of its own.

Chen, Sun, Tian, Shen, Huang, Yan: "BlendMask: Top-Down Meets Bottom-Up for Instance Segmentation", CVPR 2020,
arXiv 2001.00309.

The idea: bottom up, a decoder predicts K = 4 *bases* for the image, sharp but knowing no objects; top down, every place
of FCOS predicts K attention maps of 14 x 14, coarse but knowing which object is meant. Bases cut out of the box, times
attention made as large, summed: a mask as sharp as the bases for the price of one multiplication per pixel.

Written from the paper; the same numbers as AdelaiDet's BlendMask (see ``tests/parity``). Where we differ: besides what
:mod:`~eachmask.models.detection.fcos` says, a mask is pasted into the box that its bases were cut from, even where
that reaches beyond the image (AdelaiDet squeezes it into the clipped box); the auxiliary head's background is last.

Shapes: B images, P places of all levels of one image, N objects, K bases, M = 14 attention, R = 56 bases in a box.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eachmask.backbones.fpn import FPN
from eachmask.backbones.networks import ResNet, Timm
from eachmask.models.config import changed
from eachmask.models.detection import fcos
from eachmask.models.detection.dense import Kept, detections, flat, output
from eachmask.models.detection.fcos import PointDetector, p3_to_p7
from eachmask.models.instance.condinst import conv_norm_relu
from eachmask.models.protocol import Detections, Detector
from eachmask.ops.dynamic import every_fourth
from eachmask.ops.mask_targets import mask_targets
from eachmask.ops.point_boxes import centerness, distances_to
from eachmask.ops.roi import in_groups, roi_align
from eachmask.structures import DecodeOptions, ImageBatch, Instances
from eachmask.tasks.instances import INSTANCES

if TYPE_CHECKING:
    from eachmask.structures.spatial import Spatial

ROI_CHUNK_SIZE = 128
"""Boxes whose bases are cut out together when predicting."""

IGNORED = -1
"""Semantic target of pixels in crowd regions."""


class Raw(NamedTuple):
    """What FCOS says of every place, the attention it offers there, and the bases."""

    detection: fcos.Raw
    attention: tuple[Tensor, ...]  # per level (B, K M M, H, W)
    bases: Tensor  # (B, K, H, W), stride 4


@dataclass(frozen=True)
class BlendConfig:
    """The bases and the blender."""

    bases: int = 4
    """K (paper, table 3)."""
    width: int = 128
    """Channels of the decoder."""
    convs: int = 3
    """Convolutions before it doubles its map."""
    attention_size: int = 14
    """M (table 2)."""
    base_size: int = 56
    """R (table 1)."""
    semantic_weight: float = 0.3
    """Of the auxiliary classes of pixels (section 3.1)."""


@dataclass(frozen=True)
class Config(fcos.Config):
    """FCOS's choices, in which AdelaiDet's differ from MMDetection's, and those of the blender."""

    head: fcos.HeadConfig = fcos.HeadConfig(scales=False)
    assign: fcos.AssignConfig = fcos.AssignConfig(box_loss="smoothed")
    select: fcos.SelectConfig = fcos.SelectConfig("root", "product", best_by="product", clip_first=False)
    blend: BlendConfig = BlendConfig()


# Blocks, in the order of the data -------------------------------------------------------------------------------------


class Doubled(nn.Module):
    """Twice the size, bilinearly."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, 2 H, 2 W)."""
        return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


class BasisModule(nn.Module):
    """Three levels of the pyramid to K maps, and while training to the classes of pixels (section 3.1)."""

    def __init__(self, channels: int, num_classes: int, config: BlendConfig) -> None:
        super().__init__()
        width = config.width
        self.refine = nn.ModuleList(conv_norm_relu(channels, width) for _ in range(3))
        self.tower = nn.Sequential(
            *(conv_norm_relu(width, width) for _ in range(config.convs)),
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


class BlendMask(PointDetector[Raw, Detections], Detector[Raw]):
    """FCOS with attention at every place, bases and a blender; see
    :class:`~eachmask.models.detection.fcos.PointDetector`."""

    task = INSTANCES
    needs = frozenset({"masks"})
    config: Config

    def __init__(self, backbone: FPN, num_classes: int, config: Config | None = None) -> None:
        config = config or Config()
        super().__init__(backbone, num_classes, config)
        channels = backbone.channels[0]
        self.attention = output(channels, config.blend.bases * config.blend.attention_size**2)
        self.basis = BasisModule(channels, num_classes, config.blend)

    def forward(self, images: ImageBatch, given: Sequence[Spatial] | None = None) -> Raw:
        """(B, 3, H, W) -> what FCOS says, attention and bases."""
        detection = self.detect(images)
        attention = tuple(self.attention(level) for level in detection.towers)
        return Raw(detection, attention, self.basis(detection.features.maps))

    def head_losses(self, raw: Raw, matched: list[Tensor], targets: list[Instances]) -> dict[str, Tensor]:
        """The masks' cross-entropy in the objects' boxes, and that of the classes of pixels.

        Places near the middle of an object count more for its mask, by their centerness.
        """
        total, weight = raw.bases.sum() * 0 + sum(level.sum() for level in raw.attention) * 0, 0.0
        points = torch.cat(self.points(raw.detection))
        for image, (target, index) in enumerate(zip(targets, matched, strict=True)):
            if bool((index >= 0).any()):
                errors, quality = self._mask_errors(raw, image, points, target, index)
                total, weight = total + (errors * quality).sum(), weight + float(quality.sum())
        return {"mask": total / max(weight, 1e-6), "semantic": self._semantic_loss(raw, targets)}

    def _mask_errors(
        self, raw: Raw, image: int, points: Tensor, target: Instances, matched: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Mean cross-entropy of the mask of each matched place of one image, and its centerness: (M,), (M,).

        Args:
            points: (P, 2) px; matched: (P,) the object of each, or negative.
        """
        places = torch.nonzero(matched >= 0).squeeze(1)
        objects, row = matched[places].unique(return_inverse=True)
        boxes = target.boxes.to(points)[objects]
        bases = self.cut(raw.bases[image : image + 1], [boxes])
        logits = blend(bases[row], self.maps(flat(raw.attention)[image, places]))
        gt_masks = mask_targets(target.gt_masks, objects, boxes, self.config.blend.base_size, aligned=True)
        gt_masks = (gt_masks >= 0.5).to(logits)[row]
        errors = F.binary_cross_entropy_with_logits(logits, gt_masks, reduction="none").mean(dim=(1, 2))
        return errors, centerness(distances_to(points[places], boxes[row]))

    def select_heads(self, raw: Raw, kept: list[Kept], options: DecodeOptions) -> Detections:
        """Each detection blended in the box that its place predicts, also beyond the image's border."""
        found = detections(raw.detection.sizes, kept)
        if not options.with_masks:
            return found
        boxes = [one.boxes for one in kept]
        attention = flat(raw.attention)
        chosen = torch.cat([attention[image, one.places] for image, one in enumerate(kept)])
        attentions = chosen.split(ROI_CHUNK_SIZE)
        groups = zip(in_groups(boxes, ROI_CHUNK_SIZE), attentions, strict=True)
        blended = [blend(self.cut(raw.bases, group), self.maps(some)).sigmoid() for group, some in groups]
        return found._replace(masks=found.per_image(torch.cat(blended)), mask_boxes=tuple(boxes))

    def cut(self, bases: Tensor, boxes: list[Tensor]) -> Tensor:
        """The bases in each box (section 3.3): (N, K, R, R).

        Args:
            bases: (B, K, H, W); boxes: (N_b, 4) px of each image.
        """
        return roi_align([bases.float()], boxes, self.config.blend.base_size, [4], sampling=1, aligned=True)

    def maps(self, attention: Tensor) -> Tensor:
        """(N, K M M) -> (N, K, M, M)."""
        c = self.config.blend
        return attention.view(-1, c.bases, c.attention_size, c.attention_size)

    def _semantic_loss(self, raw: Raw, targets: list[Instances]) -> Tensor:
        """Cross-entropy of the pixels' classes at stride 8; background is the last class."""
        logits = self.basis.semantic(raw.detection.features.maps[0]).float()
        rows, columns = logits.shape[-2:]
        classes = torch.stack([classes_of_pixels(t, (rows, columns), self.num_classes) for t in targets])
        classes = classes.to(logits.device)
        loss = F.cross_entropy(logits, classes, ignore_index=IGNORED, reduction="sum")
        return self.config.blend.semantic_weight * loss / max(int((classes != IGNORED).sum()), 1)


# Target assignment ----------------------------------------------------------------------------------------------------


def classes_of_pixels(target: Instances, shape: tuple[int, int], num_classes: int, stride: int = 8) -> Tensor:
    """(rows, columns) int64: the label of the last object on each first pixel of stride x stride, or num_classes.

    Args:
        shape: (rows, columns).
    """
    classes = torch.full(shape, num_classes, dtype=torch.int64)
    masks = target.gt_masks
    for i, (label, crowd) in enumerate(zip(target.labels.tolist(), target.crowd.tolist(), strict=True)):
        classes[every_fourth(masks[i], shape, stride, first=0)[0] > 0] = IGNORED if crowd else label
    return classes


# Variants -------------------------------------------------------------------------------------------------------------


LIGHT = Config(head=fcos.HeadConfig(depth=2, groups=16, scales=False), blend=BlendConfig(width=64, convs=1))
"""For small networks."""


def blendmask_r50_fpn(num_classes: int = 80, **config: Any) -> BlendMask:
    """ResNet-50 with strides where Caffe's models have them: AdelaiDet's ``R_50_1x``."""
    return BlendMask(p3_to_p7(ResNet("resnet50", stride_first=True)), num_classes, changed(Config(), config))


def blendmask_lite0_fpn(num_classes: int = 80, **config: Any) -> BlendMask:
    """EfficientNet-Lite0 and narrow heads, for CPUs."""
    return BlendMask(p3_to_p7(Timm("tf_efficientnet_lite0"), 128), num_classes, changed(LIGHT, config))
