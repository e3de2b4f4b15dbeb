"""PromptPredictor: looks at an image once, then answers clicks, boxes and words as often as one asks."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eachmask.inference.everything import Answers, Asking, Everything, EverythingConfig, everything, limited
from eachmask.inference.predictor import Predictor
from eachmask.inference.preprocessing import reduced, size_of
from eachmask.inference.stability import stable
from eachmask.models.protocol import PointPromptable
from eachmask.structures import DecodeOptions, Instances, Masks, Prompts, UserError
from eachmask.structures.soft_masks import Canvas

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

    @cached_property
    def everything_config(self) -> EverythingConfig:
        """How a model that is asked about points on a grid looks for everything."""
        return EverythingConfig(**getattr(self.model, "grid_defaults", {}))

    @property
    def finds_everything(self) -> bool:
        """Whether it can be used without prompts."""
        return isinstance(self.model, PointPromptable) or not getattr(self.model, "answers_only", False)

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
        embedding, seen = self._look(array)
        return Embedded(_moved(embedding, "cpu"), size_of(array), seen, self._key(array))

    def _look(self, array: NDArray[Any]) -> tuple[Any, tuple[int, int]]:
        """What the model knows of an image (H, W, 3), on its device, and the (height, width) that it saw."""
        small = reduced(array, self.info.preprocess)
        batch = self.engine.batch([small], [self.info.preprocess.limits(array)])
        with self.engine.autocast():
            return self.model.encode(batch), batch.sizes[0]  # type: ignore[operator]

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

    def everything(self, image: ImageLike, *, config: EverythingConfig | None = None, **wishes: Any) -> Instances:
        """All objects of an image, without a prompt; see :meth:`Predictor.predict` for what may be wished.

        Args:
            config: of a model that is asked about points on a grid (SAM and its kin): how closely to look.

        Raises:
            UserError: the model finds everything by itself, so that there is no grid to be set.
        """
        chosen = self if config is None else self.looking(config)
        found: Instances = Predictor.predict(chosen, image, **wishes)
        return found

    def looking(self, config: EverythingConfig) -> PromptPredictor:
        """The same predictor, looking for everything in another way.

        Raises:
            UserError: as :meth:`everything`.
        """
        if not isinstance(self.model, PointPromptable):
            name = self.info.name or self.info.variant
            raise UserError(f"{name} finds everything in one pass: there is no grid of points to be set")
        chosen = copy.copy(self)
        chosen.everything_config = config
        chosen.fingerprint = hashlib.sha256(f"{self.fingerprint}{config}".encode()).hexdigest()
        return chosen

    def _found(self, images: Sequence[NDArray[Any]], options: DecodeOptions, **tiling: Any) -> list[Instances]:
        """Everything: of models that are asked about points on a grid, crops take the place of tiles."""
        if not isinstance(self.model, PointPromptable):
            return super()._found(images, options, **tiling)
        found = [self.all_masks(image, options).instances() for image in images]
        return [one[: options.max_detections] for one in found]

    @torch.inference_mode()
    def all_masks(self, image: NDArray[Any], options: DecodeOptions | None = None) -> Everything:
        """What the points of the grid mean, with all that is known of the masks, of (H, W, 3) from :meth:`prepare`."""
        options = options or DecodeOptions()
        wished = options.score_threshold if options.score_threshold != self._saved_threshold else None
        config = limited(self.everything_config, wished, options.nms_threshold)
        return everything(image, self._asking, config)

    @property
    def _saved_threshold(self) -> float | None:
        """The score that came with the weights, which is that of answers to prompts."""
        return (self.info.decode or {}).get("score_threshold")

    def _asking(self, crop: NDArray[Any]) -> Asking:
        """Look at a crop (h, w, 3); the result answers points on it."""
        (embedding, seen), size = self._look(crop), size_of(crop)
        samples: Any = self.model.samples
        scale = np.array([seen[1] / size[1], seen[0] / size[0]])

        def asking(points: NDArray[np.float64], least: float) -> Answers:
            places = torch.from_numpy(points * scale).float().to(self.device)
            with self.engine.autocast():
                index, logits, ious = self.model.at_points(embedding, places, least)  # type: ignore[operator]
            grid = (int(logits.shape[1]), int(logits.shape[2]))
            return Answers(index, logits, ious, Canvas(grid, embedding.padded, seen, size, samples))

        return asking

    @torch.inference_mode()
    def stable_answers(self, image: ImageLike, prompts: Prompts) -> tuple[Instances, NDArray[np.float64]]:
        """The best answer to each prompt, as :meth:`predict`, and how stable each mask is, (N,) in 0..1.

        Raises:
            UserError: as :meth:`predict`.
        """
        embedded, options = self.embed(image), self.decode_options()
        with self.engine.autocast():
            found, stability = stable(self.model, self._said_to(embedded, prompts), options)
        return self._own(found, embedded), stability

    @torch.inference_mode()
    def _answer(self, embedded: Embedded, prompts: Prompts, options: DecodeOptions) -> Instances:
        with self.engine.autocast():
            (found,) = self.model.decode(self._said_to(embedded, prompts), options)  # type: ignore[operator]
        return self._own(found, embedded)

    def _said_to(self, embedded: Embedded, prompts: Prompts) -> Any:
        """The model's raw answer to prompts in the image's own pixels."""
        seen = prompts.resize(embedded.seen_size).to(self.device)
        return self.model.prompted(_moved(embedded.embedding, self.device), [seen])  # type: ignore[operator]

    def _own(self, found: Instances, embedded: Embedded) -> Instances:
        """What was found, in the image's own pixels."""
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
        alternatives: all answers to a lone click, the best first.
    """

    def __init__(self, predictor: PromptPredictor, prompts: Prompts, alternatives: bool = False) -> None:
        self.__dict__.update(predictor.__dict__)
        self.prompts, self.alternatives = prompts, alternatives
        said = f"{predictor.fingerprint}{_said(prompts)}{'alternatives' if alternatives else ''}"
        self.fingerprint = hashlib.sha256(said.encode()).hexdigest()

    def _found(self, images: Sequence[NDArray[Any]], options: DecodeOptions, **tiling: Any) -> list[Instances]:
        """The answer for each image (H, W, 3); tiles make no sense of prompts and are not used."""
        wishes = replace(options, alternatives=self.alternatives)
        return [self.predict(image, self.prompts, options=wishes) for image in images]


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
