"""SOLO: objects told apart by where they are and how large; no boxes, no grouping.

Wang, Kong, Shen, Jiang, Li: "SOLO: Segmenting Objects by Locations", ECCV 2020, arXiv 1912.04488; the suppression at
the end is that of its successor, SOLOv2 (arXiv 2003.10152), as both projects have it.

The idea: lay an S x S grid over the image. The cell in which an object's center of mass falls says the object's class,
and one channel of a mask map, the one that belongs to this cell, shows it. Each level of the pyramid has a grid of
its own, for objects of its own range of sizes, so that two objects hardly ever share a cell. Convolutions do not know
where they are; two channels with x and y tell them. The decoupled form has S columns and S rows instead of S^2 cells,
and an object is the product of its column and its row.

The same numbers as MMDetection's and the authors' ``solo_r50_fpn`` and ``decoupled_solo_r50_fpn`` (see
``tests/parity``). Where we differ: the last layer has one 1 x 1 kernel for each cell, and only those of cells in use
are applied (the mask maps of all 3872 cells would be 800 MB per photograph); crowd regions are neither objects nor
background; instances have boxes, fitted around their masks.

Shapes: B images, K classes, S cells along a side of a level's grid, N candidates of one image, P pairs of a cell and an
object.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from eachmask.backbones.fpn import FPN
from eachmask.models.config import changed
from eachmask.models.detection.faster_rcnn import light_fpn, resnet_fpn
from eachmask.models.instance.grid_heads import (
    STRIDES,
    GridBranch,
    GridConfig,
    assign,
    class_loss,
    coordinates,
    doubled,
    even_levels,
    limits_of,
    mask_loss,
    output,
    resize,
    tower,
)
from eachmask.models.protocol import Network
from eachmask.ops.grid_cells import every_cell
from eachmask.ops.losses import dice
from eachmask.ops.mask_candidates import Candidates, MapGeometry, choose, find_candidates, pack_maps
from eachmask.structures import DecodeOptions, ImageBatch, Instances
from eachmask.tasks.instances import INSTANCES

if TYPE_CHECKING:
    from eachmask.structures.spatial import Spatial

_MAP_CHUNK_SIZE = 1 << 20
"""So many numbers of maps are made at a time: what they are made from needs as much memory again, several times."""


class Raw(NamedTuple):
    """What the two branches say of each level."""

    maps: tuple[Tensor, ...]  # per level: what the mask branch makes masks of
    logits: tuple[Tensor, ...]  # per level (B, K, S, S)
    sizes: tuple[tuple[int, int], ...]  # valid (height, width) of each image
    batch_size: tuple[int, int]  # (height, width) that maps and grids span: the padded image's, or a little more


class Selected(NamedTuple):
    """Cells that are objects, one entry per image, best first; and the maps that their masks are made of."""

    labels: tuple[Tensor, ...]  # (N,)
    scores: tuple[Tensor, ...]  # (N,)
    levels: tuple[Tensor, ...]  # (N,)
    cells: tuple[Tensor, ...]  # (N,) row * S + column
    maps: tuple[Tensor, ...]
    sizes: tuple[tuple[int, int], ...]
    batch_size: tuple[int, int]


@dataclass(frozen=True)
class BranchConfig:
    """Both branches."""

    width: int = 256
    """Channels."""
    category_convs: int = 7
    mask_convs: int = 7
    shared_convs: bool = False
    """Decoupled: columns and rows are made of the same convolutions."""


@dataclass(frozen=True)
class Config(GridConfig):
    """What a variant may change."""

    branches: BranchConfig = BranchConfig()


# Blocks, in the order of the data -------------------------------------------------------------------------------------


class MaskBranch(nn.Module):
    """Maps that one 1 x 1 kernel for each cell turns into masks (paper, figure 3)."""

    def __init__(self, channels: int, grids: Sequence[int], config: BranchConfig) -> None:
        super().__init__()
        self.convs = tower(channels + 2, config.width, config.mask_convs)
        self.masks = nn.ModuleList(output(config.width, grid**2, 1) for grid in grids)

    def forward(self, level: Tensor, index: int) -> Tensor:
        """(B, C, H, W) -> (B, C', H, W)."""
        result: Tensor = self.convs(torch.cat([level, coordinates(level)], 1))
        return result

    def predict(self, maps: Tensor, index: int, cells: Tensor, size: tuple[int, int] | None) -> Tensor:
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

    def __init__(self, channels: int, grids: Sequence[int], config: BranchConfig) -> None:
        super().__init__()
        if config.shared_convs:
            self.convs = tower(channels + 2, config.width, config.mask_convs)
        else:
            self.x_convs = tower(channels + 1, config.width, config.mask_convs)
            self.y_convs = tower(channels + 1, config.width, config.mask_convs)
        self.shared = config.shared_convs
        half = math.sqrt(0.5)  # so that products start at one half
        self.x_masks = nn.ModuleList(output(config.width, grid, 3, half) for grid in grids)
        self.y_masks = nn.ModuleList(output(config.width, grid, 3, half) for grid in grids)

    def forward(self, level: Tensor, index: int) -> Tensor:
        """(B, C, H, W) -> (B, 2 S, 2 H, 2 W) logits, of the columns and then the rows."""
        places = coordinates(level)
        if self.shared:
            for_x = for_y = doubled(self.convs(torch.cat([level, places], 1)))
        else:
            for_x = doubled(self.x_convs(torch.cat([level, places[:, :1]], 1)))
            for_y = doubled(self.y_convs(torch.cat([level, places[:, 1:]], 1)))
        return torch.cat([self.x_masks[index](for_x), self.y_masks[index](for_y)], 1)

    def predict(self, maps: Tensor, index: int, cells: Tensor, size: tuple[int, int] | None) -> Tensor:
        """Masks of cells (N,) from one image's maps (2 S, 2 H, 2 W): (N, *size) probabilities, at None (2 H, 2 W)."""
        grid = len(maps) // 2
        column, row = (maps[i].float().sigmoid() for i in (cells % grid, grid + cells // grid))
        return _in_size(column, size) * _in_size(row, size)


# The model ------------------------------------------------------------------------------------------------------------


class SOLO(Network[Raw, Selected, Instances]):
    """Classes on grids and a mask for each cell.

    Args:
        backbone: a pyramid of five levels, strides 4 ... 64.
        num_classes: K, without background.
        mask_branch: :class:`MaskBranch` or :class:`DecoupledMaskBranch`.
    """

    task = INSTANCES
    needs = frozenset({"masks"})

    def __init__(
        self, backbone: FPN, num_classes: int, config: Config | None = None, mask_branch: type[nn.Module] = MaskBranch
    ) -> None:
        super().__init__()
        self.config = config = config or Config()
        self.num_classes = num_classes
        self.backbone = backbone
        channels, c = backbone.channels[0], config.branches
        self.categories = GridBranch(tower(channels, c.width, c.category_convs), c.width, num_classes, prior=0.01)
        self.mask_branch: Any = mask_branch(channels, config.grids, c)

    @property
    def max_objects(self) -> int:
        """The candidates that go into suppression."""
        return self.config.candidates

    def forward(self, images: ImageBatch, given: Sequence[Spatial] | None = None) -> Raw:
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
                    masks = self.mask_branch.predict(maps[image], index, level.cells.to(maps.device), None)
                    gt_masks = every_cell(target.gt_masks, level.objects, STRIDES[index] // 2, masks.shape[-2:])
                    errors.append(dice(masks, gt_masks.to(masks), eps=2e-3))
        return {
            "class": class_loss(raw.logits, assigned),
            "mask": mask_loss(errors, assigned, self.config) + 0 * sum(p.sum() for p in self.mask_branch.parameters()),
        }

    def select(self, raw: Raw, options: DecodeOptions) -> Selected:
        """Local maxima of the grids, suppression by their masks; the best first."""
        limits, every = limits_of(self.config, options), []
        for image in range(len(raw.sizes)):
            found = find_candidates([level[image] for level in raw.logits], limits.candidate, STRIDES)
            geometry = geometry_of(raw.sizes[image], raw.batch_size)

            def maps_of(chosen: Tensor, found: Candidates = found, image: int = image) -> Tensor:
                return self.masks(raw.maps, image, found.levels[chosen], found.cells[chosen], raw.batch_size)

            chosen = choose(found, maps_of, geometry, limits, options.mask_threshold)
            every.append((chosen.labels, chosen.scores, found.levels[chosen.rows], found.cells[chosen.rows]))
        labels, scores, levels, cells = zip(*every, strict=True)
        return Selected(labels, scores, levels, cells, raw.maps, raw.sizes, raw.batch_size)

    def pack(self, selected: Selected, options: DecodeOptions) -> list[Instances]:
        """Boxes around the masks, which are kept coarse."""
        results = []
        for image, size in enumerate(selected.sizes):
            levels, cells = selected.levels[image], selected.cells[image]

            def maps_of(rows: slice, image: int = image, levels: Tensor = levels, cells: Tensor = cells) -> Tensor:
                return self.masks(selected.maps, image, levels[rows], cells[rows], selected.batch_size)

            geometry = geometry_of(size, selected.batch_size)
            masks, boxes = pack_maps(len(levels), maps_of, geometry, options.mask_threshold)
            labels, scores = selected.labels[image], selected.scores[image]
            kept = masks if options.with_masks else None
            results.append(Instances(size, boxes.to(scores.device), kept, labels=labels, scores=scores))
        return results

    def masks(
        self, maps: tuple[Tensor, ...], image: int, levels: Tensor, cells: Tensor, batch_size: tuple[int, int]
    ) -> Tensor:
        """Masks of some cells of one image at stride 4: (N, H / 4, W / 4) probabilities.

        Args:
            maps: of each level, see :class:`Raw`.
            levels, cells: (N,).
        """
        size = geometry_of(batch_size, batch_size).maps
        result = maps[0].new_empty((len(cells), *size), dtype=torch.float32)
        for level in levels.unique().tolist():
            rows = torch.nonzero(levels == level).squeeze(1)
            for some in rows.split(max(1, _MAP_CHUNK_SIZE // math.prod(size))):
                result[some] = self.mask_branch.predict(maps[level][image], level, cells[some], size)
        return result


def geometry_of(size: tuple[int, int], batch_size: tuple[int, int]) -> MapGeometry:
    """Of maps at stride 4 for an image of this (height, width)."""
    half = STRIDES[0] // 2
    return MapGeometry((batch_size[0] // half, batch_size[1] // half), batch_size, size)


def _in_size(masks: Tensor, size: tuple[int, int] | None) -> Tensor:
    """(N, H, W) -> (N, *size)."""
    return masks if size is None else resize(masks[:, None], size)[:, 0]


# Variants -------------------------------------------------------------------------------------------------------------

LIGHT = Config(
    branches=BranchConfig(width=64, category_convs=3, mask_convs=3),
    scale_ranges=((1, 40), (20, 80), (40, 160), (80, 320), (160, 1e5)),
)
"""For small networks on small images."""

DECOUPLED_LIGHT = Config(
    branches=BranchConfig(category_convs=4, mask_convs=4, shared_convs=True),
    scale_ranges=((1, 64), (32, 128), (64, 256), (128, 512), (256, 2048)),
)
"""For images whose shorter side is about 500 px."""


def solo_r50_fpn(num_classes: int = 80, **config: Any) -> SOLO:
    """ResNet-50, a mask for each cell."""
    return SOLO(resnet_fpn("resnet50"), num_classes, changed(Config(), config))


def decoupled_solo_r50_fpn(num_classes: int = 80, **config: Any) -> SOLO:
    """ResNet-50, columns times rows."""
    return SOLO(resnet_fpn("resnet50"), num_classes, changed(Config(), config), DecoupledMaskBranch)


def decoupled_solo_light_r50_fpn(num_classes: int = 80, **config: Any) -> SOLO:
    """ResNet-50 with shorter branches, shared by columns and rows."""
    return SOLO(resnet_fpn("resnet50"), num_classes, changed(DECOUPLED_LIGHT, config), DecoupledMaskBranch)


def solo_lite0(num_classes: int = 80, **config: Any) -> SOLO:
    """EfficientNet-Lite0 with narrow branches, for CPUs."""
    return SOLO(light_fpn("tf_efficientnet_lite0"), num_classes, changed(LIGHT, config))


def decoupled_solo_lite0(num_classes: int = 80, **config: Any) -> SOLO:
    """EfficientNet-Lite0, columns times rows from shared, narrow branches."""
    light = replace(LIGHT, branches=replace(LIGHT.branches, shared_convs=True))
    return SOLO(light_fpn("tf_efficientnet_lite0"), num_classes, changed(light, config), DecoupledMaskBranch)
