"""A folder of images -> annotations in any format, and a queue for review; what people corrected stays theirs.

Each image is labeled once and recorded in the journal, so that a run killed at any moment resumes. From the journal the
data set is written anew at the end of each run: to files that are still as a run wrote them, never over others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from eachmask.batch.corrected import NEW, NOTES, OwnFiles, Placed
from eachmask.batch.label_queue import ANSWERS, CSV, PAGE, Answers, Doubtful, read_answers, write_queue
from eachmask.data.builder import DatasetBuilder
from eachmask.data.dataset import Dataset
from eachmask.data.formats.format import Format
from eachmask.data.formats.segmentations import rasterize_one
from eachmask.data.images.inputs import Inputs, Source
from eachmask.data.images.read import read_image
from eachmask.data.reading import format_named
from eachmask.data.targets import instances_of
from eachmask.files.journal import Journal
from eachmask.files.progress import Progress, no_progress
from eachmask.files.text import counted
from eachmask.inference.labeling import Labeled, Labeler
from eachmask.structures import Instances, UserError
from eachmask.structures.coco import to_annotations

DATA = "data"
"""Folder of the annotated data set in the results folder."""
SPLIT = "train"


@dataclass
class LabelSummary:
    """What a run came to."""

    images: int = 0
    kept: int = 0
    """Objects that are annotations, those among them to which a person said yes included."""
    queued: int = 0
    """Objects that wait for review."""
    answered: int = 0
    """Answers that were found in the queue."""
    resumed: int = 0
    """Images that an earlier run had labeled."""
    failed: dict[str, str] = field(default_factory=dict)
    """Why an image could not be used, by its name."""
    files: Placed = field(default_factory=Placed)


def label_images(
    labeler: Labeler,
    inputs: Inputs,
    out: Path,
    to: str = "coco",
    *,
    classes: Sequence[str] = (),
    overwrite: bool = False,
    progress: Progress = no_progress,
) -> LabelSummary:
    """Label all images and write the data set and the queue.

    Args:
        inputs: from :func:`eachmask.data.images.inputs.find_inputs`.
        out: results folder: ``data/`` in the chosen format, ``queue.csv`` and ``queue.html``. If it holds a run of the
            same models and rules, only what is missing is labeled.
        to: name of a format.
        classes: of the detector's; all by default.
        overwrite: label everything anew, also by other models and rules. What people corrected stays all the same.

    Raises:
        UserError: no such format, a folder of other settings, or a queue with an answer that is none.
    """
    written = format_named(to)
    settings = {
        "drawing model": labeler.drawer.fingerprint,
        "detector": "" if labeler.detector is None else labeler.detector.fingerprint,
        "class": labeler.name,
        "classes": list(classes),
        "format": written.name,
        **{f"rule {name}": value for name, value in asdict(labeler.rules).items()},
    }
    summary, new = LabelSummary(len(inputs.sources)), read_answers(out)
    summary.answered = len(new)
    with Journal(out, settings, (DATA, CSV, PAGE), overwrite) as journal:
        answers = Answers(journal.folder / ANSWERS, new)
        for source in progress("labeling", inputs.sources):
            if journal.is_done(source):
                summary.resumed += 1
                continue
            try:
                _record(journal, source, labeler(_pixels(source), tuple(classes)))
            except UserError as error:
                summary.failed[source.name] = str(error)
        data, queue = _gather(journal, inputs, labeler, answers, summary)
        write_queue(out, queue)
        summary.files = _place(journal, written, data, progress)
    return summary


def _pixels(source: Source) -> Any:
    if source.problem:
        raise UserError(f"{source.path} {source.problem}")
    if "#page=" in source.name:
        raise UserError(f"{source.path} has several pages: save each as a file of its own")
    return read_image(source.path)


def _record(journal: Journal, source: Source, found: Labeled) -> None:
    body = {
        "size": list(found.instances.image_size),
        "annotations": to_annotations(found.instances),
        "stability": found.stability.round(4).tolist(),
        "doubt": found.doubt.round(4).tolist(),
        "reasons": list(found.reasons),
    }
    journal.append(source, {"objects": len(found.instances)}, body)


def _gather(
    journal: Journal, inputs: Inputs, labeler: Labeler, answers: Answers, summary: LabelSummary
) -> tuple[Dataset, list[Doubtful]]:
    """The data set and the queue, from the journal."""
    builder, queue = DatasetBuilder(labeler.categories), list[Doubtful]()
    for source in inputs.sources:
        if not journal.is_done(source):
            continue
        found, doubtful = _recorded(journal.body(source), source, labeler)
        said = {one.number - 1: answers.of(one) for one in doubtful}
        sure = np.array([said.get(i, True) is True for i in range(len(found))], bool)
        builder.add(SPLIT, source.name, source.path, found[sure])
        summary.kept += int(sure.sum())
        queue += [one for one in doubtful if said[one.number - 1] is None]
    queue.sort(key=lambda one: -one.doubt)
    summary.queued = len(queue)
    return builder.build(), queue


def _place(journal: Journal, to: Format, data: Dataset, progress: Progress) -> Placed:
    """The data set in its format, except over what people have changed."""
    if not len(data):
        return Placed()
    fresh = journal.folder / "parts" / DATA
    to.write(fresh, data, progress)
    return OwnFiles(journal.out, journal.folder / NOTES).put(fresh, DATA)


def _recorded(body: dict[str, Any], source: Source, labeler: Labeler) -> tuple[Instances, list[Doubtful]]:
    """All objects of an image, and those among them that the rules did not keep."""
    rows, size = body["annotations"], (int(body["size"][0]), int(body["size"][1]))
    place = {category.id: i for i, category in enumerate(labeler.categories)}
    labels = [place[row["category_id"]] for row in rows]
    scores = [row["score"] for row in rows]
    found = instances_of(rasterize_one(rows, size), labels, [False] * len(rows), labeler.categories, scores)
    doubtful = [
        Doubtful(source.name, source.path, i + 1, found[[i]], body["stability"][i], body["doubt"][i], why)
        for i, why in enumerate(body["reasons"])
        if why
    ]
    return found, doubtful


def said(summary: LabelSummary, out: Path) -> list[str]:
    """What a run came to, in sentences."""
    done = summary.images - len(summary.failed)
    lines = [f"{counted(done, 'image')}: {counted(summary.kept, 'object')} annotated in {out / DATA}"]
    if summary.answered:
        lines.append(f"{counted(summary.answered, 'answer')} taken over from {CSV}")
    if summary.queued:
        lines.append(f"{counted(summary.queued, 'object')} to be reviewed, the most doubtful first: {out / PAGE}")
    for what, names in (("corrected", summary.files.corrected), ("removed", summary.files.removed)):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            end = "left as somebody made it" if what == "corrected" else "removed by somebody, and stays away"
            lines.append(f"{counted(len(names), 'file')} {end}: {', '.join(names[:3])}{more}")
    if summary.files.beside:
        lines.append(f"what this run would have written there is in {out / NEW}")
    return lines
