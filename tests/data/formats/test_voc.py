from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_sets import built, make_set

from eachmask.data.compare import compare
from eachmask.data.formats.voc import read_voc, write_voc
from eachmask.data.formats.voc_classes import palette
from eachmask.structures import UserError


def test_holes_parts_and_crowds_come_back(tmp_path: Path) -> None:
    data = make_set(tmp_path / "images", crowd=True)
    write_voc(tmp_path / "voc", data)
    again = read_voc(tmp_path / "voc")
    assert compare(data, again)[0].exact
    assert again.categories == data.categories


def test_the_palette_is_vocs() -> None:
    colors = np.array(palette()).reshape(-1, 3)
    assert colors[[0, 1, 2, 15, 20, 255]].tolist() == [
        [0, 0, 0], [128, 0, 0], [0, 128, 0], [192, 128, 128], [0, 64, 128], [224, 224, 192],
    ]  # fmt: skip


def test_crowd_is_void_for_other_programs(tmp_path: Path) -> None:
    write_voc(tmp_path / "voc", make_set(tmp_path / "images", crowd=True))
    with Image.open(tmp_path / "voc/SegmentationClass/a.png") as image:
        assert image.mode == "P"
        assert set(np.unique(np.array(image))) == {0, 1, 2, 255}


def test_files_of_the_original_make_are_read(tmp_path: Path) -> None:
    for folder in ("SegmentationObject", "SegmentationClass"):
        (tmp_path / folder).mkdir()
    numbers = np.zeros((20, 30), np.uint8)
    numbers[2:8, 2:8], numbers[10:18, 10:28], numbers[0] = 1, 2, 255
    for folder, pixels in (("SegmentationObject", numbers), ("SegmentationClass", np.array([0, 15, 9])[numbers % 253])):
        image = Image.fromarray(np.where(numbers == 255, 255, pixels).astype(np.uint8))
        image.putpalette(palette())
        image.save(tmp_path / folder / "2007_000001.png")
    targets = read_voc(tmp_path).splits["all"].images()[0].targets
    assert targets.label_names == ["person", "chair"]
    assert targets.boxes.tolist() == [[2, 2, 8, 8], [10, 10, 28, 18]]


def test_more_objects_than_a_palette_has_colors(tmp_path: Path) -> None:
    from eachmask.data.targets import instances_of
    from eachmask.structures import RLE, Category

    numbers = np.arange(1, 301).reshape(15, 20)
    categories = (Category(1, "pixel"),)
    targets = instances_of(RLE.from_label_map(numbers), [0] * 300, [False] * 300, categories)
    Image.fromarray(np.zeros((15, 20, 3), np.uint8)).save(tmp_path / "a.png")
    data = built(categories, {"train": [("a.png", tmp_path / "a.png", targets)]})
    assert "16-bit" in write_voc(tmp_path / "voc", data)[0]
    assert compare(data, read_voc(tmp_path / "voc"))[0].exact


def test_entity_bombs_are_refused_and_named(tmp_path: Path) -> None:
    data = make_set(tmp_path / "images")
    write_voc(tmp_path / "voc", data)
    bomb = '<?xml version="1.0"?><!DOCTYPE b [<!ENTITY a "ha"><!ENTITY b "&a;&a;">]><annotation>&b;</annotation>'
    (tmp_path / "voc/Annotations/a.xml").write_text(bomb)
    again = read_voc(tmp_path / "voc")
    assert "DOCTYPE" in str(again.problems[0])
    assert len(again) == 2


def test_boxes_alone_are_no_masks(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="SegmentationObject"):
        read_voc(tmp_path)


@pytest.mark.parametrize("text", [b"\xef\xbb\xbfa\r\nb \r\n", b"a\nb\n\xe4\n"])
def test_lists_of_names_in_other_encodings(tmp_path: Path, text: bytes) -> None:
    write_voc(tmp_path / "out", make_set(tmp_path / "images"))
    (tmp_path / "out/ImageSets/Segmentation/train.txt").write_bytes(text)
    data = read_voc(tmp_path / "out")
    assert [image.name for image in data.splits["train"].images()] == ["a.png", "b.png"]
    assert len(data.problems) == (b"\xe4" in text)


def test_maps_of_the_foreground_are_named(tmp_path: Path) -> None:
    """255 is void: a map that holds nothing else has no objects, which is said."""
    (tmp_path / "SegmentationObject").mkdir()
    (tmp_path / "classes.txt").write_text("1 nut\n")
    pixels = np.zeros((20, 30), np.uint8)
    pixels[2:8, 2:8] = 255
    Image.fromarray(pixels).save(tmp_path / "SegmentationObject" / "a.png")
    data = read_voc(tmp_path)
    told = [problem for problem in data.problems if "only 0 and 255" in problem.what]
    assert len(told) == 1 and told[0].severity == "warning" and "number the objects" in told[0].remedy
    assert not len(data.splits["all"].targets(0))
