"""SOLOv2: every cell of the grid predicts the filter of its own object's mask.

Wang, Zhang, Kong, Li, Shen: "SOLOv2: Dynamic and Fast Instance Segmentation", NeurIPS 2020, arXiv 2003.10152.

The idea: SOLO has one mask channel for each cell of its grids, thousands of which are never used. But a channel is
only a 1 x 1 convolution of shared features, so let the network *predict* the convolution: a kernel for each cell,
and one map of mask features at stride 4 for all levels. An object's mask is then one product, kernel times features.
What is left to speed up is suppression: Matrix NMS lowers all scores at once instead of looking at one mask after
another.

The same numbers as MMDetection's and the authors' ``solov2_r50_fpn`` and ``solov2_light_r50_fpn`` (see
``tests/parity``). Where we differ: crowd regions are neither objects nor background; instances have boxes, fitted
around their masks; masks stay at stride 4 (``SoftMasks``) until somebody needs the pixels.

Shapes: B images, K classes, S cells along a side of a level's grid, D numbers in a kernel, N candidates of one image, P
pairs of a cell and an object.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from eachmask.backbones.fpn import FPN, Pyramid
from eachmask.backbones.networks import ResNet
from eachmask.models.config import changed
from eachmask.models.detection.faster_rcnn import light_fpn, resnet_fpn
from eachmask.models.instance.grid_heads import (
    STRIDES,
    Assigned,
    GridBranch,
    GridConfig,
    assign,
    class_loss,
    conv_norm_relu,
    coordinates,
    doubled,
    even_levels,
    limits_of,
    mask_loss,
    plain_conv,
    tower,
)
from eachmask.models.instance.yolact_plus import DeformableConv, deform
from eachmask.models.protocol import Network
from eachmask.ops.grid_cells import every_cell
from eachmask.ops.losses import dice
from eachmask.ops.mask_candidates import MapGeometry, choose, find_candidates, pack_maps
from eachmask.structures import DecodeOptions, ImageBatch, Instances
from eachmask.tasks.instances import INSTANCES

if TYPE_CHECKING:
    from eachmask.structures.spatial import Spatial

MASK_STRIDE = 4
"""Of the mask features, whatever the object's level."""


class Raw(NamedTuple):
    """What the three branches say."""

    logits: tuple[Tensor, ...]  # per level (B, K, S, S), of classes
    kernels: tuple[Tensor, ...]  # per level (B, D, S, S)
    mask_features: Tensor  # (B, D, H / 4, W / 4)
    sizes: tuple[tuple[int, int], ...]  # valid (height, width) of each image
    batch_size: tuple[int, int]  # (height, width) that maps and grids span: the padded image's, or a little more


class Selected(NamedTuple):
    """Objects, one entry per image, best first, and the features that their kernels read."""

    labels: tuple[Tensor, ...]  # (N,)
    scores: tuple[Tensor, ...]  # (N,)
    kernels: tuple[Tensor, ...]  # (N, D)
    mask_features: Tensor  # (B, D, H / 4, W / 4)
    sizes: tuple[tuple[int, int], ...]
    batch_size: tuple[int, int]


@dataclass(frozen=True)
class BranchConfig:
    """The three branches. Defaults are those of the paper's ResNet-50."""

    width: int = 512
    """Channels of the category and the kernel branch ..."""
    convs: int = 4
    """... and their 3 x 3 convolutions."""
    mask_width: int = 128
    """Channels of the mask branch before its last layer."""
    kernel_size: int = 256
    """D: a kernel is 1 x 1 and reads so many channels of mask features."""
    deformable: bool = False
    """The normalized convolutions of all branches choose where they look."""


@dataclass(frozen=True)
class Config(GridConfig):
    """What a variant may change."""

    branches: BranchConfig = BranchConfig()


# Blocks, in the order of the data -------------------------------------------------------------------------------------


def deformable_conv(in_channels: int, out_channels: int, kernel: int) -> DeformableConv:
    """In place of a plain one."""
    return DeformableConv(in_channels, out_channels, stride=1, kernel=kernel)


class MaskBranch(nn.Module):
    """Mask features from the pyramid's levels P2 ... P5, all brought to stride 4 and added (paper, figure 3).

    Level i is doubled i times with a convolution before each doubling; P2 has one convolution, too. Only the coarsest
    level sees coordinates: from there they reach all places.
    """

    def __init__(self, channels: int, config: BranchConfig, num_levels: int = 4) -> None:
        super().__init__()
        conv = deformable_conv if config.deformable else plain_conv
        self.levels = nn.ModuleList()
        for i in range(num_levels):
            widths = [channels + 2 * (i == num_levels - 1)] + [config.mask_width] * max(i, 1)
            convs = (conv_norm_relu(a, b, conv=conv) for a, b in zip(widths[:-1], widths[1:], strict=True))
            self.levels.append(nn.ModuleList(convs))
        self.output = conv_norm_relu(config.mask_width, config.kernel_size, 1, conv)

    def forward(self, pyramid: tuple[Tensor, ...]) -> Tensor:
        """Maps of strides 4 ... 32, (B, C, H_i, W_i) -> (B, D, H_0, W_0)."""
        *finer, coarsest = pyramid
        finest = pyramid[0]
        inputs = [*finer, torch.cat([coarsest, coordinates(coarsest)], 1)]
        total: Tensor | None = None  # each level joins it at once: all of them at the finest size are large
        for i, (x, convs) in enumerate(zip(inputs, self.levels, strict=True)):
            for conv in convs:  # type: ignore[attr-defined]
                x = conv(x) if i == 0 else doubled(conv(x))
            x = x[..., : finest.shape[-2], : finest.shape[-1]]
            if total is None:
                total = x
            else:
                total = total + x if torch.is_grad_enabled() else total.add_(x)
        result: Tensor = self.output(total)
        return result


def dynamic_conv(kernels: Tensor, mask_features: Tensor) -> Tensor:
    """The dynamic convolution: (N, D) kernels on one image's features (D, H, W) -> (N, H, W) probabilities."""
    logits = kernels.float() @ mask_features.float().flatten(1)
    return logits.sigmoid_().view(-1, *mask_features.shape[-2:])


# The model ------------------------------------------------------------------------------------------------------------


class SOLOv2(Network[Raw, Selected, Instances]):
    """Classes and kernels on grids, mask features at stride 4.

    Args:
        backbone: a pyramid of five levels, strides 4 ... 64.
        num_classes: K, without background.
    """

    task = INSTANCES
    needs = frozenset({"masks"})

    def __init__(self, backbone: FPN, num_classes: int, config: Config | None = None) -> None:
        super().__init__()
        self.config = config = config or Config()
        c = config.branches
        self.num_classes = num_classes
        self.backbone = backbone
        channels = backbone.channels[0]
        conv = deformable_conv if c.deformable else plain_conv
        self.categories = GridBranch(tower(channels, c.width, c.convs, conv), c.width, num_classes, prior=0.01)
        self.kernels = GridBranch(tower(channels + 2, c.width, c.convs, conv), c.width, c.kernel_size)
        self.mask_branch = MaskBranch(channels, c)

    @property
    def max_objects(self) -> int:
        """The candidates that go into suppression."""
        return self.config.candidates

    def forward(self, images: ImageBatch, given: Sequence[Spatial] | None = None) -> Raw:
        """(B, 3, H, W) -> what the three branches say."""
        features = self.backbone(images.tensor)
        logits, kernels = [], []
        for level, grid in zip(even_levels(features), self.config.grids, strict=True):
            logits.append(self.categories(level, grid))
            kernels.append(self.kernels(torch.cat([level, coordinates(level)], 1), grid))
        mask_features = self.mask_branch(features.maps[:4])
        rows, columns = mask_features.shape[-2:]
        spanned = (MASK_STRIDE * rows, MASK_STRIDE * columns)
        return Raw(tuple(logits), tuple(kernels), mask_features, images.sizes, spanned)

    def losses(self, raw: Raw, targets: list[Instances]) -> dict[str, Tensor]:
        """Focal loss of the classes on all cells, Dice loss of the masks of positive cells (paper, eq. 4).

        Args:
            targets: one per image, in pixels of the batch, with labels and masks.
        """
        assigned = [assign(target, self.config, self.num_classes, raw.batch_size) for target in targets]
        errors = []
        for image, (target, levels) in enumerate(zip(targets, assigned, strict=True)):
            objects = torch.cat([level.objects for level in levels])
            if len(objects):
                masks = dynamic_conv(positive_kernels(raw, image, levels), raw.mask_features[image])
                gt_masks = every_cell(target.gt_masks, objects, MASK_STRIDE, raw.mask_features.shape[-2:])
                errors.append(dice(masks, gt_masks.to(masks), eps=2e-3))
        # Without any object the mask branches still take part, with nothing.
        nothing = 0 * (raw.mask_features.sum() + sum(level.sum() for level in raw.kernels))
        return {
            "class": class_loss(raw.logits, assigned),
            "mask": mask_loss(errors, assigned, self.config) + nothing,
        }

    def select(self, raw: Raw, options: DecodeOptions) -> Selected:
        """Local maxima of the grids, maskness, suppression by their masks; the best first."""
        limits, every = limits_of(self.config, options), []
        for image, size in enumerate(raw.sizes):
            found = find_candidates([level[image] for level in raw.logits], limits.candidate, STRIDES)
            by_level = [level[image].flatten(1).T for level in raw.kernels]  # (S S, D)
            kernels = torch.cat([level[found.cells[found.levels == i]] for i, level in enumerate(by_level)])
            features = raw.mask_features[image].float()

            def maps_of(rows: Tensor, kernels: Tensor = kernels, features: Tensor = features) -> Tensor:
                return dynamic_conv(kernels[rows], features)

            geometry = geometry_of(raw.mask_features, size, raw.batch_size)
            chosen = choose(found, maps_of, geometry, limits, options.mask_threshold)
            every.append((chosen.labels, chosen.scores, kernels[chosen.rows]))
        labels, scores, chosen_kernels = zip(*every, strict=True)
        return Selected(labels, scores, chosen_kernels, raw.mask_features, raw.sizes, raw.batch_size)

    def pack(self, selected: Selected, options: DecodeOptions) -> list[Instances]:
        """Boxes around the masks, which are kept at stride 4."""
        results = []
        for image, size in enumerate(selected.sizes):
            kernels, features = selected.kernels[image], selected.mask_features[image].float()

            def maps_of(rows: slice, kernels: Tensor = kernels, features: Tensor = features) -> Tensor:
                return dynamic_conv(kernels[rows], features)

            geometry = geometry_of(selected.mask_features, size, selected.batch_size)
            masks, boxes = pack_maps(len(kernels), maps_of, geometry, options.mask_threshold)
            labels, scores = selected.labels[image], selected.scores[image]
            kept = masks if options.with_masks else None
            results.append(Instances(size, boxes.to(scores.device), kept, labels=labels, scores=scores))
        return results


def geometry_of(mask_features: Tensor, size: tuple[int, int], batch_size: tuple[int, int]) -> MapGeometry:
    """Of the maps of an image of this (height, width)."""
    rows, columns = mask_features.shape[-2:]
    return MapGeometry((rows, columns), batch_size, size)


# Target assignment is SOLO's ------------------------------------------------------------------------------------------


def positive_kernels(raw: Raw, image: int, levels: list[Assigned]) -> Tensor:
    """The kernel of each pair of a cell and an object, level by level: (P, D)."""
    parts = []
    for kernels, level in zip(raw.kernels, levels, strict=True):
        cells = level.cells.to(kernels.device)
        parts.append(kernels[image].flatten(1)[:, cells].T)
    return torch.cat(parts)


# Variants -------------------------------------------------------------------------------------------------------------

LIGHT = Config(
    branches=BranchConfig(width=256, convs=2, kernel_size=128),
    scale_ranges=((1, 56), (28, 112), (56, 224), (112, 448), (224, 896)),
)
"""The paper's light heads, for images whose shorter side is about 450 px."""

NARROW = Config(
    branches=BranchConfig(width=64, convs=2, mask_width=64, kernel_size=64),
    scale_ranges=((1, 40), (20, 80), (40, 160), (80, 320), (160, 1e5)),
)
"""For small networks on small images."""


def solov2_r50_fpn(num_classes: int = 80, **config: Any) -> SOLOv2:
    """ResNet-50, full heads."""
    return SOLOv2(resnet_fpn("resnet50"), num_classes, changed(Config(), config))


def solov2_r101_fpn(num_classes: int = 80, **config: Any) -> SOLOv2:
    """ResNet-101, full heads."""
    return SOLOv2(resnet_fpn("resnet101"), num_classes, changed(Config(), config))


def solov2_r101_dcn_fpn(num_classes: int = 80, **config: Any) -> SOLOv2:
    """ResNet-101 and full heads, both deformable."""
    backbone = FPN(deform(ResNet("resnet101"), every=1), Pyramid())
    return SOLOv2(backbone, num_classes, changed(Config(branches=BranchConfig(deformable=True)), config))


def solov2_light_r18_fpn(num_classes: int = 80, **config: Any) -> SOLOv2:
    """ResNet-18, light heads."""
    return SOLOv2(resnet_fpn("resnet18"), num_classes, changed(LIGHT, config))


def solov2_light_r34_fpn(num_classes: int = 80, **config: Any) -> SOLOv2:
    """ResNet-34, light heads."""
    return SOLOv2(resnet_fpn("resnet34"), num_classes, changed(LIGHT, config))


def solov2_light_r50_fpn(num_classes: int = 80, **config: Any) -> SOLOv2:
    """ResNet-50, light heads: real time on a GPU."""
    return SOLOv2(resnet_fpn("resnet50"), num_classes, changed(LIGHT, config))


def solov2_lite0(num_classes: int = 80, **config: Any) -> SOLOv2:
    """EfficientNet-Lite0 with narrow heads, for CPUs."""
    return SOLOv2(light_fpn("tf_efficientnet_lite0"), num_classes, changed(NARROW, config))
