"""COCO panoptic: ``panoptic_SPLIT.json`` and a PNG of segment ids for each image (Kirillov et al., CVPR 2019).

The JSON file lists the segments of each image: id, category and whether it is a crowd; ``isthing`` of a category says
whether it is counted. PNGs lie in ``panoptic/SPLIT``, ``panoptic_SPLIT`` or a folder of the file's own name; pixels
whose id is in no list are void. Maps are read when their samples are.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from eachmask.data.dataset import Dataset
from eachmask.data.file_split import FileSplit
from eachmask.data.formats.coco_fields import image_file, is_crowd, read_categories, read_json
from eachmask.data.formats.format import Format
from eachmask.data.formats.paired import copy_pairs
from eachmask.data.formats.panoptic_png import decode_ids, encode_ids, segments_info
from eachmask.data.images.files import image_size, safe_name
from eachmask.data.packed import Texts
from eachmask.data.problems import Problem
from eachmask.files.atomic import atomic
from eachmask.files.progress import Progress, no_progress
from eachmask.structures import Category, PanopticMap, Segment, UserError
from eachmask.structures.coco import category_to_dict

START = "panoptic_"
RESULTS = "panoptic.json"
"""As ``eachmask predict`` calls it."""


@dataclass(frozen=True)
class Part:
    """One JSON file of segments."""

    file: Path
    split: str
    maps: list[Path]
    """Folders in which its PNGs may lie."""
    find: Callable[[Mapping[str, Any]], tuple[str, Path]]
    """A record of ``images`` -> the image's name in the data set, and its file."""


def read_coco_panoptic(
    source: Path, progress: Progress = no_progress, *, images: Path | None = None
) -> Dataset[FileSplit[PanopticMap]]:
    """Read every ``panoptic_SPLIT.json`` of a folder or of its ``annotations``, or one such file.

    Raises:
        UserError: a file is none, or two have other categories.
    """
    return read_parts(_part(file, images) for file in progress("reading", _files(source)))


def read_parts(parts: Iterable[Part]) -> Dataset[FileSplit[PanopticMap]]:
    """Read JSON files whose images and maps lie where each part says.

    Raises:
        UserError: a file is none, or two have other categories.
    """
    problems: list[Problem] = []
    splits: dict[str, FileSplit[PanopticMap]] = {}
    known: tuple[Category, ...] | None = None
    for part in parts:
        content = read_json(part.file, ("images", "annotations", "categories"))
        categories = read_categories(content["categories"], part.file)
        if known is not None and categories != known:
            raise UserError(f"{part.file} has other categories than the file before it: read one of them at a time")
        known = categories
        rows = _rows(part, content, {category.id for category in categories}, problems)
        if rows:
            splits[part.split] = _split(rows, categories)
    return Dataset(known or (), splits, problems)


def _part(file: Path, images: Path | None) -> Part:
    split = file.stem.removeprefix(START) or "all"
    base = file.parent.parent if file.parent.name == "annotations" else file.parent
    folders = [base / "images" / split, base / "images" / f"{split}2017", base / split, base / "images", base]
    folders = ([images / split, images] if images is not None else []) + folders

    def find(record: Mapping[str, Any]) -> tuple[str, Path]:
        name = safe_name(str(record["file_name"]), file)
        return name, image_file(name, folders)

    maps = [base / "panoptic" / split, file.with_suffix(""), base / f"{START}{split}", base / "panoptic"]
    return Part(file, split, maps, find)


def _rows(
    part: Part, content: Mapping[str, Any], known: set[int], problems: list[Problem]
) -> list[tuple[str, Path, Path, str]]:
    """(name, image, map, what is known of it) of each image that has a map."""
    records = {record.get("id"): record for record in content["images"] if isinstance(record, dict)}
    rows = []
    for row in content["annotations"]:
        try:
            name, image = part.find(records[row["image_id"]])
            place = image_file(safe_name(str(row["file_name"]), part.file), part.maps)
            segments = [(int(s["id"]), int(s["category_id"]), is_crowd(s)) for s in row["segments_info"]]
            unknown = next((s for s in segments if s[1] not in known), None)
        except (KeyError, TypeError, ValueError):
            what = "an annotation without file_name, segments_info or an image that is listed"
            problems.append(Problem(str(part.file), "", what, "write it anew", "annotation"))
            continue
        if unknown is not None:
            what = f"segment {unknown[0]} of {name} has the category {unknown[1]}, which is not in the list"
            problems.append(Problem(str(part.file), "", what, "add it to categories; it does not count", "annotation"))
        missing = next((path for path in (image, place) if not path.is_file()), None)
        if missing is not None:
            problems.append(Problem(str(missing), "", "there is no such file", "put it there", "missing"))
            continue
        rows.append((name, image, place, json.dumps({"id": row["image_id"], "segments": segments})))
    return rows


def _split(rows: list[tuple[str, Path, Path, str]], categories: tuple[Category, ...]) -> FileSplit[PanopticMap]:
    names, images, maps, entries = zip(*rows, strict=True)
    return FileSplit(
        categories=categories,
        names=Texts.of(names),
        files=Texts.of(str(path) for path in images),
        numbers=np.arange(len(rows)),
        sizes=np.array([image_size(path) for path in images], np.int64),
        targets_in=Texts.of(str(path) for path in maps),
        read=panoptic_map,
        known=categories,
        doubts=strangers,
        entries=Texts.of(entries),
    )


def panoptic_map(file: Path, categories: tuple[Category, ...], entry: Mapping[str, Any]) -> PanopticMap:
    """One map.

    Args:
        entry: ``segments``, a list of id, category id and whether it is a crowd.

    Raises:
        UserError: it is no image, or shows none of its segments.
    """
    ids, listed = _ids_in(file), [i for i, _, _ in entry["segments"]]
    if listed and not np.isin(ids, listed).any():
        raise UserError(
            f"{file} shows none of the {len(listed)} segments that are listed for it: it must be their PNG, of RGB, "
            "where id = R + 256 G + 65536 B"
        )
    label_of = {category.id: label for label, category in enumerate(categories)}
    found = [(i, label_of[k], crowd) for i, k, crowd in entry["segments"] if k in label_of and i > 0]
    ids = np.where(np.isin(ids, [i for i, _, _ in found]), ids, 0)
    return PanopticMap(torch.from_numpy(ids), tuple(Segment(i, k, crowd=bool(c)) for i, k, c in found), categories)


def strangers(file: Path, entry: Mapping[str, Any]) -> str:
    """What of a map is in no list, and what of the list is not in the map.

    Raises:
        UserError: it is no image.
    """
    ids, listed = _ids_in(file), {i for i, _, _ in entry["segments"]}
    values, counts = np.unique(ids, return_counts=True)
    strange = ~np.isin(values, [0, *listed])
    gone = sorted(listed - set(values.tolist()))
    said = []
    if strange.any():
        share, shown = counts[strange].sum() / counts.sum(), ", ".join(map(str, values[strange][:3].tolist()))
        said.append(f"{share:.1%} of its pixels have ids that are not listed ({shown} ...) and do not count")
    if gone:
        said.append(f"{len(gone)} listed segments have no pixel ({', '.join(map(str, gone[:3]))} ...)")
    return "; ".join(said)


def _ids_in(file: Path) -> NDArray[np.int32]:
    """(H, W) ids of a PNG."""
    try:
        colors = cv2.imdecode(np.fromfile(file, np.uint8), cv2.IMREAD_COLOR_RGB)
    except (OSError, cv2.error) as error:
        raise UserError(f"{file} cannot be read ({error})") from None
    if colors is None:
        raise UserError(f"{file} is not an image that can be decoded")
    return decode_ids(np.asarray(colors, np.uint8))


def write_coco_panoptic(
    target: Path, data: Dataset[FileSplit[PanopticMap]], progress: Progress = no_progress
) -> list[str]:
    """Write ``panoptic_SPLIT.json``, ``panoptic/SPLIT`` and ``images/SPLIT``; image ids are places from 1."""
    annotations: dict[str, list[dict[str, Any]]] = {name: [] for name in data.splits}
    for path, seen in copy_pairs(target, "panoptic", data, progress):
        path.write_bytes(encode_ids(seen.ids.cpu().numpy()))
        part, *parts = path.relative_to(target / "panoptic").parts
        rows = annotations[part]
        name = Path(*parts).as_posix()
        rows.append({"image_id": len(rows) + 1, "file_name": name, "segments_info": segments_info(seen)})
    categories = [category_to_dict(c) | {"isthing": int(c.is_thing)} for c in data.categories]
    for name, split in data.splits.items():
        images = [
            {"id": i + 1, "file_name": split.names[i], "height": size[0], "width": size[1]}
            for i, size in enumerate(split.sizes.tolist())
        ]
        with atomic(target / f"{START}{name}.json") as file:
            json.dump({"images": images, "annotations": annotations[name], "categories": categories}, file)
    return []


def _files(source: Path) -> list[Path]:
    if source.is_file():
        return [source]
    if (source / RESULTS).is_file():
        return [source / RESULTS]
    return sorted([*source.glob(f"{START}*.json"), *source.glob(f"annotations/{START}*.json")])


def _looks_like(source: Path) -> bool:
    if source.is_file():
        return source.suffix.lower() == ".json" and source.name.startswith(START.rstrip("_"))
    return source.is_dir() and bool(_files(source))


FORMAT = Format(
    "coco-panoptic",
    _looks_like,
    "panoptic_SPLIT.json",
    read_coco_panoptic,
    write_coco_panoptic,
    takes_images=True,
    target=PanopticMap,
)
