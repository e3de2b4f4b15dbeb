"""torchvision's VGG (Simonyan & Zisserman, arXiv 1409.1556): stages of 3 x 3 convolutions, a pooling behind each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from eachmask.accel.lazy_dynamo import torchvision
from eachmask.backbones.features import Features


class VGG(nn.Module):
    """What pooling leaves behind the stages 2 ... 5: maps at strides 4 ... 32.

    Args:
        name: vgg11, vgg13, vgg16, vgg19, or with normalization their _bn.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        layers: Any = getattr(torchvision().models, name)(weights=None).features
        self.name = name
        stages: list[nn.Module] = []
        stage: list[nn.Module] = []
        self._places: dict[str, str] = {}
        for number, layer in enumerate(layers):
            if isinstance(layer, nn.MaxPool2d):
                stages.append(nn.Sequential(*stage))
                stage = []
            else:
                self._places[str(number)] = f"stages.{len(stages)}.{len(stage)}"
                stage.append(layer)
        self.stages = nn.ModuleList(stages)
        widths = [[m.out_channels for m in s.modules() if isinstance(m, nn.Conv2d)][-1] for s in stages]
        self.widths = tuple(widths)
        """Channels of each stage."""
        self.channels = self.widths[1:]
        self.strides = (4, 8, 16, 32)

    def from_classifier(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """torchvision's state dict of the classifier of that name -> what this network takes of it."""
        renamed = {}
        for key, value in state.items():
            part, number, *what = key.split(".")
            if part == "features":
                renamed[f"{self._places[number]}.{what[0]}"] = value
        return renamed

    def forward(self, images: Tensor) -> Features:
        """(B, 3, H, W) -> four maps, those behind the poolings, which drop what is left over of odd sides."""
        maps, x = [], images
        for stage in self.stages:
            x = F.max_pool2d(stage(x), 2)
            maps.append(x)
        return Features(tuple(maps[1:]), self.strides, self.channels)
