"""DEXTR: the four outermost points of an object are enough to cut it out.

Maninis, Caelles, Pont-Tuset, Van Gool: "Deep Extreme Cut: From Extreme Points to Object Segmentation", CVPR 2018, arXiv
1711.09081. Written from the paper and from recorded numbers.

The idea: clicking on the leftmost, rightmost, top and bottom pixel of an object takes a fifth of the time that a tight
box does, and says more. A window around the points, with a margin for context, is resized to one size; a bump on each
point is a fourth channel beside the colors; and a network for semantic segmentation (DeepLab with pyramid pooling) says
what in the window is the object.

Where we differ: a box stands for the middles of its sides, which are no extreme points but lie near them. The light
variant has EfficientNet-Lite0, which the bumps join after the first convolution, and a light head.

Shapes: B windows of S x S px; points are (x, y) pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from eachmask.backbones.networks import ResNet
from eachmask.backbones.with_maps import TimmWithMaps
from eachmask.models.config import changed
from eachmask.models.promptable.answering import Answering, Raw, target_mask
from eachmask.models.promptable.ritm import click_features
from eachmask.models.promptable.simpleclick import FusionHead
from eachmask.ops.losses import balanced_cross_entropy
from eachmask.structures import Instances, Prompts, UserError

NEEDED = 4
"""Points of an object."""


@dataclass(frozen=True)
class Config:
    """What a variant may change."""

    size: int = 512
    """Side of the window as the network sees it, px."""
    margin: int = 50
    """Of the window around the points, px of the image."""
    width: float = 10.0
    """Of the bumps: full width at half maximum, px of the window."""
    whole_values: bool = True
    """The network sees colors 0..255 in whole numbers, as the published weights have learnt; false: normalized ones."""
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """With which the images were normalized ..."""
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    """... that are to be whole numbers again."""
    reach: int = 5
    """In training an extreme point is drawn from the object's pixels so near to its extreme, px."""
    head_width: int = 512
    pools: tuple[int, ...] = (1, 2, 3, 6)
    """Sides of the grids of the pyramid pooling."""
    mask_threshold: float = 0.8


# Points ---------------------------------------------------------------------------------------------------------------


def bumps(points: Tensor, size: tuple[int, int], width: float) -> Tensor:
    """(H, W) in 0..1: the highest of a bump exp(-4 ln 2 d^2 / width^2) on each point (P, 2)."""
    ys, xs = (torch.arange(side, device=points.device, dtype=torch.float32) for side in size)
    x, y = points.float().unbind(1)
    apart = (ys[:, None] - y[:, None, None]) ** 2 + (xs - x[:, None, None]) ** 2
    found: Tensor = (-4 * math.log(2) * apart / width**2).exp().amax(0)
    return found


def extreme_points(prompts: Prompts) -> Tensor:
    """(4, 2) whole pixels of one object: its extreme points, the middles of its box's sides, or its four points.

    Raises:
        UserError: there are none of these.
    """
    if len(prompts.extremes):
        found = prompts.extremes[0]
    elif len(prompts.boxes):
        x1, y1, x2, y2 = (prompts.boxes[0] - prompts.boxes.new_tensor([0, 0, 1e-3, 1e-3])).tolist()
        x, y = (x1 + x2) / 2, (y1 + y2) / 2
        found = prompts.boxes.new_tensor([[x1, y], [x2, y], [x, y1], [x, y2]])
    elif int(prompts.signs.sum()) == NEEDED:
        found = prompts.points[prompts.signs]
    else:
        raise UserError(f"DEXTR cuts out what lies between extreme points: {_ByExtremes.wants}")
    limits = found.new_tensor([prompts.image_size[1] - 1, prompts.image_size[0] - 1])
    return torch.minimum(found.floor(), limits).clamp(min=0).long()


def extreme_candidates(mask: NDArray[np.bool_], reach: int) -> list[NDArray[np.int64]]:
    """Of a mask that is not empty, the pixels (n, 2) as (x, y) within ``reach`` of its left, right, top and bottom."""
    places = np.argwhere(mask)[:, ::-1]
    (left, top), (right, bottom) = places.min(0), places.max(0)
    x, y = places.T
    near = (x <= left + reach, x >= right - reach, y <= top + reach, y >= bottom - reach)
    return [places[chosen] for chosen in near]


class Window(NamedTuple):
    """Columns and rows of an image from the first to the last, both inclusive; they may lie beyond its border."""

    left: int
    top: int
    right: int
    bottom: int

    @staticmethod
    def around(points: Tensor, margin: int) -> Window:
        """Of whole pixels (P, 2)."""
        (left, top), (right, bottom) = points.amin(0).tolist(), points.amax(0).tolist()
        return Window(left - margin, top - margin, right + margin, bottom + margin)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        return self.bottom - self.top + 1, self.right - self.left + 1

    def cut(self, x: Tensor, beyond: float = 0.0) -> Tensor:
        """What of (..., H, W) lies in it; beyond the border one value."""
        height, width = x.shape[-2:]
        inside = x[..., max(self.top, 0) : self.bottom + 1, max(self.left, 0) : self.right + 1]
        margins = (
            max(-self.left, 0),
            max(self.right + 1 - width, 0),
            max(-self.top, 0),
            max(self.bottom + 1 - height, 0),
        )
        return F.pad(inside, margins, value=beyond)

    def put(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """Undo of :meth:`cut` for (h, w): on an image of (height, width), 0 outside of the window."""
        height, width = size
        return F.pad(x, (self.left, width - 1 - self.right, self.top, height - 1 - self.bottom))

    def seen(self, points: Tensor, side: int) -> Tensor:
        """Whole pixels (P, 2) of the image -> those of the window, once that has ``side`` px a side."""
        height, width = self.size
        corner, size = points.new_tensor([self.left, self.top]), points.new_tensor([width, height])
        return (points - corner) * side // size


# Networks -------------------------------------------------------------------------------------------------------------


class PyramidPooling(nn.Module):
    """Means over grids of several sizes beside the features (Zhao et al., PSPNet, arXiv 1612.01105), and one logit."""

    def __init__(self, channels: int, width: int, pools: tuple[int, ...]) -> None:
        super().__init__()
        self.pools = nn.ModuleList(nn.Sequential(nn.AdaptiveAvgPool2d(side), *_conv(channels, width)) for side in pools)
        self.bottleneck = nn.Sequential(*_conv(channels + width * len(pools), width))
        self.mask = nn.Conv2d(width, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, h, w) -> (B, 1, h, w)."""
        size = x.shape[2:]
        pooled = [F.interpolate(pool(x), size, mode="bilinear", align_corners=True) for pool in self.pools]
        found: Tensor = self.mask(self.bottleneck(torch.cat([*pooled, x], 1)))
        return found


def _conv(inputs: int, outputs: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]


def dilated_resnet(name: str, channels: int) -> ResNet:
    """A ResNet for images of so many channels whose last two stages are dilated instead of halved: stride 8."""
    net = ResNet(name, stride_first=True)
    net.conv1 = nn.Conv2d(channels, 64, 7, 2, 3, bias=False)
    for layer, dilation in ((net.layer3, 2), (net.layer4, 4)):
        for module in layer.modules():
            if isinstance(module, nn.Conv2d):
                module.stride = (1, 1)
                if module.kernel_size == (3, 3):
                    module.dilation = module.padding = (dilation, dilation)
    return net


class _ByExtremes(Answering):
    """The window around four points; subclasses write :meth:`logits`."""

    answered_by = ("logits",)

    config: Config
    asked_by = "extremes"
    wants = "give its four extreme points (left, right, top, bottom) or a box"

    def __init__(self, num_classes: int, config: Config) -> None:
        super().__init__()
        self.num_classes, self.config, self.threshold = num_classes, config, config.mask_threshold

    def logits(self, windows: Tensor) -> Tensor:
        """(B, 4, S, S) colors and bumps 0..255 -> (B, 1, h, w)."""
        raise NotImplementedError

    def check(self, prompts: Prompts) -> None:
        super().check(prompts)
        for i in range(len(prompts)):
            extreme_points(prompts.of(i))

    def answer(self, image: Tensor, prompts: Prompts) -> Tensor:
        points = extreme_points(prompts)
        window, tight = Window.around(points, self.config.margin), Window.around(points, 0)
        found = self.probability(self.seen(image, points, window))
        resized = _cubic(found.cpu().numpy(), window.size)
        size = (image.shape[1], image.shape[2])
        whole = window.put(torch.from_numpy(resized).to(image.device), size)
        return tight.put(tight.cut(whole), size).clamp(0, 1)

    def seen(self, image: Tensor, points: Tensor, window: Window) -> Tensor:
        """(4, S, S): what of an image (3, h, w) the network sees, and the bumps, whose range is 0..255."""
        side = self.config.size
        pixels = window.cut(self._whole(image) if self.config.whole_values else image).permute(1, 2, 0).cpu().numpy()
        colors = torch.from_numpy(_cubic(pixels, (side, side)).astype(np.float32)).permute(2, 0, 1)
        heat = bumps(window.seen(points.cpu(), side), (side, side), self.config.width)
        heat = (heat - heat.min()) / (heat.max() - heat.min()).clamp(min=1e-12) * 255
        return torch.cat([colors, heat[None]]).to(image)

    def _whole(self, image: Tensor) -> Tensor:
        """A normalized image (3, h, w) in whole numbers again."""
        mean, std = (image.new_tensor(v).view(3, 1, 1) for v in (self.config.mean, self.config.std))
        return ((image * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)

    def probability(self, seen: Tensor) -> Tensor:
        """(4, S, S) -> (S, S)."""
        found = self.logits(seen[None]).float()
        return F.interpolate(found, seen.shape[1:], mode="bilinear", align_corners=True).sigmoid()[0, 0]

    def losses(self, raw: Raw, targets: list[Instances]) -> dict[str, Tensor]:
        """Class-balanced cross-entropy in a window around one object of each image."""
        side = self.config.size
        windows, masks = [], []
        for image, target in zip(raw.images, targets, strict=True):
            mask = target_mask(target, (image.shape[1], image.shape[2]))
            points = self.simulated(mask.numpy() == 1)
            window = Window.around(points, self.config.margin)
            windows.append(self.seen(image, points, window))
            cut = window.cut(mask, beyond=-1.0)
            masks.append(F.interpolate(cut[None, None], (side, side), mode="nearest")[0, 0])
        found = self.logits(torch.stack(windows)).float()
        found = F.interpolate(found, (side, side), mode="bilinear", align_corners=True)[:, 0]
        return {"mask": balanced_cross_entropy(found, torch.stack(masks).to(found))}

    def simulated(self, mask: NDArray[np.bool_]) -> Tensor:
        """(4, 2) points as a user might click them; without an object those of the whole image."""
        candidates = extreme_candidates(mask if mask.any() else np.ones_like(mask), self.config.reach)
        return torch.from_numpy(np.stack([c[int(torch.randint(len(c), ()))] for c in candidates]))


def _cubic(values: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    return np.asarray(cv2.resize(values, size[::-1], interpolation=cv2.INTER_CUBIC))


class DEXTR(_ByExtremes):
    """A dilated ResNet with pyramid pooling."""

    def __init__(self, num_classes: int = 1, config: Config | None = None, resnet: str = "resnet101") -> None:
        super().__init__(num_classes, config or Config())
        self.resnet = dilated_resnet(resnet, 4)  # no ``backbone``: ImageNet's has three channels
        self.head = PyramidPooling(self.resnet.channels[-1], self.config.head_width, self.config.pools)

    def logits(self, windows: Tensor) -> Tensor:
        found: Tensor = self.head(self.resnet(windows).maps[-1])
        return found


class DEXTRLite(_ByExtremes):
    """EfficientNet-Lite0 and a light head."""

    def __init__(self, num_classes: int = 1, config: Config | None = None) -> None:
        super().__init__(num_classes, config or LIGHT)
        self.backbone = TimmWithMaps("tf_efficientnet_lite0")
        self.click_features = click_features(self.backbone.stem_channels, inputs=1)
        self.head = FusionHead(self.backbone.channels, self.config.head_width)

    def logits(self, windows: Tensor) -> Tensor:
        maps = self.backbone(windows[:, :3], self.click_features(windows[:, 3:] / 255)).maps
        found: Tensor = self.head(list(maps))
        return found


# Variants -------------------------------------------------------------------------------------------------------------


SMALL = Config(size=256, head_width=128, mask_threshold=0.5)
LIGHT = Config(size=256, whole_values=False, head_width=64, mask_threshold=0.5)


def dextr_r101(num_classes: int = 1, **config: Any) -> DEXTR:
    """ResNet-101."""
    return DEXTR(num_classes, changed(Config(), config))


def dextr_r18(num_classes: int = 1, **config: Any) -> DEXTR:
    """ResNet-18, windows of 256 px."""
    return DEXTR(num_classes, changed(SMALL, config), "resnet18")


def dextr_lite0(num_classes: int = 1, **config: Any) -> DEXTRLite:
    """EfficientNet-Lite0: without a GPU."""
    return DEXTRLite(num_classes, changed(LIGHT, config))
