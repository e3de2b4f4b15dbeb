"""CondInst: every detected object brings the weights of a tiny network that predicts its mask.

Tian, Shen, Chen: "Conditional Convolutions for Instance Segmentation", ECCV 2020, arXiv 2003.05664.

The idea: no boxes are cut out. A place of FCOS that stands for an object also predicts 169 numbers, the weights of
three 1 x 1 convolutions; run over the whole image's mask features, beside coordinates relative to that place, they
give this object's mask and no other's. Coordinates tell equal objects apart; eight channels are enough.

The same numbers as MMDetection's and AdelaiDet's CondInst (see ``tests/parity``). Where we differ: besides what
:mod:`~eachmask.models.detection.fcos` says, where there are too many positives a random choice *per image* is made,
and masks are computed when somebody needs the pixels, a few at a time (``DynamicMasks``).

Shapes: B images, P places of all levels of one image, N objects, 8 mask features at stride 8, 169 kernel weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from eachmask.backbones.fpn import FPN
from eachmask.backbones.networks import ResNet, Timm
from eachmask.models.config import changed
from eachmask.models.detection import fcos
from eachmask.models.detection.dense import Kept, detections, output
from eachmask.models.detection.fcos import PointDetector, p3_to_p7
from eachmask.models.protocol import Detections, pack_image
from eachmask.ops.dynamic import (
    DynamicMasks,
    Kernels,
    MaskNetworks,
    Places,
    aligned_upsample,
    apply_networks,
    every_fourth,
    num_kernel_weights,
)
from eachmask.ops.losses import dice
from eachmask.ops.mask_candidates import Candidates, Limits, MapGeometry, score_masks, suppress_by_iou
from eachmask.ops.nms import lower_repeats, mask_iou
from eachmask.structures import DecodeOptions, ImageBatch, Instances
from eachmask.tasks.instances import INSTANCES

if TYPE_CHECKING:
    from eachmask.structures.spatial import Spatial


class Raw(NamedTuple):
    """What FCOS says of every place, the networks it offers there, and what they read."""

    detection: fcos.Raw
    kernels: Kernels
    mask_features: Tensor  # (B, 8, H, W) of the finest level


class Selected(NamedTuple):
    """Detections, and the networks that give their masks."""

    found: Detections
    networks: tuple[MaskNetworks, ...] | None  # of each image; None where no masks are wanted
    spanned: tuple[int, int]  # (height, width) px of the mask features


@dataclass(frozen=True)
class MaskConfig:
    """The mask branch, the networks that read it, and how they learn."""

    width: int = 128
    """Channels of the mask branch."""
    convs: int = 4
    channels: int = 8
    """Channels of the mask features (paper, table 3)."""
    reach: float = 8.0
    """So many strides of the level that finds an object are 1 in its relative coordinates."""
    least_region: float = 0.0
    """Regions of a found mask smaller than this share of it are specks, and left out."""
    places_per_image: int = 300
    """Positive places whose masks are learnt; where there are more, a random choice."""
    loss_weight: float = 1.0


@dataclass(frozen=True)
class RankingConfig:
    """Masks may rank the detections, as SOLOv2's do (Wang et al., arXiv 2003.10152, section 3.3)."""

    sigma: float | None = None
    """Of Matrix NMS, on scores times maskness. Boxes are only suppressed beforehand, from ``nms_threshold`` on. None:
    detections stay as the boxes rank them."""
    maskness_power: float = 1.0
    """Scores are multiplied by this power of the maskness; SOLOv2's is 1."""
    candidates: int = 300
    """So many of an image's detections are looked at."""
    repeat_factor: float = 1.0
    """By which scores of masks are multiplied that lie over a better one, after Matrix NMS ..."""
    part_factor: float = 1.0
    """... and those of parts of better ones; see :func:`~eachmask.ops.nms.lower_repeats`."""


@dataclass(frozen=True)
class Config(fcos.Config):
    """FCOS's choices and those of the masks."""

    mask: MaskConfig = MaskConfig()
    ranking: RankingConfig = RankingConfig()


# Blocks, in the order of the data -------------------------------------------------------------------------------------


class MaskBranch(nn.Module):
    """Three levels of the pyramid added at the size of the finest, then convolutions (paper, figure 3)."""

    def __init__(self, channels: int, config: MaskConfig) -> None:
        super().__init__()
        width = config.width
        self.refine = nn.ModuleList(conv_norm_relu(channels, width) for _ in range(3))
        self.tower = nn.Sequential(*(conv_norm_relu(width, width) for _ in range(config.convs)))
        self.project = nn.Conv2d(width, config.channels, 1)

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """Maps (B, C, H_i, W_i) of strides 8, 16, 32 -> (B, 8, H, W) of stride 8."""
        finest, *others = (refine(level) for refine, level in zip(self.refine, levels, strict=False))
        height, width = finest.shape[-2:]
        for i, level in enumerate(others, start=1):
            finest = finest + aligned_upsample(level, 2**i)[..., :height, :width]
        result: Tensor = self.project(self.tower(finest))
        return result


def conv_norm_relu(in_channels: int, out_channels: int) -> nn.Sequential:
    """3 x 3, batch normalization, ReLU."""
    conv = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True))


# The model ------------------------------------------------------------------------------------------------------------


class CondInst(PointDetector[Raw, Selected]):
    """FCOS with kernels at every place and a mask branch; see
    :class:`~eachmask.models.detection.fcos.PointDetector`."""

    task = INSTANCES
    needs = frozenset({"masks"})
    config: Config

    def __init__(self, backbone: FPN, num_classes: int, config: Config | None = None) -> None:
        config = config or Config()
        super().__init__(backbone, num_classes, config)
        channels = backbone.channels[0]
        self.controller = output(channels, num_kernel_weights(config.mask.channels))
        self.mask_branch = MaskBranch(channels, config.mask)

    def forward(self, images: ImageBatch, given: Sequence[Spatial] | None = None) -> Raw:
        """(B, 3, H, W) -> what FCOS says, kernels and mask features."""
        detection = self.detect(images)
        kernels = Kernels(detection.towers, self.controller)
        return Raw(detection, kernels, self.mask_branch(detection.features.maps))

    def assign(self, raw: fcos.Raw, targets: list[Instances], centers: Sequence[Tensor] | None = None) -> list[Tensor]:
        """Places stand for an object near its center of mass, not near its box's center."""
        return super().assign(raw, targets, [centers_of_mass(t) for t in targets] if centers is None else centers)

    def head_losses(self, raw: Raw, matched: list[Tensor], targets: list[Instances]) -> dict[str, Tensor]:
        """The mean Dice loss of the positive places' masks, at a quarter of the size (eq. 5)."""
        c = self.config.mask
        none = raw.kernels.at(0, torch.zeros(0, dtype=torch.int64, device=raw.mask_features.device))
        total, count = raw.mask_features.sum() * 0 + none.sum(), 0  # every parameter has a gradient, if only of zero
        for image, (target, index) in enumerate(zip(targets, matched, strict=True)):
            places = torch.nonzero(index >= 0).squeeze(1)
            if len(places) > c.places_per_image:
                places = places[torch.randperm(len(places), device=places.device)[: c.places_per_image]]
            if len(places):
                total = total + self._mask_losses(raw, image, places, target, index[places])
                count += len(places)
        return {"mask": c.loss_weight * total / max(count, 1)}

    @property
    def max_objects(self) -> int:
        """FCOS's candidates, or those that masks rank."""
        ranking, most = self.config.ranking, super().max_objects
        return most if ranking.sigma is None else min(most, ranking.candidates)

    def box_options(self, options: DecodeOptions) -> DecodeOptions:
        """Where masks decide who stays, all candidates."""
        ranking = self.config.ranking
        if ranking.sigma is None:
            return options
        return replace(options, max_detections=ranking.candidates, suppression=None)

    def select_heads(self, raw: Raw, kept: list[Kept], options: DecodeOptions) -> Selected:
        """FCOS's detections, perhaps ranked by their masks, each with the network that gives its mask."""
        every, networks = [], []
        for image, one in enumerate(kept):
            kernels = raw.kernels.at(image, one.places)
            if self.config.ranking.sigma is not None:
                one, chosen = self._ranked_by_masks(raw, image, one, kernels, options)
                kernels = kernels[chosen]
            places = self.places(raw, one.places)
            networks.append(MaskNetworks(raw.mask_features[image].detach(), kernels.detach(), places))
            every.append(one)
        found = detections(raw.detection.sizes, every)
        return Selected(found, tuple(networks) if options.with_masks else None, spanned(raw))

    def pack(self, selected: Selected, options: DecodeOptions) -> list[Instances]:
        """Masks stay networks until somebody needs the pixels."""
        results = [pack_image(selected.found, i, options) for i in range(len(selected.found.sizes))]
        for found, one in zip(results, selected.networks or (), strict=False):
            size = found.image_size
            found.masks = DynamicMasks(
                *one, selected.spanned, size, size, options.mask_threshold, True, self.config.mask.least_region
            )
        return results

    @torch.no_grad()
    def _ranked_by_masks(
        self, raw: Raw, image: int, kept: Kept, kernels: Tensor, options: DecodeOptions
    ) -> tuple[Kept, Tensor]:
        """Scores times maskness, the mean probability within the mask; Matrix NMS; repeats lose score; the best first.

        The cells of the mask features are fine enough for that.

        Args:
            kernels: (N, 169) of the detections.

        Returns:
            What is left, and which of the N detections these are.
        """
        c = self.config.ranking
        assert c.sigma is not None
        none = torch.zeros_like(kept.places)
        candidates = Candidates(none, kept.places, kept.labels, kept.scores, min_areas=none)

        def maps_of(chosen: Tensor) -> Tensor:
            places = self.places(raw, kept.places[chosen])
            return apply_networks(raw.mask_features[image], kernels[chosen], places).sigmoid()

        height, width = raw.mask_features.shape[-2:]
        geometry = MapGeometry((height, width), raw.detection.batch_size, raw.detection.sizes[image])
        least, _, most, _ = options.limits(self.config)
        greedy = None if options.suppression is None else options.nms_threshold
        limits = Limits(least, c.candidates, c.sigma, greedy, least, most, options.suppression)
        threshold = options.mask_threshold
        index, scores, inside = score_masks(candidates, maps_of, geometry, c.candidates, threshold, c.maskness_power)
        labels, areas = kept.labels[index], inside.flatten(1).sum(1)
        iou = mask_iou(inside, labels)
        order, scores = suppress_by_iou(iou, scores, labels, limits)
        if options.suppression is None and min(c.repeat_factor, c.part_factor) < 1:
            scores = lower_repeats(iou[order][:, order], areas[order], scores, c.repeat_factor, c.part_factor)
            better = scores.argsort(descending=True, stable=True)
            better = better[scores[better] >= least]
            order, scores = order[better], scores[better]
        chosen = index[order]
        return kept.take(chosen)._replace(scores=scores), chosen

    def places(self, raw: Raw, index: Tensor) -> Places:
        """Points and reach of some places.

        Args:
            index: (N,) in 0..P-1.
        """
        points, strides = self.points(raw.detection), raw.detection.features.strides
        reach = [torch.full_like(p[:, 0], self.config.mask.reach * s) for p, s in zip(points, strides, strict=True)]
        return Places(torch.cat(points)[index], torch.cat(reach)[index], strides[0], strides[0] / 2)

    def mask_logits(self, raw: Raw, image: int, kernels: Tensor, places: Places) -> Tensor:
        """(N, 169) -> logits (N, H, W) at half the finest stride."""
        return aligned_upsample(apply_networks(raw.mask_features[image], kernels, places)[:, None], 2)[:, 0]

    def _mask_losses(self, raw: Raw, image: int, index: Tensor, target: Instances, matched: Tensor) -> Tensor:
        """Sum of the Dice losses of one image's places.

        Args:
            index: (M,) the places; matched: (M,) the object of each.
        """
        logits = self.mask_logits(raw, image, raw.kernels.at(image, index), self.places(raw, index))
        objects, row = matched.unique(return_inverse=True)
        step = raw.detection.features.strides[0] // 2
        gt_masks = every_fourth(target.gt_masks[objects], (logits.shape[1], logits.shape[2]), step).to(logits)
        return dice(logits.sigmoid(), gt_masks[row], eps=5e-6).sum()


def spanned(raw: Raw) -> tuple[int, int]:
    """(height, width) px that the mask features span: the padded image's, or a little more."""
    (rows, columns), stride = raw.mask_features.shape[-2:], raw.detection.features.strides[0]
    return stride * rows, stride * columns


# Target assignment ----------------------------------------------------------------------------------------------------


def centers_of_mass(target: Instances) -> Tensor:
    """(N, 2) mean x and y of each mask's pixels, by their upper left corners; the box's center where there are none."""
    centers = (target.boxes[:, :2] + target.boxes[:, 2:]).float() / 2
    bitmaps = target.gt_masks.to_bitmaps()
    for i, (crop, origin) in enumerate(zip(bitmaps.crops, bitmaps.origins, strict=True)):
        if crop.any():
            ys, xs = np.nonzero(crop)
            centers[i] = torch.tensor([xs.mean() + origin[0], ys.mean() + origin[1]])
    return centers


# Variants -------------------------------------------------------------------------------------------------------------

ADELAIDET = Config(
    assign=fcos.AssignConfig(box_loss="smoothed"),
    select=fcos.SelectConfig(score="root", threshold_on="product", best_by="product", clip_first=False),
)
"""What the authors' own code does otherwise."""
LIGHT = Config(head=fcos.LIGHT, mask=MaskConfig(width=64, convs=2))
"""For small networks."""


def condinst_r50_fpn(num_classes: int = 80, **config: Any) -> CondInst:
    """ResNet-50: MMDetection's ``condinst_r50_fpn_ms-poly-90k``."""
    return CondInst(p3_to_p7(ResNet("resnet50")), num_classes, changed(Config(), config))


def condinst_r50_fpn_adelaidet(num_classes: int = 80, **config: Any) -> CondInst:
    """ResNet-50 with strides where Caffe's models have them: AdelaiDet's ``MS_R_50_1x``."""
    return CondInst(p3_to_p7(ResNet("resnet50", stride_first=True)), num_classes, changed(ADELAIDET, config))


def condinst_lite0_fpn(num_classes: int = 80, **config: Any) -> CondInst:
    """EfficientNet-Lite0 and narrow heads, for CPUs."""
    return CondInst(p3_to_p7(Timm("tf_efficientnet_lite0"), 128), num_classes, changed(LIGHT, config))


def condinst_lite2_fpn(num_classes: int = 80, **config: Any) -> CondInst:
    """EfficientNet-Lite2 under the same heads: the variant of the bundled ``objects`` model."""
    return CondInst(p3_to_p7(Timm("tf_efficientnet_lite2"), 128), num_classes, changed(LIGHT, config))
