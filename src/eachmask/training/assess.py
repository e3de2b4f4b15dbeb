"""How good the weights of a run are on its val images: the same predictions that a user of the model file gets."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from eachmask.data.images.read import unit_range
from eachmask.data.samples import Samples
from eachmask.inference.predictor import Predictor
from eachmask.inference.prompt_predictor import PromptPredictor
from eachmask.structures import UserError
from eachmask.tasks.task import Task

T = TypeVar("T", bound=Any)
Score = Callable[[Sequence[T], Sequence[T]], dict[str, float]]


@dataclass(frozen=True)
class Assessment(Generic[T]):
    """What was found in the val images, and what it is worth."""

    task: Task[T]
    scores: dict[str, float]
    found: dict[int, T]
    """By index of the image, everything that the network ranks; images that cannot be read are left out."""
    decode: dict[str, Any]
    """Decode settings for users: the recipe's, or else those that suit these predictions best."""

    def shown(self, index: int) -> T:
        """What a user would be shown of one image."""
        score = self.decode.get("score_threshold")
        return self.found[index] if score is None else self.task.shown(self.found[index], score)


def assess(
    predictor: Predictor[T],
    data: Samples[T],
    score: Score[T],
    decode: dict[str, Any],
    ask: Callable[[T], Any] | None = None,
) -> Assessment[T]:
    """Predict all val images as a user would, with what is given beside them, and measure.

    Args:
        score: (predictions, targets) -> measures.
        decode: settings that the recipe fixes; a score threshold that it leaves open is chosen here.
        ask: an image's targets -> what a user would hand over with it.

    Raises:
        UserError: not one image can be read.
    """
    options = predictor.ranked_options()
    found: dict[int, T] = {}
    targets: list[T] = []
    with warnings.catch_warnings():
        # That an image may hold more objects is said to users of the model.
        warnings.simplefilter("ignore", UserWarning)
        for i in range(len(data)):
            with contextlib.suppress(UserError):  # an image that cannot be read is named at the end of the run
                sample = data[i]
                image = unit_range(sample.image)
                own: Any = sample.given if ask is None else ask(sample.targets)
                if isinstance(predictor, PromptPredictor):
                    result: Any = predictor.predict(image, own, options=options)
                else:
                    given = None if own is None else [own]
                    (result,) = predictor.predict_arrays([image], given=given, options=options)
                found[i] = predictor.task.packed(result)
                targets.append(sample.targets)
    if not targets:
        raise UserError("there is not one val image that can be read")
    predictions = list(found.values())
    if "score_threshold" not in decode:
        decode = predictor.task.scoring.calibrate(predictions, targets) | decode
    return Assessment(predictor.task, score(predictions, targets), found, decode)
