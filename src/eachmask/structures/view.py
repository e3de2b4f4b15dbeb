"""Results that show themselves: rendered over their image, saved, displayed in a notebook.

A result does not keep its image, and this room cannot draw. Whoever predicts knows both, and leaves a :class:`View`.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from eachmask.structures.checks import check_path
from eachmask.structures.errors import UserError


class View(Protocol):
    """How a result is drawn: it knows the image and the manner."""

    def render(self, result: Any) -> NDArray[np.uint8]:
        """The result over its image, (H, W, 3) RGB."""


@dataclass(eq=False, repr=False)
class Viewable:
    """Mixin of results that can be shown.

    >>> try:
    ...     Viewable().render()
    ... except UserError as error:
    ...     print(str(error)[:34])
    this Viewable does not know its im
    """

    view: View | None = field(default=None, kw_only=True)
    """How it is drawn; None: it has been moved, or does not come from a predictor."""

    def render(self) -> NDArray[np.uint8]:
        """The result over its image, (H, W, 3) uint8 RGB.

        Raises:
            UserError: it does not know its image.
        """
        if self.view is None:
            raise UserError(
                f"this {type(self).__name__} does not know its image (it was moved, or no predictor made it): "
                "draw it with eachmask.draw.overlay(image, result)"
            )
        return self.view.render(self)

    def save(self, path: str | Path) -> None:
        """Write :meth:`render` as an image file (.png, .jpg, ...).

        Raises:
            UserError: it does not know its image, or ``path`` has a suffix that no image has.
        """
        write_image(self.render(), path)

    def show(self) -> None:
        """Display :meth:`render`: in a notebook below the cell, else in the system's image viewer.

        Raises:
            UserError: it does not know its image.
        """
        from PIL import Image

        image = Image.fromarray(self.render())
        try:
            shell = get_ipython()  # type: ignore[name-defined]
        except NameError:
            image.show()
        else:
            from IPython.display import display

            display(image) if shell.has_trait("kernel") else image.show()

    def _repr_png_(self) -> bytes | None:
        return None if self.view is None else png(self.render())


def png(image: NDArray[np.uint8]) -> bytes:
    """An image (H, W, 3) as the content of a PNG file.

    >>> png(np.zeros((2, 2, 3), np.uint8))[:4]
    b'\x89PNG'
    """
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def write_image(image: NDArray[np.uint8], path: str | Path) -> None:
    """Write an image (H, W, 3) to a file.

    Raises:
        UserError: the path has a suffix that no image has.

    >>> try:
    ...     write_image(np.zeros((2, 2, 3), np.uint8), "image.xyz")
    ... except UserError as error:
    ...     print(error)
    image.xyz cannot be written (unknown file extension: .xyz): give it the suffix .png or .jpg
    """
    from PIL import Image

    check_path("image to write", path)
    try:
        Image.fromarray(image).save(path)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror or error})") from None
    except (ValueError, KeyError) as error:
        raise UserError(f"{path} cannot be written ({error}): give it the suffix .png or .jpg") from None
