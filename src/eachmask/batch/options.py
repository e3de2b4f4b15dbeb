"""What a run over many images is asked for: options with their defaults, and the settings that results depend on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from eachmask import __version__
from eachmask.data.images.read import MAX_PIXELS
from eachmask.inference.predictor import Predictor
from eachmask.structures import Category, DecodeOptions, UserError
from eachmask.structures.category import lineages
from eachmask.structures.errors import nearest
from eachmask.tasks.task import Outputs

_FEW = 10
"""Classes of a model that are all named where one is not known; of more the nearest."""


@dataclass(frozen=True)
class BatchOptions:
    """What a run does with every image."""

    decode: DecodeOptions = DecodeOptions()
    classes: tuple[str, ...] = ()
    """Keep only objects of these classes; all if empty."""
    tile: int | None = None
    overlap: float = 0.2
    stride: int | None = None
    batch: int | None = None
    """Images per pass of the network; None: 1 on a CPU, 4 on a GPU."""
    save: tuple[str, ...] = ()
    """Kinds of files per image, of those that the task of the model writes."""
    overlays: bool = True
    overlay_side: int = 4096
    """Overlays of larger images are reduced to this side, px."""
    max_pixels: int = MAX_PIXELS
    channels: tuple[int, ...] = ()
    """Which of each file's channels are seen, from 1: one, or three; the image as it is if empty."""
    pixel_size: float | None = None
    """Micrometers per pixel of every image; None: as each file says, where it does."""


def checked(options: BatchOptions, predictor: Predictor[Any], outputs: Outputs[Any]) -> BatchOptions:
    """Options with defaults filled in; nonsense is refused before the first image."""
    predictor.tile_size(options.tile, options.overlap, options.stride)
    predictor.decode_options(options.decode)
    if options.batch is not None and options.batch < 1:
        raise UserError(f"a batch needs at least one image, not {options.batch}")
    batch = options.batch or (1 if predictor.device.type == "cpu" else 4)
    return replace(with_names(options, predictor.categories, outputs), batch=batch)


def with_names(options: BatchOptions, categories: Sequence[Category], outputs: Outputs[Any]) -> BatchOptions:
    """Options whose classes and kinds of files are called as the model and its task call them, in their order.

    Raises:
        UserError: there is no such class or kind.
    """
    classes = tuple(sorted({_class_named(name, categories) for name in options.classes}))
    unknown = [kind for kind in options.save if kind not in outputs.writers]
    if unknown:
        raise UserError(f"--save knows {', '.join(outputs.writers)}, not {unknown[0]!r}")
    return replace(options, classes=classes, save=tuple(kind for kind in outputs.writers if kind in options.save))


def _class_named(name: str, categories: Sequence[Category]) -> str:
    """A class, or one above classes, as it is written; capitals do not count."""
    known = {other.casefold(): other for names in lineages(categories) for other in names}
    if name.casefold() not in known:
        own = sorted(category.name for category in categories)
        few = f"its classes are {', '.join(own) or 'not named'}"
        meant = few if len(own) <= _FEW else f"did you mean {nearest(name.casefold(), own)}?"
        raise UserError(f"the model knows no class {name!r}; {meant}")
    return known[name.casefold()]


def settings_of(predictor: Predictor[Any], options: BatchOptions) -> dict[str, Any]:
    """All that decides an image's results, under the names that the user knows."""
    decode = predictor.decode_options(options.decode)
    return {
        "eachmask": __version__,
        "model": f"{predictor.info.name or predictor.info.variant} {predictor.fingerprint[:12]}",
        "--device": predictor.device.type,
        "--precision": str(predictor.dtype).removeprefix("torch."),
        "--score": decode.score_threshold,
        "--classes": list(options.classes),
        "--max-detections": decode.max_detections,
        "--nms": decode.suppression,
        "nms threshold": decode.nms_threshold,
        "mask threshold": decode.mask_threshold,
        "--paste": "accurate" if decode.paste == "accurate" else "torchvision",
        "--tile": predictor.tile_size(options.tile, options.overlap),
        "--overlap": options.overlap,
        "--batch": options.batch,
        "--save": list(options.save),
        "--overlays": options.overlays,
        "--overlay-side": options.overlay_side,
        **_of_some_runs(predictor, options),
    }


def _of_some_runs(predictor: Predictor[Any], options: BatchOptions) -> dict[str, Any]:
    """What decides the results of runs of this kind alone; sums in bf16 depend on how they are shared out."""
    shared_out = predictor.device.type == "cpu" and predictor.dtype == torch.bfloat16
    threads = {"CPU threads (OMP_NUM_THREADS)": torch.get_num_threads()} if shared_out else {}
    sized = {"--pixel-size": options.pixel_size} if options.pixel_size else {}
    strides = {"--stride": options.stride} if options.stride else {}
    return threads | sized | strides | ({"--channel": list(options.channels)} if options.channels else {})
