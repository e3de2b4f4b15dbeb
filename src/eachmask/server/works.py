"""What a server does with requests: predict, look at an image for a session, answer prompts about it; and rest.

Works are plain values, so that they can be sent to another process; those that are equal go through the network
together. Of each request a work gets the bytes and gives the bytes, so that hardly anything travels. The process
with the connections knows works only by name: torch, half a gigabyte, is imported where they run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from numpy.typing import NDArray

from eachmask.accel.malloc import give_back_freed_memory
from eachmask.server.answers import JSON, answer, check_format, read_body
from eachmask.server.guard import Refusal
from eachmask.structures import DecodeOptions

if TYPE_CHECKING:
    from eachmask.inference.prompt_predictor import Embedded, PromptPredictor
    from eachmask.server.models import Models


class Work(Protocol):
    """Something that models do with items."""

    def run(self, models: Models, items: Sequence[Any]) -> Sequence[Any]:
        """An answer, or an exception in its place, for each item."""


@dataclass(frozen=True)
class Predict:
    """Contents of image files -> contents of answers and their media types."""

    model: str | None
    options: DecodeOptions
    classes: tuple[str, ...] = ()
    kind: str = JSON

    def run(self, models: Models, items: Sequence[bytes]) -> Sequence[Any]:
        """One answer for each image, all of whatever size."""
        predictor = models.get(self.model)
        check_format(predictor.task, self.kind)  # before anything is computed
        read = partial(read_body, max_pixels=models.settings.limits.max_pixels)
        images = each(lambda content: predictor.prepare(read(content)), items)
        good = [image for image in images if not isinstance(image, Exception)]
        options = predictor.decode_options(self.options)
        found = iter(predictor.predict_arrays(good, options=options, classes=self.classes)) if good else iter(())

        def written(image: NDArray[Any]) -> tuple[bytes, str]:
            result = next(found)
            chosen = predictor.task.choose(result, self.classes, None) if self.classes else result
            return answer(predictor, image, chosen, self.kind)

        return each(written, images)


@dataclass(frozen=True)
class Look:
    """Contents of image files -> what a client is told of the sessions about them."""

    model: str | None

    def run(self, models: Models, items: Sequence[bytes]) -> Sequence[Any]:
        """One session for each image."""
        predictor, max_pixels = models.prompted(self.model), models.settings.limits.max_pixels

        def look(content: bytes) -> dict[str, Any]:
            embedded = predictor.embed(read_body(content, max_pixels))
            height, width = embedded.image_size
            return {"session": embedded.key, "width": width, "height": height}

        return each(look, items)


@dataclass(frozen=True)
class Ask:
    """Sessions, each with the arguments of its :class:`Prompts` -> contents of answers and their media types."""

    model: str | None
    options: DecodeOptions

    def run(self, models: Models, items: Sequence[tuple[str, dict[str, Any]]]) -> Sequence[Any]:
        """One answer for each."""
        from eachmask.structures import Prompts

        predictor = models.prompted(self.model)

        def ask(item: tuple[str, dict[str, Any]]) -> tuple[bytes, str]:
            known = _recalled(predictor, item[0])
            found = predictor.predict(known, Prompts(known.image_size, **item[1]), options=self.options)
            return answer(predictor, _blank(known), found, JSON)

        return each(ask, items)


@dataclass(frozen=True)
class Rest:
    """Nothing -> nothing; memory that the last images left free goes back to the system."""

    def run(self, models: Models, items: Sequence[Any]) -> Sequence[Any]:
        """No answer."""
        give_back_freed_memory()
        return ()


def each(function: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
    """Of each item the function's value, or what it raised; an exception among the items stays what it is.

    >>> each(lambda item: 6 // item, [3, 0, KeyError("a")])
    [2, ZeroDivisionError('integer division or modulo by zero'), KeyError('a')]
    """

    def value(item: Any) -> Any:
        if isinstance(item, Exception):
            return item
        try:
            return function(item)
        except Exception as error:
            return error

    return [value(item) for item in items]


def _recalled(predictor: PromptPredictor, session: str) -> Embedded:
    """What the model saw in a session.

    Raises:
        Refusal: it is not there any more.
    """
    known = None
    if predictor.cache is not None and len(session) == 64 and session.isalnum():
        known = predictor.cache.get(session)
    if known is None:
        raise Refusal(404, "there is no such session, or its image was forgotten: send the image again")
    return known


def _blank(embedded: Embedded) -> Any:
    """An image of that size: what is written of prompted objects measures no gray values."""
    import numpy as np

    return np.zeros((*embedded.image_size, 3), np.uint8)
