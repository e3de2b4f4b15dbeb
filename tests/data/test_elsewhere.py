"""Images that are not in the data set's folder: with the folder that the user names, of a results folder, or not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from foreign_sets import coco, image
from PIL import Image
from tiny_model import Spots, spots_image, spots_info

from eachmask import UserError
from eachmask.batch.options import BatchOptions
from eachmask.batch.run import run
from eachmask.cli import main
from eachmask.data import read
from eachmask.data.convert import convert
from eachmask.data.images.inputs import find_inputs
from eachmask.data.reading import read_any
from eachmask.inference.predictor import Predictor

LINE = "0 0.1 0.1 0.5 0.1 0.5 0.5\n"
FORMATS = (
    "coco", "yolo", "voc", "cityscapes", "labelme", "cvat", "datumaro", "label-maps", "via", "label-studio", "qupath",
    "imagej", "cellpose", "cvppp",
)  # fmt: skip


@pytest.mark.parametrize("to", FORMATS)
def test_every_format_takes_a_folder_of_images(tmp_path: Path, to: str) -> None:
    coco(tmp_path / "set" / "instances_train.json", "sub/a.png")
    image(tmp_path / "set" / "images" / "sub" / "a.png")
    convert(tmp_path / "set", tmp_path / "made", to)
    (photo,) = (p for p in (tmp_path / "made").rglob("*a*.png") if p.stat().st_size == _size(tmp_path))
    (tmp_path / "photos").mkdir()
    shutil.move(photo, tmp_path / "photos" / photo.name)
    data = read(tmp_path / "made", to, images=tmp_path / "photos")
    (split,) = data.splits.values()
    assert split.path(0) == tmp_path / "photos" / photo.name and split.num_objects_of(0) == 1, data.problems
    assert not any(problem.severity == "error" for problem in data.problems), data.problems
    with pytest.raises(UserError, match="--images"):
        read(tmp_path / "made", to, images=tmp_path / "nowhere")


def _size(folder: Path) -> int:
    return (folder / "set" / "images" / "sub" / "a.png").stat().st_size


def yolo(folder: Path, text: str) -> None:
    folder.mkdir(parents=True)
    (folder / "data.yaml").write_text(f"{text}\nnames: [nut]\n")
    (folder / "labels" / "train").mkdir(parents=True)
    (folder / "labels" / "train" / "a.txt").write_text(LINE)


@pytest.mark.parametrize("kind", ["folder", "list", "path"])
def test_yolo_opens_nothing_outside_its_folder(tmp_path: Path, kind: str) -> None:
    outside = image(tmp_path / "elsewhere" / "a.png").parent
    texts = {"folder": f"train: {outside}", "list": "train: train.txt", "path": f"path: {outside}\ntrain: ."}
    yolo(tmp_path / "set", texts[kind])
    if kind == "list":
        (tmp_path / "set" / "train.txt").write_text(f"{outside}/a.png\n")
    with pytest.raises(UserError, match="--images" if kind != "list" else "usable image|no folder of images"):
        read(tmp_path / "set")
    data = read(tmp_path / "set", images=outside)
    assert data.splits["train"].path(0).resolve() == (outside / "a.png").resolve() and len(data.splits["train"].labels)


def test_yolos_paths_of_another_computer_are_said(tmp_path: Path) -> None:
    yolo(tmp_path / "set", "train: D:\\sets\\nuts\\images\\train\nval: /home/anna/val/images")
    image(tmp_path / "set" / "images" / "train" / "a.png")
    data = read(tmp_path / "set")
    assert set(data.splits) == {"train"}  # images/ is not val/images
    notes = [str(problem) for problem in data.problems if problem.severity == "note"]
    assert len(notes) == 1 and "is read instead" in notes[0]


def test_names_of_coco_are_looked_for_in_the_users_folder(tmp_path: Path) -> None:
    path = coco(tmp_path / "set" / "result.json", "..\\..\\upload\\a%20b.png")
    place = image(tmp_path / "photos" / "deep" / "a b.png")
    data, _ = read_any(path, images=tmp_path / "photos")
    assert data.splits["all"].path(0) == place


@pytest.mark.parametrize("to", ["cvat", "label-studio", "labelme"])
def test_predictions_go_to_correction_by_one_command(
    tmp_path: Path, to: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed, name in enumerate(("a.png", "sub/b.png")):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(spots_image(seed)).save(path)
    predictor = Predictor(Spots(), spots_info())
    run(predictor, find_inputs([tmp_path / "photos"]), tmp_path / "results", BatchOptions(overlays=False))
    rows = json.loads((tmp_path / "results" / "predictions.json").read_text())["annotations"]
    assert main(["convert", str(tmp_path / "results"), str(tmp_path / to), "--to", to]) == 0
    printed = capsys.readouterr().out
    assert "where they were predicted" in printed and f"{len(rows)} of {len(rows)}" in printed
    data = read(tmp_path / to)
    assert len(rows) and all(image.path.is_file() for _, image in data.images())
    scores = sorted(score for _, image in data.images() for score in image.scores if score is not None)
    assert scores == pytest.approx(sorted(row["score"] for row in rows), abs=1e-5)


@pytest.mark.parametrize("to", ["via", "qupath", "label-maps", "labelme"])
def test_what_is_measured_may_have_its_images_elsewhere(tmp_path: Path, to: str) -> None:
    from eachmask.evaluation.source import open_source

    coco(tmp_path / "set" / "instances_val.json")
    image(tmp_path / "set" / "a.png")
    convert(tmp_path / "set", tmp_path / "made", to)
    (tmp_path / "photos").mkdir()
    shutil.move(next((tmp_path / "made").rglob("a.png")) if to != "label-maps" else tmp_path / "made/images/val/a.png",
                tmp_path / "photos" / "a.png")  # fmt: skip
    source = open_source(tmp_path / "made", "val", tmp_path / "photos", None, lambda sentence: None)
    assert source.samples[0].image.shape == (48, 64, 3) and len(source.samples.targets(0)) == 1
