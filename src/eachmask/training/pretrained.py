"""What a new model's weights start from: a trained model with its heads made anew, or at least a trained backbone.

The order is that of usefulness: our own bundled model of the same variant, official weights of it (fetched once),
a backbone trained on ImageNet (from an installed package, or fetched), and random numbers with a warning.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from eachmask import models
from eachmask.backbones.networks import MobileNetV3, ResNet
from eachmask.backbones.swin import Swin
from eachmask.backbones.vgg import VGG
from eachmask.structures import Preprocess, UserError
from eachmask.weights.catalogue import bundled, entries
from eachmask.weights.fetch import locate
from eachmask.weights.file import load_model, read_info
from eachmask.weights.from_efficientnet_lite import LITES, MEAN, STD, read_offline_weights
from eachmask.weights.from_torchvision import load_imagenet_resnet
from eachmask.weights.renaming import fill

TORCHVISIONS = (ResNet, Swin, MobileNetV3, VGG)
"""Backbones whose weights torchvision publishes."""


@dataclass(frozen=True)
class FromModel:
    """Start from a whole model file of the same variant; layers it lacks or has otherwise stay new."""

    path: str
    """Name or file."""

    def __call__(self, model: nn.Module) -> str:
        """Fill what fits; says what was made anew.

        Raises:
            UserError: hardly anything fits.
        """
        trained, info = load_model(locate(self.path))
        theirs, own = trained.state_dict(), model.state_dict()
        fits = {k: v for k, v in theirs.items() if k in own and own[k].shape == v.shape}
        if sum(own[k].numel() for k in fits) < 0.5 * sum(v.numel() for v in own.values()):
            raise UserError(f"{self.path} holds a {info.variant}, of which hardly anything fits this model")
        model.load_state_dict(fits, strict=False)
        new = sorted({k.rsplit(".", 1)[0] for k in own if k not in fits})
        name = info.name or Path(self.path).name
        made = f"made anew for these classes: {', '.join(new)}" if new else "nothing had to be made anew"
        return f"The weights start from {name}; {made}."


@dataclass(frozen=True)
class FromBackbone:
    """Start from a backbone trained on ImageNet, or from that of a trained model; everything above it is new."""

    trained: str | None = None
    """Name or file of a model of any variant with the same backbone."""

    def __call__(self, model: nn.Module) -> str:
        """Fill the backbone, or say why it stays random.

        Raises:
            UserError: the trained model is not there, or has another backbone.
        """
        backbone = backbone_of(model)
        if self.trained is not None:
            return (
                f"The backbone starts from that of {_take_backbone(backbone, locate(self.trained))}; the rest is new."
            )
        try:
            return f"The backbone starts from {load_backbone(backbone)}; the rest is new."
        except UserError as error:
            return (
                f"Warning: all weights start from random numbers ({error}); training takes much longer and ends worse "
                "than with a pretrained backbone."
            )


@dataclass(frozen=True)
class Start:
    """A decision: what to load, and what comes with it."""

    load: FromModel | FromBackbone | None
    preprocess: Preprocess | None = None
    """Of the model that is loaded; None where a backbone or nothing is."""
    config: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of the variant function that the weights want."""
    note: str = ""
    """Why something better was not possible."""
    whole: bool = False
    """What is loaded is a model of the same variant, all but its last layers."""


def choose_start(variant: str, requested: str = "auto") -> Start:
    """What to start from.

    Args:
        variant: of the model to be trained.
        requested: ``auto``; ``backbone``; ``none`` for random numbers; or a model's name or file. Of a model of another
            variant only the backbone is taken.

    Raises:
        UserError: the requested model does not exist.
    """
    if requested == "none":
        return Start(None)
    if requested == "backbone":
        return Start(FromBackbone())
    if requested != "auto":
        return _from_file(locate(requested), variant)
    for name, path in bundled().items():
        info = read_info(path)
        if info.variant == variant:
            return _from_file(path, variant)
        if name == models.model_class(variant).backbone_from and _same_backbone(variant, info.variant):
            return Start(FromBackbone(str(path)), info.preprocess)
    if variant not in entries():
        return Start(FromBackbone())
    try:
        return _from_file(locate(variant), variant)
    except UserError as error:
        return Start(FromBackbone(), note=f"The official weights of {variant} cannot be had: {error}.")


def _same_backbone(one: str, other: str) -> bool:
    """Whether two variants stand on the same network of timm's."""
    with torch.device("meta"):
        nets = [backbone_of(models.variant(name)(num_classes=1)) for name in (one, other)]
    first, second = (_timm_name(getattr(net, "net", net)) for net in nets)
    return first is not None and first == second


def backbone_of(model: nn.Module) -> nn.Module:
    """The part of a model that ImageNet weights fit: ``backbone.backbone``, ``encoder``, or the model itself."""
    found: Any = getattr(model, "backbone", None) or getattr(model, "encoder", None) or model
    backbone: nn.Module = getattr(found, "backbone", found)
    return backbone


def weights_known(backbone: nn.Module) -> bool:
    """Whether somebody publishes ImageNet weights of this backbone."""
    if isinstance(backbone, nn.ModuleDict):
        return all(weights_known(part) for part in backbone.values())
    return isinstance(backbone, TORCHVISIONS) or _timm_name(getattr(backbone, "net", backbone)) is not None


def load_backbone(backbone: nn.Module) -> str:
    """Fill a backbone with ImageNet weights; says in words what they are.

    Raises:
        UserError: none are known for it, or they cannot be had here.
    """
    if isinstance(backbone, nn.ModuleDict):
        return " and ".join(dict.fromkeys(load_backbone(part) for part in backbone.values()))
    if isinstance(backbone, TORCHVISIONS):
        return _from_torchvision(backbone)
    net = getattr(backbone, "net", backbone)
    name = _timm_name(net)
    if name is None:
        raise UserError(f"no pretrained weights are known for a {type(backbone).__name__}")
    if name in LITES:
        _fill(net, read_offline_weights(name), name)
        return f"the ImageNet weights of {name} (efficientnet-lite packages, Apache-2.0)"
    from eachmask.accel.lazy_dynamo import timm

    try:
        trained = timm().create_model(name, pretrained=True, features_only=True).state_dict()
    except Exception as error:  # the hub's client has many ways to fail without a network
        raise UserError(f"timm's weights of {name} cannot be fetched: {_first_line(error)}") from error
    _fill(net, trained, name)
    return f"timm's pretrained weights of {name}"


def backbone_preprocess(model: nn.Module) -> Preprocess:
    """Mean and deviation that the pretrained backbone wants: EfficientNet-Lite's, or ImageNet's."""
    backbone = backbone_of(model)
    if isinstance(backbone, nn.ModuleDict):
        backbone = next(iter(backbone.values()))
    return Preprocess(mean=MEAN, std=STD) if _timm_name(getattr(backbone, "net", backbone)) in LITES else Preprocess()


def _timm_name(net: nn.Module) -> str | None:
    known = getattr(net, "default_cfg", None) or getattr(net, "pretrained_cfg", None)
    name = (known or {}).get("architecture")
    return None if name is None else str(name)


def _from_file(path: Path, variant: str) -> Start:
    info = read_info(path)
    if info.variant != variant:
        note = f"{info.name or path.name} is a {info.variant}, not a {variant}: only its backbone is taken."
        return Start(FromBackbone(str(path)), info.preprocess, note=note)
    # Whatever the model left to a classifier to tell apart, a model trained on other data has to learn itself.
    config = {key: value for key, value in info.config.items() if key != "agnostic"}
    return Start(FromModel(str(path)), info.preprocess, config, whole=True)


def _from_torchvision(backbone: ResNet | Swin | MobileNetV3 | VGG) -> str:
    from eachmask.accel.lazy_dynamo import torchvision

    weights = torchvision().models.get_model_weights(backbone.name)
    chosen = getattr(weights, "IMAGENET1K_V1", weights.DEFAULT)
    try:
        state = chosen.get_state_dict(progress=True, check_hash=True)
    except Exception as error:  # the downloader has many ways to fail without a network
        raise UserError(f"torchvision's weights of {backbone.name} cannot be fetched: {_first_line(error)}") from error
    if isinstance(backbone, ResNet):
        load_imagenet_resnet(backbone, state)
    elif isinstance(backbone, MobileNetV3 | VGG):
        fill(backbone, backbone.from_classifier(state))
    else:
        _fill(backbone.net, state, backbone.name)
    return f"torchvision's ImageNet weights of {backbone.name}"


def _take_backbone(backbone: nn.Module, path: Path) -> str:
    """Copy the backbone of a model file; returns the model's name.

    Raises:
        UserError: it is another one.
    """
    trained, info = load_model(path)
    name = info.name or path.name
    theirs = backbone_of(trained)
    if isinstance(theirs, nn.ModuleDict):
        theirs = next(iter(theirs.values()))
    state = getattr(theirs, "net", theirs).state_dict()
    for part in backbone.values() if isinstance(backbone, nn.ModuleDict) else (backbone,):
        net = getattr(part, "net", part)
        own = net.state_dict()
        if any(key not in state or state[key].shape != value.shape for key, value in own.items()):
            raise UserError(
                f"{name}, a {info.variant}, has another backbone than this model: choose another --pretrained"
            )
        net.load_state_dict({key: state[key] for key in own})
    return name


def _fill(net: nn.Module, state: dict[str, Tensor], name: str) -> None:
    missing = net.load_state_dict(state, strict=False).missing_keys
    if missing:
        raise UserError(f"{name} has no weights for {', '.join(missing[:3])}")


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
