"""Objects of the studio: runs on the server, rings on the page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from eachmask.structures import RLE, Category, Instances, UserError
from eachmask.structures.bitmaps import Bitmaps
from eachmask.structures.polygons import Polygons
from eachmask.studio.schemas import ObjectOut, Ring

Size = tuple[int, int]
"""(height, width), px."""


@dataclass(frozen=True)
class Drawn:
    """One object or proposal."""

    id: int
    category: int
    """The category's own id."""
    counts: str
    """COCO's compressed runs."""
    crowd: bool = False
    score: float | None = None
    source: Literal["person", "model", "file"] = "person"
    comment: str = ""
    attributes: dict[str, Any] = field(default_factory=dict)
    track: int = 0
    """Its number in the stack or video; 0: it is on this image alone."""

    def to_json(self) -> dict[str, Any]:
        """For the journal."""
        return asdict(self)


def mask_of(drawn: Drawn, size: Size) -> RLE:
    """Its pixels, a collection of one."""
    return masks_of_all([drawn], size)


def masks_of_all(drawn: Sequence[Drawn], size: Size) -> RLE:
    """Their pixels, in one collection."""
    if not drawn:
        return RLE.empty(size)
    return RLE.from_coco([{"size": list(size), "counts": one.counts} for one in drawn], size)


def counts_of(mask: RLE) -> str:
    """The runs of one mask as text."""
    return str(mask.to_coco()[0]["counts"])


def filled(rings: Sequence[Ring], size: Size) -> RLE:
    """Rings filled by the even-odd rule.

    Raises:
        UserError: a ring is none, or nothing is inside.
    """
    if any(len(ring) % 2 or len(ring) < 6 for ring in rings) or not rings:
        raise UserError("an outline needs three points at least, each an x and a y")
    points = [np.asarray(ring, np.float64).reshape(-1, 2) for ring in rings]
    try:
        mask = Polygons([points[:1]], [points[1:]], size).to_rle()
    except ValueError as error:
        raise UserError(f"{error}: draw inside the image") from None
    return not_empty(mask)


def not_empty(mask: RLE) -> RLE:
    """The mask itself.

    Raises:
        UserError: it has no pixel.
    """
    if not int(mask.area()[0]):
        raise UserError("no pixel would be left of the object: remove it instead, or draw inside the image")
    return mask


def rings_of(mask: RLE) -> list[Ring]:
    """Outlines of one mask along pixel edges, holes too."""
    polygons = mask.to_polygons()
    return _flat(polygons.outers[0], polygons.holes[0])


def _flat(outers: Sequence[NDArray[Any]], holes: Sequence[NDArray[Any]]) -> list[Ring]:
    return [ring.reshape(-1).astype(float).tolist() for ring in (*outers, *holes)]


def stroked(stroke: Sequence[float], radius: float, size: Size) -> RLE:
    """What a round brush covers.

    Args:
        stroke: x, y, x, y ...; one point is a dot.
        radius: px.
    """
    if len(stroke) < 2 or len(stroke) % 2:
        raise UserError("a stroke needs a point at least, an x and a y")
    points = np.asarray(stroke, np.float64).reshape(-1, 2)
    reach = int(radius) + 2
    low = np.maximum(np.floor(points.min(0)).astype(int) - reach, 0)
    high = np.minimum(np.ceil(points.max(0)).astype(int) + reach, (size[1], size[0]))
    if (high <= low).any():
        return RLE.from_runs(RLE.empty(size).runs, 1, size)
    canvas = np.zeros((high[1] - low[1], high[0] - low[0]), bool)
    places = _apart(points - low - 0.5, radius / 8)  # of pixels' centers
    for start, end in zip(places, [*places[1:], places[-1]], strict=True):
        x1, y1 = np.maximum(np.floor(np.minimum(start, end)).astype(int) - reach, 0)
        x2, y2 = np.maximum(np.ceil(np.maximum(start, end)).astype(int) + reach, 0)
        window = canvas[y1:y2, x1:x2]
        window |= _near(start - [x1, y1], end - [x1, y1], radius, window.shape)
    return Bitmaps([canvas], low[None], size).to_rle()


def _apart(points: NDArray[np.float64], least: float) -> list[NDArray[np.float64]]:
    """Without points that are closer than that to the one before; the last one stays."""
    kept = [points[0]]
    for point in points[1:]:
        if np.hypot(*(point - kept[-1])) >= least:
            kept.append(point)
    return [*kept, points[-1]]


def _near(
    start: NDArray[np.float64], end: NDArray[np.float64], radius: float, shape: tuple[int, ...]
) -> NDArray[np.bool_]:
    """The places (row, column) of a grid that are no farther than a radius from a straight line."""
    x, y = np.arange(shape[1])[None] - start[0], np.arange(shape[0])[:, None] - start[1]
    dx, dy = end - start
    along = np.clip((x * dx + y * dy) / max(dx * dx + dy * dy, 1e-9), 0, 1)
    near: NDArray[np.bool_] = (x - along * dx) ** 2 + (y - along * dy) ** 2 <= radius**2
    return near


def united(masks: Sequence[RLE]) -> RLE:
    """Pixels of any."""
    return RLE.cat(list(masks)).union()


def without(mask: RLE, other: RLE) -> RLE:
    """Pixels of the first that are not in the second."""
    box = [int(v) for v in mask.boxes()[0]]
    if box[2] <= box[0]:
        return mask
    left = mask.crop(box).decode()[0] & ~other.crop(box).decode()[0]
    return Bitmaps([left], np.array([box[:2]]), mask.size).to_rle()


def cut(mask: RLE, line: Sequence[float]) -> list[RLE]:
    """The parts that a line cuts a mask into, the largest first; the line's pixels go to the nearest part.

    Raises:
        UserError: it stays in one piece.
    """
    from scipy.ndimage import distance_transform_edt
    from skimage.measure import label

    x1, y1, x2, y2 = (int(v) for v in mask.boxes()[0])
    inside = mask.crop((x1, y1, x2, y2)).decode()[0]
    points = np.floor(np.asarray(line, np.float64).reshape(-1, 2) - [x1, y1]).astype(np.int32)
    knife: NDArray[np.uint8] = np.zeros(inside.shape, np.uint8)
    cv2.polylines(knife, [points[:, None]], False, 1, 1)
    parts: NDArray[np.int64] = label(inside & (knife == 0), connectivity=1)  # type: ignore[no-untyped-call]
    if parts.max() < 2:
        raise UserError("the line does not cut the object: draw it across, from outside to outside")
    nearest = distance_transform_edt(parts == 0, return_distances=False, return_indices=True)
    parts = np.where(inside, parts[tuple(nearest)], 0)
    order = np.argsort(-np.bincount(parts.ravel())[1:], kind="stable") + 1
    return [Bitmaps([parts == k], np.array([[x1, y1]]), mask.size).to_rle() for k in order]


def shown(drawn: Iterable[Drawn], size: Size) -> list[ObjectOut]:
    """As the page gets them."""
    every = list(drawn)
    masks = masks_of_all(every, size)
    outlines = masks.to_polygons()
    names = [name for name in ObjectOut.model_fields if name in Drawn.__dataclass_fields__]
    rows = zip(every, outlines.outers, outlines.holes, masks.boxes().tolist(), masks.area().tolist(), strict=True)
    return [
        ObjectOut(**{name: getattr(one, name) for name in names}, rings=_flat(outers, holes), box=box, area=area)
        for one, outers, holes, box, area in rows
    ]


def instances_of(drawn: Sequence[Drawn], size: Size, categories: tuple[Category, ...]) -> Instances:
    """As the rest of the package knows them."""
    place = {category.id: label for label, category in enumerate(categories)}
    masks = masks_of_all(drawn, size)
    scores = [1.0 if one.score is None else one.score for one in drawn]
    return Instances(
        image_size=size,
        boxes=torch.from_numpy(masks.boxes()),
        masks=masks,
        labels=torch.tensor([place[one.category] for one in drawn], dtype=torch.int64),
        scores=torch.tensor(scores) if any(one.score is not None for one in drawn) else None,
        crowd=torch.tensor([one.crowd for one in drawn], dtype=torch.bool),
        categories=categories,
    )


def drawn_of(found: Instances, source: Literal["model", "file"], ids: Mapping[str, int], first: int) -> list[Drawn]:
    """Objects from elsewhere, numbered from ``first``.

    Args:
        ids: the id of each category by its name.
    """
    from eachmask.data.targets import masks_of

    counts = [str(row["counts"]) for row in masks_of(found).to_rle().to_coco()]
    scores = (
        [None] * len(found)
        if found.scores is None
        else [round(s, 6) if s == s else None for s in found.scores.tolist()]
    )
    rows = zip(counts, found.label_names, found.crowd.tolist(), scores, strict=True)
    return [
        Drawn(i, ids[name], runs, crowd, score, source)
        for i, (runs, name, crowd, score) in enumerate(rows, start=first)
    ]
