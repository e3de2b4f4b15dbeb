"""HRNet: branches of several resolutions side by side, which exchange what they know after every module.

Wang, Sun, Cheng, Jiang et al.: "Deep High-Resolution Representation Learning for Visual Recognition", TPAMI 2020, arXiv
1908.07919. Coarse maps are enlarged bilinearly with aligned corners, as the segmentation networks of the paper do.

Shapes: branch i has width * 2^i channels at stride 4 * 2^i.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from torch import Tensor, nn
from torch.nn import functional as F

from eachmask.accel.lazy_dynamo import torchvision
from eachmask.backbones.features import Features


@dataclass(frozen=True)
class HRNetConfig:
    """Widths and depths."""

    width: int = 18
    stem_blocks: int = 4
    modules: tuple[int, int, int] = (1, 4, 3)
    """Of the stages with two, three and four branches."""
    blocks: int = 4
    """Of each branch in each module."""


def conv_norm(inputs: int, outputs: int, kernel: int, stride: int = 1, relu: bool = True) -> nn.Sequential:
    """Convolution, batch normalization and, usually, ReLU."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), *([nn.ReLU(inplace=True)] if relu else []))


class Exchange(nn.Module):
    """A module: residual blocks on each branch, then each branch gets the sum of all, resized."""

    def __init__(self, widths: tuple[int, ...], blocks: int) -> None:
        super().__init__()
        basic = torchvision().models.resnet.BasicBlock
        self.branches = nn.ModuleList(nn.Sequential(*(basic(w, w) for _ in range(blocks))) for w in widths)
        self.fuse_layers = nn.ModuleList(
            nn.ModuleList(self._link(widths, to, source) for source in range(len(widths))) for to in range(len(widths))
        )

    @staticmethod
    def _link(widths: tuple[int, ...], to: int, source: int) -> nn.Module:
        """What branch ``source`` goes through on its way to branch ``to``."""
        if source == to:
            return nn.Identity()
        if source > to:
            return conv_norm(widths[source], widths[to], 1, relu=False)
        steps = to - source
        outputs = [widths[source]] * (steps - 1) + [widths[to]]
        return nn.Sequential(
            *(conv_norm(widths[source], out, 3, 2, relu=i < steps - 1) for i, out in enumerate(outputs))
        )

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """One map per branch -> the same shapes."""
        maps = [branch(x) for branch, x in zip(self.branches, maps, strict=True)]
        result = []
        for to, links in enumerate(self.fuse_layers):
            size = (maps[to].shape[2], maps[to].shape[3])
            moved = [enlarged(link(x), size) for link, x in zip(cast(nn.ModuleList, links), maps, strict=True)]
            result.append(sum(moved[1:], moved[0]).relu())
        return result


class HRNet(nn.Module):
    """The stem at stride 2, what is added to it, and four stages; all branches come out."""

    def __init__(self, config: HRNetConfig) -> None:
        super().__init__()
        bottleneck = torchvision().models.resnet.Bottleneck
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 3, 2, 1, bias=False), nn.BatchNorm2d(64)
        self.conv2, self.bn2 = nn.Conv2d(64, 64, 3, 2, 1, bias=False), nn.BatchNorm2d(64)
        shortcut = conv_norm(64, 256, 1, relu=False)
        self.layer1 = nn.Sequential(
            bottleneck(64, 64, downsample=shortcut), *(bottleneck(256, 64) for _ in range(config.stem_blocks - 1))
        )
        widths = tuple(config.width * 2**i for i in range(4))
        self.channels, self.strides = widths, (4, 8, 16, 32)
        self.stages, self.transitions = nn.ModuleList(), nn.ModuleList()
        for num, count in enumerate(config.modules, start=2):
            before = 256 if num == 2 else widths[num - 2]
            self.transitions.append(conv_norm(before, widths[num - 1], 3, 2))
            self.stages.append(nn.Sequential(*(Exchange(widths[:num], config.blocks) for _ in range(count))))
        self.first = conv_norm(256, widths[0], 3)

    def forward(self, images: Tensor, added: Tensor | None = None) -> Features:
        """Images (B, 3, H, W), and what is added to the first map (B, 64, H / 2, W / 2) -> four maps."""
        x = self.bn1(self.conv1(images)).relu()
        if added is not None:
            x = x + added
        x = self.layer1(self.bn2(self.conv2(x)).relu())
        maps = [self.first(x)]
        for transition, stage in zip(self.transitions, self.stages, strict=True):
            maps = stage([*maps, transition(x if len(maps) == 1 else maps[-1])])
        return Features(tuple(maps), self.strides, self.channels)


def enlarged(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Resized to (height, width) with aligned corners; as it is where it has that size."""
    if tuple(x.shape[2:]) == tuple(size):
        return x
    return F.interpolate(x, size, mode="bilinear", align_corners=True)
