"""MODNet: portraits are cut out of one photograph, by three branches that learn three easier questions.

Ke, Sun, Li, Yan, Lau: "MODNet: Real-Time Trimap-Free Portrait Matting via Objective Decomposition", AAAI 2022, arXiv
2011.11961. Written from the paper and from recorded numbers.

The idea: where a person is, is a coarse question for the deepest maps of a backbone; how the border looks is a fine one
for its first maps and the image; a small branch puts both answers together. Each branch has a target of its own: the
blurred matte at a sixteenth of the size, the matte along the border, and the matte. Half of the channels are normalized
over the batch, half over each image, so that one image's exposure matters less.

Where we differ: sizes that are no multiples of 32 are padded. Self-supervision on unlabeled videos is left out.

Shapes: B images of H x W px, normalized to -1..1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eachmask.accel.lazy_dynamo import torchvision
from eachmask.models.config import changed
from eachmask.models.matting.network import Mattes, MattingNetwork, Target
from eachmask.structures import DecodeOptions, ImageBatch, Matte, Preprocess
from eachmask.structures.spatial import Spatial

STRIDE = 32


class Raw(NamedTuple):
    """What the network says of a batch, all of it 0..1."""

    alpha: Tensor  # (B, 1, H, W)
    semantic: Tensor  # (B, 1, H/16, W/16) blurred
    detail: Tensor  # (B, 1, H, W), to be looked at along the border alone
    images: Tensor  # (B, 3, H, W) as they were seen
    sizes: tuple[tuple[int, int], ...]  # valid (height, width)


@dataclass(frozen=True)
class Config:
    """What a variant may change."""

    width: int = 32
    """Channels of the branch of details."""
    border: float = 0.03
    """Reach of the border to either side, as a share of the longer side."""
    semantic_weight: float = 1.0
    detail_weight: float = 10.0


# Blocks ---------------------------------------------------------------------------------------------------------------


class HalfNorm(nn.Module):
    """The first half of the channels normalized over the batch, the second over each image."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.own = channels // 2
        self.bnorm = nn.BatchNorm2d(self.own)
        self.inorm = nn.InstanceNorm2d(channels - self.own)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.bnorm(x[:, : self.own].contiguous()), self.inorm(x[:, self.own :].contiguous())], 1)


class Conv(nn.Module):
    """A convolution, with normalization and ReLU unless it is the last one."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, last: bool = False) -> None:
        super().__init__()
        conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2)
        self.layers = nn.Sequential(conv, *([] if last else [HalfNorm(outputs), nn.ReLU()]))

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.layers(x)
        return found


class Squeeze(nn.Module):
    """Channels weighted by what is in the whole image."""

    def __init__(self, channels: int, reduction: int = 4) -> None:
        super().__init__()
        down = nn.Linear(channels, channels // reduction, bias=False)
        self.fc = nn.Sequential(down, nn.ReLU(), nn.Linear(channels // reduction, channels, bias=False), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = x * self.fc(x.mean((2, 3)))[:, :, None, None]
        return found


class Semantic(nn.Module):
    """Where the person is: from the deepest map."""

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.se_block = Squeeze(channels[4])
        self.conv_lr16x = Conv(channels[4], channels[3], 5)
        self.conv_lr8x = Conv(channels[3], channels[2], 5)
        self.conv_lr = Conv(channels[2], 1, 3, stride=2, last=True)

    def forward(self, deepest: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, 1, H/16, W/16) and a map (B, C, H/8, W/8)."""
        wide = self.conv_lr16x(_twice(self.se_block(deepest)))
        wide = self.conv_lr8x(_twice(wide))
        return self.conv_lr(wide), wide


class Detail(nn.Module):
    """How the border looks: from the first maps and the image."""

    def __init__(self, channels: Sequence[int], width: int) -> None:
        super().__init__()
        self.tohr_enc2x = Conv(channels[0], width, 1)
        self.conv_enc2x = Conv(width + 3, width, 3, stride=2)
        self.tohr_enc4x = Conv(channels[1], width, 1)
        self.conv_enc4x = Conv(2 * width, 2 * width, 3)
        self.conv_hr4x = _convs(2 * width + channels[2] + 3, 2 * width, 2 * width, width)
        self.conv_hr2x = _convs(2 * width, 2 * width, width, width, width)
        self.conv_hr = nn.Sequential(Conv(width + 3, width, 3), Conv(width, 1, 1, last=True))

    def forward(self, images: Tensor, maps: Sequence[Tensor], where: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, 1, H, W) and a map (B, C, H/2, W/2)."""
        half, quarter = (F.interpolate(images, scale_factor=s, mode="bilinear") for s in (1 / 2, 1 / 4))
        fine = self.tohr_enc2x(maps[0])
        x = self.conv_enc2x(torch.cat([half, fine], 1))
        x = self.conv_enc4x(torch.cat([x, self.tohr_enc4x(maps[1])], 1))
        x = self.conv_hr4x(torch.cat([x, _twice(where), quarter], 1))
        x = self.conv_hr2x(torch.cat([_twice(x), fine], 1))
        return self.conv_hr(torch.cat([_twice(x), images], 1)), x


class Fusion(nn.Module):
    """Both together."""

    def __init__(self, channels: Sequence[int], width: int) -> None:
        super().__init__()
        self.conv_lr4x = Conv(channels[2], width, 5)
        self.conv_f2x = Conv(2 * width, width, 3)
        self.conv_f = nn.Sequential(Conv(width + 3, width // 2, 3), Conv(width // 2, 1, 1, last=True))

    def forward(self, images: Tensor, where: Tensor, fine: Tensor) -> Tensor:
        """Logits (B, 1, H, W)."""
        x = self.conv_lr4x(_twice(where))
        x = self.conv_f2x(torch.cat([_twice(x), fine], 1))
        found: Tensor = self.conv_f(torch.cat([_twice(x), images], 1))
        return found


def _convs(*widths: int) -> nn.Sequential:
    """One after the other, of 3 x 3."""
    return nn.Sequential(*(Conv(a, b, 3) for a, b in zip(widths[:-1], widths[1:], strict=True)))


def _twice(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)


# The model ------------------------------------------------------------------------------------------------------------


class MODNet(MattingNetwork[Raw]):
    """MobileNetV2 and three branches."""

    preprocess = Preprocess(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), short_side=512, long_side=None)
    channels = (16, 24, 32, 96, 1280)

    def __init__(self, num_classes: int, config: Config) -> None:
        super().__init__()
        self.num_classes, self.config = num_classes, config
        self.features = torchvision().models.mobilenet_v2(weights=None).features
        self.lr_branch = Semantic(self.channels)
        self.hr_branch = Detail(self.channels, config.width)
        self.f_branch = Fusion(self.channels, config.width)

    def forward(self, images: ImageBatch, given: Sequence[Spatial] | None = None) -> Raw:
        """(B, 3, H, W) -> (B, 1, H, W)."""
        height, width = images.tensor.shape[2:]
        seen = F.pad(images.tensor, (0, -width % STRIDE, 0, -height % STRIDE))
        maps = self.maps(seen)
        semantic, where = self.lr_branch(maps[4])
        detail, fine = self.hr_branch(seen, maps, where)
        alpha = self.f_branch(seen, where, fine)
        alpha, detail = (x.sigmoid()[..., :height, :width] for x in (alpha, detail))
        return Raw(alpha, semantic.sigmoid(), detail, images.tensor, images.sizes)

    def maps(self, images: Tensor) -> list[Tensor]:
        """At strides 2, 4, 8, 16 and 32."""
        maps, x = [], images
        for first, last in ((0, 2), (2, 4), (4, 7), (7, 14), (14, 19)):
            x = self.features[first:last](x)
            maps.append(x)
        return maps

    def losses(self, raw: Raw, targets: list[Matte]) -> dict[str, Tensor]:
        """Squared differences from the blurred matte, absolute ones along the border, and of the matte and of what it
        makes of the image."""
        target = Target.of(targets, raw.alpha).alpha
        height, width = target.shape[2:]
        padded = F.pad(target, (0, -width % STRIDE, 0, -height % STRIDE))
        blurred = torchvision().transforms.functional.gaussian_blur
        small = blurred(F.avg_pool2d(padded, 16), [3, 3], [0.8, 0.8])
        border = self.border(target)
        count = border.sum().clamp(min=1)
        apart = (raw.alpha - target).abs()
        composed = (apart * raw.images.abs()).mean()
        return {
            "semantic": self.config.semantic_weight * 0.5 * F.mse_loss(raw.semantic, small),
            "detail": self.config.detail_weight * ((raw.detail - target).abs() * border).sum() / count,
            "alpha": apart.mean() + 4 * (apart * border).mean(),
            "composition": composed,
        }

    def border(self, alpha: Tensor) -> Tensor:
        """(B, 1, H, W) -> 1 where something soft or mixed is near."""
        reach = max(1, round(self.config.border * max(alpha.shape[2:])))
        highest = F.max_pool2d(alpha, 2 * reach + 1, stride=1, padding=reach)
        lowest = -F.max_pool2d(-alpha, 2 * reach + 1, stride=1, padding=reach)
        return ((highest > 0) & (lowest < 1)).to(alpha)

    def select(self, raw: Raw, options: DecodeOptions) -> Mattes:
        """All of it; the colors are the image's."""
        return Mattes.cut(raw.alpha, None, raw.sizes)


# Variants -------------------------------------------------------------------------------------------------------------


def modnet(num_classes: int = 1, **config: Any) -> MODNet:
    """MobileNetV2."""
    return MODNet(num_classes, changed(Config(), config))
