"""Which sample comes when: a pure function of (seed, draw number), so that resuming needs no sampler state."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from eachmask.data.sample import Sample
from eachmask.data.samples import Samples
from eachmask.structures import ImageBatch, UserError
from eachmask.training.recipe import Recipe

ATTEMPTS = 20
"""So many images in a row may be unreadable before training stops."""


class TrainingSequence(Dataset["TrainingSample"]):
    """The endless sequence of training samples of one run; item n is always the same.

    Without weights every sample comes once per epoch, in an order of that epoch's own; with weights,
    samples are chosen in proportion to them (low-discrepancy: a sample of weight 2 comes twice as often).
    """

    def __init__(self, samples: Samples[Any], recipe: Recipe, seed: int) -> None:
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

    def __getitem__(self, draw: int) -> TrainingSample:
        rng = np.random.default_rng([self.seed, 2, draw])
        skipped: list[str] = []
        sample = self._augmented(self.index(draw), rng, skipped)
        if self.recipe.mix is not None:
            sample = self.recipe.mix(sample, rng, lambda: self._augmented(self._any(rng), rng, skipped))
        image = torch.from_numpy(np.array(sample.image)).permute(2, 0, 1)
        tensor = self.recipe.preprocess.normalize(image)
        return TrainingSample(tensor, sample.targets, sample.given, sample.canvas, str(sample.path), skipped)

    def _augmented(self, index: int, rng: np.random.Generator, skipped: list[str]) -> Sample:
        """One stored sample, stretched to 0..1 and augmented; a broken image gives way to another one."""
        sample = self._readable(index, rng, skipped)
        preprocess = self.recipe.preprocess
        # Stretch by the whole image's limits, not by the crop's: prediction does the same.
        image = preprocess.to_float(sample.image, preprocess.limits(sample.image)).permute(1, 2, 0)
        return self.recipe.augment(replace(sample, image=np.ascontiguousarray(image.numpy())), rng)

    def _readable(self, index: int, rng: np.random.Generator, skipped: list[str]) -> Sample:
        for _ in range(ATTEMPTS):
            try:
                return self.samples[index]
            except UserError as error:
                skipped.append(str(error))
                index = self._any(rng)
        raise UserError(f"{ATTEMPTS} images in a row cannot be read; the last: {skipped[-1]}")

    def _any(self, rng: np.random.Generator) -> int:
        return int(rng.integers(len(self.samples)))

    def __len__(self) -> int:
        return self.recipe.steps * self.recipe.batch_size


class TrainingSample(NamedTuple):
    """One training sample, ready for the network."""

    image: Tensor  # (3, H, W), normalized
    targets: Any
    given: Any | None  # what a user would hand over
    canvas: tuple[int, int]  # least (height, width) of its batch
    name: str
    skipped: list[str]  # images that could not be read and gave way to this one


class Batch(NamedTuple):
    """What one process computes at once."""

    images: ImageBatch
    targets: list[Any]
    given: list[Any] | None
    names: list[str]
    skipped: list[str]


@dataclass(frozen=True)
class Share:
    """The part of each step's batch that this process computes, in so many parts."""

    rank: int = 0
    world: int = 1
    parts: int = 1

    def draws(self, step: int, batch_size: int) -> list[list[int]]:
        """Draw numbers of one step for this process, part by part.

        Raises:
            UserError: the batch cannot be divided evenly.
        """
        parts = self.world * self.parts
        if batch_size % parts:
            raise UserError(
                f"a batch of {batch_size} images cannot be shared evenly by {self.world} processes in {self.parts} "
                f"parts: choose a batch size that {parts} divides"
            )
        size = batch_size // parts
        first = step * batch_size + self.rank * size * self.parts
        return [list(range(first + i * size, first + (i + 1) * size)) for i in range(self.parts)]


def batches(draws: TrainingSequence, steps: range, share: Share, workers: int) -> Iterator[list[Batch]]:
    """For every step the parts of its batch."""
    size = draws.recipe.batch_size
    parts = [part for step in steps for part in share.draws(step, size)]
    divisor = draws.recipe.preprocess.divisor
    loader = DataLoader(
        draws,
        batch_sampler=parts,
        num_workers=workers,
        collate_fn=list,
        prefetch_factor=4 if workers else None,
    )
    step: list[Batch] = []
    for items in loader:
        images, targets, given, canvases, names, skipped = zip(*items, strict=True)
        least = (max(height for height, _ in canvases), max(width for _, width in canvases))
        batch = ImageBatch.from_tensors(list(images), divisor, least)
        own = None if given[0] is None else list(given)
        step.append(Batch(batch, list(targets), own, list(names), [note for notes in skipped for note in notes]))
        if len(step) == share.parts:
            yield step
            step = []
