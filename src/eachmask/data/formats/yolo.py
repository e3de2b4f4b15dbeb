"""YOLO segmentation text, read: data.yaml, and one line per object, ``class x1 y1 x2 y2 ...`` in 0..1 of the image.

Instead of data.yaml also darknet's ``obj.data`` (CVAT's YOLO 1.1) or ``classes.txt`` (Label Studio's YOLO; beside the
images themselves LabelImg's), or nothing: a folder of texts alone (:mod:`~eachmask.data.formats.yolo_texts`).

Crowd regions do not exist in the format: they are in files of the same make in ``crowd/``, which others do not read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from eachmask.data.builder import DatasetBuilder
from eachmask.data.dataset import Dataset
from eachmask.data.formats.format import Format
from eachmask.data.formats.segmentations import LEAVES, Rows, Size, rasterize_readable
from eachmask.data.formats.yolo_places import SPLITS, Places, end_inside, is_darknets, is_foreign
from eachmask.data.formats.yolo_texts import Texts, ends_in_tracks, is_texts, without_last
from eachmask.data.formats.yolo_write import label_place, write_yolo
from eachmask.data.images.files import files_below, image_files, image_size, matching
from eachmask.data.images.read import SUFFIXES
from eachmask.data.problems import Problem, only_boxes
from eachmask.data.targets import instances_of
from eachmask.files.progress import Progress, no_progress
from eachmask.files.text import counted, read_text
from eachmask.structures import Category, UserError

Labelled = tuple[Path, list[tuple[Path, int]], list[int], list[bool], list[float | None]]
"""An image's file, and of each object the file and line it is from, its label, whether it is a crowd, its score."""


_VISIBLE = 2
"""Behind a keypoint's x and y, which are shares; 1 where it is hidden, 0 where it is not there."""
_WINDOWS_PATH = re.compile(r'"[A-Za-z]:\\[^"\n]*"|^\s*"?(?:path|train|val|valid|test)"?\s*:.*$', re.MULTILINE)
"""In quotes, where YAML takes backslashes for more than that."""
SPLIT_COMMENT = "# split"
"""``# split all = train`` in obj.data, which others skip: what they call train is called all."""

ROBOFLOW = "_darknet.labels"
"""The list of classes in each split's folder of Roboflow's darknet export."""


class _Listed(NamedTuple):
    """The images that an entry of data.yaml names."""

    base: Path
    """Where their names start from."""
    files: list[Path]
    whole: bool
    """Whether it is a folder with all its images, and not a list of some."""


def read_yolo(source: Path, progress: Progress = no_progress, *, images: Path | None = None) -> Dataset:
    """Read a folder with data.yaml, or the yaml file itself; what it names is looked for in the set's folder, and in
    the folder ``images`` where there is one, and nowhere else.

    Raises:
        UserError: there is no data.yaml, or it names no classes or no images.
    """
    if source.is_dir() and not _yaml_paths(source):
        return _read_texts(source, progress, images)
    yaml_path = _yaml_path(source)
    base = source if source.is_dir() else yaml_path.parent
    content = _load_yaml(yaml_path, base)
    categories = _categories(content, yaml_path)
    result = DatasetBuilder(categories)
    pose = _numbers_of_pose(content, yaml_path, result.problems)
    result.problems += _miscounted(content, categories, yaml_path)
    places = Places(base, images)
    named = list(_split_images(content, yaml_path, places, result.problems))
    for split, listed in named:
        result.add_split(split)
        pages = _pages(progress("reading", listed.files), len(categories), pose, places, result.problems)
        _add(result, split, pages, listed.base)
        result.problems += _without_texts(split, listed, places)
        if listed.whole:
            result.problems += _without_image(listed, places)
    if not named:
        more = f" ({result.problems[0].what}; {result.problems[0].remedy})" if result.problems else ""
        raise UserError(f"{yaml_path} names no folder of images{more}: add train: images/train")
    return result.build()


def _read_texts(source: Path, progress: Progress, images: Path | None) -> Dataset:
    """A folder of texts alone; of splits where it has their folders.

    Raises:
        UserError: it is no such folder, or there are no images.
    """
    if not is_texts(source):
        raise UserError(f"{source} has no data.yaml: write one with train:, val: and names:")
    places = Texts(source, images)
    result = DatasetBuilder(places.categories)
    result.problems += places.problems()
    by_split: dict[str, list[Path]] = {}
    for path in places.files:
        text = places.text_of.get(path, source / path.relative_to(places.start)).relative_to(source)
        split = next((part for part in text.parts[:-1] if part in SPLITS), "all")  # labels/train or train/labels
        by_split.setdefault(split, []).append(path)
    for split, files in by_split.items():
        pages = _pages(progress("reading", files), len(places.categories), None, places, result.problems)
        parts = files[0].relative_to(places.start).parts
        above = parts[: parts.index(split) + 1] if split in parts else ()
        _add(result, split, pages, places.start.joinpath(*above))
    return result.build()


def _yaml_path(source: Path) -> Path:
    return source if source.is_file() else _yaml_paths(source)[0]


def _yaml_paths(source: Path) -> list[Path]:
    """The files of a folder that name its classes and images, the usual first."""
    found = [source / name for name in ("data.yaml", "data.yml", "dataset.yaml") if (source / name).is_file()]
    return found or matching(source, "*.yaml") or _without_yaml(source)


def _without_yaml(source: Path) -> list[Path]:
    """What says the same: darknet's file, or a list of classes above labels."""
    roboflow = [path for name in (".", *SPLITS) for path in matching(source, f"{name}/{ROBOFLOW}")]
    if roboflow:
        return roboflow
    texts = [path for path in (source / "classes.txt", source / "obj.names") if path.is_file()]
    labels = bool(files_below(source / "labels", "*.txt"))  # whose images the user may name
    return data_files(source) or (texts[:1] if labels or _is_flat(source) else [])


def data_files(source: Path) -> list[Path]:
    """Darknet's ``obj.data``: in a folder, or below it where darknet is run and all names in it start from there."""
    return next((found for name in (".", "data", "cfg") if (found := matching(source / name, "*.data"))), [])


def _is_flat(source: Path) -> bool:
    """Whether texts lie beside the images of a folder, as LabelImg saves them."""
    return any(path.suffix.lower() in SUFFIXES and path.with_suffix(".txt").is_file() for path in source.iterdir())


def _load_plain(path: Path, base: Path) -> dict[str, Any]:
    """What ``obj.data`` (``key = value``) or a list of classes says, as data.yaml would."""
    if path.name == ROBOFLOW:  # in each split's folder, beside its images and texts
        splits = {own.parent.name: own.parent.name for own in matching(base, f"*/{ROBOFLOW}")}
        return {**(splits or {"all": "."}), "names": _lines(path)}
    if path.suffix != ".data":
        images = "images" if (path.parent / "images").is_dir() else "."
        folders = sorted(p.name for p in (path.parent / images).iterdir() if p.is_dir() and p.name in SPLITS)
        splits = {name: f"{images}/{name}" for name in folders} or {"all": images}
        return {**splits, "names": _lines(path)}
    lines = _lines(path)
    content: dict[str, Any] = _pairs(line for line in lines if not line.startswith(("#", ";")))
    ours = _pairs(line.removeprefix(SPLIT_COMMENT) for line in lines if line.startswith(SPLIT_COMMENT))
    own = {theirs: name for name, theirs in ours.items()}
    content = {own.get(key, key): value for key, value in content.items() if _is_of_data(key, value)}
    listed = end_inside(base, str(content.get("names", "")))
    if listed is None:
        raise UserError(f"{path}: there is no list of classes {content.get('names', '')}: put it there")
    return content | {"names": _lines(listed)}


def _pairs(lines: Iterable[str]) -> dict[str, str]:
    parts = (line.partition("=") for line in lines)
    return {key.strip(): value.strip() for key, _, value in parts}


def _is_of_data(key: str, value: str) -> bool:
    """Whether an entry of obj.data names the classes or a list of images; CVAT's splits may have any name."""
    return key in (*SPLITS, "names") or (value.endswith(".txt") and key not in ("labels", "map"))


def _lines(path: Path) -> list[str]:
    return [line.strip() for line in read_text(path).splitlines() if line.strip()]


def _load_yaml(path: Path, base: Path) -> dict[str, Any]:
    import yaml

    if path.suffix in (".data", ".txt", ".names", ".labels"):
        return _load_plain(path, base)
    try:
        text = _WINDOWS_PATH.sub(lambda found: found[0].replace("\\", "/"), read_text(path))
        content, plain = yaml.safe_load(text), yaml.load(text, yaml.BaseLoader)  # noqa: S506 makes nothing but text
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise UserError(f"{path} is not readable as YAML ({' '.join(str(error).split())})") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} must have entries train:, val: and names:")
    return content | {"names": plain.get("names") or None}  # classes called no, 01 or 1e3 are


def _categories(content: dict[str, Any], path: Path) -> tuple[Category, ...]:
    names = content.get("names")
    if names is None and isinstance(content.get("nc"), int):
        names = [f"class_{number}" for number in range(content["nc"])]  # as Ultralytics calls them
    if isinstance(names, list):
        names = dict(enumerate(names))
    if isinstance(names, str):
        raise UserError(f"{path}: names: must be a list, such as [nut, bolt], and is {names!r}")
    try:
        if not names or not isinstance(names, dict):
            raise ValueError
        by_number = _by_number(names)
        keys = sorted(by_number)
        if keys != list(range(len(names))):
            raise ValueError
        ids = content.get("category_ids") or {}
        return tuple(Category(int(ids.get(k, k + 1)), by_number[k]) for k in keys)
    except (TypeError, ValueError, AttributeError):
        raise UserError(f"{path}: names: must number the classes 0, 1, 2 ... without gaps") from None


def _by_number(names: dict[Any, Any]) -> dict[int, str]:
    """From {0: nut, 1: bolt}, or the other way round."""
    try:
        return {int(number): str(name) for number, name in names.items()}
    except ValueError:
        return {int(number): str(name) for name, number in names.items()}


def _miscounted(content: dict[str, Any], categories: Sequence[Category], path: Path) -> Iterator[Problem]:
    """What to say where ``nc`` is another number than that of the names."""
    number = content.get("nc")
    if isinstance(number, int) and number != len(categories):
        what = f"it says that there are {counted(number, 'class')}, and names: has {len(categories)}"
        yield Problem(str(path), "nc", what, "the names are taken; mend nc: or names:", "category", "warning")


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


def _split_images(
    content: dict[str, Any], yaml_path: Path, places: Places, problems: list[Problem]
) -> Iterator[tuple[str, _Listed]]:
    """(split, images) of each folder or list that is there; others are named if they can be nothing else."""
    root = str(content.get("path") or ".")
    for split, value in content.items():
        for entry in value if isinstance(value, list) else [value]:
            if not isinstance(entry, str) or split in ("names", "path", "download"):
                continue
            place = places.find(entry, root)
            listed, said = _listed(entry, root, place, places), None
            if listed is not None:
                yield str(split), listed
                if place is not None and is_foreign(entry) and not places.is_literal(entry, place):
                    said = (f"{entry} is not in the data set's folder", f"{place} is read instead", "file", "note")
            elif split in SPLITS and places.is_outside(entry, root):
                what = f"{entry} is not in the data set's folder, and nothing outside it is read"
                said = (what, "move it there, or allow it with --images FOLDER", "file", "warning")
            elif split in SPLITS:
                what = f"there is no folder or list {entry}"
                said = (what, "put it there or remove the entry", "file", "warning")
            if said:
                problems.append(Problem(str(yaml_path), f"entry {split}", *said))


def _listed(entry: str, root: str, place: Path | None, places: Places) -> _Listed | None:
    """What an entry names; None where there is nothing, or an empty folder instead of one that may not be read."""
    files = image_files(place) if place is not None and place.is_dir() else []
    if not files and (elsewhere := places.by_labels(entry, root)):
        return _Listed(places.images or places.base, elsewhere, whole=False)
    if place is not None and place.suffix == ".txt" and place.is_file():
        named = _read_list(place, places, root)
        return _Listed(_start(place.parent, named, places.images), named, whole=False)
    if place is None or not place.is_dir() or (not files and places.is_outside(entry, root)):
        return None
    return _Listed(place, files, whole=True)


def _start(folder: Path, images: list[Path], elsewhere: Path | None) -> Path:
    """Where the names of listed images start: in the user's folder of images, where none of them is in the set, and
    there in darknet's folder of a split, where all of them are in one."""
    if elsewhere is not None and not any(path.is_relative_to(folder) for path in images):
        folder = elsewhere
    tops = {path.relative_to(folder).parts[0] if path.is_relative_to(folder) else "" for path in images}
    top = tops.pop() if len(tops) == 1 else ""
    return folder / top if is_darknets(top) else folder


def _read_list(path: Path, places: Places, root: str) -> list[Path]:
    """The images of a list, one a line, from its own folder or from the data set's."""
    lines = read_text(path).replace("\\", "/").splitlines()
    names = [line.strip() for line in lines if line.strip()]
    return [places.image(name, path.parent, root) for name in names]


def _without_texts(split: str, listed: _Listed, places: Places) -> Iterator[Problem]:
    """Where not one image has a text, they are elsewhere rather than images of nothing."""
    if not listed.files or any(places.labels(image, "labels") for image in listed.files):
        return
    text = listed.files[0].with_suffix(".txt")
    what = f"not one of its {counted(len(listed.files), 'image')} has a text with its objects"
    remedy = f"put them where they are looked for, as {label_place(text, 'labels') or text}"
    yield Problem(str(listed.base), f"split {split}", what, remedy, "file", "warning")


def _without_image(listed: _Listed, places: Places) -> Iterator[Problem]:
    """Annotations of images that are not there; beside the images other texts may lie."""
    folder = label_place(listed.base, "labels")
    known = {places.labels(image, "labels") for image in listed.files}
    for path in files_below(folder, "*.txt") if folder is not None else ():
        if path not in known and path.name != "classes.txt" and path.stat().st_size:
            remedy = "put the image there, name its folder with --images, or delete the file"
            yield Problem(str(path), "", "it has no image", remedy, "missing")


def _pages(
    paths: Iterable[Path], num_classes: int, pose: int | None, places: Places, problems: list[Problem]
) -> Iterator[tuple[Labelled, Rows, Size]]:
    """Each image with the outlines of its objects, not yet filled."""
    num_boxes, tracked, folder = 0, 0, Path()
    for path in paths:
        if not path.is_file():
            remedy = "put it there, or name the folder of the images with --images"
            problems.append(Problem(str(path), "", "the image is missing", remedy, "missing"))
            continue
        try:
            size = image_size(path)
        except UserError as error:
            problems.append(Problem(str(path), "", f"the size cannot be read ({error})", "replace the image", "image"))
            continue
        rows: list[dict[str, Any]] = []
        where: list[tuple[Path, int]] = []
        labels: list[int] = []
        crowd: list[bool] = []
        scores: list[float | None] = []
        for kind in ("labels", "crowd"):
            file = places.labels(path, kind)
            if file is None:
                continue
            lines = read_text(file).splitlines()
            if pose is None and ends_in_tracks(lines):
                tracked, lines = tracked + 1, list(map(without_last, lines))
            scored = pose is None and all(len(line.split()) % 2 == 0 for line in lines)
            for number, line in enumerate(lines, start=1):
                if not line.strip():
                    continue
                try:
                    label, ring, score = parsed_line(line, size, num_classes, pose, scored)
                except ValueError as error:
                    problems.append(Problem(str(file), f"line {number}", str(error), "mend or delete the line"))
                    continue
                num_boxes += pose is None and len(line.split()) == 5 + scored
                folder = file.parent
                where.append((file, number))
                labels.append(label)
                rows.append({"segmentation": [ring]})
                crowd.append(kind == "crowd")
                scores.append(score)
        yield (path, where, labels, crowd, scores), rows, size
    problems += only_boxes(folder, num_boxes)
    if tracked:
        what = f"the lines of {counted(tracked, 'text')} end in numbers of tracks"
        problems.append(Problem(str(folder), "", what, "they are left out", "track", "note"))


def _add(result: DatasetBuilder, split: str, pages: Iterable[tuple[Labelled, Rows, Size]], base: Path) -> None:
    for (path, where, labels, crowd, scores), masks, mistakes in rasterize_readable(pages):
        empty = "it covers no pixel", "delete the line", "empty"
        for i, what in [(i, empty) for i in np.flatnonzero(masks.area == 0)] + [(i, LEAVES) for i in mistakes.outside]:
            file, number = where[i]
            result.report(Problem(str(file), f"line {number}", *what))
        name = path.relative_to(base).as_posix() if path.is_relative_to(base) else path.name
        result.add(split, name, path, instances_of(masks, labels, crowd, result.categories, scores))


def parsed_line(
    line: str, size: Size, num_classes: int, pose: int | None, scored: bool
) -> tuple[int, list[float], float | None]:
    """A line -> label, ring x1, y1, x2, y2 ... in pixels, score; four numbers are a box: center x, y, width, height.

    Args:
        pose: of so many numbers the first four are a box and the others keypoints.
        scored: all lines of the file have one number more, as results have (``save_conf`` of Ultralytics).
    """
    words = line.split()
    try:
        label, values = int(float(words[0])), np.array([float(w) for w in words[1:]])
    except (ValueError, OverflowError):
        raise ValueError(f"it holds {next(filter(_is_odd, words))[:30]!r}, which is no number") from None
    if not 0 <= label < num_classes:
        raise ValueError(f"class {label} is not among the {num_classes} names (they count from 0)")
    if not np.isfinite(values).all():
        raise ValueError("it holds a number that is not finite")
    if len(values) == pose:
        values = values[:4]
    elif _VISIBLE in values[6::3] and set(values[6::3]) <= {0, 1, _VISIBLE} and len(values) % 3 == 1:
        points = (len(values) - 4) // 3
        raise ValueError(f"it looks like a box and {points} keypoints, and data.yaml has no kpt_shape: [{points}, 3]")
    score = None
    if scored and 0 <= values[-1] <= 1:
        score, values = float(values[-1]), values[:-1]
    if len(values) == 4:
        x, y, w, h = values
        values = np.array([x - w / 2, y - h / 2, x + w / 2, y - h / 2, x + w / 2, y + h / 2, x - w / 2, y + h / 2])
    if len(values) < 6 or len(values) % 2:
        raise ValueError(f"its {len(values)} coordinates are no outline: x and y come in pairs, three or more")
    if np.abs(values).max() > 2:
        raise ValueError("its coordinates are pixels, but must be shares of width and height, 0..1")
    pixels: list[float] = (values.reshape(-1, 2) * np.array([size[1], size[0]])).ravel().tolist()
    return label, pixels, score


def _is_odd(word: str) -> bool:
    try:
        return abs(float(word)) == float("inf")
    except ValueError:
        return True


def _looks_like(source: Path) -> bool:
    if source.is_file():
        return source.suffix.lower() in (".yaml", ".yml", ".data")
    return bool(matching(source, "*.y*ml")) or bool(_without_yaml(source)) or is_texts(source)


_MARKS = "data.yaml, classes.txt above labels, or texts of numbers alone"
FORMAT = Format("yolo", _looks_like, _MARKS, read_yolo, write_yolo, takes_images=True)
