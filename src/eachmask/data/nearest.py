"""Of a folder in no known format: which format it comes nearest to, and what is missing for it."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable, Iterator
from itertools import combinations, islice
from pathlib import Path

from eachmask.data.formats.known import FORMATS
from eachmask.data.formats.paired import SPLITS
from eachmask.data.images.files import below, files_below, is_clutter
from eachmask.data.images.read import SUFFIXES
from eachmask.data.other_tools import LOOKED_AT, arrays_of, tool_of
from eachmask.files.text import counted

_MAX_READ = 1 << 16
"""Bytes of a file that are looked at."""
_MAX_FILES = 50
"""Files of a kind that are looked at."""
_OF_MAP = re.compile(r"[_-](masks?|labels?|seg|segmentation|gt)$", re.IGNORECASE)
"""What stands behind an image's name in that of its map."""
_ROW = re.compile(rb"\s*\d+(\s+-?[\d.]+(e-?\d+)?){4,}\s*$", re.MULTILINE)
"""A line of YOLO: a class and four numbers or more."""


def nearest(source: Path) -> str:
    """What is missing in a folder, or of what kind a file is; "" where it resembles nothing."""
    if source.is_file():
        if source.suffix.lower() != ".npz" and zipfile.is_zipfile(source):
            return "unpack it and pass the folder"
        return tool_of(_of([source], *LOOKED_AT)) or arrays_of([source])
    inside = _set_inside(source)
    if inside:
        return inside
    files = files_below(source)
    return next((found for look in _LOOKS if (found := look(source, files))), "")


def _set_inside(source: Path) -> str:
    """A data set one or two folders further down, as archives are unpacked."""
    below = (path for pattern in ("*", "*/*") for path in sorted(source.glob(pattern)))
    folders = (path for path in below if path.is_dir() and not is_clutter(path.relative_to(source)))
    for folder in islice(folders, _MAX_FILES):
        known = next((known for known in FORMATS if known.looks_like(folder)), None)
        if known is not None:
            return f"{folder} is one in the format {known.name}: pass that folder"
    return ""


def _of(files: list[Path], *suffixes: str) -> Iterator[tuple[Path, bytes]]:
    """Some files of a kind with their beginnings."""
    for path in islice((path for path in files if path.suffix.lower() in suffixes), _MAX_FILES):
        with open(path, "rb") as handle:
            yield path, handle.read(_MAX_READ).replace(b"\0", b"")


def _foreign(source: Path, files: list[Path]) -> str:
    return tool_of(_of(files, *LOOKED_AT))


def _json(source: Path, files: list[Path]) -> str:
    for path, text in _of(files, ".json"):
        if text.lstrip(b"\xef\xbb\xbf\r\n\t ").startswith(b"[") and b'"category_id"' in text and b'"score"' in text:
            return f"{path} holds results, which name no classes and no images: pass the annotations they belong to"
        if b'"segmentation"' in text or (b'"categories"' in text and b'"annotations"' in text):
            lists = [word for word in ("images", "annotations", "categories") if f'"{word}"'.encode() not in text]
            known = f" it lacks the list {lists[0]}" if lists and len(text) < _MAX_READ else " pass that file"
            return f"{path} is almost a coco file:{known}"
        if b'"regions"' in text or b'"result"' in text or b'"items"' in text:
            return f"{path} resembles an export of via, label-studio or datumaro: pass that file, or export it again"
    return ""


def _xml(source: Path, files: list[Path]) -> str:
    for path, text in _of(files, ".xml"):
        if re.search(rb"<annotation[\s>]", text):
            return f"{path} is as of voc or labelme, and no XML file here has an object: outline one, or remove them"
        if b"<annotations" in text:
            return f"{path} resembles cvat: name it annotations.xml, or pass that file"
    return ""


def _yolo(source: Path, files: list[Path]) -> str:
    for path, text in _of(files, ".txt"):
        if _ROW.search(text):
            where = source / "data.yaml"
            return f"{path} has lines as of yolo, and {where} is missing: write one with train:, val: and names:"
    return ""


def _arrays(source: Path, files: list[Path]) -> str:
    return arrays_of([*files, *below(source, "*.zarr")])


def _side_by_side(source: Path, files: list[Path]) -> str:
    """An image and its map, a.png and a_mask.png."""
    for folder, stems in _stems_of_images(files).items():
        map_of = {_OF_MAP.sub("", stem): stem for stem in sorted(stems) if _OF_MAP.search(stem)}
        for image in sorted(map_of.keys() & stems):
            called = "put the images into a folder images and the maps into a folder labels"
            return f"in {folder} {map_of[image]} may be the map of {image}: {called}"
    return ""


def _of_same_names(source: Path, files: list[Path]) -> str:
    """Images and their maps in folders that are not called so."""
    folders = islice(_stems_of_images(files).items(), _MAX_FILES)
    plain = [(folder, {_OF_MAP.sub("", stem) for stem in stems}) for folder, stems in folders]
    for (one, stems), (other, others) in combinations(plain, 2):
        if stems & others and _are_called_otherwise(one, other):
            called = "if these are images and their maps, call the folders images and labels"
            return f"{one} and {other} have images of the same names: {called}"
    return ""


def _are_called_otherwise(one: Path, other: Path) -> bool:
    """Whether paths differ by one folder, and not as splits do."""
    words = [{a.casefold(), b.casefold()} for a, b in zip(one.parts, other.parts, strict=False) if a != b]
    return len(one.parts) == len(other.parts) and len(words) == 1 and not words[0] <= {*SPLITS}


def _stems_of_images(files: list[Path]) -> dict[Path, set[str]]:
    """Folder -> the names of its images, without suffix."""
    stems: dict[Path, set[str]] = {}
    for path in files:
        if path.suffix.lower() in SUFFIXES:
            stems.setdefault(path.parent, set()).add(path.stem)
    return stems


def _maps(source: Path, files: list[Path]) -> str:
    folders = {path.name.casefold(): path for path in sorted(source.iterdir()) if path.is_dir()}
    labels = next((folders[name] for name in ("labels", "masks", "annotations") if name in folders), None)
    if "images" in folders:
        place = source / "labels"
        return f"{folders['images']} has images, and their maps of label-maps are missing: put them into {place}"
    if labels is not None and any(path.suffix.lower() in SUFFIXES for path in files):
        return f"{labels} may have maps of label-maps, and the images are missing: put them into {source / 'images'}"
    return ""


def _pairs(source: Path, files: list[Path]) -> str:
    for path in files:
        if path.stem.endswith(("_masks", "_cp_masks")) or path.name.endswith("_seg.npy"):
            return f"{path} is cellpose's, and the image is missing: put it beside that file"
    return ""


def _images(source: Path, files: list[Path]) -> str:
    number = sum(path.suffix.lower() in SUFFIXES for path in files)
    if number:
        return (
            f"it holds {counted(number, 'image')} and no annotations: export these too (coco: "
            f"{source / 'instances_train.json'})"
        )
    return f"{counted(len(files), 'file')}, and no image among them" if files else "it holds no files"


_LOOKS: tuple[Callable[[Path, list[Path]], str], ...] = (
    _foreign, _json, _xml, _yolo, _pairs, _arrays, _side_by_side, _of_same_names, _maps, _images,
)  # fmt: skip
