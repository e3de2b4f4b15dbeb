"""Commands killed at random moments: what is left is as it was or as it should be, and the same command then works."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import cv2
import pytest
from chaos.forked import COUNTS, Outcome, forked, seeds
from small_sets import make_set
from tiny_model import Spots, spots_image, spots_info

from eachmask.batch.options import BatchOptions
from eachmask.batch.run import run
from eachmask.cli import main
from eachmask.data.convert import REPORT
from eachmask.data.formats.coco_write import write_coco_folder
from eachmask.data.formats.known import FORMATS
from eachmask.data.images.inputs import find_inputs
from eachmask.inference.predictor import Predictor

NAMES = [known.name for known in FORMATS]


@pytest.fixture(scope="module")
def coco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("coco")
    write_coco_folder(folder / "data", make_set(folder / "images"))
    return folder / "data"


def command(*words: object) -> Callable[[], int]:
    return lambda: main([str(word) for word in words])


def killed(what: str, run: Callable[[], int], random_numbers: random.Random, longest: float) -> Outcome:
    """A run that is killed at a random moment, if it has not ended by then."""
    outcome = forked(run, kill_after=random_numbers.uniform(0, longest))
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


@seeds(4, 80)
def test_predict(tmp_path: Path, seeds: range) -> None:
    (tmp_path / "in").mkdir()
    for i in range(4):
        cv2.imwrite(str(tmp_path / "in" / f"{i}.png"), spots_image(i))
    predictor = Predictor(Spots(), spots_info(), device="cpu", precision="fp32")

    def predict(out: Path) -> int:
        run(predictor, find_inputs([tmp_path / "in"]), out, BatchOptions(save=("labels", "csv")))
        return 0

    predict(tmp_path / "warm")
    whole = forked(lambda: predict(tmp_path / "whole"))
    assert whole.is_sound, whole.output
    for seed in seeds:
        out = tmp_path / f"out{seed}"
        killed("predict", lambda out=out: predict(out), random.Random(seed), 1.3 * whole.seconds)
        again = forked(lambda out=out: predict(out))
        assert again.is_sound, again.output
        for name in ("predictions.json", "instances.csv"):
            assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
        assert content(out / "labels") == content(tmp_path / "whole" / "labels")
