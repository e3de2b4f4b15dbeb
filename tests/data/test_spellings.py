"""Names that only some computers tell apart: of either case, and umlauts of one sign or, on macOS, of two."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from foreign_sets import SIZE, coco, image, labels

from eachmask.data import read
from eachmask.data.elsewhere import ImageFolder
from eachmask.data.formats.drawn import image_named
from eachmask.data.images.files import alike, find_image

LINE = "0 0.1 0.1 0.3 0.1 0.3 0.4 0.1 0.4\n"
SPELLINGS: list[Callable[[str], str]] = [
    str.upper,
    lambda name: unicodedata.normalize("NFD", name),
    lambda name: unicodedata.normalize("NFC", name),
    lambda name: name.replace("_", " "),
]


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_images_of_coco(tmp_path: Path, spelling: Callable[[str], str]) -> None:
    image(tmp_path / "images" / spelling("b_ü.png"))
    coco(tmp_path / "instances_train.json", name="Images/b_ü.png")
    data = read(tmp_path)
    assert data.splits["train"].path(0).is_file() and not data.problems


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_texts_of_yolo(tmp_path: Path, spelling: Callable[[str], str]) -> None:
    image(tmp_path / "Images/train/b_ü.png")
    text = tmp_path / "Labels/train" / spelling("b_ü.txt")
    text.parent.mkdir(parents=True)
    text.write_text(LINE)
    (tmp_path / "data.yaml").write_text("train: Images/train\nnames: [nut]\n")
    data = read(tmp_path)
    assert labels(data, "train") == [["nut"]] and not data.problems


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_label_maps(tmp_path: Path, spelling: Callable[[str], str]) -> None:
    image(tmp_path / "images/b_ü.png")
    (tmp_path / "masks").mkdir()
    file = tmp_path / "masks" / spelling("b_ü.png")
    file.write_bytes(cv2.imencode(".png", np.eye(*SIZE, dtype=np.uint16))[1].tobytes())
    assert labels(read(tmp_path)) == [["object"]]


@pytest.mark.parametrize(
    ("name", "of"), [("b.png", "mask_b.png"), ("img_012.png", "mask_012.png"), ("Image7.tif", "label_7.png")]
)
def test_label_maps_that_say_first_what_they_are(tmp_path: Path, name: str, of: str) -> None:
    image(tmp_path / "images" / name)
    image(tmp_path / "images" / "c.png")
    for i, file in enumerate((of, "c_mask.png", "mask_c.png")):
        (tmp_path / "masks").mkdir(exist_ok=True)
        pixels = np.minimum(np.eye(*SIZE, dtype=np.uint16) * (1 + np.arange(SIZE[1])), i + 1).astype(np.uint16)
        (tmp_path / "masks" / file).write_bytes(cv2.imencode(".png", pixels)[1].tobytes())
    data = read(tmp_path)
    assert sorted(map(len, labels(data))) == [1, 2], "of two maps of an image the one that ends so goes first"
    (problem,) = data.problems
    assert problem.file.endswith("mask_c.png") and "no image" in problem.what


@pytest.mark.parametrize("folders", [("Images", "Masks"), ("IMAGES", "labels"), ("Data", "Labels")])
def test_folders_of_label_maps(tmp_path: Path, folders: tuple[str, str]) -> None:
    image(tmp_path / folders[0] / "a.png")
    (tmp_path / folders[1]).mkdir()
    numbers = np.zeros(SIZE, np.uint16)
    numbers[5:9, 5:9] = 300
    assert cv2.imwrite(str(tmp_path / folders[1] / "a.png"), numbers)
    data = read(tmp_path)
    assert labels(data) == [["object"]] and not data.problems


def test_what_is_spelled_as_asked_goes_first(tmp_path: Path) -> None:
    for name in ("a.png", "A.png"):
        image(tmp_path / name)
    assert alike(tmp_path / "A.png") == tmp_path / "A.png"
    assert alike(tmp_path / "a.PNG") is None, "two are spelled so"
    assert find_image(tmp_path, "a") == tmp_path / "a.png"
    assert ImageFolder(tmp_path).named("A.png") == tmp_path / "A.png"
    assert ImageFolder(tmp_path).named("a.PNG") is None


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("3c5d1e2f-p0.png", True),
        ("images/3c5d1e2f-p0.png", True),
        ("/data/upload/1/3c-p0.png", True),
        ("upload/3c5d1e2f-p0.png", True),
        ("images/3c-p0.png", False),  # another image, which is not there
        ("scan-3c5d1e2f-p0.png", False),
    ],
)
def test_every_reader_knows_the_same_names_of_uploads(tmp_path: Path, name: str, found: bool) -> None:
    there = image(tmp_path / "p0.png")
    place = there if found else None
    assert ImageFolder(tmp_path).named(name) == place
    assert image_named(name, ImageFolder(tmp_path)) == place


def test_uploads_of_label_studio_have_their_own_names(tmp_path: Path) -> None:
    photos = image(tmp_path / "photos/p0.png").parent
    (tmp_path / "set/labels").mkdir(parents=True)
    (tmp_path / "set/labels/abcdef12-p0.txt").write_text(LINE)
    (tmp_path / "set/images").mkdir()
    (tmp_path / "set/classes.txt").write_text("nut\n")
    assert labels(read(tmp_path / "set", images=photos)) == [["nut"]]
