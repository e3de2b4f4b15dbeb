"""LabelMe's web version and CVAT's "LabelMe 3.0", read: one XML file per image with polygons, boxes and masks.

The images lie beside the files, or in ``Images`` beside ``Annotations``; masks are PNGs in ``Masks``. Deleted objects
stay in such files and are left out; parts of one object that have its class are one with it.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

import numpy as np

from eachmask.data.dataset import Dataset
from eachmask.data.elsewhere import ImageFolder
from eachmask.data.formats.drawn import BROKEN, Drawing, Entry, data_of, drawings_in, xml_files_with
from eachmask.data.formats.label_maps import decoded
from eachmask.data.problems import Problem, only_boxes, unread
from eachmask.files.progress import Progress, no_progress
from eachmask.files.untrusted_xml import parse_xml
from eachmask.structures import RLE

_ANNOTATIONS, _MASKS = "Annotations", "Masks"


def xml_files(source: Path) -> list[Path]:
    """The XML files of a folder, or the file itself, if they are LabelMe's."""
    return xml_files_with(source, b"<pt>", b"<segm>")


def read_labelme_xml(source: Path, progress: Progress = no_progress, *, images: Path | None = None) -> Dataset:
    """Read all files below a folder, or one.

    Raises:
        UserError: the only one cannot be read.
    """
    folder = source if source.is_dir() else source.parent
    own = ImageFolder(folder)
    found = own if images is None else ImageFolder(images)
    problems, boxes = list[Problem](), list[str]()

    def entries(file: Path) -> Iterator[Entry]:
        root, place = parse_xml(file), file.parent.relative_to(folder)
        name = _text(root, "filename") or f"{file.stem}.jpg"
        draw = partial(_add_objects, root=root, file=file, masks=partial(_near, own, place), boxes=boxes, told=problems)
        yield _near(found, place, name) or found.of_stem((place / file.stem).as_posix()), name, draw

    data = data_of(folder, drawings_in(xml_files(source), entries, problems, progress), problems, images)
    data.problems.extend(only_boxes(source, len(boxes)))
    return data


def _near(files: ImageFolder, place: Path, name: str, inside: str = "") -> Path | None:
    """The image of a name that belongs to an XML file in the folder ``place`` of the set.

    Args:
        inside: the folder beside that file where it is first looked for.
    """
    below = place.relative_to(_ANNOTATIONS) if place.is_relative_to(_ANNOTATIONS) else place
    return files.named((place / inside / name).as_posix()) or files.named((below / name).as_posix())


def _add_objects(page: Drawing, root: Element, file: Path, masks: Any, boxes: list[str], told: list[Problem]) -> None:
    page.drawn_on(root.findtext("imagesize/nrows"), root.findtext("imagesize/ncols"))
    for number, entry in enumerate(root.findall("object"), start=1):
        if _text(entry, "deleted") == "1":
            continue
        where, name = f"object {number}", _text(entry, "name")
        try:
            if not name:
                raise ValueError("it has no name")
            segmentation = _segmentation(entry, masks, page.size)
        except BROKEN as error:
            told.append(unread(file, where, error))
            continue
        if _text(entry, "type") == "bounding_box":
            boxes.append(name)
        whole = _text(entry, "parts/ispartof") or _text(entry, "id")
        page.add(segmentation, name, where, part_of=(whole, name) if whole else None)


def _segmentation(entry: Element, masks: Any, size: tuple[int, int]) -> Any:
    """A shape as COCO writes it: its ring, or its run lengths."""
    points = entry.findall("polygon/pt")
    if points:
        return [[float(_text(point, axis)) for point in points for axis in ("x", "y")]]
    name = _text(entry, "segm/mask")
    path = masks(name, _MASKS) if name else None
    if path is None:
        raise ValueError(f"its mask {name} is not there" if name else "it has no outline")
    pixels = decoded(np.fromfile(path, np.uint8))
    if pixels is None:
        raise ValueError(f"its mask {name} cannot be decoded")
    inside = np.atleast_3d(pixels)[..., :3].any(2)
    if inside.shape != size:
        raise ValueError(f"its mask {name} is of another size than the image")
    return RLE.from_bitmaps(inside[None]).to_coco()[0]


def _text(element: Element, path: str) -> str:
    return (element.findtext(path) or "").strip()
