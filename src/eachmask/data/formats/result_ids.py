"""Which image a result is of, as the many tools call images; and what to say where results lie beside the objects."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote

import numpy as np
from numpy.typing import NDArray

from eachmask.data.formats.coco_fields import plain_id, whole_number
from eachmask.data.images.files import spelled
from eachmask.data.split import Split
from eachmask.data.targets import masks_of
from eachmask.structures import Category, Instances

MAX_COMPARED = 50
"""Images in which results are compared with the objects they lie on."""
_HIT = 0.5
"""A result with a higher IoU lies on an object."""
_ROBOFLOW = re.compile(r"_(jpe?g|png|bmp|tiff?|webp)\.rf\.[0-9a-z]+$", re.IGNORECASE)
"""What Roboflow puts behind the names of images."""
_LAST_NUMBER = re.compile(r"(\d+)\D*$")


def images_by_id(rows: Sequence[Any], data: Split) -> tuple[dict[Any, int | None], list[str]]:
    """What results call an image -> its place, and what to note; None where it is not there to be measured.

    By the data set's ids. Where not one result has such an id, by the names of the files, with suffix or without, or by
    the numbers in these names. Where ids would all be there if they were counted from the next number, those that are
    not there are left out.
    """
    known: dict[Any, int | None] = {plain_id(data.image_id(i)): i for i in range(len(data))}
    used = {image_key(row) for row in rows if isinstance(row, dict)} - {None}
    if not used or used <= set(known):
        return known, []
    if not used & set(known):
        names = {i: data.file_name(i) for i in range(len(data))}
        by_name = max((_named(used, names, spelling) for spelling in (last_name, _stem, plain_stem)), key=len)
        if by_name:
            return by_name, ["the results call images by their files' names: matched by these"]
        numbers = unique_names(names, _number_in)
        if all(isinstance(own, int) and str(own) in numbers for own in used):
            places = {own: numbers[str(own)] for own in used}
            return places, ["the results call images by the numbers in their files' names: matched by these"]
        padded = {own: whole_number(own) for own in used}  # 000000000139
        if set(padded.values()) <= set(known):
            return {own: known[number] for own, number in padded.items()}, []
    step = shift_of(used, set(known))
    if not step:
        return known, []
    number = sum(isinstance(row, dict) and image_key(row) not in known for row in rows)
    note = (
        f"the results' image ids are {'smaller' if step > 0 else 'larger'} by one than the annotations': measured as "
        f"given, without {number} results of images that are not annotated, but a shift by one would match"
    )
    return dict.fromkeys(used) | known, [note]


def image_key(row: Mapping[str, Any]) -> float | str | None:
    """What a result calls its image: an id, or, where it has none, the file's name."""
    key = plain_id(row.get("image_id"))
    name = row.get("file_name")
    return name if key is None and isinstance(name, str) else key


def _named(used: Iterable[Any], names: Mapping[int, str], spelling: Callable[[str], str]) -> dict[Any, int | None]:
    """What results call an image -> its place, where that is the spelling of a file's name."""
    found = unique_names(names, spelling)
    keys = {name: spelling(str(name)) if spelling is plain_stem else str(name) for name in used}
    return {name: found[key] for name, key in keys.items() if key in found}


def shift_of(used: Iterable[Any], ids: Iterable[Any]) -> int:
    """1 or -1, added to the numbers that are used, makes them all known; 0 where they are, or neither does."""
    numbers, known = set(used), set(ids)
    if numbers <= known or not all(isinstance(number, int) for number in numbers):
        return 0
    return next((step for step in (1, -1) if {number + step for number in numbers} <= known), 0)


def unique_names(names: Mapping[Any, str], spelling: Callable[[str], str]) -> dict[str, Any]:
    """The spelling of a name -> whose it is, where only one has it."""
    found: dict[str, list[Any]] = {}
    for number, name in names.items():
        found.setdefault(spelling(name), []).append(number)
    return {name: numbers[0] for name, numbers in found.items() if len(numbers) == 1}


def last_name(name: str) -> str:
    """The last part of a path."""
    return PurePosixPath(name.replace("\\", "/")).name


def _stem(name: str) -> str:
    return PurePosixPath(last_name(name)).stem


def plain_stem(name: str) -> str:
    """Without folders, suffix, percent codes and what Roboflow appends; how it is spelled does not matter."""
    last = last_name(unquote(name))
    stem = PurePosixPath(last).stem if re.search(r"\.[A-Za-z]{3,4}$", last) else last
    return spelled(_ROBOFLOW.sub("", stem))


def _number_in(name: str) -> str:
    """The last number of a name, as COCO's own names are: 000000000139.jpg."""
    found = _LAST_NUMBER.search(_stem(name))
    return str(int(found[1])) if found else ""


# Results beside the objects -------------------------------------------------------------------------


def misplaced(found: Sequence[Instances], data: Split) -> list[str]:
    """What to note where results lie on objects of the class, or of the image, next to theirs, or on none at all:
    measured as given, they would be wrong without a word."""
    some = [i for i, own in enumerate(found) if len(own) and data.num_objects_of(i)][:MAX_COMPARED]
    pairs, hits, number = Counter[tuple[int, int]](), 0, 0
    for i in some:
        iou, targets = _iou(found[i], data, i), data.targets(i)
        on_one = iou.max(1) > _HIT
        theirs, own = targets.labels.numpy()[iou.argmax(1)], found[i].labels.numpy()
        pairs.update(zip(own[on_one].tolist(), theirs[on_one].tolist(), strict=True))
        hits, number = hits + int(on_one.any()), number + 1
    other = _other_classes(pairs, data.categories)
    if other:
        return [other]
    if number == 0 or hits > 0.1 * number:
        return []
    return [_elsewhere(found, data, some) or _nowhere(found, some)]


def _other_classes(pairs: Counter[tuple[int, int]], categories: Sequence[Category]) -> str:
    """The sentence for results most of which lie on objects of another class; pairs of labels, a result's first."""
    others = Counter({pair: times for pair, times in pairs.items() if pair[0] != pair[1]})
    if 2 * others.total() <= pairs.total():
        return ""
    steps = Counter[int]()
    for (own, theirs), times in others.items():
        steps[categories[theirs].id - categories[own].id] += times
    likely, times = steps.most_common(1)[0]
    if abs(likely) == 1 and times > 0.9 * others.total():
        return (
            f"the results' category ids are {'smaller' if likely > 0 else 'larger'} by one than those of the objects "
            "they lie on: they are measured as given, but a shift by one would match"
        )
    own, theirs = others.most_common(1)[0][0]
    return (
        "most results lie on objects of another class, as those called "
        f"{categories[own].name!r} on {categories[theirs].name!r}: check the order of the classes"
    )


def _iou(own: Instances, data: Split, index: int) -> NDArray[np.float64]:
    """(results, objects) of an image; zeros where they are of different sizes."""
    masks, targets = masks_of(own), masks_of(data.targets(index))
    return masks.iou(targets) if masks.size == targets.size else np.zeros((len(masks), max(len(targets), 1)))


def _elsewhere(found: Sequence[Instances], data: Split, some: Sequence[int]) -> str:
    """The sentence for results that lie on the objects of the image before or after theirs."""
    counted: dict[int, tuple[int, int]] = {}
    for step in (1, -1):
        others = [i for i in some if 0 <= i + step < len(data) and data.num_objects_of(i + step)]
        matched = sum(bool((_iou(found[i], data, i + step).max(1) > _HIT).any()) for i in others)
        counted[step] = matched, len(others)
    step, (matched, number) = max(counted.items(), key=lambda entry: entry[1][0])
    if 2 * matched <= number:
        return ""
    return (
        f"the results lie on the objects of the image {'after' if step > 0 else 'before'} theirs: they are measured as "
        "given, but image ids shifted by one would match"
    )


def _nowhere(found: Sequence[Instances], some: Sequence[int]) -> str:
    ends = max(float(found[i].boxes.max()) for i in some)
    cause = "the ids of images, and that boxes are x, y, width, height and outlines x, y in pixels of the image"
    if ends <= 2:
        cause = "the coordinates: they look like shares of the image, 0 to 1, and must be pixels"
    return f"hardly a result lies on an annotated object (IoU above {_HIT}), of any class: check {cause}"
