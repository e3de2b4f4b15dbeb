"""--precision auto: measured with a clock of our own, remembered for each machine and network."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_model import Spots, spots_info

from eachmask.inference.fastest import ENOUGH, ROUNDS, fastest, measured

KNOWN = (torch.float32, torch.bfloat16)


class Clock:
    """Moves by what each precision needs, and counts the runs."""

    def __init__(self, seconds: dict[torch.dtype, float]) -> None:
        self.now, self.seconds, self.runs = 0.0, seconds, []

    def run(self, dtype: torch.dtype) -> None:
        self.now += self.seconds[dtype]
        self.runs.append(dtype)

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(("bf16", "chosen"), [(0.005, torch.bfloat16), (0.0095, torch.float32), (0.03, torch.float32)])
def test_bf16_must_be_clearly_faster(bf16: float, chosen: torch.dtype) -> None:
    clock = Clock({torch.float32: 0.01, torch.bfloat16: bf16})
    assert measured(clock.run, clock) == chosen
    assert clock.runs == [torch.float32, torch.bfloat16] * ROUNDS


def test_large_networks_run_once() -> None:
    clock = Clock({torch.float32: ENOUGH, torch.bfloat16: 1.0})
    assert measured(clock.run, clock) == torch.bfloat16 and len(clock.runs) == 2


def test_the_answer_is_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EACHMASK_CACHE", str(tmp_path))
    first = fastest(Spots(), spots_info())
    (kept,) = (tmp_path / "precision").iterdir()
    assert {"bf16": torch.bfloat16, "fp32": torch.float32}[kept.read_text()] == first
    other = "fp32" if first == torch.bfloat16 else "bf16"
    kept.write_text(other)
    assert fastest(Spots(), spots_info()) != first, "another process was first"
    kept.write_text("fp8")  # of a later version, or damaged
    assert fastest(Spots(), spots_info()) in KNOWN


def test_another_side_is_not_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EACHMASK_CACHE", str(tmp_path))
    info = spots_info()
    sized = replace(info, preprocess=replace(info.preprocess, short_side=64, long_side=64))
    fastest(Spots(), info)
    fastest(Spots(), replace(sized, preprocess=sized.preprocess.at_long_side(96)))
    assert len(list((tmp_path / "precision").iterdir())) == 1
