"""What systems that say one object after another have in common: features, an unrolled sequence, and when it ends.

``forward`` ends at the features, as that of a two-stage model ends at its proposals: ``losses`` unrolls the sequence
with the targets at hand, ``select`` until the network says that nothing is left. A paper's file writes ``begin``,
``next_object`` and ``losses``.

An object's score is the least that was said up to it, so that scores fall, and the sequence ends where they fall below
the threshold. Each step costs the same, hence prediction time grows with the number of objects.

Shapes: B images, (H, W) the padded batch size, (h, w) cells of the grid, T steps, N objects of one image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eachmask.models.instance.panoptic_deeplab import Ladder
from eachmask.models.proposal_free.dense import DenseConfig, encoder_of
from eachmask.models.protocol import Network
from eachmask.ops.coarse_masks import coarse_masks
from eachmask.structures import DecodeOptions, ImageBatch, Instances, SoftMasks, UserError
from eachmask.structures.logit_masks import logit
from eachmask.structures.spatial import Spatial
from eachmask.tasks.instances import INSTANCES

StateT = TypeVar("StateT")
"""What a network remembers from step to step."""


@dataclass(frozen=True)
class SequenceConfig(DenseConfig):
    """What the systems' configs share."""

    stride: int = 4
    """Of the grid that masks are drawn on, px: 2 or a multiple of it."""
    score_threshold: float = 0.5
    """The sequence ends at a lower score."""
    max_detections: int = 30
    """And after so many steps at the latest."""
    first_length: int = 5
    """Curriculum: sequences that are learnt from have at most so many steps in the beginning ..."""
    steps_per_length: int = 20
    """... and one more after so many steps of training."""


class Raw(NamedTuple):
    """What the network sees; it has said nothing yet."""

    features: Tensor  # (B, C, h, w), the last two channels are x and y, -1..1
    valid: Tensor  # (B, h, w) bool, cells that show a part of the image
    sizes: tuple[tuple[int, int], ...]  # valid (height, width) of each image, px
    padded: tuple[int, int]  # (H, W)


class Said(NamedTuple):
    """One step."""

    masks: Tensor  # (B, h, w) logits
    scores: Tensor  # (B,) logits, that there was an object left


class Selected(NamedTuple):
    """The sequences, of the length of the longest."""

    masks: Tensor  # (B, T, h, w) logits
    scores: Tensor  # (B, T) 0..1, falling
    sizes: tuple[tuple[int, int], ...]
    padded: tuple[int, int]


class GridTargets(NamedTuple):
    """Masks of one image on the grid."""

    masks: Tensor  # (N, h, w) 0 or 1; none of a crowd region
    weight: Tensor  # (h, w) 0 in crowd regions and in the padding, else 1


class Sequential(Network[Raw, Selected, Instances], Generic[StateT]):
    """Encoder, ladder, and a sequence of objects of one class.

    Raises:
        UserError: there is more than one class.
    """

    task = INSTANCES
    max_classes = 1
    needs = frozenset({"masks"})
    suppresses = False
    training_steps: Tensor

    def __init__(self, num_classes: int, config: SequenceConfig) -> None:
        super().__init__()
        if num_classes != 1:
            raise UserError(f"{type(self).__name__} finds objects of one class, so num_classes is 1, not {num_classes}")
        self.num_classes, self.config = num_classes, config
        self.encoder = encoder_of(config)
        self.ladder = Ladder(self.encoder.feature_info.channels(), config.decoder_channels)
        self.width = config.decoder_channels[-1] + 2
        """Channels of the features."""
        self.register_buffer("training_steps", torch.zeros((), dtype=torch.int64))

    @property
    def max_objects(self) -> int:
        """As many as steps are taken."""
        return int(self.config.max_detections)

    def begin(self, raw: Raw) -> StateT:
        """What is remembered before the first step."""
        raise NotImplementedError

    def next_object(self, raw: Raw, state: StateT) -> tuple[Said, StateT]:
        """The next object of each image, and what is to be remembered of it."""
        raise NotImplementedError

    def forward(self, images: ImageBatch, given: Sequence[Spatial] | None = None) -> Raw:
        """Images (B, 3, H, W), H and W multiples of 32 -> features."""
        x, stride = images.tensor, self.config.stride
        features = F.avg_pool2d(self.ladder(x, self.encoder(x)), stride // 2)
        h, w = features.shape[-2:]
        valid = torch.zeros(len(x), h, w, dtype=torch.bool, device=x.device)
        for i, (height, width) in enumerate(images.sizes):
            valid[i, : -(-height // stride), : -(-width // stride)] = True
        ys, xs = torch.linspace(-1, 1, h).to(features), torch.linspace(-1, 1, w).to(features)
        places = torch.stack([xs.expand(h, w), ys[:, None].expand(h, w)]).expand(len(x), 2, h, w)
        return Raw(torch.cat([features, places], 1), valid, images.sizes, (x.shape[-2], x.shape[-1]))

    def select(self, raw: Raw, options: DecodeOptions) -> Selected:
        """Unroll until no image has an object left."""
        threshold, state = self._threshold(options), self.begin(raw)
        masks, scores = [], []
        least = raw.features.new_ones(len(raw.sizes), dtype=torch.float32)
        for _ in range(self.max_objects):
            said, state = self.next_object(raw, state)
            least = torch.minimum(least, said.scores.float().sigmoid())
            if not bool((least >= threshold).any()):
                break
            masks.append(said.masks.float())
            scores.append(least)
        if not masks:
            empty = raw.features.new_zeros((len(raw.sizes), 0, *raw.features.shape[-2:]), dtype=torch.float32)
            return Selected(empty, empty[..., 0, 0], raw.sizes, raw.padded)
        return Selected(torch.stack(masks, 1), torch.stack(scores, 1), raw.sizes, raw.padded)

    def pack(self, selected: Selected, options: DecodeOptions) -> list[Instances]:
        """The objects of each image before its sequence ended, without those of hardly a pixel."""
        threshold, level = self._threshold(options), logit(options.mask_threshold)
        found = []
        for maps, scores, size in zip(selected.masks, selected.scores, selected.sizes, strict=True):
            kept = scores >= threshold
            masks = SoftMasks.from_maps(maps[kept], selected.padded, size, level)
            runs = masks.to_rle()
            one = Instances(size, torch.from_numpy(runs.boxes()), masks, scores=scores[kept].cpu())
            found.append(one[runs.area() >= self.config.min_area][: options.max_detections])
        return found

    def length(self, targets: Sequence[GridTargets]) -> int:
        """Steps that are learnt from: one more than there are objects, but no more than the curriculum allows."""
        longest = min(max(len(target.masks) for target in targets) + 1, self.max_objects)
        if not self.training:
            return longest
        return min(longest, self.config.first_length + int(self.training_steps) // self.config.steps_per_length)

    def targets_of(self, raw: Raw, targets: Sequence[Instances]) -> list[GridTargets]:
        """Masks on the grid; counts the step, while training."""
        if self.training:
            self.training_steps += 1
        return [grid_targets(target, valid, raw.padded) for target, valid in zip(targets, raw.valid, strict=True)]

    def _threshold(self, options: DecodeOptions) -> float:
        given = options.score_threshold
        return self.config.score_threshold if given is None else given


def grid_targets(target: Instances, valid: Tensor, padded: tuple[int, int]) -> GridTargets:
    """One image's masks on the grid.

    Args:
        target: in pixels of the batch; valid: (h, w) bool; padded: (H, W) px that the grid spans.
    """
    height, width = valid.shape
    masks, weight = np.zeros((0, height, width), np.float32), valid.cpu().numpy().astype(np.float32)
    if target.masks is not None and len(target):
        crowd = target.crowd.cpu().numpy()
        for region in coarse_masks(target.masks[crowd], padded, (height, width)):
            region.paint(weight, 0.0)
        cells = [
            one.within([0, 0, width, height]) for one in coarse_masks(target.masks[~crowd], padded, (height, width))
        ]
        masks = np.stack(cells) if cells else masks
    return GridTargets(torch.from_numpy(masks).to(valid.device), torch.from_numpy(weight).to(valid.device))


def convolutions(*channels: int, stride: int = 1) -> nn.Sequential:
    """3 x 3 convolutions, each with a ReLU."""
    layers: list[Any] = []
    for before, after in zip(channels[:-1], channels[1:], strict=True):
        layers += [nn.Conv2d(before, after, 3, stride, 1), nn.ReLU()]
    return nn.Sequential(*layers)
