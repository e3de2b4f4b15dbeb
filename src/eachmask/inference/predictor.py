"""Predictor: an image in, instances in that image's own pixels out."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
import warnings
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, overload

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import nn

from eachmask.data.images.read import as_array, read_image, unit_range
from eachmask.structures import Category, DecodeOptions, ImageBatch, Instances, Preprocess, UserError

if TYPE_CHECKING:
    from PIL import Image

    from eachmask.models.crop_classifier import CropClassifier
    from eachmask.weights.file import ModelInfo

    ImageLike = str | Path | NDArray[Any] | torch.Tensor | Image.Image

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_LARGE = 40_000_000
"""Pixels from which an image that the network sees much smaller anyway is reduced before it becomes floats."""


def load(
    name_or_path: str | Path, *, device: str = "auto", precision: str = "auto", side: int | None = None
) -> Predictor:
    """The model of this name, or in this ``.safetensors`` file, ready to predict.

    A name is looked up in the catalogue (``eachmask models`` lists it); weights that are neither bundled nor in
    the cache are downloaded once.

    Args:
        device: cpu, cuda, cuda:1, mps, or auto: a GPU if there is one.
        precision: fp32, bf16, fp16, or auto: bf16 on processors that compute in it, fp16 on CUDA, else fp32.
        side: longer side of every image as the network sees it, px: smaller is faster, larger finds smaller things.
            By default what the model was made for.

    Raises:
        UserError: no such model, weights out of reach, a device that is not there, or a model without that choice.
    """
    from eachmask.weights.fetch import locate
    from eachmask.weights.file import load_classifier, load_model

    path = locate(name_or_path)
    model, info = load_model(path)
    if side is not None:
        info = replace(info, preprocess=info.preprocess.at_long_side(side))
    return Predictor(model, info, device=device, precision=precision, classifier=load_classifier(path), in_place=True)


class Predictor:
    """A model with all it needs to look at images; a plain callable that can be pickled.

    Args:
        model: has ``decode(model(images), options)``; with ``optimize`` a copy of it is used and it stays as it is.
        info: its preprocessing, categories, default tile size and decoding.
        device, precision: see :func:`load`.
        optimize: fuse normalization and order memory for speed; the results stay equal up to rounding.
        classifier: gives the objects narrower names than their classes'.
        in_place: optimize the model (and the classifier) itself, for callers that need it no more: half the memory.

    Raises:
        UserError: unknown or absent device, unknown precision.
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
        self.info = info
        self.requested_device = device
        self.device = find_device(device)
        self.dtype = find_precision(precision, self.device)
        self.fingerprint = _fingerprint(model, info, classifier)
        from eachmask.accel.malloc import give_back_freed_memory, keep_freed_memory
        from eachmask.backbones.fuse import optimize_for_inference

        if optimize:
            model = optimize_for_inference(model, in_place=in_place)
            if classifier is not None:
                classifier = cast("CropClassifier", optimize_for_inference(classifier, in_place=in_place))
        self.model = model.eval().to(self.device)
        self.classifier = None if classifier is None else classifier.eval().requires_grad_(False).to(self.device)
        self._warned = False
        give_back_freed_memory()
        if self.device.type == "cpu":
            keep_freed_memory()

    @overload
    def predict(
        self, image: ImageLike, *, options: DecodeOptions | None = ..., tile: int | None = ..., overlap: float = ...
    ) -> Instances: ...
    @overload
    def predict(
        self,
        image: list[ImageLike] | tuple[ImageLike, ...],
        *,
        options: DecodeOptions | None = ...,
        tile: int | None = ...,
        overlap: float = ...,
    ) -> list[Instances]: ...

    def predict(
        self,
        image: Any,
        *,
        options: DecodeOptions | None = None,
        tile: int | None = None,
        overlap: float = 0.2,
    ) -> Instances | list[Instances]:
        """Find the objects of one image, or of each in a list.

        Args:
            image: a path; an array (H, W), (H, W, 1 | 3 | 4), RGB, of uint8, uint16 or floats in 0..1; a tensor
                (C, H, W) or (H, W) likewise; a PIL image; or a list of these.
            options: thresholds and limits; what is None in it is the model's own.
            tile: side in pixels of the overlapping squares that a larger image is predicted in; None is the
                model's own choice, 0 is never.
            overlap: share of a tile that its neighbor sees too, 0..0.5 (exclusive).

        Returns:
            Instances in pixels of the image as it is seen (EXIF applied), best score first, with categories.

        Raises:
            UserError: no image, or a shape, type or option out of range.
        """
        many = isinstance(image, list | tuple)
        arrays = [self.prepare(one) for one in (image if many else [image])]
        found = self.predict_arrays(arrays, options=options, tile=tile, overlap=overlap)
        return found if many else found[0]

    __call__ = predict

    def predict_arrays(
        self,
        images: Sequence[NDArray[Any]],
        *,
        options: DecodeOptions | None = None,
        tile: int | None = None,
        overlap: float = 0.2,
    ) -> list[Instances]:
        """:meth:`predict` for (H, W, 3) arrays from :meth:`prepare`; those of one size go in one batch."""
        tile = self.tile_size(tile, overlap)
        options = self.decode_options(options)
        found: list[Instances | None] = [None] * len(images)
        whole = []
        for i, image in enumerate(images):
            if tile and max(image.shape[:2]) > tile:
                found[i] = self._predict_tiled(image, tile, overlap, options)
            else:
                whole.append(i)
        limits = [self.info.preprocess.limits(images[i]) for i in whole]
        predicted = self._predict_grouped([self._reduced(images[i]) for i in whole], limits, options)
        for i, instances in zip(whole, predicted, strict=True):
            found[i] = instances.resize(_size(images[i]))
        pairs = zip(images, found, strict=True)
        return [self._named(image, instances) for image, instances in pairs if instances is not None]

    def prepare(self, image: ImageLike) -> NDArray[Any]:
        """Anything that :meth:`predict` takes -> (H, W, 3)."""
        if isinstance(image, str | Path):
            return unit_range(read_image(image))
        array = as_array(image)
        stretches = self.info.preprocess.contrast == "percentile"
        if array.dtype.kind == "f" and not stretches and (unit_range(array) is not array):
            if not np.isfinite(array).all():
                raise UserError("a float image must lie in 0..1, but this one holds NaN or infinity: fill those pixels")
            raise UserError(
                f"a float image must lie in 0..1, but this one goes from {array.min():g} to {array.max():g}: "
                "divide it by its full scale, or convert it to uint8 or uint16"
            )
        return array

    def decode_options(self, options: DecodeOptions | None = None) -> DecodeOptions:
        """The user's wishes, filled up with what is saved with the weights."""
        saved = DecodeOptions(**(self.info.decode or {}))
        if options is None:
            return saved
        thresholds = {"score": options.score_threshold, "mask": options.mask_threshold, "nms": options.nms_threshold}
        for name, value in thresholds.items():
            if value is not None and not 0 <= value <= 1:
                raise UserError(f"the {name} threshold must lie in 0..1, not {value:g}")
        if options.max_detections is not None and options.max_detections < 1:
            raise UserError(f"max_detections must be at least 1, not {options.max_detections}")
        missing = {k: getattr(saved, k) for k, v in asdict(options).items() if v is None}
        return replace(options, **missing)

    def ranked_options(self) -> DecodeOptions:
        """For measuring: the network's own score threshold instead of the higher one from which objects are shown.

        Average precision goes down the list of all detections by score; without its end it comes out too small.
        """
        own = getattr(getattr(self.model, "config", None), "score_threshold", 0.0)
        return self.decode_options(DecodeOptions(score_threshold=own))

    def tile_size(self, tile: int | None = None, overlap: float = 0.2) -> int:
        """The tile side that a request means: 0 is no tiles."""
        if tile is not None and tile != 0 and tile < 32:
            raise UserError(f"a tile of {tile} pixels is too small: take 32 or more, or 0 for no tiles")
        if not 0 <= overlap < 0.5:
            raise UserError(f"the overlap of tiles is a share of their side from 0 to below 0.5, not {overlap:g}")
        return (self.info.tile or 0) if tile is None else tile

    # How ------------------------------------------------------------------------------------------

    def _predict_grouped(
        self, images: Sequence[NDArray[Any]], limits: Sequence[tuple[float, float]], options: DecodeOptions
    ) -> list[Instances]:
        """Images that the network sees in one size form a batch: padding then never changes a result."""
        groups: dict[tuple[int, int], list[int]] = {}
        for i, image in enumerate(images):
            groups.setdefault(self.info.preprocess.target_size(*_size(image)), []).append(i)
        found: dict[int, Instances] = {}
        for members in groups.values():
            batch = self._run([images[i] for i in members], [limits[i] for i in members], options)
            self._warn_if_full(batch, options)
            found.update(zip(members, batch, strict=True))
        return [found[i] for i in range(len(images))]

    @torch.inference_mode()
    def _run(
        self, images: Sequence[NDArray[Any]], limits: Sequence[tuple[float, float]], options: DecodeOptions
    ) -> list[Instances]:
        """One pass of the network over images of one target size; results in the images' own pixels."""
        single = [preprocessed(self.info.preprocess, i, at) for i, at in zip(images, limits, strict=True)]
        batch = replace(
            single[0],
            tensor=torch.cat([one.tensor for one in single]) if len(single) > 1 else single[0].tensor,
            sizes=tuple(one.sizes[0] for one in single),
        ).to(self.device)
        with self._autocast():
            decoded = self.model.decode(self.model(batch), options)  # type: ignore[operator]
        return [instances.to("cpu").resize(_size(image)) for instances, image in zip(decoded, images, strict=True)]

    def _predict_tiled(self, image: NDArray[Any], tile: int, overlap: float, options: DecodeOptions) -> Instances:
        """Predict overlapping tiles under one common contrast and join what belongs together."""
        from eachmask.ops.tiles import merge_tiles, tile_boxes

        size = _size(image)
        limits = self.info.preprocess.limits(image)
        boxes = tile_boxes(size, tile, overlap)
        parts = []
        step = 1 if self.device.type == "cpu" else 8
        for first in range(0, len(boxes), step):
            chosen = boxes[first : first + step]
            windows = [np.ascontiguousarray(image[y1:y2, x1:x2]) for x1, y1, x2, y2 in chosen]
            found = self._predict_grouped(windows, [limits] * len(windows), options)
            parts += [instances.shift(box[0], box[1], size) for instances, box in zip(found, chosen, strict=True)]
        merged: Instances = merge_tiles(parts, boxes)
        if options.max_detections is not None and merged.scores is not None:
            merged = merged[torch.argsort(merged.scores, descending=True, stable=True)[: options.max_detections]]
        return merged

    def _reduced(self, image: NDArray[Any]) -> NDArray[Any]:
        """A very large image at twice the size that the network sees: as floats it would not fit."""
        height, width = _size(image)
        wanted = tuple(2 * side for side in self.info.preprocess.target_size(height, width))
        if height * width <= _LARGE or wanted[0] >= height or wanted[1] >= width:
            return image
        return cv2.resize(image, wanted[::-1], interpolation=cv2.INTER_AREA)

    @property
    def categories(self) -> tuple[Category, ...]:
        """All that an object may be: the detector's classes and the narrower ones of its classifier."""
        wide = tuple(self.info.categories)
        return wide if self.classifier is None else self.classifier.categories(wide)

    def _named(self, image: NDArray[Any], instances: Instances) -> Instances:
        instances = replace(instances, categories=tuple(self.info.categories))
        if self.classifier is None:
            return instances
        return self.classifier.name(image, instances, self.info.preprocess.limits(image))

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        if self.dtype == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=self.dtype)

    def _warn_if_full(self, found: Sequence[Instances], options: DecodeOptions) -> None:
        """Once, where an image has as many objects as may be returned: there may be more."""
        limit = options.max_detections or getattr(getattr(self.model, "config", None), "max_detections", None)
        if self._warned or limit is None or options.max_detections is not None:
            return
        if any(len(instances) >= limit for instances in found):
            self._warned = True
            warnings.warn(
                f"the model found its maximum of {limit} objects in an image or tile, so there may be more: "
                "raise --max-detections (DecodeOptions.max_detections) or use smaller tiles (--tile)",
                stacklevel=2,
            )

    def __getstate__(self) -> dict[str, Any]:
        """Weights travel in main memory, so that a process without this GPU can take them."""
        state = self.__dict__.copy()
        if self.device.type != "cpu":
            state |= {
                name: copy.deepcopy(state[name]).cpu() for name in ("model", "classifier") if state[name] is not None
            }
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.device = find_device(self.requested_device)
        if self.dtype != torch.float32 and self.device.type == "cpu":
            self.dtype = find_precision("auto", self.device)
        self.model.to(self.device)
        if self.classifier is not None:
            self.classifier.to(self.device)

    def __repr__(self) -> str:
        precision = next(name for name, dtype in _DTYPES.items() if dtype == self.dtype)
        return f"Predictor({self.info.name or self.info.variant}, {self.device}, {precision})"


def preprocessed(preprocess: Preprocess, image: NDArray[Any], limits: tuple[float, float]) -> ImageBatch:
    """A batch of one image, as ``preprocess`` makes it, up to rounding.

    Bilinear resizing reads four pixels for each that it writes. Of an image that becomes much smaller only those
    are turned into floats: all of 4000 x 4000 would take 0.4 GB and two seconds.

    Args:
        image: (H, W, 3) as :class:`Preprocess` takes it.
        limits: the pixel values that become 0 and 1.
    """
    (rows, down), (columns, across) = (
        _read_by_resizing(*sides) for sides in zip(_size(image), preprocess.target_size(*_size(image)), strict=True)
    )
    if 2 * len(rows) * len(columns) > image.shape[0] * image.shape[1]:
        return preprocess([image], limits=limits)
    at_own_size = replace(preprocess, fixed_size=None, short_side=None, magnification=1.0, divisor=1)
    read = at_own_size([image[rows[:, None], columns]], limits=limits).tensor[0]
    lines = torch.lerp(read[:, :, 0::2], read[:, :, 1::2], across)
    resized = torch.lerp(lines[:, 0::2], lines[:, 1::2], down[:, None])
    return ImageBatch.from_tensors([resized], preprocess.divisor)


def _read_by_resizing(length: int, wanted: int) -> tuple[NDArray[np.int64], torch.Tensor]:
    """What bilinear interpolation from ``length`` to ``wanted`` samples reads, as torch does it without antialiasing.

    Returns:
        (2 wanted,) indices, of the sample before and the one after each place; (wanted,) share of the latter.
    """
    # A ramp, resized, is the place that each sample is read from. Asked of torch and not computed here, for its kernels
    # round at different steps; three channels in an image's order, so that the image's kernel answers.
    ramp = torch.arange(length, dtype=torch.float32).expand(1, 3, 1, -1).contiguous(memory_format=torch.channels_last)
    places = F.interpolate(ramp, size=(1, wanted), mode="bilinear", align_corners=False)[0, 0, 0].numpy()
    before = places.astype(np.int64)
    after = np.minimum(before + 1, length - 1)
    return np.stack([before, after], axis=1).reshape(-1), torch.from_numpy(places - before.astype(np.float32))


def find_device(name: str) -> torch.device:
    """auto, cpu, cuda, cuda:N or mps -> the device.

    Raises:
        UserError: it is not here.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"there is no device {name!r}: choose auto, cpu, cuda, cuda:0, cuda:1, ... or mps") from None
    here = {
        "cpu": True,
        "cuda": torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }
    if not here.get(device.type, False):
        raise UserError(f"this machine (or this build of torch) has no {name}: use --device cpu or auto")
    return device


def find_precision(name: str, device: torch.device) -> torch.dtype:
    """auto, fp32, bf16 or fp16 -> what the network computes in; boxes and scores are always fp32.

    Raises:
        UserError: unknown, or fp16 on a CPU.
    """
    if name == "auto":
        if device.type == "cpu":
            return torch.bfloat16 if cpu_computes_bf16() else torch.float32
        return torch.float16 if device.type == "cuda" else torch.float32
    if name not in _DTYPES:
        raise UserError(f"unknown precision {name!r}: choose auto, fp32, bf16 or fp16")
    if name == "fp16" and device.type == "cpu":
        raise UserError("fp16 is for GPUs: on a CPU choose fp32 or bf16")
    return _DTYPES[name]


def cpu_computes_bf16() -> bool:
    """Whether the processor multiplies bfloat16 in hardware (AVX512_BF16, AMX or Armv8.6): else it is slower."""
    try:
        flags = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return False
    return bool(flags & {"avx512_bf16", "amx_bf16", "bf16"})


def _fingerprint(model: nn.Module, info: ModelInfo, classifier: CropClassifier | None) -> str:
    """SHA-256 of weights and settings: equal exactly where the predictions are."""
    digest = hashlib.sha256()
    settings = {
        "variant": info.variant,
        "config": info.config,
        "preprocess": info.preprocess.to_dict(),
        "categories": [[c.id, c.name] for c in info.categories],
        "decode": info.decode,
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


def _size(image: NDArray[Any]) -> tuple[int, int]:
    return int(image.shape[0]), int(image.shape[1])
