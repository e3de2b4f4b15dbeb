"""Maps over their image: a tint for every region, lines between them, and a legend."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from eachmask.draw.colors import color
from eachmask.draw.display import check_size, to_display
from eachmask.draw.legend import write_legend
from eachmask.draw.options import Color, DrawOptions, RGBImage
from eachmask.draw.outlines import edges, line_width
from eachmask.structures import PanopticMap, Segment, SemanticMap

FILL = 0.5
"""Opacity of the tints."""


def draw_semantic(image: NDArray[Any], seen: SemanticMap, options: DrawOptions | None = None) -> RGBImage:
    """Each class in its own color, the same in every image; pixels of no class stay as they are.

    Args:
        image: (H, W, 3) uint8, uint16 or float32 RGB.
        options: ``fill``, ``outline``, ``names`` (the legend) and ``stretch`` count.

    Raises:
        ValueError: the image has another size than the map.
    """
    check_size(image, seen)
    options = options or DrawOptions()
    labels, counts = seen.labels.cpu().numpy(), seen.counts().cpu().numpy()
    regions = np.where(labels == seen.ignore, 0, labels.astype(np.int32) + 1)
    canvas = _draw(image, regions, [color(label) for label in range(len(counts))], options)
    return canvas if options.names is False else write_legend(canvas, _classes(seen, counts))


def draw_panoptic(image: NDArray[Any], seen: PanopticMap, options: DrawOptions | None = None) -> RGBImage:
    """Stuff in the color of its class, every thing in one of its own; pixels of no segment stay as they are.

    Args:
        image: (H, W, 3) uint8, uint16 or float32 RGB.
        options: as of :func:`draw_semantic`; with ``color_by="class"`` things have their class's color too.

    Raises:
        ValueError: the image has another size than the map.
    """
    check_size(image, seen)
    options = options or DrawOptions()
    regions, colors = _numbered(seen), _colors(seen, options)
    canvas = _draw(image, regions, colors, options)
    return canvas if options.names is False else write_legend(canvas, _entries(seen, regions, colors))


def write_classes(canvas: RGBImage, seen: SemanticMap | PanopticMap, options: DrawOptions | None = None) -> RGBImage:
    """The legend of a map over its drawing, the class with most pixels first.

    Args:
        canvas: (H, W, 3) what :func:`draw_semantic` or :func:`draw_panoptic` gave without names.
        options: those that it was drawn with.
    """
    if isinstance(seen, PanopticMap):
        return write_legend(canvas, _entries(seen, _numbered(seen), _colors(seen, options or DrawOptions())))
    return write_legend(canvas, _classes(seen, seen.counts().cpu().numpy()))


def _classes(seen: SemanticMap, counts: NDArray[np.int64]) -> list[tuple[str, Color]]:
    order = [int(label) for label in np.argsort(-counts, kind="stable") if counts[label]]
    return [(seen.name_of(label), color(label)) for label in order]


def _in_order(seen: PanopticMap) -> list[Segment]:
    return sorted(seen.segments, key=lambda segment: segment.id)


def _numbered(seen: PanopticMap) -> NDArray[np.int32]:
    """(H, W) the place of each pixel's segment from 1, 0 where there is none."""
    ids = seen.ids.cpu().numpy()
    places = np.searchsorted([segment.id for segment in _in_order(seen)], ids) + 1
    return np.where(ids == 0, 0, places).astype(np.int32)


def _colors(seen: PanopticMap, options: DrawOptions) -> list[Color]:
    """Of each segment."""
    segments, by_class = _in_order(seen), options.color_by == "class"
    first = len(seen.categories) or 1 + max((s.label for s in segments), default=0)
    return [color(s.label if by_class or not seen.is_thing(s) else first + i) for i, s in enumerate(segments)]


def _entries(seen: PanopticMap, regions: NDArray[np.int32], colors: list[Color]) -> list[tuple[str, Color]]:
    """Classes by the area of all their segments, with the number of things and the largest one's color."""
    segments = _in_order(seen)
    areas = np.bincount(regions.ravel(), minlength=len(segments) + 1)[1:]
    total: dict[int, int] = {}
    for segment, area in zip(segments, areas.tolist(), strict=True):
        total[segment.label] = total.get(segment.label, 0) + area
    entries = []
    for label in sorted(total, key=lambda k: -total[k]):
        own = [i for i, segment in enumerate(segments) if segment.label == label]
        number = f" ({len(own)})" if len(own) > 1 else ""
        entries.append((seen.name_of(label) + number, colors[max(own, key=lambda i: int(areas[i]))]))
    return entries


def _draw(image: NDArray[Any], regions: NDArray[np.int32], colors: list[Color], options: DrawOptions) -> RGBImage:
    """Regions 1, 2, ... (0 stays as it is) in their colors."""
    canvas = to_display(image, options.stretch)
    opacity = FILL if options.fill is None else options.fill
    width = line_width(canvas.shape, True) if options.outline is None else options.outline
    tint = np.array([(0, 0, 0), *colors], np.uint8)[regions]
    inside = (regions > 0).view(np.uint8)
    if opacity > 0:
        cv2.copyTo(cv2.addWeighted(canvas, 1 - opacity, tint, opacity, 0), inside, canvas)
    cv2.copyTo(tint, edges(regions, width).view(np.uint8) & inside, canvas)
    return canvas
