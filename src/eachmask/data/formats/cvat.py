"""CVAT for images 1.1: one annotations.xml with polygons, boxes and run-length masks.

A ``mask`` element holds ``rle``: run lengths within its window, row by row, background first. Objects with
holes or several parts are written so; all others as polygons. Crowd regions carry the attribute ``crowd``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterable, Iterator
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree.ElementTree import Element, SubElement

import numpy as np
from numpy.typing import NDArray

from eachmask.data.builder import DatasetBuilder
from eachmask.data.dataset import Dataset
from eachmask.data.elsewhere import ImageFolder
from eachmask.data.formats.drawn import beginning, ellipse, is_of_one_image, turned
from eachmask.data.formats.format import Format
from eachmask.data.formats.segmentations import BEYOND, LEAVES, Rows, Size, rasterize_readable
from eachmask.data.images.files import copy_image, image_files, image_size, safe_name
from eachmask.data.other_tools import tool_of
from eachmask.data.problems import NoAreaError, Problem, unread
from eachmask.data.split import AnnotatedImage
from eachmask.data.targets import instances_of, masks_of, named_categories, score_in, united
from eachmask.files.progress import Progress, no_progress
from eachmask.files.untrusted_xml import children_of_root, write_children
from eachmask.structures import RLE, Category, UserError

_ROOT = "annotations"
_FRAME = re.compile(r"frame_(\d+)")
SHAPES = ("polygon", "box", "mask", "ellipse")
_ATTRIBUTES = (
    {"name": "crowd", "mutable": "False", "input_type": "checkbox", "default_value": "false", "values": "false"},
    {"name": "score", "mutable": "False", "input_type": "text", "default_value": "", "values": ""},
)
"""What labels declare: whether it is a crowd region, and, of predictions, how sure the model was."""
_WITHOUT_AREA = ("polyline", "points", "cuboid", "skeleton")


class _Page(NamedTuple):
    """What the file says of an image besides its outlines."""

    name: str
    split: str
    shapes: list[str]
    """What each is called in messages."""
    objects: list[Hashable]
    """Which object each is a part of."""
    labels: list[int]
    crowd: list[bool]
    scores: list[float | None]


def read_cvat(source: Path, progress: Progress = no_progress) -> Dataset:
    """Read a folder with annotations.xml, or the file itself: twice, image by image, since the classes come first.

    Raises:
        UserError: the file is missing, cut off, refused (DOCTYPE) or no CVAT export.
    """
    path = source / "annotations.xml" if source.is_dir() else source
    categories, num_images, tracks = _survey(path)
    result, below = DatasetBuilder(categories), cache(lambda: ImageFolder(path.parent))
    images: Iterable[Element] = (element for element in children_of_root(path, _ROOT) if element.tag == "image")
    if not num_images:
        images = _frames(path, tracks)
        num_images = len(images)
    counted = (image for _, image in zip(progress("reading", range(num_images)), images, strict=True))
    for page, drawn, mistakes in rasterize_readable(_pages(counted, path, tracks, result)):
        for i in mistakes.outside:
            result.report(Problem(str(path), page.shapes[i], *LEAVES))
        for i in np.flatnonzero(drawn.area == 0).tolist():
            why, remedy, kind = BEYOND if i in mistakes.beyond else "it covers no pixel", "delete it", "empty"
            if i in mistakes.unread:
                why, remedy, kind = f"it cannot be read ({mistakes.unread[i]})", "draw it anew", "annotation"
            result.report(Problem(str(path), page.shapes[i], why, remedy, kind))
        masks, (labels, crowd, scores) = united(drawn, page.objects, (page.labels, page.crowd, page.scores))
        targets = instances_of(masks, labels, crowd, categories, scores)
        result.add(page.split, page.name, _find(path.parent, page.split, page.name, below), targets)
    if tracks:
        number = sum(map(len, tracks.values()))
        what, remedy = f"{number} shapes of tracks are of frames without an image", "export the frames too"
        result.report(Problem(str(path), "", what, remedy, "image"))
    return result.build()


def _survey(path: Path) -> tuple[tuple[Category, ...], int, dict[str, list[Element]]]:
    """The classes, declared ones first, the number of images, and the shapes of tracks by their frames."""
    tracks: dict[str, list[Element]] = {}
    ids: dict[str, str | None] = {}
    used: dict[str, None] = {}
    num_images = 0
    for element in children_of_root(path, _ROOT):
        num_images += element.tag == "image"
        if element.tag == "meta":
            declared = [label for label in element.findall(".//labels/label") if label.findtext("name")]
            ids |= {str(label.findtext("name")): label.get("category_id") for label in declared}
        if element.tag == "track":
            drawn = SHAPES + _WITHOUT_AREA
            for shape in (deepcopy(s) for s in element if s.tag in drawn and s.get("outside") != "1"):
                shape.set("label", element.get("label", ""))
                tracks.setdefault(shape.get("frame", ""), []).append(shape)
                used |= {str(element.get("label")): None} if element.get("label") and shape.tag in SHAPES else {}
        used |= {str(s.get("label")): None for s in element.iter() if s.tag in SHAPES and s.get("label")}
    return tuple(_with_id(c, ids.get(c.name)) for c in named_categories([*ids, *used])), num_images, tracks


def _frames(path: Path, tracks: dict[str, list[Element]]) -> list[Element]:
    """The images of a video's frames, as CVAT names them or else in the order of their names.

    Raises:
        UserError: there are tracks, and not an image of each of their frames.
    """
    base = path.parent / "images" if (path.parent / "images").is_dir() else path.parent
    files = image_files(base) if tracks else []
    named = {str(int(own[1])): file for file in files if (own := _FRAME.fullmatch(file.stem))}
    frames = named if set(tracks) <= set(named) else {str(i): file for i, file in enumerate(files)}
    if not set(tracks) <= set(frames):
        raise UserError(
            f"{path} holds tracks of a video: export the task as CVAT for images 1.1, or put its frames beside the file"
        )
    found = []
    for number, file in frames.items():
        height, width = image_size(file)
        name = file.relative_to(base).as_posix()
        found.append(Element("image", id=number, name=name, width=str(width), height=str(height)))
    return found


def write_cvat(target: Path, data: Dataset, progress: Progress = no_progress) -> list[str]:
    """Write annotations.xml and images/SPLIT, as of a project whose subsets are the splits; where there are none as of
    a task, and the images in images/. The format holds holes, parts, overlaps."""
    write_children(target / "annotations.xml", _ROOT, _elements(target, data, progress))
    return []


def _elements(target: Path, data: Dataset, progress: Progress) -> Iterator[Element]:
    """The head of the file, and each image when it is copied."""
    version = Element("version")
    version.text = "1.1"
    yield version
    meta, splits = Element("meta"), [name for name in data.splits if name != "all"]
    head = SubElement(meta, "project" if splits else "task")
    SubElement(head, "name").text = "eachmask"
    if splits:
        subsets = SubElement(head, "subsets")
        for name in data.splits:
            SubElement(subsets, "subset").text = name
    labels = SubElement(head, "labels")
    for category in data.categories:
        label = SubElement(labels, "label", category_id=str(category.id))
        SubElement(label, "name").text = category.name
        attributes = SubElement(label, "attributes")
        for kind in _ATTRIBUTES if _has_scores(data) else _ATTRIBUTES[:1]:
            attribute = SubElement(attributes, "attribute")
            for tag, text in kind.items():
                SubElement(attribute, tag).text = text
    yield meta
    for number, (split, record) in enumerate(progress("writing", list(data.images()))):
        copy_image(record, target / "images" / (split if splits else "") / record.name)
        height, width = record.image_size
        image = Element("image", id=str(number), name=record.name)
        image.attrib |= {"subset": split} if splits else {}
        image.set("width", str(width))
        image.set("height", str(height))
        _write_objects(image, record, data.categories)
        yield image


def _has_scores(data: Dataset) -> bool:
    return any(split.scores is not None for split in data.splits.values())


def row_runs(crop: NDArray[np.bool_]) -> list[int]:
    """(h, w) bitmap -> CVAT's run lengths: row by row, background first (0 where the first pixel is inside)."""
    flat = crop.reshape(-1)
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    runs = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
    return [0, *runs] if flat.size and flat[0] else list(runs)


def crop_of_runs(runs: list[int], height: int, width: int) -> NDArray[np.bool_]:
    """The inverse of :func:`row_runs`.

    Raises:
        ValueError: the runs do not fill the window, or one is negative.
    """
    if min(runs, default=0) < 0 or sum(runs) != height * width:
        raise ValueError(f"its runs hold {sum(runs)} pixels, its window {width} x {height}")
    values = np.arange(len(runs)) % 2 == 1
    return np.repeat(values, runs).reshape(height, width)


def _with_id(category: Category, own: str | None) -> Category:
    return Category(int(own), category.name) if own is not None and own.lstrip("-").isdigit() else category


def _write_objects(image: Element, record: AnnotatedImage, categories: tuple[Category, ...]) -> None:
    targets = record.targets
    masks = masks_of(targets)
    polygons, bitmaps, scores = masks.to_polygons(), masks.to_bitmaps(), record.scores
    for i, (label, crowd) in enumerate(zip(targets.labels.tolist(), targets.crowd.tolist(), strict=True)):
        outers, holes = polygons.outers[i], polygons.holes[i]
        if len(outers) == 1 and not holes:
            shape = SubElement(image, "polygon", points=";".join(f"{x:.2f},{y:.2f}" for x, y in outers[0]))
        else:
            crop, (x, y) = bitmaps.crops[i], bitmaps.origins[i].tolist()
            shape = SubElement(image, "mask", rle=", ".join(map(str, row_runs(crop))))
            window = {"left": x, "top": y, "width": crop.shape[1], "height": crop.shape[0]}
            shape.attrib |= {key: str(value) for key, value in window.items()}
        shape.attrib |= {"label": categories[label].name, "occluded": "0", "source": "manual", "z_order": str(i)}
        SubElement(shape, "attribute", name="crowd").text = "true" if crowd else "false"
        if scores[i] is not None:
            SubElement(shape, "attribute", name="score").text = str(scores[i])


def _pages(
    images: Iterable[Element], path: Path, tracks: dict[str, list[Element]], result: DatasetBuilder
) -> Iterator[tuple[_Page, Rows, Size]]:
    """Each image with the outlines of its objects, not yet filled."""
    label_of = {category.name: i for i, category in enumerate(result.categories)}
    for image in images:
        try:
            page = _Page(safe_name(image.get("name", ""), path), image.get("subset") or "all", [], [], [], [], [])
            size = (int(image.get("height", "")), int(image.get("width", "")))
            if min(size) < 1:
                raise ValueError("its size is no size")
        except ValueError as error:
            what = str(error) if isinstance(error, UserError) else "width and height must be whole numbers above 0"
            result.report(Problem(str(path), f"image {image.get('id')}", what, "export it again", "image"))
            continue
        rows = []
        own = [s for s in image if s.tag in SHAPES + _WITHOUT_AREA]
        for number, shape in enumerate((*own, *tracks.pop(image.get("id", ""), ())), start=1):
            where = f"{shape.tag} {number} of {page.name}"
            try:
                if shape.tag in _WITHOUT_AREA:
                    raise NoAreaError(shape.tag)
                row = {"segmentation": segmentation_of(shape, size)}
                page.labels.append(label_of[shape.get("label", "")])
            except KeyError:
                result.report(Problem(str(path), where, "it has no label", "give it one", "category"))
                continue
            except (ValueError, TypeError) as error:
                result.report(unread(path, where, error, "draw it anew"))
                continue
            rows.append(row)
            page.shapes.append(where)
            group = shape.get("group_id", "0")
            page.objects.append(number if group in ("", "0") else ("group", group, page.labels[-1]))
            told = {str(attribute.get("name")): attribute.text for attribute in shape.findall("attribute")}
            page.crowd.append(told.get("crowd") == "true")
            page.scores.append(score_in(told))
        yield page, rows, size


def segmentation_of(shape: Element, size: Size) -> Any:
    """A shape as COCO writes it: its ring, or its run lengths."""
    if shape.tag == "polygon":
        return [[float(v) for v in shape.get("points", "").strip("; ").replace(";", ",").split(",")]]
    degrees = float(shape.get("rotation", "0"))
    if shape.tag == "box":
        x1, y1, x2, y2 = (float(shape.get(k, "")) for k in ("xtl", "ytl", "xbr", "ybr"))
        return [turned([[x1, y1], [x2, y1], [x2, y2], [x1, y2]], degrees, ((x1 + x2) / 2, (y1 + y2) / 2))]
    if shape.tag == "ellipse":
        x, y, across, down = (float(shape.get(k, "")) for k in ("cx", "cy", "rx", "ry"))
        return ellipse(x, y, across, down, degrees)
    left, top, width, height = (int(shape.get(k, "")) for k in ("left", "top", "width", "height"))
    if not (0 < width <= size[1] and 0 < height <= size[0]):
        raise ValueError(f"its window of {width} x {height} is larger than the image, or empty")
    runs = [int(word) for word in shape.get("rle", "").split(",")]
    return RLE.from_bitmaps(crop_of_runs(runs, height, width)[None]).shift(left, top, size).to_coco()[0]


def _find(base: Path, split: str, name: str, below: Callable[[], ImageFolder]) -> Path:
    """An image where it is usual, else, as those of a task may be in its subset's folder, the only one of that name."""
    places = [base / "images" / split / name, base / "images" / name, base / split / name, base / name]
    return next((p for p in places if p.is_file()), None) or below().named(name) or places[0]


def _looks_like(source: Path) -> bool:
    if source.is_file():
        is_xml = source.suffix.lower() == ".xml" and not is_of_one_image(source)
        return is_xml and not tool_of([(source, beginning(source))])
    return (source / "annotations.xml").is_file()


FORMAT = Format("cvat", _looks_like, "annotations.xml", read_cvat, write_cvat)
