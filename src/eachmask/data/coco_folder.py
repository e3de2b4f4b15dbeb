"""COCO data sets as folders, read without stopping at what is broken.

:class:`eachmask.data.coco.CocoDataset` reads one file strictly, for training; here every instances file of a
folder is read, and each annotation that cannot be used is named and left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from eachmask.data import coco
from eachmask.data.annotated import AnnotatedSet, Picture, Problem, copy_image, instances_of, safe_name
from eachmask.structures import RLE, Category, UserError

_SPLITS = ("train", "val", "valid", "test")


def find_coco_files(source: Path) -> list[Path]:
    """The instances files of a folder: in it, or in its folder ``annotations``; or the file itself."""
    if source.is_file():
        return [source]
    for folder in (source, source / "annotations"):
        found = sorted(folder.glob("instances*.json")) or [p for p in sorted(folder.glob("*.json")) if _is_coco(p)]
        if found:
            return found
    return sorted(source.glob("*/_annotations.coco.json"))


def _is_coco(path: Path) -> bool:
    with open(path, encoding="utf-8", errors="replace") as handle:
        text = handle.read() if path.stat().st_size < 10**8 else handle.read(10**6)
    return '"images"' in text and '"annotations"' in text and '"file_name"' in text


def read_coco_folder(source: Path) -> AnnotatedSet:
    """Read all instances files; each is a split, named after its file.

    Raises:
        UserError: there is no instances file, or one of them is no JSON of the known make.
    """
    files = find_coco_files(source)
    if not files:
        raise UserError(f"{source} holds no COCO instances file: name it instances_train.json")
    result = AnnotatedSet((), {})
    contents = {path: coco.read_json(path, ("images", "annotations", "categories")) for path in files}
    result.categories = _joined_categories(contents)
    for content in contents.values():
        for key, fields in coco.read_category_fields(content["categories"]).items():
            result.category_fields.setdefault(key, fields)
    for path, content in contents.items():
        split = _split_name(path)
        reader = _Reader(path, _image_folder(path, split), result.categories, result.problems)
        result.splits.setdefault(split, []).extend(reader.pictures(content))
    return result


def write_coco_folder(target: Path, data: AnnotatedSet) -> list[str]:
    """Write instances_SPLIT.json and images/SPLIT; the format holds everything."""
    target.mkdir(parents=True, exist_ok=True)
    for split, pictures in data.splits.items():
        for picture in pictures:
            copy_image(picture, target / "images" / split / picture.name)
        rows = [(p.name, replace(p.targets, categories=data.categories)) for p in pictures]
        if rows:
            coco.write_coco(
                target / f"instances_{split}.json",
                rows,
                image_fields=[p.fields for p in pictures],
                category_fields=data.category_fields,
            )
    return []


def _joined_categories(contents: dict[Path, dict[str, Any]]) -> tuple[Category, ...]:
    """The categories of all files; an id must mean the same everywhere."""
    by_id: dict[int, Category] = {}
    for path, content in contents.items():
        for category in coco.read_categories(content["categories"], path):
            known = by_id.setdefault(category.id, category)
            if known.name != category.name:
                raise UserError(
                    f"{path}: category {category.id} is {category.name!r}, but another file of the data set calls it "
                    f"{known.name!r}: give each category one id"
                )
    return tuple(by_id.values())


def _split_name(path: Path) -> str:
    name = path.parent.name if path.name == "_annotations.coco.json" else path.stem
    words = [w for w in re.split(r"[^a-z]+", name.lower().replace("instances", "")) if w]
    return next((w for w in words if w in _SPLITS), "all")


def _image_folder(path: Path, split: str) -> Path:
    base = path.parent.parent if path.parent.name == "annotations" else path.parent
    year = re.search(r"\d{4}", path.stem)
    names = [f"images/{split}", f"{split}{year.group() if year else ''}", "images", split, "."]
    return next(base / name for name in names if (base / name).is_dir())


@dataclass
class _Reader:
    file: Path
    folder: Path
    categories: tuple[Category, ...]
    problems: list[Problem]

    def pictures(self, content: dict[str, Any]) -> Iterator[Picture]:
        records = list(self._records(content["images"]))
        groups: dict[Any, list[dict[str, Any]]] = {record["id"]: [] for record in records}
        seen: set[Any] = set()
        for row in content["annotations"]:
            if not isinstance(row, dict) or not isinstance(row.get("id"), int | str | None):
                self._problem(row, "it is no annotation with an id", "mend or delete it", "annotation")
                continue
            if not isinstance(row.get("image_id"), int | str) or row["image_id"] not in groups:
                self._problem(row, "its image is not in the list of images", "add the image or delete it", "orphan")
                continue
            if row.get("id") in seen:
                self._problem(row, "another annotation has the same id", "number them anew", "duplicate id", "warning")
            seen.add(row.get("id"))
            groups[row["image_id"]].append(row)
        for record in records:
            yield self._picture(record, groups[record["id"]])

    def _records(self, rows: Sequence[Any]) -> Iterator[dict[str, Any]]:
        ids: set[Any] = set()
        names: set[str] = set()
        for number, row in enumerate(map(coco.with_file_name, rows), start=1):
            try:
                name = safe_name(str(row["file_name"]), self.file)
                key, height, width = row["id"], int(row["height"]), int(row["width"])
                hash(key)
            except (KeyError, TypeError, ValueError) as error:
                reason = str(error) if isinstance(error, UserError) else "id, file_name, width or height is missing"
                self.problems.append(Problem(str(self.file), f"image {number}", reason, "mend its entry", "image"))
                continue
            if key in ids or name in names or height < 1 or width < 1:
                what = "its size is no size" if key not in ids and name not in names else "it is listed twice"
                self.problems.append(Problem(str(self.file), f"image {key}", what, "mend its entry", "duplicate id"))
                continue
            ids.add(key)
            names.add(name)
            yield {**row, "file_name": name, "height": height, "width": width}

    def _picture(self, record: dict[str, Any], rows: list[dict[str, Any]]) -> Picture:
        label_of = {c.id: i for i, c in enumerate(self.categories)}
        kept, masks = self._usable(rows, record, label_of)
        labels = [label_of[row["category_id"]] for row in kept]
        targets = instances_of(
            masks, labels, [str(r.get("iscrowd", 0)) in ("1", "1.0", "True") for r in kept], self.categories
        )
        keep = masks.area() > 0
        for row, some in zip(kept, keep, strict=True):
            if not some:
                self._problem(row, "it covers no pixel of the image", "delete it or draw it anew", "empty")
        rows_left = [row for row, some in zip(kept, keep, strict=True) if some]
        self._check_boxes(rows_left, targets.boxes.numpy(), record)
        try:
            points = coco.packed_keypoints(rows_left)
        except (TypeError, ValueError):
            points = None
        if points is not None:
            targets = replace(targets, keypoints=torch.from_numpy(points))
        ids = tuple(str(row.get("id")) for row in rows_left)
        fields = coco.read_image_fields(record)
        return Picture(record["file_name"], self.folder / record["file_name"], targets, ids, fields)

    def _usable(
        self, rows: list[dict[str, Any]], record: dict[str, Any], label_of: dict[int, int]
    ) -> tuple[list[dict[str, Any]], RLE]:
        size = (record["height"], record["width"])
        known = []
        for row in rows:
            if isinstance(row.get("category_id"), int) and row["category_id"] in label_of:
                known.append(row)
            else:
                what = f"category_id {row.get('category_id')} is not among the categories"
                self._problem(row, what, "add the category or mend the id", "category")
        try:
            return known, coco.masks_at_once(known, size)
        except (KeyError, TypeError, ValueError, AttributeError):
            pass
        kept, parts = [], [RLE.empty(size)]
        for row in known:  # find out which one it was
            try:
                parts.append(coco.masks_at_once([row], size))
                kept.append(row)
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                reason = "it has neither segmentation nor box" if isinstance(error, KeyError) else str(error)
                self._problem(row, f"its segmentation cannot be read ({reason})", "draw it anew or delete it")
        return kept, RLE.cat(parts)

    def _check_boxes(self, rows: list[dict[str, Any]], tight: Any, record: dict[str, Any]) -> None:
        height, width = record["height"], record["width"]
        for row, own in zip(rows, tight, strict=True):
            box = row.get("bbox")
            try:
                x, y, w, h = (float(v) for v in box or ())
            except (TypeError, ValueError):
                what = "it has no box of four numbers"
                self._problem(row, what, "the box of its mask is taken", "degenerate box", "warning")
                continue
            if not np.isfinite([x, y, w, h]).all() or w <= 0 or h <= 0:
                what = f"its box {w:g} x {h:g} is degenerate"
                self._problem(row, what, "the box of its mask is taken", "degenerate box")
            elif x < -1 or y < -1 or x + w > width + 1 or y + h > height + 1:
                self._problem(row, "its box leaves the image", "the box of its mask is taken", "outside", "warning")
            elif np.abs(own - [x, y, x + w, y + h]).max() > max(5, 0.1 * max(w, h)):
                self._problem(row, "its box does not fit its mask", "the mask's is taken", "box and mask", "warning")
            if _leaves(row.get("segmentation"), width, height):
                self._problem(row, "its outline leaves the image", "it is cut at the border", "outside", "warning")

    def _problem(self, row: Any, what: str, remedy: str, kind: str = "segmentation", severity: str = "error") -> None:
        name = f"annotation {row.get('id')}" if isinstance(row, dict) else "an annotation"
        if isinstance(row, dict) and row.get("image_id") is not None:
            name += f" of image {row['image_id']}"
        self.problems.append(Problem(str(self.file), name, what, remedy, kind, severity))


def _leaves(rings: Any, width: int, height: int, slack: float = 1.0) -> bool:
    """Whether a polygon has a vertex more than ``slack`` pixels outside the image."""
    if not isinstance(rings, list):
        return False
    for ring in rings:
        points = np.asarray(ring, np.float64).reshape(-1, 2)
        if len(points) and ((points < -slack).any() or (points > np.array([width, height]) + slack).any()):
            return True
    return False
