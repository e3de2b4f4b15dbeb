"""Session: one image that was looked at, and a conversation about it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch

from eachmask.inference.view import ImageView
from eachmask.structures import DecodeOptions, Instances, Masks, Prompts, UserError

if TYPE_CHECKING:
    from eachmask.inference.predictor import ImageLike
    from eachmask.inference.prompt_predictor import Embedded, PromptPredictor


@dataclass(eq=False)
class Session:
    """An image that a model has looked at; ``predictor.look_at(image)`` begins one. It can be pickled.

    ``session.predict(prompts)`` answers as often as one likes; ``session.correct(prompts)`` does so in view of the
    answer before.
    """

    predictor: PromptPredictor
    embedded: Embedded
    image: ImageLike = field(repr=False)
    last: Instances | None = None
    """The latest answer."""

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width), px."""
        return self.embedded.image_size

    def predict(
        self,
        prompts: Prompts,
        *,
        alternatives: bool = False,
        previous: Instances | None = None,
        options: DecodeOptions | None = None,
        score: float | None = None,
    ) -> Instances:
        """The objects that are meant.

        Args:
            prompts: in the image's own pixels; several objects are answered at once.
            alternatives: all answers of each object (whole, part, subpart) and not only the best one.
            previous: an earlier answer that these prompts correct: all points so far and the new ones. Where it has
                several answers of an object (``track_ids``), the first counts.
            options, score: as :meth:`Predictor.predict` takes them.

        Returns:
            object by object (``track_ids`` are their numbers), the answer of the best predicted IoU first.

        Raises:
            UserError: prompts of an image of another size, or that the model does not understand.
        """
        if previous is not None:
            prompts = in_view_of(prompts, previous)
        if alternatives:
            options = replace(options or DecodeOptions(), alternatives=True)
        found = self.predictor.predict(self.embedded, prompts, options=options, score=score)
        self.last = replace(found, view=ImageView(self.image, self.predictor.task))
        return self.last

    def correct(self, prompts: Prompts, **wishes: Any) -> Instances:
        """:meth:`predict` in view of the latest answer.

        Raises:
            UserError: there is no answer yet, or as :meth:`predict`.
        """
        if self.last is None:
            raise UserError("there is no answer to correct yet: ask with session.predict(prompts) first")
        return self.predict(prompts, previous=self.last, **wishes)


def in_view_of(prompts: Prompts, previous: Instances) -> Prompts:
    """Prompts with an earlier answer as their rough masks, object by object.

    Raises:
        UserError: it is of another image, or the prompts have rough masks already.
    """
    if prompts.masks is not None:
        raise UserError("prompts with rough masks of their own cannot have an earlier answer besides")
    if previous.image_size != prompts.image_size:
        raise UserError("the earlier answer is about an image of another size")
    numbers = torch.arange(len(previous)) if previous.track_ids is None else previous.track_ids.cpu()
    first: dict[int, int] = {}
    for place, number in enumerate(numbers.tolist()):
        first.setdefault(number, place)
    known = [number for number in range(len(prompts)) if number in first]
    if previous.masks is None or not known:
        return prompts
    masks: Masks = previous.masks[[first[number] for number in known]]
    return replace(prompts, masks=masks, mask_objects=torch.tensor(known))
