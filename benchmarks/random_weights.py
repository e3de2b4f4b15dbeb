"""Photographs, and random weights with which a network says different things of their places, as trained ones do.

Imported in environments without eachmask too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

PHOTOGRAPHS = ("astronaut", "coffee", "chelsea", "rocket")
"""Of scikit-image."""
SIZE = (640, 480)
"""(width, height) that they are resized to, px."""


def photographs() -> list[np.ndarray]:
    """(480, 640, 3) uint8 each."""
    import cv2
    import skimage.data

    return [cv2.resize(getattr(skimage.data, name)(), SIZE) for name in PHOTOGRAPHS]


@torch.no_grad()
def enliven(model: nn.Module, forward: Callable[[], Any]) -> None:
    """He's initialization of what is learnt, and the statistics of one pass: signals neither die out nor explode.

    Args:
        forward: a pass of the model over images such as those that it will see.
    """
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.weight.requires_grad:
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        elif isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
            module.eps = max(module.eps, 1e-5)  # torchvision's weights want 0, with which there are no statistics
    model.train()
    forward()
    model.eval()
