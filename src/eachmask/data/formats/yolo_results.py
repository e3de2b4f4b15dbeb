"""Results as YOLO's texts, as Ultralytics' ``predict save_txt=True save_conf=True`` leaves them -> predictions.

A text is of the image of its name, and a class's number its place among the data's classes, unless ``classes.txt`` (or
``obj.names``) beside the texts, or in the folder above, names what the model calls them.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from eachmask.data.classes import Classes
from eachmask.data.formats.coco_results import Results, results_of
from eachmask.data.formats.result_ids import plain_stem, unique_names
from eachmask.data.formats.yolo import parsed_line
from eachmask.data.formats.yolo_texts import ends_in_tracks, listed, names_file, texts_in, without_last
from eachmask.data.split import Split
from eachmask.files.text import counted, read_text
from eachmask.structures import UserError


class _Line(NamedTuple):
    text: str
    place: int
    """Of its image in the data set."""
    where: str
    """File and line, for messages."""


def read_yolo_results(folder: Path, data: Split, classes: Classes | None = None) -> Results:
    """The texts of a folder. An image without one has no results, and a line without a score has that of 1.

    Args:
        classes: what the results may call the data's classes; by default as the data does.

    Raises:
        UserError: no text is of an image of the data, or a line cannot be read; names the file and the line.
    """
    classes = classes or Classes.of(data.categories)
    names, ids = names_file(folder), list(classes.ids)
    numbers = ids if names is None else list(range(len(listed(names))))
    lines, notes = _lines(folder, data)
    if ends_in_tracks([line.text for line in lines]):
        lines = [line._replace(text=without_last(line.text)) for line in lines]
        notes.append("the lines end in numbers of tracks: left out")
    rows = [_row(line, data, numbers) for line in lines]
    notes += _without_scores([line for line in lines if not _is_scored(line.text)], len(rows))
    content: Any = rows
    if names is not None:
        known = [{"id": number, "name": name} for number, name in enumerate(listed(names))]
        content = {"annotations": rows, "categories": known}
    found = results_of(content, data, folder, classes)
    return found._replace(notes=[*notes, *found.notes])


def _lines(folder: Path, data: Split) -> tuple[list[_Line], list[str]]:
    """The lines of all texts of images that are there to be measured, and what to note of the others."""
    images = {i: data.file_name(i) for i in range(len(data))}
    exact = unique_names(images, lambda name: str(PurePosixPath(name).with_suffix("")))
    stems = unique_names(images, plain_stem)
    texts, lines, foreign = texts_in(folder), list[_Line](), list[Path]()
    for file in texts:
        own = file.relative_to(folder).with_suffix("").as_posix()
        place = exact.get(own, stems.get(plain_stem(f"{own}.txt")))
        if place is None:
            foreign.append(file)
            continue
        rows = enumerate(read_text(file).splitlines(), start=1)
        lines += [_Line(text, place, f"{file}, line {number}") for number, text in rows if text.strip()]
    if foreign and len(foreign) == len(texts):
        raise UserError(
            f"{folder} is of other images than the annotations: {foreign[0].name} has the name of none of them, as "
            f"{images[0]} is"
        )
    return lines, [f"{counted(len(foreign), 'text')} of images that are not annotated: left out"] if foreign else []


def _is_scored(line: str) -> bool:
    """Whether a line has a number more than a class and a box, or pairs of x and y."""
    return len(line.split()) % 2 == 0


def _row(line: _Line, data: Split, numbers: list[int]) -> dict[str, Any]:
    """A line as COCO's result."""
    try:
        scored = _is_scored(line.text)
        label, ring, score = parsed_line(line.text, data.image_size(line.place), len(numbers), None, scored)
    except ValueError as error:
        remedy = "write the names of the model's classes into classes.txt" if "names" in str(error) else "mend it"
        raise UserError(f"{line.where}: {error}: {remedy}") from None
    row = {
        "image_id": data.image_id(line.place),
        "category_id": numbers[label],
        "score": 1.0 if score is None else score,
    }
    if len(line.text.split()) == 5 + scored:
        x1, y1, _, _, x2, y2 = ring[:6]
        return row | {"bbox": [x1, y1, x2 - x1, y2 - y1]}
    return row | {"segmentation": [ring]}


def _without_scores(bare: list[_Line], number: int) -> list[str]:
    if not bare:
        return []
    some = "the texts have no scores" if len(bare) == number else f"{len(bare)} of {number} lines have no score"
    return [f"{some}: measured as if these were 1, so that AP cannot rank them (save_conf=True writes them)"]
