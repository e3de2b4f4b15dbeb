"""YOLACT: masks as sums of a few maps that the whole image shares.

Bolya, Zhou, Xiao, Lee: "YOLACT: Real-time Instance Segmentation", ICCV 2019, arXiv 1904.02689.

The idea: one branch predicts 32 *prototypes* of the whole image; the other, a detector on anchors, beside class
and box 32 *coefficients* per object. An object's mask is the sigmoid of the prototypes weighted by its coefficients,
cropped to its box: one matrix product, with nothing cut out of the features and pooled again.

The same numbers as the authors' release and as MMDetection's version, which differ: :data:`RELEASE`,
:data:`MMDETECTION`. Where we differ: background is the *last* class; crowd regions are neither object nor background
in any loss; a score threshold that the user asks for holds for every detection; a mask's loss is divided by its box's
area, but by one cell at least; images may be padded instead of stretched to a square.

Shapes: B images, A anchors per place, N anchors of all levels, P prototypes, K classes, (h, w) cells of a prototype.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from eachmask.backbones.features import Features
from eachmask.backbones.fpn import FPN, Pyramid
from eachmask.backbones.networks import ResNet, Timm
from eachmask.models.config import changed
from eachmask.models.instance.yolact_losses import BOX_WEIGHTS, assign, box_loss, class_loss, mask_loss, semantic_loss
from eachmask.models.protocol import Detections, Network, pack_image
from eachmask.ops.anchors import flatten_anchors, grid_anchors
from eachmask.ops.nms import fast_nms_of_classes
from eachmask.ops.prototypes import Assembled, Crops, assemble
from eachmask.ops.suppression import suppress_classes
from eachmask.structures import DecodeOptions, ImageBatch, Instances, SoftMasks
from eachmask.structures import boxes as box_ops
from eachmask.structures.soft_masks import Canvas
from eachmask.tasks.instances import INSTANCES

if TYPE_CHECKING:
    from eachmask.structures.spatial import Spatial


class Raw(NamedTuple):
    """What the network says; the first level is the finest."""

    features: Features
    logits: tuple[Tensor, ...]  # per level (B, A (K + 1), H, W), background last
    deltas: tuple[Tensor, ...]  # per level (B, 4 A, H, W), encoded against the anchors
    coefficients: tuple[Tensor, ...]  # per level (B, A P, H, W), -1..1
    prototypes: Tensor  # (B, P, h, w)
    sizes: tuple[tuple[int, int], ...]  # valid (height, width) of each image
    batch_size: tuple[int, int]  # padded (height, width)


class Selected(NamedTuple):
    """Detections, and their masks as coarse as the prototypes."""

    found: Detections
    crops: tuple[Crops, ...] | None  # of each image; None where no masks are wanted
    grid: tuple[int, int]  # (rows, columns) of the prototypes
    batch_size: tuple[int, int]  # (height, width) px that they span


@dataclass(frozen=True)
class AnchorConfig:
    """The anchors of every place, and which object each stands for (section 4)."""

    scales: tuple[tuple[float, ...], ...] = ((24,), (48,), (96,), (192,), (384,))
    """Square roots of the anchors' areas on each level, px."""
    ratios: tuple[float, ...] = (1.0, 2.0, 0.5)
    """Height over width."""
    square: bool = True
    """Anchors are as high as they are wide, whatever their ratio: a slip in the authors' code that their published
    weights were trained with."""
    fg_iou: float = 0.5
    """An anchor with this IoU to an object is positive ..."""
    bg_iou: float = 0.4
    """... below this it is negative; between them it is not used."""
    one_each: bool = True
    """Of objects that have the same best anchor each gets one of its own; otherwise the last gets it (MMDetection)."""
    crowd_overlap: float = 0.7
    """An anchor that lies in a crowd region by this share is not negative."""


@dataclass(frozen=True)
class PrototypeConfig:
    """The branch that predicts the prototypes."""

    num: int = 32
    convs: int = 3
    """3 x 3 convolutions before the doubling in size; one more follows it."""
    width: int = 256


@dataclass(frozen=True)
class LossConfig:
    """What is learnt from, and how much each loss weighs."""

    learn_empty: bool = False
    """An image without positives teaches that all of it is background, and counts as one positive where losses of
    classes and boxes are divided by their number (MMDetection); otherwise it teaches nothing here."""
    negatives: int = 3
    """So many times the positives, those that look least like background."""
    box_weight: float = 1.5
    mask_weight: float = 6.125
    semantic_weight: float = 1.0
    semantic_off_by_one: bool = False
    """The semantic map of each class learns the class after it, and none learns from an image without objects: slips
    in MMDetection's code, of no consequence for predictions, which do not use these maps."""
    masks_per_image: int = 100
    """Positives whose masks are learnt from, a random choice where there are more."""


@dataclass(frozen=True)
class SelectConfig:
    """What goes into suppression, and what comes out."""

    per_level: int | None = None
    """Best anchors of each level; None: all."""
    per_class: int = 200
    """Best boxes of each class."""
    clip_first: bool = False
    """Boxes are cut at the image's border before suppression instead of after it."""
    threshold_each: bool = True
    """The class that is reported must itself pass the score threshold. False: it is enough that any class of the
    same anchor passes, so that nearly always ``max_detections`` come out (the release, for a better AP)."""


@dataclass(frozen=True)
class Config:
    """What a variant may change. Defaults are those of the authors' release."""

    head_relu: bool = True
    """The levels that come from the backbone pass a ReLU before anything reads them."""
    coarse_from_backbone: bool = False
    """The two coarsest levels are made of the backbone's last map instead of the pyramid's."""
    anchors: AnchorConfig = AnchorConfig()
    prototypes: PrototypeConfig = PrototypeConfig()
    loss: LossConfig = LossConfig()
    select: SelectConfig = SelectConfig()
    score_threshold: float = 0.05
    nms_threshold: float = 0.5
    max_detections: int = 100


RELEASE: dict[str, Any] = {"select": {"threshold_each": False}}
"""The authors' release to the letter; only what is reported differs from the defaults."""
MMDETECTION: dict[str, Any] = {
    "head_relu": False,
    "coarse_from_backbone": True,
    "anchors": {
        "scales": ((24.0,), (48.0,), (96.0,), (192.0,), (384.0,)),
        "ratios": (0.5, 1.0, 2.0),
        "square": False,
        "one_each": False,
    },
    "loss": {"learn_empty": True, "semantic_off_by_one": True},
    "select": {"per_level": 1000, "clip_first": True},
}
"""MMDetection's version of it."""


# Blocks, in the order of the data -------------------------------------------------------------------------------------


class Head(nn.Module):
    """Classes, boxes and mask coefficients of every anchor, shared by all levels (figure 4)."""

    def __init__(self, channels: int, num_anchors: int, num_classes: int, num_prototypes: int) -> None:
        super().__init__()
        self.shared = nn.Sequential(_conv(channels, channels, 3), nn.ReLU(inplace=True))
        self.classes = _conv(channels, num_anchors * (num_classes + 1), 3)
        self.deltas = _conv(channels, num_anchors * 4, 3)
        self.coefficients = _conv(channels, num_anchors * num_prototypes, 3)

    def forward(self, level: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, C, H, W) -> logits (B, A (K + 1), H, W), deltas (B, 4 A, H, W), coefficients (B, A P, H, W)."""
        x = self.shared(level)
        return self.classes(x), self.deltas(x), self.coefficients(x).tanh()


class Protonet(nn.Sequential):
    """Prototypes from the finest level, at twice its size (figure 3): (B, C, H, W) -> (B, P, 2 H, 2 W), none negative.

    Args:
        channels: C.
    """

    def __init__(self, channels: int, config: PrototypeConfig) -> None:
        width = config.width
        layers: list[nn.Module] = []
        for i in range(config.convs):
            layers += [_conv(channels if i == 0 else width, width, 3), nn.ReLU(inplace=True)]
        layers.append(nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False))
        layers += [_conv(width, width, 3), nn.ReLU(inplace=True)]
        layers += [_conv(width, config.num, 1), nn.ReLU(inplace=True)]
        super().__init__(*layers)


# The model ------------------------------------------------------------------------------------------------------------


class YOLACT(Network[Raw, Selected, Instances]):
    """A detector on anchors with mask coefficients, and prototypes to weight with them.

    Args:
        backbone: a pyramid of equal channels on every level; as many levels as ``config.anchors.scales`` has.
        num_classes: K, without background.
    """

    task = INSTANCES
    needs = frozenset({"masks"})

    def __init__(self, backbone: FPN, num_classes: int, config: Config | None = None) -> None:
        super().__init__()
        self.config = config = config or Config()
        self.num_classes = num_classes
        self.backbone = backbone
        channels = backbone.channels[0]
        num_anchors = len(config.anchors.ratios) * len(config.anchors.scales[0])
        self.protonet = Protonet(channels, config.prototypes)
        self.head = Head(channels, num_anchors, num_classes, config.prototypes.num)
        self.semantic = _conv(channels, num_classes, 1)

    def forward(self, images: ImageBatch, given: Sequence[Spatial] | None = None) -> Raw:
        """(B, 3, H, W) -> the pyramid and both branches' answers."""
        features = self.backbone(images.tensor)
        if self.config.head_relu:
            from_backbone = len(self.backbone.lateral)
            maps = (*(m.relu() for m in features.maps[:from_backbone]), *features.maps[from_backbone:])
            features = features._replace(maps=maps)
        logits, deltas, coefficients = zip(*(self.head(level) for level in features.maps), strict=True)
        height, width = images.tensor.shape[-2:]
        prototypes = self.protonet(features.maps[0])
        return Raw(features, logits, deltas, coefficients, prototypes, images.sizes, (height, width))

    def anchors(self, raw: Raw) -> Tensor:
        """(N, 4) px: rows, columns, then the anchors of the place (scales outside, ratios inside)."""
        height, width = raw.batch_size
        ratios = torch.tensor(self.config.anchors.ratios)
        result = []
        for level, scales in zip(raw.logits, self.config.anchors.scales, strict=True):
            rows, columns = level.shape[-2:]
            scale = torch.tensor(scales)[:, None]
            w = (scale / ratios.sqrt()).reshape(-1)
            h = w if self.config.anchors.square else (scale * ratios.sqrt()).reshape(-1)
            base = torch.stack([-w, -h, w, h], dim=1) / 2
            result.append(grid_anchors(base, (rows, columns), (height / rows, width / columns), first=0.5))
        return torch.cat(result).to(raw.prototypes.device)

    # Learning

    def losses(self, raw: Raw, targets: list[Instances]) -> dict[str, Tensor]:
        """Class, box, mask and semantic loss (sections 3.2, 3.4 and 4), each per positive but the last.

        Args:
            targets: one per image, in pixels of the batch, with labels and masks.
        """
        c = self.config.loss
        logits, deltas, coefficients = self._flat(raw)
        anchors = self.anchors(raw)
        matched = torch.stack([assign(anchors, target, self.config.anchors) for target in targets])
        counts = (matched >= 0).sum(dim=1)
        num_positive = max(int(counts.sum()), 1)
        num_learnt = int(counts.clamp(min=1).sum()) if c.learn_empty else num_positive
        with torch.autocast(raw.prototypes.device.type, enabled=False):
            mask, compared = mask_loss(raw.prototypes, coefficients, matched, targets, raw.batch_size, c)
            semantic = semantic_loss(self.semantic(raw.features.maps[0].float()), targets, raw.batch_size, c)
            losses = {
                "class": class_loss(logits, matched, targets, c) / num_learnt,
                "box": box_loss(deltas, anchors, matched, targets) / num_learnt * c.box_weight,
                "mask": mask / num_positive * c.mask_weight,
                "semantic": semantic / len(targets) * c.semantic_weight,
            }
            return losses | self.head_losses(raw, compared, num_positive)

    def head_losses(self, raw: Raw, compared: list[Assembled], num_positive: int) -> dict[str, Tensor]:
        """What subclasses add that score the masks.

        Args:
            compared: the predicted masks, object by object.
        """
        return {}

    # Predicting

    @torch.no_grad()
    def select(self, raw: Raw, options: DecodeOptions) -> Selected:
        """Fast NMS per class; masks from the prototypes. The best first."""
        logits, deltas, coefficients = self._flat(raw)
        anchors = self.anchors(raw)
        counts = [level[0].numel() // (self.num_classes + 1) for level in raw.logits]
        kept, crops = [], []
        for image, size in enumerate(raw.sizes):
            probabilities = logits[image].softmax(dim=-1)[:, :-1]
            chosen = self._candidates(probabilities, counts, options)
            boxes = box_ops.decode(deltas[image, chosen], anchors[chosen], BOX_WEIGHTS)
            if self.config.select.clip_first:
                boxes = box_ops.clip(boxes, size)
            row, label, scores = self._suppressed(boxes, probabilities[chosen], options)
            kept.append((box_ops.clip(boxes[row], size), label, scores))
            if options.with_masks:  # in the boxes as suppression saw them, perhaps beyond the border
                parts = coefficients[image, chosen[row]], boxes[row]
                crops.append(assemble(raw.prototypes[image], *parts, raw.batch_size))
        rows, columns = raw.prototypes.shape[-2:]
        found = Detections.of(raw.sizes, kept)
        selected = Selected(found, tuple(crops) if options.with_masks else None, (rows, columns), raw.batch_size)
        return self.select_heads(raw, selected, options)

    def select_heads(self, raw: Raw, selected: Selected, options: DecodeOptions) -> Selected:
        """What subclasses add that score the masks."""
        return selected

    def pack(self, selected: Selected, options: DecodeOptions) -> list[Instances]:
        """Masks stay as coarse as the prototypes until somebody needs the pixels."""
        results = [pack_image(selected.found, i, options) for i in range(len(selected.found.sizes))]
        for found, crops in zip(results, selected.crops or (), strict=False):
            spanned = selected.grid, selected.batch_size
            found.masks = soft_masks(crops, *spanned, found.image_size, options.mask_threshold)
        return results

    @property
    def max_objects(self) -> int:
        """The boxes of all classes that go into suppression."""
        return self.config.select.per_class * self.num_classes

    def _candidates(self, probabilities: Tensor, counts: list[int], options: DecodeOptions) -> Tensor:
        """Indices of the anchors that go into suppression.

        Args:
            probabilities: (N, K); counts: anchors of each level.
        """
        best = probabilities.max(dim=1).values
        most = self.config.select.per_level
        index = torch.arange(len(best), device=best.device)
        if most is not None:
            levels = zip(best.split(counts), index.split(counts), strict=True)
            index = torch.cat([here[level.topk(min(most, len(level))).indices] for level, here in levels])
        return index[best[index] > options.limits(self.config)[0]]

    def _suppressed(self, boxes: Tensor, scores: Tensor, options: DecodeOptions) -> tuple[Tensor, Tensor, Tensor]:
        """Rows, labels and scores of the detections that stay, the best first."""
        limits = options.limits(self.config, own="fast")
        each = self.config.select.threshold_each or options.score_threshold is not None
        least = limits.score_threshold if each else None
        if limits.suppression != "fast":
            return suppress_classes(boxes, scores, limits, self.config.select.per_class, least)
        row, label = fast_nms_of_classes(boxes, scores, limits.nms_threshold, self.config.select.per_class, least)
        scores = scores[row, label]
        order = torch.argsort(scores, descending=True, stable=True)[: limits.max_detections]
        return row[order], label[order], scores[order]

    def _flat(self, raw: Raw) -> tuple[Tensor, Tensor, Tensor]:
        """(B, N, K + 1) logits, (B, N, 4) deltas and (B, N, P) coefficients, all float32."""
        return (
            _joined(raw.logits, self.num_classes + 1),
            _joined(raw.deltas, 4),
            _joined(raw.coefficients, self.config.prototypes.num),
        )


# Masks ----------------------------------------------------------------------------------------------------------------


def soft_masks(
    crops: Crops, grid: tuple[int, int], batch_size: tuple[int, int], size: tuple[int, int], threshold: float
) -> SoftMasks:
    """Masks of one image that are made bigger and cut at the threshold when somebody needs their pixels.

    Of an image that fills the batch the grid is resized at once to whatever size is wanted, as the reference does.

    Args:
        grid: (rows, columns) of the prototypes; batch_size: (height, width) px that they span.
        size: valid (height, width) of the image.
    """
    padded, valid = (grid, grid) if size == batch_size else (batch_size, size)
    return SoftMasks(crops.values, crops.origins, Canvas(grid, padded, valid, size), threshold)


def _joined(levels: Sequence[Tensor], width: int) -> Tensor:
    """Levels (B, A width, H, W) -> (B, N, width)."""
    return torch.cat([flatten_anchors(level, width) for level in levels], 1).float()


def _conv(in_channels: int, out_channels: int, kernel: int) -> nn.Conv2d:
    conv = nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2)
    nn.init.xavier_uniform_(conv.weight)
    assert conv.bias is not None
    nn.init.zeros_(conv.bias)
    return conv


# Variants -------------------------------------------------------------------------------------------------------------


def yolact_fpn(backbone: nn.Module, config: Config, channels: int = 256) -> FPN:
    """Five levels, strides 8 ... 128, doubled bilinearly (section 3.4)."""
    pyramid = Pyramid(
        channels=channels,
        first=1,
        extra="convs",
        convs_of="backbone" if config.coarse_from_backbone else "pyramid",
        convs_relu=False,
        first_relu=config.head_relu and not config.coarse_from_backbone,
        upsample="bilinear",
    )
    return FPN(backbone, pyramid)


LIGHT = Config(
    anchors=AnchorConfig(scales=((16,), (32,), (64,), (128,), (256,)), square=False),
    prototypes=PrototypeConfig(convs=1, width=96),
)
"""For small networks on images of any size."""


def yolact_r50(num_classes: int = 80, **config: Any) -> YOLACT:
    """ResNet-50, for images of 550 x 550."""
    chosen = changed(Config(), config)
    return YOLACT(yolact_fpn(ResNet("resnet50"), chosen), num_classes, chosen)


def yolact_r101(num_classes: int = 80, **config: Any) -> YOLACT:
    """ResNet-101, for images of 550 x 550: the paper's base model."""
    chosen = changed(Config(), config)
    return YOLACT(yolact_fpn(ResNet("resnet101"), chosen), num_classes, chosen)


def yolact_lite0(num_classes: int = 80, **config: Any) -> YOLACT:
    """EfficientNet-Lite0 with narrow branches, for CPUs."""
    chosen = changed(LIGHT, config)
    return YOLACT(yolact_fpn(Timm("tf_efficientnet_lite0"), chosen, channels=96), num_classes, chosen)
