"""``eachmask label``: what it writes, how it resumes, and that nothing of what people did is lost."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.measure import label as connected

from eachmask.batch.corrected import OwnFiles
from eachmask.batch.label import DATA, LabelSummary, label_images, said
from eachmask.batch.label_queue import CSV, PAGE, Answers
from eachmask.cli import main
from eachmask.data.images.inputs import find_inputs
from eachmask.data.reading import read
from eachmask.inference.labeling import Labeled, Proposals, Rules, judged
from eachmask.structures import RLE, Category, Instances, UserError


class Squares:
    """A labeler: bright squares are objects, the brighter the surer."""

    class drawer:  # noqa: N801 - stands for an object
        fingerprint = "squares"

    detector, name, rules = None, "square", Rules(iou=0.8, stability=0.0, slack=0.5)
    categories = (Category(1, "square"),)

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, image: np.ndarray, classes: tuple[str, ...] = ()) -> Labeled:
        self.asked += 1
        time.sleep(float(os.environ.get("SQUARES_SECONDS", "0")))
        masks = RLE.from_label_map(connected(image[..., 0] > 50))
        scores = [image[y, x, 0] / 255 for x, y in masks.boxes()[:, :2].astype(int)]
        boxes = torch.from_numpy(masks.boxes())
        found = Instances(masks.size, boxes, masks, scores=torch.tensor(scores), categories=self.categories)
        return judged(Proposals(found, np.ones(len(found)), np.ones(len(found))), self.rules)


def draw_squares(folder: Path, number: int = 3, first: int = 0) -> None:
    """Of each image one sure square and two doubtful ones."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(first, first + number):
        image = np.zeros((40, 60, 3), np.uint8)
        image[4:14, 4 + i : 16 + i], image[20:34, 10:22], image[20:30, 40:52] = 250, 150, 120 + i
        Image.fromarray(image).save(folder / f"image{i}.png")


def run(images: Path, out: Path, to: str = "coco", labeler: Any = None, **more: Any) -> LabelSummary:
    return label_images(labeler or Squares(), find_inputs([images], exclude=out), out, to, **more)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    draw_squares(tmp_path / "in")
    return tmp_path / "in"


def annotated(out: Path) -> dict[str, int]:
    split = read(out / DATA).splits["train"]
    return {split.names[i]: split.num_objects_of(i) for i in range(len(split))}


def queue(out: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((out / CSV).read_text().splitlines()))


@pytest.mark.parametrize("text", ["[]", "{", '{"a": 1}', "[" * 100_000, "1" * 5_000])
def test_damaged_answers_are_one_sentence(text: str, tmp_path: Path):
    (tmp_path / "answers.json").write_text(text)
    with pytest.raises(UserError, match=r"answers\.json"):
        Answers(tmp_path / "answers.json", {})


@pytest.mark.parametrize("line", ["[" * 100_000, "[[1], 2, 3]", '["a", {}, true]', "3"])
def test_damaged_notes_of_what_was_written_are_passed_over(line: str, tmp_path: Path):
    (tmp_path / "notes").write_text(f'["a.json", "0", true]\n{line}\n')
    assert OwnFiles(tmp_path, tmp_path / "notes").placed == {"a.json"}


@pytest.mark.parametrize("to", ["coco", "labelme", "yolo", "voc", "cvat", "label-maps"])
def test_the_sure_are_annotated_and_the_rest_is_a_queue(images: Path, tmp_path: Path, to: str):
    out = tmp_path / "out"
    summary = run(images, out, to)
    assert annotated(out) == {"image0.png": 1, "image1.png": 1, "image2.png": 1}
    assert (summary.kept, summary.queued) == (3, 6)
    doubts = [float(row["doubt"]) for row in queue(out)]
    assert len(doubts) == 6 and doubts == sorted(doubts, reverse=True)
    assert (out / PAGE).read_text().count("<figure") == 6


def test_answers_move_objects_out_of_the_queue(images: Path, tmp_path: Path):
    out = tmp_path / "out"
    run(images, out)
    rows = queue(out)
    rows[0]["keep"], rows[1]["keep"] = "yes", "no"
    with open(out / CSV, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    labeler = Squares()
    summary = run(images, out, labeler=labeler)
    assert labeler.asked == 0 and (summary.kept, summary.queued, summary.answered) == (4, 4, 2)
    assert annotated(out)[rows[0]["image"]] == 2
    summary = run(images, out)  # answers are remembered
    assert (summary.kept, summary.queued, summary.answered) == (4, 4, 0)


def test_an_answer_that_is_none_is_a_sentence(images: Path, tmp_path: Path):
    out = tmp_path / "out"
    run(images, out)
    (out / CSV).write_text((out / CSV).read_text().replace("\n,", "\nperhaps,", 1))
    with pytest.raises(UserError, match=r"line 2: keep must be yes, no or empty, not 'perhaps'"):
        run(images, out)
    (out / CSV).write_text("a;b\n")
    with pytest.raises(UserError, match="no column keep"):
        run(images, out)


def test_a_corrected_file_is_never_written_again(images: Path, tmp_path: Path):
    out = tmp_path / "out"
    run(images, out, "labelme")
    page, gone = out / DATA / "train/image1.json", out / DATA / "train/image2.json"
    content = json.loads(page.read_text())
    content["shapes"] = []
    page.write_text(json.dumps(content))
    gone.unlink()
    draw_squares(images, 1, first=3)
    for again in (False, True):  # also where everything is labeled anew
        summary = run(images, out, "labelme", overwrite=again)
        assert json.loads(page.read_text())["shapes"] == [] and not gone.exists()
        assert (out / DATA / "train/image3.json").is_file()
        assert summary.files.corrected == [f"{DATA}/train/image1.json"] and not summary.files.beside
        assert summary.files.removed == [f"{DATA}/train/image2.json"]
        text = "\n".join(said(summary, out))
        assert "1 file left as somebody made it: data/train/image1.json" in text
        assert "1 file removed by somebody, and stays away: data/train/image2.json" in text


def test_what_is_new_for_a_corrected_file_lies_beside_it(images: Path, tmp_path: Path):
    out = tmp_path / "out"
    run(images, out, "coco")
    file = out / DATA / "instances_train.json"
    content = json.loads(file.read_text())
    content["annotations"].pop()
    file.unlink()  # its other name, annotations/instances_train.json, is the same file
    file.write_text(json.dumps(content))
    mine = file.read_bytes()
    draw_squares(images, 1, first=3)
    summary = run(images, out, "coco")
    assert file.read_bytes() == mine and summary.files.beside == [f"{DATA}/instances_train.json"]
    assert len(json.loads((out / "new/data/instances_train.json").read_text())["annotations"]) == 4
    assert any("what this run would have written there is in" in line for line in said(summary, out))


def test_other_rules_want_another_folder_or_a_word(images: Path, tmp_path: Path):
    out = tmp_path / "out"
    run(images, out)
    other = Squares()
    other.rules = Rules(iou=0.5, stability=0.0)
    with pytest.raises(UserError, match="rule iou was 0.8 and is 0.5"):
        run(images, out, labeler=other)
    assert run(images, out, labeler=other, overwrite=True).kept > 3


def test_a_broken_image_is_named_and_passed_over(images: Path, tmp_path: Path):
    (images / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n but no more")
    summary = run(images, tmp_path / "out")
    assert list(summary.failed) == ["broken.png"] and summary.kept == 3


def test_a_killed_run_resumes(tmp_path: Path):
    images, out = tmp_path / "in", tmp_path / "out"
    draw_squares(images, 8)
    words = [sys.executable, __file__, str(images), str(out)]
    process = subprocess.Popen(words, env=os.environ | {"SQUARES_SECONDS": "0.3"})
    records = out / ".journal/records.jsonl"
    while process.poll() is None and (not records.exists() or records.read_bytes().count(b"\n") < 2):
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    labeler = Squares()
    summary = run(images, out, labeler=labeler)
    assert summary.resumed >= 2 and labeler.asked == 8 - summary.resumed
    run(images, tmp_path / "whole")
    for name in ("data/instances_train.json", CSV):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_kill_while_files_are_placed_makes_none_of_them_a_persons(tmp_path: Path):
    """As if the process had ended after the first note, and after the file had got its name."""
    root, notes = tmp_path / "out", tmp_path / "notes"

    def fresh(text: str) -> Path:
        folder = tmp_path / "fresh"
        folder.mkdir(exist_ok=True)
        (folder / "a.txt").write_text(text)
        return folder

    OwnFiles(root, notes).put(fresh("one"), "data")
    OwnFiles(root, notes).put(fresh("two"), "data")
    with open(notes, "ab") as file:
        file.write(b"\n[torn")
    for there in ("one", "two"):
        (root / "data/a.txt").write_text(there)
        assert OwnFiles(root, notes).put(fresh("three"), "data").corrected == []
    first, _, _ = notes.read_bytes().strip().partition(b"\n")
    notes.write_bytes(first)  # killed before the first file had its name: it was not removed by a person
    (root / "data/a.txt").unlink()
    assert OwnFiles(root, notes).put(fresh("one"), "data").written == ["data/a.txt"]
    (root / "data/a.txt").write_text("by hand")
    assert OwnFiles(root, notes).put(fresh("three"), "data").corrected == ["data/a.txt"]
    assert (root / "data/a.txt").read_text() == "by hand"


def test_the_command(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("eachmask.cli.label.labeler_of", lambda options: Squares())
    words = ["label", str(images), "--out", str(tmp_path / "out"), "--format", "yolo"]
    assert main(words) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "3 images: 3 objects annotated in" in out and "6 objects to be reviewed, the most doubtful first" in out


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--format", "paper"], "paper"),
        (["--classes", "car"], "--classes are those of a detector"),
        (["--draw", "nuclei"], "nuclei takes no prompts"),
        (["--draw", "graph_cut"], "finds nothing by itself"),
        (["--iou", "7", "--draw", "graph_cut"], "iou"),
        (["--model", "nuclei", "--points-per-side", "8"], "--points-per-side is of a grid"),
    ],
)
def test_mistakes_are_sentences(images: Path, more: list[str], sentence: str, capsys: pytest.CaptureFixture[str]):
    assert main(["label", str(images), "--device", "cpu", *more]) == 2
    assert sentence in " ".join(capsys.readouterr().err.split())


if __name__ == "__main__":
    run(Path(sys.argv[1]), Path(sys.argv[2]))
