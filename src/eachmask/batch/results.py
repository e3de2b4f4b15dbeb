"""The files about a whole run, streamed from its journal: nothing here grows with what was found.

They hold no dates and no times, so that an interrupted and resumed run ends with the same bytes as one that was
not. Each is complete or absent.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from eachmask.batch.report import ReportImage, write_report
from eachmask.data.formats import table
from eachmask.data.formats.coco import category_to_dict
from eachmask.data.images.inputs import Inputs, Source
from eachmask.files.journal import Journal, compact_json

if TYPE_CHECKING:
    from eachmask.weights.file import ModelInfo

FINAL_FILES = ("predictions.json", "instances.csv", "summary.json", "report.html")


@dataclass(frozen=True)
class Failure:
    """A file that gave no result, and why, in a sentence."""

    file: str
    reason: str


@dataclass(frozen=True)
class Summary:
    """What a run came to; ``summary.json``."""

    model: dict[str, Any]
    images: int
    """Images that were asked for: done and failed."""
    done: int
    failed: int
    skipped: int
    """Files in searched folders that are no images; they are no failure."""
    objects: int
    objects_per_class: dict[str, int] = field(default_factory=dict)
    hidden_in_label_maps: int = 0
    """Objects whose pixels all belong to better ones, so that no label map has them."""
    failures: list[Failure] = field(default_factory=list)
    skipped_files: list[Failure] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)


def write_results(journal: Journal, inputs: Inputs, failures: Mapping[str, Failure], info: ModelInfo) -> Summary:
    """Put together ``predictions.json``, ``instances.csv``, ``report.html`` and, last, ``summary.json``.

    Args:
        journal: open, with a record of every image that is done.
        failures: by the name of the image.
    """
    done = [(number, s) for number, s in enumerate(inputs.sources, start=1) if journal.is_done(s)]
    summary = _summary(journal, inputs, failures, info, [source for _, source in done])
    with journal.replacing(journal.out / "predictions.json") as handle:
        for text in _predictions(journal, done, info):
            handle.write(text.encode())
    with journal.replacing(journal.out / "instances.csv") as handle:
        handle.write(table.to_csv(()).encode())
        for _, source in done:
            handle.write(journal.body(source)["table"].encode())
    with journal.replacing(journal.out / "report.html") as handle:
        write_report(handle, summary, lambda: (_image(journal, source) for _, source in done))
    journal.write(journal.out / "summary.json", (json.dumps(asdict(summary), indent=1) + "\n").encode())
    return summary


def _predictions(journal: Journal, done: list[tuple[int, Source]], info: ModelInfo) -> Iterator[str]:
    """COCO: info, images, categories, annotations with RLE and score; one image or annotation per line.

    Image ids are the places in the list of inputs from 1, so that an image that failed leaves a gap and moves no
    other. ``label`` is the object's number in its image, as in label maps, crops and the table.
    """
    about = {"description": "eachmask predictions", "model": info.name or info.variant, "license": info.license}
    yield f'{{"info":{compact_json(about)},\n"images":['
    for i, (number, source) in enumerate(done):
        header = journal.header(source)
        row = {"id": number, "file_name": source.name, "width": header["width"], "height": header["height"]}
        yield f"{',' if i else ''}\n{compact_json(row)}"
    categories = [category_to_dict(category) for category in info.categories]
    yield f'],\n"categories":{compact_json(categories)},\n"annotations":['
    count = 0
    for number, source in done:
        for label, annotation in enumerate(journal.body(source)["annotations"], start=1):
            row = {"id": count + 1, "image_id": number, "label": label, **annotation}
            yield f"{',' if count else ''}\n{compact_json(row)}"
            count += 1
    yield "]}\n"


def _summary(
    journal: Journal, inputs: Inputs, failures: Mapping[str, Failure], info: ModelInfo, done: list[Source]
) -> Summary:
    per_class: dict[str, int] = {}
    objects = hidden = 0
    for source in done:
        header = journal.header(source)
        objects += header["objects"]
        hidden += header["hidden"]
        for name, count in header["classes"].items():
            per_class[name] = per_class.get(name, 0) + count
    failed = [failures[source.name] for source in inputs.sources if source.name in failures]
    return Summary(
        model={"name": info.name or info.variant, "variant": info.variant, "license": info.license},
        images=len(inputs.sources),
        done=len(done),
        failed=len(failed),
        skipped=len(inputs.skipped),
        objects=objects,
        hidden_in_label_maps=hidden,
        objects_per_class=dict(sorted(per_class.items(), key=lambda item: (-item[1], item[0]))),
        failures=failed,
        skipped_files=[Failure(name, reason) for name, reason in inputs.skipped],
        settings=journal.settings,
    )


def _image(journal: Journal, source: Source) -> ReportImage:
    header, body = journal.header(source), journal.body(source)
    overlay = next((name for name in header["files"] if name.startswith("overlays/")), "")
    return ReportImage(
        name=source.name, width=header["width"], height=header["height"], objects=header["objects"],
        mean_score=header["mean_score"], classes=header["classes"], thumbnail=body["thumbnail"], overlay=overlay,
    )  # fmt: skip
