"""What a training run is made of, as one typed value: a recipe is Python, not configuration text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from eachmask.data.dataset import Dataset
from eachmask.data.sample import Sample
from eachmask.data.samples import Samples
from eachmask.structures import Preprocess
from eachmask.structures.spatial import Spatial

Augment = Callable[[Sample, np.random.Generator], Sample]
Mix = Callable[[Sample, np.random.Generator, Callable[[], Sample]], Sample]
"""(sample, rng, others): makes one training sample of several; ``others()`` draws another augmented one."""
Score = Callable[[Sequence[Any], Sequence[Any]], dict[str, float]]


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the trained weights, given data and seed."""

    variant: str
    """Name of the model's variant function in ``eachmask.models``."""
    preprocess: Preprocess
    """Saved with the weights. In training ``augment`` decides the size, so only mean, std and contrast act."""
    augment: Augment
    """Draws a training sample (image float32 in 0..1) from a stored one."""
    score: Score
    """(predictions, targets) of the val images -> named fractions; ``best`` picks one of them."""
    best: str
    """Which score chooses the best weights."""
    ask: Callable[[Any], Spatial] | None = None
    """Targets of a val image -> what a user would hand over with it, for models that want something."""
    config: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of the variant function besides ``num_classes``."""
    prepare: Callable[[Dataset], Dataset] | None = None
    """Changes each annotated set before anything else, for example merges its classes."""
    start: Callable[[nn.Module], str] | None = None
    """Loads pretrained weights into the new model and says in a sentence what it did."""
    sample_weight: Callable[[Samples[Any]], Sequence[float]] | None = None
    """How often each stored sample is shown, relative to the others; all alike by default."""
    mix: Mix | None = None
    """Copy-paste, mosaic ... after ``augment``."""
    steps: int = 3000
    batch_size: int = 8
    """Images per step, over all processes and accumulated parts."""
    learning_rate: float = 1e-3
    backbone_rate: float = 0.3
    """Learning rate of ``model.encoder`` / ``model.backbone`` relative to the rest."""
    weight_decay: float = 0.01
    """Of convolution and linear weights; never of biases and normalization."""
    warmup_steps: int = 100
    drop_at: tuple[float, ...] = ()
    """Shares of the run at which the learning rate falls tenfold (step schedule); () is half a cosine."""
    frozen_stages: int | None = None
    """None trains all of the backbone; a number fixes so many of its first stages and all its batch normalization
    (2 is usual in detection). With batches of a few images this is the better choice."""
    patience: int | None = None
    """Stop after so many evaluations in a row without a better score; None never."""
    clip_norm: float = 5.0
    ema_decay: float = 0.998
    """Of the averaged weights, which are the ones that are scored and saved."""
    evaluate_every: int = 300
    license: str = ""
    """License of the weights, written into the model file."""
    decode: dict[str, Any] = field(default_factory=dict)
    """DecodeOptions saved with the weights."""
    scales: tuple[float, ...] = ()
    """See :class:`~eachmask.weights.header.ModelInfo`; when predicting."""
    tile: int | None = None
    """Largest side that is predicted in one pass, saved with the weights."""


@dataclass(frozen=True)
class Run:
    """How and where a recipe is run; nothing here should change the result by more than rounding."""

    out: Path
    """Folder of the run: checkpoints, log, curves, the model file."""
    seed: int = 0
    resume: bool = True
    """Go on from the newest checkpoint in ``out``; False refuses a folder that has one."""
    device: str = "auto"
    precision: str = "auto"
    """fp32, bf16, fp16, or auto: bf16 on GPUs that have it, else fp32."""
    accumulate: int = 1
    """Parts that a batch is computed in, one after the other, where it does not fit in memory at once."""
    workers: int = 0
    """Processes that prepare batches besides the training process."""
    checkpoint_every: int = 200
    """Steps between checkpoints; two are kept."""
    notes: dict[str, Any] = field(default_factory=dict)
    """What else belongs into the run's record: where the data came from, what was left out of it."""
    problems: Sequence[object] = ()
    """What could not be used of the data, for data-problems.txt."""
