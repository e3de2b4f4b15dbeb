"""LabelMe's XML, in the layouts of CVAT, Datumaro and LabelMe's web version."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from foreign_sets import OTHER, SQUARE, image, labels

from eachmask import UserError
from eachmask.cli import main
from eachmask.data import Dataset, read

HEAD = "<filename>{}</filename><folder>{}</folder><source><sourceImage/><sourceAnnotation>Datumaro</sourceAnnotation>"
SIZE = "</source><imagesize><nrows>48</nrows><ncols>64</ncols></imagesize>"


def thing(name: str, shape: str, number: int = 0, more: str = "", part_of: str = "", has: str = "") -> str:
    parts = f"<parts><hasparts>{has}</hasparts><ispartof>{part_of}</ispartof></parts>"
    more = more or "<deleted>0</deleted>"
    return f"<object><name>{name}</name>{more}<occluded>no</occluded><id>{number}</id>{parts}{shape}</object>"


def polygon(ring: list[int]) -> str:
    points = "".join(f"<pt><x>{x}.00</x><y>{y}.00</y></pt>" for x, y in zip(ring[::2], ring[1::2], strict=True))
    return f"<polygon>{points}<username>me</username></polygon>"


def write(path: Path, *things: str, name: str = "a.png", folder: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"<annotation>{HEAD.format(name, folder)}{SIZE}{''.join(things)}</annotation>")
    return path


def mask(path: Path) -> str:
    """A PNG as Datumaro paints masks, 4 x 6 pixels of an image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros((48, 64, 4), np.uint8)
    pixels[10:14, 20:26] = (255, 203, 0, 153)
    cv2.imwrite(str(path), pixels)
    box = "<box><xmin>20</xmin><ymin>10</ymin><xmax>26</xmax><ymax>14</ymax></box>"
    return f"<segm><mask>{path.name}</mask>{box}<username/></segm>"


def areas(data: Dataset, split: str = "all") -> list[list[int]]:
    return [data.splits[split].targets(i).masks.area().tolist() for i in range(len(data.splits[split]))]


def test_as_cvat_exports_a_task(tmp_path: Path) -> None:
    image(tmp_path / "a.png")
    box = "<type>bounding_box</type>" + polygon(OTHER)
    write(
        tmp_path / "a.xml",
        thing("nut", polygon(SQUARE)),
        thing("bolt", box, 1),
        thing("cog", mask(tmp_path / "Masks/a_mask_2.png"), 2),
    )
    data = read(tmp_path)
    assert labels(data) == [["nut", "bolt", "cog"]] and areas(data) == [[225, 400, 24]]
    assert [p.kind for p in data.problems] == ["box only"]


@pytest.mark.parametrize(
    "layout", ["Images/{0}/a.png Annotations/{0}/a.xml Masks/{0}/m.png", "{0}/a.png {0}/a.xml {0}/Masks/m.png"]
)
def test_splits_with_images_of_the_same_names(tmp_path: Path, layout: str) -> None:
    for split, ring in (("train", SQUARE), ("val", OTHER)):
        photo, xml, png = (tmp_path / part for part in layout.format(split).split())
        image(photo)
        write(xml, thing("nut", polygon(ring)), thing("nut", mask(png), 1), folder=split)
    data = read(tmp_path)
    assert areas(data, "train") == [[225, 24]] and areas(data, "val") == [[400, 24]]
    assert [data.splits[s].names[0] for s in ("train", "val")] == ["a.png", "a.png"] and not data.problems
    assert data.splits["val"].path(0).parent.name == "val"


def test_parts_of_one_class_are_one_object_and_deleted_ones_are_none(tmp_path: Path) -> None:
    image(tmp_path / "a.png")
    write(
        tmp_path / "a.xml",
        thing("nut", polygon(SQUARE), 0, has="1,2"),
        thing("nut", polygon(OTHER), 1, part_of="0"),
        thing("thread", polygon(OTHER), 2, part_of="0"),
        thing("nut", polygon(OTHER), 3, more="<deleted>1</deleted>"),
    )
    data = read(tmp_path)
    assert labels(data) == [["nut", "thread"]] and areas(data) == [[625, 400]]


def test_what_cannot_be_read_is_named_and_the_rest_read(tmp_path: Path) -> None:
    for name in "ab":
        image(tmp_path / f"{name}.png")
    lost = "<segm><mask>lost.png</mask></segm>"
    bad = polygon(SQUARE).replace("5.00", "five")
    write(
        tmp_path / "a.xml",
        thing("nut", lost),
        thing("", polygon(SQUARE), 1),
        thing("nut", bad, 2),
        thing("nut", polygon(OTHER), 3),
    )
    (tmp_path / "b.xml").write_text("<annotation><object><name>nut</name>")
    write(tmp_path / "c.xml", thing("nut", polygon(OTHER)), name="c.png")
    data = read(tmp_path)
    assert areas(data) == [[400]]
    told = " ".join(map(str, data.problems))
    for words in (
        "its mask lost.png is not there",
        "it has no name",
        "object 3: it cannot be read",
        "b.xml: it cannot be read",
        "c.png: there is no such image",
    ):
        assert words in told


def test_one_file_images_elsewhere_and_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image(tmp_path / "photos/a.png")
    file = write(tmp_path / "set/a.xml", thing("nut", polygon(SQUARE)))
    assert areas(read(file, images=tmp_path / "photos")) == [[225]]
    words = [
        "convert",
        str(tmp_path / "set"),
        str(tmp_path / "out"),
        "--to",
        "labelme",
        "--images",
        str(tmp_path / "photos"),
    ]
    assert main(words) == 0
    assert "labelme -> labelme" in capsys.readouterr().out and areas(read(tmp_path / "out")) == [[225]]
    with pytest.raises(UserError, match="SegmentationObject"):
        read(tmp_path / "set", format="voc")
