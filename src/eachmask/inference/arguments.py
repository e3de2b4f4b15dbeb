"""What people hand to a predictor: images of any kind, names of classes, and how large tiles are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from eachmask.structures import UserError
from eachmask.structures.checks import check_number, check_whole, told


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
