"""Any annotation format to any other, through packed runs; what is lost on the way is measured, not guessed.

After writing, the target is read again and every object is compared with its original, pixel by pixel.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from eachmask.data.compare import Loss, compare, compare_files
from eachmask.data.dataset import Dataset
from eachmask.data.file_split import FileSplit
from eachmask.data.formats.format import Format
from eachmask.data.problems import Problem
from eachmask.data.reading import format_named, read_any
from eachmask.data.targets import masks_of
from eachmask.files.new_folder import check_free, new_folder
from eachmask.files.progress import Progress, no_progress
from eachmask.structures import Instances, UserError

REPORT = "convert-report.json"


@dataclass
class Conversion:
    """The report of one conversion."""

    source: str
    source_format: str
    target: str
    target_format: str
    loss: Loss
    with_holes: int
    """Objects of the source with holes."""
    with_parts: int
    """Objects of the source with several parts."""
    notes: list[str]
    problems: list[Problem]
    worst: list[tuple[str, int, float]] = field(default_factory=list)
    """(image, object from 1, IoU) of the most changed objects."""
    of_objects: bool = True
    """False: of maps or mattes, each of which counts as one object."""

    def write(self, path: Path) -> None:
        """As JSON."""
        content = asdict(self) | {"problems": [str(problem) for problem in self.problems]}
        path.write_text(json.dumps(content, indent=1), encoding="utf-8")


def convert(
    source: Path,
    target: Path,
    to: str,
    source_format: str | None = None,
    progress: Progress = no_progress,
    images: Path | None = None,
) -> Conversion:
    """Read ``source``, write it to the new folder ``target``, read that again and compare; the folder gets its name
    when all that is done.

    ``images`` is the folder to look for images in, where they are not in the data set's own. Both sets are held as
    packed runs; pixels are looked at one image at a time.

    Raises:
        UserError: unknown or undetectable format, or the target is not empty.
    """
    written = format_named(to)
    check_free(target)
    data, found = read_any(source, source_format, progress, images, written.target)
    if written.target is not Instances:
        return _convert_files(data, (source, found), (target, written), progress)
    data, notes = _unique_names(data)
    problems = list(data.problems)
    for _, image in data.images():
        if not image.path.is_file():
            what, remedy = "the image is missing", "put it there; its annotations are kept where the format can"
            problems.append(Problem(str(image.path), "", what, remedy, "missing"))
    with new_folder(target) as folder:
        notes += written.write(folder, data, progress)
        try:
            again = written.read(folder, lambda what, items: progress(f"{what} back", items))
        except UserError as error:  # formats without sizes of their own hold nothing where all images are missing
            again = Dataset(data.categories, {})
            what = f"it cannot be read back ({error})".replace(str(folder), str(target))
            problems.append(Problem(str(target), "", what, "add the images first", "file"))
        loss, worst = compare(data, again, progress)
        holes, parts = _count_shapes(data, progress)
        report = Conversion(
            str(source), found.name, str(target), written.name, loss, holes, parts, notes, problems, worst[:20]
        )
        report.write(folder / REPORT)
    return report


def _convert_files(
    data: Dataset[FileSplit[Any]], origin: tuple[Path, Format], aim: tuple[Path, Format], progress: Progress
) -> Conversion:
    """:func:`convert` of maps and mattes."""
    (source, found), (target, written) = origin, aim
    with new_folder(target) as folder:
        notes = written.write(folder, data, progress)
        again = written.read(folder, lambda what, items: progress(f"{what} back", items))
        loss, worst = compare_files(data, again, progress)
        names = str(source), found.name, str(target), written.name
        report = Conversion(*names, loss, 0, 0, notes, data.problems, worst[:20], of_objects=False)
        report.write(folder / REPORT)
    return report


def _unique_names(data: Dataset) -> tuple[Dataset, list[str]]:
    """The set with names that every format can hold, and what had to be renamed."""
    data, cleaned = _clean_class_names(data)
    data, renamed = make_images_unique(data)
    data, doubled = make_classes_unique(data)
    notes = [f"class names that not every format can hold were changed: {', '.join(cleaned)}"] if cleaned else []
    notes += [f"{renamed} images had the same name as another but for the suffix and got a number"] if renamed else []
    return data, notes + ([f"classes of one name got their ids added: {', '.join(doubled)}"] if doubled else [])


def _clean_class_names(data: Dataset) -> tuple[Dataset, list[str]]:
    """Names without line breaks and spaces at their ends, and none that is empty; what they are now."""
    plain = [" ".join(c.name.split()) or f"class {c.id}" for c in data.categories]
    changed = [new for old, new in zip(data.categories, plain, strict=True) if new != old.name]
    return data.renamed(plain) if changed else data, changed


def make_images_unique(data: Dataset) -> tuple[Dataset, int]:
    """a.jpg and a.png would share one label file: the later gets another name. How many did."""
    splits, renamed = dict(data.splits), 0
    for split, images in data.splits.items():
        names: list[str] = []
        taken: set[str] = set()
        for image in images.images():
            stem, number = image.stem, 1
            while stem.casefold() in taken:
                number += 1
                stem = f"{image.stem}_{number}"
            taken.add(stem.casefold())
            names.append(image.name if number == 1 else f"{stem}{PurePosixPath(image.name).suffix}")
            renamed += number > 1
        splits[split] = images.renamed(names)
    return (data.with_splits(splits), renamed) if renamed else (data, 0)


def make_classes_unique(data: Dataset) -> tuple[Dataset, list[str]]:
    """Classes of one name get their ids added; these names."""
    names = Counter(c.name for c in data.categories)
    doubled = [name for name, count in names.items() if count > 1]
    unique = [f"{c.name} {c.id}" if names[c.name] > 1 else c.name for c in data.categories]
    return data.renamed(unique) if doubled else data, doubled


def _count_shapes(data: Dataset, progress: Progress) -> tuple[int, int]:
    """How many objects have holes, and how many several parts."""
    holes = parts = 0
    for _, image in progress("counting", list(data.images())):
        polygons = masks_of(image.targets).to_polygons()
        holes += sum(bool(rings) for rings in polygons.holes)
        parts += sum(len(rings) > 1 for rings in polygons.outers)
    return holes, parts
