"""Darknet's YOLO and CVAT's YOLO 1.1: boxes in the layout that these programs import, and read back."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from eachmask.cli import main
from eachmask.data import Dataset, read
from eachmask.data.builder import DatasetBuilder
from eachmask.data.formats.darknet import write_darknet
from eachmask.data.targets import instances_of, named_categories
from eachmask.structures import RLE

SIZE = (40, 80)


def made(folder: Path, *splits: str) -> Dataset:
    """One image for each split: an L, a square, and a crowd region."""
    bitmaps = np.zeros((3, *SIZE), bool)
    bitmaps[0, 10:30, 10:14] = bitmaps[0, 26:30, 10:50] = True
    bitmaps[1, 0:8, 60:80] = True
    bitmaps[2, 32:40, 0:8] = True
    result = DatasetBuilder(named_categories(["nut", "hex bolt"]))
    for split in splits:
        image = folder / f"{split}.png"
        folder.mkdir(exist_ok=True)
        cv2.imwrite(str(image), np.full((*SIZE, 3), 9, np.uint8))
        targets = instances_of(RLE.from_bitmaps(bitmaps), [0, 1, 0], [False, False, True], result.categories)
        result.add(split, f"deep/{split}.png", image, targets)
    return result.build()


def test_the_layout_is_what_cvat_and_darknet_import(tmp_path: Path) -> None:
    notes = write_darknet(tmp_path / "out", made(tmp_path / "images", "train", "val"))
    out = tmp_path / "out"
    lines = out.joinpath("obj.data").read_text().splitlines()
    assert [line for line in lines if not line.startswith("#")] == [
        "classes = 2", "names = obj.names", "train = train.txt", "valid = valid.txt", "backup = backup/",
    ]  # fmt: skip
    names = out.joinpath("obj.names").read_text().splitlines()
    assert sorted(names) == ["hex bolt", "nut"]
    assert out.joinpath("valid.txt").read_text() == "obj_valid_data/deep/val.png\n"
    rows = out.joinpath("obj_valid_data/deep/val.txt").read_text().splitlines()
    assert [int(row.split()[0]) for row in rows] == [0, 1]
    # center and size, shares of width 80 and height 40: x 10..50, y 10..30
    assert [float(v) for v in rows[0].split()[1:]] == pytest.approx([30 / 80, 20 / 40, 40 / 80, 20 / 40])
    assert "their boxes" in notes[0] and notes[-1].startswith("2 crowd regions")


@pytest.mark.parametrize("splits", [("all",), ("train", "val"), ("train", "fold_2"), ("val", "valid")])
def test_splits_names_and_boxes_are_read_back(tmp_path: Path, splits: tuple[str, ...]) -> None:
    notes = write_darknet(tmp_path / "out", made(tmp_path / "images", *splits))
    again = read(tmp_path / "out")
    assert set(again.splits) == set(splits)
    for split in splits:
        assert again.splits[split].names[0] == f"deep/{split}.png"
        targets = again.splits[split].targets(0)
        assert targets.boxes.tolist() == [[10, 10, 50, 30], [60, 0, 80, 8]]
        assert {c.name for c in again.categories} == {"nut", "hex bolt"}
    assert any("CVAT takes train and valid alone" in note for note in notes) == (
        "fold_2" in splits or "valid" in splits
    )


def test_the_command_measures_that_outlines_are_lost(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_darknet(tmp_path / "first", made(tmp_path / "images", "train"))
    assert main(["convert", str(tmp_path / "first"), str(tmp_path / "coco"), "--to", "coco"]) == 0
    assert "darknet -> coco" in capsys.readouterr().out
    assert main(["convert", str(tmp_path / "coco"), str(tmp_path / "second"), "--to", "darknet"]) == 0
    told = capsys.readouterr().out
    assert "objects whose pixels changed        0" in told and "objects are their boxes" in told
    assert "every object is read back as it was; what other programs may miss" in told


def test_an_export_without_images_finds_them_elsewhere(tmp_path: Path) -> None:
    write_darknet(tmp_path / "out", made(tmp_path / "images", "train"))
    (tmp_path / "photos").mkdir()
    (tmp_path / "out/obj_train_data/deep/train.png").rename(tmp_path / "photos/train.png")
    data = read(tmp_path / "out", images=tmp_path / "photos")
    assert len(data.splits["train"].targets(0)) == 2 and data.splits["train"].path(0).parent.name == "photos"


def test_entries_of_other_programs_do_no_harm(tmp_path: Path) -> None:
    write_darknet(tmp_path / "out", made(tmp_path / "images", "train"))
    path = tmp_path / "out/obj.data"
    path.write_text("\ufeff; by darknet\n" + path.read_text() + "labels = obj.names.txt\neval = coco\ntop=5\n", "utf-8")
    assert set(read(tmp_path / "out").splits) == {"train"}


@pytest.mark.parametrize("place", ["data", "cfg"])
def test_darknets_own_folders_start_from_the_one_above(tmp_path: Path, place: str) -> None:
    for name in ("a", "b"):
        image = tmp_path / f"data/obj/{name}.jpg"
        image.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(image), np.full((*SIZE, 3), 9, np.uint8))
        image.with_suffix(".txt").write_text("1 0.5 0.5 0.25 0.5\n")
    (tmp_path / "data/train.txt").write_text("data/obj/a.jpg\n")
    (tmp_path / "data/test.txt").write_text("/home/me/darknet/data/obj/b.jpg\n")
    (tmp_path / "data/obj.names").write_text("nut\nbolt\n")
    (tmp_path / place).mkdir(exist_ok=True)
    (tmp_path / place / "obj.data").write_text(
        "classes = 2\ntrain = data/train.txt\nvalid = data/test.txt\nnames = data/obj.names\nbackup = backup/\n"
    )
    data = read(tmp_path)
    assert set(data.splits) == {"train", "val"}
    for split in ("train", "val"):
        targets = data.splits[split].targets(0)
        assert targets.label_names == ["bolt"] and targets.boxes.tolist() == [[30, 10, 50, 30]]
