"""YOLO segmentation text: data.yaml, and one line per object, ``class x1 y1 x2 y2 ...`` in 0..1 of the image.

A line holds one ring. Objects with holes or several parts become one ring all the same: the rings are
joined by bridges of no width, walked there and back. Filled by the even-odd rule the bridges vanish and the
pixels are exact; a program that also paints a ring's border draws the bridges as thin lines.
Crowd regions do not exist in the format: they go to files of the same make in ``crowd/``, where only this
reader looks for them, so that no other program takes a crowd for an object.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from eachmask.data.builder import DatasetBuilder
from eachmask.data.dataset import Dataset
from eachmask.data.formats.format import Format
from eachmask.data.formats.segmentations import LEAVES, Rows, Size, rasterize_readable
from eachmask.data.images.files import copy_image, image_files, image_size
from eachmask.data.problems import Problem, only_boxes
from eachmask.data.targets import instances_of, masks_of
from eachmask.files.progress import Progress, no_progress
from eachmask.files.text import read_text
from eachmask.structures import Category, Masks, UserError

Ring = NDArray[Any]
Labelled = tuple[Path, list[tuple[Path, int]], list[int], list[bool]]
"""An image's file, and of each object the file and line it is from, its label and whether it is a crowd."""
_SPLITS = ("train", "val", "valid", "test")


class _Listed(NamedTuple):
    """The images that an entry of data.yaml names."""

    base: Path
    """Where their names start from."""
    files: list[Path]
    whole: bool
    """Whether it is a folder with all its images, and not a list of some."""


def read_yolo(source: Path, progress: Progress = no_progress) -> Dataset:
    """Read a folder with data.yaml, or the yaml file itself.

    Raises:
        UserError: there is no data.yaml, or it names no classes or no images.
    """
    yaml_path = _yaml_path(source)
    content = _load_yaml(yaml_path)
    categories = _categories(content, yaml_path)
    result = DatasetBuilder(categories)
    pose = _numbers_of_pose(content, yaml_path, result.problems)
    named = list(_split_images(content, yaml_path, result.problems))
    for split, listed in named:
        result.add_split(split)
        pages = _pages(progress("reading", listed.files), len(categories), pose, result.problems)
        _add(result, split, pages, listed.base)
        if listed.whole:
            result.problems += _without_image(listed)
    if not named:
        raise UserError(f"{yaml_path} names no folder of images: add train: images/train")
    return result.build()


def write_yolo(target: Path, data: Dataset, progress: Progress = no_progress) -> list[str]:
    """Write data.yaml, images/SPLIT and labels/SPLIT; returns notes on what the format cannot say."""
    joined = crowds = 0
    for split, record in progress("writing", list(data.images())):
        image = target / "images" / split / record.name
        copy_image(record, image)
        targets = record.targets
        polygons = masks_of(targets).to_polygons()
        rings = one_rings(polygons)
        joined += sum(len(o) + len(h) > 1 for o, h in zip(polygons.outers, polygons.holes, strict=True))
        crowd, labels = targets.crowd.tolist(), targets.labels.tolist()
        crowds += sum(crowd)
        lines = [_line(k, ring, targets.image_size) for k, ring in zip(labels, rings, strict=True)]
        objects = [line for line, c in zip(lines, crowd, strict=True) if not c]
        _write_lines(_label_place(image.with_suffix(".txt"), "labels"), objects)
        if any(crowd):
            ignored = [line for line, c in zip(lines, crowd, strict=True) if c]
            _write_lines(_label_place(image.with_suffix(".txt"), "crowd"), ignored)
    _write_yaml(target / "data.yaml", data)
    notes = []
    if joined:
        notes.append(f"{joined} objects with holes or several parts became one bridged ring each")
    if crowds:
        notes.append(f"{crowds} crowd regions are in crowd/, which other programs do not read")
    return notes


def one_rings(masks: Masks) -> list[Ring]:
    """Each mask's outlines, outer rings and holes, joined to one (K, 2) ring of x, y by bridges of no width.

    Holes turn the other way round than outer rings: the non-zero rule fills the same pixels as the even-odd rule.
    """
    polygons = masks.to_polygons()
    pairs = zip(polygons.outers, polygons.holes, strict=True)
    return [_joined([*(_turned(r, 1) for r in outers), *(_turned(r, -1) for r in holes)]) for outers, holes in pairs]


def _turned(ring: Ring, sign: int) -> Ring:
    """The ring with a shoelace area of that sign."""
    x, y = ring[:, 0].astype(np.float64), ring[:, 1].astype(np.float64)
    doubled = float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))
    return ring if doubled * sign > 0 else ring[::-1]


def _joined(rings: Sequence[Ring]) -> Ring:
    """Rings -> one ring: the nearest ring not yet in it is entered and left at the nearest vertices (Prim)."""
    if not rings:
        return np.zeros((0, 2))
    path, *rest = (np.asarray(ring, np.float64) for ring in rings)
    gaps = [_nearest(path, ring) for ring in rest]
    while rest:
        pick = int(np.argmin([gap[0] for gap in gaps]))
        _, leave, enter = gaps.pop(pick)
        ring = rest.pop(pick)
        detour = np.concatenate([np.roll(ring, -enter, axis=0), ring[enter : enter + 1], path[leave : leave + 1]])
        path = np.concatenate([path[: leave + 1], detour, path[leave + 1 :]])
        shift = len(detour)
        for i, other in enumerate(rest):
            new = _nearest(ring, other)
            gap = gaps[i]
            old = (gap[0], gap[1] + shift * (gap[1] > leave), gap[2])
            begin = leave + 1
            place = begin + (new[1] - enter) % len(ring)
            gaps[i] = (new[0], place, new[2]) if new[0] < old[0] else old
    return path


def _nearest(a: Ring, b: Ring) -> tuple[float, int, int]:
    """(squared distance, index in a, index in b) of the two closest vertices; long rings a block at a time."""
    best = (np.inf, 0, 0)
    step = max(1, 1_000_000 // max(1, len(b)))
    for top in range(0, len(a), step):
        gap = ((a[top : top + step, None] - b[None]) ** 2).sum(2)
        i, j = np.unravel_index(int(gap.argmin()), gap.shape)
        best = min(best, (float(gap[i, j]), top + int(i), int(j)))
    return best


def _line(label: int, ring: Ring, size: tuple[int, int]) -> str:
    height, width = size
    share = ring / np.array([width, height])
    return " ".join([str(label), *(f"{v:.7g}" for v in share.reshape(-1))])


def _write_lines(path: Path | None, lines: Sequence[str]) -> None:
    assert path is not None  # our own images are in a folder of that name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _write_yaml(path: Path, data: Dataset) -> None:
    import yaml

    content: dict[str, Any] = {split: f"images/{split}" for split in data.splits}
    content["names"] = {i: c.name for i, c in enumerate(data.categories)}
    content["category_ids"] = {i: c.id for i, c in enumerate(data.categories)}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")


# Reading ------------------------------------------------------------------------------------------


def _yaml_path(source: Path) -> Path:
    if source.is_file():
        return source
    found = [source / name for name in ("data.yaml", "data.yml", "dataset.yaml") if (source / name).is_file()]
    found = found or sorted(source.glob("*.yaml"))
    if not found:
        raise UserError(f"{source} has no data.yaml: write one with train:, val: and names:")
    return found[0]


def _load_yaml(path: Path) -> dict[str, Any]:
    import yaml

    try:
        content = yaml.safe_load(read_text(path))
    except (UserError, yaml.YAMLError) as error:
        raise UserError(f"{path} is not readable as YAML ({' '.join(str(error).split())})") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} must have entries train:, val: and names:")
    return content


def _categories(content: dict[str, Any], path: Path) -> tuple[Category, ...]:
    names = content.get("names")
    if isinstance(names, list):
        names = dict(enumerate(names))
    try:
        keys = sorted(int(k) for k in names) if isinstance(names, dict) else []
        if not keys or keys != list(range(len(keys))):
            raise ValueError
        assert isinstance(names, dict)
        by_number = {int(k): str(v) for k, v in names.items()}
        ids = content.get("category_ids") or {}
        return tuple(Category(int(ids.get(k, k + 1)), by_number[k]) for k in keys)
    except (TypeError, ValueError, AttributeError):
        raise UserError(f"{path}: names: must number the classes 0, 1, 2 ... without gaps") from None


def _numbers_of_pose(content: dict[str, Any], path: Path, problems: list[Problem]) -> int | None:
    """How many numbers a line has behind its class where the set is one of keypoints: a box, then the points."""
    shape = content.get("kpt_shape")
    if not shape:
        return None
    what, remedy = "its keypoints are not read, and its objects are boxes", "convert it with a tool that knows them"
    problems.append(Problem(str(path), "kpt_shape", what, remedy, "keypoints", "warning"))
    try:
        return 4 + int(shape[0]) * int(shape[1])
    except (TypeError, ValueError, LookupError):
        raise UserError(f"{path}: kpt_shape: must be two numbers, of points and of values for each") from None


def _split_images(content: dict[str, Any], yaml_path: Path, problems: list[Problem]) -> Iterator[tuple[str, _Listed]]:
    """(split, images) of each folder or list that is there; others are named if they can be nothing else."""
    base = yaml_path.parent
    root = base / str(content.get("path") or ".").replace("\\", "/")
    for split, value in content.items():
        for entry in value if isinstance(value, list) else [value]:
            if not isinstance(entry, str) or split in ("names", "path", "download"):
                continue
            place = entry.replace("\\", "/")
            # exports often say ../train/images, relative to a folder that is not there
            tries = [root / place, base / place, base / place.removeprefix("../")]
            folder = next((f for f in tries if f.is_dir()), None)
            lines = next((f for f in tries if f.suffix == ".txt" and f.is_file()), None)
            if folder is not None:
                yield str(split), _Listed(folder, image_files(folder), whole=True)
            elif lines is not None:
                yield str(split), _Listed(lines.parent, _read_list(lines, root), whole=False)
            elif split in _SPLITS:
                what, remedy = f"there is no folder or list {entry}", "put it there or remove the entry"
                problems.append(Problem(str(yaml_path), f"entry {split}", what, remedy, "file", "warning"))


def _read_list(path: Path, root: Path) -> list[Path]:
    """The images of a list, one a line, from its own folder or from the data set's."""
    lines = read_text(path).replace("\\", "/").splitlines()
    names = [line.strip() for line in lines if line.strip()]
    return [path.parent / n if (path.parent / n).is_file() or not (root / n).is_file() else root / n for n in names]


def _without_image(listed: _Listed) -> Iterator[Problem]:
    """Annotations of images that are not there; beside the images other texts may lie."""
    folder = _label_place(listed.base, "labels")
    known = {_label_place(image.with_suffix(".txt"), "labels") for image in listed.files}
    for path in sorted(folder.rglob("*.txt")) if folder is not None else ():
        if path not in known and path.name != "classes.txt" and path.stat().st_size:
            yield Problem(str(path), "", "it has no image", "put the image there or delete the file", "missing")


def _label_place(image: Path, kind: str) -> Path | None:
    """images/train/a -> labels/train/a: the last folder named images changes its name; None where there is none."""
    parts = list(image.parts)
    places = [i for i, part in enumerate(parts) if part == "images"]
    if not places:
        return None
    parts[places[-1]] = kind
    return Path(*parts)


def _pages(
    paths: Iterable[Path], num_classes: int, pose: int | None, problems: list[Problem]
) -> Iterator[tuple[Labelled, Rows, Size]]:
    """Each image with the outlines of its objects, not yet filled."""
    num_boxes, folder = 0, Path()
    for path in paths:
        try:
            size = image_size(path)
        except UserError as error:
            problems.append(Problem(str(path), "", f"the size cannot be read ({error})", "replace the image", "image"))
            continue
        rows: list[dict[str, Any]] = []
        where: list[tuple[Path, int]] = []
        labels: list[int] = []
        crowd: list[bool] = []
        for kind in ("labels", "crowd"):
            beside = path.with_suffix(".txt") if kind == "labels" else None
            file = _label_place(path.with_suffix(".txt"), kind) or beside
            if file is None or not file.is_file():
                continue
            for number, line in enumerate(read_text(file).splitlines(), start=1):
                if not line.strip():
                    continue
                try:
                    label, ring = _parse(line, size, num_classes, pose)
                except ValueError as error:
                    problems.append(Problem(str(file), f"line {number}", str(error), "mend or delete the line"))
                    continue
                num_boxes += pose is None and len(line.split()) == 5
                folder = file.parent
                where.append((file, number))
                labels.append(label)
                rows.append({"segmentation": [ring]})
                crowd.append(kind == "crowd")
        yield (path, where, labels, crowd), rows, size
    problems += only_boxes(folder, num_boxes)


def _add(result: DatasetBuilder, split: str, pages: Iterable[tuple[Labelled, Rows, Size]], base: Path) -> None:
    for (path, where, labels, crowd), masks, mistakes in rasterize_readable(pages):
        empty = "it covers no pixel", "delete the line", "empty"
        for i, what in [(i, empty) for i in np.flatnonzero(masks.area == 0)] + [(i, LEAVES) for i in mistakes.outside]:
            file, number = where[i]
            result.report(Problem(str(file), f"line {number}", *what))
        name = path.relative_to(base).as_posix() if path.is_relative_to(base) else path.name
        result.add(split, name, path, instances_of(masks, labels, crowd, result.categories))


def _parse(line: str, size: Size, num_classes: int, pose: int | None) -> tuple[int, list[float]]:
    """A line -> label and ring x1, y1, x2, y2 ... in pixels; four numbers are a box: center x, y, width, height.

    Args:
        pose: of so many numbers the first four are a box and the others keypoints.
    """
    words = line.split()
    try:
        label, values = int(float(words[0])), np.array([float(w) for w in words[1:]])
    except (ValueError, OverflowError):
        raise ValueError("it holds something that is no number") from None
    if not 0 <= label < num_classes:
        raise ValueError(f"class {label} is not among the {num_classes} names (they count from 0)")
    if not np.isfinite(values).all():
        raise ValueError("it holds a number that is not finite")
    if len(values) == pose:
        values = values[:4]
    if len(values) == 4:
        x, y, w, h = values
        values = np.array([x - w / 2, y - h / 2, x + w / 2, y - h / 2, x + w / 2, y + h / 2, x - w / 2, y + h / 2])
    if len(values) < 6 or len(values) % 2:
        raise ValueError(f"its {len(values)} coordinates are no outline: x and y come in pairs, three or more")
    if np.abs(values).max() > 2:
        raise ValueError("its coordinates are pixels, but must be shares of width and height, 0..1")
    pixels: list[float] = (values.reshape(-1, 2) * np.array([size[1], size[0]])).ravel().tolist()
    return label, pixels


def _looks_like(source: Path) -> bool:
    return source.suffix.lower() in (".yaml", ".yml") if source.is_file() else any(source.glob("*.y*ml"))


FORMAT = Format("yolo", _looks_like, "data.yaml", read_yolo, write_yolo)
