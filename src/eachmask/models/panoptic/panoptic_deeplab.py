"""Panoptic-DeepLab: classes of all pixels, centers of things, and where each pixel's center lies.

Cheng, Collins, Zhu, Liu, Huang, Adam, Chen: "Panoptic-DeepLab: A Simple, Strong, and Fast Baseline for Bottom-Up
Panoptic Segmentation", CVPR 2020, arXiv 1911.10194.

The idea: no boxes and no proposals. One decoder labels pixels, as DeepLabv3+ does; a second one says where things have
their centers and by how much each pixel is off its own. A pixel that was labeled as a thing joins the center nearest to
where it points; the things' classes are voted by their pixels, and what is left is stuff.

The same numbers as Detectron2's ``panoptic_deeplab_R_52_os16`` and its separable form (see ``tests/parity``). Where we
differ: pixels are grouped at the size that the network saw, and the map is then resized; Detectron2 resizes what the
network says and groups then (:meth:`PanopticDeepLab.at_size` does that). ``models.instance.panoptic_deeplab`` is a
relative for small things of one class.

Shapes: B images of H x W px, K classes, N centers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from eachmask.backbones.by_name import backbone_named
from eachmask.models.config import changed
from eachmask.models.panoptic.queries import at_size
from eachmask.models.protocol import Network
from eachmask.models.semantic.deeplabv3 import conv_bn_relu, separable_bn_relu
from eachmask.models.semantic.deeplabv3plus import Decoder, DecoderConfig
from eachmask.models.semantic.labeling import batch_labels, extent_of, resized
from eachmask.ops import pixel_losses
from eachmask.ops.center_offsets import center_targets, find_centers, means_of, nearest_center
from eachmask.structures import DecodeOptions, ImageBatch, PanopticMap, Segment, UserError
from eachmask.structures.class_scores import ClassScores
from eachmask.structures.spatial import Spatial
from eachmask.tasks.panoptic import PANOPTIC

ROWS_CHUNK_SIZE = 64
"""Rows of the image for which the probabilities of all classes exist at once."""


@dataclass(frozen=True)
class GroupConfig:
    """How pixels become segments."""

    center_threshold: float = 0.1
    """A center's value at least."""
    window: int = 7
    """A center is the highest of so many px around it, odd."""
    top_k: int = 200
    """Centers lower than the k-th highest value, or as low, are dropped."""
    stuff_area: int = 2048
    """Regions of stuff with fewer pixels are dropped."""


@dataclass(frozen=True)
class Config:
    """What a variant may change."""

    stuff: tuple[int, ...] = ()
    """Labels of stuff; filled in from the data when training. All others are things."""
    backbone: str = "resnet52"
    decoder: DecoderConfig = DecoderConfig(low_widths=(32, 64), width=256)
    """Of classes."""
    center_width: int = 128
    """Of the decoder of centers, which is otherwise the same."""
    head_width: int = 256
    """Before the classes."""
    center_head_width: int = 32
    """Before centers and before offsets."""
    group: GroupConfig = GroupConfig()
    sigma: float = 8.0
    """Spread of a center's heat, px of the batch."""
    hard: float = 0.2
    """Share of the pixels whose cross-entropy counts, the hardest ones."""
    small_area: int = 4096
    """Pixels of things with fewer of them count ``small_weight`` times."""
    small_weight: float = 3.0
    center_weight: float = 200.0
    offset_weight: float = 0.01


class Raw(NamedTuple):
    """What the network says, at stride 4 of the padded batch."""

    logits: Tensor  # (B, K, h, w)
    centers: Tensor  # (B, 1, h, w), about 1 on a center; no sigmoid
    offsets: Tensor  # (B, 2, h, w) cells, (rows, columns): center minus pixel
    padded: tuple[int, int]
    sizes: tuple[tuple[int, int], ...]


class PanopticDeepLab(Network[Raw, Raw, PanopticMap]):
    """A dilated backbone, two decoders and three heads."""

    task = PANOPTIC
    needs = frozenset({"masks"})
    suppresses = False
    config: Config

    def __init__(self, num_classes: int, config: Config) -> None:
        super().__init__()
        self.num_classes, self.config = num_classes, c = num_classes, config
        self.things = [label for label in range(num_classes) if label not in c.stuff]
        if not self.things:
            raise UserError("Panoptic-DeepLab has to know some things; for stuff alone take deeplabv3plus_r52")
        separable = c.decoder.convs != "full"
        self.backbone: Any = backbone_named(c.backbone, 16)
        channels = self.backbone.channels
        self.decoder = Decoder(channels, c.decoder)
        self.center_decoder = Decoder(channels, replace(c.decoder, width=c.center_width))
        self.semantic_head = head(c.decoder.width, c.head_width, num_classes, separable)
        self.center_head = head(c.center_width, c.center_head_width, 1, separable=False)
        self.offset_head = head(c.center_width, c.center_head_width, 2, separable)

    def forward(self, images: ImageBatch, given: Sequence[Spatial] | None = None) -> Raw:
        """(B, 3, H, W) -> three maps at stride 4."""
        maps = self.backbone(images.tensor).maps
        logits = self.semantic_head(self.decoder(maps))
        seen = self.center_decoder(maps)
        height, width = images.tensor.shape[-2:]
        return Raw(logits, self.center_head(seen), self.offset_head(seen), (height, width), images.sizes)

    def losses(self, raw: Raw, targets: list[PanopticMap]) -> dict[str, Tensor]:
        """Cross-entropy of the hardest pixels, squared error of the centers, absolute error of the offsets (eq. 2)."""
        c, device = self.config, raw.logits.device
        learnt = [center_targets(target, self.things, raw.padded, c.sigma, c.small_area) for target in targets]
        small, heat, known, offsets, inside = (torch.stack(column).to(device) for column in zip(*learnt, strict=True))
        labels = batch_labels([target.to_semantic(max(255, self.num_classes)) for target in targets], raw.padded)
        semantic = pixel_losses.cross_entropy(
            resized(raw.logits.float(), raw.padded), labels.to(device), hard=c.hard,
            pixel_weights=torch.where(small, c.small_weight, 1.0),
        )  # fmt: skip
        center = (resized(raw.centers.float(), raw.padded)[:, 0] - heat) ** 2
        offset = (self.offsets_in_pixels(raw) - offsets).abs().sum(1)
        return {
            "semantic": semantic,
            "center": c.center_weight * mean_where(center, known),
            "offset": c.offset_weight * mean_where(offset, inside),
        }

    def select(self, raw: Raw, options: DecodeOptions) -> Raw:
        """All of it: which pixels belong together shows only at the image's size."""
        return raw

    def pack(self, selected: Raw, options: DecodeOptions) -> list[PanopticMap]:
        """One map per image, at the size that the network saw."""
        return [self.at_size(selected, i, size, options) for i, size in enumerate(selected.sizes)]

    def at_size(self, raw: Raw, index: int, size: tuple[int, int], options: DecodeOptions) -> PanopticMap:
        """The map of an image of the batch, grouped at any (height, width).

        Offsets are stretched with the image but keep their values, as Detectron2 has it.
        """
        valid = raw.sizes[index]
        grid = raw.logits[index]
        scores = ClassScores(grid, extent_of(valid, grid.shape[-2:], raw.padded), through=valid)
        heat = at_size(raw.centers[index], raw.padded, valid, size)[0]
        offsets = at_size(self.offsets_in_pixels(raw)[index], raw.padded, valid, size)
        return self.grouped(scores, heat, offsets, options)

    def grouped(self, scores: ClassScores, heat: Tensor, offsets: Tensor, options: DecodeOptions) -> PanopticMap:
        """Things by the centers that their pixels point to, and stuff where there is enough of it (section 3.2).

        A thing's score is the mean probability of its class times the heat at its middle.

        Args:
            scores: of the classes.
            heat: (H, W); offsets: (2, H, W) px, rows and columns.
        """
        c, size = self.config.group, (int(heat.shape[0]), int(heat.shape[1]))
        labels = scores.labels(size)
        centers = find_centers(heat, c.center_threshold, c.window, c.top_k)
        is_thing = torch.isin(labels, torch.tensor(self.things, device=labels.device))
        ids = nearest_center(is_thing, offsets, centers)
        shape = len(centers) + 1, self.num_classes
        votes = torch.bincount((ids * self.num_classes + labels).flatten(), minlength=shape[0] * shape[1]).view(shape)
        segments = self._things(ids, votes, scores, heat, options)
        kept = torch.tensor([segment.id for segment in segments], dtype=torch.int64, device=ids.device)
        numbers = torch.where(torch.isin(ids, kept), ids, 0)
        for label in self.config.stuff:
            if int(votes[0, label]) >= max(c.stuff_area, 1):
                segments.append(Segment(shape[0] + label, label))
                numbers[labels == label] = shape[0] + label
        return PanopticMap(numbers, tuple(segments))

    def _things(
        self, ids: Tensor, votes: Tensor, scores: ClassScores, heat: Tensor, options: DecodeOptions
    ) -> list[Segment]:
        """The segments that the ids (H, W) from 1 on are, less those that score too little.

        Args:
            votes: (N + 1, K) pixels of each id and class.
        """
        areas, kinds = votes.sum(1), votes.argmax(1)
        rows, columns = means_of(ids, areas).long()
        sure = probability_sums(ids, kinds, scores) / areas.clamp(min=1)
        values = (sure * heat[rows, columns]).clamp(0, 1).tolist()
        found = zip(range(1, len(values)), kinds.tolist()[1:], values[1:], areas.tolist()[1:], strict=True)
        least = options.score_threshold or 0.0
        return [Segment(i, kind, value) for i, kind, value, area in found if area and value >= least]

    def offsets_in_pixels(self, raw: Raw) -> Tensor:
        """(B, 2, H, W) offsets at the batch's size, px."""
        return resized(raw.offsets.float(), raw.padded) * (raw.padded[0] / raw.offsets.shape[-2])


def head(channels: int, width: int, outputs: int, separable: bool) -> nn.Sequential:
    """Two convolutions of 3 x 3, or a separable one of 5 x 5, and one that says the values."""
    if separable:
        convs = nn.Sequential(separable_bn_relu(channels, width, 5))
    else:
        convs = nn.Sequential(conv_bn_relu(channels, channels, 3), conv_bn_relu(channels, width, 3))
    return nn.Sequential(convs, nn.Conv2d(width, outputs, 1))


def mean_where(values: Tensor, counts: Tensor) -> Tensor:
    """The mean of the values that count; 0 where none does."""
    return (values * counts).sum() / counts.sum().clamp(min=1)


def probability_sums(ids: Tensor, kinds: Tensor, scores: ClassScores) -> Tensor:
    """(N + 1,) float64: for each id the sum over its pixels of the probability of its class.

    Args:
        ids: (H, W) int64, 0 .. N.
        kinds: (N + 1,) the class of each.
    """
    height, width = int(ids.shape[0]), int(ids.shape[1])
    total = torch.zeros(len(kinds), dtype=torch.float64, device=ids.device)
    for top in range(0, height, ROWS_CHUNK_SIZE):
        strip = ids[top : top + ROWS_CHUNK_SIZE]
        probabilities = scores.rows(top, top + len(strip), (height, width)).softmax(0)
        own = probabilities.gather(0, kinds[strip][None])[0]
        total += torch.bincount(strip.flatten(), own.flatten().double(), minlength=len(kinds))
    return total


# Variants -------------------------------------------------------------------------------------------------------------

SEPARABLE = DecoderConfig(aspp_separable=True, low_widths=(32, 64), width=256, convs="wide")
"""The decoder of the separable form."""


def panoptic_deeplab_r52(num_classes: int = 19, **config: Any) -> PanopticDeepLab:
    """ResNet-50 of a deep stem: Detectron2's ``panoptic_deeplab_R_52_os16_mg124_poly_90k_bs32_crop_512_1024``."""
    return PanopticDeepLab(num_classes, changed(Config(), config))


def panoptic_deeplab_r52_dsconv(num_classes: int = 19, **config: Any) -> PanopticDeepLab:
    """The same with separable convolutions: Detectron2's ``..._crop_512_1024_dsconv``."""
    return PanopticDeepLab(num_classes, changed(Config(decoder=SEPARABLE), config))


def panoptic_deeplab_mobilenet_v3_large(num_classes: int = 19, **config: Any) -> PanopticDeepLab:
    """MobileNetV3 and narrow separable heads: trains on a CPU, for several classes of things and stuff."""
    narrow = replace(SEPARABLE, rates=(4, 8, 12), aspp_width=96, low_widths=(24, 32), width=96)
    light = Config(
        backbone="mobilenet_v3_large", decoder=narrow, center_width=64, head_width=96, hard=1.0,
        group=GroupConfig(stuff_area=256),
    )  # fmt: skip
    return PanopticDeepLab(num_classes, changed(light, config))
