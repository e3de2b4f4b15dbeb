"""Reading a data set of any known format, which is found out."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from eachmask.data.dataset import Dataset
from eachmask.data.elsewhere import with_images
from eachmask.data.formats.format import Format
from eachmask.data.formats.known import FORMATS
from eachmask.data.image_files import ImageFiles
from eachmask.data.images.files import clutter_in, safe_name
from eachmask.data.nearest import nearest
from eachmask.data.problems import Problem, gathered
from eachmask.files.progress import Progress, no_progress
from eachmask.structures import UserError
from eachmask.structures.checks import check_path

_SPELLINGS = {"valid": "val", "validation": "val", "training": "train", "testing": "test"} | {
    name: name for name in ("train", "val", "test")
}
"""What tools call the usual splits, in letters of either case."""


def read(
    path: str | os.PathLike[str],
    format: str | None = None,
    split: str | None = None,
    images: str | os.PathLike[str] | None = None,
    target: type[Any] | None = None,
) -> Dataset[Any]:
    """Read an annotated data set; images are read later, one by one.

    >>> import eachmask, json, tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> images = [{"id": 1, "file_name": "a.png", "width": 6, "height": 4}]
    >>> ring = {"id": 1, "image_id": 1, "category_id": 3, "segmentation": [[1, 1, 5, 1, 5, 3, 1, 3]]}
    >>> content = {"images": images, "annotations": [ring], "categories": [{"id": 3, "name": "cell"}]}
    >>> _ = (folder / "instances_train.json").write_text(json.dumps(content))
    >>> data = eachmask.data.read(folder)
    >>> data.splits["train"].targets(0).masks.area().tolist()
    [8]

    Args:
        path: folder of the data set, or its annotation file.
        format: coco, yolo, darknet, voc, voc-boxes, cityscapes, labelme, cvat, label-maps, mask-files, datumaro, via,
            label-studio, qupath, imagej, cvppp, cellpose, class-maps, coco-panoptic or mattes; found out if None.
        split: keep this one only, for example ``val``.
        images: where the images are, if not in the data set's folder.
        target: what is to be read of each image, where a folder could mean several things:
            :class:`~eachmask.structures.Instances`, ``SemanticMap``, ``PanopticMap``, ``Matte``; any if None.

    Returns:
        the data set; ``problems`` says what could not be used.

    Raises:
        UserError: nothing is there or nothing known, not one image, or no such split.
    """
    check_path("data set", path)
    if images is not None:
        check_path("folder of images", images)
    if not isinstance(target, type | None):
        raise UserError(f"target must be a class, such as eachmask.structures.Instances, not {target!r}")
    data, _ = read_any(Path(path), format, images=None if images is None else Path(images), target=target)
    if split is None:
        return data
    if split not in data.splits:
        raise UserError(f"{path} has no split {split!r}: choose one of {', '.join(data.splits)}")
    return data.with_splits({split: data.splits[split]})


def read_any(
    source: Path,
    source_format: str | None = None,
    progress: Progress = no_progress,
    images: Path | None = None,
    target: type[Any] | None = None,
) -> tuple[Dataset[Any], Format]:
    """Read a data set in the given or the detected format.

    Args:
        images: the folder to look for images in, where they are not in the data set's own.
        target: what is to be read of each image (a noun of ``eachmask.structures``); any if None.

    Raises:
        UserError: as :func:`detect_format` and the format's own reader; there is not one image, no folder ``images``,
            or targets of another kind.
    """
    if images is not None and not images.is_dir():
        raise UserError(f"{images} is no folder: --images must be the folder of the images")
    chosen = detect_format(source, target) if source_format is None else format_named(source_format)
    if target is not None and not issubclass(chosen.target, target):
        raise _other_target(f"{source}, read as {chosen.name},", chosen.target, target)
    data = with_images(contained(_read(chosen, source, progress, images)), source, images)
    data.problems[:] = [*gathered(data.problems), *_clutter(source)]
    if not len(data):
        more = f" ({data.problems[0]})" if data.problems else ""
        raise UserError(f"{source} holds no usable image in the format {chosen.name}{more}")
    return data, chosen


def _clutter(source: Path) -> Iterator[Problem]:
    """What to say of what other programs have left behind."""
    found = clutter_in(source) if source.is_dir() else []
    if found:
        what = f"{len(found)} entries are hidden, or left behind by other programs: {', '.join(found[:3])}"
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        yield Problem(str(source), "", what + more, "they are skipped", "clutter", "note")


def _read(chosen: Format, source: Path, progress: Progress, images: Path | None) -> Dataset[Any]:
    try:
        return chosen.read(source, progress, images=images) if chosen.takes_images else chosen.read(source, progress)
    except OSError as error:
        if error.filename is None:
            raise
        raise UserError(f"{error.filename} cannot be read ({error.strerror or error})") from None
    except MemoryError:
        raise UserError(f"{source} needs more memory than there is: split it into parts") from None
    except Exception as error:  # what no reader has thought of: a sentence all the same
        if isinstance(error, UserError):
            raise
        detail = " ".join(str(error).split())[:200]
        raise UserError(
            f"{source} cannot be read in the format {chosen.name} ({type(error).__name__}: {detail}): export it again"
        ) from error


def format_named(name: str) -> Format:
    """The format of that name.

    Raises:
        UserError: there is none.
    """
    for known in FORMATS:
        if known.name == name:
            return known
    raise UserError(f"there is no format {name!r}: choose one of {', '.join(sorted(f.name for f in FORMATS))}")


def check_target(data: Dataset[Any], target: type[Any], name: str) -> None:
    """Raises UserError where a data set that was read holds other targets than a model is for."""
    split = next((split for split in data.splits.values() if len(split)), None)
    first = None if split is None else split.targets(0)
    if first is not None and not isinstance(first, target):
        raise _other_target(name, type(first), target)


def _other_target(name: str, found: type[Any], target: type[Any]) -> UserError:
    formats, others = _formats_of(target), _formats_of(found)
    remedy = f"they are in data sets of the format {formats}" if formats else "no format holds them"
    more = f"; {found.__name__} can be converted to {others}" if others else ""
    return UserError(f"{name} holds {found.__name__} and not {target.__name__}: {remedy}{more}")


def _formats_of(target: type[Any]) -> str:
    names = [known.name for known in FORMATS if issubclass(known.target, target)]
    more = [f"{len(names) - 3} others"] if len(names) > 4 else []
    return " or ".join([*names[:3], *more] if more else names)


def detect_format(source: Path, target: type[Any] | None = None) -> Format:
    """The format of a data set, by what marks it.

    Args:
        target: those that hold such targets come first: a folder of images and of label maps may mean objects or
            classes.

    Raises:
        UserError: nothing is there, or nothing known.
    """
    if not source.exists():
        raise UserError(f"{source} does not exist")
    first = sorted(FORMATS, key=lambda known: target is not None and not issubclass(known.target, target))
    found = next((known for known in first if known.looks_like(source)), None)
    if found is None and source.is_file() and source.suffix.lower() == ".json":
        found = format_named("coco")  # whose reader says what is missing
    if found is None and source.is_file():
        remedy = nearest(source) or "pass the data set's folder"
        raise UserError(f"{source} is no annotation file that is known: {remedy}")
    if found is None:
        tried = "; ".join(f"{known.name}: {known.marks}" for known in FORMATS)
        raise UserError(
            f"{source} holds no data set in a known format: {nearest(source)}. Tried were {tried}; --from names the "
            "format, docs/data.md says more"
        )
    return found


def contained(data: Dataset[Any]) -> Dataset[Any]:
    """The set with splits and images whose names are safe to be written under, whatever the source says; ``valid`` is
    ``val``."""
    splits: dict[str, ImageFiles[Any]] = {}
    for name, split in data.splits.items():
        plain = re.sub(r"[^\w.-]+", "_", name).strip(".") or "all"
        usual = _SPELLINGS.get(plain.casefold(), plain)
        plain = plain if usual in data.splits or usual in splits else usual
        kept = [i for i in range(len(split)) if _is_safe(split, i, data.problems)]
        splits[plain] = split if len(kept) == len(split) else split.take(np.array(kept, np.int64))
    return data.with_splits(splits)


def _is_safe(split: ImageFiles[Any], index: int, problems: list[Problem]) -> bool:
    try:
        safe_name(split.names[index], split.path(index))
    except UserError as error:
        problems.append(Problem(split.files[index], "", str(error), "rename it", "image"))
        return False
    return True
