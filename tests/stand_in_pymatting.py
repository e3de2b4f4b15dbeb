"""pymatting for scenes of two colors: it is not always there, and takes a minute to be compiled."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pytest

from eachmask.ops.matting import FUNCTIONS


def two_colors(image: np.ndarray, known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return image[known >= 0.95].mean(0), image[known <= 0.05].mean(0)


def alpha_of_two_colors(image: np.ndarray, trimap: np.ndarray) -> np.ndarray:
    front, back = two_colors(image, trimap)
    return ((image - back) @ (front - back) / ((front - back) @ (front - back))).clip(0, 1)


def colors_of_two(image: np.ndarray, alpha: np.ndarray, return_background: bool) -> list[np.ndarray]:
    return [np.broadcast_to(color, image.shape) for color in two_colors(image, alpha)]


@pytest.fixture()
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    functions = {f"estimate_alpha_{name}": alpha_of_two_colors for name in FUNCTIONS.values()}
    module = SimpleNamespace(**functions, estimate_foreground_ml=colors_of_two)
    monkeypatch.setitem(sys.modules, "pymatting", module)
