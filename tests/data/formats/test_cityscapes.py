from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
from small_sets import built, make_set

from eachmask.data.compare import compare
from eachmask.data.formats.cityscapes import read_cityscapes, write_cityscapes
from eachmask.data.targets import instances_of
from eachmask.structures import RLE, Category


def test_holes_parts_and_crowds_come_back(tmp_path: Path) -> None:
    data = make_set(tmp_path / "images", crowd=True)
    write_cityscapes(tmp_path / "city", data)
    again = read_cityscapes(tmp_path / "city")
    assert compare(data, again)[0].exact
    assert again.categories == data.categories


def test_numbers_are_class_times_thousand(tmp_path: Path) -> None:
    write_cityscapes(tmp_path / "city", make_set(tmp_path / "images", crowd=True))
    file = tmp_path / "city/gtFine/train/city/a_gtFine_instanceIds.png"
    pixels = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
    assert pixels.dtype == np.uint16
    assert set(np.unique(pixels)) == {0, 3000, 3001, 7000, 40}


def test_official_files_scenery_left_out_groups_are_crowds(tmp_path: Path) -> None:
    folder = tmp_path / "gtFine/val/lund"
    folder.mkdir(parents=True)
    pixels = np.full((10, 20), 7, np.uint16)
    pixels[2:5, 2:6], pixels[6:9, 2:6], pixels[2:5, 10:14] = 26000, 26001, 24
    cv2.imwrite(str(folder / "lund_000000_000019_gtFine_instanceIds.png"), pixels)
    (image,) = read_cityscapes(tmp_path).splits["val"].images()
    assert image.targets.label_names == ["person", "car", "car"]
    assert image.targets.crowd is not None
    assert image.targets.crowd.tolist() == [True, False, False]
    assert image.name == "lund/lund_000000_000019.png"


def test_images_where_cvat_puts_them(tmp_path: Path) -> None:
    write_cityscapes(tmp_path, make_set(tmp_path / "images"))
    (tmp_path / "imgsFine").mkdir()
    (tmp_path / "leftImg8bit").rename(tmp_path / "imgsFine/leftImg8bit")
    split = read_cityscapes(tmp_path).splits["train"]
    assert all(split.path(i).is_file() for i in range(len(split)))


def test_polygons_where_there_are_no_numbers_later_ones_in_front(tmp_path: Path) -> None:
    folder = tmp_path / "gtFine/val/lund"
    folder.mkdir(parents=True)
    objects = [
        {"label": "road", "polygon": [[0, 0], [20, 0], [20, 10], [0, 10]]},
        {"label": "car", "polygon": [[2, 2], [12, 2], [12, 8], [2, 8]]},
        {"label": "persongroup", "polygon": [[4, 2], [8, 2], [8, 8], [4, 8]]},
        {"label": "car", "polygon": [[1, 1], ["x", 2]]},
    ]
    content = {"imgHeight": 10, "imgWidth": 20, "objects": objects}
    (folder / "a_gtFine_polygons.json").write_text(json.dumps(content))
    data = read_cityscapes(tmp_path)
    targets = data.splits["val"].images()[0].targets
    assert targets.masks is not None and targets.crowd is not None
    assert dict(zip(targets.label_names, targets.masks.area().tolist(), strict=True)) == {"car": 36, "person": 24}
    assert targets.crowd.tolist() == [False, True]
    assert "object 4" in str(data.problems[0])


def test_license_plates_and_deleted_outlines_hide_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "gtFine/val/lund"
    folder.mkdir(parents=True)
    car = {"label": "car", "polygon": [[2, 2], [12, 2], [12, 8], [2, 8]]}
    plate = {"label": "license plate", "polygon": [[4, 4], [6, 4], [6, 6], [4, 6]]}
    content = {"imgHeight": 10, "imgWidth": 20, "objects": [car, plate, {**plate, "label": "person", "deleted": 1}]}
    (folder / "a_gtFine_polygons.json").write_text(json.dumps(content))
    data = read_cityscapes(tmp_path)
    targets = data.splits["val"].images()[0].targets
    assert targets.label_names == ["car"] and targets.masks is not None
    assert targets.masks.area().tolist() == [60] and data.problems == []


def test_outlines_that_cannot_be_read_hide_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "gtFine/val/lund"
    folder.mkdir(parents=True)
    car = {"label": "car", "polygon": [[2, 2], [12, 2], [12, 8], [2, 8]]}
    bad = [{"polygon": car["polygon"]}, {"label": "person", "polygon": [[0, 0], [20, 0], [20, 1e9]]}]
    for name, objects in (("a", [car, *bad]), ("b", [])):
        content = {"imgHeight": 10, "imgWidth": 20, "objects": objects}
        (folder / f"{name}_gtFine_polygons.json").write_text(json.dumps(content))
    data = read_cityscapes(tmp_path)
    first, second = (image.targets for image in data.splits["val"].images())
    assert first.masks is not None and first.masks.area().tolist() == [60] and not len(second)
    assert [problem.annotation for problem in data.problems] == ["object 2", "object 3"]


def test_outlines_of_objects_that_leave_the_image_are_named(tmp_path: Path) -> None:
    folder = tmp_path / "gtFine/val/lund"
    folder.mkdir(parents=True)
    beyond = [[2, 2], [40, 2], [40, 8], [2, 8]]
    content = {
        "imgHeight": 10,
        "imgWidth": 20,
        "objects": [{"label": name, "polygon": beyond} for name in ("sky", "car")],
    }
    (folder / "a_gtFine_polygons.json").write_text(json.dumps(content))
    (problem,) = read_cityscapes(tmp_path).problems
    assert problem.annotation == "object 2" and problem.kind == "outside" and problem.severity == "warning"


def test_objects_beyond_the_thousandth_are_told(tmp_path: Path) -> None:
    numbers = np.arange(1, 1021).reshape(30, 34)
    categories = (Category(90, "pixel"),)
    targets = instances_of(RLE.from_label_map(numbers), [0] * 1020, [False] * 1020, categories)
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((30, 34, 3), np.uint8))
    data = built(categories, {"train": [("a.png", tmp_path / "a.png", targets)]})
    notes = write_cityscapes(tmp_path / "city", data)
    loss = compare(data, read_cityscapes(tmp_path / "city"))[0]
    assert any(note.startswith("20 objects") for note in notes)
    assert loss.objects_missing == 20 and loss.objects_changed == 0
