"""One annotation file of many images: what was changed takes the place of what it said, all else stays, also what the
package does not know.

Each function takes the file as it is, what the package would write, the names of the images that were changed, and of
those that the file may not have yet; where the file calls its images otherwise, it returns what the package would
write.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from copy import copy
from itertools import count
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from eachmask.files.untrusted_xml import parse_xml

Rows = list[dict[str, Any]]


def merged_labelme(place: Path, made: bytes, touched: Collection[str], fresh: Collection[str]) -> bytes:
    """LabelMe's file of one image, with other shapes."""
    old = json.loads(place.read_bytes())
    return json.dumps(old | {"shapes": json.loads(made)["shapes"]}).encode() if isinstance(old, dict) else made


def merged_yolo(place: Path, made: bytes, touched: Collection[str], fresh: Collection[str]) -> bytes:
    """YOLO's data.yaml, whose folders stay; its files of images say nothing that the package does not know."""
    if place.suffix not in (".yaml", ".yml"):
        return made
    import yaml

    old, new = yaml.safe_load(place.read_bytes()), yaml.safe_load(made)
    classes = {key: new[key] for key in ("names", "category_ids")} | ({"nc": len(new["names"])} if "nc" in old else {})
    text: str = yaml.safe_dump(old | classes, sort_keys=False, allow_unicode=True)
    return text.encode()


def merged_coco(place: Path, made: bytes, touched: Collection[str], fresh: Collection[str]) -> bytes:
    """COCO's, where numbers of images, objects and classes stay what they were."""
    old, new = json.loads(place.read_bytes()), json.loads(made)
    known = {image["file_name"]: image["id"] for image in old["images"]}
    names = {image["id"]: image["file_name"] for image in new["images"]}
    if not _called_alike([image["file_name"] for image in old["images"]], names.values(), fresh):
        return made
    ids = known | dict(zip([n for n in names.values() if n not in known], _further(old["images"]), strict=False))
    images = [{**image, "id": ids[image["file_name"]]} for image in new["images"] if image["file_name"] not in known]
    changed = {ids[name] for name in names.values() if name in touched or name in fresh}
    rows = [row | {"image_id": ids[names[row["image_id"]]]} for row in new["annotations"]]
    rows = [row for row in rows if row["image_id"] in changed]
    rows = [row | {"id": number} for row, number in zip(rows, _further(old["annotations"]), strict=False)]
    kept = [row for row in old["annotations"] if row["image_id"] not in changed]
    classes = {row["id"] for row in old["categories"]}
    categories = [*old["categories"], *(row for row in new["categories"] if row["id"] not in classes)]
    lists = {"images": [*old["images"], *images], "annotations": [*kept, *rows], "categories": categories}
    return json.dumps(old | lists).encode()


def _further(rows: Rows) -> count[int]:
    """Numbers that none of the rows has."""
    return count(1 + max((row["id"] for row in rows), default=0))


def merged_cvat(place: Path, made: bytes, touched: Collection[str], fresh: Collection[str]) -> bytes:
    """CVAT's, whose images keep their numbers, and its tasks what is said of them."""
    old, new = parse_xml(place), ElementTree.fromstring(made)
    images = {str(image.get("name")): image for image in old.iter("image")}
    labels = old.find(".//labels")
    mine = {str(image.get("name")): image for image in new.iter("image")}
    if labels is None or not _called_alike([str(e.get("name")) for e in old.iter("image")], mine, fresh):
        return made
    _add_labels(labels, new)
    numbers = count(1 + max((int(image.get("id") or 0) for image in images.values()), default=-1))
    for name, image in mine.items():
        if name not in images:
            image.set("id", str(next(numbers)))
            old.append(image)
        elif name in touched or name in fresh:
            images[name][:] = [copy(shape) for shape in image]
    ElementTree.indent(old)
    text: bytes = ElementTree.tostring(old, encoding="utf-8", xml_declaration=True)
    return text


def _add_labels(labels: Element, new: Element) -> None:
    """The classes that are new."""
    known = {label.findtext("name") for label in labels.iter("label")}
    labels.extend([label for label in new.iter("label") if label.findtext("name") not in known])


def _called_alike(old: Collection[str], new: Collection[str], fresh: Collection[str]) -> bool:
    """Whether the old names are one for each image, and those of the new that have to be among them are."""
    return len(set(old)) == len(old) and all(name in set(old) or name in fresh for name in new)


def merged(form: str, place: Path, made: bytes, touched: Collection[str], fresh: Collection[str]) -> bytes:
    """By the format's name; what the package would write, where it has no such function or the file is no usual one."""
    try:
        return MERGES[form](place, made, touched, fresh) if form in MERGES else made
    except (LookupError, TypeError, ValueError, AttributeError):  # readers take more than what is said of the formats
        return made


MERGES: dict[str, Callable[[Path, bytes, Collection[str], Collection[str]], bytes]] = {
    "coco": merged_coco,
    "cvat": merged_cvat,
    "labelme": merged_labelme,
    "yolo": merged_yolo,
}
