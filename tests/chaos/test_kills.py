"""Commands killed at random moments: what is left is as it was or as it should be, and the same command then works."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import cv2
import pytest
import torch
from chaos.forked import COUNTS, Command, Outcome, forked, seeds
from safetensors.torch import load_file
from small_sets import CATEGORIES, make_set
from tiny_model import ClickedSpots, Spots, main_with_spots, spots_image, spots_info
from toy_training import Made, Toy, recipe

from eachmask import models
from eachmask.batch.options import BatchOptions
from eachmask.batch.run import run
from eachmask.cli import main
from eachmask.data.convert import REPORT
from eachmask.data.formats.coco_write import write_coco_folder
from eachmask.data.formats.known import FORMATS
from eachmask.data.images.inputs import find_inputs
from eachmask.inference.predictor import Predictor
from eachmask.inference.prompt_predictor import PromptedPredictor, PromptPredictor
from eachmask.structures import Instances, Prompts
from eachmask.training import loop
from eachmask.training.recipe import Run
from eachmask.weights.file import save_model

NAMES = [known.name for known in FORMATS if known.target is Instances]


@pytest.fixture(scope="module")
def coco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("coco")
    write_coco_folder(folder / "data", make_set(folder / "images"))
    return folder / "data"


def command(*words: object) -> Command:
    return Command(words)


def killed(
    what: str, run: Callable[[], int], random_numbers: random.Random, longest: float, clean: bool = False
) -> Outcome:
    """A run that is killed at a random moment, if it has not ended by then."""
    outcome = forked(run, kill_after=random_numbers.uniform(0, longest), clean=clean)
    COUNTS[f"{what} {'killed' if outcome.status is None else 'ended'}"] += 1
    assert outcome.status is None or outcome.is_sound, outcome.output
    return outcome


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@seeds(8, 120)
def test_convert(coco: Path, tmp_path: Path, seeds: range) -> None:
    assert main(["convert", str(coco), str(tmp_path / "warm"), "--to", "coco"]) == 0  # all is imported before forking
    took = 0.0
    for name in NAMES:
        whole = forked(command("convert", coco, tmp_path / "whole" / name, "--to", name))
        assert whole.is_sound, whole.output
        took = max(took, whole.seconds)
    for seed in seeds:
        numbers, name = random.Random(seed), NAMES[seed % len(NAMES)]
        target = tmp_path / str(seed) / name
        run = command("convert", coco, target, "--to", name)
        if killed("convert", run, numbers, 1.3 * took).status is None:
            if target.exists():  # in the moment after it got its name
                assert (target / REPORT).exists()
                continue
            again = forked(run)
            assert again.is_sound and again.status == 0, again.output
        assert [p.name for p in target.parent.iterdir()] == [name]
        expected, found = content(tmp_path / "whole" / name), content(target)
        assert found.keys() == expected.keys()
        assert {k for k in found if found[k] != expected[k]} <= {REPORT}


@seeds(4, 60)
def test_doctor_fix(coco: Path, tmp_path: Path, seeds: range) -> None:
    assert main(["doctor", str(coco), "--fix", str(tmp_path / "warm")]) in (0, 1)
    took = forked(command("doctor", coco, "--fix", tmp_path / "whole")).seconds
    for seed in seeds:
        target = tmp_path / str(seed) / "fixed"
        run = command("doctor", coco, "--fix", target)
        if killed("doctor", run, random.Random(seed), 1.3 * took).status is None and not target.exists():
            assert forked(run).status is not None
        for split, number in (("train", 2), ("val", 1)):
            written = json.loads(next(target.rglob(f"instances_{split}.json")).read_text())
            assert len(written["images"]) == number


def spots_folder(folder: Path, number: int = 4) -> Path:
    folder.mkdir()
    for i in range(number):
        cv2.imwrite(str(folder / f"{i}.png"), spots_image(i))
    return folder


def check_predictions(what: str, predictor: Predictor, tmp_path: Path, seeds: range, options: BatchOptions) -> None:
    """Killed and run again, everything is as if nothing had been."""
    images = spots_folder(tmp_path / "in")

    def predict(out: Path) -> int:
        run(predictor, find_inputs([images]), out, options)
        return 0

    predict(tmp_path / "warm")
    whole = forked(lambda: predict(tmp_path / "whole"))
    assert whole.is_sound, whole.output
    for seed in seeds:
        out = tmp_path / f"out{seed}"
        killed(what, lambda out=out: predict(out), random.Random(seed), 1.3 * whole.seconds)
        again = forked(lambda out=out: predict(out))
        assert again.is_sound, again.output
        for name in ("predictions.json", "instances.csv"):
            assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
        assert content(out / "labels") == content(tmp_path / "whole" / "labels")


@seeds(4, 80)
def test_predict(tmp_path: Path, seeds: range) -> None:
    predictor = Predictor(Spots(), spots_info(), device="cpu", precision="fp32")
    check_predictions("predict", predictor, tmp_path, seeds, BatchOptions(save=("labels", "csv")))


@seeds(3, 60)
def test_predict_tiles(tmp_path: Path, seeds: range) -> None:
    predictor = Predictor(Spots(), spots_info(), device="cpu", precision="fp32")
    check_predictions("predict tiles", predictor, tmp_path, seeds, BatchOptions(save=("labels",), tile=40))


@seeds(3, 60)
def test_segment(tmp_path: Path, seeds: range) -> None:
    predictor = PromptPredictor(ClickedSpots(), spots_info(), device="cpu", precision="fp32", optimize=False)
    prompts = Prompts(spots_image(0).shape[:2], points=[[40, 40], [60, 30]])
    answering = PromptedPredictor(predictor, prompts)
    check_predictions("segment", answering, tmp_path, seeds, BatchOptions(save=("labels",)))


@seeds(3, 60)
def test_train(tmp_path: Path, seeds: range, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "variant", lambda name: Toy)

    def train(out: Path) -> int:
        loop.train(recipe(), Made(), Made(), Run(out=out, checkpoint_every=3, device="cpu"))
        return 0

    train(tmp_path / "warm")
    whole = forked(lambda: train(tmp_path / "whole"))
    assert whole.is_sound, whole.output
    expected = load_file(tmp_path / "whole/model.safetensors")
    for seed in seeds:
        out = tmp_path / f"out{seed}"
        killed("train", lambda out=out: train(out), random.Random(seed), 1.2 * whole.seconds)
        again = forked(lambda out=out: train(out))
        assert again.is_sound, again.output
        found = load_file(out / "model.safetensors")
        assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in found)
        names = content(out).keys() - content(tmp_path / "whole").keys()
        assert not [name for name in names if "events" not in name and "checkpoint" not in name], names


@seeds(3, 60)
def test_evaluate(coco: Path, tmp_path: Path, seeds: range) -> None:
    save_model(tmp_path / "m.safetensors", Spots(), spots_info(categories=CATEGORIES[:2]))

    def evaluate(out: Path) -> Command:
        words = ("--data", coco, "--split", "train", "--resamples", 20, "--device", "cpu", "--precision", "fp32")
        return Command(("evaluate", tmp_path / "m.safetensors", *words, "--out", out), main_with_spots)

    assert forked(evaluate(tmp_path / "warm"), clean=True).status == 0
    whole = forked(evaluate(tmp_path / "whole"), clean=True)
    assert whole.is_sound and whole.status == 0, whole.output
    for seed in seeds:
        out = tmp_path / f"out{seed}"
        killed("evaluate", evaluate(out), random.Random(seed), 1.3 * whole.seconds, clean=True)
        again = forked(evaluate(out), clean=True)
        assert again.is_sound and again.status == 0, again.output
        for name in ("evaluation.json", "predictions.json"):
            assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
