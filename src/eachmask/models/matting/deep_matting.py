"""Deep matting: a network fills in what a trimap leaves open.

Xu, Price, Cohen, Huang: "Deep Image Matting", CVPR 2017, arXiv 1703.03872. Written from the paper.

The idea: solvers such as closed form spread opacities from known pixels into unknown ones by color alone, and fail
where the background has the colors of the foreground. A network that has seen many composites knows what hair, fur and
smoke look like. It sees the image and the trimap, goes down to a small map and up again with a shortcut from every
level, and says one opacity for each pixel; what the trimap knows stays as it is.

Where we differ from the paper: EfficientNet-Lite0 takes the place of VGG-16, and the trimap joins at every shortcut
instead of as a fourth channel of the image, so that a pretrained backbone fits; the second, refining network is left
out; instead of differences of composites (whose foregrounds data sets seldom have) those of edges and of Laplacian
pyramids are learned, as later work does (Hou, Liu, ICCV 2019).

Shapes: B images of H x W px.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eachmask.backbones.by_name import backbone_named
from eachmask.models.config import changed
from eachmask.models.matting.small_unet import conv
from eachmask.models.matting.trimap_ladder import PLANES, TrimapLadder, padded, planes_of
from eachmask.models.matting.trimap_network import TrimapNetwork
from eachmask.structures import ImageBatch


@dataclass(frozen=True)
class Config:
    """What a variant may change."""

    backbone: str = "tf_efficientnet_lite0"
    """Any network whose finest map has stride 2, see :func:`eachmask.backbones.by_name.backbone_named`."""
    widths: tuple[int, ...] = (96, 48, 32, 24)
    """Channels on the way up, at strides 16, 8, 4 and 2."""
    full_width: int = 12
    """Channels at the image's own resolution."""


# The model ------------------------------------------------------------------------------------------------------------


class DeepMatting(TrimapNetwork):
    """A backbone, and a decoder that sees the trimap on every level."""

    backbone_from = "clicks"

    def __init__(self, num_classes: int, config: Config) -> None:
        super().__init__()
        self.num_classes, self.config = num_classes, config
        self.backbone: Any = backbone_named(config.backbone, finest=2)
        self.ladder = TrimapLadder(self.backbone.channels, config.widths)
        self.full = nn.Sequential(
            conv(config.widths[-1] + 3 + PLANES, config.full_width), conv(config.full_width, config.full_width)
        )
        self.alpha = nn.Conv2d(config.full_width, 1, 3, padding=1)

    def opacities(self, images: ImageBatch, known: Tensor) -> Tensor:
        """What the network says."""
        height, width = images.tensor.shape[2:]
        seen, trimaps = padded(images.tensor), padded(planes_of(known))
        x = self.ladder(seen, trimaps, self.backbone(seen).maps)
        x = F.interpolate(x, seen.shape[2:], mode="bilinear", align_corners=False)
        found: Tensor = self.alpha(self.full(torch.cat([x, seen, trimaps], 1))).sigmoid()
        return found[..., :height, :width]


# Variants -------------------------------------------------------------------------------------------------------------


def deep_matting_lite0(num_classes: int = 1, **config: Any) -> DeepMatting:
    """EfficientNet-Lite0: learns and answers on a CPU."""
    return DeepMatting(num_classes, changed(Config(), config))
