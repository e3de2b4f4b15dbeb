"""Solvers of mattes and foregrounds against recorded ones of pymatting."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from parity.dense import dense, open_dense
from parity.recorded import recorded

from eachmask.ops.matting import FUNCTIONS, solve_alpha, solve_foreground


@pytest.mark.parametrize("stem", recorded("pymatting"))
def test_mattes_and_colors(stem: str) -> None:
    pytest.importorskip("pymatting", reason="needs the package pymatting")
    fixture: Any = open_dense(stem)
    how = fixture.manifest["made"]["image"]["how"]
    height, width, seed = (int(n) for n in re.search(r"make_matting_scene\((\d+), (\d+), seed=(\d+)\)", how).groups())
    image, _, _, alpha, trimap = dense().make_matting_scene(height, width, seed=seed)
    tolerance = fixture.manifest["tolerance"]
    for ours, theirs in FUNCTIONS.items():
        if f"alpha.{theirs}" in fixture.manifest["full"]:
            found = solve_alpha(image, trimap, ours)
            assert np.abs(found - fixture.full(f"alpha.{theirs}")).max() <= tolerance[f"alpha.{theirs}"], ours
    for solver, theirs in (("multilevel", "ml"), ("closed_form", "cf")):
        front, back = solve_foreground(image, alpha, solver)
        assert np.abs(front - fixture.full(f"foreground.{theirs}")).max() <= tolerance["foreground.*"]
        assert np.abs(back - fixture.full(f"background.{theirs}")).max() <= tolerance["foreground.*"]
