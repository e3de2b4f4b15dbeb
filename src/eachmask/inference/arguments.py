"""What people hand to a predictor: images of any kind, names of classes, and how large tiles are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from eachmask.structures import DecodeOptions, UserError
from eachmask.structures.checks import check_number, check_whole, told

if TYPE_CHECKING:
    from eachmask.tasks.task import Task
    from eachmask.weights.header import ModelInfo

MIN_DIAMETER, MAX_DIAMETER = 1, 10_000
"""Of objects whose size a user tells, px."""


def image_type(image: Any) -> str:
    """What an image's numbers are called: int64."""
    return str(getattr(image, "dtype", "float")).removeprefix("torch.")


def names_of(classes: Any) -> list[str]:
    """Class names as a list; one name alone is a list of one.

    Raises:
        UserError: they are no names.
    """
    names = [classes] if isinstance(classes, str) else classes
    if not isinstance(names, list | tuple | set | frozenset):
        raise UserError(f"classes are names, not {told(classes)}")
    for name in names:
        if not isinstance(name, str):
            raise UserError(f"classes are names, not {told(name)}")
    return list(names)


def several(image: Any) -> Any:
    """A folder or a pattern as the list of its images, a URL as its image; anything else as it is.

    Raises:
        UserError: there is no image in it.
    """
    image = url_read(image)
    if not isinstance(image, str | Path) or Path(image).is_file():
        return image
    if not Path(image).is_dir() and not any(mark in str(image) for mark in "*?["):
        return image
    from eachmask.data.images.inputs import find_inputs

    return [source.path for source in find_inputs([str(image)]).sources]


def url_read(image: Any) -> Any:
    """The image behind an http(s) address; anything else as it is.

    Raises:
        UserError: there is none.
    """
    from eachmask.data.images.url import is_url, read_url

    return read_url(image) if is_url(image) else image


def check_tiles(tile: int | None, overlap: float) -> None:
    """Raises UserError where no tiles can be of that side, px (0: none, None: the model's own), or overlap so far."""
    if tile is not None:
        check_whole("side of tiles", tile, 0)
    check_number("overlap of tiles", overlap)
    if tile is not None and tile != 0 and tile < 32:
        raise UserError(f"a tile of {tile} pixels is too small: take 32 or more, or 0 for no tiles")
    if not 0 <= overlap < 0.5:
        raise UserError(f"the overlap of tiles is a share of their side from 0 to below 0.5, not {overlap:g}")


def tile_side(
    info: ModelInfo, task: Task[Any], tile: int | None = None, overlap: float = 0.2, stride: int | None = None
) -> int:
    """The tile side that a request means for a model: 0 is no tiles.

    Raises:
        UserError: as :func:`check_tiles`; or a stride that does not fit.
    """
    check_tiles(tile, overlap)
    side = (info.tile or 0) if tile is None else tile
    if stride is not None:
        check_whole("stride of tiles", stride, 1)
        if task.merge_evenly is None:
            raise UserError(f"a stride is for models that label pixels; {info.variant} does not: leave it out")
        if stride > side:
            raise UserError(f"a stride of {stride} pixels leaves gaps between tiles of {side}: take a larger tile")
    return side


def check_diameter(info: ModelInfo, diameter: float) -> float:
    """The diameter of the objects that the model learnt from, px.

    Raises:
        UserError: the wanted diameter is out of range, or the model does not say its own.
    """
    check_number("diameter of objects", diameter)
    if not MIN_DIAMETER <= diameter <= MAX_DIAMETER:
        raise UserError(f"the diameter of objects is in pixels from {MIN_DIAMETER} to {MAX_DIAMETER}, not {diameter:g}")
    if info.object_diameter is None:
        name = info.name or info.variant
        raise UserError(f"{name} does not say how large the objects were that it learnt from: use side (--side)")
    return info.object_diameter


def check_suppression(network: Any, info: ModelInfo, options: DecodeOptions) -> None:
    """Raises UserError where a way to suppress is wished for of a network, or a class of them, that knows none."""
    if options.suppression is not None and not getattr(network, "suppresses", True):
        name = info.name or info.variant
        raise UserError(f"{name} knows no suppression but its own: leave out suppression (--nms)")
