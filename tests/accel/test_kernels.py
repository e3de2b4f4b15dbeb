"""oneDNN is told to keep more kernels, unless somebody said how many."""

from __future__ import annotations

import os

import pytest
from tiny_model import Spots, spots_info

from eachmask.accel import SWITCH
from eachmask.accel.kernels import KERNELS, SETTINGS
from eachmask.inference.predictor import Predictor


@pytest.mark.parametrize(
    ("given", "kept"),
    [({}, str(KERNELS)), ({SETTINGS[0]: "64"}, "64"), ({SETTINGS[1]: "64"}, None), ({SWITCH: "kernels"}, None)],
)
def test_what_the_environment_says_stays(
    given: dict[str, str], kept: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (*SETTINGS, SWITCH):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    Predictor(Spots(), spots_info(), device="cpu", precision="fp32")
    assert os.environ.get(SETTINGS[0]) == kept
