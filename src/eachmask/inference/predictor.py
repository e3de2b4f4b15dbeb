"""Predictor: an image in, a result in that image's own pixels out."""

from __future__ import annotations

import copy
import hashlib
import json
import warnings
from collections.abc import Sequence, Sized
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar, cast, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from eachmask.data.images.read import as_array, read_image, unit_range
from eachmask.inference.arguments import (
    check_diameter,
    check_suppression,
    image_type,
    names_of,
    several,
    tile_side,
    url_read,
)
from eachmask.inference.devices import PRECISIONS
from eachmask.inference.engine import Engine, Look, TileListener, TileStore, unheard
from eachmask.inference.view import ImageView
from eachmask.structures import Category, DecodeOptions, UserError
from eachmask.structures.spatial import Spatial
from eachmask.tasks.task import Task

if TYPE_CHECKING:
    from PIL import Image

    from eachmask.models.crop_classifier import CropClassifier
    from eachmask.weights.file import ModelInfo

    ImageLike = str | Path | NDArray[Any] | torch.Tensor | Image.Image

T = TypeVar("T", bound=Any)
MIN_TILE_SIDE = 64
"""Of tiles that follow the size of objects, px."""


class Predictor(Generic[T]):
    """A model with all it needs to look at images; a plain callable that can be pickled.

    Args:
        model: see :class:`eachmask.models.protocol.Model`.
        info: its preprocessing, categories, default tile size and decoding.
        device, precision, optimize, in_place: see :class:`~eachmask.inference.engine.Engine`.
        classifier: gives the objects narrower names than their classes'.

    Raises:
        UserError: unknown or absent device, unknown precision.

    >>> import eachmask
    >>> predictor = eachmask.load("nuclei", device="cpu", precision="fp32")
    >>> dark = np.zeros((48, 64, 3), np.uint8)
    >>> [len(found) for found in predictor.predict([dark, dark], score=0.5)]
    [0, 0]
    """

    def __init__(
        self,
        model: nn.Module,
        info: ModelInfo,
        *,
        device: str = "auto",
        precision: str = "auto",
        optimize: bool = True,
        classifier: CropClassifier | None = None,
        in_place: bool = False,
    ) -> None:
        from eachmask.backbones.fuse import optimize_for_inference

        self.info = info
        self.task = cast("Task[T]", model.task)
        self.fingerprint = _fingerprint(model, info, classifier)
        self.engine: Engine[T] = Engine(
            model, info.preprocess, self.task, device=device, precision=precision, optimize=optimize, in_place=in_place
        )
        if classifier is not None:
            if optimize:
                classifier = cast("CropClassifier", optimize_for_inference(classifier, in_place=in_place))
            classifier = classifier.eval().requires_grad_(False).to(self.device)
        self.classifier = classifier
        self._warned = False
        if info.scales:
            self.engine = self.multi_scale(info.scales).engine

    @property
    def model(self) -> nn.Module:
        """The network as it runs."""
        return self.engine.model

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return self.engine.device

    @property
    def dtype(self) -> torch.dtype:
        """What it computes in; boxes and scores are always float32."""
        return self.engine.dtype

    @overload
    def predict(
        self,
        image: ImageLike,
        *,
        options: DecodeOptions | None = ...,
        score: float | None = ...,
        classes: Sequence[str] = ...,
        tile: int | None = ...,
        overlap: float = ...,
        stride: int | None = ...,
    ) -> T: ...
    @overload
    def predict(
        self,
        image: list[ImageLike] | tuple[ImageLike, ...],
        *,
        options: DecodeOptions | None = ...,
        score: float | None = ...,
        classes: Sequence[str] = ...,
        tile: int | None = ...,
        overlap: float = ...,
        stride: int | None = ...,
        progress: bool = ...,
    ) -> list[T]: ...

    def predict(
        self,
        image: Any,
        *,
        options: DecodeOptions | None = None,
        score: float | None = None,
        classes: Sequence[str] = (),
        tile: int | None = None,
        overlap: float = 0.2,
        stride: int | None = None,
        progress: bool = False,
    ) -> T | list[T]:
        """Find what is in one image, or in each of a list.

        Args:
            image: a path; an http(s) address (of at most 50 MB); an array (H, W), (H, W, 1 | 3 | 4), RGB, of uint8,
                uint16 or floats in 0..1; a tensor (C, H, W) or (H, W) likewise; a PIL image; or a list of these. A
                folder or a pattern ('cells/*.png') is the list of its images, sorted.
            options: thresholds and limits; what is None in it is the model's own.
            score: short for ``DecodeOptions(score_threshold=score)``.
            classes: keep only these, by name; the name of a class above others means all of them.
            tile: side in pixels of the overlapping squares that a larger image is predicted in; None is the
                model's own choice, 0 is never.
            overlap: share of a tile that its neighbor sees too, 0..0.5 (exclusive).
            stride: of label maps, instead of ``overlap``: pixels from one tile to the next, the last one pulled back to
                the border; where tiles overlap their scores are averaged plainly, as MMSegmentation's slide mode does.
            progress: of a list, show a bar with the time left once two seconds have passed.

        Returns:
            the result (:class:`~eachmask.structures.Instances` of most models) in pixels of the image as it is seen
            (EXIF applied), best score first, with categories. Of a list, None stands for a file that cannot be read,
            and a warning names it.

        Raises:
            UserError: no image (of a list: not one), or a shape, type or option out of range.
        """
        if score is not None:
            options = replace(options or DecodeOptions(), score_threshold=score)
        wishes: dict[str, Any] = {"options": options, "tile": tile, "overlap": overlap, "stride": stride}
        if classes:
            classes = names_of(classes)
            wishes["classes"] = classes
        image = several(image)
        if not isinstance(image, list | tuple):
            return self._finished([image], self.predict_arrays([self.prepare(image)], **wishes), classes)[0]
        return self._each(image, wishes, classes, progress)

    __call__ = predict

    def _each(self, images: Sequence[Any], wishes: dict[str, Any], classes: Sequence[str], progress: bool) -> list[T]:
        """The result of each image of a list; None for a file that cannot be read, which a warning names."""
        read: dict[int, Any] = {}
        found: list[T] = []
        problems: list[UserError] = []

        def prepare(number: int) -> list[NDArray[Any]]:
            try:
                read[number] = url_read(images[number])
                return [self.prepare(read[number])]
            except UserError as error:
                if not isinstance(images[number], str | Path):
                    raise
                read.pop(number, None)
                problems.append(error)
                return []

        if progress:
            from eachmask.files.progress import bar_after_a_while

            with bar_after_a_while() as bar:
                for number in bar("predicting", range(len(images))):
                    found += self.predict_arrays(prepare(number), **wishes)
        else:
            found = self.predict_arrays([array for number in range(len(images)) for array in prepare(number)], **wishes)
        if problems and not read:
            raise problems[0]
        for problem in problems:
            warnings.warn(f"no result, None in the list: {problem}", stacklevel=3)
        results = dict(zip(read, self._finished(list(read.values()), found, classes), strict=True))
        return [cast(T, results.get(number)) for number in range(len(images))]

    def predict_arrays(
        self,
        images: Sequence[NDArray[Any]],
        *,
        given: Sequence[Spatial] | None = None,
        options: DecodeOptions | None = None,
        tile: int | None = None,
        overlap: float = 0.2,
        stride: int | None = None,
        classes: Sequence[str] = (),
        on_tile: TileListener = unheard,
        stores: Sequence[TileStore[T] | None] | None = None,
    ) -> list[T]:
        """:meth:`predict` for (H, W, 3) arrays from :meth:`prepare`; those of one size go in one batch.

        ``given`` is what a user hands over with each image (a trimap, a clean background), in its pixels. ``classes``
        are names that are asked for: unsure objects may get them. All objects are returned. ``on_tile`` hears of the
        tiles of large images, and ``stores`` keep them, one store for each image.
        """
        tile = self.tile_size(tile, overlap, stride)
        options = self.decode_options(options)
        tiling: dict[str, Any] = {
            "tile": tile,
            "overlap": overlap,
            "stride": stride,
            "on_tile": on_tile,
            "stores": stores,
        }
        found = self._found(images, options, **tiling, **({} if given is None else {"given": given}))
        return [self._named(image, result, classes) for image, result in zip(images, found, strict=True)]

    def _found(self, images: Sequence[NDArray[Any]], options: DecodeOptions, **tiling: Any) -> list[T]:
        """What the network finds; subclasses may look in another way."""
        return self.engine.predict(images, options, on_pass=partial(self._warn_if_full, options), **tiling)

    def _finished(self, images: Sequence[ImageLike], found: Sequence[T], classes: Sequence[str]) -> list[T]:
        """Of the chosen classes, and able to show themselves."""
        chosen = [self.task.choose(result, classes, None) for result in found] if classes else found
        return [replace(result, view=ImageView(i, self.task)) for i, result in zip(images, chosen, strict=True)]

    def prepare(self, image: ImageLike) -> NDArray[Any]:
        """Anything that :meth:`predict` takes -> (H, W, 3)."""
        if isinstance(image, str | Path):
            return unit_range(read_image(image))
        array = as_array(image)
        stretches = self.info.preprocess.contrast != "range"
        if array.dtype.kind == "f" and not stretches and (unit_range(array) is not array):
            if not np.isfinite(array).all():
                raise UserError("a float image must lie in 0..1, but this one holds NaN or infinity: fill those pixels")
            kind = "a float image" if image_type(image).startswith("float") else f"an image of {image_type(image)}"
            raise UserError(
                f"{kind} must lie in 0..1, but this one goes from {array.min():g} to {array.max():g}: "
                "divide it by its full scale, or convert it to uint8 or uint16"
            )
        return array

    def decode_options(self, options: DecodeOptions | None = None) -> DecodeOptions:
        """The user's wishes, filled up with what is saved with the weights."""
        saved = DecodeOptions(**(self.info.decode or {}))
        if options is None:
            return saved
        if not isinstance(options, DecodeOptions):
            raise UserError(f"options must be DecodeOptions(...), not {type(options).__name__}")
        check_suppression(self.model, self.info, options)
        missing = {k: getattr(saved, k) for k, v in asdict(options).items() if v is None}
        return replace(options, **missing)

    def ranked_options(self) -> DecodeOptions:
        """For measuring: the network's own score threshold instead of the higher one from which objects are shown.

        Average precision goes down the list of all detections by score; without its end it comes out too small.
        """
        own = getattr(getattr(self.model, "config", None), "score_threshold", 0.0)
        saved = DecodeOptions(**(self.info.decode or {}))
        return self.decode_options(DecodeOptions(score_threshold=own, paste=saved.paste))

    def decoding(self, **choices: Any) -> Self:
        """The same predictor with other :class:`~eachmask.structures.DecodeOptions` as the model's own.

        Raises:
            UserError: an option out of its range, or one that means nothing to the model.
        """
        self.decode_options(DecodeOptions(**choices))
        other = copy.copy(self)
        other.info = replace(self.info, decode=(self.info.decode or {}) | choices)
        return other

    def at_diameter(self, diameter: float) -> Self:
        """The same predictor, for objects of another size: images are resized so that they look as large as those
        that it learnt from (as Cellpose does).

        Args:
            diameter: typical diameter of the objects, px of the images, from 1.

        Raises:
            UserError: the diameter is out of range, or the model does not say how large its objects were.
        """
        preprocess = self.info.preprocess.magnified(check_diameter(self.info, diameter) / diameter)
        tile = self.info.tile
        if tile is not None:  # as many of the network's pixels as before
            tile = max(MIN_TILE_SIDE, round(tile * self.info.preprocess.magnification / preprocess.magnification))
        other = copy.copy(self)
        other.info = replace(self.info, preprocess=preprocess, tile=tile)
        other.engine = copy.copy(self.engine)
        other.engine.preprocess = preprocess
        other.fingerprint = hashlib.sha256(f"{self.fingerprint} {diameter}".encode()).hexdigest()
        return other

    def multi_scale(self, scales: Sequence[float] = (1.0,), flip: bool = False) -> Self:
        """The same predictor, which looks at every image several times: label maps are averaged, objects are joined
        (:func:`~eachmask.ops.looks.join_looks`).

        Args:
            scales: at these sizes, as shares of the usual one.
            flip: also at the mirror image.

        Raises:
            UserError: the model predicts neither, sees every image at one size, or a scale is out of range.
        """
        from eachmask.inference.several_looks import SeveralLooks, check_looks

        model = self.model.model if isinstance(self.model, SeveralLooks) else self.model
        check_looks(type(model), scales, self.info.preprocess)
        other = copy.copy(self)
        other.engine = copy.copy(self.engine)
        if self.task.join is None:
            other.engine.model = SeveralLooks(model, scales, flip, self.info.preprocess.divisor)
        else:
            other.engine.looks = tuple(Look(s, m) for m in ((False, True) if flip else (False,)) for s in scales)
        looks = f"{self.fingerprint} {sorted(scales)} {flip}"
        other.fingerprint = hashlib.sha256(looks.encode()).hexdigest()
        return other

    def tile_size(self, tile: int | None = None, overlap: float = 0.2, stride: int | None = None) -> int:
        """The tile side that a request means: 0 is no tiles."""
        return tile_side(self.info, self.task, tile, overlap, stride)

    # How

    @property
    def categories(self) -> tuple[Category, ...]:
        """All that an object may be: the detector's classes and the narrower ones of its classifier."""
        wide = tuple(self.info.categories)
        return wide if self.classifier is None else self.classifier.categories(wide)

    def _named(self, image: NDArray[Any], result: T, classes: Sequence[str]) -> T:
        result = self.task.with_categories(result, tuple(self.info.categories))
        if self.classifier is None:
            return result
        return cast(T, self.classifier.name(image, result, self.info.preprocess.limits(image), classes))

    def _warn_if_full(self, options: DecodeOptions, found: Sequence[T]) -> None:
        """Once, where there may be more objects: as many as may be returned were found, or more are asked for than the
        network can find."""
        if self._warned:
            return
        asked, own = options.max_detections, getattr(self.model, "max_objects", None)
        limit = getattr(getattr(self.model, "config", None), "max_detections", None) if asked is None else None
        if asked is not None and own is not None and asked > own:
            text = f"{asked} objects were asked for, but this model finds at most {own} in an image or tile: use tiles"
        elif limit is not None and any(isinstance(result, Sized) and len(result) >= limit for result in found):
            text = (
                f"the model found its maximum of {limit} objects in an image or tile, so there may be more: raise "
                "--max-detections (DecodeOptions.max_detections) or use smaller tiles"
            )
        else:
            return
        self._warned = True
        warnings.warn(f"{text} (--tile)", stacklevel=2)

    def __getstate__(self) -> dict[str, Any]:
        """Weights travel in main memory, so that a process without this GPU can take them."""
        state = self.__dict__.copy()
        if self.device.type != "cpu" and self.classifier is not None:
            state["classifier"] = copy.deepcopy(self.classifier).cpu()
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self.classifier is not None:
            self.classifier.to(self.device)

    def __repr__(self) -> str:
        own = next(name for name, dtype in PRECISIONS.items() if dtype == self.dtype)
        precision = getattr(self.model, "exported_precision", own)
        return f"Predictor({self.info.name or self.info.variant}, {self.device}, {precision})"


def _fingerprint(model: nn.Module, info: ModelInfo, classifier: CropClassifier | None) -> str:
    """SHA-256 of weights and settings: equal exactly where the predictions are."""
    digest = hashlib.sha256()
    settings = {
        "variant": info.variant,
        "config": info.config,
        "preprocess": info.preprocess.to_dict(),
        "categories": [[c.id, c.name] for c in info.categories],
        "decode": info.decode,
        **({"scales": info.scales} if info.scales else {}),
        "crop_classifier": None if classifier is None else classifier.config.to_dict(),
    }
    digest.update(json.dumps(settings, sort_keys=True, default=str).encode())
    tensors = model.state_dict() | (
        {} if classifier is None else {f"crop_classifier.{k}": v for k, v in classifier.state_dict().items()}
    )
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
