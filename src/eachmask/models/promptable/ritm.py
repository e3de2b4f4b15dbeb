"""RITM: iterative training revived, with the previous mask as an input.

Sofiiuk, Petrov, Konushin: "Reviving Iterative Training with Mask Guidance for Interactive Segmentation", 2021, arXiv
2102.06583. The network is HRNet (:mod:`eachmask.backbones.hrnet`) with object-contextual representations (Yuan, Chen,
Wang: "Object-Contextual Representations for Semantic Segmentation", ECCV 2020, arXiv 1909.11065).

The idea: neither optimization at test time nor anything else but a feed-forward network, which sees the mask that it
gave before and disks around the clicks. They enter where the image has become features already (*Conv1S*), so that
pretrained weights see the images that they know.

Where we differ: nothing in the network or in how it is asked (:mod:`eachmask.models.promptable.clicking`). The light
variant has EfficientNet-Lite0 instead of HRNet and mixes its maps as SimpleClick's head does.

Shapes: B images of H x W px, features at stride 4, K = 1 object.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eachmask.backbones.hrnet import HRNet, HRNetConfig, enlarged
from eachmask.backbones.with_maps import TimmWithMaps
from eachmask.models.config import changed
from eachmask.models.promptable.clicking import PREPROCESS, DiskNetwork, LearnConfig, ZoomConfig
from eachmask.models.promptable.simpleclick import FusionHead


@dataclass(frozen=True)
class Config:
    """What a variant may change."""

    hrnet: HRNetConfig = HRNetConfig()
    ocr_width: int = 64
    """Channels of keys; twice as many of features."""
    radius: float = 5.0
    """Of the disks around clicks, px of the network's input."""
    zoom: ZoomConfig = ZoomConfig(size=(400,), after=1)
    learn: LearnConfig = LearnConfig()
    mirror: bool = True
    max_side: int | None = 800
    """Larger images are reduced to this longer side while there is no window, px."""
    mask_threshold: float = 0.49


class Scale(nn.Module):
    """Times the magnitude of one learned number."""

    def __init__(self, value: float = 0.05) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([value]))

    def forward(self, x: Tensor) -> Tensor:
        """Any shape."""
        return x * self.scale.abs()


class ContextHead(nn.Module):
    """A rough mask, the mean feature of what is in it, and features that know this context.

    Args:
        channels: of the pixel features; width: of keys and values.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        wide = 2 * width
        self.features = nn.Sequential(_conv(channels, wide, 3, True), nn.BatchNorm2d(wide), nn.ReLU())
        self.rough = nn.Sequential(
            _conv(channels, channels, 1, True), nn.BatchNorm2d(channels), nn.ReLU(), nn.Conv2d(channels, 1, 1)
        )
        self.query = nn.Sequential(*_conv_norm(wide, width), *_conv_norm(width, width))
        self.key = nn.Sequential(*_conv_norm(wide, width), *_conv_norm(width, width))
        self.value = nn.Sequential(*_conv_norm(wide, width))
        self.up = nn.Sequential(*_conv_norm(width, wide))
        self.mix = nn.Sequential(*_conv_norm(2 * wide, wide))
        self.mask = nn.Conv2d(wide, 1, 1)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """(B, channels, h, w) -> mask and rough mask, (B, 1, h, w) logits each."""
        rough, features = self.rough(pixels), self.features(pixels)
        known = self.mix(torch.cat([self.attend(features, self.context(features, rough)), features], 1))
        return self.mask(known), rough

    @staticmethod
    def context(features: Tensor, rough: Tensor) -> Tensor:
        """(B, C, K, 1): of each object the mean feature, weighted by where it seems to be."""
        weights = rough.flatten(2).softmax(2)
        return (weights @ features.flatten(2).transpose(1, 2)).transpose(1, 2)[..., None]

    def attend(self, features: Tensor, context: Tensor) -> Tensor:
        """(B, C, h, w): for each pixel what it looks up among the K contexts; with one of them that is the same."""
        query, key = self.query(features).flatten(2).transpose(1, 2), self.key(context).flatten(2)
        share = (query @ key * key.shape[1] ** -0.5).softmax(2)
        found = (share @ self.value(context).flatten(2).transpose(1, 2)).transpose(1, 2)
        up: Tensor = self.up(found.unflatten(2, features.shape[2:]))
        return up


def _conv(inputs: int, outputs: int, kernel: int, bias: bool) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, 1, kernel // 2, bias=bias)


def _conv_norm(inputs: int, outputs: int) -> list[nn.Module]:
    return [_conv(inputs, outputs, 1, False), nn.BatchNorm2d(outputs), nn.ReLU()]


def click_features(outputs: int, inputs: int = 3) -> nn.Sequential:
    """(B, inputs, H, W) previous mask and disks -> (B, outputs, H / 2, W / 2) to be added to the first features."""
    return nn.Sequential(nn.Conv2d(inputs, 16, 1), nn.LeakyReLU(0.2), nn.Conv2d(16, outputs, 3, 2, 1), Scale())


# Models ---------------------------------------------------------------------------------------------------------------


class _WithDisks(DiskNetwork):
    """Settings that all variants have; the maps enter at stride 2."""

    config: Config

    def __init__(self, num_classes: int, config: Config) -> None:
        super().__init__()
        self.num_classes, self.config = num_classes, config
        self.zoom, self.learn, self.mirror = config.zoom, config.learn, config.mirror
        self.max_side, self.threshold = config.max_side, config.mask_threshold


class RITM(_WithDisks):
    """HRNet with object-contextual representations (:class:`~eachmask.models.protocol.Promptable`)."""

    preprocess = PREPROCESS

    def __init__(self, num_classes: int = 1, config: Config | None = None) -> None:
        super().__init__(num_classes, config or Config())
        self.click_features = click_features(64)
        self.backbone = HRNet(self.config.hrnet)
        self.head = ContextHead(sum(self.backbone.channels), self.config.ocr_width)

    def from_maps(self, images: Tensor, maps: Tensor) -> tuple[Tensor, ...]:
        size = (images.shape[2], images.shape[3])
        found = self.backbone(images, self.click_features(maps)).maps
        finest = (found[0].shape[2], found[0].shape[3])
        mask, rough = self.head(torch.cat([enlarged(x, finest) for x in found], 1))
        return enlarged(mask, size), enlarged(rough, size)


class RITMLite(_WithDisks):
    """EfficientNet-Lite0 and a light head, for computers without a GPU."""

    def __init__(self, num_classes: int = 1, config: Config | None = None) -> None:
        super().__init__(num_classes, config or LIGHT)
        self.backbone = TimmWithMaps("tf_efficientnet_lite0")
        self.click_features = click_features(self.backbone.stem_channels)
        self.head = FusionHead(self.backbone.channels, self.config.ocr_width)

    def from_maps(self, images: Tensor, maps: Tensor) -> tuple[Tensor, ...]:
        size = (images.shape[2], images.shape[3])
        found = self.head(list(self.backbone(images, self.click_features(maps)).maps))
        return (F.interpolate(found, size, mode="bilinear", align_corners=False),)


# Variants -------------------------------------------------------------------------------------------------------------


SMALL = Config(hrnet=HRNetConfig(stem_blocks=2, modules=(1, 3, 2), blocks=2), ocr_width=48)
LARGE = Config(hrnet=HRNetConfig(width=32), ocr_width=128)
LIGHT = Config(mask_threshold=0.5)


def ritm_hrnet18(num_classes: int = 1, **config: Any) -> RITM:
    """HRNet-18, 64 keys."""
    return RITM(num_classes, changed(Config(), config))


def ritm_hrnet18s(num_classes: int = 1, **config: Any) -> RITM:
    """HRNet-18 with half the blocks, 48 keys."""
    return RITM(num_classes, changed(SMALL, config))


def ritm_hrnet32(num_classes: int = 1, **config: Any) -> RITM:
    """HRNet-32, 128 keys."""
    return RITM(num_classes, changed(LARGE, config))


def ritm_lite0(num_classes: int = 1, **config: Any) -> RITMLite:
    """EfficientNet-Lite0: without a GPU."""
    return RITMLite(num_classes, changed(LIGHT, config))
