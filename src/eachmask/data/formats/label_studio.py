"""Label Studio's own JSON export: tasks with polygons, rectangles, ellipses, brush strokes and bit masks.

Of a task the last annotation that was not cancelled counts; predictions count where there is none. Images are found by
the name they were uploaded with, inside the data set alone.
"""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from eachmask.data.dataset import Dataset
from eachmask.data.elsewhere import ImageFolder
from eachmask.data.formats.classes_file import write_categories
from eachmask.data.formats.coco_fields import parsed
from eachmask.data.formats.drawn import (
    BRIDGED,
    Drawing,
    Entry,
    beginning,
    data_of,
    drawings_in,
    ellipse,
    image_named,
    rings_to_write,
    turned,
)
from eachmask.data.formats.format import Format
from eachmask.data.formats.label_maps import decoded
from eachmask.data.images.files import copy_image, matching
from eachmask.data.images.read import SUFFIXES
from eachmask.data.problems import NoAreaError, Problem, unread
from eachmask.data.split import AnnotatedImage
from eachmask.data.targets import score_in
from eachmask.files.progress import Progress, no_progress
from eachmask.structures import RLE, UserError

_KINDS = ("polygonlabels", "rectanglelabels", "ellipselabels", "brushlabels", "bitmasklabels")
_PLAIN = tuple(kind.removesuffix("labels") for kind in _KINDS)
"""What regions are called where one tag draws them and another, ``Labels``, says their class."""

_LINES = ("keypoint", "vector", "polyline")
_SEVERAL, _PREDICTED = "tasks with several annotations", "tasks with predictions alone"
_TURNED = "regions drawn on an image that was turned there (image_rotation)"
_UNDONE, _UNNAMED = "tasks that nobody has annotated, or that were skipped", "regions without a label"
_OF_TWO = "regions with several labels"
_REMEDIES = {
    _SEVERAL: "the last of each is read; delete the others where they are better",
    _PREDICTED: "these are read in place of annotations",
    _TURNED: "they are read as if it had not been turned; look whether they lie right",
    _UNDONE: "their images are taken to show nothing; leave them out of the export if that is not so",
    _UNNAMED: "they are called object; give each a label",
    _OF_TWO: "the first of each is its class",
}


def read_label_studio(source: Path, progress: Progress = no_progress, *, images: Path | None = None) -> Dataset:
    """Read every export of a folder, or one file.

    Raises:
        UserError: there is none.
    """
    files = _files(source)
    if not files:
        raise UserError(f"{source} holds no Label Studio export: export the project as JSON")
    folder, problems = source if source.is_dir() else source.parent, list[Problem]()
    known = ImageFolder(images or folder)

    passed = Counter[str]()

    def entries(file: Path) -> Iterator[Entry]:
        for number, task in enumerate(_tasks(parsed(file)), start=1):
            for item, name in enumerate(_image_names(task)):
                found = image_named(name, known) if name else None
                draw = partial(_add_regions, task=task, number=number, item=item, problems=problems, passed=passed)
                yield found, f"task {number} ({name})", draw

    data = data_of(folder, drawings_in(files, entries, problems, progress), problems, images)
    data.problems.extend(
        Problem(str(source), "", f"{what}: {number}", _REMEDIES[what], "left out", "note", number)
        for what, number in passed.items()
        if number
    )
    return data


def write_label_studio(target: Path, data: Dataset, progress: Progress = no_progress) -> list[str]:
    """Write project.json, whose polygons can be imported for correction, and the images in images/SPLIT."""
    tasks: list[dict[str, Any]] = []
    for split, image in progress("writing", list(data.images())):
        name = f"images/{split}/{image.name}"
        copy_image(image, target / name)
        height, width = image.image_size
        scale = 100 / np.array([width, height])
        shared = {
            "type": "polygonlabels", "from_name": "label", "to_name": "image",
            "original_width": width, "original_height": height, "image_rotation": 0,
        }  # fmt: skip
        result = [
            {**shared, "id": f"{i}", "value": {"points": (np.array(ring) * scale).tolist(), "polygonlabels": [label]}}
            | ({"meta": {"text": ["crowd"]}} if crowd else {})
            | ({} if score is None else {"score": score})
            for i, ((label, crowd, ring), score) in enumerate(
                zip(rings_to_write(image), image.scores, strict=True), start=1
            )
        ]
        url = f"/data/local-files/?d={name}"
        tasks.append({"id": len(tasks) + 1, "data": {"image": url}} | _annotated(result, image))
    target.mkdir(parents=True, exist_ok=True)
    (target / "project.json").write_text(json.dumps(tasks), encoding="utf-8")
    write_categories(target, data)
    return [BRIDGED]


def _annotated(result: list[dict[str, Any]], image: AnnotatedImage) -> dict[str, Any]:
    """What people have drawn, or, where a model was it, predictions with their mean score, to be corrected."""
    scores = [score for score in image.scores if score is not None]
    if not scores:
        return {"annotations": [{"result": result}]}
    mean = round(sum(scores) / len(scores), 6)
    return {"predictions": [{"model_version": "eachmask", "score": mean, "result": result}]}


def _tasks(content: Any) -> Iterator[Any]:
    """What a file says of each image, as the export in JSON says it: also that in JSON-MIN, whose fields are one level
    higher, and the annotation that is written to a storage for each task."""
    for entry in content if isinstance(content, list) else [content]:
        if isinstance(entry, dict) and "result" in entry and isinstance(entry.get("task"), dict):
            yield entry["task"] | {"annotations": [entry]}
        elif isinstance(entry, dict) and "data" not in entry:
            lists = [rows for rows in entry.values() if isinstance(rows, list)]
            shapes = [row for rows in lists for row in rows if isinstance(row, dict)]
            kinds = [next((kind for kind in _KINDS if kind in row), "") for row in shapes]
            result = [{"type": kind, "value": row, **row} for kind, row in zip(kinds, shapes, strict=True) if kind]
            yield {"data": entry, "annotations": [{"result": result}]}
        else:
            yield entry


def _image_names(task: Any) -> list[str]:
    """Of a task's image, or of several that it shows side by side."""
    data = task.get("data") if isinstance(task, dict) else None
    values = [data["image"]] if isinstance(data, dict) and "image" in data else list((data or {}).values())
    texts = [value for value in values if isinstance(value, str)]
    one = next(filter(_is_image, texts), next(iter(texts), ""))
    several = next((value for value in values if isinstance(value, list)), [])
    return [one] if one else [str(name) for name in several] or [""]


def _is_image(name: str) -> bool:
    """Whether a path or an address ends as an image does."""
    return any(PurePosixPath(end).suffix.lower() in SUFFIXES for end in (name, urlsplit(name).path))


def _add_regions(
    page: Drawing, task: dict[str, Any], number: int, item: int, problems: list[Problem], passed: Counter[str]
) -> None:
    every = task.get("annotations") or task.get("completions") or []
    done = [a for a in every if not a.get("was_cancelled")]
    passed[_SEVERAL] += item == 0 and len(done) > 1
    passed[_PREDICTED] += item == 0 and not done and bool(task.get("predictions"))
    passed[_UNDONE] += item == 0 and not done and not task.get("predictions")
    chosen = (done or task.get("predictions") or [{}])[-1]
    regions = chosen.get("result") or []
    classes = {r.get("id"): r["value"].get("labels") for r in regions if r.get("type") == "labels" and r.get("value")}
    for place, region in enumerate(regions, start=1):
        where = f"task {number}, region {place}"
        try:
            if region.get("item_index", item) != item:
                continue  # it is on another of the task's images
            kind = str(region.get("type"))
            if kind not in _KINDS + _PLAIN:
                if "from_name" in region and kind.removesuffix("labels") in _LINES:
                    raise NoAreaError(kind.removesuffix("labels"))
                continue  # choices, texts and relations say nothing of outlines
            page.drawn_on(region.get("original_height"), region.get("original_width"), in_pixels=False)
            passed[_TURNED] += bool(region.get("image_rotation"))
            names = region["value"].get(kind) or classes.get(region.get("id")) or []
            passed[_UNNAMED] += not names
            passed[_OF_TWO] += len(names) > 1
            crowd = "crowd" in ((region.get("meta") or {}).get("text") or [])
            page.add(_segmentation(region, page.size), str((*names, "object")[0]), where, crowd, score_in(region))
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            problems.append(unread(page.file, where, error))


def _segmentation(region: dict[str, Any], size: tuple[int, int]) -> Any:
    kind, value = region["type"].removesuffix("labels"), region["value"]
    scale = np.array([size[1], size[0]]) / 100
    if kind in ("brush", "bitmask"):
        alpha = _alpha(value, (int(region["original_height"]), int(region["original_width"])))
        if alpha.shape != size:
            raise ValueError(
                f"it is drawn on {alpha.shape[1]} x {alpha.shape[0]} px, and the image is {size[1]} x {size[0]}"
            )
        return RLE.from_bitmaps((alpha > 127)[None]).to_coco()[0]
    if kind == "polygon":
        return [(np.asarray(value["points"], np.float64) * scale).ravel().tolist()]
    x, y = np.array([value["x"], value["y"]], float) * scale
    degrees = float(value.get("rotation") or 0)
    if kind == "ellipse":
        rx, ry = np.array([value["radiusX"], value["radiusY"]], float) * scale
        return ellipse(x, y, rx, ry, degrees)
    w, h = np.array([value["width"], value["height"]], float) * scale
    return [turned(np.array([[0, 0], [w, 0], [w, h], [0, h]]) + [x, y], degrees, about=(x, y))]


def _alpha(value: dict[str, Any], size: tuple[int, int]) -> NDArray[Any]:
    """(H, W) opacity that a brush or, in a PNG, a bit mask has painted; of a brush the size is known."""
    if "rle" in value:
        return decode_brush(value["rle"], size[0] * size[1] * 4).reshape(*size, 4)[..., 3]
    png = base64.b64decode(str(value["imageDataURL"]).rpartition(",")[2])
    pixels = decoded(np.frombuffer(png, np.uint8))
    if pixels is None or pixels.ndim != 3 or pixels.shape[2] != 4:
        raise ValueError("its imageDataURL is no PNG with transparency")
    return np.asarray(pixels[..., 3])


def decode_brush(data: list[int], expected: int) -> NDArray[np.uint8]:
    """Run lengths of thi.ng/rle-pack, as Label Studio's brush writes RGBA bytes.

    Head: 32 bits number of values, 5 bits word size - 1, four times 4 bits of run size - 1. Then per run: a bit (1: one
    value is repeated), two bits that choose the run size, length - 1, and one value or as many as the length.

    Raises:
        ValueError: it is cut short, or of another number of values.
    """
    bits = "".join(f"{byte:08b}" for byte in np.asarray(data, np.uint8).tolist())
    place = 0

    def take(number: int) -> int:
        nonlocal place
        if place + number > len(bits):
            raise ValueError("its run lengths are cut short")
        place += number
        return int(bits[place - number : place], 2)

    number, word = take(32), take(5) + 1
    sizes = [take(4) + 1 for _ in range(4)]
    if number != expected or word > 8:
        raise ValueError(f"its run lengths hold {number} values, not {expected}")
    values, filled = np.zeros(number, np.uint8), 0
    while filled < number:
        repeated, chosen = take(1), take(2)
        length = take(sizes[chosen]) + 1
        if filled + length > number:
            raise ValueError("its run lengths are longer than the image")
        values[filled : filled + length] = take(word) if repeated else [take(word) for _ in range(length)]
        filled += length
    return values


def _files(source: Path) -> list[Path]:
    found = [source] if source.is_file() else matching(source, "*.json")
    return [path for path in found if path.suffix == ".json" and _is_export(path)]


def _is_export(path: Path) -> bool:
    text = beginning(path)
    return text.lstrip(b"\xef\xbb\xbf\xff\xfe \r\n\t").startswith((b"[", b"{")) and (
        any(f'"{kind}"'.encode() in text for kind in (*_KINDS, *_PLAIN))
        and ((b'"result"' in text and b'"data"' in text) or b'"original_width"' in text)
    )


FORMAT = Format(
    "label-studio",
    lambda source: bool(_files(source)),
    "a JSON export of Label Studio's tasks",
    read_label_studio,
    write_label_studio,
    takes_images=True,
)
