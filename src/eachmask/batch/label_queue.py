"""The review queue of a labeling run: what the rules neither kept nor dropped, the most doubtful first.

``queue.csv`` has a row for each object. A person writes yes or no in its first column and starts the same command
again: yes makes it an annotation, no drops it for good; either way it leaves the queue.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eachmask import draw
from eachmask.data.formats.spreadsheet import csv_text, escaped, unescaped
from eachmask.data.images.read import read_image
from eachmask.files import html
from eachmask.files.atomic import write_text
from eachmask.files.jpeg import reduced
from eachmask.files.json_text import read_json_file
from eachmask.files.text import read_text
from eachmask.structures import Instances, UserError

CSV, PAGE, ANSWERS = "queue.csv", "queue.html", "answers.json"
COLUMNS = ("keep", "image", "object", "class", "x1", "y1", "x2", "y2", "predicted_iou", "stability", "doubt", "why")
SHOWN = 200
"""So many objects are drawn on the page."""
_YES, _NO = ("yes", "y", "1", "true", "keep"), ("no", "n", "0", "false", "drop")
_SIDE, _MARGIN = 220, 0.4


@dataclass(frozen=True)
class Doubtful:
    """One object in the queue."""

    image: str
    path: Path
    number: int
    """Place among the objects of its image, from 1."""
    found: Instances
    """It alone."""
    stability: float
    doubt: float
    why: str

    @property
    def key(self) -> str:
        """What an answer is about: this object at this place."""
        return "|".join([self.image, str(self.number), *self.corners])

    @property
    def corners(self) -> list[str]:
        """Its box, whole pixels."""
        return [str(round(value)) for value in self.found.boxes[0].tolist()]

    def row(self) -> list[str]:
        """Of the table."""
        assert self.found.scores is not None
        numbers = [f"{value:.3f}" for value in (float(self.found.scores[0]), self.stability, self.doubt)]
        return ["", self.image, str(self.number), self.found.label_names[0], *self.corners, *numbers, self.why]


class Answers:
    """What people have answered so far.

    Args:
        file: where answers are kept.
        new: those of :func:`read_answers`.
    """

    def __init__(self, file: Path, new: Mapping[str, bool]) -> None:
        self.known = _kept_answers(file) if file.is_file() else {}
        if new:
            self.known |= dict(new)
            write_text(file, json.dumps(self.known, indent=0))

    def of(self, one: Doubtful) -> bool | None:
        """Yes, no, or nothing yet."""
        return self.known.get(one.key)


def _kept_answers(file: Path) -> dict[str, bool]:
    known = read_json_file(file)
    if not isinstance(known, dict) or not all(isinstance(answer, bool) for answer in known.values()):
        raise UserError(f"{file} is damaged: remove it, and what was answered is asked again")
    return known


def read_answers(out: Path) -> dict[str, bool]:
    """What is answered in the ``queue.csv`` of a results folder; nothing where there is none.

    Raises:
        UserError: the table is none, or an answer is neither yes nor no.
    """
    return dict(_answers(out / CSV)) if (out / CSV).is_file() else {}


def _answers(path: Path) -> Iterable[tuple[str, bool]]:
    rows = csv.DictReader(io.StringIO(read_text(path)))
    missing = [name for name in (*COLUMNS[:3], *COLUMNS[4:8]) if name not in (rows.fieldnames or ())]
    if missing:
        raise UserError(f"{path} has no column {missing[0]}: save it with all its columns, separated by commas")
    for number, row in enumerate(rows, start=2):
        said = (row["keep"] or "").strip().lower()
        if said and said not in _YES + _NO:
            raise UserError(f"{path}, line {number}: keep must be yes, no or empty, not {said!r}")
        if said:
            corners = [row[name] for name in COLUMNS[4:8]]
            yield "|".join([unescaped(row["image"]), row["object"], *corners]), said in _YES


def write_queue(out: Path, queue: Sequence[Doubtful]) -> None:
    """Write the table and the page.

    Args:
        queue: the most doubtful first.
    """
    write_text(out / CSV, csv_text([COLUMNS, *([escaped(text) for text in one.row()] for one in queue)]))
    write_text(out / PAGE, _page(queue))


def _page(queue: Sequence[Doubtful]) -> str:
    note = f"Write yes or no in the first column of {CSV} and start the same command again."
    more = f" Drawn are the first {SHOWN}." if len(queue) > SHOWN else ""
    top = html.headline(
        "review", "The most doubtful first", [(f"{len(queue):,}", "objects to be reviewed")], note + more
    )
    images: dict[Path, NDArray[Any]] = {}
    cards = []
    for one in queue[:SHOWN]:
        if one.path not in images:
            images = {one.path: read_image(one.path)}  # one at a time
        name = f"{one.image}, object {one.number}: {one.found.label_names[0]}"
        source = draw.jpeg_source(_portrait(images[one.path], one.found))
        cards.append(
            f'<figure class="seen"><img src="{source}" alt="{escape(name)}">'
            f"<figcaption>{escape(name)}<br>{escape(one.why)}</figcaption></figure>"
        )
    style = ".seen{display:inline-block;margin:.5rem;max-width:240px;vertical-align:top;font-size:.8rem}"
    return html.page("Review", top, "".join(cards), style=style)


def _portrait(image: NDArray[Any], found: Instances) -> NDArray[np.uint8]:
    """The object with what is around it, drawn in, no longer than a few hundred px."""
    height, width = found.image_size
    x1, y1, x2, y2 = found.boxes[0].tolist()
    margin = _MARGIN * max(x2 - x1, y2 - y1) + 8
    left, top = max(0, int(x1 - margin)), max(0, int(y1 - margin))
    window = (left, top, min(width, int(x2 + margin) + 1), min(height, int(y2 + margin) + 1))
    part = image[window[1] : window[3], window[0] : window[2]]
    return reduced(draw.draw_instances(part, found.crop(window)), _SIDE)
