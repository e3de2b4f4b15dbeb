"""Panoptic FPN: Mask R-CNN for things and Semantic FPN for stuff on one pyramid.

Kirillov, Girshick, He, Dollar: "Panoptic Feature Pyramid Networks", CVPR 2019, arXiv 1901.02446.

The idea: a pyramid serves a detector's heads and a head that labels pixels. The second one learns the classes of stuff
and one more that stands for all things. When predicting, objects take their pixels first, the surest first of all, and
what they leave is stuff where there is enough of it (section 3.1; Kirillov et al., arXiv 1801.00868, section 6).

The same numbers as Detectron2's ``panoptic_fpn_R_50_1x`` (see ``tests/parity``). Where we differ: the two are merged at
the size that the network saw, and the map is then resized; Detectron2 merges at the size of the original image.

Shapes: B images of H x W px, K classes, of which T are things and S stuff.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from eachmask.backbones.fpn import FPN
from eachmask.models.config import changed
from eachmask.models.detection import rpn
from eachmask.models.detection.faster_rcnn import light_fpn, resnet_fpn, swin_fpn
from eachmask.models.instance import mask_rcnn
from eachmask.models.instance.mask_rcnn import MaskRCNN
from eachmask.models.protocol import Detections, Network
from eachmask.models.semantic.labeling import batch_labels, extent_of, resized
from eachmask.models.semantic.semantic_fpn import SemanticHead
from eachmask.ops import pixel_losses
from eachmask.structures import DecodeOptions, ImageBatch, Instances, PanopticMap, Segment, SemanticMap, UserError
from eachmask.structures.class_scores import ClassScores
from eachmask.structures.spatial import Spatial
from eachmask.tasks.panoptic import PANOPTIC


@dataclass(frozen=True)
class MergeConfig:
    """How objects and stuff share the pixels."""

    score_threshold: float = 0.5
    """Objects less sure claim no pixels, unless a user asks for another score."""
    overlap_threshold: float = 0.5
    """An object of which a larger share is taken already is dropped."""
    stuff_area: int = 4096
    """Regions of stuff with fewer pixels are dropped."""


@dataclass(frozen=True)
class Config:
    """What a variant may change."""

    stuff: tuple[int, ...] = ()
    """Labels of stuff; filled in from the data when training. All others are things."""
    detector: mask_rcnn.Config = mask_rcnn.Config()
    width: int = 128
    """Of the head that labels pixels."""
    semantic_weight: float = 0.5
    merge: MergeConfig = MergeConfig()


class Raw(NamedTuple):
    """What the network says."""

    detection: rpn.Raw
    logits: Tensor  # (B, 1 + S, H / 4, W / 4), the first of all things
    padded: tuple[int, int]
    sizes: tuple[tuple[int, int], ...]


class Selected(NamedTuple):
    """Objects, and the best class of every pixel."""

    detections: Detections
    labels: tuple[Tensor, ...]  # (h, w) int64 of each image, 0 is all things


class PanopticFPN(Network[Raw, Selected, PanopticMap]):
    """Mask R-CNN with one head more."""

    task = PANOPTIC
    config: Config

    def __init__(self, backbone: FPN, num_classes: int, config: Config) -> None:
        super().__init__()
        self.num_classes, self.config = num_classes, config
        self.things = [label for label in range(num_classes) if label not in config.stuff]
        if not self.things:
            raise UserError("Panoptic FPN has to know some things; for stuff alone take semantic_fpn_r50")
        self.detector = MaskRCNN(backbone, len(self.things), config.detector)
        self.head = SemanticHead(backbone.channels[0], 1 + len(config.stuff), config.width)

    @property
    def backbone(self) -> FPN:
        """The pyramid that both read."""
        return cast(FPN, self.detector.backbone)

    def forward(self, images: ImageBatch, given: Sequence[Spatial] | None = None) -> Raw:
        """(B, 3, H, W) -> proposals, and logits of stuff."""
        detection = self.detector(images)
        height, width = images.tensor.shape[-2:]
        return Raw(detection, self.head(detection.features.maps), (height, width), images.sizes)

    def losses(self, raw: Raw, targets: list[PanopticMap]) -> dict[str, Tensor]:
        """Mask R-CNN's on things, and the cross-entropy of pixels at the batch's size."""
        losses = self.detector.losses(raw.detection, [self.objects_of(target) for target in targets])
        labels = batch_labels([self.regions_of(target) for target in targets], raw.padded).to(raw.logits.device)
        logits = resized(raw.logits.float(), raw.padded)
        return losses | {"semantic": self.config.semantic_weight * pixel_losses.cross_entropy(logits, labels)}

    def objects_of(self, target: PanopticMap) -> Instances:
        """Things as the detector's classes."""
        ids = tuple(segment.id for segment in target.segments if segment.label in self.things)
        kept = tuple(segment for segment in target.segments if segment.id in ids)
        numbers = torch.tensor(ids, dtype=target.ids.dtype, device=target.ids.device)
        only = PanopticMap(torch.where(torch.isin(target.ids, numbers), target.ids, 0), kept)
        found = only.to_instances()
        labels = torch.tensor([self.things.index(label) for label in found.labels.tolist()], dtype=torch.int64)
        return replace(found, labels=labels)

    def regions_of(self, target: PanopticMap) -> SemanticMap:
        """0 for all things, 1 .. S for stuff."""
        place = {label: number for number, label in enumerate(self.config.stuff, start=1)}
        labels = torch.full_like(target.ids, 255, dtype=torch.int64)
        for segment in target.segments:
            labels[target.ids == segment.id] = place.get(segment.label, 0)
        return SemanticMap(labels)

    def select(self, raw: Raw, options: DecodeOptions) -> Selected:
        """Objects from the threshold of the merge on, and labels of pixels."""
        least = self.config.merge.score_threshold if options.score_threshold is None else options.score_threshold
        detections = self.detector.select(raw.detection, replace(options, score_threshold=least))
        cells, labels = raw.logits.shape[-2:], []
        for grid, size in zip(raw.logits, raw.sizes, strict=True):
            labels.append(ClassScores(grid, extent_of(size, cells, raw.padded)).labels(size))
        return Selected(detections, tuple(labels))

    def pack(self, selected: Selected, options: DecodeOptions) -> list[PanopticMap]:
        """Objects first, then stuff."""
        found = self.detector.pack(selected.detections, options)
        return [self.merged(*pair) for pair in zip(found, selected.labels, strict=True)]

    def merged(self, objects: Instances, labels: Tensor) -> PanopticMap:
        """Objects and the best class of every pixel of an image, see :func:`merge_things_and_stuff`."""
        return merge_things_and_stuff(objects, labels, self.things, self.config.stuff, self.config.merge)


def merge_things_and_stuff(
    objects: Instances, regions: Tensor, things: Sequence[int], stuff: Sequence[int], config: MergeConfig
) -> PanopticMap:
    """Objects by falling score take the pixels that nobody has, then stuff takes what is left.

    Args:
        objects: with masks and scores, labels into ``things``.
        regions: (H, W) int64, 0 is no stuff, 1 .. S are of ``stuff``.
        things, stuff: labels of the map.
    """
    assert objects.masks is not None and objects.scores is not None
    ids = torch.zeros(regions.shape, dtype=torch.int32)
    segments: list[Segment] = []
    order = objects.scores.argsort(descending=True, stable=True).tolist()
    for number in order:
        mask = torch.from_numpy(objects.masks[[number]].to_rle().decode()[0])
        area, taken = int(mask.sum()), int((mask & (ids > 0)).sum())
        if not area or taken / area > config.overlap_threshold:
            continue
        segments.append(Segment(len(segments) + 1, things[int(objects.labels[number])], float(objects.scores[number])))
        ids[mask & (ids == 0)] = len(segments)
    regions = regions.cpu()
    for region in regions.unique().tolist():
        mask = (regions == region) & (ids == 0)
        if region == 0 or int(mask.sum()) < config.stuff_area:
            continue
        segments.append(Segment(len(segments) + 1, stuff[region - 1]))
        ids[mask] = len(segments)
    return PanopticMap(ids, tuple(segments))


# Variants -------------------------------------------------------------------------------------------------------------


def panoptic_fpn_r50(num_classes: int = 133, **config: Any) -> PanopticFPN:
    """ResNet-50 that halves maps first: Detectron2's ``panoptic_fpn_R_50_1x``; wants BGR."""
    return _on_resnet("resnet50", num_classes, config)


def panoptic_fpn_r101(num_classes: int = 133, **config: Any) -> PanopticFPN:
    """ResNet-101: Detectron2's ``panoptic_fpn_R_101_3x``; wants BGR."""
    return _on_resnet("resnet101", num_classes, config)


def panoptic_fpn_swin_t(num_classes: int = 133, **config: Any) -> PanopticFPN:
    """Swin-T (torchvision's), full-size heads; settings of the backbone are those under ``swin``."""
    backbone = swin_fpn("swin_t", config.pop("swin", {}))
    return PanopticFPN(backbone, num_classes, changed(Config(), config))


def panoptic_fpn_lite0(num_classes: int = 133, **config: Any) -> PanopticFPN:
    """EfficientNet-Lite0 with narrow heads, for CPUs."""
    light = Config(detector=mask_rcnn.LIGHT, width=64, merge=MergeConfig(stuff_area=256))
    return PanopticFPN(light_fpn("tf_efficientnet_lite0"), num_classes, changed(light, config))


def _on_resnet(name: str, num_classes: int, config: dict[str, Any]) -> PanopticFPN:
    chosen = changed(Config(detector=mask_rcnn.DETECTRON2), config)
    return PanopticFPN(resnet_fpn(name, chosen.detector.norm_eps, stride_first=True), num_classes, chosen)
