"""Matting: how much of each pixel belongs to the foreground."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from eachmask.data.formats import mattes
from eachmask.data.formats.spreadsheet import csv_text
from eachmask.files.png import png
from eachmask.files.sections import Section, values_table
from eachmask.metrics.mattes import matte_errors, mean_flicker
from eachmask.ops.tile_seams import join_values
from eachmask.structures import Matte
from eachmask.tasks.kept import Arrays, Kept
from eachmask.tasks.settings import Settings
from eachmask.tasks.task import About, Box, Outputs, Record, Recorded, Scoring, Task, Written, overlay

DEEP = 65535
"""The full scale of files of alpha."""


def scores(predictions: Sequence[Matte], targets: Sequence[Matte]) -> dict[str, float]:
    """``similarity``, 1 - mean absolute difference, chooses the weights; the errors beside it."""
    errors = matte_errors(predictions, targets)
    return {"similarity": 1 - errors["mad"]} | errors


def quality(shown: Matte, target: Matte) -> float:
    """1 - mean absolute difference of one image."""
    return scores([shown], [target])["similarity"]


def merge(parts: Sequence[Matte], tiles: Sequence[Box], size: tuple[int, int]) -> Matte:
    """Blended where tiles overlap."""
    alpha = join_values([part.alpha for part in parts], tiles, size).clamp(0, 1)
    colors = [part.foreground for part in parts if part.foreground is not None]
    return Matte(alpha, join_values(colors, tiles, size) if len(colors) == len(parts) else None)


def to_arrays(matte: Matte) -> Arrays:
    """Alpha and colors, in 16 bits."""
    layers = {"alpha": matte.alpha} | ({} if matte.foreground is None else {"foreground": matte.foreground})
    return {name: (layer.float().cpu() * 65535).round().numpy().astype(np.uint16) for name, layer in layers.items()}


def from_arrays(arrays: Arrays, size: tuple[int, int]) -> Matte:
    """Undo of :func:`to_arrays`, for an image of (height, width).

    Raises:
        ValueError: the arrays do not fit the image.
        KeyError: alpha is missing.
    """
    if arrays["alpha"].shape != size or any(layer.dtype != np.uint16 for layer in arrays.values()):
        raise ValueError(f"alpha of {arrays['alpha'].shape} for an image of {size}")
    layers = {name: torch.from_numpy(layer.astype(np.float32) / 65535) for name, layer in arrays.items()}
    return Matte(layers["alpha"], layers.get("foreground"))


def record(name: str, matte: Matte, image: NDArray[Any]) -> Record:
    """The share of the image that is foreground."""
    share = round(float(matte.alpha.mean()), 6)
    header = {"height": image.shape[0], "width": image.shape[1], "objects": 1, "mean_score": None, "classes": {}}
    return Record(header, {"foreground": share})


def _alpha(name: str, matte: Matte, image: NDArray[Any]) -> Written:
    """A gray PNG of 16 bits."""
    return Written({".png": png(np.rint(matte.alpha.double().numpy() * DEEP).astype(np.uint16))})


def _rgba(name: str, matte: Matte, image: NDArray[Any]) -> Written:
    """The cut-out as a PNG with transparency."""
    from eachmask.draw import to_display

    rgba = matte.to_rgba(to_display(image, stretch=False))
    return Written({".png": png(rgba)})


def composite(matte: Matte, image: NDArray[Any], onto: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(H, W, 3) uint8: alpha F + (1 - alpha) B of just the values that the files of a matte hold.

    Args:
        image: (H, W, 3) that the matte lies on; its colors serve where the foreground has none of its own.
        onto: (h, w, 3), scaled so that it covers the image, and cut to it.
    """
    from eachmask.draw import to_display

    alpha = (np.rint(matte.alpha.double().cpu().numpy() * DEEP) / DEEP)[..., None]
    front = matte.to_rgba(to_display(image, stretch=False))[..., :3]
    behind = covering(onto, matte.image_size)
    return np.asarray(np.rint(alpha * front + (1 - alpha) * behind), np.uint8)


def covering(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """(H, W, 3) at (height, width): stretched alike in both directions, and cut in the middle."""
    scale = max(size[0] / image.shape[0], size[1] / image.shape[1])
    wide = (max(size[1], round(image.shape[1] * scale)), max(size[0], round(image.shape[0] * scale)))
    stretched = image
    if wide != (image.shape[1], image.shape[0]):
        stretched = np.asarray(cv2.resize(image, wide, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR))
    top, left = (wide[1] - size[0]) // 2, (wide[0] - size[1]) // 2
    return stretched[top : top + size[0], left : left + size[1]]


def shares_table(records: Callable[[], Iterable[Recorded]], about: About) -> Iterator[str]:
    """``mattes.csv``: one row per image."""
    yield csv_text([["image", "foreground"]])
    for image in records():
        yield csv_text([[image.name, f"{image.record.body['foreground']:.6f}"]])


def sections(predictions: Sequence[Matte], targets: Sequence[Matte], settings: Settings) -> tuple[Section, ...]:
    """Errors over all images; of a video's frames also their flicker."""
    values = matte_errors(predictions, targets)
    if settings.video:
        values["dtssd"] = mean_flicker(predictions, targets)
    note = "sad, grad and conn are sums in thousands; mad and mse are shares of the full range."
    return (Section("matting", "Errors of alpha", values, [values_table(values)], note=note),)


MATTING: Task[Matte] = Task(
    name="matting",
    target=Matte,
    scoring=Scoring(scores, "similarity", quality, "1 - mean absolute difference"),
    shown=lambda matte, score: matte,
    choose=lambda matte, classes, most: matte,
    merge=merge,
    render=overlay,
    outputs=Outputs(
        record, writers={"alpha": _alpha, "rgba": _rgba}, collections={"mattes.csv": shares_table}, noun="matte"
    ),
    sections=sections,
    packed=lambda matte: matte.to("cpu"),
    kept=Kept(to_arrays, from_arrays),
    files=mattes.FORMAT,
)


def matting_onto(onto: NDArray[np.uint8] | None) -> Task[Matte]:
    """Matting whose results are also written before another background, (H, W, 3) of any size; None: before none."""
    if onto is None:
        return MATTING

    def written(name: str, matte: Matte, image: NDArray[Any]) -> Written:
        mixed = composite(matte, image, onto)
        return Written({".png": png(mixed)})

    outputs = replace(MATTING.outputs, writers={**MATTING.outputs.writers, "composite": written})
    return replace(MATTING, outputs=outputs)
