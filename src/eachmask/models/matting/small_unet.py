"""A small U-Net at the image's own resolution, for networks that say something of every pixel.

Shapes: B images of H x W px.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class SmallUNet(nn.Module):
    """Down to a small map and up again, with a bridge on every level; before it learns it says zero everywhere.

    Args:
        inputs: channels.
        outputs: channels.
        widths: channels at the image's own resolution, at half of it, and so on.
    """

    def __init__(self, inputs: int, outputs: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.down = nn.ModuleList(
            nn.Sequential(conv(above, own), conv(own, own)) for above, own in pairwise((inputs, *widths))
        )
        self.up = nn.ModuleList(conv(fine + coarse, fine) for fine, coarse in pairwise(widths))
        self.last = nn.Conv2d(widths[0], outputs, 3, padding=1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(cast(Tensor, self.last.bias))

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) of any size -> (B, outputs, H, W)."""
        maps: list[Tensor] = []
        for level in self.down:
            x = level(F.avg_pool2d(x, 2, ceil_mode=True) if maps else x)
            maps.append(x)
        for level, skip in zip(reversed(self.up), reversed(maps[:-1]), strict=True):
            grown = F.interpolate(x, skip.shape[2:], mode="bilinear", align_corners=False)
            x = level(torch.cat([grown, skip], 1))
        found: Tensor = self.last(x)
        return found


def conv(inputs: int, outputs: int) -> nn.Sequential:
    """3 x 3, normalized, ReLU."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())
