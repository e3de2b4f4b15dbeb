"""Objects over their image: masks, outlines, boxes, skeletons.

Every mask costs its own box, or, where objects are many, all of them together cost one label map; nothing
here grows with objects times pixels.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from eachmask.draw.colors import instance_colors
from eachmask.draw.display import check_size, to_display
from eachmask.draw.labels import write_names
from eachmask.draw.options import Color, DrawOptions, RGBImage
from eachmask.draw.outlines import edges, line_width
from eachmask.structures import Instances


def draw_instances(image: NDArray[Any], instances: Instances, options: DrawOptions | None = None) -> RGBImage:
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
    check_size(image, instances)
    options = options or DrawOptions()
    canvas = to_display(image, options.stretch)
    crowd = len(instances) > options.crowded
    colors = instance_colors(instances, options)
    thickness = line_width(canvas.shape, crowd) if options.outline is None else options.outline
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
    edge = edges(labels, thickness)
    for top in range(0, len(labels), step):
        rows = slice(top, top + step)
        inside, band = (labels[rows] > 0).view(np.uint8), canvas[rows]
        tint = np.take(table, labels[rows], axis=0)
        if opacity > 0:
            cv2.copyTo(cv2.addWeighted(band, 1 - opacity, tint, opacity, 0), inside, band)
        cv2.copyTo(tint, edge[rows].view(np.uint8) & inside, band)


def _draw_boxes(canvas: RGBImage, instances: Instances, colors: list[Color], thickness: int) -> None:
    for box, tint in zip(instances.boxes.round().int().tolist(), colors, strict=True):
        cv2.rectangle(canvas, (box[0], box[1]), (box[2] - 1, box[3] - 1), tint, thickness)


def _draw_keypoints(canvas: RGBImage, instances: Instances, colors: list[Color], least: float) -> None:
    """Limbs in the object's color, with a dark rim to be seen on anything, and white joints over them."""
    assert instances.keypoints is not None
    radius = max(2, line_width(canvas.shape, False))
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
