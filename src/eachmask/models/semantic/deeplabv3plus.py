"""DeepLabv3+: DeepLabv3's context, sharpened by what a fine map still knows of outlines.

Chen, Zhu, Papandreou, Schroff, Adam: "Encoder-Decoder with Atrous Separable Convolution for Semantic Image
Segmentation", ECCV 2018, arXiv 1802.02611.

The idea: DeepLabv3 says classes at an eighth or sixteenth of the image's side and enlarges them, which rounds outlines.
Here the pyramid of dilated convolutions (ASPP) is enlarged only to stride 4, joined with the map that the network had
there, made narrow so that it does not outweigh the context, and refined by two convolutions. Depthwise convolutions
with pointwise ones behind them cost a fraction of full ones.

The same numbers as Detectron2's ``deeplab_v3_plus_R_103_os16`` and MMSegmentation's ``deeplabv3plus_r50-d8`` (see
``tests/parity``). Where we differ from the paper: as these do, ResNets instead of Xception.

Shapes: B images of H x W px, K classes, C channels of a map.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from eachmask.models.config import changed
from eachmask.models.semantic.deeplabv3 import ASPP, Dilated, DilatedConfig, conv_bn_relu, separable_bn_relu
from eachmask.models.semantic.labeling import PixelLoss, resized


@dataclass(frozen=True)
class DecoderConfig:
    """What differs between decoders."""

    rates: tuple[int, ...] = (6, 12, 18)
    """Gaps of the dilated convolutions, cells."""
    aspp_width: int = 256
    aspp_separable: bool = False
    aspp_kernel: int = 1
    """Of the convolution that joins the branches."""
    mean_norm: bool = False
    """The mean of the image is normalized; else it has a bias."""
    mean_window: tuple[int, ...] = ()
    """Cells (rows, columns) over which the mean is taken; () is the image. Detectron2 takes the crop that it was
    trained on."""
    dropout: float = 0.1
    low_widths: tuple[int, ...] = (48,)
    """Channels of the finer maps that join, finest first; the finest is at stride 4."""
    width: int = 256
    convs: Literal["full", "separable", "wide"] = "full"
    """What refines a joined map: two convolutions of 3 x 3, two separable ones, or one separable one of 5 x 5."""


@dataclass(frozen=True)
class Config(DilatedConfig):
    """What a variant may change."""

    backbone: str = "resnet52"
    stride: Literal[8, 16, 32] = 16
    aux: bool = False
    decoder: DecoderConfig = DecoderConfig()
    head_dropout: float = 0.0
    """Before the classes."""
    loss: PixelLoss = field(default_factory=lambda: PixelLoss(hard=0.2))


class Decoder(nn.Module):
    """ASPP on the coarsest map, joined with finer ones on the way down to stride 4.

    Args:
        channels: of the backbone's maps, fine to coarse.
    """

    def __init__(self, channels: Sequence[int], config: DecoderConfig) -> None:
        super().__init__()
        c = config
        self.aspp = ASPP(
            channels[-1], c.aspp_width, c.rates, c.dropout, separable=c.aspp_separable, kernel=c.aspp_kernel,
            mean_norm=c.mean_norm, mean_window=c.mean_window,
        )  # fmt: skip
        before = [c.width] * (len(c.low_widths) - 1) + [c.aspp_width]
        self.low = nn.ModuleList(conv_bn_relu(a, b, 1) for a, b in zip(channels, c.low_widths, strict=False))
        self.fuse = nn.ModuleList(
            refining(low + deep, c.width, c.convs) for low, deep in zip(c.low_widths, before, strict=True)
        )

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """The backbone's maps -> (B, width, H / 4, W / 4)."""
        x: Tensor = self.aspp(maps[-1])
        levels = list(zip(maps, self.low, self.fuse, strict=False))
        for finer, low, fuse in reversed(levels):
            side = low(finer)
            x = fuse(torch.cat([side, resized(x, side.shape[-2:])], dim=1))
        return x


def refining(channels: int, width: int, kind: str) -> nn.Sequential:
    """What refines a map of so many channels, see ``DecoderConfig.convs``."""
    if kind == "wide":
        return nn.Sequential(separable_bn_relu(channels, width, 5))
    layer = separable_bn_relu if kind == "separable" else conv_bn_relu
    return nn.Sequential(layer(channels, width, 3), layer(width, width, 3))


class DeepLabV3Plus(Dilated):
    """A dilated backbone, the decoder and the classes."""

    config: Config

    def __init__(self, num_classes: int, config: Config) -> None:
        super().__init__(num_classes, config)
        self.dropout = nn.Dropout2d(config.head_dropout)
        self.classes = nn.Conv2d(config.decoder.width, num_classes, 1)

    def head(self, channels: int) -> nn.Module:
        """The decoder."""
        return Decoder(self.backbone.channels, self.config.decoder)

    def logits(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps of the backbone -> (B, K, H / 4, W / 4)."""
        result: Tensor = self.classes(self.dropout(self.classifier(maps)))
        return result


# Variants -------------------------------------------------------------------------------------------------------------

MMSEG = Config(
    "resnet50c",
    8,
    aux=True,
    aux_weight=0.4,
    decoder=DecoderConfig(
        (12, 24, 36), 512, aspp_separable=True, aspp_kernel=3, mean_norm=True, dropout=0.0, width=512, convs="separable"
    ),
    head_dropout=0.1,
    loss=replace(PixelLoss(), mean_over="all"),
    resized_twice=True,
)
"""MMSegmentation's."""
DETECTRON2 = Config(resized_twice=True)
"""Detectron2's."""


def deeplabv3plus_r52(num_classes: int = 19, **config: Any) -> DeepLabV3Plus:
    """ResNet-50 of a deep stem, wants BGR: Detectron2's ``deeplab_v3_plus_R_103_os16_mg124`` in its size."""
    return DeepLabV3Plus(num_classes, changed(DETECTRON2, config))


def deeplabv3plus_r103(num_classes: int = 19, **config: Any) -> DeepLabV3Plus:
    """ResNet-101 of a deep stem, wants BGR: Detectron2's ``deeplab_v3_plus_R_103_os16_mg124_poly_90k_bs16``."""
    return DeepLabV3Plus(num_classes, changed(replace(DETECTRON2, backbone="resnet103"), config))


def deeplabv3plus_r50_d8(num_classes: int = 19, **config: Any) -> DeepLabV3Plus:
    """ResNet-50 at stride 8: MMSegmentation's ``deeplabv3plus_r50-d8_4xb2-40k_cityscapes-512x1024``."""
    return DeepLabV3Plus(num_classes, changed(MMSEG, config))


def deeplabv3plus_lite0(num_classes: int = 19, **config: Any) -> DeepLabV3Plus:
    """EfficientNet-Lite0 at stride 16, narrow and separable: trains on a CPU."""
    narrow = DecoderConfig(
        (4, 8, 12), 96, aspp_separable=True, mean_norm=True, low_widths=(24,), width=64, convs="wide"
    )
    return DeepLabV3Plus(
        num_classes, changed(Config("tf_efficientnet_lite0", decoder=narrow, loss=PixelLoss()), config)
    )
