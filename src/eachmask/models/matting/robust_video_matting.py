"""Robust Video Matting: people are cut out of a video without an image of the background, by a network that remembers.

Lin, Yang, Saleemi, Sengupta: "Robust High-Resolution Video Matting with Temporal Guidance", WACV 2022, arXiv
2108.11515. Written from the paper and from recorded numbers.

The idea: a single frame does not say what will move and what is background, the frames before it do. The decoder of a
light segmentation network passes half of its channels through convolutional gated units, one for each scale, whose
states go from frame to frame. It works on reduced frames; a guided filter, whose coefficients a tiny network predicts,
carries opacity and foreground to the full size.

Where we differ: the loss of a single image has no terms for coherence in time, as there is no time in it.

Shapes: B videos of T frames of H x W px in 0..1, h x w the reduced size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eachmask.accel.lazy_dynamo import torchvision
from eachmask.models.config import changed
from eachmask.models.matting.network import UNIT, Mattes, MattingNetwork, Target, laplacian_loss, start_half_open
from eachmask.structures import DecodeOptions, ImageBatch, Matte
from eachmask.structures.spatial import Spatial

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
State = tuple[Tensor, ...]
"""What is remembered, from the finest scale to the coarsest: (B, C, h / 2^n, w / 2^n)."""


class Raw(NamedTuple):
    """What the network says of one frame of each video."""

    alpha: Tensor  # (B, 1, H, W) 0..1
    foreground: Tensor  # (B, 3, H, W) RGB 0..1
    segmentation: Tensor  # (B, 1, h, w) logits of the foreground, which hard masks teach
    sizes: tuple[tuple[int, int], ...]  # valid (height, width)


class Clip(NamedTuple):
    """What the network says of T frames of each video, and what it remembers after them."""

    alpha: Tensor  # (B, T, 1, H, W)
    foreground: Tensor  # (B, T, 3, H, W)
    segmentation: Tensor  # (B, T, 1, h, w)
    state: State


@dataclass(frozen=True)
class Config:
    """What a variant may change."""

    ratio: float | None = None
    """Of the reduced frames; 1 works at full size, without the filter. None: such that the longer side is ``side``."""
    side: int = 512
    """Longer side of the reduced frames, px, where there is no ratio."""
    refiner: Literal["deep_guided_filter", "fast_guided_filter"] = "deep_guided_filter"


# Blocks ---------------------------------------------------------------------------------------------------------------


class MobileNetV3(nn.Module):
    """torchvision's large one, dilated, without its classifier: maps at strides 2, 4, 8, 16 of unnormalized images."""

    channels, width, decoder = (16, 24, 40, 960), 128, (80, 40, 32, 16)

    def __init__(self) -> None:
        super().__init__()
        self.features = torchvision().models.mobilenet_v3_large(weights=None, dilated=True).features
        for module in self.features.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 0.1  # torchvision's 0.01 is for runs of many thousand steps

    def forward(self, images: Tensor) -> list[Tensor]:
        mean, std = (images.new_tensor(v).view(3, 1, 1) for v in (MEAN, STD))
        maps, x = [], (images - mean) / std
        for first, last in ((0, 2), (2, 4), (4, 7), (7, 17)):
            x = self.features[first:last](x)
            maps.append(x)
        return maps


class ResNet50(nn.Module):
    """torchvision's, dilated: maps at strides 2, 4, 8 and 16 of images that are not normalized at all."""

    channels, width, decoder = (64, 256, 512, 2048), 256, (128, 64, 32, 16)

    def __init__(self) -> None:
        super().__init__()
        net: Any = torchvision().models.resnet50(weights=None, replace_stride_with_dilation=[False, False, True])
        self.conv1, self.bn1, self.relu, self.maxpool = net.conv1, net.bn1, net.relu, net.maxpool
        self.layer1, self.layer2, self.layer3, self.layer4 = net.layer1, net.layer2, net.layer3, net.layer4

    def forward(self, images: Tensor) -> list[Tensor]:
        stem = self.relu(self.bn1(self.conv1(images)))
        fine = self.layer1(self.maxpool(stem))
        middle = self.layer2(fine)
        return [stem, fine, middle, self.layer4(self.layer3(middle))]


class LightPooling(nn.Module):
    """The deepest map, weighted by what is in the whole image (LR-ASPP)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.aspp1 = nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())
        self.aspp2 = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(inputs, outputs, 1, bias=False), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.aspp1(x) * self.aspp2(x)
        return found


class GatedUnit(nn.Module):
    """A convolutional gated recurrent unit on the second half of the channels; the first half passes."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        width = channels // 2
        self.ih = nn.Sequential(nn.Conv2d(2 * width, 2 * width, 3, padding=1), nn.Sigmoid())
        self.hh = nn.Sequential(nn.Conv2d(2 * width, width, 3, padding=1), nn.Tanh())

    def forward(self, x: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
        passed, seen = x.chunk(2, dim=1)
        before = torch.zeros_like(seen) if state is None else state
        reset, update = self.ih(torch.cat([seen, before], 1)).chunk(2, dim=1)
        new = self.hh(torch.cat([seen, reset * before], 1))
        state = (1 - update) * before + update * new
        return torch.cat([passed, state], 1), state


class Bottleneck(nn.Module):
    """The coarsest scale of the decoder: memory alone."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gru = GatedUnit(channels)

    def forward(self, x: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
        found: tuple[Tensor, Tensor] = self.gru(x, state)
        return found


class Up(nn.Module):
    """A scale of the decoder: twice as large, with the shortcut and the image; the finest one remembers nothing."""

    def __init__(self, inputs: int, shortcut: int, outputs: int, remembers: bool = True) -> None:
        super().__init__()
        first = [nn.Conv2d(inputs + shortcut + 3, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs)]
        second = [nn.Conv2d(outputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
        self.conv = nn.Sequential(*first, nn.ReLU(), *([] if remembers else second))
        self.gru = GatedUnit(outputs) if remembers else None

    def forward(self, x: Tensor, beside: Sequence[Tensor], state: Tensor | None) -> tuple[Tensor, Tensor | None]:
        x = F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
        height, width = beside[-1].shape[2:]
        x = self.conv(torch.cat([x[..., :height, :width], *beside], 1))
        if self.gru is None:
            return x, None
        found: tuple[Tensor, Tensor] = self.gru(x, state)
        return found


class Decoder(nn.Module):
    """From the deepest map to the size of the images, remembering at four scales."""

    def __init__(self, maps: Sequence[int], widths: Sequence[int]) -> None:
        super().__init__()
        self.decode4 = Bottleneck(maps[3])
        self.decode3 = Up(maps[3], maps[2], widths[0])
        self.decode2 = Up(widths[0], maps[1], widths[1])
        self.decode1 = Up(widths[1], maps[0], widths[2])
        self.decode0 = Up(widths[2], 0, widths[3], remembers=False)

    def forward(self, images: Tensor, maps: Sequence[Tensor], state: State | None) -> tuple[Tensor, State]:
        smaller = [images]
        for _ in range(3):
            smaller.append(F.avg_pool2d(smaller[-1], 2, ceil_mode=True, count_include_pad=False))
        known: Sequence[Tensor | None] = (None,) * 4 if state is None else state
        x, r4 = self.decode4(maps[3], known[3])
        x, r3 = self.decode3(x, (maps[2], smaller[3]), known[2])
        x, r2 = self.decode2(x, (maps[1], smaller[2]), known[1])
        x, r1 = self.decode1(x, (maps[0], smaller[1]), known[0])
        return self.decode0(x, (images,), None)[0], (r1, r2, r3, r4)


class Projection(nn.Module):
    """One value per pixel and output."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.conv(x)
        return found


class DeepGuidedFilter(nn.Module):
    """out = A guide + b, with A and b of the reduced image, A by a network (Wu et al., CVPR 2018)."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.box_filter = nn.Conv2d(4, 4, 3, padding=1, groups=4, bias=False)
        nn.init.constant_(self.box_filter.weight, 1 / 9)
        self.conv = nn.Sequential(
            nn.Conv2d(8 + hidden, hidden, 1, bias=False), nn.BatchNorm2d(hidden), nn.ReLU(),
            nn.Conv2d(hidden, hidden, 1, bias=False), nn.BatchNorm2d(hidden), nn.ReLU(),
            nn.Conv2d(hidden, 4, 1),
        )  # fmt: skip

    def forward(self, images: Tensor, reduced: Tensor, coarse: Tensor, hidden: Tensor) -> Tensor:
        """(B, 3, H, W), (B, 3, h, w), (B, 4, h, w), (B, C, h, w) -> (B, 4, H, W)."""
        guide = with_gray(reduced)
        means, covariance, variance = _moments(self.box_filter, guide, coarse)
        slope = self.conv(torch.cat([covariance, variance, hidden], 1))
        return _filtered(images, slope, means[1] - slope * means[0])


class FastGuidedFilter(nn.Module):
    """out = A guide + b, with A = covariance / (variance + epsilon) (He & Sun, arXiv 1505.00996)."""

    epsilon = 1e-5

    def forward(self, images: Tensor, reduced: Tensor, coarse: Tensor, hidden: Tensor) -> Tensor:
        """As that of :class:`DeepGuidedFilter`; what is hidden is not looked at."""
        means, covariance, variance = _moments(_box, with_gray(reduced), coarse)
        slope = covariance / (variance + self.epsilon)
        return _filtered(images, slope, means[1] - slope * means[0])


def with_gray(images: Tensor) -> Tensor:
    """(B, 3, H, W) -> (B, 4, H, W): the mean of the colors beside them."""
    return torch.cat([images, images.mean(1, keepdim=True)], 1)


def _box(values: Tensor) -> Tensor:
    """Means of 3 x 3, beyond the border zero: along rows first, for their rounding is divided by small variances."""
    line = values.new_full((values.shape[1], 1, 1, 3), 1 / 3)
    along = F.conv2d(values, line, padding=(0, 1), groups=len(line))
    return F.conv2d(along, line.transpose(2, 3), padding=(1, 0), groups=len(line))


def _moments(box: Any, guide: Tensor, coarse: Tensor) -> tuple[tuple[Tensor, Tensor], Tensor, Tensor]:
    """Local means of both, their covariance, the guide's variance; channel by channel."""
    mean, mean_coarse = box(guide), box(coarse)
    covariance = box(guide * coarse) - mean * mean_coarse
    return (mean, mean_coarse), covariance, box(guide * guide) - mean * mean


def _filtered(images: Tensor, slope: Tensor, offset: Tensor) -> Tensor:
    size = images.shape[2:]
    slope, offset = (F.interpolate(x, size, mode="bilinear", align_corners=False) for x in (slope, offset))
    return slope * with_gray(images) + offset


# The model ------------------------------------------------------------------------------------------------------------


class RobustVideoMatting(MattingNetwork[Raw]):
    """Three verbs, and :meth:`step` for videos."""

    preprocess = UNIT

    def __init__(self, num_classes: int, config: Config, backbone: MobileNetV3 | ResNet50) -> None:
        super().__init__()
        self.num_classes, self.config = num_classes, config
        self.backbone = backbone
        self.aspp = LightPooling(backbone.channels[-1], backbone.width)
        self.decoder = Decoder((*backbone.channels[:3], backbone.width), backbone.decoder)
        hidden = backbone.decoder[-1]
        self.project_mat, self.project_seg = Projection(hidden, 4), Projection(hidden, 1)
        start_half_open(self.project_mat.conv, 3)
        deep = config.refiner == "deep_guided_filter"
        self.refiner: nn.Module = DeepGuidedFilter(hidden) if deep else FastGuidedFilter()

    def forward(self, images: ImageBatch, given: Sequence[Spatial] | None = None) -> Raw:
        """Single images, of which nothing is remembered."""
        return self.step(images, None)[0]

    def step(self, images: ImageBatch, state: State | None) -> tuple[Raw, State]:
        """One frame of each video."""
        frames = images.tensor
        reduced = self.reduced(frames)
        hidden, state = self.hidden(reduced, state)
        found = self.project_mat(hidden)
        if reduced is not frames:
            found = self.refiner(frames, reduced, found, hidden)
        alpha, foreground = found[:, 3:].clamp(0, 1), (found[:, :3] + frames).clamp(0, 1)
        return Raw(alpha, foreground, self.project_seg(hidden), images.sizes), state

    def clip(self, frames: Tensor, state: State | None = None) -> Clip:
        """(B, T, 3, H, W) frames, one after the other."""
        said: list[Any] = []
        sizes = ((int(frames.shape[3]), int(frames.shape[4])),) * len(frames)
        for frame in frames.unbind(1):
            raw, state = self.step(ImageBatch(frame, sizes), state)
            said.append(raw)
        assert state is not None
        alpha, foreground, segmentation = (torch.stack([raw[i] for raw in said], 1) for i in range(3))
        return Clip(alpha, foreground, segmentation, state)

    def hidden(self, reduced: Tensor, state: State | None) -> tuple[Tensor, State]:
        """(B, 3, h, w) -> (B, C, h, w)."""
        maps = self.backbone(reduced)
        found: tuple[Tensor, State] = self.decoder(reduced, [*maps[:3], self.aspp(maps[3])], state)
        return found

    def reduced(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, 3, h, w); the same tensor where it is small enough."""
        ratio = self.config.ratio
        if ratio is None:
            ratio = min(1.0, self.config.side / max(images.shape[2:]))
        if ratio == 1:
            return images
        return F.interpolate(
            images, scale_factor=ratio, mode="bilinear", align_corners=False, recompute_scale_factor=False
        )

    def losses(self, raw: Raw, targets: list[Matte]) -> dict[str, Tensor]:
        """Of single images, see :func:`matting_losses`, and of the segmentation that stands beside the matte."""
        target = Target.of(targets, raw.alpha)
        clip = (t[:, None] for t in (raw.alpha, raw.foreground, *target))
        return matting_losses(*clip) | {"segmentation": segmentation_loss(raw.segmentation, target.alpha)}

    def select(self, raw: Raw, options: DecodeOptions) -> Mattes:
        """All of it."""
        return Mattes.cut(raw.alpha, raw.foreground, raw.sizes)


def matting_losses(
    alpha: Tensor, foreground: Tensor, target: Tensor, target_foreground: Tensor, colored: Tensor
) -> dict[str, Tensor]:
    """Absolute differences, also of Laplacian pyramids, and squared differences of the changes from frame to frame.

    Args:
        alpha, target: (B, T, 1, H, W).
        foreground, target_foreground: (B, T, 3, H, W).
        colored: (B, T, 1, H, W), 1 where the foreground counts.
    """
    found, colors = foreground * colored, target_foreground * colored
    result = {
        "alpha": F.l1_loss(alpha, target),
        "laplacian": laplacian_loss(alpha.flatten(0, 1), target.flatten(0, 1)),
        "foreground": F.l1_loss(found, colors),
    }
    if alpha.shape[1] > 1:
        result["coherence"] = 5 * F.mse_loss(alpha.diff(dim=1), target.diff(dim=1))
        result["foreground_coherence"] = 5 * F.mse_loss(found.diff(dim=1), colors.diff(dim=1))
    return result


def segmentation_loss(logits: Tensor, alpha: Tensor) -> Tensor:
    """Cross-entropy of (B, 1, h, w) with what is mostly foreground of (B, 1, H, W)."""
    mask = F.interpolate(alpha, logits.shape[2:], mode="bilinear", align_corners=False) > 0.5
    return F.binary_cross_entropy_with_logits(logits, mask.to(logits))


# Variants -------------------------------------------------------------------------------------------------------------


def robust_video_matting_mobilenetv3(num_classes: int = 1, **config: Any) -> RobustVideoMatting:
    """MobileNetV3: the light one."""
    return RobustVideoMatting(num_classes, changed(Config(), config), MobileNetV3())


def robust_video_matting_resnet50(num_classes: int = 1, **config: Any) -> RobustVideoMatting:
    """ResNet-50."""
    return RobustVideoMatting(num_classes, changed(Config(), config), ResNet50())
