"""Names and scores beside the objects, where they hide nothing that is small."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from eachmask.draw.colors import ink, instance_colors
from eachmask.draw.options import DrawOptions, RGBImage
from eachmask.structures import Instances

Floats = NDArray[np.float64]

MAX_SHARE = 0.4
"""Of the image's width or height that a plate may take."""
MAX_HIDDEN = 0.5
"""Share of a plate that may lie on other plates, and of a small object that may lie below a plate."""
SMALL = 2.0
"""An object is small up to this multiple of the plate's area: a plate on it would hide it."""
MIN_SIDE = 0.5
"""Objects whose longer side is below this multiple of a plate's height go without a name, as a plate would outshine
them."""
_STEPS = (1.5, 3.0, 5.0)
"""How far away a plate may go from a small object, in plate heights."""


def write_names(canvas: RGBImage, instances: Instances, options: DrawOptions | None = None) -> RGBImage:
    """Class and score on a plate in each object's color, at a size to be read in an image of this size.

    A plate that would hide a small object moves away, with a line to its own. One that would cover more than 40% of the
    image's width, or mostly other plates, is left out, as are those of objects smaller than letters.
    """
    height, width = canvas.shape[:2]
    colors = instance_colors(instances, options or DrawOptions())
    size = min(96, max(11, round(0.021 * math.sqrt(height * width))))
    image = Image.fromarray(canvas)
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(size)
    margin = max(2, size // 5)
    boxes = instances.boxes.detach().cpu().double().numpy()
    taken = np.zeros((0, 4))
    for i, text in enumerate(captions(instances)):
        left, top, right, bottom = pen.textbbox((0, 0), text, font=font)
        plate = (math.ceil(right - left) + 2 * margin, math.ceil(bottom - top) + 2 * margin)
        if not text or plate[0] > MAX_SHARE * width or plate[1] > MAX_SHARE * height:
            continue
        spot = _spot(i, boxes, plate, (height, width), taken)
        if spot is None:
            continue
        x, y, away = spot
        taken = np.concatenate([taken, [[x, y, x + plate[0], y + plate[1]]]])
        if away:
            pen.line(_leader(boxes[i], taken[-1]), fill=colors[i], width=max(1, size // 10))
        pen.rectangle((x, y, x + plate[0] - 1, y + plate[1] - 1), fill=colors[i])
        pen.text((x + margin - left, y + margin - top), text, font=font, fill=ink(colors[i]))
    return np.array(image)


def captions(instances: Instances) -> list[str]:
    """Name and score; where there is only one class its name is written once, beside the first object."""
    names = instances.label_names if instances.categories else [""] * len(instances)  # a number alone says nothing
    if len(instances.categories) == 1:
        names = names[:1] + [""] * (len(names) - 1)
    if instances.scores is None:
        return names
    pairs = zip(names, instances.scores.tolist(), strict=True)
    return [f"{name} {score:.2f}".strip() for name, score in pairs]


class _Spot(NamedTuple):
    x: int
    y: int
    away: bool
    """So far from the object that a line must say whose it is."""


def _spot(index: int, boxes: Floats, plate: tuple[int, int], size: tuple[int, int], taken: Floats) -> _Spot | None:
    """Where the plate (width, height) of an object goes, (x, y) of its upper left corner; None: nowhere."""
    box = boxes[index]
    sides = boxes[:, 2:] - boxes[:, :2]
    if sides[index].max() < MIN_SIDE * plate[1]:
        return None
    small = boxes[sides.prod(1) < SMALL * plate[0] * plate[1]]
    near = _beside(box, plate)
    places = np.concatenate([near, _around(box, plate)])
    most = np.array([size[1] - plate[0], size[0] - plate[1]])
    places = np.clip(places.round(), 0, most)
    hidden = _covered(places, plate, taken).sum(1) / (plate[0] * plate[1])
    spoilt = (_covered(places, plate, small) / np.maximum((small[:, 2:] - small[:, :2]).prod(1), 1)).max(1, initial=0)
    # Near places first: of equals the first is taken, and far ones only where near ones hide something.
    cost = hidden + spoilt + 1e-3 * (np.arange(len(places)) >= len(near))
    best = int(cost.argmin())
    if max(hidden[best], spoilt[best]) > MAX_HIDDEN:
        return None
    return _Spot(int(places[best, 0]), int(places[best, 1]), best >= len(near))


def _beside(box: Floats, plate: tuple[int, int]) -> Floats:
    """Above the box, in it, below it, at its right end, beside it: (n, 2) corners."""
    x1, y1, x2, y2 = box.round()
    above, right = y1 - plate[1], x2 - plate[0]
    return np.array([(x1, above), (x1, y1), (x1, y2), (right, above), (x1, y2 - plate[1]), (x2, y1)])


def _around(box: Floats, plate: tuple[int, int]) -> Floats:
    """Places farther away, in eight directions and some distances: (n, 2) corners."""
    center = np.array([(box[0] + box[2]) / 2, (box[1] + box[3]) / 2])
    reach = (box[2:] - box[:2]) / 2 + np.array(plate) / 2
    directions = [(0, -1), (1, -1), (-1, -1), (1, 0), (-1, 0), (0, 1), (1, 1), (-1, 1)]
    steps = [(reach + step * plate[1]) * direction for step in _STEPS for direction in directions]
    return center + np.array(steps) - np.array(plate) / 2


def _covered(places: Floats, plate: tuple[int, int], boxes: Floats) -> Floats:
    """(n, 2) corners of plates, (M, 4) boxes -> (n, M) px^2 that each plate would cover of each box."""
    low = np.maximum(places[:, None], boxes[None, :, :2])
    high = np.minimum(places[:, None] + plate, boxes[None, :, 2:])
    area: Floats = np.maximum(high - low, 0).prod(-1)
    return area


def _leader(box: Floats, plate: Floats) -> list[tuple[float, float]]:
    """From the plate's nearest point to the object's box."""
    center = (box[:2] + box[2:]) / 2
    start = np.clip(center, plate[:2], plate[2:] - 1)
    end = np.clip(start, box[:2], box[2:] - 1)
    return [(float(start[0]), float(start[1])), (float(end[0]), float(end[1]))]
