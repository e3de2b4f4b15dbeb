"""Semantic segmentation: one class for each pixel."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from eachmask.data.formats import class_maps
from eachmask.data.formats.spreadsheet import csv_text
from eachmask.draw.colors import color
from eachmask.files.png import png
from eachmask.files.sections import Chart, Section, Table, number_text, values_table
from eachmask.files.svg import heat_map
from eachmask.metrics.boundary_f import boundary_f
from eachmask.metrics.label_maps import confusion, numbers, pixel_counts
from eachmask.metrics.semantic import mean_over_present
from eachmask.ops.tile_seams import join_labels, join_scores
from eachmask.structures import Category, SemanticMap, UserError
from eachmask.tasks.kept import Arrays, Kept
from eachmask.tasks.settings import Settings
from eachmask.tasks.task import About, Box, Outputs, Record, Recorded, Scoring, Task, Written, legend, overlay

# Training -------------------------------------------------------------------------------------------------------------


def scores(predictions: Sequence[SemanticMap], targets: Sequence[SemanticMap]) -> dict[str, float]:
    """Mean IoU (chooses the weights) and its kin, pooled over all images."""
    return {name: 0.0 if np.isnan(value) else value for name, value in numbers(confusion(predictions, targets)).items()}


def quality(shown: SemanticMap, target: SemanticMap) -> float:
    """Mean IoU of one image over the classes that are in it or found in it."""
    return scores([shown], [target])["miou"]


# Prediction -----------------------------------------------------------------------------------------------------------


def merge(
    parts: Sequence[SemanticMap], tiles: Sequence[Box], size: tuple[int, int], *, even: bool = False
) -> SemanticMap:
    """The best of the scores, averaged where tiles overlap; where a tile has none, the label of the deepest tile.

    Args:
        even: see :func:`~eachmask.ops.tile_seams.mean_scores`.
    """
    scores = [part.scores for part in parts if part.scores is not None]
    if len(scores) == len(parts):
        labels = join_scores(scores, tiles, size, even=even)
    else:
        labels = join_labels([part.labels for part in parts], tiles, size)
    return replace(parts[0], labels=labels, scores=None, view=None)


def choose(seen: SemanticMap, classes: Sequence[str], most: int | None) -> SemanticMap:
    """Some classes; all other pixels are of no class.

    Raises:
        UserError: there is no such class.
    """
    if not classes:
        return seen
    names = [category.name for category in seen.categories]
    unknown = [name for name in classes if name not in names]
    if unknown:
        raise UserError(f"there is no class {unknown[0]!r}; the classes are {', '.join(names[:20])}")
    keep = torch.tensor([names.index(name) for name in classes], dtype=seen.labels.dtype)
    return replace(seen, labels=torch.where(torch.isin(seen.labels, keep), seen.labels, seen.ignore))


def with_categories(seen: SemanticMap, categories: tuple[Category, ...]) -> SemanticMap:
    """Named by the model's categories; nothing is resized after that, so scores are let go of."""
    return replace(seen, categories=categories, scores=None)


def to_arrays(seen: SemanticMap) -> Arrays:
    """The labels, and which of them does not count."""
    return {"labels": seen.labels.cpu().numpy(), "ignore": np.array(seen.ignore)}


def from_arrays(arrays: Arrays, size: tuple[int, int]) -> SemanticMap:
    """Undo of :func:`to_arrays`, for an image of (height, width).

    Raises:
        ValueError: the arrays do not fit the image.
        KeyError: one is missing.
    """
    if arrays["labels"].shape != size:
        raise ValueError(f"labels of {arrays['labels'].shape} for an image of {size}")
    return SemanticMap(torch.from_numpy(arrays["labels"]), ignore=int(arrays["ignore"]))


# What is written ------------------------------------------------------------------------------------------------------


def record(name: str, seen: SemanticMap, image: NDArray[Any]) -> Record:
    """The classes that are there, and the pixels of each."""
    counts = {seen.name_of(label): int(count) for label, count in enumerate(seen.counts().tolist()) if count}
    header = {
        "height": image.shape[0],
        "width": image.shape[1],
        "objects": len(counts),
        "mean_score": None,
        "classes": dict.fromkeys(sorted(counts), 1),
    }
    return Record(header, {"pixels": counts})


def _labels(name: str, seen: SemanticMap, image: NDArray[Any]) -> Written:
    """A PNG of indices, 8 bits (16 where there are more classes), as every reader of class maps takes it."""
    labels = seen.labels.cpu().numpy()
    return Written({".png": png(labels if labels.dtype == np.uint8 else labels.astype(np.uint16))})


def _palette(name: str, seen: SemanticMap, image: NDArray[Any]) -> Written:
    """The same PNG in the colors of overlays, with a palette; what does not count is white.

    Raises:
        UserError: there are more classes than a palette has colors.
    """
    if seen.ignore > 255:
        raise UserError(f"a palette has 256 colors, and there are {len(seen.categories)} classes: --save labels")
    map_ = Image.fromarray(seen.labels.cpu().numpy())  # a palette makes of gray values indices
    map_.putpalette([value for label in range(256) for value in (color(label) if label < 255 else (255, 255, 255))])
    data = io.BytesIO()
    map_.save(data, format="PNG")
    return Written({"_palette.png": data.getvalue()})


def classes_table(records: Callable[[], Iterable[Recorded]], about: About) -> Iterator[str]:
    """``classes.csv``: one row per image and class."""
    yield csv_text([["image", "class", "pixels", "share"]])
    for image in records():
        header = image.record.header
        num_pixels = header["height"] * header["width"]
        counts = image.record.body["pixels"].items()
        yield csv_text([image.name, name, pixels, f"{pixels / num_pixels:.6f}"] for name, pixels in counts)


def class_names(records: Callable[[], Iterable[Recorded]], about: About) -> Iterator[str]:
    """``classes.txt``: the name of each index of the maps, a line each."""
    yield "".join(f"{' '.join(category.name.split())}\n" for category in about.categories)


# Evaluation -----------------------------------------------------------------------------------------------------------


def sections(
    predictions: Sequence[SemanticMap], targets: Sequence[SemanticMap], settings: Settings
) -> tuple[Section, ...]:
    """Pooled measures, a row for each class, and which class is taken for which."""
    matrix = confusion(predictions, targets)
    counts, values = pixel_counts(matrix), numbers(matrix)
    names = [targets[0].name_of(label) for label in range(len(matrix))]
    columns: list[tuple[str, NDArray[np.float64]]] = [("IoU", counts.iou), ("Dice", counts.dice)]
    if settings.boundary:
        edges = boundary_f(zip(predictions, targets, strict=True), len(names))
        values["boundary_f"] = mean_over_present(edges)
        columns.append(("boundary F", edges))
    rows = [
        [name, *(number_text(column[k]) for _, column in columns), f"{int(counts.true[k]):,}"]
        for k, name in enumerate(names)
    ]
    per_class = {name: None if np.isnan(iou) else float(iou) for name, iou in zip(names, counts.iou, strict=True)}
    return (
        Section("semantic", "All pixels", values, [values_table(values)]),
        Section("iou_per_class", "Classes", per_class, [Table(["Class", *(c for c, _ in columns), "pixels"], rows)]),
        Section(
            "confusion", "Confusion", {"names": names, "matrix": matrix.tolist()}, charts=_confusion(matrix, names)
        ),
    )


def _confusion(matrix: NDArray[np.int64], names: list[str]) -> list[Chart]:
    """A square for each pair of classes; one more for pixels that were given none."""
    square = np.zeros((len(matrix) + 1,) * 2, np.int64)
    square[:-1] = matrix
    image = heat_map(
        square.tolist(),
        [*names, "no class"],
        "Confusion matrix of pixels",
        "{count} pixels of {row} were taken for {column}",
    )
    return [Chart("Which class is taken for which", image, "A row is the true class, a column the predicted one.")]


SEMANTIC: Task[SemanticMap] = Task(
    name="semantic",
    target=SemanticMap,
    scoring=Scoring(scores, "miou", quality, "mean IoU"),
    shown=lambda seen, score: seen,
    choose=choose,
    merge=merge,
    merge_evenly=partial(merge, even=True),
    render=overlay,
    outputs=Outputs(
        record,
        named=legend,
        writers={"labels": _labels, "palette": _palette},
        collections={"classes.csv": classes_table, class_maps.NAMES: class_names},
        noun="class",
    ),
    sections=sections,
    with_categories=with_categories,
    packed=lambda seen: seen.to("cpu"),
    kept=Kept(to_arrays, from_arrays),
    files=class_maps.FORMAT,
)
