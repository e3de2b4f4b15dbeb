"""Scribbles in rounds: the annotator's part by hand, and the whole from the command line."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from eachmask.cli import main
from eachmask.evaluation.rounds import Answerer, annotated_clips, play, section_of
from eachmask.ops.scribbles import Scribble
from eachmask.structures import Instances, UserError


def targets(num: int = 4) -> list[np.ndarray]:
    """Two squares, the second of which comes in the second frame and grows."""
    result = []
    for t in range(num):
        labels = np.zeros((48, 72), np.int64)
        labels[8:28, 4 + 3 * t : 24 + 3 * t] = 1
        if t:
            labels[20:40, 66 - 6 * t : 66] = 5
        result.append(labels)
    return result


def test_the_worst_frame_is_next_and_the_first_is_the_fullest():
    gt, asked = targets(), []

    def answer(frame, scribbles):
        asked.append((frame, sorted(one.number for one in scribbles)))
        right = {f for f, _ in asked}
        return [labels if t in right else np.where(labels == 1, 1, 0) for t, labels in enumerate(gt)]

    done = play(answer, gt, 8)
    assert asked[0] == (3, [1, 5]) and done.frames[:2] == [3, 1], "of frames that are alike the first one"
    assert asked[1] == (1, [5]) and asked[2] == (2, [5])
    assert done.frames == [3, 1, 2, 0] and len(asked) == 3, "the frame that is right gets no scribbles"
    assert done.scores[-1] == 1 and sorted(done.scores) == done.scores and sorted(done.seconds) == done.seconds


def test_areas_under_the_curve():
    quick, slow = (play(lambda *_: targets(), targets(), 1, name) for name in "ab")
    quick.seconds, slow.seconds = [30.0], [90.0]
    values = section_of([quick, slow]).values
    assert values["J&F@60s"] == pytest.approx(1) and values["J&F-AUC"] == pytest.approx(0.5, abs=0.01)
    assert section_of([slow]).values["J&F@60s"] == pytest.approx(2 / 3)


def test_a_correction_also_says_what_stands():
    """Else the model takes the part that is scribbled on for all that is meant."""
    labels = np.zeros((48, 72), np.int64)
    labels[8:40, 4:60] = 2
    drawer = Asked()
    answerer = Answerer(None, drawer, [np.zeros((48, 72, 3), np.uint8)])
    answerer.labels[0] = labels
    answerer._drawn(0, [Scribble(0, np.array([[50.5, 12.5], [50.5, 36.5]]))])
    signs = dict(zip(drawer.prompts.scribble_signs.tolist(), drawer.prompts.scribbles, strict=True))
    assert set(signs) == {False, True} and drawer.prompts.masks is not None
    columns, rows = signs[True].T.long().tolist()
    assert (labels[rows, columns] == 2).all() and max(columns) < 42, "on the object, away from the mistake"


class Asked:
    """Remembers what it was asked."""

    def embed(self, image):
        return image

    def predict(self, embedded, prompts):
        self.prompts = prompts
        return Instances.empty(prompts.image_size)


def test_nothing_to_scribble_on():
    with pytest.raises(UserError, match="no frame of bear has an object"):
        play(lambda *_: [], [np.zeros((4, 4), np.int64)], 3, "bear")


@pytest.fixture
def clips(tmp_path):
    for t, labels in enumerate(targets()):
        image = np.full((48, 72, 3), 90, np.uint8)
        image[labels == 1], image[labels == 5] = (220, 40, 40), (40, 40, 220)
        for folder, array in (("images", image), ("masks", labels.astype(np.uint8))):
            (tmp_path / folder / "squares").mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(tmp_path / folder / "squares" / f"{t:05d}.png")
    return tmp_path


def test_the_command(clips, capsys):
    out = clips / "out"
    words = ["evaluate", "memory", "--data", str(clips), "--prompts", "scribbles", "--rounds", "2", "--device", "cpu"]
    assert main([*words, "--precision", "fp32", "--out", str(out), "--fail-under", "J&F-last=0.6"]) == 0
    said = json.loads((out / "evaluation.json").read_text())["scribbles"]
    assert len(said["J&F"]) == 2 and 0 < said["J&F-AUC"] <= 1 and said["seconds"] > 0
    assert "squares" in (out / "report.html").read_text() and "J&F-last" in capsys.readouterr().out


def test_mistakes(clips, capsys):
    words = ["evaluate", "memory", "--prompts", "scribbles", "--data"]
    assert main([*words, str(clips / "nowhere")]) == 2 and "images/CLIP" in capsys.readouterr().err
    assert main([*words, str(clips), "--most", "3"]) == 2 and "--most" in capsys.readouterr().err
    assert main([*words, str(clips), "--rounds", "0"]) == 2 and "--rounds" in capsys.readouterr().err
    assert main(["evaluate", "clicks", "--prompts", "clicks", "--rounds", "3"]) == 2
    assert "--rounds" in capsys.readouterr().err
    assert main(["evaluate", "nuclei", "--prompts", "scribbles", "--data", str(clips)]) == 2
    assert "does not follow" in capsys.readouterr().err
    (clips / "masks/squares/00002.png").unlink()
    assert main([*words, str(clips)]) == 2 and "one label map per frame" in capsys.readouterr().err


def test_lists_of_a_split(clips):
    assert [one.name for one in annotated_clips(clips, "val")] == ["squares"]
    (clips / "ImageSets/2017").mkdir(parents=True)
    (clips / "ImageSets/2017/val.txt").write_text("bear\n")
    with pytest.raises(UserError, match="no clip in common"):
        annotated_clips(clips, "val")
