"""Panoptic-DeepLab: instances from the bottom up, by centers and offsets.

Cheng, Collins, Zhu, Liu, Huang, Adam, Chen: "Panoptic-DeepLab: A Simple, Strong, and Fast Baseline
for Bottom-Up Panoptic Segmentation", CVPR 2020, arXiv 1911.10194.

The idea: every pixel of a thing says how likely it is foreground and points to the center of its own
object; a heat map says where centers are. Grouping is then one look-up: a pixel belongs to the
center nearest to the place it points to. No boxes, no proposals, no suppression among masks, so
the cost does not grow with the number of objects: the natural choice for crowded microscope images.

Where we differ from the paper (all for small, crowded, class-agnostic objects such as nuclei):
- the heat map's sigma grows with the object (the paper has 8 px for all) and the heat stays inside
  its object, so that neighbors of 5 px do not melt together;
- offsets are regressed in units of ``Config.offset_unit`` px and every *object* counts in the loss,
  not every pixel (``1/sqrt(area)``), so that big objects do not drown small ones;
- the decoder is a light U-Net ladder that also sees the image itself (space-to-depth), and answers at
  full resolution by sub-pixel convolution (Shi et al., CVPR 2016);
- peaks that point to the same place are one center: the paper's max-pooling alone leaves doubles
  on large objects;
- one foreground class (``num_classes == 1``); the semantic half is a sigmoid.

Shapes: B images, (H, W) the padded batch size, N objects in one image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eachmask.accel.lazy_dynamo import timm
from eachmask.models.config import changed
from eachmask.models.protocol import Network
from eachmask.structures import RLE, DecodeOptions, ImageBatch, Instances, UserError
from eachmask.tasks.instances import INSTANCES

if TYPE_CHECKING:
    from eachmask.structures.spatial import Spatial


class Raw(NamedTuple):
    """What the network says, at the resolution of the batch."""

    foreground: Tensor  # (B, 1, H, W) logits
    heat: Tensor  # (B, 1, H, W) logits; sigmoid is 1 on a center
    offsets: Tensor  # (B, 2, H, W) pixels, (x, y): center minus pixel
    sizes: tuple[tuple[int, int], ...]  # valid (height, width) of each image


class Selected(NamedTuple):
    """What grouping reads; it makes instances of it on the CPU."""

    foreground: Tensor  # (B, 1, H, W) probabilities
    heat: Tensor  # (B, 1, H, W) probabilities
    offsets: Tensor  # (B, 2, H, W) pixels, (x, y)
    sizes: tuple[tuple[int, int], ...]  # valid (height, width) of each image


@dataclass(frozen=True)
class Config:
    """What a variant may change."""

    backbone: str = "tf_efficientnet_lite0"
    """A timm model with ``features_only`` support and strides 2, 4, 8, 16, 32."""
    decoder_channels: tuple[int, ...] = (96, 64, 48, 32)
    """Width of the ladder at strides 16, 8, 4, 2."""
    offset_unit: float = 8.0
    """Pixels per unit of the offset head."""
    sigma_min: float = 1.0
    """Smallest spread of a center's heat, px."""
    sigma_per_diameter: float = 0.15
    """Spread of the heat as a share of ``sqrt(area)``."""
    heat_weight: float = 1.0
    offset_weight: float = 1.0
    heat_threshold: float = 0.1
    """A center's heat below this is no center (paper: 0.1)."""
    score_threshold: float = 0.3
    """Objects scoring less are dropped when predicting."""
    foreground_threshold: float = 0.5
    merge_distance: float = 2.5
    """Two peaks pointing to places nearer than this (px, or a quarter of the longer of their offsets'
    lengths) are one center."""
    min_area: int = 10
    """Smaller masks are dropped, px."""
    max_detections: int = 5000


def _conv_bn_relu(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


class Ladder(nn.Module):
    """U-Net's expanding path (Ronneberger 2015): up-sample, join the finer features, convolve.

    Args:
        channels: of the encoder's maps at strides 2, 4, 8, 16, 32.
        widths: of the ladder at strides 16, 8, 4, 2.
    """

    def __init__(self, channels: list[int], widths: tuple[int, ...]) -> None:
        super().__init__()
        image_channels = 3 * 2 * 2  # space-to-depth of the image at stride 2
        fine_to_coarse = [channels[0] + image_channels, *channels[1:-1]]
        below = channels[-1]
        self.rungs = nn.ModuleList()
        for skip, width in zip(reversed(fine_to_coarse), widths, strict=True):
            self.rungs.append(_conv_bn_relu(below + skip, width))
            below = width
        self.last = _conv_bn_relu(below, below)

    def forward(self, image: Tensor, maps: list[Tensor]) -> Tensor:
        """(B, 3, H, W) and maps at strides 2..32 -> (B, widths[-1], H/2, W/2)."""
        maps = [torch.cat([maps[0], F.pixel_unshuffle(image, 2)], dim=1), *maps[1:]]
        x = maps[-1]
        for rung, skip in zip(self.rungs, reversed(maps[:-1]), strict=True):
            x = F.interpolate(x, size=skip.shape[-2:], mode="nearest")
            x = rung(torch.cat([x, skip], dim=1))
        result: Tensor = self.last(x)
        return result


class PanopticDeepLab(Network[Raw, Selected, Instances]):
    """The instance half of Panoptic-DeepLab.

    Args:
        num_classes: 1.

    Raises:
        UserError: there is more than one class.
    """

    task = INSTANCES
    max_classes = 1
    needs = frozenset({"masks"})
    suppresses = False

    def __init__(self, num_classes: int = 1, config: Config | None = None) -> None:
        super().__init__()
        if num_classes != 1:
            raise UserError(
                f"Panoptic-DeepLab separates objects of one class, so num_classes is 1, not {num_classes}: for several "
                "classes use mask_rcnn_lite0_fpn or condinst_lite0_fpn"
            )
        self.num_classes = num_classes
        self.config = config or Config()
        encoder: Any = timm().create_model(
            self.config.backbone, pretrained=False, features_only=True, out_indices=(0, 1, 2, 3, 4)
        )
        self.encoder = encoder
        self.ladder = Ladder(encoder.feature_info.channels(), self.config.decoder_channels)
        # 4 maps (foreground, heat, offset x, offset y) times 2 x 2 sub-pixels.
        self.head = nn.Conv2d(self.config.decoder_channels[-1], 4 * 4, 3, padding=1)
        nn.init.normal_(self.head.weight, std=0.01)
        assert self.head.bias is not None
        nn.init.zeros_(self.head.bias)
        with torch.no_grad():
            self.head.bias[4:8] = -4.0  # centers are rare: start with a heat of about 0.02

    def forward(self, images: ImageBatch, given: Sequence[Spatial] | None = None) -> Raw:
        """Images (B, 3, H, W), H and W multiples of 32 -> maps at the same resolution."""
        x = images.tensor
        maps = F.pixel_shuffle(self.head(self.ladder(x, self.encoder(x))), 2)
        foreground, heat, offsets = maps.split([1, 1, 2], dim=1)
        return Raw(foreground, heat, offsets * self.config.offset_unit, images.sizes)

    def losses(self, raw: Raw, targets: list[Instances]) -> dict[str, Tensor]:
        """Binary cross-entropy + Dice on the foreground, cross-entropy on the heat, L1 on the offsets.

        Args:
            targets: one per image, in pixels of the batch; only masks (and crowd) are read. Crowd
                regions and the padding are ignored.
        """
        device = raw.foreground.device
        maps = [make_targets(t, raw.foreground.shape[-2:], self.config) for t in targets]
        label, valid, heat, offsets, weight = (
            torch.from_numpy(np.stack(column)).to(device) for column in zip(*maps, strict=True)
        )
        for i, (height, width) in enumerate(raw.sizes):
            valid[i, height:], valid[i, :, width:] = False, False
        foreground = (label > 0).float()
        valid, num_valid = valid.float(), valid.sum().clamp(min=1)
        logits = raw.foreground[:, 0].float()
        # Pixels of small objects and of borders between touching ones matter most to the grouping.
        emphasis = valid * (1 + 3 * weight)
        bce = F.binary_cross_entropy_with_logits(logits, foreground, reduction="none")
        probability = logits.sigmoid() * valid
        overlap = (probability * foreground).sum()
        dice = 1 - (2 * overlap + 1) / (probability.sum() + (foreground * valid).sum() + 1)
        heat_logits = raw.heat[:, 0].float()
        heat_loss = F.binary_cross_entropy_with_logits(heat_logits, heat, reduction="none")
        # The entropy of a soft target is no fault of the network; centers count ten times.
        heat_loss = heat_loss - F.binary_cross_entropy(heat, heat, reduction="none")
        heat_loss = (heat_loss * (1 + 9 * heat) * valid).sum() / num_valid
        error = (raw.offsets.float() - offsets).abs().sum(1) / self.config.offset_unit
        offset_loss = (error * weight * valid).sum() / (weight * valid).sum().clamp(min=1e-3)
        return {
            "foreground": (bce * emphasis).sum() / emphasis.sum().clamp(min=1),
            "dice": dice,
            "heat": self.config.heat_weight * 10 * heat_loss,
            "offset": self.config.offset_weight * 0.5 * offset_loss,
        }

    def select(self, raw: Raw, options: DecodeOptions) -> Selected:
        """Logits become probabilities; which pixels belong together is said by :meth:`pack`."""
        foreground, heat = raw.foreground.float().sigmoid(), raw.heat.float().sigmoid()
        return Selected(foreground, heat, raw.offsets.float(), raw.sizes)

    def pack(self, selected: Selected, options: DecodeOptions) -> list[Instances]:
        """Group pixels to the center they point to; masks as RLE, sorted by score.

        An object's score is its mean foreground probability times the square root of its center's
        heat: the first says how sure the pixels are, the second how sure the grouping is.
        """
        foreground, heat = selected.foreground[:, 0].cpu().numpy(), selected.heat.cpu()
        every = selected.offsets.cpu().numpy()
        result = []
        for i, (height, width) in enumerate(selected.sizes):
            probability, offsets = foreground[i, :height, :width], every[i, :, :height, :width]
            centers, strengths = find_centers(heat[i, :, :height, :width], offsets, self.config)
            labels = group_pixels(probability >= self.config.foreground_threshold, offsets, centers)
            result.append(collect(labels, probability, strengths, self.config, options))
        return result


def make_targets(
    target: Instances, size: torch.Size | tuple[int, int], config: Config
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Masks of one image -> maps that the losses compare with.

    Returns:
        label (H, W) int32, 0 is background; valid (H, W) bool, False in crowd regions; heat (H, W)
        float32, 1 on centers; offsets (2, H, W) float32 px (x, y); weight (H, W) float32,
        ``1/sqrt(area)`` relative to an object of 100 px, at most 4, 0 on background.
    """
    height, width = size
    shape = (height, width)
    label, valid = np.zeros(shape, np.int32), np.ones(shape, bool)
    if target.masks is not None and len(target):
        crowd = target.crowd.cpu().numpy()
        h, w = min(height, target.masks.size[0]), min(width, target.masks.size[1])
        label[:h, :w] = target.masks[~crowd].to_label_map()[:h, :w]
        if crowd.any():
            valid[:h, :w] = target.masks[crowd].to_label_map()[:h, :w] == 0
            valid |= label > 0
    ys, xs = np.nonzero(label)
    ids = label[ys, xs]
    area = np.maximum(np.bincount(ids), 1).astype(np.float32)
    center_x = (np.bincount(ids, xs) / area).astype(np.float32)
    center_y = (np.bincount(ids, ys) / area).astype(np.float32)
    offsets = np.zeros((2, *shape), np.float32)
    offsets[0, ys, xs], offsets[1, ys, xs] = center_x[ids] - xs, center_y[ids] - ys
    sigma = np.maximum(config.sigma_min, config.sigma_per_diameter * np.sqrt(area))
    heat, weight = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    distance = offsets[0, ys, xs] ** 2 + offsets[1, ys, xs] ** 2
    heat[ys, xs] = np.exp(-distance / (2 * sigma[ids] ** 2))
    weight[ys, xs] = np.minimum(10 / np.sqrt(area[ids]), 4)
    return label, valid, heat, offsets, weight


def find_centers(heat: Tensor, offsets: np.ndarray, config: Config) -> tuple[np.ndarray, np.ndarray]:
    """Local maxima of the heat, doubles united.

    Args:
        heat: (1, H, W) probabilities.
        offsets: (2, H, W) px.

    Returns:
        centers (N, 2) float32 (x, y) and their heat (N,), strongest first.
    """
    smooth = F.avg_pool2d(heat[None], 3, stride=1, padding=1, count_include_pad=False)[0]
    peak = (F.max_pool2d(smooth[None], 3, stride=1, padding=1)[0] == smooth) & (heat >= config.heat_threshold)
    ys, xs = (v.numpy() for v in torch.nonzero(peak[0], as_tuple=True))
    strength = heat[0].numpy()[ys, xs]
    order = np.argsort(-strength, kind="stable")
    xs, ys, strength = xs[order], ys[order], strength[order]
    dx, dy = offsets[0, ys, xs], offsets[1, ys, xs]
    place = np.stack([xs + dx, ys + dy], 1).astype(np.float32)
    reach = np.maximum(config.merge_distance, 0.25 * np.hypot(dx, dy))
    keep = _suppress_near(place, reach)
    return place[keep], strength[keep]


def _suppress_near(place: np.ndarray, reach: np.ndarray) -> np.ndarray:
    """Indices of places that no stronger kept place has within reach; a grid keeps it linear."""
    cell = float(max(reach.max(initial=1.0), 1.0))
    grid: dict[tuple[int, int], list[int]] = {}
    keep = []
    for i, (x, y) in enumerate(place):
        column, row = int(x // cell), int(y // cell)
        near = (j for a in (-1, 0, 1) for b in (-1, 0, 1) for j in grid.get((column + a, row + b), ()))
        if all(np.hypot(*(place[j] - place[i])) > max(reach[i], reach[j]) for j in near):
            grid.setdefault((column, row), []).append(i)
            keep.append(i)
    return np.array(keep, dtype=np.int64)


def group_pixels(foreground: np.ndarray, offsets: np.ndarray, centers: np.ndarray) -> np.ndarray:
    """Every foreground pixel joins the center nearest to where it points (paper, eq. 1).

    The nearest center of every place is read off one Voronoi map, so the cost is that of the image
    and not of pixels times centers.

    Args:
        foreground: (H, W) bool.
        offsets: (2, H, W) px.
        centers: (N, 2) px (x, y).

    Returns:
        (H, W) int32, 0 is background, i + 1 the i-th center.
    """
    height, width = foreground.shape
    if not len(centers) or not foreground.any():
        return np.zeros((height, width), np.int32)
    seeds = np.full((height, width), 255, np.uint8)
    cx = np.clip(np.rint(centers[:, 0]).astype(int), 0, width - 1)
    cy = np.clip(np.rint(centers[:, 1]).astype(int), 0, height - 1)
    seeds[cy, cx] = 0
    _, voronoi = cv2.distanceTransformWithLabels(seeds, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    # OpenCV numbers the zero pixels in its own order; two centers may share a pixel: the first wins.
    of_label = np.zeros(int(voronoi.max()) + 1, np.int32)
    of_label[voronoi[cy, cx][::-1]] = np.arange(len(centers), 0, -1)
    ys, xs = np.nonzero(foreground)
    px = np.clip(np.rint(xs + offsets[0, ys, xs]).astype(int), 0, width - 1)
    py = np.clip(np.rint(ys + offsets[1, ys, xs]).astype(int), 0, height - 1)
    labels = np.zeros((height, width), np.int32)
    labels[ys, xs] = of_label[voronoi[py, px]]
    return labels


def collect(
    labels: np.ndarray, probability: np.ndarray, strengths: np.ndarray, config: Config, options: DecodeOptions
) -> Instances:
    """Label map -> Instances: largest connected part of each, holes filled, scored, sorted."""
    size = (labels.shape[0], labels.shape[1])
    labels = largest_parts(labels, config.min_area)
    ids = np.unique(labels[labels > 0])
    if not len(ids):
        return Instances.empty(size, with_masks=True)
    flat = labels.ravel()
    area = np.bincount(flat, minlength=ids[-1] + 1)[ids]
    mean = np.bincount(flat, probability.ravel(), minlength=ids[-1] + 1)[ids] / area
    scores = (mean * np.sqrt(strengths[ids - 1])).astype(np.float32)
    least = config.score_threshold if options.score_threshold is None else options.score_threshold
    most = config.max_detections if options.max_detections is None else options.max_detections
    order = np.argsort(-scores, kind="stable")
    order = order[scores[order] >= least][:most]
    masks = RLE.from_label_map(labels)[order]
    return Instances(
        image_size=size,
        boxes=torch.from_numpy(masks.boxes()),
        masks=masks,
        labels=torch.zeros(len(order), dtype=torch.int64),
        scores=torch.from_numpy(scores[order]),
    )


def largest_parts(labels: np.ndarray, min_area: int) -> np.ndarray:
    """Keep the largest 4-connected part of every label, fill its holes, drop what is too small.

    Args:
        labels: (H, W) int32, 0 is background.

    Returns:
        (H, W) int32 with the same numbers.
    """
    from scipy import ndimage
    from skimage.measure import label as connected

    parts = connected(labels, background=0, connectivity=1)  # type: ignore[no-untyped-call]
    area = np.bincount(parts.ravel())
    owner = np.zeros(len(area), np.int64)
    owner[parts.ravel()] = labels.ravel()
    # Parts in order of area: the last one written for an owner is its largest.
    order = np.argsort(area[1:], kind="stable") + 1
    largest = np.zeros(int(labels.max(initial=0)) + 1, np.int64)
    largest[owner[order]] = order
    largest[0] = 0
    keep = np.zeros(len(area), bool)
    keep[largest[largest > 0]] = True
    keep &= area >= min_area
    result = np.where(keep[parts], labels, 0).astype(np.int32)
    for i, box in enumerate(ndimage.find_objects(result), start=1):
        if box is None:
            continue
        crop = result[box]
        holes = ndimage.binary_fill_holes(crop == i) & (crop == 0)
        crop[holes] = i
    return result


def panoptic_deeplab_lite0(num_classes: int = 1, **config: Any) -> PanopticDeepLab:
    """EfficientNet-Lite0 encoder, 3.5 M parameters."""
    return PanopticDeepLab(num_classes, changed(Config(), config))


def panoptic_deeplab_lite2(num_classes: int = 1, **config: Any) -> PanopticDeepLab:
    """EfficientNet-Lite2 encoder, 4.9 M parameters: the variant of the bundled ``nuclei`` model."""
    return PanopticDeepLab(num_classes, changed(Config(backbone="tf_efficientnet_lite2"), config))
