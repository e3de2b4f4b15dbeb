"""Results of any tool: what is read, what is refused in a sentence, and whose image is whose."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import eachmask
from eachmask.data import Split
from eachmask.data.formats.coco_read import read_coco
from eachmask.data.formats.coco_results import Results, read_results
from eachmask.structures import UserError

BOX = [3, 2, 6, 5]
GOOD = {"image_id": 5, "category_id": 3, "bbox": BOX, "score": 0.5}


@pytest.fixture
def data(tmp_path: Path) -> Split:
    images = [{"id": i, "file_name": name, "width": 30, "height": 20} for i, name in ((7, "x/a.png"), (5, "x/b.png"))]
    categories = [{"id": 90, "name": "cat"}, {"id": 3, "name": "Car"}]
    (tmp_path / "i.json").write_text(json.dumps({"images": images, "annotations": [], "categories": categories}))
    return read_coco(tmp_path / "i.json", images=tmp_path).splits["all"]


def _read(data: Split, content: Any) -> Results:
    path = data.path(0).parent.parent / "r.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return read_results(path, data)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"image_id": 6}, "image_id 6, which the annotations do not know"),
        ({"image_id": None}, "no image_id"),
        ({"image_id": [5]}, r"image_id \[5\]"),
        ({"image_id": 10**30}, "image_id 1000"),
        ({"category_id": 4}, "category_id 4, which the annotations do not know"),
        ({"category_id": {}}, "category_id {}"),
        ({"score": None}, "the score None: it must be a finite number"),
        ({"score": "high"}, "the score high"),
        ({"score": float("nan")}, "the score nan"),
        ({"score": float("inf")}, "the score inf"),
        ({"bbox": [1, 2, 3]}, r"the bbox \[1, 2, 3\]: it must be x, y, width and height"),
        ({"bbox": ["a", 1, 2, 3]}, "the bbox"),
        ({"bbox": [1, 2, float("nan"), 3]}, "the bbox"),
        ({"bbox": [9, 9, -3, 4]}, "the bbox"),
        ({"bbox": None}, "neither a segmentation nor a bbox nor keypoints"),
    ],
)
def test_what_cannot_be_measured_is_named(data: Split, change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=f"r.json: result 2 has {sentence}"):
        _read(data, [GOOD, GOOD | change])


def test_broken_segmentations_are_named_by_their_number(data: Split) -> None:
    with pytest.raises(UserError, match=r"r.json: the segmentation of result 2 of x/b.png cannot be read"):
        _read(data, [GOOD, GOOD | {"segmentation": "none"}])


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("", "is not valid JSON"),
        ('[{"image_id": 1,', "is not valid JSON"),
        ("null", "no COCO results file"),
        ("[1]", "result 1 is no object"),
        ('[{"image_id": 5, "category_id": 3, "bbox": [1, 1, 2, 2]}]', "results need a score each"),
        ('{"annotations": [], "images": [3]}', "each image needs an id and a file_name"),
        ('{"annotations": [], "categories": [3]}', "each category needs an id and a name"),
        ('{"annotations": [], "categories": [{"id": 1, "name": null}]}', "each category needs an id and a name"),
    ],
)
def test_what_is_no_results_file(data: Split, content: str, sentence: str) -> None:
    with pytest.raises(UserError, match=f"r.json.*{sentence}"):
        _read(data, content)


def test_numbers_as_other_languages_write_them(data: Split) -> None:
    found = _read(data, [GOOD | {"image_id": 5.0, "category_id": 3.0, "id": "x", "area": None, "segmentation": []}])
    assert found.rows == [{"id": 1, "image_id": 5, "category_id": 3, "score": 0.5, "bbox": BOX}]
    assert [len(one) for one in found.instances] == [0, 1]
    assert all(type(found.rows[0][key]) is int for key in ("image_id", "category_id"))


def test_files_that_name_their_images_are_matched_by_name(data: Split) -> None:
    """As of ``eachmask predict``: image 5 of the file is not the data's image 5."""
    images = [{"id": 5, "file_name": "a.png"}, {"id": 6, "file_name": "b.png"}, {"id": 7, "file_name": "c.png"}]
    categories = [{"id": 3, "name": "cat"}, {"id": 4, "name": "car"}, {"id": 5, "name": "tree"}]
    rows = [GOOD, GOOD | {"image_id": 6, "category_id": 4}, GOOD | {"image_id": 7}, GOOD | {"category_id": 5}]
    found = _read(data, {"images": images, "categories": categories, "annotations": rows})
    assert [(row["image_id"], row["category_id"]) for row in found.rows] == [(7, 90), (5, 3)]
    assert [one.label_names for one in found.instances] == [["cat"], ["Car"]]
    assert found.notes[0] == "1 images of the results are not annotated: left out"
    assert "1 results of classes that are not annotated: left out" in found.notes
    few = _read(data, {"images": images[1:2], "annotations": []})
    assert few.notes == ["1 annotated images are not in the results: all their objects count as missed"]
    with pytest.raises(UserError, match="of other images than"):
        _read(data, {"images": images[2:], "annotations": []})


def test_folders_tell_apart_what_has_one_name(data: Split) -> None:
    images = [{"id": 1, "file_name": "y/a.png"}, {"id": 2, "file_name": "x/a.png"}]
    found = _read(data, {"images": images, "annotations": [GOOD | {"image_id": 1}, GOOD | {"image_id": 2}]})
    assert [row["image_id"] for row in found.rows] == [7] and found.rows[0]["id"] == 2


def test_keypoints_alone_have_the_box_around_them(data: Split) -> None:
    row = {"image_id": 5, "category_id": 3, "score": 0.5, "keypoints": [4, 3, 2, 10, 9, 2, 6, 5, 1]}
    found = _read(data, [row])
    boxes = [image.boxes.tolist() for image in found.instances if len(image)]
    assert boxes == [[[4, 3, 10, 9]]]
    assert "bbox" not in found.rows[0] and any("keypoints alone" in note for note in found.notes)
    for points in ([1, 2], ["a", 1, 2], [1, 2, float("nan")]):
        with pytest.raises(UserError, match="result 1 has keypoints that are not x, y and visibility"):
            _read(data, [row | {"keypoints": points}])


def test_keypoints_alone_are_measured_as_keypoints(tmp_path: Path) -> None:
    points = [v for i in range(17) for v in (5 + 2 * i, 4 + i, 2)]
    person = {"id": 1, "name": "person", "keypoints": [f"k{i}" for i in range(17)], "skeleton": []}
    annotation = {
        "id": 1, "image_id": 1, "category_id": 1, "bbox": [2, 2, 40, 20], "area": 600.0, "iscrowd": 0,
        "segmentation": [[2, 2, 42, 2, 42, 22, 2, 22]], "keypoints": points, "num_keypoints": 17,
    }  # fmt: skip
    images = [{"id": 1, "file_name": "a.png", "width": 60, "height": 40}]
    content = {"images": images, "annotations": [annotation], "categories": [person]}
    (tmp_path / "i.json").write_text(json.dumps(content))
    (tmp_path / "images").mkdir()
    rows = [{"image_id": 1, "category_id": 1, "score": 0.9, "keypoints": points}]
    (tmp_path / "r.json").write_text(json.dumps(rows))
    found = eachmask.evaluate(tmp_path / "r.json", tmp_path / "i.json", resamples=0, boundary=False)
    assert found.value("keypoints.ap") == pytest.approx(1.0)
    with pytest.raises(UserError):
        found.value("bbox.ap")
