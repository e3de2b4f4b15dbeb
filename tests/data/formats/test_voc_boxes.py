"""VOC's XML with boxes alone, as LabelImg, Roboflow, detectors' data sets and this package write it."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from foreign_sets import OTHER, coco, image, labels
from small_sets import make_set

from eachmask import UserError
from eachmask.cli import main
from eachmask.data import Dataset, read
from eachmask.data.formats.voc_boxes import write_voc_boxes


def box(name: str, x1: float, y1: float, x2: float, y2: float, more: str = "") -> str:
    corners = f"<xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax>"
    flags = "<pose>Unspecified</pose><truncated>0</truncated><difficult>0</difficult>"
    return f"<object><name>{name}</name>{flags}<bndbox>{corners}</bndbox>{more}</object>"


def write(path: Path, *boxes: str, name: str = "a.png", root: str = "<annotation>") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    size = "<size><width>64</width><height>48</height><depth>3</depth></size>"
    path.write_text(f"{root}<folder>f</folder><filename>{name}</filename>{size}{''.join(boxes)}</annotation>")
    return path


def boxes(data: Dataset, split: str = "all") -> list[list[list[float]]]:
    return [data.splits[split].targets(i).boxes.tolist() for i in range(len(data.splits[split]))]


def test_labelimgs_files_beside_the_images(tmp_path: Path) -> None:
    image(tmp_path / "a.png")
    image(tmp_path / "b.png")
    write(tmp_path / "a.xml", box("nut", 6, 6, 20, 20), root='<annotation verified="yes">')
    write(tmp_path / "b.xml", box("bolt", 1, 1, 64, 48), name="of another computer.png")
    data = read(tmp_path)
    assert labels(data) == [["nut"], ["bolt"]] and boxes(data) == [[[5, 5, 20, 20]], [[0, 0, 64, 48]]]
    assert data.splits["all"].targets(0).masks.area().tolist() == [225]
    assert [p.kind for p in data.problems] == ["box only"] and data.problems[0].count == 2


def test_rolabelimgs_turned_boxes(tmp_path: Path) -> None:
    image(tmp_path / "a.png")
    upright = "<robndbox><cx>20</cx><cy>15</cy><w>20</w><h>10</h><angle>0.0</angle></robndbox>"
    quarter = upright.replace("<angle>0.0", f"<angle>{math.pi / 2}")
    eighth = upright.replace("<angle>0.0", f"<angle>{math.pi / 4}")
    empty = upright.replace("<w>20", "<w>0")
    entries = (
        f"<object><type>robndbox</type><name>nut</name>{box}</object>" for box in (upright, quarter, eighth, empty)
    )
    write(tmp_path / "a.xml", *entries)
    data = read(tmp_path)
    found = data.splits["all"].targets(0)
    assert found.boxes[:2].tolist() == [[10, 10, 30, 20], [15, 5, 25, 25]]
    reach = (20 + 10) / 2 / math.sqrt(2)  # clockwise: the long side leads from upper left to lower right
    assert found.boxes[2].tolist() == pytest.approx([20 - reach, 15 - reach, 20 + reach, 15 + reach], abs=1)
    mask = found.masks[2:3].to_label_map()
    assert mask[21, 26] and mask[9, 14] and not mask[21, 14] and not mask[9, 26]
    assert ["object 4", "box only"] == [p.annotation or p.kind for p in data.problems]


def test_fractions_are_places_between_pixels(tmp_path: Path) -> None:
    image(tmp_path / "a.png")
    write(tmp_path / "a.xml", box("nut", 6.0, 6.0, 20.0, 20.0))
    assert boxes(read(tmp_path)) == [[[6, 6, 20, 20]]]


def test_roboflows_folders_and_outlines(tmp_path: Path) -> None:
    outline = "".join(f"<{'xy'[i % 2]}{i // 2 + 1}>{v}</{'xy'[i % 2]}{i // 2 + 1}>" for i, v in enumerate(OTHER))
    for split in ("train", "valid"):
        image(tmp_path / split / "a.png")
        write(tmp_path / split / "a.xml", box("nut", 31, 11, 50, 30, f"<polygon>{outline}</polygon>"))
    data = read(tmp_path)
    assert set(data.splits) == {"train", "val"} and not data.problems
    assert data.splits["val"].targets(0).masks.area().tolist() == [400]


def test_a_detectors_folders_and_lists(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        image(tmp_path / f"JPEGImages/{name}.png")
        write(tmp_path / f"Annotations/{name}.xml", box("nut", 6, 6, 20, 20), name=f"{name}.png")
    (tmp_path / "SegmentationObject").mkdir()  # empty, as CVAT and Datumaro leave it
    (tmp_path / "labelmap.txt").write_text("# label:color_rgb:parts:actions\nbackground:::\nnut:::\n")
    lists = tmp_path / "ImageSets/Main"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("a\n")
    (lists / "val.txt").write_text("b\n")
    (lists / "trainval.txt").write_text("a\nb\n")
    (lists / "nut_test.txt").write_text("a  1\nb -1\nc  0\n")
    data = read(tmp_path)
    assert {split: list(data.splits[split].names) for split in data.splits} == {
        "train": ["a.png"], "val": ["b.png"], "all": ["c.png"],
    }  # fmt: skip


def test_written_and_read_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = make_set(tmp_path / "images", crowd=True)
    write_voc_boxes(tmp_path / "out", data)
    again = read(tmp_path / "out")
    assert again.categories == data.categories and set(again.splits) == set(data.splits)
    for split in data.splits:
        for before, after in zip(range(len(data.splits[split])), range(len(again.splits[split])), strict=True):
            old, new = data.splits[split].targets(before), again.splits[split].targets(after)
            assert old.boxes.tolist() == new.boxes.tolist() and old.crowd.tolist() == new.crowd.tolist()
    assert main(["convert", str(tmp_path / "out"), str(tmp_path / "coco"), "--to", "coco"]) == 0
    assert "voc-boxes -> coco" in capsys.readouterr().out


def test_outlines_beside_boxes_come_first(tmp_path: Path) -> None:
    image(tmp_path / "a.png")
    coco(tmp_path / "instances_train.json")
    write(tmp_path / "Annotations/a.xml", box("nut", 6, 6, 20, 20))
    assert set(read(tmp_path).splits) == {"train"}


def test_mistakes_are_named(tmp_path: Path) -> None:
    image(tmp_path / "a.png")
    write(
        tmp_path / "a.xml",
        box("nut", 9, 9, 3, 3),
        box("", 1, 1, 9, 9),
        "<object><name>x</name></object>",
        box("nut", 1, 1, 9, 9),
    )
    write(tmp_path / "b.xml", box("nut", 1, 1, 9, 9), name="b.png")
    data = read(tmp_path)
    told = " ".join(map(str, data.problems))
    assert boxes(data) == [[[0, 0, 9, 9]]]
    for words in (
        "object 1: it cannot be read (its box is empty)",
        "it has no name",
        "object 3",
        "b.png: there is no such image",
    ):
        assert words in told
    with pytest.raises(UserError, match="no XML files with boxes"):
        read(image(tmp_path / "other/c.png").parent, format="voc-boxes")
