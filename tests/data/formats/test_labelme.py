from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from small_sets import make_set

from eachmask.data.compare import compare
from eachmask.data.formats.labelme import read_labelme, write_labelme
from eachmask.data.reading import read_any
from eachmask.structures import UserError


def test_everything_comes_back(tmp_path: Path) -> None:
    data = make_set(tmp_path / "images", overlapping=True, crowd=True)
    assert write_labelme(tmp_path / "out", data) == []
    again = read_labelme(tmp_path / "out")
    assert compare(data, again)[0].exact
    assert again.categories == data.categories


def test_simple_objects_stay_editable_polygons(tmp_path: Path) -> None:
    write_labelme(tmp_path / "out", make_set(tmp_path / "images"))
    content = json.loads((tmp_path / "out/train/a.json").read_text())
    assert [shape["shape_type"] for shape in content["shapes"]] == ["polygon", "mask", "mask", "polygon"]
    assert (
        content["shapes"][0]["points"] == [[3, 2], [3, 10], [14, 10], [14, 2]]
        or len(content["shapes"][0]["points"]) == 4
    )
    assert content["imagePath"] == "a.png"
    (x1, y1), (x2, y2) = content["shapes"][1]["points"]
    assert (x1, y1, x2, y2) == (4, 12, 29, 35)  # both corners inside


def _file(folder: Path, shapes: list[dict[str, object]], **changes: object) -> None:
    content = {"shapes": shapes, "imagePath": "a.jpg", "imageHeight": 40, "imageWidth": 60} | changes
    (folder / "a.json").write_text(json.dumps(content))


def test_rectangles_circles_and_groups_are_read(tmp_path: Path) -> None:
    rectangle = {"label": "box", "shape_type": "rectangle", "points": [[20, 30], [10, 10]]}
    circle = {"label": "disc", "shape_type": "circle", "points": [[40, 20], [50, 20]]}
    parts = [
        {"label": "box", "shape_type": "polygon", "points": p, "group_id": 5}
        for p in ([[0, 0], [5, 0], [5, 5], [0, 5]], [[50, 0], [60, 0], [60, 5], [50, 5]])
    ]
    _file(tmp_path, [rectangle, circle, *parts])
    targets = read_labelme(tmp_path).splits["all"].images()[0].targets
    assert targets.masks is not None
    assert targets.label_names == ["box", "disc", "box"]
    area = targets.masks.area()
    assert area[0] == 200 and area[2] == 75
    assert area[1] == pytest.approx(np.pi * 100, rel=0.05)


def test_bad_shapes_are_named_and_the_rest_is_read(tmp_path: Path) -> None:
    good = {"label": "a", "shape_type": "polygon", "points": [[0, 0], [9, 0], [9, 9]]}
    bad = [
        {"label": "a", "shape_type": "line", "points": [[0, 0], [9, 0]]},
        {"label": "a", "shape_type": "polygon", "points": [[0, 0], [9, 0]]},
        {"label": "a", "shape_type": "mask", "points": [[0, 0], [1, 1]], "mask": "%%%"},
        {"shape_type": "polygon", "points": [[0, 0], [9, 0], [9, 9]]},
        {"label": "b", "shape_type": "polygon", "points": [[0, 0], [9, 0], [9, 1e9]]},
    ]
    _file(tmp_path, [*bad, good])
    data = read_labelme(tmp_path)
    assert data.splits["all"].images()[0].targets.label_names == ["a"]
    assert [p.annotation for p in data.problems] == [f"shape {i}" for i in (1, 2, 3, 4, 5)]
    assert "cannot belong to an image" in str(data.problems[4])


def test_points_and_lines_are_counted_and_are_no_mistakes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        cv2.imwrite(str(tmp_path / f"{name}.png"), np.zeros((20, 30, 3), np.uint8))
        shapes = [{"label": "nut", "shape_type": "rectangle", "points": [[1, 1], [9, 9]]}]
        shapes += [{"label": "mark", "shape_type": "point", "points": [[3, 3]]}] * 2
        shapes += [{"label": "axis", "shape_type": "line", "points": [[3, 3], [9, 3]]}]
        content = {"shapes": shapes, "imagePath": f"{name}.png", "imageHeight": 20, "imageWidth": 30}
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    data, _ = read_any(tmp_path)
    assert [c.name for c in data.categories] == ["nut"], "no class without a single object"
    first = tmp_path / "a.json"
    assert [(str(p), p.severity, p.count) for p in data.problems] == [
        (f"{first}, shape 2, the first of 4 in 2 files: a point has no area; it is left out", "note", 4),
        (f"{first}, shape 4, the first of 2 in 2 files: a line has no area; it is left out", "note", 2),
    ]


def test_new_labels_are_in_alphabetical_order_after_the_known(tmp_path: Path) -> None:
    (tmp_path / "classes.json").write_text(json.dumps([{"id": 7, "name": "m"}]))
    names = ["z", "m", "a", "z"]
    square = [[0, 0], [9, 0], [9, 9], [0, 9]]
    _file(tmp_path, [{"label": name, "shape_type": "polygon", "points": square} for name in names])
    data = read_labelme(tmp_path)
    assert [(c.id, c.name) for c in data.categories] == [(7, "m"), (8, "a"), (9, "z")]
    assert data.splits["all"].images()[0].targets.label_names == names


def test_parts_that_cannot_be_used_do_not_spoil_their_group(tmp_path: Path) -> None:
    places = ([[0, 0], [5, 0], [5, 5], [0, 5]], [[0, 0], [9, 0]], [[50, 0], [60, 0], [60, 5], [50, 5]])
    parts = [{"label": "box", "shape_type": "polygon", "points": p, "group_id": 5} for p in places]
    _file(tmp_path, [{**parts[0], "group_id": None}, *parts])
    data = read_labelme(tmp_path)
    masks = data.splits["all"].images()[0].targets.masks
    assert masks is not None and masks.area().tolist() == [25, 75]
    assert [p.annotation for p in data.problems] == ["shape 3"]


def test_a_folder_without_files_says_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no LabelMe files"):
        read_labelme(tmp_path)


SQUARE = {"label": "a", "shape_type": "polygon", "points": [[0, 0], [9, 0], [9, 9], [0, 9]]}


@pytest.mark.parametrize("named", ["../images/a.png", "..\\images\\a.png", "a.png"])
def test_images_in_a_folder_of_their_own(tmp_path: Path, named: str) -> None:
    for folder in ("images", "json"):
        (tmp_path / folder).mkdir()
    place = tmp_path / ("images" if "images" in named else "json") / "a.png"
    cv2.imwrite(str(place), np.zeros((40, 60, 3), np.uint8))
    _file(tmp_path / "json", [SQUARE], imagePath=named)
    (image,) = read_labelme(tmp_path).splits["json"].images()
    assert image.path.resolve() == place and image.name == "a.png"
    inside = read_labelme(tmp_path / "json").splits["all"].images()  # what lies outside the data set is not taken
    assert inside[0].path.is_file() == (place.parent.name == "json")


def test_old_files_without_a_size_have_that_of_their_image(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((40, 60, 3), np.uint8))
    _file(tmp_path, [SQUARE], imageHeight=None, imageWidth=None)
    assert read_labelme(tmp_path).splits["all"].images()[0].targets.image_size == (40, 60)
    (tmp_path / "a.png").unlink()
    with pytest.raises(UserError, match="imageHeight and imageWidth"):
        read_any(tmp_path, "labelme")


def test_other_spellings_of_shapes(tmp_path: Path) -> None:
    corners = [[30, 30], [10, 30], [10, 10], [30, 10]]
    kinds = ["rectangle", "rotation", None]
    bad = {"label": "a", "shape_type": "circle", "points": [[30, 20]]}
    _file(tmp_path, [*({"label": 0, "shape_type": kind, "points": corners} for kind in kinds), bad])
    data = read_labelme(tmp_path)
    targets = data.splits["all"].images()[0].targets
    assert targets.masks is not None and targets.masks.area().tolist() == [400, 400, 400]
    assert targets.label_names == ["0"] * 3
    (problem,) = data.problems
    assert "shape 4: it cannot be read (a circle needs its center and a point on it)" in str(problem)
