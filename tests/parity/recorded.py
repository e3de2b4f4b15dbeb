"""Recorded outputs of reference implementations in ``../shared/parity``: which are there, and how to compare.

A fixture tells its own size, number of classes and settings, so tests read those from it instead of assuming them:
a family's test runs on every fixture whose system name begins with one of the family's names.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from eachmask.structures import ImageBatch, Instances

FOLDER = Path(__file__).resolve().parents[3] / "shared" / "parity"
MISSING = "needs the recorded reference outputs in ../shared/parity, which are not here"


def recorded(*systems: str, but_not: Sequence[str] = ()) -> list[Any]:
    """Parameters for ``pytest.mark.parametrize("stem", recorded("mmdet_solov2_r50"))``: stems of the fixtures.

    Args:
        systems: a fixture belongs here if its system's name begins with one of these ...
        but_not: ... and with none of these.
    """
    stems = []
    for path in sorted(FOLDER.glob("*.json")):
        name = json.loads(path.read_text())["system"]
        if name.startswith(systems) and not name.startswith(tuple(but_not) or ("\0",)):
            stems.append(pytest.param(str(path.with_suffix("")), id=path.stem))
    return stems or [pytest.param("", marks=pytest.mark.skip(reason=MISSING))]


@lru_cache(maxsize=1)
def deterministic() -> Any:
    """The fixtures' own helper module."""
    spec = importlib.util.spec_from_file_location("deterministic", FOLDER / "deterministic.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def open_fixture(stem: str) -> Any:
    """The fixture (``deterministic.Fixture``) of a stem."""
    return deterministic().Fixture(stem)


def weights(fixture: Any) -> dict[str, Tensor]:
    """The reference's state dict, under the reference's names."""
    return {name: torch.from_numpy(np.asarray(value)) for name, value in fixture.weights().items()}


def batch(fixture: Any, valid: tuple[int, int] | None = None) -> ImageBatch:
    """The fixture's normalised input as a batch of one.

    Args:
        valid: (height, width) of the top-left part that is image; all of it by default.
    """
    tensor = torch.from_numpy(fixture.input())
    height, width = tensor.shape[-2:]
    return ImageBatch(tensor, (valid or (height, width),))


def check_raw(fixture: Any, name: str, ours: Tensor) -> None:
    """Same shape, and the largest error below a thousandth of the reference's standard deviation."""
    error, same_shape = fixture.compare_raw(name, ours.detach().numpy())
    assert same_shape, f"{name}: our shape is {tuple(ours.shape)}"
    assert error < 1e-3, f"{name}: error {error:.2e} standard deviations"


def check_detections(fixture: Any, case: str, found: Instances, *, scores: Tensor | None = None) -> None:
    """The recorded detections, no more and no fewer: boxes within 0.1 px, scores within 0.001, masks IoU > 0.99.

    Args:
        found: in the case's original image (``ori_shape``).
        scores: instead of ``found.scores``.
    """
    reference = fixture.detections(case)
    masks = None if found.masks is None or "masks" not in reference else found.masks.to_rle().decode()
    used = found.scores if scores is None else scores
    assert used is not None and found.labels is not None
    report = deterministic().compare_detections(
        reference, found.boxes.numpy(), found.labels.numpy(), used.numpy(), masks
    )
    wanted, count = report["count"]
    assert wanted == count == report["matched"], report
    assert report["box"] < 0.1 and report["score"] < 1e-3 and report["bad_masks"] == 0, report


def check_losses(fixture: Any, ours: dict[str, Tensor], names: dict[str, str]) -> None:
    """Relative error below 0.001 (absolute 0.0001 where the value is near 0).

    Args:
        names: our loss -> the reference's.
    """
    for mine, theirs in names.items():
        assert float(ours[mine]) == pytest.approx(fixture.manifest["losses"][theirs], rel=1e-3, abs=1e-4), mine
