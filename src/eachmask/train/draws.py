"""Which sample comes when: a pure function of (seed, draw number), so that resuming needs no sampler state."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from eachmask.structures import ImageBatch, Instances
from eachmask.train.recipe import Recipe, Samples


class Draws(Dataset[tuple[Tensor, Instances, str]]):
    """The endless sequence of training samples of one run; item n is always the same.

    Without weights every sample comes once per epoch, in an order of that epoch's own; with weights,
    samples are drawn in proportion to them (low-discrepancy: a sample of weight 2 comes twice as often).
    """

    def __init__(self, samples: Samples, recipe: Recipe, seed: int) -> None:
        self.samples, self.recipe, self.seed = samples, recipe, seed
        weight = None if recipe.sample_weight is None else recipe.sample_weight(samples)
        self.weight: Sequence[float] | None = weight

    def index(self, draw: int) -> int:
        """Which stored sample draw n uses."""
        size = len(self.samples)
        epoch, place = divmod(draw, size)
        rng = np.random.default_rng([self.seed, 1, epoch])
        if self.weight is None:
            return int(rng.permutation(size)[place])
        share = np.cumsum(np.asarray(self.weight, np.float64))
        # Systematic sampling: evenly spaced points through the cumulated weights, then shuffled.
        points = (np.arange(size) + rng.random()) / size * share[-1]
        chosen = np.minimum(np.searchsorted(share, points, side="right"), size - 1)
        return int(rng.permutation(chosen)[place])

    def __getitem__(self, draw: int) -> tuple[Tensor, Instances, str]:
        sample = self.samples[self.index(draw)]
        preprocess = self.recipe.preprocess
        # Stretch by the whole image's limits, not by the crop's: prediction does the same.
        image = preprocess.to_float(sample.image, preprocess.limits(sample.image)).permute(1, 2, 0)
        sample = replace(sample, image=np.ascontiguousarray(image.numpy()))
        drawn = self.recipe.augment(sample, np.random.default_rng([self.seed, 2, draw]))
        tensor = torch.from_numpy(drawn.image).permute(2, 0, 1)
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in (preprocess.mean, preprocess.std))
        return (tensor - mean) / std, drawn.targets, str(drawn.path)

    def __len__(self) -> int:
        return self.recipe.steps * self.recipe.batch_size


def batches(
    draws: Draws, first_step: int, last_step: int, workers: int
) -> Iterator[tuple[ImageBatch, list[Instances], list[str]]]:
    """Batches of steps first_step .. last_step - 1: images, targets, file names."""
    size = draws.recipe.batch_size
    loader = DataLoader(
        draws,
        batch_size=size,
        sampler=range(first_step * size, last_step * size),
        num_workers=workers,
        collate_fn=_collate,
        persistent_workers=False,
    )
    divisor = draws.recipe.preprocess.divisor
    for images, targets, names in loader:
        yield ImageBatch.from_tensors(images, divisor=divisor), targets, names


def _collate(
    items: list[tuple[Tensor, Instances, str]],
) -> tuple[list[Tensor], list[Instances], list[str]]:
    images, targets, names = zip(*items, strict=True)
    return list(images), list(targets), list(names)
