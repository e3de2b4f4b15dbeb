from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from toy_training import Made, Toy, recipe

from eachmask import models
from eachmask.backbones.swin import Swin
from eachmask.data.transforms.crop import LargeScaleJitter
from eachmask.recipes import recipe as recipe_named
from eachmask.structures import UserError
from eachmask.tasks.instances import INSTANCES
from eachmask.training import loop
from eachmask.training.optim import make_optimizer, set_learning_rate
from eachmask.training.recipe import Run
from eachmask.training.recipe_source import recipe_source
from eachmask.training.sampling import Share, TrainingSequence, batches
from eachmask.weights.file import read_info

TESTS = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def toy(monkeypatch):
    monkeypatch.setattr(models, "variant", lambda name: Toy)


def test_it_learns_logs_and_draws_curves(tmp_path):
    path = loop.train(recipe(steps=120, evaluate_every=40), Made(), Made(), Run(out=tmp_path))
    rows = list(csv.DictReader(open(tmp_path / "log.csv")))
    assert [float(r["step"]) for r in rows] == [40, 80, 120]
    assert float(rows[-1]["mask"]) < float(rows[0]["mask"])
    assert float(rows[-1]["iou"]) > 0.5
    assert path.is_file() and "<polyline" in (tmp_path / "curves.svg").read_text()


def test_interrupted_and_resumed_equals_uninterrupted_to_the_bit(tmp_path):
    whole = loop.train(recipe(), Made(), Made(), Run(out=tmp_path / "whole", checkpoint_every=3))
    real, count = loop.train_step, [0]

    def stops(*args):
        count[0] += 1
        if count[0] == 14:
            raise KeyboardInterrupt
        return real(*args)

    loop.train_step = stops
    try:
        with pytest.raises(KeyboardInterrupt):
            loop.train(recipe(), Made(), Made(), Run(out=tmp_path / "parts", checkpoint_every=3))
    finally:
        loop.train_step = real
    parts = loop.train(recipe(), Made(), Made(), Run(out=tmp_path / "parts", checkpoint_every=3))
    a, b = load_file(whole), load_file(parts)
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert (tmp_path / "whole/log.csv").read_text() == (tmp_path / "parts/log.csv").read_text()


def worker(arguments: list[str], *before: str) -> subprocess.CompletedProcess[str]:
    """Run tests/toy_training.py in a process of its own."""
    paths = os.pathsep.join([str(TESTS), str(TESTS.parent / "src")])
    environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *before, str(TESTS / "toy_training.py"), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


def test_killed_in_the_middle_of_a_checkpoint_and_resumed(tmp_path):
    killed = worker([str(tmp_path / "killed"), "--die-writing", "3"])
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert list((tmp_path / "killed/checkpoints").glob("*.part")), "the half-written checkpoint lies there"
    for name in ("killed", "whole"):
        done = worker([str(tmp_path / name)])
        assert done.returncode == 0, done.stderr
    a, b = (load_file(tmp_path / name / "model.safetensors") for name in ("killed", "whole"))
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_two_processes_give_what_one_gives(tmp_path):
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    shared = worker([str(tmp_path / "two")], *torchrun)
    assert shared.returncode == 0, shared.stderr
    assert "gloo" not in shared.stdout, "a thread that outlives Python aborts the process now and then"
    alone = worker([str(tmp_path / "one")])
    assert alone.returncode == 0, alone.stderr
    a, b = (load_file(tmp_path / name / "last.safetensors") for name in ("one", "two"))
    assert all(torch.allclose(a[key], b[key], atol=1e-6) for key in a)
    rows = [list(csv.DictReader(open(tmp_path / name / "log.csv"))) for name in ("one", "two")]
    assert float(rows[0][-1]["mask"]) == pytest.approx(float(rows[1][-1]["mask"]), abs=1e-5)


def test_a_batch_in_pieces_gives_what_the_whole_gives(tmp_path):
    whole = loop.train(recipe(), Made(), Made(), Run(out=tmp_path / "whole"))
    parts = loop.train(recipe(), Made(), Made(), Run(out=tmp_path / "parts", accumulate=2))
    a, b = load_file(whole), load_file(parts)
    assert all(torch.allclose(a[name], b[name], atol=1e-6) for name in a)
    with pytest.raises(UserError, match="divides"):
        loop.train(recipe(), Made(), Made(), Run(out=tmp_path / "odd", accumulate=3))


def test_batches_of_small_images_are_as_large_as_the_window_and_say_where_images_end():
    jitter = LargeScaleJitter(size=(64, 96), scale=(0.2, 1.2))
    draws = TrainingSequence(Made(), recipe(augment=jitter, batch_size=2), seed=0)
    ends = set()
    for (batch,) in batches(draws, range(8), Share(), workers=0):
        assert batch.images.tensor.shape == (2, 3, 64, 96)
        assert batch.images.sizes == tuple(target.image_size for target in batch.targets)
        ends |= set(batch.images.sizes)
    assert min(ends) < (32, 32) < max(ends)


def test_every_process_gets_its_own_part_of_every_step():
    shares = [Share(rank, world=2, parts=2).draws(step=3, batch_size=8) for rank in range(2)]
    assert shares == [[[24, 25], [26, 27]], [[28, 29], [30, 31]]]


def test_more_steps_on_resume(tmp_path):
    loop.train(recipe(steps=8), Made(), Made(), Run(out=tmp_path))
    loop.train(recipe(steps=16), Made(), Made(), Run(out=tmp_path))
    assert [row["step"] for row in csv.DictReader(open(tmp_path / "log.csv"))] == ["8.0", "16.0"]


def test_it_stops_when_nothing_gets_better(tmp_path):
    flat = recipe(steps=200, learning_rate=0.0, evaluate_every=4, patience=3)
    loop.train(flat, Made(), Made(), Run(out=tmp_path))
    assert [float(row["step"]) for row in csv.DictReader(open(tmp_path / "log.csv"))] == [4, 8, 12, 16]


def test_the_run_folder_tells_everything(tmp_path):
    loop.train(recipe(), Made(), Made(), Run(out=tmp_path, notes={"data": "made"}))
    page = (tmp_path / "report.html").read_text()
    assert "<svg" in page and "data:image/jpeg" in page and "made-0.png" in page
    assert "http" not in page.split("</svg>")[1]
    assert "<dt>batch_size</dt><dd>2</dd>" in page and "<dd>None" not in page and "{&#x27;" not in page
    assert '"data": "made"' in (tmp_path / "environment.json").read_text()
    assert len(list((tmp_path / "samples/step-0000024").glob("*.jpg"))) == 4
    assert list((tmp_path / "tensorboard").iterdir()) and (tmp_path / "last.safetensors").is_file()


def test_a_written_recipe_is_the_recipe(tmp_path):
    nuclei = recipe_named("nuclei")()
    (tmp_path / "again.py").write_text(recipe_source(nuclei))
    assert recipe_named(f"{tmp_path / 'again.py'}:recipe")() == nuclei
    nameless = replace(nuclei, augment=lambda sample, rng: sample)
    assert "# augment was" in recipe_source(nameless)


def test_a_broken_image_gives_way_to_another_and_is_named(tmp_path):
    class OneBroken(Made):
        def __getitem__(self, index):
            if index == 2:
                raise UserError("made-2.png is truncated")
            return super().__getitem__(index)

    loop.train(recipe(), OneBroken(), Made(), Run(out=tmp_path))
    assert (tmp_path / "skipped.txt").read_text() == "made-2.png is truncated\n"


def test_resume_can_be_refused(tmp_path):
    loop.train(recipe(steps=4), Made(), Made(), Run(out=tmp_path))
    with pytest.raises(UserError, match="already holds a run"):
        loop.train(recipe(steps=4), Made(), Made(), Run(out=tmp_path, resume=False))


def test_a_loss_that_is_not_a_number_names_the_files(tmp_path, monkeypatch):
    class Broken(Toy):
        def losses(self, raw, targets):
            return {"mask": raw[0].sum() * float("nan")}

    monkeypatch.setattr(models, "variant", lambda name: Broken)
    with pytest.raises(UserError, match=r"made-\d\.png"):
        loop.train(recipe(), Made(), Made(), Run(out=tmp_path))
    assert (tmp_path / "non-finite-loss.json").is_file()


def test_every_sample_once_per_epoch_and_weights_in_proportion():
    draws = TrainingSequence(Made(), recipe(), seed=3)
    assert sorted(draws.index(n) for n in range(5)) == [0, 1, 2, 3, 4]
    assert [draws.index(n) for n in range(10)] == [draws.index(n) for n in range(10)]
    weighted = TrainingSequence(Made(), recipe(sample_weight=lambda samples: [2, 1, 1, 1, 0]), seed=3)
    counts = np.bincount([weighted.index(n) for n in range(500)], minlength=5)
    assert counts[4] == 0 and abs(counts[0] - 200) <= 5 and abs(counts[1] - 100) <= 5


def test_relative_positions_of_swin_transformers_are_not_decayed():
    swin = {"width": 12, "depths": (1, 1, 1, 1)}
    for version in (1, 2):
        model = torch.nn.Module()
        model.backbone = Swin("swin_t", swin | {"version": version})
        free = {
            id(p) for g in make_optimizer(model, recipe()).param_groups if not g["weight_decay"] for p in g["params"]
        }
        kept = [name for name, p in model.named_parameters() if p.ndim > 1 and id(p) in free]
        assert kept and all("relative_position" in n or "cpb_mlp" in n or "logit_scale" in n for n in kept)


def test_learning_rate_warms_up_then_falls():
    optimizer = torch.optim.SGD([{"params": [torch.zeros(1)], "rate": 0.5}], lr=1.0)
    chosen = recipe(learning_rate=1.0, steps=100, warmup_steps=10)
    rates = [set_learning_rate(optimizer, chosen, step) for step in range(100)]
    assert rates[0] < rates[5] < rates[9] and max(rates) == pytest.approx(1, abs=0.05)
    assert rates[-1] == pytest.approx(0.01, abs=0.01) and optimizer.param_groups[0]["lr"] == rates[-1] * 0.5


def test_learning_rate_drops_in_steps():
    optimizer = torch.optim.SGD([{"params": [torch.zeros(1)], "rate": 1.0}], lr=1.0)
    chosen = recipe(learning_rate=1.0, steps=100, warmup_steps=1, drop_at=(0.5, 0.9))
    rates = [set_learning_rate(optimizer, chosen, step) for step in (10, 49, 50, 89, 90)]
    assert rates == pytest.approx([1, 1, 0.1, 0.1, 0.01])


def test_the_model_shows_objects_from_the_score_that_suits_val_best(tmp_path, monkeypatch):
    suits = replace(INSTANCES.scoring, calibrate=lambda predictions, targets: {"score_threshold": 0.25})
    calibrated = replace(INSTANCES, scoring=suits)
    monkeypatch.setattr(Toy, "task", calibrated)
    path = loop.train(recipe(steps=8), Made(), Made(), Run(out=tmp_path / "own"))
    assert read_info(path).decode == {"score_threshold": 0.25}
    path = loop.train(recipe(steps=8, decode={"score_threshold": 0.6}), Made(), Made(), Run(out=tmp_path / "said"))
    assert read_info(path).decode == {"score_threshold": 0.6}
