"""What SOLO and SOLOv2 share: grids on five levels, and which cell learns which object.

Wang, Kong, Shen, Jiang, Li: "SOLO: Segmenting Objects by Locations", ECCV 2020, arXiv 1912.04488.

Shapes: B images, K classes, S cells along a side of a level's grid, P pairs of a cell and an object.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eachmask.backbones.features import Features
from eachmask.ops.grid_cells import cell_centers_within, center_of_mass
from eachmask.ops.losses import sigmoid_focal
from eachmask.ops.mask_candidates import Limits
from eachmask.ops.match import learnable
from eachmask.structures import DecodeOptions, Instances

STRIDES = (8, 8, 16, 32, 32)
"""Of the five levels that heads see, whatever the pyramid's."""

IGNORED = -1
"""Label of a cell that is not learnt from."""


@dataclass(frozen=True)
class GridConfig:
    """What SOLO and SOLOv2 have in common. Defaults are those of the papers' ResNet-50."""

    grids: tuple[int, ...] = (40, 36, 24, 16, 12)
    """S of each level."""
    scale_ranges: tuple[tuple[float, float], ...] = ((1, 96), (48, 192), (96, 384), (192, 768), (384, 2048))
    """An object belongs to each level whose range has the square root of its box's area, px."""
    center_share: float = 0.2
    """Side of the region around an object's center, as a share of its box, whose cells learn it."""
    mask_weight: float = 3.0
    """Of the mask loss (paper, eq. 1)."""
    mask_mean: Literal["cells", "pairs"] = "cells"
    """What the sum of mask losses is divided by: positive cells (MMDetection), or pairs of a cell and an object (the
    authors' code), which are more where objects share a cell."""
    candidate_threshold: float = 0.1
    """A cell with a higher score for a class is a candidate; a lower threshold of the user's counts here too ..."""
    score_threshold: float = 0.05
    """... and an instance is what still has this score after suppression."""
    candidates: int = 500
    """Best candidates that go into suppression."""
    sigma: float = 2.0
    """Of Matrix NMS."""
    max_detections: int = 100


# Blocks ---------------------------------------------------------------------------------------------------------------


def even_levels(features: Features) -> list[Tensor]:
    """The pyramid's five maps, the finest halved and the coarsest in the size of its neighbor: strides 8 ... 32."""
    p2, p3, p4, p5, p6 = features.maps
    return [resize(p2, p3.shape[-2:]), p3, p4, p5, resize(p6, p5.shape[-2:])]


def resize(maps: Tensor, size: tuple[int, int] | torch.Size) -> Tensor:
    """Bilinear, by pixel centers: (B, C, H, W) -> (B, C, *size)."""
    if maps.shape[-2:] == size:
        return maps
    return F.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=False)


def doubled(maps: Tensor) -> Tensor:
    """Bilinear, twice the size."""
    return F.interpolate(maps, scale_factor=2, mode="bilinear", align_corners=False)


def coordinates(maps: Tensor) -> Tensor:
    """x and y of each place, -1 ... 1 from border to border: (B, C, H, W) -> (B, 2, H, W) (CoordConv; section 3.2)."""
    batch, _, height, width = maps.shape
    xs = torch.linspace(-1, 1, width, dtype=maps.dtype, device=maps.device)
    ys = torch.linspace(-1, 1, height, dtype=maps.dtype, device=maps.device)
    return torch.stack([xs.expand(height, width), ys[:, None].expand(height, width)]).expand(batch, -1, -1, -1)


def plain_conv(in_channels: int, out_channels: int, kernel: int) -> nn.Conv2d:
    """A convolution without bias, since normalization follows."""
    conv = nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, bias=False)
    nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
    return conv


MakeConv = Callable[[int, int, int], nn.Module]
"""Channels in, channels out, side of the kernel -> a convolution that keeps the map's size."""


def conv_norm_relu(in_channels: int, out_channels: int, kernel: int = 3, conv: MakeConv = plain_conv) -> nn.Sequential:
    """A convolution with group normalization (32 groups) and ReLU."""
    layers = (conv(in_channels, out_channels, kernel), nn.GroupNorm(32, out_channels), nn.ReLU(inplace=True))
    return nn.Sequential(*layers)


def tower(in_channels: int, width: int, depth: int, conv: MakeConv = plain_conv) -> nn.Sequential:
    """So many 3 x 3 convolutions, normalized."""
    return nn.Sequential(*(conv_norm_relu(width if i else in_channels, width, conv=conv) for i in range(depth)))


class GridBranch(nn.Module):
    """One answer for each cell of a level's grid: its classes (and in SOLOv2 its kernel).

    Args:
        convs: normalized convolutions to ``width`` channels.
        prior: probability at which sigmoids of the answer start.
    """

    def __init__(self, convs: nn.Sequential, width: int, out_channels: int, prior: float | None = None) -> None:
        super().__init__()
        self.convs = convs
        self.output = output(width, out_channels, 3, prior)

    def forward(self, level: Tensor, grid: int) -> Tensor:
        """(B, C, H, W) -> (B, out_channels, S, S)."""
        result: Tensor = self.output(self.convs(resize(level, (grid, grid))))
        return result


def output(in_channels: int, out_channels: int, kernel: int, prior: float | None = None) -> nn.Conv2d:
    """A last layer; with a prior probability, sigmoids start there."""
    conv = nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2)
    nn.init.normal_(conv.weight, std=0.01)
    assert conv.bias is not None
    nn.init.constant_(conv.bias, 0.0 if prior is None else math.log(prior / (1 - prior)))
    return conv


# Target assignment ----------------------------------------------------------------------------------------------------


class Assigned(NamedTuple):
    """What the cells of one level's grid learn from one image."""

    labels: Tensor  # (S, S) 0..K-1, K is background, or IGNORED
    cells: Tensor  # (P,) row * S + column of positive cells, by object ...
    objects: Tensor  # (P,) ... and the object of each; a cell may have several

    def last_of_each_cell(self) -> Assigned:
        """Where a cell has several objects, only the last, whose label it has too."""
        last = {int(cell): i for i, cell in enumerate(self.cells)}
        chosen = torch.tensor(list(last.values()), dtype=torch.int64)
        return Assigned(self.labels, self.cells[chosen], self.objects[chosen])

    @property
    def num_cells(self) -> int:
        """Positive cells."""
        return len(self.cells.unique())


def assign(target: Instances, config: GridConfig, num_classes: int, spanned: tuple[int, int]) -> list[Assigned]:
    """Each object to the cells around its center of mass, on every level whose range has its size (section 3.3.1).

    A cell is the object's if it is in its center region and at most one away from the cell of the center.

    Args:
        target: one image's objects, with labels and masks; those without a pixel are left out.
        spanned: (height, width) that the grids span.

    Raises:
        ValueError: the target has no masks.
    """
    single, crowd = (index.tolist() for index in learnable(target, torch.device("cpu")))
    bitmaps = target.gt_masks.to_bitmaps()
    centers = {i: center_of_mass(bitmaps[i]) for i in single if bitmaps.crops[i].any()}
    boxes = target.boxes.detach().cpu().float().numpy()
    result = []
    for grid, (low, high) in zip(config.grids, config.scale_ranges, strict=True):
        labels = torch.full((grid, grid), num_classes)
        cells, objects = [], []
        for i, center in centers.items():
            sides = boxes[i, 2:] - boxes[i, :2]
            if low <= np.sqrt(sides.prod()) <= high:
                x1, x2 = _cells_along(center[0], sides[0] * config.center_share / 2, spanned[1], grid)
                y1, y2 = _cells_along(center[1], sides[1] * config.center_share / 2, spanned[0], grid)
                labels[y1 : y2 + 1, x1 : x2 + 1] = target.labels[i]
                own = [y * grid + x for y in range(y1, y2 + 1) for x in range(x1, x2 + 1)]
                cells += own
                objects += [i] * len(own)
        for i in crowd:
            labels[(labels == num_classes) & cell_centers_within(bitmaps[i], spanned, grid)] = IGNORED
        result.append(Assigned(labels, torch.tensor(cells).long(), torch.tensor(objects).long()))
    return result


def class_loss(logits: tuple[Tensor, ...], assigned: list[list[Assigned]]) -> Tensor:
    """Focal loss over all cells of all levels, per positive cell and one more.

    Args:
        logits: per level (B, K, S, S).
        assigned: of each image, each level.
    """
    num_classes = logits[0].shape[1]
    said = torch.cat([level.permute(0, 2, 3, 1).reshape(-1, num_classes) for level in logits]).float()
    labels = torch.cat([image[i].labels.flatten() for i in range(len(logits)) for image in assigned]).to(said.device)
    gt_scores = F.one_hot(labels.clamp(min=0), num_classes + 1)[:, :-1].to(said)
    loss = sigmoid_focal(said, gt_scores, weight=(labels != IGNORED)[:, None])
    return loss / (1 + sum(level.num_cells for image in assigned for level in image))


def mask_loss(errors: list[Tensor], assigned: list[list[Assigned]], config: GridConfig) -> Tensor | float:
    """Dice losses (P_i,) of groups of pairs -> their weighted mean; 0 where there is none."""
    if not errors:
        return 0.0
    joined = torch.cat(errors)
    num_cells = sum(level.num_cells for image in assigned for level in image)
    return config.mask_weight * joined.sum() / (num_cells if config.mask_mean == "cells" else len(joined))


def _cells_along(center: np.float32, reach: np.float32, length: int, grid: int) -> tuple[int, int]:
    """First and last cell, along one axis, of the region center +- reach; at most one beside the center's own."""
    low, own, high = (
        int(np.floor_divide(np.float32(place / length), np.float32(1 / grid)))
        for place in (center - reach, center, center + reach)
    )
    return max(low, own - 1, 0), min(high, own + 1, grid - 1)


def limits_of(config: GridConfig, options: DecodeOptions) -> Limits:
    """The user's choices, or else the model's; a user's IoU threshold asks for greedy suppression."""
    c, o = config, options
    score = c.score_threshold if o.score_threshold is None else o.score_threshold
    candidate = c.candidate_threshold if o.score_threshold is None else min(score, c.candidate_threshold)
    most = c.max_detections if o.max_detections is None else o.max_detections
    return Limits(candidate, c.candidates, c.sigma, o.nms_threshold, score, most, o.suppression)
