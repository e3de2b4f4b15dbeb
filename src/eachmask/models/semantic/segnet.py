"""SegNet and DeconvNet: pooling remembers where the largest value was, and un-pooling puts values back there.

Badrinarayanan, Kendall, Cipolla: "SegNet", arXiv 1511.00561. Noh, Hong, Han: "Learning Deconvolution Network for
Semantic Segmentation", arXiv 1505.04366.

The idea: max pooling throws away where in its cell the largest value lay, which is just what outlines need. Both
networks keep these switches, and their decoders, VGG upside down, put each value back to its place before convolving.
SegNet's decoder ends there and has no fully connected layers; DeconvNet keeps those as a bottleneck that sees the whole
image, and convolves in the decoder by transposed convolutions.

Where we differ from the papers: any VGG of torchvision's and light ones serve; DeconvNet is trained in one stage and
labels the image as a whole, without proposals.

Shapes: B images of H x W px, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from eachmask.backbones.vgg import VGG
from eachmask.models.config import changed
from eachmask.models.semantic.labeling import Labeling, PixelLoss, Raw
from eachmask.ops.upsampling import max_pool, max_unpool
from eachmask.structures import ImageBatch
from eachmask.structures.spatial import Spatial


@dataclass(frozen=True)
class Config:
    """What a variant may change."""

    backbone: str = "vgg16_bn"
    widths: tuple[int, ...] = ()
    """Instead of a VGG: channels of stages of ``convs`` convolutions each."""
    convs: int = 2
    bottleneck: int = 0
    """Channels of what was fully connected (4096 in DeconvNet); 0 leaves it out, as SegNet does."""
    kernel: int = 7
    """Of the bottleneck's convolutions."""
    transposed: bool = False
    """The decoder's convolutions are transposed ones."""
    loss: PixelLoss = PixelLoss()


class SegNet(Labeling):
    """Stages with switches, a bottleneck if there is one, and the stages upside down."""

    def __init__(self, num_classes: int, config: Config) -> None:
        super().__init__()
        self.num_classes, self.config, self.loss = num_classes, config, config.loss
        if config.widths:
            pairs = zip([3, *config.widths], config.widths, strict=False)
            self.encoder = nn.ModuleList(_stage([a, *[b] * config.convs], False) for a, b in pairs)
        else:
            self.backbone = VGG(config.backbone)
        plans = [_channels(stage) for stage in self._stages()]
        self.decoder = nn.ModuleList(_stage(plan[:0:-1] + [max(plan[0], plan[1] // 2 if plan[0] == 3 else 0)],
                                            config.transposed) for plan in reversed(plans))  # fmt: skip
        last = plans[-1][-1]
        self.bottleneck = _bottleneck(last, config) if config.bottleneck else None
        self.classifier = nn.Conv2d(max(3, plans[0][1] // 2), num_classes, 1 if config.transposed else 3)
        if not config.transposed:
            self.classifier.padding = (1, 1)

    def forward(self, images: ImageBatch, given: Sequence[Spatial] | None = None) -> Raw:
        """(B, 3, H, W) -> (B, K, H, W)."""
        x, switches = images.tensor, []
        for stage in self._stages():
            x = stage(x)
            size = (x.shape[-2], x.shape[-1])
            x, places = max_pool(x)
            switches.append((places, size))
        if self.bottleneck is not None:
            x = self.bottleneck(x)
        for stage, (places, size) in zip(self.decoder, reversed(switches), strict=True):
            x = stage(max_unpool(x, places, size))
        height, width = images.tensor.shape[-2:]
        return Raw(self.classifier(x), None, (height, width), images.sizes)

    def _stages(self) -> nn.ModuleList:
        return self.encoder if self.config.widths else self.backbone.stages


def _channels(stage: nn.Module) -> list[int]:
    """Channels before the stage and behind each of its convolutions."""
    convs = [layer for layer in stage.modules() if isinstance(layer, nn.Conv2d)]
    return [convs[0].in_channels, *(layer.out_channels for layer in convs)]


def _stage(channels: Sequence[int], transposed: bool) -> nn.Sequential:
    """Convolutions of 3 x 3 with normalization."""
    kind = nn.ConvTranspose2d if transposed else nn.Conv2d
    layers: list[nn.Module] = []
    for before, after in zip(channels, channels[1:], strict=False):
        layers += [kind(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


def _bottleneck(channels: int, config: Config) -> nn.Sequential:
    """fc6, fc7 and the way back, as convolutions that keep the map's size."""
    width, kernel = config.bottleneck, config.kernel

    def block(layer: nn.Module, out: int) -> list[nn.Module]:
        return [layer, nn.BatchNorm2d(out), nn.ReLU(inplace=True)]

    return nn.Sequential(
        *block(nn.Conv2d(channels, width, kernel, padding=kernel // 2, bias=False), width),
        *block(nn.Conv2d(width, width, 1, bias=False), width),
        *block(nn.ConvTranspose2d(width, channels, kernel, padding=kernel // 2, bias=False), channels),
    )


# Variants -------------------------------------------------------------------------------------------------------------


def segnet_vgg16(num_classes: int = 21, **config: Any) -> SegNet:
    """The paper's."""
    return SegNet(num_classes, changed(Config(), config))


def segnet_tiny(num_classes: int = 21, **config: Any) -> SegNet:
    """Four stages of 16 to 64 channels: trains on a CPU."""
    return SegNet(num_classes, changed(Config(widths=(16, 32, 48, 64)), config))


def deconvnet_vgg16(num_classes: int = 21, **config: Any) -> SegNet:
    """The paper's, with fully connected layers in the middle."""
    return SegNet(num_classes, changed(Config(bottleneck=4096, transposed=True), config))


def deconvnet_tiny(num_classes: int = 21, **config: Any) -> SegNet:
    """Four stages of 16 to 64 channels and a bottleneck of 96: trains on a CPU."""
    light = Config(widths=(16, 32, 48, 64), bottleneck=96, kernel=3, transposed=True)
    return SegNet(num_classes, changed(light, config))
