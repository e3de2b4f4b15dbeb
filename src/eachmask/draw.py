"""Images of instances: masks, outlines, skeletons and names on the image they belong to.

Every mask costs its own box, or, where objects are many, all of them together cost one label map; nothing
here grows with objects times pixels.
"""

from __future__ import annotations

import base64
import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from eachmask.data.images.read import as_array, read_image
from eachmask.structures import Instances, Preprocess, UserError

RGBImage = NDArray[np.uint8]
Color = tuple[int, int, int]

_GOLDEN_ANGLE = 137.50776


@dataclass(frozen=True)
class DrawOptions:
    """How an overlay looks. ``None`` lets the image decide: few objects are filled and named, many (more
    than ``crowded``) get thin outlines and a light tint."""

    color_by: Literal["class", "instance"] = "instance"
    """The same class always has the same color, or every object of an image (or track) its own."""
    fill: float | None = None
    """Opacity of the masks, 0..1."""
    outline: int | None = None
    """Thickness, px; 0 is none."""
    names: bool | None = None
    """Write class and score beside each object."""
    keypoint_score: float = 0.02
    """Keypoints that score less are not drawn, nor are limbs that end in them; a score is the chance of the very place,
    so a good one is far from 1."""
    crowded: int = 50
    """More objects than this make a crowd."""
    stretch: bool | None = None
    """Show the 1st to 99.8th percentile of brightness as black to white; None: 16-bit, float and very dark
    images only."""


def overlay(image: NDArray[Any], instances: Instances, options: DrawOptions | None = None) -> RGBImage:
    """Draw instances on their image.

    Args:
        image: (H, W, 3) uint8, uint16 or float32 RGB.
        instances: of that image; without masks their boxes are drawn, and keypoints with the limbs that their
            category's skeleton has.

    Returns:
        (H, W, 3) uint8 RGB, a new array.

    Raises:
        ValueError: the image has another size than the instances.
    """
    if image.shape[:2] != instances.image_size:
        raise ValueError(f"an image of {image.shape[:2]} for instances on {instances.image_size} (height, width)")
    options = options or DrawOptions()
    canvas = to_display(image, options.stretch)
    crowd = len(instances) > options.crowded
    colors = instance_colors(instances, options)
    thickness = _thickness(canvas.shape, crowd) if options.outline is None else options.outline
    if instances.masks is None:
        _draw_boxes(canvas, instances, colors, max(1, thickness))
    elif crowd:
        _draw_crowd(canvas, instances, colors, 0.22 if options.fill is None else options.fill, thickness)
    else:
        _draw_masks(canvas, instances, colors, 0.45 if options.fill is None else options.fill, thickness)
    if instances.keypoints is not None:
        _draw_keypoints(canvas, instances, colors, options.keypoint_score)
    named = (not crowd) if options.names is None else options.names
    return write_names(canvas, instances, options) if named else canvas


def save(
    path: str | Path,
    image: str | Path | NDArray[Any],
    instances: Instances,
    options: DrawOptions | None = None,
) -> None:
    """Write an overlay to ``path`` (.png, .jpg, ...); ``image`` is the image or its file.

    Raises:
        UserError: the image cannot be read, or ``path`` has a suffix that no image has.
    """
    pixels = read_image(image) if isinstance(image, str | Path) else as_array(image)
    try:
        Image.fromarray(overlay(pixels, instances, options)).save(path)
    except (ValueError, KeyError) as error:
        raise UserError(f"{path} cannot be written ({error}): give it the suffix .png or .jpg") from None


def shrink(image: NDArray[Any], instances: Instances, max_side: int) -> tuple[NDArray[Any], Instances]:
    """Image and instances scaled down together so that the longer side is at most ``max_side`` px."""
    height, width = image.shape[:2]
    scale = max_side / max(height, width)
    if scale >= 1:
        return image, instances
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    return cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA), instances.resize(size)


def jpeg_source(image: RGBImage, quality: int = 82) -> str:
    """An image (H, W, 3) as the ``src`` of an HTML image."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def to_display(image: NDArray[Any], stretch: bool | None = None) -> RGBImage:
    """(H, W, 3) of any type -> a new uint8 array for the eye; see ``DrawOptions.stretch``."""
    deep = image.dtype != np.uint8
    if stretch is False:
        top = np.iinfo(image.dtype).max if image.dtype.kind == "u" else 1.0
        return image.copy() if not deep else _scaled(image, 0.0, float(top))
    low, high = Preprocess(contrast="percentile").limits(image)
    if stretch is None and not deep and high >= 64:
        return image.copy()
    if high <= low:  # a constant image has no contrast to stretch
        low, high = 0.0, max(float(high), 1.0)
    return _scaled(image, low, high)


def color(index: int) -> Color:
    """The index-th of endlessly many colors: neighbors differ in hue and lightness, none is dark.

    Golden-angle hues in Oklch (Ottosson, "A perceptual color space for image processing", 2020), so that
    all are about equally bright to the eye.
    """
    hue = math.radians(25 + index * _GOLDEN_ANGLE)
    lightness, chroma = (0.72, 0.80, 0.64)[index % 3], 0.17
    a, b = chroma * math.cos(hue), chroma * math.sin(hue)
    cone = np.array([
        lightness + 0.3963377774 * a + 0.2158037573 * b,
        lightness - 0.1055613458 * a - 0.0638541728 * b,
        lightness - 0.0894841775 * a - 1.2914855480 * b,
    ]) ** 3  # fmt: skip
    to_linear = np.array([
        [4.0767416621, -3.3077115913, 0.2309699292],
        [-1.2684380046, 2.6097574011, -0.3413193965],
        [-0.0041960863, -0.7034186147, 1.7076147010],
    ])  # fmt: skip
    linear = np.clip(to_linear @ cone, 0, 1)
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    red, green, blue = (int(v) for v in np.rint(encoded * 255))
    return red, green, blue


def instance_colors(instances: Instances, options: DrawOptions) -> list[Color]:
    """One color per object: of its class, or of its track or number."""
    if options.color_by == "class":
        return [color(label) for label in instances.labels.tolist()]
    if instances.track_ids is not None:
        return [color(int(track)) for track in instances.track_ids.tolist()]
    return [color(i) for i in range(len(instances))]


def _scaled(image: NDArray[Any], low: float, high: float) -> RGBImage:
    """Values low..high -> 0..255; integers through a table, floats in bands."""
    factor = 255.0 / (high - low)
    if image.dtype.kind == "u":
        values = np.arange(np.iinfo(image.dtype).max + 1)
        table = np.clip(np.rint((values - low) * factor), 0, 255).astype(np.uint8)
        return np.asarray(table[image])
    result = np.empty(image.shape, np.uint8)
    for top in range(0, len(image), 256):
        band = np.nan_to_num(image[top : top + 256].astype(np.float32))
        result[top : top + 256] = np.clip(np.rint((band - low) * factor), 0, 255)
    return result


def _thickness(shape: tuple[int, ...], crowd: bool) -> int:
    """Outline width for an image of this size: 1 px per 500 (crowds: per 1,500) of its mean side."""
    side = math.sqrt(shape[0] * shape[1])
    return max(1, round(side / (1500 if crowd else 500)))


def _draw_masks(canvas: RGBImage, instances: Instances, colors: list[Color], opacity: float, thickness: int) -> None:
    """Blend each mask inside its box, large ones first so that small ones stay visible."""
    assert instances.masks is not None
    bitmaps = instances.masks.to_bitmaps()
    order = sorted(range(len(bitmaps)), key=lambda i: -bitmaps.crops[i].size)
    for i in order:
        crop, (x, y) = bitmaps.crops[i], bitmaps.origins[i].tolist()
        if not crop.any():
            continue
        if opacity > 0:
            window = canvas[y : y + crop.shape[0], x : x + crop.shape[1]]
            tint = np.asarray(colors[i], np.float32) * opacity
            window[crop] = np.rint(window[crop] * np.float32(1 - opacity) + tint).astype(np.uint8)
        if thickness > 0:
            rings, _ = cv2.findContours(crop.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
            cv2.drawContours(canvas, rings, -1, colors[i], thickness, cv2.LINE_AA, offset=(x, y))


def _draw_crowd(canvas: RGBImage, instances: Instances, colors: list[Color], opacity: float, thickness: int) -> None:
    """All masks through one label map: the cost is the image's, whatever the number of objects."""
    assert instances.masks is not None
    labels = instances.masks.to_label_map()
    table = np.array([(0, 0, 0), *colors], np.uint8)
    step = max(1, (1 << 22) // labels.shape[1])
    edge = _edges(labels, thickness)
    for top in range(0, len(labels), step):
        rows = slice(top, top + step)
        inside, band = (labels[rows] > 0).view(np.uint8), canvas[rows]
        tint = np.take(table, labels[rows], axis=0)
        if opacity > 0:
            cv2.copyTo(cv2.addWeighted(band, 1 - opacity, tint, opacity, 0), inside, band)
        cv2.copyTo(tint, edge[rows].view(np.uint8) & inside, band)


def _edges(labels: NDArray[np.int32], thickness: int) -> NDArray[np.bool_]:
    """Pixels of objects that touch another object or the background, ``thickness`` px deep."""
    edge = np.zeros(labels.shape, bool)
    if thickness < 1:
        return edge
    across, down = labels[:, 1:] != labels[:, :-1], labels[1:] != labels[:-1]
    edge[:, 1:] |= across
    edge[:, :-1] |= across
    edge[1:] |= down
    edge[:-1] |= down
    if thickness > 1:
        kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * thickness - 1,) * 2)
        edge = cv2.dilate(edge.view(np.uint8), kernel) > 0
    return edge


def _draw_boxes(canvas: RGBImage, instances: Instances, colors: list[Color], thickness: int) -> None:
    for box, tint in zip(instances.boxes.round().int().tolist(), colors, strict=True):
        cv2.rectangle(canvas, (box[0], box[1]), (box[2] - 1, box[3] - 1), tint, thickness)


def _draw_keypoints(canvas: RGBImage, instances: Instances, colors: list[Color], least: float) -> None:
    """Limbs in the object's color, with a dark rim to be seen on anything, and white joints over them."""
    assert instances.keypoints is not None
    radius = max(2, _thickness(canvas.shape, False))
    for points, label, tint in zip(instances.keypoints.tolist(), instances.labels.tolist(), colors, strict=True):
        # cv2 counts from pixel centers, and in sixteenths for smooth lines
        places = [(round((x - 0.5) * 16), round((y - 0.5) * 16)) for x, y, _ in points]
        shown = [score >= least and score > 0 for *_, score in points]
        known = instances.categories[label].skeleton if label < len(instances.categories) else ()
        limbs = [(places[a], places[b]) for a, b in known if max(a, b) < len(points) and shown[a] and shown[b]]
        for color, width in (((20, 20, 20), radius + 2), (tint, radius)):
            for start, end in limbs:
                cv2.line(canvas, start, end, color, width, cv2.LINE_AA, 4)
        for place, seen in zip(places, shown, strict=True):
            if seen:
                cv2.circle(canvas, place, (radius + 1) * 16, (20, 20, 20), -1, cv2.LINE_AA, 4)
                cv2.circle(canvas, place, radius * 16, (255, 255, 255), -1, cv2.LINE_AA, 4)


def write_names(canvas: RGBImage, instances: Instances, options: DrawOptions | None = None) -> RGBImage:
    """Class and score on a plate in each object's color, at a size to be read in an image of this size.

    A plate that would cover more than 40% of the image's width, or mostly other plates, is left out.
    """
    height, width = canvas.shape[:2]
    colors = instance_colors(instances, options or DrawOptions())
    size = min(96, max(11, round(0.021 * math.sqrt(height * width))))
    image = Image.fromarray(canvas)
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(size)
    margin = max(2, size // 5)
    taken: list[tuple[int, int, int, int]] = []
    for i, (text, box) in enumerate(zip(_captions(instances), instances.boxes.tolist(), strict=True)):
        left, top, right, bottom = pen.textbbox((0, 0), text, font=font)
        plate = (math.ceil(right - left) + 2 * margin, math.ceil(bottom - top) + 2 * margin)
        if not text or plate[0] > 0.4 * width or plate[1] > 0.4 * height:
            continue
        x, y, hidden = _place(box, plate, (height, width), taken)
        if hidden > 0.5:
            continue
        taken.append((x, y, x + plate[0], y + plate[1]))
        pen.rectangle((x, y, x + plate[0] - 1, y + plate[1] - 1), fill=colors[i])
        pen.text((x + margin - left, y + margin - top), text, font=font, fill=_ink(colors[i]))
    return np.array(image)


def _captions(instances: Instances) -> list[str]:
    """Name and score; of a single class the score alone."""
    names = instances.label_names if instances.categories else [""] * len(instances)  # a number alone says nothing
    if instances.scores is None:
        return names
    names = names if len(instances.categories) != 1 else [""] * len(instances)
    pairs = zip(names, instances.scores.tolist(), strict=True)
    return [f"{name} {score:.2f}".strip() for name, score in pairs]


def _place(
    box: list[float], plate: tuple[int, int], size: tuple[int, int], taken: list[tuple[int, int, int, int]]
) -> tuple[int, int, float]:
    """Where a plate (width, height) goes: above the box, else in it, below it, beside it.

    Returns:
        x and y of its upper left corner, and the share of it that lies on other plates.
    """
    x1, y1, x2, y2 = (round(v) for v in box)
    above, right = y1 - plate[1], x2 - plate[0]
    corners = [(x1, above), (x1, y1), (x1, y2), (right, above), (x1, y2 - plate[1]), (x2, y1)]
    inside = [(min(max(0, x), size[1] - plate[0]), min(max(0, y), size[0] - plate[1])) for x, y in corners]
    best = (inside[0][0], inside[0][1], float("inf"))
    for x, y in inside:
        common = sum(
            max(0, min(x + plate[0], c) - max(x, a)) * max(0, min(y + plate[1], d) - max(y, b)) for a, b, c, d in taken
        )
        if common / (plate[0] * plate[1]) < best[2]:
            best = (x, y, common / (plate[0] * plate[1]))
    return best


def _ink(plate: Color) -> Color:
    """Black or white, whichever reads better on the plate (relative luminance, WCAG 2)."""
    linear = [(v / 255) ** 2.2 for v in plate]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return (0, 0, 0) if luminance > 0.18 else (255, 255, 255)
