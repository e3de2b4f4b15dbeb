"""New tasks pass through everything that the package does, without a line anywhere but in their own files."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tasks.tiny_tasks import SIZE, VARIANTS, Squares, recipe, write_squares

import eachmask
from eachmask import cli, models
from eachmask.batch.options import BatchOptions
from eachmask.batch.run import run
from eachmask.data.images.inputs import find_inputs
from eachmask.evaluation.values import evaluate_values
from eachmask.inference.load import load
from eachmask.inference.predictor import Predictor
from eachmask.inference.video_predictor import VideoPredictor
from eachmask.structures import Instances, Matte, PanopticMap, SemanticMap, UserError
from eachmask.tasks.settings import Settings
from eachmask.training import loop
from eachmask.training.assess import assess
from eachmask.training.recipe import Run

NAMES = {
    "tiny_semantic": "semantic",
    "tiny_panoptic": "panoptic",
    "tiny_matting": "matting",
    "tiny_recurrent": "instances",
}
each = pytest.mark.parametrize("name", list(NAMES))


@pytest.fixture(autouse=True)
def variants(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "variant", VARIANTS.__getitem__)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run of each."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(models, "variant", VARIANTS.__getitem__)
        out = tmp_path_factory.mktemp("runs")
        return {name: train(name, out / name) for name in NAMES}


def train(name: str, out: Path, **changes: Any) -> Path:
    data = Squares(NAMES[name])
    return loop.train(recipe(name, **changes), data, data, Run(out=out, device="cpu"))


def share(result: Any) -> float:
    """Of the image that is square."""
    if isinstance(result, SemanticMap):
        return float((result.labels == 1).float().mean())
    if isinstance(result, PanopticMap):
        result = result.to_instances()
    if isinstance(result, Matte):
        return float((result.alpha > 0.5).float().mean())
    assert isinstance(result, Instances) and result.masks is not None
    return float(result.masks.union().area()[0]) / (SIZE[0] * SIZE[1])


@each
def test_it_learns_and_is_drawn(trained: dict[str, Path], name: str) -> None:
    rows = list(csv.DictReader(open(trained[name].parent / "log.csv")))
    best = VARIANTS[name].task.scoring.best
    assert float(rows[-1][best]) > 0.85
    page = (trained[name].parent / "report.html").read_text()
    assert "data:image/jpeg" in page and "square-0.png" in page
    assert len(list((trained[name].parent / "samples/step-0000060").glob("*.jpg"))) == 4


@each
def test_tiles_agree_with_one_pass(trained: dict[str, Path], name: str) -> None:
    predictor = load(trained[name], device="cpu", precision="fp32")
    image = np.tile(Squares(NAMES[name])[3].image, (2, 2, 1))
    whole, tiled = predictor.predict(image, tile=0), predictor.predict(image, tile=48, overlap=0.4)
    assert type(whole) is type(tiled) is VARIANTS[name].task.target and whole.image_size == tiled.image_size
    assert share(tiled) == pytest.approx(share(whole), abs=0.003)
    assert (whole.render() != image).any()


@each
def test_results_are_written_and_a_run_is_resumed(trained: dict[str, Path], name: str, tmp_path: Path) -> None:
    for i in range(3):
        cv2.imwrite(str(tmp_path / f"{i}.png"), Squares(NAMES[name])[i].image[..., ::-1])
    predictor: Predictor[Any] = load(trained[name], device="cpu", precision="fp32")
    outputs = VARIANTS[name].task.outputs
    options = BatchOptions(save=tuple(outputs.writers))
    inputs = find_inputs([str(tmp_path)])
    out = tmp_path / "out"
    assert run(predictor, inputs, out, options).done == 3
    for kind in outputs.writers:
        assert len(list((out / kind).rglob("*"))) >= 3
    for file in outputs.collections:
        assert (out / file).stat().st_size > 12
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file() and ".journal" not in path.parts}
    outcomes: list[Any] = []
    run(predictor, inputs, out, options, listener=outcomes.append)
    assert all(outcome.resumed for outcome in outcomes) and len(outcomes) == 3
    assert before == {p: p.read_bytes() for p in out.rglob("*") if p.is_file() and ".journal" not in p.parts}
    assert json.loads((out / "summary.json").read_text())["done"] == 3 and "0.png" in (out / "report.html").read_text()


@each
def test_an_interrupted_training_is_resumed_to_the_bit(
    trained: dict[str, Path], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, count = loop.train_step, [0]

    def stops(*arguments: Any) -> dict[str, float]:
        count[0] += 1
        if count[0] == 41:
            raise KeyboardInterrupt
        return real(*arguments)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(loop, "train_step", stops)
        train(name, tmp_path)
    a, b = load_file(train(name, tmp_path)), load_file(trained[name])
    assert all(torch.equal(a[key], b[key]) for key in a)


@each
def test_it_is_measured_and_reported(name: str) -> None:
    task = VARIANTS[name].task
    targets = [Squares(NAMES[name])[i].targets for i in range(3)]
    perfect = evaluate_values(task, targets, targets, Settings(resamples=0), name="tiny <model>", data="squares")
    assert perfect.sections and all(section.values for section in perfect.sections)
    assert json.loads(json.dumps(perfect.to_json()))["task"] == task.name
    page = perfect.to_html()
    assert "tiny &lt;model&gt;" in page and all(section.title in page for section in perfect.sections)
    assert task.scoring.scores(targets, targets)[task.scoring.best] == pytest.approx(1)
    wrong = task.scoring.scores(targets, [*targets[1:], targets[0]])[task.scoring.best]
    assert wrong < 0.99
    with pytest.raises(UserError, match="2 predictions for 3 images"):
        evaluate_values(task, targets[:2], targets)


def test_what_is_given_reaches_the_network(trained: dict[str, Path]) -> None:
    predictor: Predictor[Matte] = load(trained["tiny_matting"], device="cpu", precision="fp32")
    image = Squares("matting")[0].image
    options = predictor.decode_options()
    black, white = (Matte(torch.zeros(SIZE), torch.full((3, *SIZE), value)) for value in (0.0, 4.0))
    (plain,) = predictor.engine.predict([image], options)
    (same,) = predictor.engine.predict([image], options, given=[black])
    (other,) = predictor.engine.predict([image], options, given=[white])
    assert torch.equal(plain.alpha, same.alpha) and not torch.equal(plain.alpha, other.alpha)
    (tiled,) = predictor.engine.predict([image], options, given=[white], tile=40, overlap=0.4)
    assert torch.allclose(tiled.alpha, other.alpha, atol=0.35) and not torch.allclose(
        tiled.alpha, plain.alpha, atol=0.35
    )


def test_training_measures_with_what_is_given(trained: dict[str, Path]) -> None:
    predictor: Predictor[Matte] = load(trained["tiny_matting"], device="cpu", precision="fp32")

    class Bright(Squares):
        def given(self) -> Matte:
            return Matte(torch.zeros(SIZE), torch.full((3, *SIZE), 4.0))

    score = predictor.task.scoring.scores
    clean, wrong = (assess(predictor, data("matting"), score, {}) for data in (Squares, Bright))
    assert clean.scores[predictor.task.scoring.best] > wrong.scores[predictor.task.scoring.best]
    expected = predictor.predict_arrays([Squares("matting")[0].image], given=[Bright("matting").given()])[0]
    assert torch.equal(wrong.found[0].alpha, predictor.task.packed(expected).alpha)


def test_a_video_is_remembered(trained: dict[str, Path]) -> None:
    video = VideoPredictor(load(trained["tiny_recurrent"], device="cpu", precision="fp32"))
    bright = Squares("instances")[0].image
    counts = [len(found) for found in video.track([bright, np.zeros_like(bright), np.zeros_like(bright)])]
    assert counts == [1, 1, 0]


@each
def test_a_model_is_evaluated_by_the_front_door(trained: dict[str, Path], name: str, tmp_path: Path) -> None:
    """Images that cannot be read are named, the best and the worst are shown, on one page as of objects."""

    class Broken(Squares):
        def __getitem__(self, index: int) -> Any:
            if index == 1:
                raise UserError("1.png is torn")
            return super().__getitem__(index)

    predictor: Predictor[Any] = load(trained[name], device="cpu", precision="fp32")
    found = eachmask.evaluate(predictor, Broken(NAMES[name]), tmp_path, resamples=0, boundary=False, gallery=1)
    task = VARIANTS[name].task
    assert found.task == task.name and found.num_images == len(Squares(NAMES[name])) - 1
    assert found.unread == ["1.png is torn"] and any("were left out" in note for note in found.notes)
    assert len(found.best) == len(found.worst) == 1 and ".png: " in found.best[0].caption
    page = (tmp_path / "report.html").read_text()
    assert page.count("data:image/jpeg") == 4 and "1.png is torn" in page
    assert json.loads((tmp_path / "evaluation.json").read_text())["measured"]["num_images"] == found.num_images
    best = {"instances": "ap", "semantic": "miou", "panoptic": "pq", "matting": "mad"}[NAMES[name]]
    assert found.value(best) < 0.2 if best == "mad" else found.value(best) > 0.7


@each
def test_two_models_are_compared(name: str) -> None:
    task, targets = VARIANTS[name].task, [Squares(NAMES[name])[i].targets for i in range(3)]
    wrong = [*targets[1:], targets[0]]
    settings = Settings(resamples=5, boundary=False)
    found = evaluate_values(task, targets, targets, settings, others=("other", wrong), published={"of others": 0.5})
    page = found.to_html()
    assert "Against other" in page and "of others" in page
    assert found.to_json()["measured"]["comparison"]["name"] == "other"
    with pytest.raises(UserError, match="2 predictions for 3 images"):
        evaluate_values(task, targets, targets, others=("other", wrong[:2]))


BEST = {"semantic": ("miou", 0.85), "panoptic": ("pq", 0.85), "matting": ("mad", 0.1), "instances": ("ap", 0.7)}
on_disk = pytest.mark.parametrize("name", [name for name in NAMES if NAMES[name] in BEST])
"""Those whose targets a format on disk holds."""


@on_disk
def test_the_command_measures_files_and_resumes(
    trained: dict[str, Path], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """From a data set on disk; killed at its third image, it resumes to the byte. Classes are matched by name."""
    data, out = write_squares(tmp_path / "data", NAMES[name]), tmp_path / "out"
    call = ["evaluate", str(trained[name]), "--data", str(data), "--resamples", "0", "--no-boundary", "--device", "cpu"]
    real, count = Predictor.predict_arrays, [0]

    def stops(*arguments: Any, **more: Any) -> Any:
        count[0] += 1
        if count[0] == 3:
            raise KeyboardInterrupt
        return real(*arguments, **more)

    with monkeypatch.context() as patched:
        patched.setattr(Predictor, "predict_arrays", stops)
        assert cli.main([*call, "--out", str(out)]) == 130
    assert (out / "predicted").is_dir()
    assert cli.main([*call, "--out", str(out)]) == 0
    assert "2 images had been predicted" in capsys.readouterr().out and not (out / "predicted").exists()
    assert cli.main([*call, "--out", str(tmp_path / "whole")]) == 0
    found, whole = (json.loads((folder / "evaluation.json").read_text()) for folder in (out, tmp_path / "whole"))
    assert found["measured"] == whole["measured"]
    assert (out / "report.html").read_text().count("data:image/jpeg") >= 4
    measure, limit = BEST[NAMES[name]]
    value = eachmask.evaluate(trained[name], data, resamples=0, boundary=False, device="cpu").value(measure)
    assert value < limit if measure == "mad" else value > limit
    if name == "tiny_semantic":
        assert any("sky" in note for note in found["measured"]["notes"])


SAVED = [("tiny_semantic", "labels"), ("tiny_panoptic", "panoptic"), ("tiny_matting", "alpha")]
"""What to save of each, to be measured."""


@pytest.mark.parametrize(("name", "kind"), SAVED)
def test_the_command_measures_files_of_predictions(
    trained: dict[str, Path], name: str, kind: str, tmp_path: Path, capsys: Any
) -> None:
    """What predict has saved is worth what the model is worth, also beside itself; a missing image is named."""
    data, results, task = write_squares(tmp_path / "data", NAMES[name]), tmp_path / "results", NAMES[name]
    images = data / "images" / "val"
    predict = ["predict", str(images), "--model", str(trained[name]), "--save", kind, "--out", str(results)]
    assert cli.main([*predict, "--device", "cpu"]) == 0
    call = ["evaluate", "--data", str(data), "--resamples", "0", "--no-boundary", "--out", str(tmp_path / "out")]
    given = ["--predictions", str(results), "--task", task]
    assert cli.main([*call, *given, "--compare", str(results)]) == 0
    found = json.loads((tmp_path / "out" / "evaluation.json").read_text())["measured"]
    measure, _ = BEST[task]
    model = eachmask.evaluate(trained[name], data, resamples=0, boundary=False, device="cpu", compare=results)
    assert found[task][measure] == pytest.approx(model.value(measure), abs=1e-4)
    assert "comparison" in found and model.comparison is not None
    alone = results / (kind if name != "tiny_panoptic" else "panoptic.json")
    assert cli.main([*call, "--predictions", str(alone), "--task", task]) == 0
    assert json.loads((tmp_path / "out" / "evaluation.json").read_text())["measured"][task] == found[task]
    next((results / kind).iterdir()).unlink()
    capsys.readouterr()
    assert cli.main([*call, *given]) == 2 and "has no prediction for square-" in capsys.readouterr().err
    assert cli.main([*call, *given[:2]]) == 2 and "add --task semantic" in capsys.readouterr().err
    assert cli.main([*call, str(trained[name]), *given[2:]]) == 2 and "leave it out" in capsys.readouterr().err


@on_disk
def test_the_command_trains_on_files(name: str, tmp_path: Path) -> None:
    """A recipe of one's own, from a data set on disk; the model's classes are the data's."""
    data = write_squares(tmp_path / "data", NAMES[name], "train")
    own = tmp_path / "own.py"
    own.write_text(f"from tasks.tiny_tasks import recipe\n\n\ndef mine():\n    return recipe({name!r}, steps=2)\n")
    call = ["train", f"{own}:mine", "--data", str(data), "--out", str(tmp_path / "run"), "--device", "cpu"]
    assert cli.main(call) == 0
    names = [category.name for category in load(tmp_path / "run", device="cpu").categories]
    assert names == {
        "semantic": ["square", "sky", "ground"],
        "panoptic": ["square", "sky", "ground"],
        "matting": ["foreground"],
    }.get(NAMES[name], names)


@pytest.mark.parametrize("name", ["tiny_semantic", "tiny_matting"])
def test_data_of_another_task_is_refused(trained: dict[str, Path], name: str, tmp_path: Path, capsys: Any) -> None:
    data = write_squares(tmp_path / "data", "instances")
    if name == "tiny_matting":
        assert cli.main(["evaluate", str(trained[name]), "--data", str(data), "--out", str(tmp_path / "out")]) == 2
        assert "and not Matte: they are in data sets of the format mattes" in capsys.readouterr().err
    else:  # a folder of label maps may mean classes, when classes are asked for
        assert eachmask.data.read(data).splits["val"].num_objects == 8
        found = eachmask.data.read(data, target=SemanticMap).splits["val"]
        assert found.targets(0).labels.unique().tolist() == [0, 1] and len(found.categories) == 2
