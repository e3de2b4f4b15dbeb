"""COCO's ``segmentation`` entries, polygon lists and run lengths, to packed runs: what every format's outlines become.

Everything becomes COCO's own run-length string first, by compiled calls for all outlines of an image together; the
strings, areas and boxes of many images are then read at once. A polygon costs a few microseconds that way, where one
image at a time would pay for dozens of small array operations.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, tee
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from eachmask.data.problems import Problem
from eachmask.structures import RLE, Polygons
from eachmask.structures.rle_codec import decode_strings
from eachmask.structures.runs import Runs

Rows = Sequence[Mapping[str, Any]]
Size = tuple[int, int]
Known = TypeVar("Known")

BROKEN = (KeyError, TypeError, ValueError, AttributeError, OverflowError)
"""What a segmentation that cannot be read raises."""
MAX_BATCH = 64
"""Annotations and images read together, so that memory stays flat however many there are."""
MIN_NUMBERS = 6
"""Numbers of a ring that encloses something: three points."""
_NOTHING: Mapping[str, Any] = {"segmentation": [[]]}
_OF_BYTES = ("b'", 'b"')
"""What Python's ``str`` begins with of the bytes that pycocotools gives."""
LEAVES = ("its outline leaves the image", "it is cut at the border", "outside", "warning")
"""What, remedy, kind and severity of such a problem."""
BEYOND = "it covers no pixel, since it lies outside the image"


class Rasterized(NamedTuple):
    """The annotations of one image as masks."""

    masks: RLE
    area: NDArray[np.int64]
    """(N,) pixels."""
    boxes: NDArray[np.float32]
    """(N, 4) tight xyxy; zeros where there is no pixel."""


def rasterize(images: Iterable[tuple[Rows, Size]]) -> Iterator[Rasterized | None]:
    """Annotations and (height, width) of each image -> its masks; None for an image with a broken annotation.

    Polygons are filled as pycocotools' ``frPyObjects`` and ``merge`` do, bit for bit. An annotation without a
    segmentation is its box.
    """
    for some in _batches(images):
        try:
            yield from _rasterize(some)
        except BROKEN:
            for rows, size in some:
                try:
                    yield rasterize_one(rows, size)
                except BROKEN:
                    yield None


class Mistakes(NamedTuple):
    """What is wrong with the outlines of one image, by their places."""

    unread: dict[int, str]
    """Why they cannot be read; their masks are empty."""
    outside: list[int]
    """Those that leave the image, and have pixels in it."""
    beyond: list[int]
    """Those that leave it, and have none."""


def rasterize_readable(images: Iterable[tuple[Known, Rows, Size]]) -> Iterator[tuple[Known, Rasterized, Mistakes]]:
    """The same for readers that continue after a mistake; annotations keep their places.

    Args:
        images: for each what its reader knows of it, its annotations and its (height, width).

    Returns:
        for each what its reader knows of it, its masks, and what was wrong.
    """
    known, to_fill = tee(images)  # they are filled many together: what is known of them waits
    found = rasterize((rows, size) for _, rows, size in to_fill)
    for (own, rows, size), filled in zip(known, found, strict=True):
        wrong: dict[int, str] = {}
        if filled is None:
            wrong = {i: why for i, row in enumerate(rows) if (why := _mistake(row, size))}
            filled = rasterize_one([_NOTHING if i in wrong else row for i, row in enumerate(rows)], size)
        leaving = [i for i, row in enumerate(rows) if _leaves(outline_of(row), size)]
        outside = [i for i in leaving if filled.area[i]]
        yield own, filled, Mistakes(wrong, outside, [i for i in leaving if not filled.area[i]])


def without_pixels(file: Path, where: Sequence[str], drawn: Rasterized, mistakes: Mistakes) -> dict[int, Problem]:
    """What to say of each annotation of an image that has no pixel, by its place.

    Args:
        file: they are written in; where: each is called there.
    """
    said = {}
    for i in np.flatnonzero(drawn.area == 0).tolist():
        why = mistakes.unread.get(i)
        what = f"it cannot be read ({why})" if why else BEYOND if i in mistakes.beyond else "it covers no pixel"
        said[i] = Problem(str(file), where[i], what, "draw it anew or delete it")
    return said


def _mistake(row: Mapping[str, Any], size: Size) -> str:
    """Why an annotation cannot be read; "" where it can."""
    try:
        rasterize_one([row], size)
    except BROKEN as error:
        return reason(error)
    return ""


def rasterize_one(rows: Rows, size: Size) -> Rasterized:
    """The same for one image.

    Raises:
        BROKEN: one of the annotations cannot be read.
    """
    return _rasterize([(rows, size)])[0]


def reason(error: BaseException) -> str:
    """What is wrong with a segmentation that cannot be read, for people."""
    if isinstance(error, KeyError):
        return "it has neither outline nor run lengths nor box"
    if isinstance(error, ValueError) and not str(error).startswith(("could not", "cannot reshape")):
        return str(error)
    return "it must be lists of numbers x1, y1, x2, y2 ..., or run lengths"


def _leaves(rings: Any, size: Size, slack: float = 1.0) -> bool:
    """Whether a polygon has a vertex more than ``slack`` pixels outside the image."""
    height, width = size
    try:
        return isinstance(rings, list) and any(
            min(ring) < -slack or max(ring[::2]) > width + slack or max(ring[1::2]) > height + slack
            for ring in rings
            if len(ring) > 1
        )
    except TypeError:  # another spelling than COCO's, read all the same
        return False


def _batches(images: Iterable[tuple[Rows, Size]]) -> Iterator[list[tuple[Rows, Size]]]:
    some: list[tuple[Rows, Size]] = []
    number = 0
    for rows, size in images:
        some.append((rows, size))
        number += 1 + len(rows)
        if number >= MAX_BATCH:
            yield some
            some, number = [], 0
    if some:
        yield some


def _rasterize(images: Sequence[tuple[Rows, Size]]) -> list[Rasterized]:
    from hotcoco import mask as compiled

    rles = [_rles(rows, size) for rows, size in images]
    joined = list(chain.from_iterable(rles))
    counts, offsets = decode_strings([rle["counts"] for rle in joined])
    first = np.cumsum([0, *map(len, rles)]).tolist()
    masks = []
    for (_, size), begin, end in zip(images, first[:-1], first[1:], strict=True):
        runs = offsets[begin : end + 1]
        masks.append(RLE(counts[runs[0] : runs[-1]], runs - runs[0], size))  # refuses runs of another size
    area = np.asarray(compiled.area(joined), np.int64).reshape(-1)
    boxes = np.asarray(compiled.to_bbox(joined), np.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return [Rasterized(m, area[a:b], boxes[a:b]) for m, a, b in zip(masks, first[:-1], first[1:], strict=True)]


def _rles(rows: Rows, size: Size) -> list[dict[str, Any]]:
    """COCO's dicts with compressed counts, one for each annotation."""
    result: list[dict[str, Any]] = [{}] * len(rows)
    outlines: dict[int, Any] = {}
    for i, row in enumerate(rows):
        segmentation = outline_of(row)
        if isinstance(segmentation, dict):
            result[i] = _compressed(segmentation, size)
        else:
            outlines[i] = segmentation or [corners(row["bbox"])]
    for i, rle in zip(outlines, _filled(list(outlines.values()), size), strict=True):
        result[i] = rle
    return result


def is_compressed(segmentation: Any) -> bool:
    """Whether it is run lengths as COCO's own tools take them: a text of a known size."""
    counts = segmentation.get("counts") if isinstance(segmentation, Mapping) else None
    return isinstance(counts, str) and counts[:2] not in _OF_BYTES and "size" in segmentation


def _compressed(segmentation: Mapping[str, Any], size: Size) -> dict[str, Any]:
    """Run lengths, compressed or plain; those of another size than the image's are refused."""
    counts, own = segmentation["counts"], tuple(segmentation.get("size", size))
    if own != size:
        theirs = " x ".join(map(str, own[::-1]))
        raise ValueError(
            f"its run lengths are of {theirs} pixels, expected are those of the image, {size[1]} x {size[0]}"
        )
    if isinstance(counts, str) and counts[:2] in _OF_BYTES:
        counts = counts[2:-1].replace("\\\\", "\\")
    if isinstance(counts, str | bytes):
        return {"size": size, "counts": counts}
    whole = [int(n) if isinstance(n, float) and n.is_integer() else n for n in counts]
    return RLE.from_coco([{"size": size, "counts": whole}], size).to_coco()[0]


def _filled(outlines: Sequence[Sequence[Sequence[float]]], size: Size) -> list[dict[str, Any]]:
    """Each object's rings, filled and united."""
    from hotcoco import mask as compiled

    if not _ordinary(list(chain.from_iterable(outlines)), size):
        odd = next((len(ring) for own in outlines for ring in own if len(ring) % 2 and _are_numbers(ring)), 0)
        if odd:
            raise ValueError(f"it has an outline of {odd} numbers, but x and y come in pairs")
        # other spellings, and other mistakes, which are named there
        return Polygons.from_coco(outlines, size).to_rle().to_coco()
    rings = [[ring for ring in own if len(ring) >= MIN_NUMBERS] for own in outlines]
    flat = list(chain.from_iterable(rings))
    parts = iter(compiled.fr_py_objects(flat, *size) if flat else ())
    return [_united([next(parts) for _ in own], size) for own in rings]


def _ordinary(rings: Sequence[Any], size: Size) -> bool:
    """Whether all rings are lists of pairs of numbers in or near the image."""
    if not all(len(ring) % 2 == 0 and _are_numbers(ring) for ring in rings):
        return False
    values = np.fromiter(chain.from_iterable(rings), np.float64)
    return bool((np.abs(values) <= 2 * max(size)).all())


def _are_numbers(ring: Sequence[Any]) -> bool:
    return {*map(type, ring)} <= {float, int}


def _united(parts: list[dict[str, Any]], size: Size) -> dict[str, Any]:
    if len(parts) == 1:
        return parts[0]
    if not parts:
        return RLE.from_runs(Runs(*np.zeros((3, 0), np.int64)), 1, size).to_coco()[0]
    from hotcoco import mask as compiled

    merged: dict[str, Any] = compiled.merge(parts)
    return merged


def outline_of(row: Mapping[str, Any]) -> Any:
    """An annotation's ``segmentation``, as a list of rings where it is one, flat or of points, as run lengths where a
    list has these alone; None where it says nothing: ``[]``, and beside a box ``[[]]``."""
    found = row.get("segmentation")
    if not found or (row.get("bbox") and isinstance(found, list) and not any(found)):
        return None
    if not isinstance(found, list):
        return found
    if len(found) == 1 and isinstance(found[0], dict):
        return found[0]
    if type(found[0]) in (int, float):
        return [found]
    return [list(chain.from_iterable(found))] if len(found) > 2 and all(map(_is_point, found)) else found


def _is_point(pair: Any) -> bool:
    return isinstance(pair, list) and len(pair) == 2 and _are_numbers(pair)


def corners(box: Sequence[float]) -> list[float]:
    """xywh -> the ring of its corners."""
    x, y, w, h = box
    return [x, y, x + w, y, x + w, y + h, x, y + h]
