"""Mattes for people who have images: what models need besides the image is given once for all of them, or made of the
masks that a model of objects finds; and the foreground gets its own colors."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from eachmask.inference.predictor import Predictor
from eachmask.inference.preprocessing import size_of
from eachmask.ops.matting import own_colors
from eachmask.structures import DecodeOptions, Instances, Masks, Matte, Preprocess, Trimap, UserError
from eachmask.structures.backdrop import Backdrop
from eachmask.tasks.matting import matting_onto


class MattePredictor(Predictor[Matte]):
    """A predictor of mattes that is handed the same trimap, background or nothing with every image.

    Args:
        predictor: of a matting model.
        given: what the model takes, in pixels of the images, which must all have its size.
        onto: images (H, W, 3) uint8 of any size that results are also put before.

    Raises:
        UserError: the model makes no mattes, or takes something else.
    """

    def __init__(
        self, predictor: Predictor[Any], given: Trimap | Backdrop | None = None, onto: NDArray[np.uint8] | None = None
    ) -> None:
        takes = getattr(predictor.model, "takes", None)
        name = predictor.info.name or predictor.info.variant
        if predictor.task.target is not Matte:
            raise UserError(f"{name} makes no mattes: `eachmask models --variants` lists modnet and others that do")
        if given is not None and (takes is None or not isinstance(given, takes)):
            raise UserError(f"{name} takes {_article(takes)}, not {_article(type(given))}")
        if given is None and takes is not None and type(self) is MattePredictor:
            raise UserError(f"{name} wants {_article(takes)} with the image: give --{_OPTIONS[takes]}")
        self.__dict__.update(predictor.__dict__)
        self.given, self.task = given, matting_onto(onto)
        self.fingerprint = hashlib.sha256(
            b"".join([predictor.fingerprint.encode(), _bytes_of(given), b"" if onto is None else onto.tobytes()])
        ).hexdigest()

    def _found(self, images: Sequence[NDArray[Any]], options: DecodeOptions, **tiling: Any) -> list[Matte]:
        """With the foreground's own colors."""
        return [colored(image, self._matte(image, options, tiling)) for image in images]

    def _matte(self, image: NDArray[Any], options: DecodeOptions, tiling: dict[str, Any]) -> Matte:
        return self._solved(image, self.given, tiling)

    def _solved(self, image: NDArray[Any], given: Trimap | Backdrop | None, tiling: dict[str, Any]) -> Matte:
        if given is not None and given.image_size != size_of(image):
            (height, width), (own_height, own_width) = given.image_size, size_of(image)
            what = _OPTIONS[type(given)]
            raise UserError(
                f"the {what} has {width} x {height} px and the image {own_width} x {own_height}: they must be alike"
            )
        tile = {name: tiling[name] for name in ("tile", "overlap") if name in tiling}
        own = None if given is None else [given]
        return self.engine.predict([image], DecodeOptions(), given=own, **tile)[0]


class BandPredictor(MattePredictor):
    """Masks become a trimap, and that becomes a matte.

    Args:
        predictor: of a model that takes trimaps.
        band: reach of what is unknown to either side of an outline, a share of the root of the object's area.
        onto: as of :class:`MattePredictor`.

    Raises:
        UserError: the model takes no trimaps.
    """

    def __init__(self, predictor: Predictor[Any], band: float = 0.05, onto: NDArray[np.uint8] | None = None) -> None:
        super().__init__(predictor, onto=onto)
        self.band = band
        if getattr(predictor.model, "takes", None) is not Trimap:
            raise UserError(f"{predictor.info.name or predictor.info.variant} makes nothing of masks: take closed_form")

    def of_masks(self, image: NDArray[Any], masks: Masks) -> Matte:
        """The matte of an image (H, W, 3) whose objects have these masks, with the foreground's own colors."""
        return colored(image, self._of_masks(image, masks))

    def _of_masks(self, image: NDArray[Any], masks: Masks) -> Matte:
        return self._solved(image, Trimap.from_mask(masks, self.band), {})


class CutPredictor(BandPredictor):
    """Objects are found, their masks become a trimap, and that becomes a matte.

    Args:
        finder: finds objects with masks.
        predictor, band: as of :class:`BandPredictor`.
        classes: only objects of these.
        onto: as of :class:`MattePredictor`.
    """

    def __init__(
        self,
        finder: Predictor[Instances],
        predictor: Predictor[Any],
        band: float = 0.05,
        classes: Sequence[str] = (),
        onto: NDArray[np.uint8] | None = None,
    ) -> None:
        super().__init__(predictor, band, onto)
        self.finder, self.classes = finder, tuple(classes)
        said = f"{self.fingerprint}{finder.fingerprint}{band}{self.classes}"
        self.fingerprint = hashlib.sha256(said.encode()).hexdigest()

    @property
    def categories(self) -> Any:
        return self.finder.categories

    def decode_options(self, options: DecodeOptions | None = None) -> DecodeOptions:
        return self.finder.decode_options(options)

    def tile_size(self, tile: int | None = None, overlap: float = 0.2, stride: int | None = None) -> int:
        return self.finder.tile_size(tile, overlap, stride)

    def _matte(self, image: NDArray[Any], options: DecodeOptions, tiling: dict[str, Any]) -> Matte:
        tile = {name: tiling[name] for name in ("tile", "overlap", "on_tile") if name in tiling}
        (found,) = self.finder.predict_arrays([image], options=options, classes=self.classes, **tile)
        if self.classes:
            found = self.finder.task.choose(found, self.classes, options.max_detections)
        if found.masks is None or not len(found):
            return Matte(torch.zeros(size_of(image)))
        return self._of_masks(image, found.masks.to_rle())


_OPTIONS: dict[Any, str] = {Trimap: "trimap", Backdrop: "background"}


def check_alone(network: Any, name: str) -> None:
    """Refuse a model of mattes that must be handed something with every image, where images alone are predicted.

    Args:
        network: a model or its class.

    Raises:
        UserError: it is such a one.
    """
    takes = getattr(network, "takes", None)
    if takes is not None and network.task.target is Matte:
        raise UserError(f"{name} wants {_article(takes)} with every image, which `eachmask matte` hands over: use that")


def colored(image: NDArray[Any], matte: Matte) -> Matte:
    """With the foreground's own colors, where the model said nothing of them: without them the old background shines
    through at the edges. Where pymatting is not there, they are the image's.

    Args:
        image: (H, W, 3) that the matte lies on.
    """
    alpha = matte.alpha.double().cpu().numpy()
    soft = (alpha > 0) & (alpha < 1)
    if matte.foreground is not None or not soft.any():
        return matte
    try:
        colors = own_colors(image.astype(np.float64) / Preprocess().limits(image)[1], alpha)
    except UserError:
        return matte
    return Matte(matte.alpha, torch.from_numpy(colors).permute(2, 0, 1).float().contiguous())


def _article(kind: Any) -> str:
    return "nothing besides the image" if kind is None else f"a {_OPTIONS[kind]}"


def _bytes_of(given: Trimap | Backdrop | None) -> bytes:
    if given is None:
        return b""
    values = given.values if isinstance(given, Trimap) else given.colors
    return values.cpu().numpy().tobytes()
