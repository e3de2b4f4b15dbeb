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


class Orders:
    """The kinds of jobs, for :class:`~eachmask.studio.jobs.Jobs`.

    Args:
        root: folder of all jobs.
    """

    def __init__(self, project: Project, root: Path) -> None:
        self.project, self.root = project, root

    def job(self, order: JobIn) -> Job:
        """A new job, with all that its command reads.

        Raises:
            UserError: no model is named, or nothing is annotated yet.
        """
        folder = self.root / f"{order.kind}-{secrets.token_hex(4)}"
        if order.kind == "train":
            if len(self.project.annotated()) < 2:
                raise UserError("mark objects on two images at least: one to learn from and one to choose by")
            self._write_data(folder, order.categories)
            return Job(order, folder, max(1, order.epochs * len(self.project.annotated()) // BATCH))
        if not order.model:
            raise UserError("choose a model")
        if order.kind == "measure":
            self._write_data(folder)
            return Job(order, folder, 1)
        chosen = range(len(self.project.paths)) if order.indices is None else order.indices
        paths = [self.project.path(index) for index in chosen]
        folder.mkdir(parents=True)
        _images(folder).write_text("".join(f"{path}\n" for path in paths), encoding="utf-8")
        return Job(order, folder, len(paths))

    def _write_data(self, folder: Path, categories: list[int] | None = None) -> None:
        data = dataset_of(self.project)
        if not len(data):
            raise UserError("nothing is annotated yet: mark objects on a few images first")
        write_coco_folder(folder / "data", some_classes(data, categories) if categories else data)

    def arguments(self, job: Job) -> list[str]:
        """Of ``eachmask``."""
        order, folder = job.order, job.folder
        if order.kind == "train":
            every = str(max(1, job.total // 10))
            found = ["train", order.variant or VARIANT, "--data", str(folder / "data"), "--out", str(job.run)]
            found += ["--batch", str(BATCH), "--steps", str(job.total)]
            return [*found, "--evaluate-every", every, "--checkpoint-every", every]
        assert order.model is not None
        if order.kind == "measure":
            return ["evaluate", order.model, "--data", str(folder / "data"), "--out", str(folder / "evaluation")]
        found = ["predict", f"@{_images(folder)}", "--model", order.model, "--out", str(_results(folder))]
        score = [] if order.threshold is None else ["--score", str(order.threshold)]
        return [*found, "--no-overlays", *score]

    def progress(self, job: Job) -> Callable[[], float]:
        """Says the share that is done."""
        if job.order.kind == "predict":
            done = Lines(_results(job.folder) / ".journal" / "records.jsonl")  # one for each image
            return lambda: done.count() / max(1, job.total)
        if job.order.kind == "train":
            return lambda: max((step for step, _ in curve_of(job.run / "log.csv")), default=0) / job.total
        return lambda: 0.0

    def finish(self, job: Job) -> dict[str, Any]:
        """Take the results; what the page is told of them."""
        if job.order.kind == "predict":
            return {"proposals": proposed(self.project, _results(job.folder) / "predictions.json")}
        if job.order.kind == "train":
            return {"model": str(job.run)}
        out = job.folder / "evaluation"
        return content_of(out / "evaluation.json") | {"report": str(out / "report.html")}


def _images(folder: Path) -> Path:
    return folder / "images.txt"


def _results(folder: Path) -> Path:
    return folder / "results"


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
