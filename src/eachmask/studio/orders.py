"""What the page orders, as commands: predict, train, evaluate, track; and what becomes of their results."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from eachmask.data.classes import some_classes
from eachmask.data.formats.coco_write import write_coco_folder
from eachmask.data.reading import read_any
from eachmask.structures import Instances, UserError
from eachmask.studio import tracks
from eachmask.studio.items import Item
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
        if order.kind == "follow":
            return self._follow(order, folder)
        if not order.model:
            raise UserError("choose a model")
        if order.kind == "measure":
            self._write_data(folder)
            return Job(order, folder, 1)
        folder.mkdir(parents=True)
        return Job(order, folder, len(self._chosen(order)))

    def _follow(self, order: JobIn, folder: Path) -> Job:
        places = self._places(order)
        folder.mkdir(parents=True)
        tracks.mark(self.project, places[0], order.objects, folder)
        return Job(order, folder, len(places))

    def _places(self, order: JobIn) -> Sequence[int]:
        """Of the images that are looked at."""
        if order.kind != "follow":
            return range(len(self.project.items)) if order.indices is None else order.indices
        if not order.indices:
            raise UserError("say on which image the objects are marked")
        return tracks.way(self.project, order.indices[0], order.back)

    def _chosen(self, order: JobIn) -> list[Item]:
        return [self.project.item(index) for index in self._places(order)]

    def prepare(self, job: Job) -> None:
        """Write the list of the images to look at, and those that are pages or frames as files."""
        if job.order.kind not in ("predict", "follow"):
            return
        paths = []
        for item in self._chosen(job.order):
            if job.state != "running":
                return
            try:
                paths.append(item.path if item.is_file else item.store(_pages(job.folder)))
            except UserError:
                if job.order.kind == "follow":
                    raise
                paths.append(item.path)  # a broken one, as the command will say
        _images(job.folder).write_text("".join(f"{path}\n" for path in paths), encoding="utf-8")

    def _write_data(self, folder: Path, categories: list[int] | None = None) -> None:
        data = dataset_of(self.project, _pages(folder))
        if not len(data):
            raise UserError("nothing is annotated yet: mark objects on a few images first")
        write_coco_folder(folder / "data", some_classes(data, categories) if categories else data)
        shutil.rmtree(_pages(folder), ignore_errors=True)  # copied

    def arguments(self, job: Job) -> list[str]:
        """Of ``eachmask``."""
        order, folder = job.order, job.folder
        if order.kind == "train":
            every = str(max(1, job.total // 10))
            found = ["train", order.variant or VARIANT, "--data", str(folder / "data"), "--out", str(job.run)]
            found += ["--batch", str(BATCH), "--steps", str(job.total)]
            return [*found, "--evaluate-every", every, "--checkpoint-every", every]
        if order.kind == "follow":
            first = str(folder / tracks.FIRST)
            return ["track", f"@{_images(folder)}", "--first", first, "--out", str(_results(folder))]
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
        if job.order.kind == "follow":
            return lambda: len(_maps(job.folder)) / job.total
        if job.order.kind == "train":
            return lambda: max((step for step, _ in curve_of(job.run / "log.csv")), default=0) / job.total
        return lambda: 0.0

    def finish(self, job: Job) -> dict[str, Any]:
        """Take the results; what the page is told of them."""
        if job.order.kind == "predict":
            number = self._proposed(job)
            shutil.rmtree(_pages(job.folder), ignore_errors=True)
            return {"proposals": number}
        if job.order.kind == "follow":
            places = self._places(job.order)
            result = tracks.take(self.project, places, job.folder, _maps(job.folder))
            shutil.rmtree(_pages(job.folder), ignore_errors=True)
            return result
        if job.order.kind == "train":
            return {"model": str(job.run)}
        out = job.folder / "evaluation"
        return content_of(out / "evaluation.json") | {"report": str(out / "report.html")}

    def _proposed(self, job: Job) -> int:
        """Take what was predicted as proposals; how many there are."""
        data, _ = read_any(_results(job.folder) / "predictions.json", "coco", target=Instances)
        items = enumerate(self.project.items)
        places = {(i.path if i.is_file else _pages(job.folder) / i.stored).resolve(): place for place, i in items}
        number = 0
        for split in data.splits.values():
            for index in range(len(split)):
                place = places.get(split.path(index).resolve())
                if place is not None:
                    found = split.scored_targets(index)
                    self.project.propose(place, found)
                    number += len(found)
        return number


def _images(folder: Path) -> Path:
    return folder / "images.txt"


def _pages(folder: Path) -> Path:
    return folder / "pages"


def _maps(folder: Path) -> list[Path]:
    """Of the frames that were followed so far."""
    return sorted((_results(folder) / "davis").glob("*.png"))


def _results(folder: Path) -> Path:
    return folder / "results"
