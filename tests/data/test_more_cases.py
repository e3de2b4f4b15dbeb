"""More of what other tools write: spellings of outlines, embedded images, clutter, and what is said of them."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from foreign_sets import OTHER, SIZE, SQUARE, coco, image, labels

from eachmask.cli.convert import summary
from eachmask.data import read
from eachmask.data.convert import convert
from eachmask.data.formats.coco_results import read_results

PAIRS = np.reshape(SQUARE, (-1, 2)).tolist()


@pytest.mark.parametrize("outline", [SQUARE, [PAIRS], PAIRS, [SQUARE], [[float(v) for v in SQUARE]], [SQUARE, []]])
def test_spellings_of_an_outline_are_one(tmp_path: Path, outline: Any) -> None:
    image(tmp_path / "a.png")
    path = coco(tmp_path / "instances_val.json", annotation={"segmentation": outline})
    data = read(tmp_path)
    assert data.splits["val"].targets(0).masks.area().tolist() == [225] and not data.problems
    rows = [{"image_id": 1, "category_id": 1, "segmentation": outline, "score": 0.9}]
    (tmp_path / "r.txt").write_text(json.dumps(rows))
    assert read_results(tmp_path / "r.txt", read(path).splits["val"]).instances[0].masks.area().tolist() == [225]


def test_of_odd_run_lengths_each_is_named(tmp_path: Path) -> None:
    odd: list[Any] = [
        {"size": [64, 48], "counts": [100, 10, 2962]},
        {"size": [48, 64], "counts": "b'123'"},
        {"size": [48, 64], "counts": [3072]},
        {"size": [48, 64], "counts": [100.5, 10, 2961.5]},
        {"size": [48, 64], "counts": [100, 10]},
        [[5, 5, 20, 5]],
        "m 5 5 l 20 5",
    ]
    rows = [{"id": i, "image_id": 1, "category_id": 1, "segmentation": s} for i, s in enumerate(odd, start=1)]
    rows.append({"id": 9, "image_id": 1, "category_id": 1, "segmentation": [[]], "bbox": [5, 5, 15, 15]})
    image(tmp_path / "a.png")
    coco(tmp_path / "instances_val.json", annotations=rows)
    data = read(tmp_path)
    assert data.splits["val"].targets(0).masks.area().tolist() == [225]
    named = {problem.annotation.split(" of ")[0] for problem in data.problems if problem.severity == "error"}
    assert named == {f"annotation {i}" for i in range(1, 8)}


def labelme(path: Path, **changes: Any) -> Path:
    shapes = [{"label": "nut", "points": PAIRS, "shape_type": "polygon"}]
    content = {"shapes": shapes, "imagePath": "..\\b.png", "imageHeight": 48, "imageWidth": 64}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content | changes))
    return path


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_images_inside_labelmes_files_are_read(tmp_path: Path, suffix: str) -> None:
    photo = image(tmp_path / f"photo{suffix}")
    text = base64.b64encode(photo.read_bytes()).decode()
    labelme(tmp_path / "set" / "a.json", imageData=text)
    data = read(tmp_path / "set")
    split = data.splits["all"]
    assert split.image(0).shape == (*SIZE, 3) and split.image(0).max() == 9 and split.names[0] == f"a{suffix}"
    (problem,) = data.problems
    assert problem.severity == "note" and "only inside the JSON files" in problem.what
    report = convert(tmp_path / "set", tmp_path / "coco", "coco")
    assert report.loss.exact and (tmp_path / f"coco/images/all/a{suffix}").read_bytes() == photo.read_bytes()
    assert not any("missing" in str(problem) for problem in report.problems)


def test_one_file_of_a_drawing_program_may_be_given(tmp_path: Path) -> None:
    image(tmp_path / "a.png")
    image(tmp_path / "b.png")
    labelme(tmp_path / "b.json")
    path = labelme(tmp_path / "a.json", imagePath="a.png")
    assert read(path).splits["all"].names[0] == "a.png" and len(read(path)) == 1
    for to in ("via", "label-studio", "datumaro"):
        convert(path, tmp_path / to, to)
        (file,) = (p for p in (tmp_path / to).rglob("*.json") if p.name not in ("convert-report.json", "classes.json"))
        assert len(read(file)) == 1 and labels(read(file)) == [["nut"]]


def test_a_file_beside_labelmes_goes_before_what_is_inside(tmp_path: Path) -> None:
    image(tmp_path / "a.png")
    labelme(tmp_path / "a.json", imageData="AAAA")
    data = read(tmp_path)
    assert data.splits["all"].path(0).name == "a.png" and not data.problems
    (tmp_path / "a.png").unlink()
    with pytest.raises(ValueError, match="a.json"):
        read(tmp_path).splits["all"].image(0)


def test_what_other_programs_leave_behind_is_skipped_and_counted(tmp_path: Path) -> None:
    for folder in (".", ".ipynb_checkpoints", "__MACOSX"):
        image(tmp_path / folder / "a.png")
        labelme(tmp_path / folder / "a.json")
    (tmp_path / "._a.json").write_bytes(b"\0\5\x16\7")
    (tmp_path / "Thumbs.db").write_bytes(b"x")
    data = read(tmp_path)
    assert len(data) == 1 and labels(data) == [["nut"]]
    (problem,) = data.problems
    assert problem.severity == "note" and problem.what.startswith("4 entries are hidden")


@pytest.mark.parametrize("name", ["instances_fold1", "instances_default", "instances_A b"])
def test_splits_of_any_name_come_back(tmp_path: Path, name: str) -> None:
    coco(tmp_path / "set" / f"{name}.json")
    image(tmp_path / "set" / "a.png")
    report = convert(tmp_path / "set", tmp_path / "again", "coco")
    assert report.loss.exact and set(read(tmp_path / "again").splits) == {
        name.removeprefix("instances_").replace(" ", "_")
    }


def test_a_conversion_never_praises_itself_above_a_list_of_losses(tmp_path: Path) -> None:
    image(tmp_path / "a" / "a.png")
    rows = [{"id": 1, "image_id": 1, "category_id": 1, "segmentation": [SQUARE]}]
    coco(tmp_path / "a" / "instances_val.json", annotations=[*rows, rows[0] | {"id": 2, "segmentation": [[1, 2]]}])
    text = summary(convert(tmp_path / "a", tmp_path / "b", "coco"))
    assert "what could not is named below" in text and "every object" not in text
    coco(tmp_path / "a" / "instances_val.json", annotations=[rows[0] | {"segmentation": [SQUARE, OTHER]}])
    text = summary(convert(tmp_path / "a", tmp_path / "c", "yolo"))
    assert "every object is read back as it was; what other programs may miss" in text


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
@pytest.mark.parametrize("to", ["cvat", "via", "label-studio", "qupath", "datumaro", "voc", "cityscapes", "mask-files"])
def test_every_text_file_may_have_a_mark_or_be_utf_16(tmp_path: Path, to: str, encoding: str) -> None:
    coco(tmp_path / "set" / "instances_train.json")
    image(tmp_path / "set" / "a.png")
    convert(tmp_path / "set", tmp_path / "made", to)
    for path in tmp_path.joinpath("made").rglob("*"):
        if path.suffix in (".json", ".geojson", ".txt", ".csv", ".xml", ".yaml"):
            text = path.read_text(encoding="utf-8")
            declared = "UTF-16" if encoding == "utf-16" else "UTF-8"
            path.write_bytes(re.sub("(?i)utf-8", declared, text).encode(encoding))
    assert labels(read(tmp_path / "made"), "train") == [["Zelle für Ü"]]
