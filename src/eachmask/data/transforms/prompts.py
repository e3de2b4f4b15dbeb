"""Samples with prompts for interactive models, and with no more objects than they need."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from eachmask.data.sample import Sample
from eachmask.structures import Instances
from eachmask.structures.spatial import Spatial


@dataclass(frozen=True)
class Few:
    """Some of a sample's objects before anything else is done to it: an image of hundreds costs no more than others."""

    augment: Callable[[Sample, np.random.Generator], Sample]
    most: int = 10

    def __call__(self, sample: Sample[Instances], rng: np.random.Generator) -> Sample[Instances]:
        """Draw the objects, then augment."""
        if len(sample.targets) > self.most:
            kept = np.sort(rng.permutation(len(sample.targets))[: self.most])
            sample = replace(sample, targets=sample.targets[kept])
        return self.augment(sample, rng)


@dataclass(frozen=True)
class Prompted:
    """A mix of samples, with prompts drawn for what came out."""

    mix: Callable[[Sample, np.random.Generator, Callable[[], Sample]], Sample]
    draw: Callable[[Instances, np.random.Generator], tuple[Instances, Spatial]]
    """Targets -> those that are asked about, in the order of the prompts, and the prompts."""

    def __call__(self, sample: Sample, rng: np.random.Generator, others: Callable[[], Sample]) -> Sample:
        """Mix, then draw."""
        mixed = self.mix(sample, rng, others)
        targets, prompts = self.draw(mixed.targets, rng)
        return replace(mixed, targets=targets, given=prompts)
