"""Prompts: an image is looked at once and asked about many times."""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from tiny_model import ClickedSpots, Spots, spots_image, spots_info

from eachmask.cli import main
from eachmask.inference.load import load
from eachmask.inference.predictor import Predictor
from eachmask.inference.prompt_predictor import PromptedPredictor, PromptPredictor
from eachmask.models.protocol import Promptable
from eachmask.structures import RLE, Instances, Prompts, UserError


@pytest.fixture
def predictor() -> PromptPredictor:
    return PromptPredictor(ClickedSpots(), spots_info(), device="cpu", precision="fp32", optimize=False)


def center(found: Instances, index: int) -> list[float]:
    x1, y1, x2, y2 = found.boxes[index].tolist()
    return [(x1 + x2) / 2, (y1 + y2) / 2]


def test_one_look_answers_many_questions(predictor: PromptPredictor) -> None:
    image = spots_image(1)
    everything = predictor.everything(image)
    assert len(everything) > 2
    embedded = pickle.loads(pickle.dumps(predictor.embed(image)))
    for i in range(len(everything)):
        prompts = Prompts(embedded.image_size, points=[center(everything, i)])
        (box,) = predictor.predict(embedded, prompts).boxes.tolist()
        assert box == everything.boxes[i].tolist()
    assert predictor.model.encoded == 1
    both = Prompts(embedded.image_size, points=[center(everything, 0), center(everything, 1)])
    assert len(predictor.predict(image, both)) == 2 and predictor.model.encoded == 2
    assert predictor.predict(image, both).label_names[0] in ("small spot", "<large> & spot")


def test_keys_tell_images_and_models_apart(predictor: PromptPredictor) -> None:
    first, again, other = (predictor.embed(spots_image(seed)).key for seed in (1, 1, 2))
    assert first == again != other


def test_prompts_of_another_image_are_refused(predictor: PromptPredictor) -> None:
    with pytest.raises(UserError, match="for an image of 20 x 10 pixels, but this one has 128 x 96"):
        predictor.predict(spots_image(1), Prompts((10, 20), points=[[1, 1]]))
    with pytest.raises(UserError, match="needs prompts"):
        predictor.predict(predictor.embed(spots_image(1)))


def test_the_same_prompts_for_every_image(predictor: PromptPredictor) -> None:
    image = spots_image(1)
    place = center(predictor.everything(image), 0)
    prompted = PromptedPredictor(predictor, Prompts((96, 128), points=[place]))
    assert isinstance(prompted, Predictor) and len(prompted.predict_arrays([image, image])[1]) == 1
    assert prompted.fingerprint != predictor.fingerprint
    assert prompted.fingerprint != PromptedPredictor(predictor, Prompts((96, 128), points=[[1, 1]])).fingerprint


@pytest.fixture
def command(predictor: PromptPredictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr("eachmask.inference.load.load", lambda name, **_: predictor)
    monkeypatch.setattr("eachmask.cli.segment.check_before_loading", lambda *_, **__: None)  # its model has no file
    image = tmp_path / "spots.png"
    cv2.imwrite(str(image), spots_image(1)[..., ::-1])
    return ["segment", str(image), "--model", "spots", "--out", str(tmp_path / "out")]


def test_the_command_writes_what_predict_writes(command: list[str], predictor: PromptPredictor) -> None:
    everything = predictor.everything(spots_image(1))
    x, y = center(everything, 0)
    assert main([*command, "--point", f"{x},{y}"]) == 0
    out = Path(command[-1])
    (annotation,) = json.loads((out / "predictions.json").read_text())["annotations"]
    assert annotation["area"] == int(everything.masks[0].area()[0])
    assert (out / "overlays/spots.png.jpg").is_file() or list((out / "overlays").iterdir())
    assert main([*command, "--everything", "--overwrite"]) == 0
    assert len(json.loads((out / "predictions.json").read_text())["annotations"]) == len(everything)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "say what is meant"),
        (["--point", "5"], "--point wants 2 numbers"),
        (["--point", "500,5"], r"\(500, 5\) lies outside the image of 128 x 96"),
        (["--box", "5,5,5,9"], "has no area"),
        (["--point", "5,5", "--everything"], "or else --everything"),
        (["--not-point", "5,5"], "add one of these"),
        (["--not-scribble", "5,5 9,9", "--box", "5,5,9,9"], "add one of these"),
    ],
)
def test_mistakes_are_sentences(
    command: list[str], arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, *arguments]) == 2
    assert re.search(message, capsys.readouterr().err)


def test_a_missing_image_stops_no_other(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    image = command[1]
    command[1] = f"{image}.gone"
    assert main([*command, "--point", "5,5"]) == 2
    assert capsys.readouterr().err == f"eachmask: {image}.gone does not exist\n"
    command.insert(2, image)
    assert main([*command, "--point", "5,5"]) == 1
    assert (Path(command[-1]) / "summary.json").is_file()


def test_a_model_without_prompts_is_refused(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = Predictor(Spots(), spots_info(), device="cpu", precision="fp32")
    monkeypatch.setattr("eachmask.inference.load.load", lambda name, **_: plain)
    assert main([*command, "--point", "5,5"]) == 2
    assert "takes no prompts" in capsys.readouterr().err


def test_loading_tells_promptable_models_from_others() -> None:
    assert isinstance(ClickedSpots(), Promptable) and not isinstance(Spots(), Promptable)
    assert type(load("nuclei", device="cpu")) is Predictor


def test_equal_prompts_have_one_fingerprint_whatever_they_are(predictor: PromptPredictor) -> None:
    def print_of(left: int) -> str:
        bitmap = np.zeros((1, 96, 128), bool)
        bitmap[:, 10:20, left : left + 20] = True
        prompts = Prompts((96, 128), masks=RLE.from_bitmaps(bitmap), scribbles=([[1, 1], [5, 5]],), texts=("spot",))
        return PromptedPredictor(predictor, prompts).fingerprint

    assert print_of(10) == print_of(10) != print_of(11)


def test_prompts_heed_score_and_classes(predictor: PromptPredictor) -> None:
    image = spots_image(1)
    everything = predictor.everything(image)
    prompts = Prompts((96, 128), points=[center(everything, i) for i in range(len(everything))])
    small = predictor.predict(image, prompts, classes="small spot")
    assert 0 < len(small) < len(predictor.predict(image, prompts)) and set(small.label_names) == {"small spot"}
    assert len(predictor.predict(predictor.embed(image), prompts, classes=["small spot"])) == len(small)
    assert len(predictor.predict(image, prompts, score=1.0)) == 0
    with pytest.raises(UserError, match="leave out tile"):
        predictor.predict(image, prompts, tile=64)


def test_a_class_that_is_asked_for_reaches_the_names_of_prompted_objects(
    predictor: PromptPredictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = spots_image(1)
    prompted = PromptedPredictor(predictor, Prompts((96, 128), points=[center(predictor.everything(image), 0)]))
    asked: list[Sequence[str]] = []
    monkeypatch.setattr(prompted, "_named", lambda image, result, classes: asked.append(classes) or result)
    assert len(prompted.predict_arrays([image], classes=["dot"])[0]) == 1 and asked == [["dot"]]
