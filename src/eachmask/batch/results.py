"""The files about a whole run, streamed from its journal: nothing here grows with what was found.

They hold no dates and no times, so that an interrupted and resumed run ends with the same bytes as one that was
not. Each is complete or absent.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from eachmask.batch.report import ReportImage, write_report
from eachmask.data.images.inputs import Inputs, Source
from eachmask.files.journal import Journal
from eachmask.structures import UserError
from eachmask.tasks.task import About, Outputs, Record, Recorded

OVERLAYS, THUMBNAIL = "overlays", "thumbnail"
"""Folder of the overlays; name of the thumbnail in a record."""
ABOUT_ALL = ("summary.json", "report.html")
"""Files that every run ends with, besides those of its task."""


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
    animations: int = 0
    """Images of which the first frame alone was read."""
    failures: list[Failure] = field(default_factory=list)
    skipped_files: list[Failure] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)

    def number_of(self, noun: str) -> int:
        """How many of what is counted there are in all images together; a class that several images show is one."""
        return len(self.objects_per_class) if noun == "class" else self.objects


def names_made(outputs: Outputs[Any]) -> tuple[str, ...]:
    """All that a run may make in its results folder."""
    return (*outputs.collections, *ABOUT_ALL, OVERLAYS, *outputs.writers)


@dataclass(frozen=True)
class Finished:
    """A run whose images are done: what its files are made of.

    Args:
        journal: open, with a record of every image that is done.
        failures: by the name of the image.
    """

    journal: Journal
    inputs: Inputs
    failures: Mapping[str, Failure]
    about: About
    outputs: Outputs[Any]

    def write(self) -> Summary:
        """Put together the files of the task, ``report.html`` and, last, ``summary.json``.

        Raises:
            UserError: the journal is damaged in a way that its checksums do not show.
        """
        try:
            summary = self._summary()
            for name, collection in self.outputs.collections.items():
                with self.journal.replacing(self.journal.out / name) as handle:
                    for text in collection(self.records, self.about):
                        handle.write(text.encode())
            with self.journal.replacing(self.journal.out / "report.html") as handle:
                write_report(handle, summary, self._images, noun=self.outputs.noun, data=[*self.outputs.collections])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            if isinstance(error, UserError):
                raise
            raise self.journal.damaged() from error
        text = json.dumps(asdict(summary), indent=1) + "\n"
        self.journal.write(self.journal.out / "summary.json", text.encode())
        return summary

    def records(self) -> Iterator[Recorded]:
        """All images that are done, in the order of the inputs."""
        for number, source in self._done():
            yield Recorded(number, source.name, Record(self.journal.header(source), self.journal.body(source)))

    def _done(self) -> Iterator[tuple[int, Source]]:
        for number, source in enumerate(self.inputs.sources, start=1):
            if self.journal.is_done(source):
                yield number, source

    def _images(self) -> Iterator[ReportImage]:
        for image in self.records():
            header = image.record.header
            yield ReportImage(
                name=image.name,
                width=header["width"],
                height=header["height"],
                objects=header["objects"],
                mean_score=header["mean_score"],
                classes=header["classes"],
                thumbnail=image.record.body[THUMBNAIL],
                overlay=next((name for name in header["files"] if name.startswith(f"{OVERLAYS}/")), ""),
            )

    def _summary(self) -> Summary:
        per_class: Counter[str] = Counter()
        total: Counter[str] = Counter()
        for _, source in self._done():
            header = self.journal.header(source)
            per_class.update(header["classes"])
            total.update(done=1, objects=header["objects"], hidden=header["hidden"])
        failed = [self.failures[source.name] for source in self.inputs.sources if source.name in self.failures]
        about = self.about
        return Summary(
            model={"name": about.name or about.variant, "variant": about.variant, "license": about.license},
            images=len(self.inputs.sources),
            done=total["done"],
            failed=len(failed),
            skipped=len(self.inputs.skipped),
            objects=total["objects"],
            hidden_in_label_maps=total["hidden"],
            animations=len(self.inputs.animations),
            objects_per_class=dict(sorted(per_class.items(), key=lambda item: (-item[1], item[0]))),
            failures=failed,
            skipped_files=[Failure(name, reason) for name, reason in self.inputs.skipped],
            settings=self.journal.settings,
        )
