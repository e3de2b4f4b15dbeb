"""YOLO segmentation text, written.

A line holds one ring. Objects with holes or several parts become one ring all the same: the rings are
joined by bridges of no width, walked there and back. Filled by the even-odd rule the bridges vanish and the
pixels are exact; a program that also paints a ring's border draws the bridges as thin lines.
Crowd regions do not exist in the format: they go to files of the same make in ``crowd/``, where only this
reader looks for them, so that no other program takes a crowd for an object.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eachmask.data.dataset import Dataset
from eachmask.data.images.files import copy_image
from eachmask.data.targets import masks_of
from eachmask.files.progress import Progress, no_progress
from eachmask.structures import Masks

Ring = NDArray[Any]


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
        _write_lines(label_place(image.with_suffix(".txt"), "labels"), objects)
        if any(crowd):
            ignored = [line for line, c in zip(lines, crowd, strict=True) if c]
            _write_lines(label_place(image.with_suffix(".txt"), "crowd"), ignored)
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
    return [one_ring(outers, holes) for outers, holes in pairs]


def one_ring(outers: Sequence[Ring], holes: Sequence[Ring]) -> Ring:
    """The same of one object's rings."""
    return _joined([*(_turned(r, 1) for r in outers), *(_turned(r, -1) for r in holes)])


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


def label_place(image: Path, kind: str) -> Path | None:
    """images/train/a -> labels/train/a: the last folder named images changes its name; None where there is none."""
    parts = list(image.parts)
    places = [i for i, part in enumerate(parts) if part.casefold() == "images"]
    if not places:
        return None
    parts[places[-1]] = kind
    return Path(*parts)
