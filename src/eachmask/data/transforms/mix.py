"""One training sample of objects made of several."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch

from eachmask.data.sample import Sample
from eachmask.data.transforms.crop import padded
from eachmask.data.transforms.objects import beneath, joined
from eachmask.structures import Instances


@dataclass(frozen=True)
class CopyPaste:
    """Objects of another sample pasted into this one (Ghiasi et al., CVPR 2021, arXiv 2012.07177).

    A random part of the other sample's objects, crowd regions aside, lands where it stood; it covers what was there,
    and what is covered nearly wholly is gone.
    """

    chance: float = 0.5
    """That anything is pasted at all."""
    blur: float = 1.0
    """Sigma of the soft edge, px; 0 pastes hard edges."""

    def __call__(self, sample: Sample, rng: np.random.Generator, others: Callable[[], Sample]) -> Sample:
        """Draw what to paste.

        Args:
            sample: with masks; samples without any pass unchanged.
            rng: the only source of chance.
            others: draws another sample; the smaller of both is padded.
        """
        if rng.random() >= self.chance or sample.targets.masks is None:
            return sample
        whole, other = _of_one_size(sample, others())
        pasted = self._chosen(other.targets, rng)
        if not len(pasted) or pasted.masks is None:
            return sample
        covered = pasted.masks.union().decode()[0]
        alpha = covered.astype(np.float32)
        if self.blur:
            alpha = cv2.GaussianBlur(alpha, (0, 0), self.blur).astype(np.float32, copy=False)
        mixed = whole.image + (other.image.astype(np.float32) - whole.image) * alpha[..., None]
        targets = joined([beneath(whole.targets, covered), pasted])
        return replace(whole, image=mixed.astype(whole.image.dtype), targets=targets)

    def _chosen(self, targets: Instances, rng: np.random.Generator) -> Instances:
        """Each object with a chance of one half, at least one."""
        single = ~targets.crowd.numpy()
        chosen = single & (rng.random(len(targets)) < 0.5)
        if single.any() and not chosen.any():
            chosen[rng.choice(np.flatnonzero(single))] = True
        return targets[torch.from_numpy(chosen)]


@dataclass(frozen=True)
class Mosaic:
    """Four samples in the quarters of one, around a random center (Bochkovskiy et al., arXiv 2004.10934)."""

    chance: float = 0.5
    reach: float = 0.25
    """How far the center may lie from the middle, as a share of the side."""

    def __call__(self, sample: Sample, rng: np.random.Generator, others: Callable[[], Sample]) -> Sample:
        """Draw the center and three other samples; each gives the quarter that it fills; smaller ones are padded."""
        if rng.random() >= self.chance:
            return sample
        sample, *more = _of_one_size(sample, others(), others(), others(), least=sample.canvas)
        height, width = sample.image.shape[:2]
        x, y = (round(side * (0.5 + rng.uniform(-self.reach, self.reach))) for side in (width, height))
        image, parts = np.empty_like(sample.image), []
        corners = ((0, 0, x, y), (x, 0, width, y), (0, y, x, height), (x, y, width, height))
        for corner, part in zip(corners, (sample, *more), strict=True):
            x1, y1, x2, y2 = corner
            image[y1:y2, x1:x2] = part.image[y1:y2, x1:x2]
            moved = part.targets.crop(corner).shift(x1, y1, (height, width))
            parts.append(moved if moved.masks is None else moved.with_boxes_from_masks())
        return replace(sample, image=image, targets=joined(parts))


@dataclass(frozen=True)
class PhotoMix:
    """A mosaic now and then, and then objects pasted."""

    mosaic: float = 0.0
    """Chance of a :class:`Mosaic`; 0 makes none."""
    paste: CopyPaste = CopyPaste()

    def __call__(self, sample: Sample, rng: np.random.Generator, others: Callable[[], Sample]) -> Sample:
        """Draw both."""
        if self.mosaic:
            sample = Mosaic(self.mosaic)(sample, rng, others)
        return self.paste(sample, rng, others)


def _of_one_size(*samples: Sample, least: tuple[int, int] = (0, 0)) -> list[Sample]:
    """The samples padded to the largest height and the largest width among them, at least to (height, width)."""
    sizes = [least, *(sample.image.shape[:2] for sample in samples)]
    return [padded(sample, (max(size[0] for size in sizes), max(size[1] for size in sizes))) for sample in samples]
