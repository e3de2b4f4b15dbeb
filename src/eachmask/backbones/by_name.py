"""A backbone by its name: torchvision's ResNets, MobileNetV3, Swin and VGG, and all else timm's."""

from __future__ import annotations

import re
from typing import Any, Literal

from eachmask.backbones.networks import MobileNetV3, ResNet, Timm
from eachmask.backbones.swin import Swin
from eachmask.backbones.vgg import VGG
from eachmask.structures import UserError

Stride = Literal[8, 16, 32]


def backbone_named(name: str, coarsest: Stride = 32, finest: Literal[2, 4] = 4) -> Any:
    """An untrained backbone, a module with ``channels`` and ``strides``.

    Args:
        name: resnet50, resnext101_32x8d, mobilenet_v3_large, vgg16, swin_t, or any network of timm's that lists its
            features (tf_efficientnet_lite0). resnet50c has three convolutions for a stem, as MMSegmentation's have, and
            resnet52 (or 103) wider ones and a last stage of several dilations: DeepLab's.
        coarsest: of its maps: at 8 and 16 the last stages dilate their convolutions instead of halving the map.
        finest: 2 asks for the map of that stride too, which not every network has.

    Raises:
        UserError: the network cannot be dilated.
    """
    if name.startswith(("resnet", "resnext", "wide_resnet")) and name.endswith(("18", "34", "50", "101", "152")):
        if coarsest < 32 and name in ("resnet18", "resnet34"):
            raise UserError(f"{name} has no bottlenecks and cannot be dilated: take resnet50, or a stride of 32")
        return ResNet(name, coarsest=coarsest)
    if deep := re.fullmatch(r"resnet(50c|101c|52|103)", name):
        return _deep_stemmed(deep[1], coarsest)
    if name.startswith("mobilenet_v3_"):
        if coarsest == 8:
            raise UserError(f"{name} can be dilated in its last stage alone: its stride is 16 or 32")
        return MobileNetV3(name, dilated=coarsest == 16)
    if name.startswith(("vgg", "swin_")):
        if coarsest < 32:
            raise UserError(f"{name} cannot be dilated: take another backbone, or a stride of 32")
        return VGG(name) if name.startswith("vgg") else Swin(name)
    return Timm(name, finest, coarsest)


def _deep_stemmed(kind: str, coarsest: Stride) -> ResNet:
    if kind.endswith("c"):
        return ResNet(f"resnet{kind[:-1]}", coarsest=coarsest, deep_stem=32)
    multi_grid = (1, 2, 4) if coarsest < 32 else ()
    return ResNet(f"resnet{int(kind) - 2}", coarsest=coarsest, deep_stem=64, multi_grid=multi_grid)
