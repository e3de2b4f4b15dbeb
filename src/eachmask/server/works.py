"""What a server does with images: predict, look at one for a session, answer prompts about it.

Each is a :class:`~eachmask.server.batcher.Work`: requests whose works are equal go through the network together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from eachmask.inference.predictor import Predictor
from eachmask.inference.prompt_predictor import Embedded, PromptPredictor
from eachmask.structures import DecodeOptions, Instances, Prompts


@dataclass(frozen=True)
class Predict:
    """Images (H, W, 3) -> the results of one model, asked in one way."""

    predictor: Predictor[Any]
    options: DecodeOptions
    classes: tuple[str, ...] = ()

    def run(self, items: Sequence[NDArray[Any]]) -> Sequence[Any]:
        """One result for each image, all of whatever size."""
        found = self.predictor.predict_arrays(items, options=self.options, classes=self.classes)
        return [self.predictor.task.choose(result, self.classes, None) for result in found] if self.classes else found


@dataclass(frozen=True)
class Look:
    """Images (H, W, 3) -> what a model that takes prompts saw of them."""

    predictor: PromptPredictor

    def run(self, items: Sequence[NDArray[Any]]) -> Sequence[Embedded]:
        """One embedding for each image."""
        return [self.predictor.embed(image) for image in items]


@dataclass(frozen=True)
class Answer:
    """Embedded images with prompts -> the objects that are meant."""

    predictor: PromptPredictor
    options: DecodeOptions

    def run(self, items: Sequence[tuple[Embedded, Prompts]]) -> Sequence[Instances]:
        """One result for each."""
        return [self.predictor.predict(embedded, prompts, options=self.options) for embedded, prompts in items]
