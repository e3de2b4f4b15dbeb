"""What systems without proposals have in common: a network that answers at every pixel, and maps of objects.

:class:`PixelNetwork` is Panoptic-DeepLab's encoder and ladder with as many maps as a paper asks for;
:class:`PixelInstances` is a system above it, :func:`pixel_targets` makes maps of masks, and :func:`objects_of_map`
masks of a map.

Shapes: B images, (H, W) the padded batch size, K objects of one image.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eachmask.accel.lazy_dynamo import timm
from eachmask.models.instance.panoptic_deeplab import Ladder
from eachmask.models.protocol import Network
from eachmask.structures import RLE, DecodeOptions, Instances
from eachmask.tasks.instances import INSTANCES

RawT = TypeVar("RawT")


@dataclass(frozen=True)
class DenseConfig:
    """What the systems' configs share."""

    backbone: str = "tf_efficientnet_lite0"
    """A timm model with ``features_only`` support and strides 2, 4, 8, 16, 32."""
    decoder_channels: tuple[int, ...] = (96, 64, 48, 32)
    """Width of the ladder at strides 16, 8, 4, 2."""
    min_area: int = 10
    """Smaller objects are dropped, px."""
    score_threshold: float = 0.3
    """Objects scoring less are dropped when predicting."""
    max_detections: int = 1000


class Limits(Protocol):
    """Of a config: what :func:`objects_of_map` asks."""

    @property
    def min_area(self) -> int: ...
    @property
    def score_threshold(self) -> float: ...
    @property
    def max_detections(self) -> int: ...


def encoder_of(config: DenseConfig) -> Any:
    """The backbone, with maps at strides 2, 4, 8, 16 and 32."""
    return timm().create_model(config.backbone, pretrained=False, features_only=True, out_indices=(0, 1, 2, 3, 4))


class PixelNetwork(nn.Module):
    """Encoder and ladder: images (B, 3, H, W), sides multiples of 32 -> (B, channels, H, W).

    Args:
        channels: maps that are wanted.
    """

    def __init__(self, channels: int, config: DenseConfig) -> None:
        super().__init__()
        self.encoder = encoder_of(config)
        self.ladder = Ladder(self.encoder.feature_info.channels(), config.decoder_channels)
        self.head = nn.Conv2d(config.decoder_channels[-1], channels * 4, 3, padding=1)  # 2 x 2 sub-pixels each
        nn.init.normal_(self.head.weight, std=0.01)
        assert self.head.bias is not None
        nn.init.zeros_(self.head.bias)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, channels, H, W)."""
        return F.pixel_shuffle(self.head(self.ladder(images, self.encoder(images))), 2)


class PixelInstances(Network[RawT, RawT, Instances]):
    """A system that groups pixels of one network: masks are all that it learns from, and objects never overlap."""

    task = INSTANCES
    needs = frozenset({"masks"})
    suppresses = False
    network: Any

    @property
    def encoder(self) -> Any:
        """The part that may start from ImageNet."""
        return self.network.encoder


class PixelTargets(NamedTuple):
    """Masks of one image as maps of the padded batch."""

    ids: np.ndarray  # (H, W) int32, 0 is background, i the i-th object that is no crowd
    labels: np.ndarray  # (K,) int64 class of each object, 0 ...
    valid: np.ndarray  # (H, W) bool, False in the padding and in crowd regions

    def classes(self) -> np.ndarray:
        """(H, W) int64: 0 is background, c + 1 the class c."""
        result: np.ndarray = np.concatenate([[0], self.labels + 1])[self.ids]
        return result


def pixel_targets(target: Instances, size: tuple[int, int], valid: tuple[int, int]) -> PixelTargets:
    """Masks -> maps.

    Args:
        target: in pixels of the batch; where masks overlap the earlier one wins.
        size: (H, W) of the batch; valid: of the image.
    """
    ids, inside = np.zeros(size, np.int32), np.zeros(size, bool)
    inside[: valid[0], : valid[1]] = True
    crowd = target.crowd.cpu().numpy()
    if target.masks is not None and len(target):
        h, w = min(size[0], target.masks.size[0]), min(size[1], target.masks.size[1])
        ids[:h, :w] = target.masks[~crowd].to_label_map()[:h, :w]
        if crowd.any():
            inside[:h, :w] &= (target.masks[crowd].to_label_map()[:h, :w] == 0) | (ids[:h, :w] > 0)
    ids[~inside] = 0
    return PixelTargets(ids, target.labels.cpu().numpy()[~crowd], inside)


def objects_of_map(
    ids: np.ndarray, scores: np.ndarray, labels: np.ndarray, config: Limits, options: DecodeOptions
) -> Instances:
    """A map of objects -> masks, best first, without small and unsure ones.

    Args:
        ids: (H, W) integers, 0 is background, i the i-th object; objects may have no pixel left.
        scores: (K,) of the objects, 0..1; labels: (K,) their classes.
    """
    size = (ids.shape[0], ids.shape[1])
    least = config.score_threshold if options.score_threshold is None else options.score_threshold
    most = config.max_detections if options.max_detections is None else options.max_detections
    area = np.bincount(ids.ravel(), minlength=len(scores) + 1)[1:]
    present = np.flatnonzero(area)
    if not len(present):
        return Instances.empty(size, with_masks=True)
    masks = RLE.from_label_map(ids)
    values = scores[present].astype(np.float32).clip(0, 1)
    chosen = np.flatnonzero((area[present] >= config.min_area) & (values >= least))
    order = chosen[np.argsort(-values[chosen], kind="stable")][:most]
    masks = masks[order]
    return Instances(
        image_size=size,
        boxes=torch.from_numpy(masks.boxes()),
        masks=masks,
        labels=torch.from_numpy(labels[present[order]].astype(np.int64)),
        scores=torch.from_numpy(values[order]),
    )


def objects_by_class(
    classes: np.ndarray,
    parts_of: Callable[[int, np.ndarray], np.ndarray],
    config: Limits,
    options: DecodeOptions,
) -> Instances:
    """Each class's pixels divided into objects, which score the mean probability of their class.

    Args:
        classes: (C + 1, H, W) probabilities, 0 is background.
        parts_of: of a class 0, 1 ... and its pixels (H, W) bool the numbers of its objects (H, W), 0 is none; what it
            finds outside of them counts too, and later classes win.
    """
    chosen = classes.argmax(0)
    ids = np.zeros(chosen.shape, np.int32)
    scores, labels = [np.zeros(0)], [np.zeros(0, np.int64)]
    for label in np.unique(chosen[chosen > 0]) - 1:
        found = parts_of(int(label), chosen == label + 1)
        num = int(found.max(initial=0))
        ids[found > 0] = found[found > 0] + sum(map(len, labels))
        scores.append(mean_per_object(found, classes[label + 1], num))
        labels.append(np.full(num, label))
    return objects_of_map(ids, np.concatenate(scores), np.concatenate(labels), config, options)


def mean_per_object(ids: np.ndarray, values: np.ndarray, num: int) -> np.ndarray:
    """(K,) mean of a map over each object's pixels; 0 where it has none."""
    flat = ids.ravel()
    total = np.bincount(flat, values.ravel(), minlength=num + 1)[1:]
    result: np.ndarray = total / np.maximum(np.bincount(flat, minlength=num + 1)[1:], 1)
    return result


def cross_entropy(logits: Tensor, targets: list[PixelTargets]) -> Tensor:
    """Softmax cross-entropy of the class of every valid pixel, 0 is background.

    Args:
        logits: (B, C + 1, H, W).
    """
    classes = torch.from_numpy(np.stack([t.classes() for t in targets])).to(logits.device)
    valid = torch.from_numpy(np.stack([t.valid for t in targets])).to(logits.device)
    loss = F.cross_entropy(logits.float(), classes, reduction="none")
    return (loss * valid).sum() / valid.sum().clamp(min=1)
