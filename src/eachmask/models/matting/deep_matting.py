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

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eachmask.backbones.by_name import backbone_named
from eachmask.models.config import changed
from eachmask.models.matting.network import Mattes, MattingNetwork, Target, laplacian_loss, sobel
from eachmask.structures import DecodeOptions, ImageBatch, Matte, Trimap, UserError

STRIDE = 32


class Raw(NamedTuple):
    """What the network says of a batch."""

    alpha: Tensor  # (B, 1, H, W) 0..1, what the trimap knows as it says
    unknown: Tensor  # (B, 1, H, W) 1 where the trimap leaves it open, else 0
    sizes: tuple[tuple[int, int], ...]  # valid (height, width)


@dataclass(frozen=True)
class Config:
    """What a variant may change."""

    backbone: str = "tf_efficientnet_lite0"
    """Any network whose finest map has stride 2, see :func:`eachmask.backbones.by_name.backbone_named`."""
    widths: tuple[int, ...] = (96, 48, 32, 24)
    """Channels on the way up, at strides 16, 8, 4 and 2."""
    full_width: int = 12
    """Channels at the image's own resolution."""


# Blocks ---------------------------------------------------------------------------------------------------------------


def conv(inputs: int, outputs: int) -> nn.Sequential:
    """3 x 3, normalized, ReLU."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())


class Decoder(nn.Module):
    """From the coarsest map to the image's own resolution; every level sees the trimap."""

    def __init__(self, maps: Sequence[int], widths: Sequence[int], full_width: int) -> None:
        super().__init__()
        below = [maps[-1] + 3, *widths]
        skips = [channels + 3 for channels in maps[-2::-1]]
        self.levels = nn.ModuleList(conv(b + s, w) for b, s, w in zip(below, skips, widths, strict=False))
        self.full = nn.Sequential(conv(widths[-1] + 6, full_width), conv(full_width, full_width))
        self.alpha = nn.Conv2d(full_width, 1, 3, padding=1)

    def forward(self, images: Tensor, maps: Sequence[Tensor], trimaps: Tensor) -> Tensor:
        """Logits (B, 1, H, W)."""
        x = torch.cat([maps[-1], _shrunk(trimaps, maps[-1])], 1)
        for level, skip in zip(self.levels, maps[-2::-1], strict=True):
            x = level(torch.cat([_grown(x, skip), skip, _shrunk(trimaps, skip)], 1))
        found: Tensor = self.alpha(self.full(torch.cat([_grown(x, images), images, trimaps], 1)))
        return found


def _shrunk(trimaps: Tensor, like: Tensor) -> Tensor:
    """Shares of foreground, unknown and background in each cell of a map."""
    return F.avg_pool2d(trimaps, trimaps.shape[2] // like.shape[2])


def _grown(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, like.shape[2:], mode="bilinear", align_corners=False)


# The model ------------------------------------------------------------------------------------------------------------


class DeepMatting(MattingNetwork[Raw]):
    """A backbone, and a decoder that sees the trimap on every level."""

    takes = Trimap
    backbone_from = "objects"

    def __init__(self, num_classes: int, config: Config) -> None:
        super().__init__()
        self.num_classes, self.config = num_classes, config
        self.backbone: Any = backbone_named(config.backbone, finest=2)
        self.decoder = Decoder(self.backbone.channels, config.widths, config.full_width)

    def forward(self, images: ImageBatch, given: Sequence[Any] | None = None) -> Raw:
        """(B, 3, H, W) and a trimap of each -> (B, 1, H, W).

        Raises:
            UserError: no trimap is given.
        """
        height, width = images.tensor.shape[2:]
        padding = (0, -width % STRIDE, 0, -height % STRIDE)
        known = stacked(images, given)
        surely, unknown = known[:, :1], known[:, 1:2]
        if not unknown.any():  # as in most tiles of a large image
            return Raw(surely, unknown, images.sizes)
        seen, trimaps = F.pad(images.tensor, padding), F.pad(known, padding)
        alpha = self.decoder(seen, self.backbone(seen).maps, trimaps).sigmoid()[..., :height, :width]
        return Raw(torch.where(unknown > 0, alpha, surely), unknown, images.sizes)

    def losses(self, raw: Raw, targets: list[Matte]) -> dict[str, Tensor]:
        """Absolute differences of alpha and of its gradient where the trimap leaves it open, and of Laplacian
        pyramids."""
        target = Target.of(targets, raw.alpha).alpha
        target = torch.where(raw.unknown > 0, target, raw.alpha.detach())  # what was given wrong is not to be refined
        count = raw.unknown.sum().clamp(min=1)
        edges = (sobel(raw.alpha) - sobel(target)).abs() * raw.unknown
        share = raw.unknown.mean().clamp(min=1e-3)
        return {
            "alpha": ((raw.alpha - target).abs() * raw.unknown).sum() / count,
            "edges": edges.sum() / count,
            "laplacian": laplacian_loss(raw.alpha, target) / share,
        }

    def select(self, raw: Raw, options: DecodeOptions) -> Mattes:
        """All of it; the colors are found afterwards."""
        return Mattes.cut(raw.alpha, None, raw.sizes)


def stacked(images: ImageBatch, given: Sequence[Any] | None) -> Tensor:
    """(B, 3, H, W) of 0 and 1: foreground, unknown, background; what is padded is background.

    Raises:
        UserError: no trimap is given.
    """
    if given is None or not all(isinstance(one, Trimap) for one in given):
        raise UserError("this model fills in what a trimap leaves open: give --trimap")
    planes = torch.zeros_like(images.tensor)
    planes[:, 2] = 1
    for slot, one in zip(planes, given, strict=True):
        height, width = one.image_size
        slot[:, :height, :width] = torch.stack([one.foreground, one.unknown, one.background]).to(slot)
    return planes


# Variants -------------------------------------------------------------------------------------------------------------


def deep_matting_lite0(num_classes: int = 1, **config: Any) -> DeepMatting:
    """EfficientNet-Lite0: learns and answers on a CPU."""
    return DeepMatting(num_classes, changed(Config(), config))
