"""Engine: arrays in, results in the arrays' own pixels out. The one path that every prediction takes.

It decides where and how the network runs: device, precision, fused layers, which images share a batch, and how one
that is too large is cut into tiles. What the results are, it asks the model's task.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from eachmask.accel.kernels import keep_more_kernels
from eachmask.accel.malloc import give_back_freed_memory, keep_freed_memory, limit_freed_memory
from eachmask.inference.devices import find_device, find_precision
from eachmask.inference.preprocessing import preprocessed, reduced, size_of
from eachmask.ops.looks import WITNESS
from eachmask.ops.tiles import sliding_boxes, tile_boxes
from eachmask.structures import DecodeOptions, ImageBatch, Preprocess, UserError
from eachmask.tasks.task import Task

T = TypeVar("T", bound=Any)
Pair = tuple[int, int]
"""(height, width)."""
Limits = tuple[float, float]
"""The pixel values that become 0 and 1."""
TILE_CHUNK_SIZE = 8
"""Tiles in one pass of a GPU; a CPU takes them one by one."""
TileListener = Callable[[int, int], None]
"""Called with the number of tiles that are done and of all."""


class TileStore(Protocol[T]):
    """Where the tiles of one large image are kept until it is done."""

    def load(self, number: int, size: tuple[int, int]) -> T | None:
        """What the tile of this number and (height, width) gave; None where it is not known."""

    def save(self, number: int, found: T) -> None:
        """Keep what a tile gave, in its own pixels."""


def unheard(*_: Any) -> None:
    """The listener where nobody listens."""


class Look(NamedTuple):
    """One of the ways in which the network is shown every image."""

    scale: float = 1.0
    """Share of the usual size."""
    mirrored: bool = False
    """Left to right."""


USUAL = (Look(),)
"""What is found in more looks than this one is joined."""


@dataclass(frozen=True)
class _Job:
    """What holds for all images of a call."""

    options: DecodeOptions
    tile: Pair | None
    overlap: float
    stride: Pair | None
    on_tile: TileListener
    on_pass: Callable[[Sequence[Any]], None]


class Engine(Generic[T]):
    """A model ready to run.

    Args:
        model: see :class:`eachmask.models.protocol.Model`; with ``optimize`` a copy of it is used.
        preprocess: what it was trained on.
        task: of the model.
        device: cpu, cuda, cuda:1, mps, or auto: a GPU if there is one.
        precision: fp32, bf16, fp16, or auto: bf16 on CPUs that compute in it, fp16 on CUDA, else fp32.
        optimize: fuse normalization and order memory for speed; the results stay equal up to rounding.
        in_place: optimize the model itself, for callers that need it no more: half the memory.

    Raises:
        UserError: unknown or absent device, unknown precision.
    """

    def __init__(
        self,
        model: nn.Module,
        preprocess: Preprocess,
        task: Task[T],
        *,
        device: str = "auto",
        precision: str = "auto",
        optimize: bool = True,
        in_place: bool = False,
    ) -> None:
        from eachmask.backbones.fuse import optimize_for_inference

        self.preprocess, self.task = preprocess, task
        self.looks: tuple[Look, ...] = USUAL
        self.requested_device = device
        self.device = find_device(device)
        self.dtype = find_precision(precision, self.device)
        if optimize:
            model = optimize_for_inference(model, in_place=in_place)
        self.model = model.eval().to(self.device)
        give_back_freed_memory()
        if self.device.type == "cpu":
            keep_freed_memory()
            keep_more_kernels()

    def predict(
        self,
        images: Sequence[NDArray[Any]],
        options: DecodeOptions,
        *,
        tile: int | Pair = 0,
        overlap: float = 0.2,
        stride: int | Pair | None = None,
        given: Sequence[Any] | None = None,
        on_tile: TileListener = unheard,
        on_pass: Callable[[Sequence[T]], None] = unheard,
        stores: Sequence[TileStore[T] | None] | None = None,
    ) -> list[T]:
        """Results for images (H, W, 3), each in its image's own pixels; images of one size go in one batch.

        Args:
            tile: side of the squares, or (height, width), that larger images are cut into, px; 0 never.
            overlap: share of a tile that its neighbor sees too.
            stride: instead of ``overlap`` the px, or (rows, columns), from one tile to the next; all tiles then count
                alike, see :func:`~eachmask.ops.tiles.sliding_boxes`.
            given: what the user hands over with each image, in its pixels.
            on_pass: told what each pass of the network found, in its image's or tile's own pixels.
            stores: for each image where its tiles are kept, if it has any.

        Raises:
            UserError: a stride, and results that are not averaged.
        """
        job = _Job(options, _pair(tile), overlap, _pair(stride), on_tile, on_pass)
        if job.stride is not None and self.task.merge_evenly is None:
            raise UserError(f"a stride is for models that label pixels, and this one's task is {self.task.name}")
        found: dict[int, T] = {}
        whole = []
        for i, image in enumerate(images):
            if job.tile is not None and any(a > b for a, b in zip(image.shape[:2], job.tile, strict=True)):
                own = None if given is None else given[i]
                found[i] = self._predict_tiled(image, own, job, None if stores is None else stores[i])
            else:
                whole.append(i)
        limits = [self.preprocess.limits(images[i]) for i in whole]
        small = [reduced(images[i], self.preprocess) for i in whole]
        own = None if given is None else [given[i].resize(size_of(s)) for i, s in zip(whole, small, strict=True)]
        for i, result in zip(whole, self._predict_grouped(small, limits, own, job), strict=True):
            found[i] = result.resize(size_of(images[i]))
        return [found[i] for i in range(len(images))]

    def batch(
        self, images: Sequence[NDArray[Any]], limits: Sequence[Limits], preprocess: Preprocess | None = None
    ) -> ImageBatch:
        """Images (H, W, 3) of one target size, on the device as the network wants them."""
        single = [preprocessed(preprocess or self.preprocess, i, at) for i, at in zip(images, limits, strict=True)]
        tensor = torch.cat([one.tensor for one in single]) if len(single) > 1 else single[0].tensor
        return replace(single[0], tensor=tensor, sizes=tuple(one.sizes[0] for one in single)).to(self.device)

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """The precision, as a context."""
        if self.dtype == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=self.dtype)

    # How

    def _predict_grouped(
        self, images: Sequence[NDArray[Any]], limits: Sequence[Limits], given: Sequence[Any] | None, job: _Job
    ) -> list[T]:
        """What all looks find, joined."""
        if self.looks == USUAL:
            return self._looked(Look(), images, limits, given, job)
        assert self.task.join is not None and given is None
        own, asked = getattr(self.model, "config", None), job.options
        least = getattr(own, "score_threshold", 0.0) if asked.score_threshold is None else asked.score_threshold
        most = getattr(own, "max_detections", None) if asked.max_detections is None else asked.max_detections
        job = replace(job, options=replace(asked, score_threshold=min(least, WITNESS)))
        every = [self._looked(look, images, limits, None, job) for look in self.looks]
        return [self.task.join(found, least, most) for found in zip(*every, strict=True)]

    def _looked(
        self,
        look: Look,
        images: Sequence[NDArray[Any]],
        limits: Sequence[Limits],
        given: Sequence[Any] | None,
        job: _Job,
    ) -> list[T]:
        """Images that the network sees in one size form a batch: padding then never changes a result."""
        preprocess = self.preprocess.scaled(look.scale)
        if look.mirrored:
            images = [np.ascontiguousarray(image[:, ::-1]) for image in images]
        groups: dict[tuple[int, int], list[int]] = {}
        for i, image in enumerate(images):
            groups.setdefault(preprocess.target_size(*size_of(image)), []).append(i)
        found: dict[int, T] = {}
        for size, members in groups.items():
            own = None if given is None else [given[i].resize(size).to(self.device) for i in members]
            batch = self.batch([images[i] for i in members], [limits[i] for i in members], preprocess)
            results = self._run(batch, [size_of(images[i]) for i in members], own, job)
            found.update(zip(members, results, strict=True))
        return [found[i].flip() if look.mirrored else found[i] for i in range(len(images))]

    @torch.inference_mode()
    def _run(self, batch: ImageBatch, sizes: Sequence[Pair], given: Sequence[Any] | None, job: _Job) -> list[T]:
        """One pass of the network over images of one target size; results in the images' own pixels."""
        with self.autocast():
            decoded: list[T] = self.model.decode(self._forward(batch, given), job.options)  # type: ignore[operator]
        found = [result.to("cpu").resize(size) for result, size in zip(decoded, sizes, strict=True)]
        job.on_pass(found)
        if self.device.type == "cpu":
            limit_freed_memory()
        return found

    def _forward(self, batch: ImageBatch, given: Sequence[Any] | None) -> Any:
        return self.model(batch) if given is None else self.model(batch, given)

    def _predict_tiled(self, image: NDArray[Any], given: Any, job: _Job, store: TileStore[T] | None) -> T:
        """Predict overlapping tiles under one common contrast and join what belongs together."""
        give_back_freed_memory()  # what reading a large image left free would lie beside what the network needs
        size = size_of(image)
        limits = self.preprocess.limits(image)
        assert job.tile is not None
        if job.stride is None:
            boxes, merge = tile_boxes(size, job.tile, job.overlap), self.task.merge
        else:
            assert self.task.merge_evenly is not None
            boxes, merge = sliding_boxes(size, job.tile, job.stride), self.task.merge_evenly
        parts: list[T] = []
        step = 1 if self.device.type == "cpu" else TILE_CHUNK_SIZE
        for first in range(0, len(boxes), step):
            chosen = boxes[first : first + step]
            found = _loaded(store, first, chosen)
            if found is None:
                windows = [np.ascontiguousarray(image[y1:y2, x1:x2]) for x1, y1, x2, y2 in chosen]
                own = None if given is None else [given.crop(box) for box in chosen]
                found = [self.task.packed(t) for t in self._predict_grouped(windows, [limits] * len(windows), own, job)]
                for number, result in enumerate(found, start=first):
                    if store is not None:
                        store.save(number, result)
            parts += found
            job.on_tile(len(parts), len(boxes))
        give_back_freed_memory()
        return self.task.choose(merge(parts, boxes, size), (), job.options.max_detections)

    def __getstate__(self) -> dict[str, Any]:
        """Weights travel in main memory, so that a process without this GPU can take them."""
        state = self.__dict__.copy()
        if self.device.type != "cpu":
            state["model"] = copy.deepcopy(self.model).cpu()
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.device = find_device(self.requested_device)
        if self.dtype != torch.float32 and self.device.type == "cpu":
            self.dtype = find_precision("auto", self.device)
        self.model.to(self.device)


def _pair(sides: int | Pair | None) -> Pair | None:
    """Both sides; None where there are none."""
    return ((sides, sides) if isinstance(sides, int) else sides) if sides else None


def _loaded(store: TileStore[T] | None, first: int, boxes: Sequence[tuple[int, int, int, int]]) -> list[T] | None:
    """What all of these tiles gave before; None where one is missing: those of one pass belong together."""
    found: list[T] = []
    for number, (x1, y1, x2, y2) in enumerate(boxes, start=first):
        known = None if store is None else store.load(number, (y2 - y1, x2 - x1))
        if known is None:
            return None
        found.append(known)
    return found
