"""Another backbone below any model that reads the maps of one: torchvision's Swin transformers, timm's networks ...

>>> from eachmask import models
>>> model = models.solov2_lite0(num_classes=2, backbone="resnet18")
>>> type(model.backbone.backbone).__name__, model.backbone.backbone.channels
('ResNet', (64, 128, 256, 512))

Models with a pyramid (all R-CNNs with FPN, SOLO, CondInst, Semantic and Panoptic FPN ...), MaskFormer and Mask2Former
have a method ``put_on`` for it: what reads the maps is made anew, everything above is as the variant has it. Networks
whose ``Config`` names its backbone (FCN, U-Net, DeepLab, UPerNet ...) take it there.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import cache, wraps
from typing import Any

from torch import nn

from eachmask.backbones.by_name import backbone_named
from eachmask.backbones.swin import Swin
from eachmask.structures import UserError


@cache
def on_any_backbone(build: Callable[..., Any], config: type | None) -> Callable[..., Any]:
    """A variant function that takes ``backbone``, a name that :func:`backbone_named` knows, among its settings.

    Args:
        build: the variant function.
        config: of its models; where it names a backbone nothing is to be done.
    """
    if hasattr(config, "backbone") or "backbone" in inspect.signature(build).parameters:
        return build

    @wraps(build)
    def built(*args: Any, backbone: str | None = None, **settings: Any) -> Any:
        if backbone is None:
            return build(*args, **settings)
        swin = settings.pop("swin", {}) if backbone.startswith("swin_") else {}
        return put_on(build(*args, **settings), backbone, swin)

    return built


def put_on(model: nn.Module, name: str, swin: Mapping[str, Any] | None = None) -> nn.Module:
    """Give a model another backbone, with new weights.

    Args:
        swin: other values of a Swin transformer's :class:`~eachmask.backbones.swin.SwinConfig`.

    Raises:
        UserError: the model reads no maps of a backbone, or others than this one has.
    """
    readers: list[Any] = [module for module in model.modules() if hasattr(module, "put_on")]
    if not readers:
        raise UserError(f"{type(model).__name__} is made for its own backbone: leave out {name}")
    backbone = Swin(name, swin) if name.startswith("swin_") else backbone_named(name)
    for reader in readers:
        wanted, found = tuple(reader.backbone.strides), tuple(backbone.strides)
        if wanted != found:
            raise UserError(f"{name} has maps of strides {_listed(found)}, but those of {_listed(wanted)} are wanted")
        reader.put_on(backbone)
    return model


def _listed(numbers: tuple[int, ...]) -> str:
    return ", ".join(map(str, numbers))
