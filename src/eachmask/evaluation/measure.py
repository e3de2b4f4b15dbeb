"""Evaluation by name: a model, or predictions of any tool, on annotations in any format."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from eachmask.data.dataset import Dataset
from eachmask.data.formats.coco import CocoDataset
from eachmask.data.formats.coco_merge import Merged, merge_classes
from eachmask.data.formats.coco_results import left_out, match_categories
from eachmask.data.formats.coco_write import write_coco
from eachmask.data.reading import read_any
from eachmask.evaluation.evaluate import evaluate as measured
from eachmask.evaluation.evaluation import Evaluation
from eachmask.evaluation.predictions import of_categories, predict_dataset, without_images
from eachmask.evaluation.report import evaluation_html
from eachmask.files.atomic import write_text
from eachmask.files.progress import Progress, no_progress
from eachmask.inference.predictor import Predictor
from eachmask.structures import Category, Instances, UserError
from eachmask.structures.coco import to_annotations
from eachmask.tasks.settings import Settings
from eachmask.weights.catalogue import entries

MERGED = "merged"
"""Folder beside the report for annotations and results with merged classes: the originals may lie there too."""
MAX_SAID = 5
"""Problems of the data that are said one by one."""


def evaluate(
    model: str | Path | Predictor[Instances] | Sequence[Instances],
    data: str | Path | Dataset,
    out: str | Path | None = None,
    *,
    split: str = "val",
    images: Path | None = None,
    merge: Literal["supercategories", "all"] | None = None,
    compare: Path | None = None,
    score: float | None = None,
    resamples: int = 200,
    boundary: bool = True,
    seed: int = 0,
    gallery: int = 5,
    device: str = "auto",
    precision: str = "auto",
    side: int | None = None,
    say: Callable[[str], None] = lambda sentence: None,
    progress: Progress = no_progress,
) -> Evaluation:
    """Measure a model, or predictions, against annotated images.

    >>> import torch, eachmask
    >>> folder = Path(tempfile.mkdtemp())
    >>> ring = {"id": 1, "image_id": 1, "category_id": 3, "iscrowd": 0, "segmentation": [[1, 1, 5, 1, 5, 3, 1, 3]]}
    >>> images = [{"id": 1, "file_name": "a.png", "width": 6, "height": 4}]
    >>> content = {"images": images, "annotations": [ring], "categories": [{"id": 3, "name": "cell"}]}
    >>> _ = (folder / "instances_val.json").write_text(json.dumps(content))
    >>> found = eachmask.data.read(folder).splits["val"].targets(0)  # predictions that are what was annotated
    >>> found.scores = torch.tensor([0.9])
    >>> measures = evaluate([found], folder, resamples=0)
    >>> round(measures.value("ap"), 3), measures.value("pq")
    (1.0, 1.0)

    Args:
        model: name, file or run folder of a model, or a predictor; or predictions: a COCO results file (a ``Path``, or
            a string that ends in ``.json``), or one :class:`~eachmask.structures.Instances` for each image, in order.
        data: COCO file or folder in any format that can be read, or a data set that was read already.
        out: folder that gets report.html, evaluation.json and, of a model, predictions.json; None writes nothing.
        split: part of a folder to measure on; all of it where it has no parts.
        images: folder of the images, where ``data`` is a file; by default the one the file lies in.
        merge: measure fewer classes: the annotated ones' parents, or all as one.
        compare: results of a second model on the same images.
        score, resamples, boundary, seed, gallery: see :class:`~eachmask.tasks.settings.Settings`.
        device, precision, side: how a model predicts, see :func:`eachmask.load`.
        say: told what is odd about the data, a sentence at a time.

    Raises:
        UserError: files that cannot be used, no class in common, or a setting out of its range.
    """
    settings = Settings(score, resamples, boundary, seed, gallery)
    is_model = isinstance(model, Predictor) or (isinstance(model, str | Path) and not _is_results(model))
    if not is_model and (side is not None or precision != "auto"):
        raise UserError("--side and --precision say how a model predicts; the predictions of a file are as they are")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()) if out is None else out)
        job = _Job(folder, _coco(data, split, images, folder, say), say)
        job.merge(merge)
        if is_model:
            predictor = _loaded(model, device, precision, side)
            own = predictor.decode_options().score_threshold  # from which on users are shown objects
            settings = replace(settings, score=own if score is None else score)
            job.predict(predictor, progress, comparing=compare is not None, side=side)
        else:
            job.take(model)
        found = measured(
            job.dataset,
            job.results,
            name=Path(model).name if isinstance(model, str | Path) else "predictions" if not is_model else repr(model),
            settings=settings,
            compare=None if compare is None else job.with_merged_classes(compare, folder / MERGED / "compared"),
            published=_published(model) if job.merged is None else {},  # the makers' numbers are of their own classes
        )
        found = replace(found, notes=job.notes + found.notes, unread=job.unread)
        if out is not None:
            write_text(folder / "evaluation.json", json.dumps(found.to_json(), indent=1))
            write_text(folder / "report.html", evaluation_html(found))
    return found


def _is_results(model: str | Path) -> bool:
    path = Path(model)
    return path.suffix == ".json" or (isinstance(model, Path) and path.suffix != ".safetensors" and not path.is_dir())


def _loaded(model: Any, device: str, precision: str, side: int | None) -> Predictor[Instances]:
    from eachmask.inference.load import load

    return model if isinstance(model, Predictor) else load(model, device=device, precision=precision, side=side)


def _published(model: Any) -> dict[str, float]:
    entry = entries().get(model) if isinstance(model, str) else None
    return {} if entry is None else entry.by_metric()


@dataclass
class _Job:
    """From annotations and a model, or results, to two files with the same classes."""

    folder: Path
    dataset: CocoDataset
    say: Callable[[str], None]
    merged: Merged | None = None
    results: Path = Path()
    notes: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)
    """Why images were left out."""

    def merge(self, how: Literal["supercategories", "all"] | None) -> None:
        """Take fewer classes than are annotated."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if how is not None:
            self.merged = merge_classes(self.dataset, how, self.folder / MERGED / "annotations.json")
            self.dataset = self.merged.dataset

    def take(self, results: Any) -> None:
        """Predictions that are there already."""
        if isinstance(results, str | Path):
            notes: list[str] = []
            self.results = Path(results)
            if self.merged is not None:
                self.results, notes = self._merged_results(self.results, self.folder / MERGED / "predictions.json")
            self.notes += notes
            return
        if len(results) != len(self.dataset):
            raise UserError(f"{len(results)} predictions for {len(self.dataset)} images: give one for each, in order")
        known = next((found.categories for found in results if found.categories), self.dataset.categories)
        ids = [record["id"] for record in self.dataset.records]
        rows = [{"image_id": i, **row} for i, f in zip(ids, results, strict=True) for row in to_annotations(f)]
        self._write(rows, self._labels(known), known)

    def predict(self, predictor: Predictor[Instances], progress: Progress, comparing: bool, side: int | None) -> None:
        """Predict all images, and leave out those that cannot be read."""
        known = predictor.categories
        labels = self._labels(known)
        parents = {c.parent for c in self.dataset.categories} - {c.name for c in self.dataset.categories}
        if self.merged is None and any(c.name in parents for c in known):
            self.notes.append(
                "the model knows supercategories of the annotated classes: --merge supercategories measures these"
            )
        predicted = predict_dataset(predictor, self.dataset, self.folder / "predicted", progress)
        if predicted.resumed:
            self.say(f"{predicted.resumed} images had been predicted before the last run ended.")
        self.notes.append(f"predicted by {predictor!r}" + (f", longer side {side} px" if side else ""))
        self._leave_out(predicted.unread, comparing)
        self._write(predicted.rows, labels, known)

    def with_merged_classes(self, results: Path, folder: Path) -> Path:
        """Another results file, as the first one was taken."""
        return results if self.merged is None else self._merged_results(results, folder / results.name)[0]

    def _leave_out(self, unread: Mapping[Any, str], comparing: bool) -> None:
        self.unread = list(unread.values())
        if not unread:
            return
        if comparing:
            raise UserError(
                f"the two models would not be compared on the same images: {self.unread[0]}; repair that first"
            )
        number = f"{len(unread)} of {len(self.dataset)} images"
        self.notes += [f"{number} were left out, for they could not be predicted:", *self.unread]
        self.dataset = without_images(self.dataset, set(unread), self.folder / "read" / self.dataset.path.name)

    def _labels(self, known: Sequence[Category]) -> dict[int, int]:
        """The predictions' label -> the annotations'."""
        match = match_categories(known, self.dataset.categories) if self.merged is None else self.merged.of_model(known)
        labels, notes = match
        self.notes += notes
        return labels

    def _write(self, rows: list[dict[str, Any]], labels: Mapping[int, int], known: Sequence[Category]) -> None:
        ids = {known[label].id: self.dataset.categories[theirs].id for label, theirs in labels.items()}
        kept, foreign = of_categories(rows, ids)
        self.notes += left_out(foreign)
        self.results = self.folder / "predictions.json"
        write_text(self.results, json.dumps(kept))

    def _merged_results(self, results: Path, path: Path) -> tuple[Path, list[str]]:
        assert self.merged is not None
        content, notes = self.merged.results(results)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(content))
        return path, notes


def _coco(data: str | Path | Dataset, split: str, images: Path | None, folder: Path, say: Any) -> CocoDataset:
    """The annotations as a COCO file, which those of other formats become beside the report."""
    if isinstance(data, Dataset):
        return _as_coco(data, "the data set", split, folder, say)
    annotations = Path(data)
    if annotations.is_dir() and (annotations / f"instances_{split}.json").is_file():
        ready = annotations / f"instances_{split}.json"
        return CocoDataset(ready, images or annotations / "images" / split)
    if not annotations.exists():
        raise UserError(f"{annotations} does not exist: --data must be a COCO annotations file or a data set's folder")
    if annotations.is_file() and annotations.suffix.lower() == ".json":
        return CocoDataset(annotations, images or annotations.parent)
    read, form = read_any(annotations)
    return _as_coco(read, f"{annotations}, {form.name}", split, folder, say)


def _as_coco(data: Dataset, name: str, split: str, folder: Path, say: Any) -> CocoDataset:
    if split in data.splits:
        images = data.splits[split]
    elif len(data.splits) == 1 and set(data.splits) <= {"all", "default"}:
        (images,) = data.splits.values()
    else:
        place = name.rpartition(", ")[0] or name
        raise UserError(f"{place} has no split {split!r}: choose --split {' or '.join(data.splits)}")
    for problem in data.problems[:MAX_SAID]:
        say(f"{problem.severity}: {problem}")
    if len(data.problems) > MAX_SAID:
        say(f"... and {len(data.problems) - MAX_SAID} more; eachmask doctor names them all")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "annotations.json"
    files = [images.path(i).resolve() for i in range(len(images))]
    base = Path(os.path.commonpath([file.parent for file in files])) if files else folder
    rows = [(file.relative_to(base).as_posix(), images.targets(i)) for i, file in enumerate(files)]
    write_coco(path, rows, info={"description": name})
    return CocoDataset(path, base)
