"""One annotation file: what was changed takes the place of what it said, all else stays, also what the package does not
know.

Each function takes the file as it is, what the package would write of the images that were changed (and perhaps of
others), and which these are; where the file calls its images otherwise, it returns None: then all has to be written.
"""

from __future__ import annotations

import csv
import io
import json
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from itertools import count
from pathlib import Path, PurePosixPath
from typing import Any
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from eachmask.data.formats import cvat, cvppp, labelme, yolo
from eachmask.data.formats.classes_file import CLASSES_FILE
from eachmask.data.formats.spreadsheet import csv_text, unescaped
from eachmask.data.formats.yolo_texts import NAMES
from eachmask.files.untrusted_xml import parse_xml
from eachmask.studio.in_place import YAML
from eachmask.studio.keep import Said, Size, sorted_out

Rows = list[dict[str, Any]]
ONE_EACH = frozenset({"cityscapes", "imagej", "labelme", "qupath", "yolo"})
"""Formats whose files are of one image each, but for those that speak of the classes alone."""
LISTED = frozenset({"darknet", "voc", "voc-boxes"})
"""The same besides lists of the images, which stay as long as the images and the classes are the same."""
TABLED = frozenset({"cellpose", "cvppp", "label-maps", "mask-files"})
"""The same besides tables with rows of all images, which are merged."""
_ANY_CLASS = 1 << 62


@dataclass(frozen=True)
class Changes:
    """Which images were changed."""

    touched: Mapping[str, Size]
    """Their sizes, by name."""
    fresh: Collection[str]
    """Those of them that the file may not have yet."""
    order: Sequence[tuple[str, str]] = ()
    """(split, name) of all images, as a file about all of them has them."""


def merged_labelme(place: Path, made: bytes, changes: Changes) -> bytes | None:
    """LabelMe's file of one image, with other shapes."""
    old, new = json.loads(place.read_bytes()), json.loads(made)
    if not isinstance(old, dict):
        return made
    size = (new["imageHeight"], new["imageWidth"])
    stay, fresh = sorted_out(old["shapes"], new["shapes"], size, _said_by_labelme, silent=True)
    return json.dumps(old | {"shapes": stay + fresh}).encode()


def _said_by_labelme(shape: Any, size: Size) -> Said:
    label, group = str(shape["label"]), shape.get("group_id")
    if label in ("", labelme.BACKGROUND):
        raise ValueError("it is no object")
    what = (label, bool((shape.get("flags") or {}).get("crowd")))
    return Said({"segmentation": labelme.segmentation_of(shape, size)}, what, None if group is None else (group, label))


def merged_yolo(place: Path, made: bytes, changes: Changes) -> bytes | None:
    """YOLO's data.yaml, whose folders stay, or the lines of an image."""
    if place.name in NAMES:
        return made
    if place.suffix not in YAML:
        return _merged_lines(place, made, changes)
    import yaml

    old, new = yaml.safe_load(place.read_bytes()), yaml.safe_load(made)
    names = {key: new[key] for key in ("names", "category_ids")} | ({"nc": len(new["names"])} if "nc" in old else {})
    text: str = yaml.safe_dump(old | names, sort_keys=False, allow_unicode=True)
    return text.encode()


def _merged_lines(place: Path, made: bytes, changes: Changes) -> bytes:
    stem = place.with_suffix("").parts
    own = {name: PurePosixPath(name).with_suffix("").parts for name in changes.touched}
    sizes = {changes.touched[name] for name, parts in own.items() if stem[-len(parts) :] == parts}
    if len(sizes) != 1:
        return made
    old = [line for line in place.read_text(encoding="utf-8").splitlines() if line.strip()]
    scored = bool(old) and all(len(line.split()) % 2 == 0 for line in old)

    def said(line: str, size: Size) -> Said:
        scores = scored and len(line.split()) % 2 == 0  # those of the package have none
        label, ring, _ = yolo.parsed_line(line, size, _ANY_CLASS, None, scores)
        return Said({"segmentation": [ring]}, label)

    stay, fresh = sorted_out(old, made.decode().splitlines(), sizes.pop(), said, silent=False)
    fresh = [f"{line} 1" for line in fresh] if scored and stay else fresh  # all lines of a file have a score, or none
    return "".join(f"{line}\n" for line in stay + fresh).encode()


def merged_coco(place: Path, made: bytes, changes: Changes) -> bytes | None:
    """COCO's, where numbers of images, objects and classes stay what they were."""
    old, new = json.loads(place.read_bytes()), json.loads(made)
    known = {image["file_name"]: image["id"] for image in old["images"]}
    names = {image["id"]: image["file_name"] for image in new["images"]}
    if not _called_alike([image["file_name"] for image in old["images"]], names.values(), changes.fresh):
        return None
    ids = known | dict(zip([n for n in names.values() if n not in known], _further(old["images"]), strict=False))
    images = [{**image, "id": ids[image["file_name"]]} for image in new["images"] if image["file_name"] not in known]
    changed = {ids[name] for name in names.values() if name in changes.touched}
    before = _by_image(row for row in old["annotations"] if row["image_id"] in changed)
    now = _by_image(row | {"image_id": ids[names[row["image_id"]]]} for row in new["annotations"])
    sizes = {ids[name]: size for name, size in changes.touched.items() if name in ids}
    split = {
        key: sorted_out(before.get(key, []), now.get(key, []), sizes[key], _said_by_coco, silent=False)
        for key in changed
    }
    stay = {id(row) for own, _ in split.values() for row in own}
    kept = [row for row in old["annotations"] if row["image_id"] not in changed or id(row) in stay]
    fresh = [row for key in sorted(split) for row in split[key][1]]
    rows = [row | {"id": number} for row, number in zip(fresh, _further(old["annotations"]), strict=False)]
    classes = {row["id"] for row in old["categories"]}
    categories = [*old["categories"], *(row for row in new["categories"] if row["id"] not in classes)]
    lists = {"images": [*old["images"], *images], "annotations": [*kept, *rows], "categories": categories}
    return json.dumps(old | lists).encode()


def _said_by_coco(row: dict[str, Any], size: Size) -> Said:
    return Said(row, (row["category_id"], bool(row.get("iscrowd"))))


def _by_image(rows: Any) -> dict[int, Rows]:
    found: dict[int, Rows] = defaultdict(list)
    for row in rows:
        found[row["image_id"]].append(row)
    return found


def _further(rows: Rows) -> count[int]:
    """Numbers that none of the rows has."""
    return count(1 + max((row["id"] for row in rows), default=0))


def merged_cvat(place: Path, made: bytes, changes: Changes) -> bytes | None:
    """CVAT's, whose images keep their numbers, and its tasks what is said of them."""
    old, new = parse_xml(place), ElementTree.fromstring(made)
    images = {str(image.get("name")): image for image in old.iter("image")}
    labels = old.find(".//labels")
    mine = {str(image.get("name")): image for image in new.iter("image")}
    if labels is None or not _called_alike([str(e.get("name")) for e in old.iter("image")], mine, changes.fresh):
        return None
    _add_labels(labels, new)
    numbers = count(1 + max((int(image.get("id") or 0) for image in images.values()), default=-1))
    for name, image in mine.items():
        if name not in images:
            image.set("id", str(next(numbers)))
            old.append(image)
        elif name in changes.touched:
            before, size = list(images[name]), changes.touched[name]
            stay, fresh = sorted_out(before, list(image), size, _said_by_cvat, silent=True)
            images[name][:] = [*stay, *(copy(shape) for shape in fresh)]
    ElementTree.indent(old)
    text: bytes = ElementTree.tostring(old, encoding="utf-8", xml_declaration=True)
    return text


def _said_by_cvat(shape: Element, size: Size) -> Said:
    if shape.tag not in cvat.SHAPES:
        raise ValueError("it has no area")
    label, group = shape.get("label"), shape.get("group_id", "0")
    crowd = any(a.get("name") == "crowd" and a.text == "true" for a in shape.findall("attribute"))
    part_of = None if group in ("", "0") else (group, label)
    return Said({"segmentation": cvat.segmentation_of(shape, size)}, (label, crowd), part_of)


def _add_labels(labels: Element, new: Element) -> None:
    """The classes that are new."""
    known = {label.findtext("name") for label in labels.iter("label")}
    labels.extend([label for label in new.iter("label") if label.findtext("name") not in known])


def merged_via(place: Path, made: bytes, changes: Changes) -> bytes | None:
    """VIA's file of a folder, whose other images and whose attributes of files stay."""
    if place.name == CLASSES_FILE:
        return made
    old, new = json.loads(place.read_bytes()), json.loads(made)
    fresh = {PurePosixPath(name).name for name in changes.fresh}
    rows = _replaced(list(old.values()), list(new.values()), lambda row: row["filename"], ("regions",), changes, fresh)
    return None if rows is None else json.dumps({f"{row['filename']}{row['size']}": row for row in rows}).encode()


def merged_label_studio(place: Path, made: bytes, changes: Changes) -> bytes | None:
    """Label Studio's tasks, as the package writes them."""
    if place.name == CLASSES_FILE:
        return made
    old, new = json.loads(place.read_bytes()), json.loads(made)
    tasks = [row | {"id": number} for row, number in zip(new, _further(old), strict=False)]
    rows = _replaced(old, tasks, _image_of_task, ("annotations", "predictions"), changes, changes.fresh)
    return None if rows is None else json.dumps(rows).encode()


def _image_of_task(task: dict[str, Any]) -> str:
    """b/c.png of /data/local-files/?d=images/SPLIT/b/c.png."""
    name: str = task["data"]["image"].split("?d=images/")[1].split("/", 1)[1]
    return name


def merged_datumaro(place: Path, made: bytes, changes: Changes) -> bytes | None:
    """Datumaro's items of a subset; classes are numbered by their places, so that new ones follow the others."""
    old, new = json.loads(place.read_bytes()), json.loads(made)
    before, now = (content["categories"]["label"]["labels"] for content in (old, new))
    if [row["name"] for row in before] != [row["name"] for row in now[: len(before)]]:
        return None
    frames = [{**row, "attr": {"frame": i}} for i, row in enumerate(new["items"], start=len(old["items"]))]
    rows = _replaced(old["items"], frames, lambda row: row["image"]["path"], ("annotations",), changes, changes.fresh)
    label = old["categories"]["label"] | {"labels": [*before, *now[len(before) :]]}
    heads = {"infos": (old.get("infos") or {}) | new["infos"], "categories": old["categories"] | {"label": label}}
    return None if rows is None else json.dumps(old | heads | {"items": rows}).encode()


def _replaced(
    old: Rows,
    new: Rows,
    name_of: Callable[[dict[str, Any]], str],
    fields: Collection[str],
    changes: Changes,
    fresh: Collection[str],
) -> Rows | None:
    """Records of images: of those that were changed these fields are the new ones, and new images follow."""
    mine = {name_of(row): row for row in new}
    names = [name_of(row) for row in old]
    if not _called_alike(names, mine, fresh):
        return None
    rows = []
    for name, row in zip(names, old, strict=True):
        fields_now = {key: value for key, value in mine.get(name, {}).items() if key in fields}
        others = {key: value for key, value in row.items() if key not in fields}
        rows.append(others | fields_now if changes.touched and name in mine else row)
    return rows + [row for name, row in mine.items() if name not in names]


def merged_table(place: Path, made: bytes, changes: Changes) -> bytes | None:
    """``objects.csv``, or CVPPP's counts of one split: changed images have new rows, in the order of all."""
    (head, old), (_, new) = _rows_by_image(place.read_text(encoding="utf-8")), _rows_by_image(made.decode())
    of_objects = bool(head)
    order = [(split, name) if of_objects else cvppp.image_name(name) for split, name in changes.order]
    touched = {key for key, (_, name) in zip(order, changes.order, strict=True) if name in changes.touched}
    every = set(order)
    if len(every) < len(order) or len({name for _, name in changes.order}) < len(order):
        return None  # names do not say which image is meant
    kept = {key: rows for key, rows in old.items() if key not in touched} | {k: new[k] for k in touched if k in new}
    classes = new.pop(("", ""), []) if of_objects else []
    kept.pop(("", ""), None)
    rows = [row for key in (*order, *(key for key in kept if key not in every)) for row in kept.get(key, [])]
    return csv_text([*head, *classes, *rows]).encode()


def _rows_by_image(text: str) -> tuple[list[Any], dict[Any, list[Any]]]:
    """The head, which counts have not, and the rows of each image, numbers as such."""
    rows = list(csv.reader(io.StringIO(text, newline="")))
    head, found = [row for row in rows[:1] if row[0] == "split"], defaultdict[Any, list[Any]](list)
    for row in rows[len(head) :]:
        key = (unescaped(row[0]), unescaped(row[1])) if head else row[0]
        numbers = (2, 3, 5) if head else (1,)
        found[key].append([int(cell) if place in numbers and cell else cell for place, cell in enumerate(row)])
    return head, found


def _called_alike(old: Collection[str], new: Collection[str], fresh: Collection[str]) -> bool:
    """Whether the old names are one for each image, and those of the new that have to be among them are."""
    return len(set(old)) == len(old) and set(new) <= set(old) | set(fresh)


def merged(form: str, place: Path, made: bytes, changes: Changes) -> bytes | None:
    """By the format's name, of a file of one of :data:`MERGES`; None where the file is no usual one."""
    try:
        return MERGES[form](place, made, changes)
    except (LookupError, TypeError, ValueError, AttributeError):  # readers take more than what is said of the formats
        return None


MERGES: dict[str, Callable[[Path, bytes, Changes], bytes | None]] = {
    **dict.fromkeys(TABLED, merged_table),
    "coco": merged_coco,
    "cvat": merged_cvat,
    "datumaro": merged_datumaro,
    "label-studio": merged_label_studio,
    "labelme": merged_labelme,
    "via": merged_via,
    "yolo": merged_yolo,
}
