"""Overlays: results over the image they belong to.

:func:`overlay` draws any of them, the functions beside it one kind each.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from eachmask.data.images.read import as_array, read_image
from eachmask.draw.colors import color, instance_colors
from eachmask.draw.display import jpeg_source, shrink, to_display
from eachmask.draw.instances import draw_instances
from eachmask.draw.labels import write_names
from eachmask.draw.legend import write_legend
from eachmask.draw.maps import draw_panoptic, draw_semantic, write_classes
from eachmask.draw.matte import draw_matte
from eachmask.draw.options import Color, DrawOptions, RGBImage
from eachmask.structures import Instances, Matte, PanopticMap, SemanticMap, UserError
from eachmask.structures.checks import kind_of
from eachmask.structures.view import write_image

__all__ = [
    "Color",
    "DrawOptions",
    "RGBImage",
    "Result",
    "color",
    "draw_instances",
    "draw_matte",
    "draw_panoptic",
    "draw_semantic",
    "instance_colors",
    "jpeg_source",
    "overlay",
    "save",
    "shrink",
    "to_display",
    "write_classes",
    "write_legend",
    "write_names",
]

Result = Instances | SemanticMap | PanopticMap | Matte
"""What can be drawn."""


def overlay(image: str | Path | NDArray[Any], result: Result, options: DrawOptions | None = None) -> RGBImage:
    """Draw a result over its image.

    Args:
        image: (H, W, 3) uint8, uint16 or float32 RGB, or its file.
        result: on that image.

    Returns:
        (H, W, 3) uint8 RGB, a new array.

    Raises:
        UserError: the image cannot be read or used, or the result is none that can be drawn.
        ValueError: the image has another size than the result.
    """
    image = read_image(image) if isinstance(image, str | Path) else as_array(image)
    match result:
        case SemanticMap():
            return draw_semantic(image, result, options)
        case PanopticMap():
            return draw_panoptic(image, result, options)
        case Matte():
            return draw_matte(image, result, options)
        case Instances():
            return draw_instances(image, result, options)
    raise UserError(f"{kind_of(result)} cannot be drawn: give what a predictor returned for one image")


def save(
    path: str | Path,
    image: str | Path | NDArray[Any],
    result: Result,
    options: DrawOptions | None = None,
) -> None:
    """Write an overlay to ``path`` (.png, .jpg, ...); ``image`` is the image or its file.

    Raises:
        UserError: the image cannot be read, or ``path`` has a suffix that no image has.
    """
    write_image(overlay(image, result, options), path)
