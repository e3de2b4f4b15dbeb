"""Pascal VOC's XML files with boxes alone, as detectors' data sets have them: the boxes are taken for masks.

The images lie beside the files (LabelImg; Roboflow, below ``train``, ``valid``), or in ``JPEGImages`` or ``images``.
In whole numbers both corners of a box are inside, counted from 1, as in VOC: boxes of tools that count from 0 are a
pixel too large. With fractions, as CVAT writes them, they are places between pixels, from 0. Roboflow's outlines
are read, and roLabelImg's turned boxes (center, size, angle in radians).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any
from xml.etree.ElementTree import Element

from eachmask.data.dataset import Dataset
from eachmask.data.elsewhere import ImageFolder
from eachmask.data.formats.classes_file import write_categories
from eachmask.data.formats.drawn import BROKEN, Drawing, Entry, data_of, drawings_in, turned_box, xml_files_with
from eachmask.data.formats.format import Format
from eachmask.data.formats.segmentations import corners
from eachmask.data.formats.voc import listed, write_images
from eachmask.data.images.files import find_image
from eachmask.data.problems import Problem, only_boxes, unread
from eachmask.files.progress import Progress, no_progress
from eachmask.files.untrusted_xml import parse_xml
from eachmask.structures import UserError


def read_voc_boxes(source: Path, progress: Progress = no_progress, *, images: Path | None = None) -> Dataset:
    """Read all XML files below a folder, or one; splits are the lists in ImageSets/Main, else the folders.

    Raises:
        UserError: there is none, or the only one cannot be read.
    """
    files, folder = _files(source), source if source.is_dir() else source.parent
    if not files:
        raise UserError(f"{source} holds no XML files with boxes (<bndbox>)")
    found, problems, boxes = ImageFolder(images or folder), list[Problem](), list[str]()
    split_of_name = listed(folder, "Main")

    def entries(file: Path) -> Iterator[Entry]:
        root, place = parse_xml(file), _place(file, folder)
        name = (root.findtext("filename") or f"{file.stem}.jpg").strip()
        listed_as = place if place in split_of_name else file.stem
        split = split_of_name.get(listed_as)
        own = PurePosixPath(listed_as.removeprefix(f"{split}__"))
        there = find_image(file.parent, file.stem) or find_image(folder / "JPEGImages", place)
        image = there or found.of_stem(place.removeprefix(f"{split}__")) or found.named(name)
        draw = partial(_add_boxes, root=root, split=split, own=own, file=file, boxes=boxes, problems=problems)
        yield image, name, draw

    data = data_of(folder, drawings_in(files, entries, problems, progress), problems, images)
    data.problems.extend(only_boxes(source, len(boxes)))
    return data


def write_voc_boxes(target: Path, data: Dataset, progress: Progress = no_progress) -> list[str]:
    """Write JPEGImages, Annotations, ImageSets/Main, and the classes for this package."""
    write_images(target, data, progress, lists=("Main",))
    write_categories(target, data)
    return ["objects are their boxes: there are no outlines in VOC's XML files"]


def _add_boxes(
    page: Drawing, root: Element, split: str | None, own: PurePosixPath, file: Path, boxes: list[str],
    problems: list[Problem],
) -> None:  # fmt: skip
    if split is not None:
        page.place = split, str(own.with_name(page.image.name.removeprefix(f"{split}__")))
    page.drawn_on(root.findtext("size/height"), root.findtext("size/width"))
    for number, entry in enumerate(root.findall("object"), start=1):
        where, name = f"object {number}", (entry.findtext("name") or "").strip()
        try:
            if not name:
                raise ValueError("it has no name")
            outline = [float(value.text or "") for value in entry.findall("polygon/*")]
            turned = entry.find("robndbox")
            ring = outline or (_ring(entry) if turned is None else _turned_ring(turned))
            page.add([ring], name, where, entry.findtext("crowd") == "1")
        except BROKEN as error:
            problems.append(unread(file, where, error))
            continue
        boxes += [] if outline else [name]


def _place(file: Path, folder: Path) -> str:
    """What an XML file's image is called: with the folders below ``Annotations``, or below the set."""
    own = file.relative_to(folder).with_suffix("")
    return (own.relative_to("Annotations") if own.parts[0] == "Annotations" else own).as_posix()


def _ring(entry: Element) -> Any:
    texts = [entry.findtext(f"bndbox/{tag}") or "" for tag in ("xmin", "ymin", "xmax", "ymax")]
    if not all(texts):
        raise ValueError("it has no bndbox of four numbers")
    x1, y1, x2, y2 = map(float, texts)
    if not any("." in text for text in texts):
        x1, y1 = max(x1 - 1, 0), max(y1 - 1, 0)
    if not (x2 > x1 and y2 > y1):
        raise ValueError("its box is empty")
    return corners([x1, y1, x2 - x1, y2 - y1])


def _turned_ring(box: Element) -> list[float]:
    x, y, w, h, angle = (float(box.findtext(tag) or "") for tag in ("cx", "cy", "w", "h", "angle"))
    if not (w > 0 and h > 0):
        raise ValueError("its box is empty")
    return turned_box(x, y, w, h, math.degrees(angle))


def _files(source: Path) -> list[Path]:
    return xml_files_with(source, b"<bndbox>", b"<robndbox>")


FORMAT = Format(
    "voc-boxes",
    lambda source: bool(_files(source)),
    "XML files with bndbox",
    read_voc_boxes,
    write_voc_boxes,
    takes_images=True,
)
