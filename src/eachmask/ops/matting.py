"""Mattes from trimaps, and the foreground's own colors, by the solvers of the package pymatting.

- closed form: colors lie on a line in every window of 3 x 3 (Levin, Lischinski, Weiss, TPAMI 2008),
- KNN: pixels alike in color and place have one opacity (Chen, Li, Tang, TPAMI 2013),
- learning based (Zheng, Kambhamettu, ICCV 2009) and random walk (Grady et al., VIIP 2005),
- foreground: multi-level (Germer et al., ICPR 2020) or closed form.

Shapes: images (H, W, 3) in 0..1.
"""

from __future__ import annotations

import contextlib
import io
from typing import Any, Literal, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from eachmask.structures import UserError

Solver = Literal["closed_form", "knn", "learning_based", "random_walk"]
FUNCTIONS: dict[str, str] = {"closed_form": "cf", "knn": "knn", "learning_based": "lbdm", "random_walk": "rw"}
"""Our name -> pymatting's."""
MISSING = "mattes from trimaps need the package pymatting: pip install 'eachmask[matting]'"
_MARGIN = 8
"""Known pixels around the unknown ones that a solver sees too, px."""

Image = NDArray[np.float64]


def solve_alpha(image: Image, trimap: Image, solver: Solver = "closed_form") -> Image:
    """(H, W) opacities in 0..1; what the trimap knows, stays.

    Args:
        trimap: (H, W) of 0 (background), 0.5 (unknown) and 1 (foreground).

    Raises:
        UserError: the trimap has no foreground or no background beside what is unknown, or pymatting is not there.

    >>> trimap = np.array([[0.0, 1.0]])
    >>> solve_alpha(np.zeros((1, 2, 3)), trimap).tolist()  # nothing is unknown
    [[0.0, 1.0]]
    """
    unknown = (trimap > 0.1) & (trimap < 0.9)
    if not unknown.any():
        return np.round(trimap)
    if not (trimap >= 0.9).any() or not (trimap <= 0.1).any():
        raise UserError("a trimap must say of some pixels that they are foreground and of some that they are not")
    with contextlib.redirect_stdout(io.StringIO()):  # advice on preconditioners, of which it takes the next by itself
        found: Image = getattr(_pymatting(), f"estimate_alpha_{FUNCTIONS[solver]}")(image, trimap)
    return np.where(unknown, found, np.round(trimap)).clip(0, 1)


def solve_near(image: Image, trimap: Image, solver: Solver, max_side: int) -> Image:
    """:func:`solve_alpha`, looking only at the window of what is unknown, reduced to this longer side, px.

    >>> solve_near(np.zeros((1, 2, 3)), np.array([[0.0, 1.0]]), "closed_form", 100).tolist()
    [[0.0, 1.0]]
    """
    unknown = (trimap > 0.1) & (trimap < 0.9)
    if not unknown.any():
        return np.round(trimap)
    window = tuple(slice(max(int(p.min()) - _MARGIN, 0), int(p.max()) + 1 + _MARGIN) for p in np.nonzero(unknown))
    colors, known = image[window], trimap[window]
    if not (known >= 0.9).any() or not (known <= 0.1).any():
        window = (slice(None), slice(None))
        colors, known = image, trimap
    scale = max_side / max(known.shape)
    result = np.round(trimap)
    if scale >= 1:
        result[window] = solve_alpha(colors, known, solver)
        return result
    size = (max(2, round(known.shape[1] * scale)), max(2, round(known.shape[0] * scale)))
    less, fewer = (np.asarray(cv2.resize(v, size, interpolation=cv2.INTER_AREA), np.float64) for v in (known, colors))
    surely = np.where(less >= 0.999, 1.0, np.where(less <= 0.001, 0.0, 0.5))
    found = solve_alpha(fewer, surely, solver)
    wide = np.asarray(cv2.resize(found, known.shape[::-1], interpolation=cv2.INTER_LINEAR))
    result[window] = np.where(unknown[window], wide.clip(0, 1), np.round(known))
    return result


def solve_foreground(
    image: Image, alpha: Image, solver: Literal["multilevel", "closed_form"] = "multilevel"
) -> tuple[Image, Image]:
    """Smooth colors (H, W, 3) of the foreground and of the background, such that their mixture is near the image.

    Raises:
        UserError: pymatting is not there.
    """
    name = "ml" if solver == "multilevel" else "cf"
    found = getattr(_pymatting(), f"estimate_foreground_{name}")(image, alpha, return_background=True)
    return cast("tuple[Image, Image]", tuple(np.asarray(part, np.float64).clip(0, 1) for part in found))


def own_colors(image: Image, alpha: Image) -> Image:
    """(H, W, 3) the foreground's colors, for which I = alpha F + (1 - alpha) B holds with a background B: what the
    smooth solution leaves over is shared out between the two, and where all is foreground, F is the image."""
    front, back = solve_foreground(image, alpha)
    a = alpha[..., None]
    left = image - a * front - (1 - a) * back
    return cast(Image, (front + left * a / (a**2 + (1 - a) ** 2)).clip(0, 1))


def _pymatting() -> Any:
    try:
        import pymatting
    except ImportError as error:
        raise UserError(MISSING) from error
    return pymatting
