"""What networks share whose answers all depend on the prompts: nothing is known of an image before somebody has asked.

``encode`` only keeps the image, and one pass of the network answers one object. There is no everything.

Shapes: B images of H x W px, N objects of one image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from eachmask.models.protocol import Network
from eachmask.structures import RLE, DecodeOptions, ImageBatch, Instances, Prompts, UserError
from eachmask.structures.soft_masks import SoftMasks
from eachmask.structures.spatial import Spatial
from eachmask.tasks.instances import INSTANCES


class Seen(NamedTuple):
    """Images, before somebody has asked."""

    images: Tensor  # (B, 3, H, W) normalized
    sizes: tuple[tuple[int, int], ...]  # valid (height, width)


class Raw(NamedTuple):
    """Images, and what was asked; nothing is computed yet."""

    images: Tensor  # (B, 3, H, W) normalized
    sizes: tuple[tuple[int, int], ...]  # valid (height, width)
    prompts: tuple[Prompts, ...] | None  # one for each image


class Answers(NamedTuple):
    """What belongs to each object that is meant, one entry per image."""

    sizes: tuple[tuple[int, int], ...]
    probabilities: tuple[Tensor, ...]  # (N, height, width) 0..1


class Answering(Network[Raw, Answers, Instances]):
    """A network with :meth:`answer`, which subclasses write, and ``losses``
    (:class:`~eachmask.models.protocol.Promptable`)."""

    task = INSTANCES
    max_classes = 1
    needs = frozenset({"masks"})
    answers_only = True
    """Prompts are all that it answers."""
    asked_by: ClassVar[Literal["points", "extremes"]] = "points"
    """What its answers are measured by while it trains."""
    threshold = 0.5
    """Of the probabilities of a mask."""
    wants = "give points on the object that is meant"
    """What a user is told who gives nothing, or what it cannot see."""

    def answer(self, image: Tensor, prompts: Prompts) -> Tensor:
        """(h, w) probabilities of the one object of these prompts, on a normalized image (3, h, w)."""
        raise NotImplementedError

    def check(self, prompts: Prompts) -> None:
        """Refuse what the network cannot see.

        Raises:
            UserError: there is such a prompt.
        """
        if prompts.texts:
            raise UserError(f"{type(self).__name__} understands no words: {self.wants}")

    def forward(self, images: ImageBatch, given: Sequence[Spatial] | None = None) -> Raw:
        """The images and the prompts that are given with them; what depends on prompts is computed when asked for."""
        prompts = None if given is None else tuple(p for p in given if isinstance(p, Prompts))
        return Raw(images.tensor, images.sizes, prompts)

    def encode(self, images: ImageBatch) -> Seen:
        """The images, as they are."""
        return Seen(images.tensor, images.sizes)

    def prompted(self, embedding: Seen, prompts: Sequence[Prompts]) -> Raw:
        """What is asked of each image, in its pixels as the network sees them.

        Raises:
            UserError: there are prompts that this network cannot see, see :meth:`check`.
        """
        for asked in prompts:
            self.check(asked)
        return Raw(embedding.images, embedding.sizes, tuple(prompts))

    def select(self, raw: Raw, options: DecodeOptions) -> Answers:
        """One mask for each object that is meant.

        Raises:
            UserError: nothing was asked.
        """
        if raw.prompts is None:
            raise UserError(f"{type(self).__name__} answers prompts alone: {self.wants}")
        rows = zip(raw.images, raw.sizes, raw.prompts, strict=True)
        return Answers(raw.sizes, tuple(self._of_image(x[:, :h, :w], asked) for x, (h, w), asked in rows))

    def pack(self, selected: Answers, options: DecodeOptions) -> list[Instances]:
        """The masks, in the order of the objects, whose numbers are their ``track_ids``."""
        threshold = self.threshold if options.mask_threshold == 0.5 else options.mask_threshold
        rows = zip(selected.probabilities, selected.sizes, strict=True)
        return [answered(maps, size, threshold) for maps, size in rows]

    def _of_image(self, image: Tensor, prompts: Prompts) -> Tensor:
        """(3, h, w) -> (N, h, w)."""
        return torch.stack([self.answer(image, prompts.of(i)) for i in range(len(prompts))])


def answered(maps: Tensor, size: tuple[int, int], threshold: float) -> Instances:
    """Probabilities (N, h, w) of N objects -> those that have a mask; their score is its mean probability."""
    maps = maps.float()
    inside = maps >= threshold
    area = inside.sum((1, 2))
    scores = (maps * inside).sum((1, 2)) / area.clamp(min=1)
    kept = area.nonzero()[:, 0]
    masks = SoftMasks.from_maps(maps[kept], size, size, threshold)
    boxes = torch.from_numpy(RLE.boxes(masks.to_rle())).to(scores.device)
    return Instances(size, boxes, masks=masks, scores=scores[kept].clamp(max=1), track_ids=kept)


def target_mask(target: Instances, size: tuple[int, int]) -> Tensor:
    """(H, W) float of one object drawn at random: 1 on it, 0 beside it, -1 on crowds and beyond the image."""
    height, width = target.image_size
    known = np.full(size, -1.0, np.float32)
    known[:height, :width] = 0
    crowd, own = target[target.crowd], target[~target.crowd]
    if len(crowd):
        known[:height, :width][crowd.gt_masks.union().decode()[0]] = -1
    if len(own):
        chosen = int(torch.randint(len(own), ()))
        known[:height, :width][own.gt_masks[chosen].to_rle().decode()[0]] = 1
    return torch.from_numpy(known)
