"""CVAT for images 1.1: one annotations.xml with polygons, boxes and run-length masks.

A ``mask`` element holds ``rle``: run lengths within its window, row by row, background first. Objects with
holes or several parts are written so; all others as polygons. Crowd regions carry the attribute ``crowd``.
"""

from __future__ import annotations

from pathlib import Path
from xml.etree.ElementTree import Element, SubElement

import numpy as np
from numpy.typing import NDArray

from eachmask.data.annotated import (
    AnnotatedSet,
    Picture,
    Problem,
    copy_image,
    crowd_of,
    instances_of,
    labels_of,
    masks_of,
    named_categories,
    safe_name,
)
from eachmask.data.watch import Watch, unwatched
from eachmask.data.xml_safe import parse_xml, write_xml
from eachmask.structures import RLE, Category, Polygons, UserError

_SHAPES = ("polygon", "box", "mask")


def read_cvat(source: Path, watch: Watch = unwatched) -> AnnotatedSet:
    """Read a folder with annotations.xml, or the file itself.

    Raises:
        UserError: the file is missing, refused (DOCTYPE) or no CVAT export.
    """
    path = source / "annotations.xml" if source.is_dir() else source
    root = parse_xml(path)
    if root.tag != "annotations":
        raise UserError(f"{path} is no CVAT export: its root must be <annotations>, not <{root.tag}>")
    declared = [label for label in root.findall("./meta//labels/label") if label.findtext("name")]
    names = [str(label.findtext("name")) for label in declared]
    names += [s.get("label", "") for s in root.iter() if s.tag in _SHAPES and s.get("label")]
    ids = {str(label.findtext("name")): label.get("category_id") for label in declared}
    categories = tuple(_with_id(c, ids.get(c.name)) for c in named_categories(names))
    result = AnnotatedSet(categories, {})
    for image in watch("reading", root.findall("image")):
        split = image.get("subset") or "all"
        picture = _read_image(image, path, split, result)
        if picture is not None:
            result.splits.setdefault(split, []).append(picture)
    return result


def write_cvat(target: Path, data: AnnotatedSet, watch: Watch = unwatched) -> list[str]:
    """Write annotations.xml and images/SPLIT; the format holds holes, parts, overlaps."""
    root = Element("annotations")
    SubElement(root, "version").text = "1.1"
    labels = SubElement(SubElement(SubElement(root, "meta"), "task"), "labels")
    for category in data.categories:
        label = SubElement(labels, "label", category_id=str(category.id))
        SubElement(label, "name").text = category.name
        attributes = SubElement(label, "attributes")
        attribute = SubElement(attributes, "attribute")
        for tag, text in (("name", "crowd"), ("input_type", "checkbox"), ("default_value", "false")):
            SubElement(attribute, tag).text = text
    for number, (split, picture) in enumerate(watch("writing", list(data.pictures()))):
        copy_image(picture, target / "images" / split / picture.name)
        height, width = picture.targets.image_size
        image = SubElement(root, "image", id=str(number), name=picture.name, subset=split)
        image.set("width", str(width))
        image.set("height", str(height))
        _write_objects(image, picture, data.categories)
    write_xml(target / "annotations.xml", root)
    return []


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


def _write_objects(image: Element, picture: Picture, categories: tuple[Category, ...]) -> None:
    masks = masks_of(picture.targets)
    polygons, bitmaps = masks.to_polygons(), masks.to_bitmaps()
    for i, (label, crowd) in enumerate(zip(labels_of(picture.targets), crowd_of(picture.targets), strict=True)):
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


def _read_image(image: Element, path: Path, split: str, result: AnnotatedSet) -> Picture | None:
    try:
        name = safe_name(image.get("name", ""), path)
        size = (int(image.get("height", "")), int(image.get("width", "")))
        if min(size) < 1:
            raise ValueError("its size is no size")
    except ValueError as error:
        what = str(error) if isinstance(error, UserError) else "width and height must be whole numbers above 0"
        result.problems.append(Problem(str(path), f"image {image.get('id')}", what, "export it again", "image"))
        return None
    label_of = {category.name: i for i, category in enumerate(result.categories)}
    parts, labels, crowd = [RLE.empty(size)], [], []
    for number, shape in enumerate((s for s in image if s.tag in _SHAPES), start=1):
        where = f"{shape.tag} {number} of {name}"
        try:
            mask = _read_shape(shape, size)
            label = label_of[shape.get("label", "")]
        except KeyError:
            result.problems.append(Problem(str(path), where, "it has no label", "give it one", "category"))
            continue
        except (ValueError, TypeError) as error:
            result.problems.append(Problem(str(path), where, f"it cannot be read ({error})", "draw it anew"))
            continue
        if not mask.area()[0]:
            result.problems.append(Problem(str(path), where, "it covers no pixel", "delete it", "empty"))
        parts.append(mask)
        labels.append(label)
        crowd.append(any(a.get("name") == "crowd" and a.text == "true" for a in shape.findall("attribute")))
    targets = instances_of(RLE.cat(parts), labels, crowd, result.categories)
    return Picture(name, _find(path.parent, split, name), targets)


def _read_shape(shape: Element, size: tuple[int, int]) -> RLE:
    if shape.tag == "polygon":
        points = [[float(v) for v in pair.split(",")] for pair in shape.get("points", "").split(";")]
        return Polygons([[np.array(points).reshape(-1, 2)]], (), size).to_rle()
    if shape.tag == "box":
        x1, y1, x2, y2 = (float(shape.get(k, "")) for k in ("xtl", "ytl", "xbr", "ybr"))
        ring = np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]])
        return Polygons([[ring]], (), size).to_rle()
    left, top, width, height = (int(shape.get(k, "")) for k in ("left", "top", "width", "height"))
    if not (0 < width <= size[1] and 0 < height <= size[0]):
        raise ValueError(f"its window of {width} x {height} is larger than the image, or empty")
    runs = [int(word) for word in shape.get("rle", "").split(",")]
    return RLE.from_bitmaps(crop_of_runs(runs, height, width)[None]).shift(left, top, size)


def _find(base: Path, split: str, name: str) -> Path:
    places = [base / "images" / split / name, base / "images" / name, base / split / name, base / name]
    return next((p for p in places if p.is_file()), places[0])
