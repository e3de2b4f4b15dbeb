"""CondInst: every detected object brings the weights of a tiny network that draws its mask.

Tian, Shen, Chen: "Conditional Convolutions for Instance Segmentation", ECCV 2020, arXiv 2003.05664.

The idea: no boxes are cut out. A place of FCOS that stands for an object also predicts 169 numbers, the weights of
three 1 x 1 convolutions; run over the whole image's mask features, beside coordinates relative to that place, they
give this object's mask and no other's. Coordinates tell equal objects apart; eight channels are enough.

The same numbers as MMDetection's and AdelaiDet's CondInst (see ``tests/parity``). Where we differ: besides what
:mod:`~eachmask.models.detection.fcos` says, where there are too many positives a random choice *per image* is drawn,
and masks are drawn when somebody needs the pixels, a few at a time (``DynamicMasks``).

Shapes: B images, P places of all levels of one image, N objects, 8 mask features at stride 8, 169 kernel weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from eachmask.backbones.networks import ResNet, Timm
from eachmask.models.detection import fcos
from eachmask.models.detection.fcos import FCOS, Kept, output, p3_to_p7
from eachmask.ops.dynamic import DynamicMasks, Kernels, Places, aligned_upsample, draw, every_fourth, num_kernel_weights
from eachmask.ops.losses import dice
from eachmask.ops.mask_candidates import Candidates, Frame, Limits, score_masks, suppress
from eachmask.structures import DecodeOptions, ImageBatch, Instances


class Raw(NamedTuple):
    """What FCOS says of every place, the networks it offers there, and what they read."""

    detection: fcos.Raw
    kernels: Kernels
    mask_features: Tensor  # (B, 8, H, W) of the finest level


@dataclass(frozen=True)
class Config(fcos.Config):
    """FCOS's choices and those of the masks."""

    mask_width: int = 128
    """Channels of the mask branch."""
    mask_convs: int = 4
    mask_channels: int = 8
    """Channels of the mask features (paper, table 3)."""
    reach: float = 8.0
    """So many strides of the level that finds an object are 1 in its relative coordinates."""
    drawn: int = 300
    """Positive places per image whose masks are learnt; where there are more, a random choice."""
    mask_weight: float = 1.0
    matrix_sigma: float | None = None
    """Where set, masks rank the detections as SOLOv2's do: scores times maskness, then Matrix NMS with this sigma
    (Wang et al., arXiv 2003.10152, section 3.3). Boxes are only suppressed beforehand, from ``nms_threshold`` on."""
    maskness_power: float = 1.0
    """Scores are multiplied by this power of the maskness; SOLOv2's is 1."""
    compared: int = 300
    """So many of an image's detections are looked at, where masks rank them."""


# Blocks, in the order of the data -------------------------------------------------------------------------------------


class MaskBranch(nn.Module):
    """Three levels of the pyramid added at the size of the finest, then convolutions (paper, figure 3)."""

    def __init__(self, channels: int, config: Config) -> None:
        super().__init__()
        width = config.mask_width
        self.refine = nn.ModuleList(conv_norm_relu(channels, width) for _ in range(3))
        self.tower = nn.Sequential(*(conv_norm_relu(width, width) for _ in range(config.mask_convs)))
        self.project = nn.Conv2d(width, config.mask_channels, 1)

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


class CondInst(FCOS):
    """FCOS with kernels at every place and a mask branch; see there for the three verbs."""

    config: Config

    def __init__(self, backbone: nn.Module, num_classes: int, config: Config | None = None) -> None:
        config = config or Config()
        super().__init__(backbone, num_classes, config)
        channels: Any = backbone.channels
        self.controller = output(channels[0], num_kernel_weights(config.mask_channels))
        self.mask_branch = MaskBranch(channels[0], config)

    def forward(self, images: ImageBatch) -> Raw:  # type: ignore[override]
        """(B, 3, H, W) -> what FCOS says, kernels and mask features."""
        detection = super().forward(images)
        kernels = Kernels(detection.towers, self.controller)
        return Raw(detection, kernels, self.mask_branch(detection.features.maps))

    def losses(self, raw: Raw, targets: list[Instances]) -> dict[str, Tensor]:  # type: ignore[override]
        """FCOS's losses and the mean Dice loss of the positive places' masks, at a quarter of the size (eq. 5).

        Places stand for an object near its center of mass, not near its box's center.
        """
        matched = self.assign(raw.detection, targets, [centers_of_mass(target) for target in targets])
        losses = self.detection_losses(raw.detection, targets, matched)
        none = raw.kernels.at(0, torch.zeros(0, dtype=torch.int64, device=raw.mask_features.device))
        total, count = raw.mask_features.sum() * 0 + none.sum(), 0  # every parameter has a gradient, if only of zero
        for image, (target, index) in enumerate(zip(targets, matched, strict=True)):
            places = torch.nonzero(index >= 0).squeeze(1)
            if len(places) > self.config.drawn:
                places = places[torch.randperm(len(places), device=places.device)[: self.config.drawn]]
            if len(places):
                kernels = raw.kernels.at(image, places)
                total = total + self._mask_losses(raw, image, kernels, places, target, index[places])
                count += len(places)
        return losses | {"mask": self.config.mask_weight * total / max(count, 1)}

    def decode(self, raw: Raw, options: DecodeOptions) -> list[Instances]:  # type: ignore[override]
        """FCOS's detections, each with the network that draws its mask."""
        results = []
        by_masks = self.config.matrix_sigma is not None
        boxed = replace(options, max_detections=self.config.compared) if by_masks else options
        for image, kept in enumerate(self.keep(raw.detection, boxed)):
            kernels = raw.kernels.at(image, kept.places)
            if by_masks:
                kept, chosen = self._ranked_by_masks(raw, image, kept, kernels, options)
                kernels = kernels[chosen]
            found = kept.clipped()
            if options.with_masks:
                masks = DynamicMasks(
                    raw.mask_features[image].detach(),
                    kernels.detach(),
                    self.places(raw, kept.places),
                    padded=spanned(raw),
                    valid=found.image_size,
                    size=found.image_size,
                    threshold=options.mask_threshold,
                    aligned=True,
                )
                found = replace(found, masks=masks)
            results.append(found)
        return results

    @torch.no_grad()
    def _ranked_by_masks(
        self, raw: Raw, image: int, kept: Kept, kernels: Tensor, options: DecodeOptions
    ) -> tuple[Kept, Tensor]:
        """Scores times maskness, the mean probability within the mask; Matrix NMS; the best first.

        Args:
            kernels: (N, 169) of the detections.

        Returns:
            What is left, and which of the N detections these are.
        """
        c, found = self.config, kept.instances
        assert c.matrix_sigma is not None and found.scores is not None and found.labels is not None
        none = torch.zeros_like(kept.places)
        candidates = Candidates(none, kept.places, found.labels, found.scores, min_areas=none)

        def drawn(chosen: Tensor) -> Tensor:
            logits = self.draw(raw, image, kernels[chosen], self.places(raw, kept.places[chosen]))
            return logits.float().sigmoid()

        height, width = raw.mask_features.shape[-2:]
        frame = Frame((2 * height, 2 * width), raw.detection.batch_size, found.image_size)
        most = c.max_detections if options.max_detections is None else options.max_detections
        least = c.score_threshold if options.score_threshold is None else options.score_threshold
        limits = Limits(least, c.compared, c.matrix_sigma, greedy=None, score=least, most=most)
        index, scores, inside = score_masks(
            candidates, drawn, frame, c.compared, options.mask_threshold, c.maskness_power
        )
        order, scores = suppress(inside, scores, found.labels[index], limits)
        chosen = index[order]
        return Kept(replace(found[chosen], scores=scores), kept.places[chosen]), chosen

    def places(self, raw: Raw, index: Tensor) -> Places:
        """Points and reach of some places.

        Args:
            index: (N,) in 0..P-1.
        """
        points, strides = self.points(raw.detection), raw.detection.features.strides
        reach = [torch.full_like(p[:, 0], self.config.reach * s) for p, s in zip(points, strides, strict=True)]
        return Places(torch.cat(points)[index], torch.cat(reach)[index], strides[0], strides[0] / 2)

    def draw(self, raw: Raw, image: int, kernels: Tensor, places: Places) -> Tensor:
        """(N, 169) -> logits (N, H, W) at half the finest stride."""
        return aligned_upsample(draw(raw.mask_features[image], kernels, places)[:, None], 2)[:, 0]

    def _mask_losses(
        self, raw: Raw, image: int, kernels: Tensor, index: Tensor, target: Instances, matched: Tensor
    ) -> Tensor:
        """Sum of the Dice losses of one image's places."""
        logits = self.draw(raw, image, kernels, self.places(raw, index))
        objects, row = matched.unique(return_inverse=True)
        step = raw.detection.features.strides[0] // 2
        truth = every_fourth(target.gt_masks[objects], (logits.shape[1], logits.shape[2]), step).to(logits)
        return dice(logits.sigmoid(), truth[row], eps=5e-6).sum()


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

ADELAIDET: dict[str, Any] = {"score": "root", "threshold_on": "product", "best_by": "product", "clip_first": False,
                             "box_loss": "smoothed"}  # fmt: skip
"""What the authors' own code does otherwise."""


def condinst_r50_fpn(num_classes: int = 80, **config: Any) -> CondInst:
    """ResNet-50: MMDetection's ``condinst_r50_fpn_ms-poly-90k``."""
    return CondInst(p3_to_p7(ResNet("resnet50")), num_classes, Config(**config))


def condinst_r50_fpn_adelaidet(num_classes: int = 80, **config: Any) -> CondInst:
    """ResNet-50 with strides where Caffe's models have them: AdelaiDet's ``MS_R_50_1x``."""
    return CondInst(p3_to_p7(ResNet("resnet50", stride_first=True)), num_classes, Config(**(ADELAIDET | config)))


def condinst_lite0_fpn(num_classes: int = 80, **config: Any) -> CondInst:
    """EfficientNet-Lite0 and narrow heads, for processors without a GPU."""
    light = {"depth": 2, "groups": 16, "mask_width": 64, "mask_convs": 2} | config
    return CondInst(p3_to_p7(Timm("tf_efficientnet_lite0"), 128), num_classes, Config(**light))
