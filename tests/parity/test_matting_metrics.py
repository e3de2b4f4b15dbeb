"""Errors of mattes against recorded ones of an independent implementation."""

from __future__ import annotations

import re

import numpy as np
import pytest
from parity.dense import dense, made, open_dense
from parity.recorded import recorded

from eachmask.metrics.mattes import alpha_errors, edge_filter, flicker

SCALES = {"sad": 1.0, "mad": 1000.0, "mse": 1000.0, "grad": 1.0, "conn": 1.0}
EXACT = {"float64": 1e-6, "float32": 1e-3, "uint8": 1e-3}


def predictions(fixture, alpha: np.ndarray) -> dict[str, np.ndarray]:
    """What the recording says it compared, from its own words."""
    note = fixture.manifest["made_note"]
    seed = int(re.search(r"RandomState\((\d+)\)", note)[1])
    noise = float(re.search(r"alpha \+ ([\d.]+) standard_normal", note)[1])
    down, left = (int(n) for n in re.search(r"by (\d+) rows down, (\d+) columns left", note).groups())
    pieces = alpha.copy()
    for top, bottom, x1, x2, what, value in re.findall(
        r"rows (\d+):(\d+), columns (\d+):(\d+) (times|set to) ([\d.]+)", note
    ):
        part = np.s_[int(top) : int(bottom), int(x1) : int(x2)]
        pieces[part] = pieces[part] * float(value) if what == "times" else float(value)
    return {
        "noise": np.clip(alpha + noise * np.random.RandomState(seed).standard_normal(alpha.shape), 0, 1),
        "shift": np.roll(alpha, (down, -left), (0, 1)),
        "hard": (alpha > 0.5).astype(np.float64),
        "pieces": pieces,
        "equal": alpha,
    }


def rounded(alpha: np.ndarray, kind: str) -> np.ndarray:
    if kind == "uint8":
        alpha = np.floor(alpha * 255 + 0.5).astype(np.uint8).astype(np.float32) / np.float32(255)
    return alpha.astype(np.float32).astype(np.float64) if kind == "float32" else alpha.astype(np.float64)


@pytest.mark.parametrize("stem", recorded("matting_metrics"))
def test_errors(stem):
    fixture = open_dense(stem)
    alpha = made(fixture, "alpha", to_the_bit=False)
    assert np.abs(edge_filter(fixture.manifest["config"]["sigma"]) - fixture.full("gradient_filter_x")).max() < 1e-12
    found = predictions(fixture, alpha)
    seen = 0
    for name, value in fixture.manifest["losses"].items():
        scene, kind, measure = name.split(".") if name.count(".") == 2 else ("", "", "")
        if scene not in found or measure not in SCALES:
            continue
        ours = alpha_errors(rounded(found[scene], kind), rounded(alpha, kind))[measure] * SCALES[measure]
        assert ours == pytest.approx(value, rel=EXACT[kind], abs=1e-9), name
        seen += 1
    assert seen >= 60


@pytest.mark.parametrize("stem", recorded("matting_metrics"))
def test_flicker(stem):
    fixture = open_dense(stem)
    alpha = made(fixture, "alpha", to_the_bit=False)
    found = predictions(fixture, alpha)
    note = fixture.manifest["dtssd_note"]
    height, width, seed = (int(n) for n in re.search(r"make_alpha\((\d+), (\d+), (\d+)\)", note).groups())
    before = dense().make_alpha(height, width, seed)
    ours = flicker((found["shift"], found["noise"]), (before, alpha)) * 100
    assert ours == pytest.approx(fixture.manifest["losses"]["dtssd"], rel=1e-6)
