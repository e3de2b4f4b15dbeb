"""What a run keeps and refuses: interrupts, damaged checkpoints, other settings, two runs in one folder."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from toy_training import Made, Toy, recipe

from eachmask import models
from eachmask.cli import main
from eachmask.files.lock import lock
from eachmask.structures import Instances, UserError
from eachmask.training import loop
from eachmask.training.checkpoint import latest_checkpoint
from eachmask.training.recipe import Recipe, Run
from eachmask.training.record import check_resumed


@pytest.fixture(autouse=True)
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "variant", lambda name: Toy)


def train(out: Path, changed: Recipe | None = None, **run: object) -> Path:
    return loop.train(changed or recipe(), Made(), Made(), Run(out=out, device="cpu", **run))  # type: ignore[arg-type]


def signaling(at: int, number: int) -> Callable[..., dict[str, float]]:
    """train_step, in the middle of which the process gets a signal once."""
    real, count = loop.train_step, [0]

    def step(*arguments: object) -> dict[str, float]:
        count[0] += 1
        if count[0] == at:
            os.kill(os.getpid(), number)
        return real(*arguments)  # type: ignore[arg-type]

    return step


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_step_is_finished_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    before = signal.getsignal(number)
    with monkeypatch.context() as patched:
        patched.setattr(loop, "train_step", signaling(5, number))
        with pytest.raises(KeyboardInterrupt, match="after step 5, which is kept"):
            train(tmp_path / "parts")
    found = latest_checkpoint(tmp_path / "parts/checkpoints")
    assert found is not None and found[0] == 5
    assert signal.getsignal(number) is before
    a, b = load_file(train(tmp_path / "parts")), load_file(train(tmp_path / "whole"))
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """It interrupts, also where pytest's own workers ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_before_the_first_step_it_says_that_nothing_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr("eachmask.recipes.train.train", lambda **_: os.kill(os.getpid(), number))
    command = ["train", "nuclei", "--data", "x", "--out", str(tmp_path)]
    assert main(command) == 130
    assert "before the first step: there is nothing to keep" in capsys.readouterr().err
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/step-0000003.safetensors").touch()
    assert main(command) == 130 and "as the last checkpoint left it" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) is before


def test_every_evaluation_is_a_checkpoint(tmp_path: Path) -> None:
    train(tmp_path, recipe(steps=16))
    assert [path.name for path in sorted((tmp_path / "checkpoints").iterdir())] == [
        "step-0000008.safetensors", "step-0000016.safetensors",
    ]  # fmt: skip


def test_two_runs_do_not_share_a_folder(tmp_path: Path) -> None:
    with lock(tmp_path / ".lock", tmp_path), pytest.raises(UserError, match="another process is writing to"):
        train(tmp_path)


@pytest.mark.parametrize(
    ("changes", "run", "message"),
    [
        ({"batch_size": 4}, {}, "batch_size was 2 and is 4"),
        ({"learning_rate": 0.1}, {}, r"learning_rate was 0.05 and is 0.1"),
        ({}, {"seed": 1}, "seed was 0 and is 1"),
    ],
)
def test_a_run_is_resumed_only_as_what_it_was(
    tmp_path: Path, changes: dict[str, object], run: dict[str, object], message: str
) -> None:
    train(tmp_path, recipe(steps=8))
    record = (tmp_path / "environment.json").read_text(), (tmp_path / "recipe.py").read_text()
    with pytest.raises(UserError, match=message):
        train(tmp_path, recipe(steps=16, **changes), **run)
    assert ((tmp_path / "environment.json").read_text(), (tmp_path / "recipe.py").read_text()) == record


def test_of_long_settings_only_what_differs_is_named(tmp_path: Path) -> None:
    known = "Augment(crop=Crop(size=(96, 96), scale=(0.4, 2.0)), flip=Flip(keypoint_pairs=()))"
    (tmp_path / "environment.json").write_text(json.dumps({"settings": {"augment": known}}))
    with pytest.raises(UserError, match=r"\(augment was 96, 96 and is 128, 128\)"):
        check_resumed(tmp_path, {"augment": known.replace("96, 96", "128, 128")})


def test_a_run_of_more_steps_keeps_both_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for steps, word in ((8, "first"), (16, "second"), (16, "third"), (8, "fourth")):
        monkeypatch.setattr("sys.argv", [word])
        train(tmp_path, recipe(steps=steps))
    record = json.loads((tmp_path / "environment.json").read_text())
    assert record["command"] == "second", "where there was nothing left to do, nothing is recorded"
    assert record["earlier"] == [{"until step": 8, "command": "first", "settings": {"steps": "8"}}]
    assert "steps=16" in (tmp_path / "recipe.py").read_text()


@pytest.mark.parametrize("text", ["[1]", "{", "[" * 100_000, '{"settings": 1}', '{"earlier": 1}'])
def test_a_damaged_record_is_written_anew(tmp_path: Path, text: str) -> None:
    train(tmp_path, recipe(steps=8))
    (tmp_path / "environment.json").write_text(text)
    train(tmp_path, recipe(steps=8))
    assert json.loads((tmp_path / "environment.json").read_text())["settings"]["steps"] == "8"


@pytest.mark.parametrize("metadata", [None, {"step": "8"}, {"step": "8", "state": "[" * 100_000}, {"state": "7"}])
def test_a_checkpoint_that_is_none_is_damaged(tmp_path: Path, metadata: dict[str, str] | None) -> None:
    save_file({"a": torch.zeros(2)}, tmp_path / "step-0000008.safetensors", metadata=metadata)
    with pytest.raises(UserError, match="step-0000008.safetensors in .* is damaged, so that the run cannot"):
        latest_checkpoint(tmp_path)


def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path: Path) -> None:
    train(tmp_path, recipe(steps=16))
    older, newer = sorted((tmp_path / "checkpoints").iterdir())
    for path, step in ((newer, 8), (older, None)):
        content = bytearray(path.read_bytes())
        content[-1] ^= 1  # a bit of a weight: the file can still be read
        path.write_bytes(content)
        if step is not None:
            found = latest_checkpoint(tmp_path / "checkpoints")
            assert found is not None and found[0] == step
    with pytest.raises(UserError, match="are damaged, so that the run cannot be resumed"):
        train(tmp_path, recipe(steps=24))


def test_what_is_drawn_is_what_users_are_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Instances] = []

    def render(image: object, found: Instances, options: object) -> object:
        drawn.append(found)
        return Toy.task.render(image, found, options)  # type: ignore[arg-type]

    unsure = replace(Toy.task, render=render)

    class Unsure(Toy):
        """Sure of nothing: all scores are low, and right."""

        task = unsure

        def decode(self, raw, options):  # type: ignore[no-untyped-def]
            return [replace(found, scores=found.scores * 0.07) for found in super().decode(raw, options)]

    monkeypatch.setattr(models, "variant", lambda name: Unsure)
    train(tmp_path, recipe(steps=120, evaluate_every=60))
    assert drawn and any(len(found) for found in drawn), "objects at 0.07 are drawn where the model shows them"
