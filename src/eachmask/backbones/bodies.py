"""A backbone by its name: torchvision's ResNets, MobileNetV3, Swin and VGG, and all else timm's."""

from __future__ import annotations

from typing import Any, Literal

from eachmask.backbones.networks import MobileNetV3, ResNet, Timm
from eachmask.backbones.swin import Swin
from eachmask.backbones.vgg import VGG
from eachmask.structures import UserError

Stride = Literal[8, 16, 32]


def body(name: str, coarsest: Stride = 32, finest: Literal[2, 4] = 4) -> Any:
    """An untrained backbone, a module with ``channels`` and ``strides``.

    Args:
        name: resnet50, resnext101_32x8d, mobilenet_v3_large, vgg16, swin_t, or any network of timm's that lists its
            features (tf_efficientnet_lite0).
        coarsest: of its maps: at 8 and 16 the last stages dilate their convolutions instead of halving the map.
        finest: 2 asks for the map of that stride too, which not every network has.

    Raises:
        UserError: the network cannot be dilated.
    """
    if name.startswith(("resnet", "resnext", "wide_resnet")) and name.endswith(("18", "34", "50", "101", "152")):
        if coarsest < 32 and name in ("resnet18", "resnet34"):
            raise UserError(f"{name} has no bottlenecks and cannot be dilated: take resnet50, or a stride of 32")
        return ResNet(name, coarsest=coarsest)
    if name.startswith("mobilenet_v3_"):
        if coarsest == 8:
            raise UserError(f"{name} can be dilated in its last stage alone: its stride is 16 or 32")
        return MobileNetV3(name, dilated=coarsest == 16)
    if name.startswith(("vgg", "swin_")):
        if coarsest < 32:
            raise UserError(f"{name} cannot be dilated: take another backbone, or a stride of 32")
        return VGG(name) if name.startswith("vgg") else Swin(name)
    return Timm(name, finest, coarsest)
