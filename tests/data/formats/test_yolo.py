from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from small_sets import make_set, shapes

from eachmask.data.compare import compare
from eachmask.data.formats.yolo import read_yolo
from eachmask.data.formats.yolo_write import one_rings, write_yolo
from eachmask.data.reading import read_any
from eachmask.structures import RLE, Polygons, UserError


def test_everything_comes_back_bridges_holes_and_crowds_included(tmp_path: Path) -> None:
    data = make_set(tmp_path / "images", overlapping=True, crowd=True)
    notes = write_yolo(tmp_path / "yolo", data)
    again = read_yolo(tmp_path / "yolo")
    assert compare(data, again)[0].exact
    assert again.categories == data.categories
    assert len(notes) == 2
    # other programs must not take the crowd for an object
    assert len((tmp_path / "yolo/labels/train/a.txt").read_text().splitlines()) == 3


def test_one_ring_of_many_random_holes_and_parts_is_exact() -> None:
    noise = np.random.default_rng(0).random((6, 30, 40)) > np.linspace(0.3, 0.8, 6)[:, None, None]
    masks = RLE.from_bitmaps(noise)
    again = Polygons([[ring] for ring in one_rings(masks)], (), masks.size).to_rle()
    assert np.array_equal(again.decode(), noise)


def test_bridges_cover_nothing_and_holes_turn_against_their_surroundings() -> None:
    masks = RLE.from_bitmaps(shapes())
    for ring, pixels in zip(one_rings(masks), masks.area(), strict=True):
        x, y = ring.T
        area = (np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2  # holes count negative
        assert area == pixels


def _written(tmp_path: Path, line: str) -> Path:
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    cv2.imwrite(str(tmp_path / "images/a.jpg"), np.zeros((40, 80, 3), np.uint8))
    (tmp_path / "labels/a.txt").write_text(line)
    (tmp_path / "data.yaml").write_text("train: ../images\nnc: 2\nnames: [cat, dog]\n")
    return tmp_path


def test_boxes_and_outlines_of_others_are_read(tmp_path: Path) -> None:
    data = read_yolo(_written(tmp_path, "1 0.5 0.5 0.25 0.5\n0 0 0 0.5 0 0.5 0.5 0 0.5\n"))
    targets = data.splits["train"].images()[0].targets
    assert targets.label_names == ["dog", "cat"]
    assert targets.masks is not None
    assert targets.masks.area().tolist() == [20 * 20, 40 * 20]
    assert targets.boxes[0].tolist() == [30, 10, 50, 30]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("2 0.1 0.1 0.2 0.1 0.2 0.2", "class 2"),
        ("0 0.1 0.1 0.2 0.1 0.2", "5 coordinates"),
        ("0 10 10 20 10 20 20", "pixels"),
        ("0 a b c d e f", "no number"),
        ("0 nan 0.1 0.2 0.1 0.2 0.2", "finite"),
    ],
)
def test_a_bad_line_is_named_and_the_rest_is_read(tmp_path: Path, line: str, reason: str) -> None:
    data = read_yolo(_written(tmp_path, f"{line}\n0 0 0 0.5 0 0.5 0.5\n"))
    assert len(data.splits["train"].images()[0].targets) == 1
    (problem,) = data.problems
    assert reason in str(problem) and "a.txt, line 1" in str(problem)


def test_the_size_of_a_png_is_found_without_decoding_it(tmp_path: Path) -> None:
    folder = _written(tmp_path, "0 0 0 0.5 0 0.5 0.5\n")
    exif = Image.Exif()
    exif[274] = 6
    Image.new("RGB", (30, 20)).save(folder / "images/turned.png", exif=exif)
    Image.new("RGB", (300, 200)).save(folder / "images/plain.png")
    whole = (folder / "images/plain.png").read_bytes()
    (folder / "images/plain.png").write_bytes(whole[: len(whole) // 2])  # whoever decodes it sees that it is cut off
    data = read_yolo(folder)
    sizes = {image.name: image.targets.image_size for image in data.splits["train"].images()}
    assert sizes == {"a.jpg": (40, 80), "plain.png": (200, 300), "turned.png": (30, 20)}


def test_names_before_their_numbers(tmp_path: Path) -> None:
    (tmp_path / "data.yaml").write_text("train: .\nnames: {bolt: 1, nut: 0}\n")
    assert [category.name for category in read_yolo(tmp_path).categories] == ["nut", "bolt"]


@pytest.mark.parametrize("names", ["{a: 0, b: 2}", "{a: 0, b: 0}", "{a: x, b: y}"])
def test_names_before_numbers_with_gaps_are_refused(tmp_path: Path, names: str) -> None:
    (tmp_path / "data.yaml").write_text(f"train: .\nnames: {names}\n")
    with pytest.raises(UserError, match="without gaps"):
        read_yolo(tmp_path)


def test_names_with_gaps_are_refused(tmp_path: Path) -> None:
    (tmp_path / "data.yaml").write_text("train: .\nnames: {0: a, 2: b}\n")
    with pytest.raises(UserError, match="without gaps"):
        read_yolo(tmp_path)


LINE = "0 0.1 0.1 0.5 0.1 0.5 0.5 0.1 0.5\n"


def _image(folder: Path, place: str, line: str = LINE) -> None:
    image, label = folder / f"{place}.png", folder / f"{place.replace('images', 'labels')}.txt"
    for path in (image, label):
        path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(image), np.zeros((40, 80, 3), np.uint8))
    label.write_text(line)


@pytest.mark.parametrize("train", ["[images/a, images/b]", "train.txt", "images", "[images\\a, images\\b]"])
def test_a_split_may_be_folders_or_a_list_of_files(tmp_path: Path, train: str) -> None:
    _image(tmp_path, "images/a/x")
    _image(tmp_path, "images/b/y")
    (tmp_path / "train.txt").write_bytes(b"./images/a/x.png\r\nimages\\b\\y.png\r\n")
    (tmp_path / "data.yaml").write_text(f"train: {train}\nnames: [cat]\n")
    data = read_yolo(tmp_path)
    assert [(Path(p.name).name, len(p.targets)) for p in data.splits["train"].images()] == [("x.png", 1), ("y.png", 1)]
    assert data.problems == []


def test_what_the_yaml_names_and_is_not_there_is_told(tmp_path: Path) -> None:
    _image(tmp_path, "images/x")
    (tmp_path / "list.txt").write_text("images/x.png\nimages/gone.png\n")
    (tmp_path / "data.yaml").write_text(
        "train: images\nval: ../valid/images\ntest: list.txt\nlicense: CC BY 4.0\nnames: [cat]\n"
    )
    data = read_yolo(tmp_path)
    assert {split: len(images) for split, images in data.splits.items()} == {"train": 1, "test": 1}
    first, second = data.problems
    assert "entry val: there is no folder or list ../valid/images" in str(first) and first.severity == "warning"
    assert "gone.png" in str(second)


def test_labels_without_an_image_are_named(tmp_path: Path) -> None:
    _image(tmp_path, "images/train/x")
    (tmp_path / "labels/train/lost.txt").write_text(LINE)
    (tmp_path / "labels/train/classes.txt").write_text("cat\n")  # labelImg leaves this there
    (tmp_path / "data.yaml").write_text("train: images/train\nnames: [cat]\n")
    (problem,) = read_yolo(tmp_path).problems
    assert "lost.txt: it has no image" in str(problem)


@pytest.mark.parametrize("values", [2, 3])
def test_keypoints_are_no_outline(tmp_path: Path, values: int) -> None:
    point = " 0.4 0.5 2" if values == 3 else " 0.4 0.5"
    _image(tmp_path, "images/x", "0 0.5 0.5 0.25 0.5" + point * 4)
    (tmp_path / "data.yaml").write_text(f"train: images\nkpt_shape: [4, {values}]\nnames: [cat]\n")
    data = read_yolo(tmp_path)
    assert data.splits["train"].images()[0].targets.boxes.tolist() == [[30, 10, 50, 30]]
    assert "its keypoints are not read" in str(data.problems[0])


@pytest.mark.parametrize("names", ["labels/classes.txt", "classes.txt", "labels/obj.names", None])
def test_a_folder_of_texts_alone(tmp_path: Path, names: str | None) -> None:
    """LabelImg's and Roboflow's ``labels`` without a data.yaml."""
    _image(tmp_path, "images/a/x", "1 0.5 0.5 0.25 0.5")
    _image(tmp_path, "images/y")
    (tmp_path / "labels/y.txt").unlink()
    if names is not None:
        (tmp_path / names).write_text("cat\ndog\n")
    data, form = read_any(tmp_path / "labels")
    assert form.name == "yolo" and [c.name for c in data.categories] == (
        ["cat", "dog"] if names else ["class 0", "class 1"]
    )
    first, second = data.splits["all"].images()
    assert (first.name, len(first.targets), second.name, len(second.targets)) == ("a/x.png", 1, "y.png", 0)
    assert [p for p in data.problems if "class 0" in str(p) and p.severity == "note"] or names
    (again,) = read_any(tmp_path / "labels", images=tmp_path / "images")[0].splits["all"].images()
    assert again.name == "a/x.png", "of a folder that is named, the images that have a text"


def test_results_as_texts_have_scores_and_splits(tmp_path: Path) -> None:
    """What ``yolo predict save_txt=True save_conf=True`` leaves."""
    for split in ("train", "val"):
        _image(tmp_path, f"photos/{split}/x")
        (tmp_path / "labels" / split).mkdir(parents=True)
        (tmp_path / "labels" / split / "x.txt").write_text(LINE.strip() + " 0.75\n")
    data, _ = read_any(tmp_path / "labels", images=tmp_path / "photos")
    assert {name: split.images()[0].scores for name, split in data.splits.items()} == {"train": [0.75], "val": [0.75]}


def test_other_texts_are_no_yolo(tmp_path: Path) -> None:
    _image(tmp_path, "x")
    (tmp_path / "x.txt").write_text("1 1 car 0.5 0.5 0.2 0.2\n")
    with pytest.raises(UserError, match="no data set in a known format"):
        read_any(tmp_path)
    (tmp_path / "x.txt").unlink()
    (tmp_path / "x.png").unlink()
    (tmp_path / "y.txt").write_text(LINE)
    with pytest.raises(UserError, match="no image of theirs: name it with --images"):
        read_any(tmp_path)
