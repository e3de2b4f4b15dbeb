"""A sliding window: the class of a pixel is that of the patch around it; and the same network without the repetitions.

Farabet, Couprie, Najman, LeCun: "Learning Hierarchical Features for Scene Labeling", TPAMI 2013. Pinheiro, Collobert,
ICML 2014.

The idea: a network that classifies patches is run on the patch around every pixel. Neighboring patches are nearly the
same, so nearly all that is computed was computed before. Run on the whole image with the same weights as convolutions,
and with strides turned into gaps between the weights that follow, the network gives the same scores at a fraction of
the cost: that is how a classifier became *fully convolutional*.

Where we differ from the papers: one scale, without superpixels.

Shapes: B images of H x W px, K classes, P px the patch's side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eachmask.models.config import changed
from eachmask.models.semantic.labeling import Labeling, PixelLoss, Raw
from eachmask.ops.receptive_field import Layer, reach
from eachmask.structures import ImageBatch
from eachmask.structures.spatial import Spatial


@dataclass(frozen=True)
class Config:
    """What a variant may change."""

    widths: tuple[int, ...] = (16, 32, 64)
    """Channels of the stages, each an unpadded convolution, a rectifier and a pooling of 2 x 2."""
    kernel: int = 5
    cells: int = 3
    """Side of the map that the classifier's first layer, once fully connected, sees at once."""
    hidden: int = 64
    patches: bool = False
    """Run on every patch for itself, as it was done before; the scores are the same."""
    chunk_size: int = 4096
    """Patches at a time."""
    loss: PixelLoss = PixelLoss()


class SlidingWindow(Labeling):
    """A classifier of patches that is run on all of them at once."""

    def __init__(self, num_classes: int, config: Config) -> None:
        super().__init__()
        self.num_classes, self.config, self.loss = num_classes, config, config.loss
        pairs = zip([3, *config.widths], config.widths, strict=False)
        self.convs = nn.ModuleList(nn.Conv2d(before, after, config.kernel) for before, after in pairs)
        self.hidden = nn.Conv2d(config.widths[-1], config.hidden, config.cells)
        self.classifier = nn.Conv2d(config.hidden, num_classes, 1)

    @property
    def patch(self) -> int:
        """Side of the patch that decides about a pixel, px."""
        layers = [layer for _ in self.convs for layer in (Layer(self.config.kernel), Layer(2, 2))]
        return reach([*layers, Layer(self.config.cells)]).field

    def forward(self, images: ImageBatch, given: Sequence[Spatial] | None = None) -> Raw:
        """(B, 3, H, W) -> (B, K, H, W); beyond its border the image is black as far as a patch reaches."""
        height, width = images.tensor.shape[-2:]
        before = (self.patch - 1) // 2
        around = F.pad(images.tensor, (before, self.patch - 1 - before) * 2)
        logits = self.on_patches(around) if self.config.patches else self.at_once(around)
        return Raw(logits, None, (height, width), images.sizes)

    def at_once(self, x: Tensor) -> Tensor:
        """(B, 3, H + P - 1, W + P - 1) -> (B, K, H, W), every value computed once.

        A pooling that halves the map would drop every second place; it moves by one pixel instead, and all that follows
        leaves gaps twice as wide (the "filter rarefaction" of Long et al., arXiv 1411.4038, section 3.2).
        """
        gap = 1
        for conv in self.convs:
            weight, bias = conv.parameters()
            x = F.relu(F.conv2d(x, weight, bias, dilation=gap))
            x = F.max_pool2d(x, 2, stride=1, dilation=gap)
            gap *= 2
        x = F.relu(F.conv2d(x, self.hidden.weight, self.hidden.bias, dilation=gap))
        result: Tensor = self.classifier(x)
        return result

    def on_patches(self, x: Tensor) -> Tensor:
        """The same, by classifying the patch around each pixel."""
        side = self.patch
        size = (x.shape[-2] - side + 1, x.shape[-1] - side + 1)
        patches = x.unfold(2, side, 1).unfold(3, side, 1).permute(0, 2, 3, 1, 4, 5).flatten(0, 2)
        scores = torch.cat([self.classify(part) for part in patches.split(self.config.chunk_size)])
        return scores.view(len(x), *size, -1).permute(0, 3, 1, 2)

    def classify(self, patches: Tensor) -> Tensor:
        """(N, 3, P, P) -> (N, K)."""
        x = patches
        for conv in self.convs:
            x = F.max_pool2d(F.relu(conv(x)), 2)
        scores: Tensor = self.classifier(F.relu(self.hidden(x)))
        return scores.flatten(1)


# Variants -------------------------------------------------------------------------------------------------------------


def sliding_window(num_classes: int = 21, **config: Any) -> SlidingWindow:
    """Three stages: a patch of 52 x 52 px decides."""
    return SlidingWindow(num_classes, changed(Config(), config))
