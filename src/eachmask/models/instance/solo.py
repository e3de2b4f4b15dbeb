"""SOLO: objects told apart by where they are and how large; no boxes, no grouping.

Wang, Kong, Shen, Jiang, Li: "SOLO: Segmenting Objects by Locations", ECCV 2020, arXiv 1912.04488; the suppression at
the end is that of its successor, SOLOv2 (arXiv 2003.10152), as both projects have it.

The idea: lay an S x S grid over the image. The cell in which an object's center of mass falls says the object's class,
and one channel of a mask map, the one that belongs to this cell, draws it. Each level of the pyramid has a grid of
its own, for objects of its own range of sizes, so that two objects hardly ever share a cell. Convolutions do not know
where they are; two channels with x and y tell them. The decoupled form draws S columns and S rows instead of S^2 cells,
and an object is the product of its column and its row.

The same numbers as MMDetection's and the authors' ``solo_r50_fpn`` and ``decoupled_solo_r50_fpn`` (see
``tests/parity``). Where we differ: the last layer has one 1 x 1 kernel for each cell, and only those of cells in use
are applied (the mask maps of all 3872 cells would be 800 MB per photograph); crowd regions are neither objects nor
background; instances have boxes, drawn around their masks.

Shapes: B images, K classes, S cells along a side of a level's grid, N candidates of one image, P pairs of a cell and an
object.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eachmask.backbones.features import Features
from eachmask.backbones.fpn import FPN
from eachmask.models.detection.faster_rcnn import light_fpn, resnet_fpn
from eachmask.ops.grid_cells import cell_centers_within, center_of_mass, every_cell
from eachmask.ops.losses import dice, sigmoid_focal
from eachmask.ops.mask_candidates import Frame, Limits, find_candidates, select
from eachmask.ops.match import learnable
from eachmask.structures import DecodeOptions, ImageBatch, Instances

STRIDES = (8, 8, 16, 32, 32)
"""Of the five levels that heads see, whatever the pyramid's."""

IGNORED = -1
"""Label of a cell that is not learnt from."""
_NUMBERS_AT_ONCE = 1 << 20
"""So much of the maps is drawn at a time: what they are made from needs as much memory again, several times."""


class Raw(NamedTuple):
    """What the two branches say of each level."""

    maps: tuple[Tensor, ...]  # per level: what the mask branch draws from
    logits: tuple[Tensor, ...]  # per level (B, K, S, S)
    sizes: tuple[tuple[int, int], ...]  # valid (height, width) of each image
    batch_size: tuple[int, int]  # (height, width) that maps and grids span: the padded image's, or a little more


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


@dataclass(frozen=True)
class Config(GridConfig):
    """What a variant may change."""

    width: int = 256
    """Channels of the branches."""
    category_convs: int = 7
    mask_convs: int = 7
    shared_convs: bool = False
    """Decoupled: columns and rows are drawn from the same convolutions."""


# Blocks, in the order of the data -------------------------------------------------------------------------------------


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
        self.output = _output(width, out_channels, 3, prior)

    def forward(self, level: Tensor, grid: int) -> Tensor:
        """(B, C, H, W) -> (B, out_channels, S, S)."""
        result: Tensor = self.output(self.convs(resize(level, (grid, grid))))
        return result


class MaskBranch(nn.Module):
    """Maps that one 1 x 1 kernel for each cell turns into masks (paper, figure 3)."""

    def __init__(self, channels: int, config: Config) -> None:
        super().__init__()
        self.convs = tower(channels + 2, config.width, config.mask_convs)
        self.masks = nn.ModuleList(_output(config.width, grid**2, 1) for grid in config.grids)

    def forward(self, level: Tensor, index: int) -> Tensor:
        """(B, C, H, W) -> (B, C', H, W)."""
        result: Tensor = self.convs(torch.cat([level, coordinates(level)], 1))
        return result

    def draw(self, maps: Tensor, index: int, cells: Tensor, size: tuple[int, int] | None) -> Tensor:
        """Masks of cells (N,) from one image's maps (C', H, W) of level ``index``: (N, *size) probabilities.

        In the paper the maps are doubled and the last layer follows. Both are linear: doubling the few masks instead of
        the many maps gives the same.

        Args:
            size: None is twice that of the maps.
        """
        last = self.masks[index]
        logits = torch.addmm(last.bias[cells, None], last.weight[cells].flatten(1), maps.flatten(1))  # type: ignore[index]
        probabilities = doubled(logits.view(1, -1, *maps.shape[-2:]))[0].float().sigmoid()
        return _in_size(probabilities, size)


class DecoupledMaskBranch(nn.Module):
    """A map for each column and each row of the grid; a cell's mask is their product (paper, section 4.1)."""

    def __init__(self, channels: int, config: Config) -> None:
        super().__init__()
        if config.shared_convs:
            self.convs = tower(channels + 2, config.width, config.mask_convs)
        else:
            self.x_convs = tower(channels + 1, config.width, config.mask_convs)
            self.y_convs = tower(channels + 1, config.width, config.mask_convs)
        self.shared = config.shared_convs
        half = math.sqrt(0.5)  # so that products start at one half
        self.x_masks = nn.ModuleList(_output(config.width, grid, 3, half) for grid in config.grids)
        self.y_masks = nn.ModuleList(_output(config.width, grid, 3, half) for grid in config.grids)

    def forward(self, level: Tensor, index: int) -> Tensor:
        """(B, C, H, W) -> (B, 2 S, 2 H, 2 W) logits, of the columns and then the rows."""
        places = coordinates(level)
        if self.shared:
            for_x = for_y = doubled(self.convs(torch.cat([level, places], 1)))
        else:
            for_x = doubled(self.x_convs(torch.cat([level, places[:, :1]], 1)))
            for_y = doubled(self.y_convs(torch.cat([level, places[:, 1:]], 1)))
        return torch.cat([self.x_masks[index](for_x), self.y_masks[index](for_y)], 1)

    def draw(self, maps: Tensor, index: int, cells: Tensor, size: tuple[int, int] | None) -> Tensor:
        """Masks of cells (N,) from one image's maps (2 S, 2 H, 2 W): (N, *size) probabilities, at None (2 H, 2 W)."""
        grid = len(maps) // 2
        column, row = (maps[i].float().sigmoid() for i in (cells % grid, grid + cells // grid))
        return _in_size(column, size) * _in_size(row, size)


# The model ------------------------------------------------------------------------------------------------------------


class SOLO(nn.Module):
    """Classes on grids and a mask for each cell, with three verbs.

    Args:
        backbone: a pyramid of five levels, strides 4 ... 64.
        num_classes: K, without background.
        mask_branch: :class:`MaskBranch` or :class:`DecoupledMaskBranch`.
    """

    def __init__(
        self, backbone: FPN, num_classes: int, config: Config | None = None, mask_branch: type[nn.Module] = MaskBranch
    ) -> None:
        super().__init__()
        self.config = config = config or Config()
        self.num_classes = num_classes
        self.backbone = backbone
        channels = backbone.channels[0]
        convs = tower(channels, config.width, config.category_convs)
        self.categories = GridBranch(convs, config.width, num_classes, prior=0.01)
        self.mask_branch: Any = mask_branch(channels, config)

    def forward(self, images: ImageBatch) -> Raw:
        """(B, 3, H, W) -> both branches on all levels."""
        levels = even_levels(self.backbone(images.tensor))
        maps = tuple(self.mask_branch(level, i) for i, level in enumerate(levels))
        logits = tuple(self.categories(level, grid) for level, grid in zip(levels, self.config.grids, strict=True))
        rows, columns = levels[0].shape[-2:]
        return Raw(maps, logits, images.sizes, (STRIDES[0] * rows, STRIDES[0] * columns))

    def losses(self, raw: Raw, targets: list[Instances]) -> dict[str, Tensor]:
        """Focal loss of the classes on all cells, Dice loss of the masks of positive cells (paper, eq. 1 - 4).

        Args:
            targets: one per image, in pixels of the batch, with labels and masks.
        """
        assigned = [assign(target, self.config, self.num_classes, raw.batch_size) for target in targets]
        errors = []
        for image, (target, levels) in enumerate(zip(targets, assigned, strict=True)):
            for index, (maps, level) in enumerate(zip(raw.maps, levels, strict=True)):
                level = level.last_of_each_cell()
                if len(level.cells):
                    drawn = self.mask_branch.draw(maps[image], index, level.cells.to(maps.device), None)
                    truth = every_cell(target.gt_masks, level.objects, STRIDES[index] // 2, drawn.shape[-2:])
                    errors.append(dice(drawn, truth.to(drawn), eps=2e-3))
        return {
            "class": class_loss(raw.logits, assigned),
            "mask": mask_loss(errors, assigned, self.config) + 0 * sum(p.sum() for p in self.mask_branch.parameters()),
        }

    def decode(self, raw: Raw, options: DecodeOptions) -> list[Instances]:
        """Local maxima of the grids, their masks, suppression; the best first."""
        return [self._decode_image(raw, image, options) for image in range(len(raw.sizes))]

    def _decode_image(self, raw: Raw, image: int, options: DecodeOptions) -> Instances:
        limits = limits_of(self.config, options)
        found = find_candidates([level[image] for level in raw.logits], limits.candidate, STRIDES)
        half = STRIDES[0] // 2
        size = raw.batch_size[0] // half, raw.batch_size[1] // half

        def draw(chosen: Tensor) -> Tensor:
            """Whole maps at stride 4."""
            result = raw.maps[0].new_empty((len(chosen), *size), dtype=torch.float32)
            for level in found.levels[chosen].unique().tolist():
                rows = torch.nonzero(found.levels[chosen] == level).squeeze(1)
                for some in rows.split(max(1, _NUMBERS_AT_ONCE // math.prod(size))):
                    cells = found.cells[chosen[some]]
                    result[some] = self.mask_branch.draw(raw.maps[level][image], level, cells, size)
            return result

        frame = Frame(size, raw.batch_size, raw.sizes[image])
        result = select(found, draw, frame, limits, options.mask_threshold)
        return result if options.with_masks else replace(result, masks=None)


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


def assign(target: Instances, config: GridConfig, num_classes: int, frame: tuple[int, int]) -> list[Assigned]:
    """Each object to the cells around its center of mass, on every level whose range has its size (section 3.3.1).

    A cell is the object's if it is in its center region and at most one away from the cell of the center.

    Args:
        target: one image's objects, with labels and masks; those without a pixel are left out.
        frame: (height, width) that the grids span.

    Raises:
        ValueError: the target has no masks.
    """
    assert target.labels is not None
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
                x1, x2 = _cells_along(center[0], sides[0] * config.center_share / 2, frame[1], grid)
                y1, y2 = _cells_along(center[1], sides[1] * config.center_share / 2, frame[0], grid)
                labels[y1 : y2 + 1, x1 : x2 + 1] = target.labels[i]
                own = [y * grid + x for y in range(y1, y2 + 1) for x in range(x1, x2 + 1)]
                cells += own
                objects += [i] * len(own)
        for i in crowd:
            labels[(labels == num_classes) & cell_centers_within(bitmaps[i], frame, grid)] = IGNORED
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
    truth = F.one_hot(labels.clamp(min=0), num_classes + 1)[:, :-1].to(said)
    loss = sigmoid_focal(said, truth, weight=(labels != IGNORED)[:, None])
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
    return Limits(candidate, c.candidates, c.sigma, o.nms_threshold, score, most)


# Small parts ----------------------------------------------------------------------------------------------------------


def _output(in_channels: int, out_channels: int, kernel: int, prior: float | None = None) -> nn.Conv2d:
    """A last layer; with a prior probability, sigmoids start there."""
    conv = nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2)
    nn.init.normal_(conv.weight, std=0.01)
    assert conv.bias is not None
    nn.init.constant_(conv.bias, 0.0 if prior is None else math.log(prior / (1 - prior)))
    return conv


def _in_size(masks: Tensor, size: tuple[int, int] | None) -> Tensor:
    """(N, H, W) -> (N, *size)."""
    return masks if size is None else resize(masks[:, None], size)[:, 0]


# Variants -------------------------------------------------------------------------------------------------------------

LIGHT: dict[str, Any] = {
    "width": 64,
    "category_convs": 3,
    "mask_convs": 3,
    "scale_ranges": ((1, 40), (20, 80), (40, 160), (80, 320), (160, 1e5)),
}
"""For small networks on small images."""

DECOUPLED_LIGHT: dict[str, Any] = {
    "category_convs": 4,
    "mask_convs": 4,
    "shared_convs": True,
    "scale_ranges": ((1, 64), (32, 128), (64, 256), (128, 512), (256, 2048)),
}
"""For images whose shorter side is about 500 px."""


def solo_r50_fpn(num_classes: int = 80, **config: Any) -> SOLO:
    """ResNet-50, a mask for each cell."""
    return SOLO(resnet_fpn("resnet50"), num_classes, Config(**config))


def decoupled_solo_r50_fpn(num_classes: int = 80, **config: Any) -> SOLO:
    """ResNet-50, columns times rows."""
    return SOLO(resnet_fpn("resnet50"), num_classes, Config(**config), DecoupledMaskBranch)


def decoupled_solo_light_r50_fpn(num_classes: int = 80, **config: Any) -> SOLO:
    """ResNet-50 with shorter branches, shared by columns and rows."""
    return SOLO(resnet_fpn("resnet50"), num_classes, Config(**(DECOUPLED_LIGHT | config)), DecoupledMaskBranch)


def solo_lite0(num_classes: int = 80, **config: Any) -> SOLO:
    """EfficientNet-Lite0 with narrow branches, for processors without a GPU."""
    return SOLO(light_fpn("tf_efficientnet_lite0"), num_classes, Config(**(LIGHT | config)))


def decoupled_solo_lite0(num_classes: int = 80, **config: Any) -> SOLO:
    """EfficientNet-Lite0, columns times rows from shared, narrow branches."""
    backbone = light_fpn("tf_efficientnet_lite0")
    return SOLO(backbone, num_classes, Config(**(LIGHT | {"shared_convs": True} | config)), DecoupledMaskBranch)
