"""VideoPredictor: frames in, a result for each out, with what the model remembers carried along."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import torch

from eachmask.inference.predictor import Predictor
from eachmask.inference.preprocessing import size_of
from eachmask.models.protocol import Recurrent
from eachmask.structures import DecodeOptions, Prompts, UserError

if TYPE_CHECKING:
    from eachmask.inference.predictor import ImageLike

T = TypeVar("T", bound=Any)


class VideoPredictor(Generic[T]):
    """A predictor of frames whose model is :class:`~eachmask.models.protocol.Recurrent`.

    What is remembered is a value that the caller keeps: the same predictor serves any number of videos.

    Args:
        predictor: of the model.

    Raises:
        UserError: the model remembers nothing.
    """

    def __init__(self, predictor: Predictor[T]) -> None:
        if not isinstance(predictor.model, Recurrent):
            raise UserError(f"{predictor} looks at each image by itself: a video needs a model that remembers")
        self.predictor = predictor

    @torch.inference_mode()
    def step(
        self,
        frame: ImageLike,
        state: Any = None,
        prompts: Prompts | None = None,
        *,
        options: DecodeOptions | None = None,
    ) -> tuple[T, Any]:
        """One frame.

        Args:
            state: what the step before returned; None begins a video.
            prompts: what the user says of this frame, in its own pixels, to models that listen.

        Returns:
            the result in the frame's own pixels, and what to give to the next step.

        Raises:
            UserError: the frame cannot be used, or is of another size than the video's.
        """
        predictor, engine = self.predictor, self.predictor.engine
        array = predictor.prepare(frame)
        batch = engine.batch([array], [predictor.info.preprocess.limits(array)])
        given = () if prompts is None else ([prompts.resize(batch.sizes[0]).to(engine.device)],)
        with engine.autocast():
            raw, state = engine.model.step(batch, state, *given)  # type: ignore[operator]
            (found,) = engine.model.decode(raw, predictor.decode_options(options))  # type: ignore[operator]
        result = found.to("cpu").resize(size_of(array))
        return predictor.task.with_categories(result, tuple(predictor.info.categories)), state

    def track(
        self, frames: Iterable[ImageLike], prompts: Prompts | None = None, *, options: DecodeOptions | None = None
    ) -> Iterator[T]:
        """The results of a video's frames, as they come; memory does not grow with their number.

        Args:
            prompts: what the user says of the first frame, see :meth:`step`.
        """
        state = None
        for frame in frames:
            result, state = self.step(frame, state, prompts if state is None else None, options=options)
            yield result
