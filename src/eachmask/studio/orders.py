"""What the page orders, as commands: predict, train, evaluate; and what becomes of their results."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

from eachmask.data.classes import some_classes
from eachmask.data.formats.coco_write import write_coco_folder
from eachmask.data.reading import read_any
from eachmask.structures import Instances, UserError
from eachmask.studio.jobs import Job, Lines, content_of, curve_of
from eachmask.studio.project import Project
from eachmask.studio.save import dataset_of
from eachmask.studio.schemas import JobIn

BATCH = 2
VARIANT = "mask_rcnn_lite0_fpn"


def ordered(order: JobIn, project: Project, root: Path) -> Job:
    """The job that is meant.

    Args:
        root: folder of all jobs.

    Raises:
        UserError: no model is named, or nothing is annotated yet.
    """
    key = f"{order.kind}-{secrets.token_hex(4)}"
    make: dict[str, Callable[..., Job]] = {"predict": _predict, "train": _train, "measure": _measure}
    return make[order.kind](order, project, key, root / key)


def _predict(order: JobIn, project: Project, key: str, folder: Path) -> Job:
    if not order.model:
        raise UserError("choose a model")
    chosen = range(len(project.paths)) if order.indices is None else order.indices
    paths = [project.path(index) for index in chosen]
    folder.mkdir(parents=True)
    (folder / "images.txt").write_text("".join(f"{path}\n" for path in paths), encoding="utf-8")
    results = folder / "results"
    arguments = ["predict", f"@{folder / 'images.txt'}", "--model", order.model, "--out", str(results), "--no-overlays"]
    arguments += [] if order.threshold is None else ["--score", str(order.threshold)]

    def finish() -> dict[str, Any]:
        return {"proposals": proposed(project, results / "predictions.json")}

    done = Lines(results / ".journal" / "records.jsonl")  # one for each image
    return Job(key, "predict", folder, arguments, lambda: done.count() / max(1, len(paths)), finish)


def proposed(project: Project, predictions: Path) -> int:
    """Take the objects of a results file as proposals; how many there are."""
    data, _ = read_any(predictions, "coco", images=project.folder, target=Instances)
    places = {path.resolve(): index for index, path in enumerate(project.paths)}
    number = 0
    for split in data.splits.values():
        for index in range(len(split)):
            place = places.get(split.path(index).resolve())
            if place is not None:
                found = split.scored_targets(index)
                project.propose(place, found)
                number += len(found)
    return number


def _data(project: Project, folder: Path, categories: list[int] | None = None) -> Path:
    data = dataset_of(project, images=True)
    if not len(data):
        raise UserError("nothing is annotated yet: mark objects on a few images first")
    write_coco_folder(folder / "data", some_classes(data, categories) if categories else data)
    return folder / "data"


def _train(order: JobIn, project: Project, key: str, folder: Path) -> Job:
    data, run = _data(project, folder, order.categories), folder / "run"
    steps = max(1, order.epochs * len(project.annotated()) // BATCH)
    every = max(1, steps // 10)
    arguments = ["train", order.variant or VARIANT, "--data", str(data), "--out", str(run), "--batch", str(BATCH)]
    arguments += ["--steps", str(steps), "--evaluate-every", str(every), "--checkpoint-every", str(every)]

    def progress() -> float:
        curve = curve_of(run / "log.csv")
        return curve[-1][0] / steps if curve else 0.0

    return Job(key, "train", folder, arguments, progress, lambda: {"model": str(run)})


def _measure(order: JobIn, project: Project, key: str, folder: Path) -> Job:
    if not order.model:
        raise UserError("choose a model to measure; GET /api/measure compares with the proposals")
    out = folder / "evaluation"
    arguments = ["evaluate", order.model, "--data", str(_data(project, folder)), "--out", str(out)]

    def finish() -> dict[str, Any]:
        return content_of(out / "evaluation.json") | {"report": str(out / "report.html")}

    return Job(key, "measure", folder, arguments, lambda: 0.0, finish)
