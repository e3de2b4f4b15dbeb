from __future__ import annotations

import pytest
import torch

from eachmask.training.checkpoint import latest_checkpoint, save_checkpoint


def test_nested_state_comes_back(tmp_path):
    nested = {0: {"m": torch.ones(2, 2), "step": 1.5}, 1: None}
    state = {"a": torch.arange(3), "n": nested, "l": [1, "x", torch.zeros(0)]}
    save_checkpoint(tmp_path, 7, state)
    step, back = latest_checkpoint(tmp_path)
    assert step == 7
    assert torch.equal(back["a"], state["a"]) and torch.equal(back["n"][0]["m"], torch.ones(2, 2))
    assert back["n"][0]["step"] == 1.5 and back["n"][1] is None and back["l"][:2] == [1, "x"]


def test_shared_tensors_are_allowed(tmp_path):
    weight = torch.randn(3)
    save_checkpoint(tmp_path, 1, {"a": weight, "b": weight})
    assert torch.equal(latest_checkpoint(tmp_path)[1]["b"], weight)


def test_two_are_kept_and_a_damaged_one_is_passed_over(tmp_path):
    for step in (1, 2, 3):
        save_checkpoint(tmp_path, step, {"step": step, "weight": torch.ones(1)})
    files = sorted(tmp_path.glob("*.safetensors"))
    assert [f.name for f in files] == ["step-0000002.safetensors", "step-0000003.safetensors"]
    files[-1].write_bytes(files[-1].read_bytes()[:20])
    assert latest_checkpoint(tmp_path) == (2, {"step": 2, "weight": torch.ones(1)})


def test_half_written_file_is_not_a_checkpoint(tmp_path):
    (tmp_path / "step-0000009.part").write_bytes(b"half")
    assert latest_checkpoint(tmp_path) is None


def test_objects_are_refused(tmp_path):
    with pytest.raises(TypeError, match="set.*at /a"):
        save_checkpoint(tmp_path, 1, {"a": {1, 2}})
