"""What solvers of the package pymatting say besides their mattes."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pytest

from eachmask.ops.matting import solve_alpha


def test_advice_of_the_library_reaches_nobody(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    def solver(image: np.ndarray, trimap: np.ndarray) -> np.ndarray:
        print("PERFORMANCE WARNING:")
        return trimap

    monkeypatch.setitem(sys.modules, "pymatting", SimpleNamespace(estimate_alpha_cf=solver))
    assert solve_alpha(np.zeros((1, 3, 3)), np.array([[0.0, 0.5, 1.0]])).tolist() == [[0.0, 0.5, 1.0]]
    assert capsys.readouterr().out == ""
