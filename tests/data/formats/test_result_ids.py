"""Results that call images and categories otherwise than the annotations: matched, or noted with the likely cause."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from eachmask import UserError
from eachmask.data.formats.coco_read import read_coco
from eachmask.data.formats.coco_results import Results, read_results

RINGS = ([5, 5, 20, 5, 20, 20, 5, 20], [30, 10, 50, 10, 50, 30, 30, 30], [10, 30, 40, 30, 40, 45, 10, 45])


def results(folder: Path, names: list[str], ids: list[Any], called: list[Any], **changes: Any) -> Results:
    """Perfect results on three images of one object each, whose images are called otherwise."""
    images = [{"id": i, "file_name": n, "width": 64, "height": 48} for i, n in zip(ids, names, strict=True)]
    rows = [
        {"id": k, "image_id": i, "category_id": 1, "segmentation": [ring]}
        for k, (i, ring) in enumerate(zip(ids, RINGS, strict=True), start=1)
    ]
    content = {"images": images, "annotations": rows, "categories": [{"id": 1, "name": "Nut"}]}
    (folder / "i.json").write_text(json.dumps(content))
    found = [row | {"score": 0.9, "image_id": i} | changes for row, i in zip(rows, called, strict=True)]
    (folder / "r.json").write_text(json.dumps(found))
    return read_results(folder / "r.json", read_coco(folder / "i.json").splits["all"])


NAMES = ["v/f_01.jpg", "v/f_02.jpg", "v/f_03.jpg"]


@pytest.mark.parametrize(
    ("names", "called"),
    [
        (NAMES, ["f_01", "f_02", "f_03"]),
        (NAMES, NAMES),
        (NAMES, ["C:\\set\\F_01.png", "F_02", "F_03"]),
        (["f_01_jpg.rf.a1b2.jpg", "f_02_jpg.rf.0f.jpg", "f_03_jpg.rf.77.jpg"], ["f_01", "f_02", "f_03"]),
        (["a%20b.jpg", "c.jpg", "d.jpg"], ["a b", "c", "d"]),
        (["000000000139.jpg", "000000000285.jpg", "x_000000000632.jpg"], [139, 285, 632]),
        (
            ["000000000139.jpg", "000000000285.jpg", "000000000632.jpg"],
            ["000000000139", "000000000285", "000000000632"],
        ),
        (["v1.2/f.one.jpg", "f.two.jpg", "f.three.jpg"], ["f.one", "f.two", "f.three"]),
    ],
)
def test_names_of_files_are_matched(tmp_path: Path, names: list[str], called: list[Any]) -> None:
    found = results(tmp_path, names, [11, 12, 13], called)
    assert [len(own) for own in found.instances] == [1, 1, 1]
    assert [row["image_id"] for row in found.rows] == [11, 12, 13]
    (note,) = found.notes
    assert "matched by these" in note


@pytest.mark.parametrize("called", [["11", "12", "13"], [11.0, 12.0, 13.0], ["11.0", "12", 13]])
def test_numbers_as_text(tmp_path: Path, called: list[Any]) -> None:
    if "11.0" in called:
        with pytest.raises(UserError, match="has image_id 11.0, which the annotations do not know"):
            results(tmp_path, NAMES, [11, 12, 13], called)
        return
    found = results(tmp_path, NAMES, [11, 12, 13], called)
    assert [len(own) for own in found.instances] == [1, 1, 1] and not found.notes


@pytest.mark.parametrize(("called", "word"), [([0, 1, 2], "smaller"), ([2, 3, 4], "larger")])
def test_images_counted_from_another_number_are_noted(tmp_path: Path, called: list[int], word: str) -> None:
    found = results(tmp_path, NAMES, [1, 2, 3], called)
    assert sum(len(own) for own in found.instances) == 2
    assert f"image ids are {word} by one" in found.notes[0] and "without 1 results" in found.notes[0]


def test_results_on_the_objects_of_the_next_image_are_noted(tmp_path: Path) -> None:
    found = results(tmp_path, NAMES, [1, 2, 3], [2, 3, 2])  # all ids are there
    assert any("objects of the image before theirs" in note for note in found.notes)


def test_results_on_no_object_are_noted(tmp_path: Path) -> None:
    shares = [[0.1, 0.1, 0.9, 0.1, 0.9, 0.9, 0.1, 0.9]]
    found = results(tmp_path, NAMES, [1, 2, 3], [1, 2, 3], segmentation=[[55, 1, 63, 1, 63, 8, 55, 8]])
    assert "hardly a result lies on an annotated object" in found.notes[-1]
    found = results(tmp_path, NAMES, [1, 2, 3], [1, 2, 3], segmentation=shares)
    assert "shares of the image" in found.notes[-1]


@pytest.mark.parametrize("category", ["Nut", "nut", "1", 1.0])
def test_categories_by_name_or_as_text(tmp_path: Path, category: Any) -> None:
    found = results(tmp_path, NAMES, [1, 2, 3], [1, 2, 3], category_id=category)
    assert [own.label_names for own in found.instances] == [["Nut"]] * 3 and not found.notes


def test_what_cannot_be_matched_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="result 2 has image_id y, which the annotations do not know"):
        results(tmp_path, NAMES, [1, 2, 3], ["f_01", "y", "f_03"])
    with pytest.raises(UserError, match="has category_id bolt"):
        results(tmp_path, NAMES, [1, 2, 3], [1, 2, 3], category_id="bolt")


@pytest.mark.parametrize(
    "change", [{"image_id": None}, {"category_id": None, "category_name": "nut"}, {"score": "0.9"}]
)
def test_names_instead_of_ids_and_numbers_as_text(tmp_path: Path, change: dict[str, Any]) -> None:
    results(tmp_path, NAMES, [1, 2, 3], [1, 2, 3])
    rows = [
        row | change | {"file_name": f"f_0{row['image_id']}.jpg"}
        for row in json.loads((tmp_path / "r.json").read_text())
    ]
    rows = [{key: value for key, value in row.items() if value is not None} for row in rows]
    (tmp_path / "r.json").write_text(json.dumps(rows))
    found = read_results(tmp_path / "r.json", read_coco(tmp_path / "i.json").splits["all"])
    assert [len(own) for own in found.instances] == [1, 1, 1]


def test_zeros_before_an_id(tmp_path: Path) -> None:
    found = results(tmp_path, ["a.jpg", "b.jpg", "c.jpg"], [1, 2, 13], ["0001", "0002", "0013"])
    assert [len(own) for own in found.instances] == [1, 1, 1] and not found.notes


@pytest.mark.parametrize(
    ("rows", "word"),
    [
        ([], "the file holds no results"),
        (
            [{"image_id": i, "category_id": 1, "bbox": [30, 20, 50, 40], "score": 0.9} for i in (1, 2)],
            "2 of 2 boxes leave",
        ),
    ],
)
def test_what_makes_ap_low_is_noted(tmp_path: Path, rows: list[Any], word: str) -> None:
    results(tmp_path, NAMES, [1, 2, 3], [1, 2, 3])
    (tmp_path / "r.json").write_text(json.dumps(rows))
    notes = read_results(tmp_path / "r.json", read_coco(tmp_path / "i.json").splits["all"]).notes
    assert any(word in note for note in notes)


def test_classes_in_another_order_are_no_shift(tmp_path: Path) -> None:
    """Of two classes, one for the other: a shift by one would not match."""
    results(tmp_path, NAMES, [1, 2, 3], [1, 2, 3])
    content = json.loads((tmp_path / "i.json").read_text())
    content["categories"].append({"id": 2, "name": "Bolt"})
    content["annotations"][1]["category_id"] = 2
    rows = [row | {"category_id": 3 - row["category_id"], "score": 0.9} for row in content["annotations"]]
    (tmp_path / "i.json").write_text(json.dumps(content))
    (tmp_path / "r.json").write_text(json.dumps(rows))
    notes = read_results(tmp_path / "r.json", read_coco(tmp_path / "i.json").splits["all"]).notes
    assert notes == [
        "most results lie on objects of another class, as those called 'Bolt' on 'Nut': check the order of the classes"
    ]
