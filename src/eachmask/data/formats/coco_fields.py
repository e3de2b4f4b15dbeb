"""The entries of COCO files, field by field, as the many tools that write them spell them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, cast
from urllib.parse import unquote, urlsplit

import numpy as np
from numpy.typing import NDArray

from eachmask.data.images.files import find_image, first_file, image_files, safe_name, spelled
from eachmask.files.json_text import read_json_file
from eachmask.structures import Category, UserError

_KNOWN = {"id", "name", "supercategory", "isthing", "keypoints", "skeleton"}
"""What a :class:`Category` holds of its entry."""
_MAX_COORDINATE = 1e15
"""No coordinate is as large as this, px; whole numbers of JSON may be too large for arithmetic."""


def read_categories(rows: Any, path: str | Path) -> tuple[Category, ...]:
    """The ``categories`` block, in the file's order; ids must differ."""
    odd = next((row["id"] for row in rows if isinstance(row, dict) and whole_number(row.get("id", 0)) is None), None)
    if odd is not None:
        raise UserError(f"{path}: the id of a category must be a whole number, not {odd!r}: number the categories")
    try:
        found = tuple(_category(row) for row in rows)
    except (TypeError, KeyError, ValueError):
        raise UserError(f"{path}: each category needs an id and a name") from None
    if len({c.id for c in found}) != len(found):
        raise UserError(f"{path}: two categories have the same id")
    return found


def _category(row: Mapping[str, Any]) -> Category:
    if not isinstance(row["name"], str | int | float):
        raise TypeError  # null, say
    number, name, parent = int(row["id"]), str(row["name"]), str(row.get("supercategory") or "")
    is_thing = bool(row.get("isthing", True))
    names = row.get("keypoints")
    keypoints = tuple(str(point) for point in names) if isinstance(names, list) else ()
    return Category(number, name, parent, is_thing, keypoints, _skeleton(row.get("skeleton"), len(keypoints)))


def _skeleton(pairs: Any, num_keypoints: int) -> tuple[tuple[int, int], ...]:
    """COCO's pairs, counted from 1, as ours; a 0 says that a tool counted from 0. What is no pair is left out."""
    if not isinstance(pairs, list):
        return ()
    limbs = [p for p in pairs if isinstance(p, list) and len(p) == 2 and all(isinstance(i, int) for i in p)]
    first = 0 if any(0 in limb for limb in limbs) else 1
    known = range(first, num_keypoints + first)
    return tuple((a - first, b - first) for a, b in limbs if a in known and b in known)


def read_category_fields(rows: Any) -> dict[int, dict[str, Any]]:
    """What categories say besides what a :class:`Category` holds, by id: LVIS's ``frequency`` and ``synset`` ..."""
    return {int(row["id"]): {k: v for k, v in row.items() if k not in _KNOWN} for row in rows}


def read_image_fields(record: Mapping[str, Any]) -> dict[str, Any]:
    """What an image's entry says besides its id, name and size: LVIS's ``neg_category_ids`` (classes that are known to
    be absent) and ``not_exhaustive_category_ids`` (classes of which not every object is annotated), licenses, dates.

    In LVIS every class that is in neither list and not annotated is simply unknown in that image.
    """
    return {k: v for k, v in record.items() if k not in ("id", "file_name", "width", "height")}


def with_file_name(record: Any) -> Any:
    """An ``images`` entry that has a ``file_name``: LVIS v1 gives only ``coco_url``, whose end is folder and file."""
    if isinstance(record, dict) and "file_name" not in record and isinstance(record.get("coco_url"), str):
        return {**record, "file_name": "/".join(record["coco_url"].split("/")[-2:])}
    return record


def inside_name(name: str, file: Path, folders: Sequence[Path]) -> str:
    """An image's name as a relative path that stays inside the data set. Label Studio writes the names that images
    have on its server: then it is the only image in the data set of the same last name, percent codes decoded.

    Raises:
        UserError: it leads out of the data set, and there is no such image.
    """
    try:
        plain: str | None = safe_name(name, file)
    except UserError:
        plain = None
    if plain is not None and image_file(plain, folders).is_file():
        return plain
    plain = None if plain is not None and "://" in name else plain
    address = urlsplit(name).path if "://" in name else name
    last = unquote(address.replace("\\", "/")).rsplit("/", 1)[-1]
    found = _named(folders[-1], last)
    if len(found) == 1:
        return found[0].relative_to(folders[-1]).as_posix()
    if plain is None:  # then it may be anywhere where the user says that the images are
        found = _named(folders[0], last)
    else:  # but for the folders that it had elsewhere
        parts = PurePosixPath(plain).parts
        found = tuple(p for i in range(1, len(parts)) if (p := folders[0].joinpath(*parts[i:])).is_file())[:1]
    if len(found) == 1:
        return found[0].relative_to(folders[0]).as_posix()
    return safe_name(name, file) if plain is None else plain


@lru_cache(maxsize=8)
def _last_names(base: Path, changed: float) -> dict[str, tuple[Path, ...]]:
    """The images below a folder by their last names, as :func:`spelled` has them."""
    del changed
    names: dict[str, tuple[Path, ...]] = {}
    for path in image_files(base):
        if path.resolve().is_relative_to(base.resolve()):
            names[spelled(path.name)] = (*names.get(spelled(path.name), ()), path)
    return names


def _named(base: Path, last: str) -> tuple[Path, ...]:
    found = _last_names(base, base.stat().st_mtime).get(spelled(last), ()) if base.is_dir() else ()
    return tuple(path for path in found if path.name == last) or found


def image_file(name: str, folders: Sequence[Path]) -> Path:
    """The image of that name in the first folder that has it, else where it should be.

    Some tools write the folder of the images into the name once more, and those of Windows a backslash behind it; and
    Windows and macOS do not tell all spellings of a name apart.
    """
    spellings = dict.fromkeys((name, name.replace("\\", "/")))
    places = [folder / spelling for folder in folders for spelling in spellings]
    without_suffix = () if PurePosixPath(name).suffix else (find_image(folder, name) for folder in folders)
    return first_file(places) or next(filter(None, without_suffix), places[0])


def whole_number(value: Any) -> int | None:
    """An id as a number, also where a tool wrote ``"3"`` or ``3.0``; None where it is none."""
    try:
        number = int(value)
        return number if not isinstance(value, float) or number == value else None
    except (TypeError, ValueError, OverflowError):
        return None


def plain_id(value: Any) -> float | str | None:
    """An id by which others are found: ``3``, ``3.0`` and ``"3"`` are one, as tools write them; None where it is no
    id. Text with zeros in front stays text."""
    if isinstance(value, str):
        number = whole_number(value)
        return number if number is not None and str(number) == value else value
    if not isinstance(value, int | float) or value != value:
        return None
    number = whole_number(value)
    return value if number is None else number


def is_crowd(row: Mapping[str, Any]) -> bool:
    """An annotation's ``iscrowd``, which some tools write as text."""
    return str(row.get("iscrowd", 0)).casefold() in ("1", "1.0", "true")


def read_json(path: Path, keys: Sequence[str]) -> dict[str, Any]:
    """A JSON object that has ``keys``; anything else is a UserError."""
    content = parsed(path)
    missing = [key for key in keys if not isinstance(content, dict) or not isinstance(content.get(key), list)]
    if missing:
        raise UserError(f"{path} is no COCO instances file: it has no list named {missing[0]!r}")
    return dict(content)


def parsed(path: Path) -> Any:
    """What a JSON file holds; a UserError where it is none."""
    return read_json_file(path)


def box_of(row: Mapping[str, Any]) -> Sequence[float]:
    """An annotation's ``bbox``, x y w h; four NaN where it is not four numbers."""
    box = row.get("bbox")
    numbers = isinstance(box, list) and len(box) == 4 and {*map(type, box)} <= {float, int}
    if not numbers or not all(abs(v) < _MAX_COORDINATE for v in cast(list[float], box)):
        return (np.nan,) * 4
    return cast(list[float], box)


def area_of(row: Mapping[str, Any]) -> float:
    """An annotation's ``area``, px; NaN where it is no number."""
    area: Any = row.get("area")
    return float(area) if type(area) in (int, float) and abs(area) < _MAX_COORDINATE else np.nan


def image_entry(record: Mapping[str, Any], name: str) -> dict[str, Any]:
    """What an image's entry says beside its size, and its ``file_name`` where the data set calls it otherwise."""
    own = {} if record["file_name"] == name else {"file_name": record["file_name"]}
    return {"id": record["id"], **own, **read_image_fields(record)}


def packed_keypoints(kept: Sequence[dict[str, Any]]) -> NDArray[np.float32] | None:
    """(N, K, 3), zeros where an annotation has none; None where no annotation has keypoints."""
    num = max((len(a.get("keypoints") or ()) // 3 for a in kept), default=0)
    if not num:
        return None
    points = np.zeros((len(kept), num, 3), np.float32)
    for slot, annotation in zip(points, kept, strict=True):
        given = np.asarray(annotation.get("keypoints") or (), np.float32).reshape(-1, 3)
        slot[: len(given)] = given
    return points
