"""YOLACT++: YOLACT that looks where it needs to, tries more anchors, and scores its own masks.

Bolya, Zhou, Xiao, Lee: "YOLACT++: Better Real-time Instance Segmentation", TPAMI 2020, arXiv 1912.06218.

The idea: in the deeper stages of the backbone every 3 x 3 convolution first predicts where its nine samples lie and
how much each counts (deformable convolution, version 2), so that its view fits the object; and six small convolutions
look at each finished mask alone, without the image, and predict its overlap with the object, which a class score knows
nothing about.

The same numbers as the authors' release. Where we differ: an instance has one score, which is the product of class
score and predicted overlap (the release keeps the class score for its boxes; ``rescore={"used": False}`` gives those),
at most 1, and the instances are sorted by it; where the prototypes' grid is too small for the strides of
the network that looks at masks it is padded with background.

Shapes: as in :mod:`eachmask.models.instance.yolact`; D detections.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eachmask.accel.lazy_dynamo import torchvision
from eachmask.accel.malloc import give_back_freed_memory
from eachmask.backbones.fpn import FPN
from eachmask.backbones.networks import ResNet
from eachmask.models.config import changed
from eachmask.models.instance import yolact
from eachmask.models.instance.yolact import YOLACT, Raw, Selected, yolact_fpn
from eachmask.ops.anchors import octave
from eachmask.ops.prototypes import Assembled, Crops
from eachmask.structures import DecodeOptions

SAMPLE_CHUNK_SIZE = 1 << 23
"""Numbers that a deformable convolution gathers before it multiplies, when a CPU predicts: 32 MB."""


ANCHORS = yolact.AnchorConfig(scales=tuple(octave(size) for size in (24, 48, 96, 192, 384)), square=False)
"""Three sizes to a doubling (section 6.2)."""


@dataclass(frozen=True)
class RescoreConfig:
    """The network that looks at finished masks (section 6.3)."""

    used: bool = True
    """Scores are multiplied by the predicted overlap of the mask."""
    loss_weight: float = 25.0
    min_area: int = 25
    """Masks of targets of so many cells or fewer teach it nothing."""


@dataclass(frozen=True)
class Config(yolact.Config):
    """What a variant may change. Defaults are those of the authors' release."""

    anchors: yolact.AnchorConfig = ANCHORS
    deformable_every: int = 1
    """Of each stage's blocks every so many are deformable, the first one always; the first stage has none."""
    rescore: RescoreConfig = RescoreConfig()


# Blocks, in the order of the data -------------------------------------------------------------------------------------


class DeformableConv(nn.Module):
    """Convolution whose samples are moved and weighted (Zhu et al., Deformable ConvNets v2, arXiv 1811.11168).

    Args:
        stride: 1 or 2.
        kernel: its side, an odd number.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, kernel: int = 3) -> None:
        super().__init__()
        self.stride, self.padding = stride, kernel // 2
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.offsets = nn.Conv2d(in_channels, 3 * kernel**2, kernel, stride, self.padding)
        nn.init.kaiming_normal_(self.weight, nonlinearity="relu")
        nn.init.zeros_(self.offsets.weight)  # at first nothing is moved
        assert self.offsets.bias is not None
        nn.init.zeros_(self.offsets.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H / stride, W / stride)."""
        said = self.offsets(x)
        if x.device.type == "cpu":
            x = x.float()  # there the samples are gathered in float32 alone
        samples = said.shape[1] // 3
        moves, weights = said.split([2 * samples, samples], dim=1)
        moves, mask = moves.to(x.dtype), weights.sigmoid().to(x.dtype)
        weight, bias = self.weight.to(x.dtype), self.bias.to(x.dtype)

        def convolved(part: slice, bias: Tensor | None) -> Tensor:
            with torch.autocast("cpu", enabled=False):
                result: Tensor = torchvision().ops.deform_conv2d(
                    x[:, part], moves, weight[:, part], bias, self.stride, self.padding, mask=mask
                )
            return result

        # All samples are gathered before they are multiplied; where they are many, some channels at a time.
        channels = chunk_size = x.shape[1]
        if x.device.type == "cpu" and not torch.is_grad_enabled():
            chunk_size = max(1, SAMPLE_CHUNK_SIZE // max(1, mask.numel()))
        if chunk_size < channels:
            give_back_freed_memory()  # of the holes that maps left behind few are as large as what is gathered here
        result = convolved(slice(0, chunk_size), bias)
        for first in range(chunk_size, channels, chunk_size):
            result += convolved(slice(first, first + chunk_size), None)
        return result


class MaskIoU(nn.Sequential):
    """Predicted overlap of masks with the object, class by class (section 6.3): (D, 1, h, w) -> (D, K), not negative.

    Convolutions without padding halve the map five times; what each class likes best in the rest counts.
    """

    def __init__(self, num_classes: int) -> None:
        layers: list[nn.Module] = []
        widths = (1, 8, 16, 32, 64, 128)
        for before, after in zip(widths[:-1], widths[1:], strict=True):
            layers += [nn.Conv2d(before, after, 3, stride=2), nn.ReLU(inplace=True)]
        last = nn.Conv2d(widths[-1], num_classes, 1)
        super().__init__(*layers, last, nn.ReLU(inplace=True), nn.AdaptiveMaxPool2d(1), nn.Flatten())
        for layer in self:
            if isinstance(layer, nn.Conv2d):
                nn.init.xavier_uniform_(layer.weight)
        assert last.bias is not None
        nn.init.constant_(last.bias, 0.5)  # a class that the ReLU holds at 0 from the start would never learn


SMALLEST_GRID = 63
"""Rows and columns that are just enough for five unpadded strides."""
_CELL_CHUNK_SIZE = 1 << 20
"""Cells of masks scored at a time."""


# The model ------------------------------------------------------------------------------------------------------------


class YOLACTPlus(YOLACT):
    """YOLACT with a network that scores the masks; the backbone's deformable convolutions are the variants' affair."""

    config: Config

    def __init__(self, backbone: FPN, num_classes: int, config: Config | None = None) -> None:
        super().__init__(backbone, num_classes, config or Config())
        self.mask_iou = MaskIoU(num_classes)

    def head_losses(self, raw: Raw, compared: list[Assembled], num_positive: int) -> dict[str, Tensor]:
        """Smooth L1 of the predicted overlap of the positives' masks, where the object is large enough to tell."""
        (rows, columns), c = raw.prototypes.shape[-2:], self.config.rescore
        compared = [one for one in compared if one.gt_area > c.min_area]
        if not compared:
            return {"mask_iou": torch.stack([p.sum() for p in self.mask_iou.parameters()]).sum() * 0}
        inputs = torch.cat([_on_canvas(one.probabilities, one.origin, (rows, columns)) for one in compared])
        gt_ious = torch.cat([_iou_of(one) for one in compared])
        labels = torch.cat([torch.full((len(one.probabilities),), one.label) for one in compared]).to(inputs.device)
        found = self.mask_iou(_large_enough(inputs)).gather(1, labels[:, None]).squeeze(1)
        error = F.smooth_l1_loss(found, gt_ious, reduction="sum")
        return {"mask_iou": error / num_positive * c.loss_weight}

    def select_heads(self, raw: Raw, selected: Selected, options: DecodeOptions) -> Selected:
        """Each class score is multiplied by the predicted overlap of the mask."""
        if selected.crops is None or not self._rescores(options):
            return selected
        most, orders, products = options.limits(self.config)[2], [], []
        for crops, labels, scores in zip(selected.crops, selected.found.labels, selected.found.scores, strict=True):
            product = (scores * self.predicted_iou(raw, crops, labels)).clamp(max=1)
            order = torch.argsort(product, descending=True, stable=True)
            if options.score_threshold is not None:
                order = order[product[order] > options.score_threshold]
            orders.append(order[:most])
            products.append(product)
        found = selected.found._replace(scores=tuple(products)).take(orders)
        taken = tuple(_taken(one, order) for one, order in zip(selected.crops, orders, strict=True))
        return selected._replace(found=found, crops=taken)

    def predicted_iou(self, raw: Raw, crops: Crops, labels: Tensor) -> Tensor:
        """(D,) predicted overlap of each mask of one image with its object, given its class (D,)."""
        rows, columns = raw.prototypes.shape[-2:]
        chunk_size = max(1, _CELL_CHUNK_SIZE // max(rows * columns, 1))
        places = list(zip(crops.values, crops.origins.tolist(), strict=True))
        result = [raw.prototypes.new_zeros(0, self.num_classes).float()]
        with torch.autocast(raw.prototypes.device.type, enabled=False):
            for first in range(0, len(places), chunk_size):
                some = places[first : first + chunk_size]
                group = [_on_canvas(crop[None], (at[0], at[1]), (rows, columns)) for crop, at in some]
                result.append(self.mask_iou(_large_enough(torch.cat(group).to(raw.prototypes.device))))
        return torch.cat(result).gather(1, labels[:, None]).squeeze(1)

    def _suppressed(self, boxes: Tensor, scores: Tensor, options: DecodeOptions) -> tuple[Tensor, Tensor, Tensor]:
        """As many as the model would score: the user's limit is for those that score best afterwards."""
        return super()._suppressed(boxes, scores, self._before_rescoring(options))

    def _candidates(self, probabilities: Tensor, counts: list[int], options: DecodeOptions) -> Tensor:
        return super()._candidates(probabilities, counts, self._before_rescoring(options))

    def _before_rescoring(self, options: DecodeOptions) -> DecodeOptions:
        """What a user asks for is of the scores that are reported; a predicted overlap may raise them."""
        if not self._rescores(options):
            return options
        c, score, most = self.config, options.score_threshold, options.max_detections
        return replace(
            options,
            score_threshold=None if score is None else min(score, c.score_threshold),
            max_detections=None if most is None else max(most, c.max_detections),
        )

    def _rescores(self, options: DecodeOptions) -> bool:
        return self.config.rescore.used and options.with_masks


def _taken(crops: Crops, order: Tensor) -> Crops:
    """Those with these numbers, in this order."""
    order = order.cpu()
    return Crops([crops.values[i] for i in order.tolist()], crops.origins[order])


def _on_canvas(crops: Tensor, origin: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """(M, h, w) with the corner (x, y) -> (M, 1, rows, columns) with zeros around."""
    x, y = origin
    height, width = crops.shape[1:]
    return F.pad(crops[:, None], (x, grid[1] - x - width, y, grid[0] - y - height))


def _large_enough(masks: Tensor) -> Tensor:
    """(D, 1, h, w) padded with background to at least ``SMALLEST_GRID``."""
    missing = [max(0, SMALLEST_GRID - int(side)) for side in masks.shape[-2:]]
    return F.pad(masks, (0, missing[1], 0, missing[0])) if any(missing) else masks


def _iou_of(one: Assembled) -> Tensor:
    """(M,) overlap of each positive's mask, cut at one half, with its object's."""
    masks = (one.probabilities.detach() > 0.5).float()
    common = (masks * one.gt).sum((1, 2))
    return common / (masks.sum((1, 2)) + one.gt_area - common)


# Variants -------------------------------------------------------------------------------------------------------------


def deform(backbone: ResNet, every: int) -> ResNet:
    """Changed in place: every so many blocks of the last three stages get deformable 3 x 3 convolutions."""
    for stage in (backbone.layer2, backbone.layer3, backbone.layer4):
        for block in list(stage.children())[::every]:
            conv: Any = block.conv2
            block.conv2 = DeformableConv(conv.in_channels, conv.out_channels, conv.stride[0])
    return backbone


LIGHT = Config(
    anchors=yolact.AnchorConfig(scales=tuple(octave(size) for size in (16, 32, 64, 128, 256)), square=False),
    prototypes=yolact.LIGHT.prototypes,
    deformable_every=2,
    rescore=RescoreConfig(min_area=4),
)
"""For small networks on images of any size."""


def yolact_plus_r50(num_classes: int = 80, **config: Any) -> YOLACTPlus:
    """ResNet-50, every block of the last three stages deformable; for images of 550 x 550."""
    chosen = changed(Config(), config)
    backbone = deform(ResNet("resnet50"), chosen.deformable_every)
    return YOLACTPlus(yolact_fpn(backbone, chosen), num_classes, chosen)


def yolact_plus_r101(num_classes: int = 80, **config: Any) -> YOLACTPlus:
    """ResNet-101, every third block deformable; for images of 550 x 550."""
    chosen = changed(Config(deformable_every=3), config)
    backbone = deform(ResNet("resnet101"), chosen.deformable_every)
    return YOLACTPlus(yolact_fpn(backbone, chosen), num_classes, chosen)


def yolact_plus_r18(num_classes: int = 80, **config: Any) -> YOLACTPlus:
    """ResNet-18, the first block of each of the last three stages deformable, with narrow branches."""
    chosen = changed(LIGHT, config)
    backbone = deform(ResNet("resnet18"), chosen.deformable_every)
    return YOLACTPlus(yolact_fpn(backbone, chosen, channels=96), num_classes, chosen)
