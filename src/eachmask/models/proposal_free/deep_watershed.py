"""Deep watershed: the network learns how deep inside its object a pixel lies, and objects are cut at one level.

Bai, Urtasun: "Deep Watershed Transform for Instance Segmentation", CVPR 2017, arXiv 1611.08303.

The idea: seen as a landscape, every object is a basin, and a watershed that floods it from its own minimum finds it.
An image's gradient makes a bad landscape, so the landscape is learnt, in two steps: first the direction from each
pixel away from its object's border, which must turn round where two objects touch, then the energy, 16 levels of the
distance to the border. All basins have the same height, so one cut a little above the border separates them; no
flooding is needed.

Where we differ from the paper:
- one network (EfficientNet-Lite0 with a ladder) says classes and directions, where the paper takes the classes of
  PSPNet and has a VGG for the directions; all is learnt at once, the paper learns the two steps apart and then
  together;
- the second network has four convolutions with growing dilation at full resolution instead of pooling and skips;
- objects from ``min_target_area`` px on are learnt (paper: 100, on street scenes of 2048 px).

Shapes: B images, (H, W) the padded batch size, C classes, L levels. Vectors are (x, y).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from eachmask.models.config import changed
from eachmask.models.proposal_free.dense import (
    DenseConfig,
    PixelInstances,
    PixelNetwork,
    PixelTargets,
    cross_entropy,
    objects_by_class,
    pixel_targets,
)
from eachmask.ops.watershed_levels import BOUNDARIES, cut, direction_loss, energy_loss, watershed_targets
from eachmask.structures import DecodeOptions, ImageBatch, Instances
from eachmask.structures.spatial import Spatial


class Raw(NamedTuple):
    """What the network says."""

    classes: Tensor  # (B, C + 1, H, W) logits, 0 is background
    direction: Tensor  # (B, 2, H, W) x, y, of length 1 or a little less
    levels: Tensor  # (B, L, H, W) logits of the energy
    sizes: tuple[tuple[int, int], ...]  # valid (height, width) of each image


@dataclass(frozen=True)
class Config(DenseConfig):
    """What a variant may change."""

    boundaries: tuple[float, ...] = BOUNDARIES
    """Ascending lower bounds of the levels: distance to the border, px."""
    energy_channels: int = 32
    """Of the network from directions to levels."""
    min_target_area: int = 10
    """Smaller objects have no direction and no level, px."""
    direction_weight: float = 0.1
    energy_weight: float = 1.0
    cut_level: int = 1
    """What lies above it is inside of objects (paper: 1, of vehicles 2)."""
    dilation: int = 5
    """Side of the square by which objects grow back, px (paper: 3, of vehicles 5)."""


class DeepWatershed(PixelInstances[Raw]):
    """Classes and directions, then levels from directions."""

    def __init__(self, num_classes: int, config: Config) -> None:
        super().__init__()
        self.num_classes, self.config = num_classes, config
        self.network = PixelNetwork(num_classes + 1 + 2, config)
        self.energy = energy_network(config.energy_channels, len(config.boundaries))

    def forward(self, images: ImageBatch, given: Sequence[Spatial] | None = None) -> Raw:
        """(B, 3, H, W) -> classes, directions and levels at the same resolution."""
        classes, vectors = self.network(images.tensor).split([self.num_classes + 1, 2], dim=1)
        direction = vectors / (vectors.square().sum(1, keepdim=True) + 1e-4).sqrt()
        foreground = 1 - classes.detach().softmax(1)[:, :1]  # levels are learnt from directions within objects
        return Raw(classes, direction, self.energy(direction * foreground), images.sizes)

    def losses(self, raw: Raw, targets: list[Instances]) -> dict[str, Tensor]:
        """Cross-entropy of the classes, squared angle of the directions, log-losses of the levels."""
        size = (raw.classes.shape[-2], raw.classes.shape[-1])
        maps = [pixel_targets(t, size, valid) for t, valid in zip(targets, raw.sizes, strict=True)]
        terms = [self._terms(*each) for each in zip(raw.direction.float(), raw.levels.float(), maps, strict=True)]
        direction, energy = (torch.stack(column).mean() for column in zip(*terms, strict=True))
        return {
            "classes": cross_entropy(raw.classes, maps),
            "direction": self.config.direction_weight * direction,
            "energy": self.config.energy_weight * energy,
        }

    def select(self, raw: Raw, options: DecodeOptions) -> Raw:
        """Logits become probabilities; levels are cut by :meth:`pack`."""
        return raw._replace(classes=raw.classes.float().softmax(1), levels=raw.levels.float().softmax(1))

    def pack(self, selected: Raw, options: DecodeOptions) -> list[Instances]:
        """Connected parts above a level, of each class; an object's score is the mean probability of its class."""
        classes, levels = selected.classes.cpu().numpy(), selected.levels.argmax(1).cpu().numpy()
        return [
            self._objects(classes[i, :, :h, :w], levels[i, :h, :w], options) for i, (h, w) in enumerate(selected.sizes)
        ]

    def _terms(self, direction: Tensor, levels: Tensor, target: PixelTargets) -> tuple[Tensor, Tensor]:
        config, device = self.config, direction.device
        made = watershed_targets(target.ids, config.boundaries, config.min_target_area)
        inside = torch.from_numpy(target.ids > 0).to(device).float()
        weight = torch.from_numpy(made.weight).to(device)
        true = torch.from_numpy(made.unit_direction).to(device)
        level = torch.from_numpy(made.level).to(device)
        return direction_loss(direction, true, inside, weight), energy_loss(levels, level, inside, weight)

    def _objects(self, classes: np.ndarray, levels: np.ndarray, options: DecodeOptions) -> Instances:
        config = self.config

        def parts_of(label: int, mask: np.ndarray) -> np.ndarray:
            return cut(levels, mask, config.cut_level, config.min_area, config.dilation)

        return objects_by_class(classes, parts_of, config, options)


def energy_network(width: int, levels: int) -> nn.Sequential:
    """(B, 2, H, W) directions -> (B, levels, H, W); every pixel sees 31 x 31 px."""
    layers: list[nn.Module] = []
    for channels, dilation in ((2, 1), (width, 2), (width, 4), (width, 8)):
        layers += [nn.Conv2d(channels, width, 3, padding=dilation, dilation=dilation), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.Conv2d(width, levels, 1))


# Variants -------------------------------------------------------------------------------------------------------------


def deep_watershed_lite0(num_classes: int = 1, **config: Any) -> DeepWatershed:
    """EfficientNet-Lite0 and a ladder, 16 levels."""
    return DeepWatershed(num_classes, changed(Config(), config))
