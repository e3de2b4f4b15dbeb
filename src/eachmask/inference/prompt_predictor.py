"""PromptPredictor: looks at an image once, then answers clicks, boxes and words as often as one asks."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eachmask.inference.predictor import Predictor
from eachmask.inference.preprocessing import reduced, size_of
from eachmask.structures import DecodeOptions, Instances, Masks, Prompts, UserError

if TYPE_CHECKING:
    from eachmask.inference.embedding_cache import EmbeddingCache
    from eachmask.inference.predictor import ImageLike
    from eachmask.inference.session import Session


@dataclass(frozen=True, eq=False)
class Embedded:
    """An image that a model has looked at: immutable, and can be pickled and kept on disk."""

    embedding: Any = field(repr=False)
    """What the model's ``encode`` gave, on the CPU."""
    image_size: tuple[int, int]
    """(height, width) of the image that it was made from."""
    seen_size: tuple[int, int]
    """(height, width) of the image as the network saw it."""
    key: str
    """Of the model's weights and the image's content: equal exactly where the embedding is."""


class PromptPredictor(Predictor[Instances]):
    """A predictor whose model is :class:`~eachmask.models.protocol.Promptable`; ``load`` gives it for such models.

    ``predictor.predict(image, prompts)`` answers prompts; without prompts it is :meth:`everything`.
    """

    cache: EmbeddingCache | None = None
    """Where :meth:`embed` keeps what it saw of images; nowhere by default."""

    def look_at(self, image: ImageLike) -> Session:
        """Look at an image once, to ask about it as often as one likes.

        Raises:
            UserError: no image, or a shape, type or value out of range.
        """
        from eachmask.inference.session import Session

        return Session(self, self.embed(image), image)

    def embed(self, image: ImageLike) -> Embedded:
        """Look at an image once; :meth:`predict` then takes the answer in the image's place.

        Raises:
            UserError: no image, or a shape, type or value out of range.
        """
        array = self.prepare(image)
        if self.cache is None:
            return self._embed(array)
        known = self.cache.get(self._key(array))
        if known is None:
            known = self._embed(array)
            self.cache.put(known)
        return known

    @torch.inference_mode()
    def _embed(self, array: NDArray[Any]) -> Embedded:
        small = reduced(array, self.info.preprocess)
        batch = self.engine.batch([small], [self.info.preprocess.limits(array)])
        with self.engine.autocast():
            embedding = self.model.encode(batch)  # type: ignore[operator]
        return Embedded(_moved(embedding, "cpu"), size_of(array), batch.sizes[0], self._key(array))

    def predict(  # type: ignore[override]
        self,
        image: ImageLike | Embedded,
        prompts: Prompts | None = None,
        *,
        options: DecodeOptions | None = None,
        score: float | None = None,
        classes: Sequence[str] = (),
        **everything: Any,
    ) -> Any:
        """The objects that are meant.

        Args:
            image: as :meth:`Predictor.predict` takes it, or what :meth:`embed` gave.
            prompts: in the image's own pixels; None asks for everything.
            options, score, classes: as :meth:`Predictor.predict` takes them.
            everything: further arguments of :meth:`Predictor.predict`, where there are no prompts.

        Returns:
            Instances in the image's own pixels, the best answer first.

        Raises:
            UserError: prompts of an image of another size, or an image that cannot be used.
        """
        if prompts is None:
            if isinstance(image, Embedded):
                raise UserError("an embedded image needs prompts: give the image itself to find everything in it")
            return super().predict(image, options=options, score=score, classes=classes, **everything)
        if everything:
            raise UserError(f"prompts are answered on the whole image: leave out {' and '.join(everything)}")
        if score is not None:
            options = replace(options or DecodeOptions(), score_threshold=score)
        classes = [classes] if isinstance(classes, str) else classes
        embedded = image if isinstance(image, Embedded) else self.embed(image)
        if prompts.image_size != embedded.image_size:
            (height, width), (own_height, own_width) = prompts.image_size, embedded.image_size
            raise UserError(
                f"the prompts are for an image of {width} x {height} pixels, but this one has "
                f"{own_width} x {own_height}: give them in its own pixels"
            )
        found = self._answer(embedded, prompts, self.decode_options(options))
        if not isinstance(image, Embedded):
            return self._finished([image], [found], classes)[0]
        return self.task.choose(found, classes, None) if classes else found

    __call__ = predict  # type: ignore[assignment]

    def everything(self, image: ImageLike, **wishes: Any) -> Instances:
        """All objects of an image, without a prompt; see :meth:`Predictor.predict` for what may be wished."""
        found: Instances = super().predict(image, **wishes)
        return found

    @torch.inference_mode()
    def _answer(self, embedded: Embedded, prompts: Prompts, options: DecodeOptions) -> Instances:
        embedding = _moved(embedded.embedding, self.device)
        seen = prompts.resize(embedded.seen_size).to(self.device)
        with self.engine.autocast():
            raw = self.model.prompted(embedding, [seen])  # type: ignore[operator]
            (found,) = self.model.decode(raw, options)  # type: ignore[operator]
        return self.task.with_categories(found.to("cpu").resize(embedded.image_size), self.info.categories)

    def _key(self, image: NDArray[Any]) -> str:
        digest = hashlib.sha256(f"{self.fingerprint}{image.shape}{image.dtype}".encode())
        digest.update(np.ascontiguousarray(image).tobytes())
        return digest.hexdigest()


class PromptedPredictor(PromptPredictor):
    """A prompt predictor that answers the same prompts for every image, so that all that takes predictors takes it.

    Args:
        predictor: what answers.
        prompts: in pixels of the images, which must all have their size.
    """

    def __init__(self, predictor: PromptPredictor, prompts: Prompts) -> None:
        self.__dict__.update(predictor.__dict__)
        self.prompts = prompts
        self.fingerprint = hashlib.sha256(f"{predictor.fingerprint}{_said(prompts)}".encode()).hexdigest()

    def _found(self, images: Sequence[NDArray[Any]], options: DecodeOptions, **tiling: Any) -> list[Instances]:
        """The answer for each image (H, W, 3); tiles make no sense of prompts and are not used."""
        return [self.predict(image, self.prompts, options=options) for image in images]


def _said(prompts: Prompts) -> str:
    """All that prompts say, as a text: equal for equal prompts, also in another process."""
    return json.dumps({name: _plain(value) for name, value in vars(prompts).items()}, sort_keys=True)


def _plain(value: Any) -> Any:
    """Tensors and masks as lists and texts."""
    if isinstance(value, Tensor):
        return value.tolist()
    if isinstance(value, Masks):
        return value.to_rle().to_coco()
    return [_plain(item) for item in value] if isinstance(value, tuple | list) else value


def _moved(value: Any, device: torch.device | str) -> Any:
    """Tensors, and whatever has a ``to``, in tuples, lists and dicts, on another device."""
    if hasattr(value, "to"):
        return value.to(device)
    if isinstance(value, dict):
        return {key: _moved(item, device) for key, item in value.items()}
    if isinstance(value, tuple | list):
        items = [_moved(item, device) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    return value
