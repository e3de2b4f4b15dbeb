"""UPerNet: PSPNet's averages at the top of a pyramid, whose levels are joined at the finest.

Xiao, Liu, Zhou, Jiang, Sun: "Unified Perceptual Parsing for Scene Understanding", ECCV 2018, arXiv 1807.10221.

The idea: a classification network of any kind has maps from fine to coarse. The coarsest one gets PSPNet's averages of
the image, from there the usual pyramid goes down, and all its levels, enlarged to the finest, stand beside each other
when the classes are said. No stage has to be dilated, which transformers in windows could not be; it is the head that
Swin and its successors are compared with.

The same numbers as MMSegmentation's ``upernet`` on Swin-T (see ``tests/parity``). Where we differ from the paper: only
the classes of scenes' pixels are learnt, not materials, parts and textures.

Shapes: B images of H x W px, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from eachmask.backbones.by_name import backbone_named
from eachmask.backbones.swin import Swin
from eachmask.models.config import changed
from eachmask.models.semantic.deeplabv3 import Dilated, DilatedConfig, conv_bn_relu
from eachmask.models.semantic.labeling import PixelLoss, resized
from eachmask.models.semantic.pspnet import PyramidPooling


@dataclass(frozen=True)
class Config(DilatedConfig):
    """What a variant may change."""

    scales: tuple[int, ...] = (1, 2, 3, 6)
    """Parts per side over which the coarsest map is averaged."""
    width: int = 512
    dropout: float = 0.1


class UPerNet(Dilated):
    """A backbone, a pyramid whose levels are joined, and a small head on an earlier map that only helps in training.

    Args:
        swin: other values of a Swin transformer's :class:`~eachmask.backbones.swin.SwinConfig`.
    """

    config: Config

    def __init__(self, num_classes: int, config: Config, swin: dict[str, Any] | None = None) -> None:
        self.swin = swin or {}
        super().__init__(num_classes, config)
        self.dropout = nn.Dropout2d(config.dropout)
        self.classes = nn.Conv2d(config.width, num_classes, 1)

    def build_backbone(self) -> Any:
        """The backbone; windows stay shifted in Swin's, as in MMSegmentation's."""
        name = self.config.backbone
        return Swin(name, {"keeps_shift": True} | self.swin) if name.startswith("swin_") else backbone_named(name)

    def head(self, channels: int) -> nn.Module:
        """The pyramid."""
        return JoinedPyramid(self.backbone.channels[-4:], self.config.width, self.config.scales)

    def logits(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps at strides 4, 8, 16, 32 -> (B, K, H / 4, W / 4)."""
        result: Tensor = self.classes(self.dropout(self.classifier(maps[-4:])))
        return result


class JoinedPyramid(nn.Module):
    """Maps from fine to coarse -> one at the finest one's size."""

    def __init__(self, channels: Sequence[int], width: int, scales: Sequence[int]) -> None:
        super().__init__()
        self.top = PyramidPooling(channels[-1], width, scales)
        self.lateral = nn.ModuleList(conv_bn_relu(c, width, 1) for c in channels[:-1])
        self.smooth = nn.ModuleList(conv_bn_relu(width, width, 3) for _ in channels[:-1])
        self.join = conv_bn_relu(len(channels) * width, width, 3)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """(B, C_i, h_i, w_i) each -> (B, width, h_0, w_0)."""
        levels = [self.top(maps[-1])]
        for x, lateral in zip(maps[-2::-1], reversed(self.lateral), strict=True):
            side = lateral(x)
            levels.insert(0, side + resized(levels[0], side.shape[-2:]))
        smooth = [layer(x) for layer, x in zip(self.smooth, levels, strict=False)]
        joined = [resized(x, maps[0].shape[-2:]) for x in (*smooth, levels[-1])]
        result: Tensor = self.join(torch.cat(joined, dim=1))
        return result


# Variants -------------------------------------------------------------------------------------------------------------

MMSEG = Config(
    "swin_t", 32, aux_weight=0.4, aux_width=256, loss=replace(PixelLoss(), mean_over="all"), resized_twice=True
)
"""MMSegmentation's."""


def upernet_swin_t(num_classes: int = 150, **config: Any) -> UPerNet:
    """Swin-T: MMSegmentation's ``swin-tiny-patch4-window7-in1k-pre_upernet_8xb2-160k_ade20k-512x512``.

    ``swin`` changes values of its :class:`~eachmask.backbones.swin.SwinConfig`.
    """
    return _on_swin("swin_t", num_classes, config)


def upernet_swin_s(num_classes: int = 150, **config: Any) -> UPerNet:
    """Swin-S."""
    return _on_swin("swin_s", num_classes, config)


def upernet_swin_b(num_classes: int = 150, **config: Any) -> UPerNet:
    """Swin-B."""
    return _on_swin("swin_b", num_classes, config)


def upernet_r50(num_classes: int = 150, **config: Any) -> UPerNet:
    """ResNet-50 whose stem is three convolutions: MMSegmentation's ``upernet_r50``."""
    return UPerNet(num_classes, changed(replace(MMSEG, backbone="resnet50c"), config))


def upernet_lite0(num_classes: int = 150, **config: Any) -> UPerNet:
    """EfficientNet-Lite0 with a narrow pyramid: trains on a CPU."""
    light = Config("tf_efficientnet_lite0", 32, aux=False, width=64)
    return UPerNet(num_classes, changed(light, config))


def _on_swin(name: str, num_classes: int, config: dict[str, Any]) -> UPerNet:
    swin = {"drop_path": 0.3} | config.pop("swin", {})
    return UPerNet(num_classes, changed(replace(MMSEG, backbone=name), config), swin)
