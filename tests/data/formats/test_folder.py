from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from small_sets import make_set, shapes

from eachmask.data.compare import compare
from eachmask.data.formats.label_map_folder import read_label_map_folder, write_label_map_folder
from eachmask.data.formats.mask_files import read_mask_files, write_mask_files
from eachmask.data.formats.painted import painted
from eachmask.structures import RLE, UserError


def test_label_maps_come_back_with_classes_and_crowds(tmp_path: Path) -> None:
    data = make_set(tmp_path / "images", crowd=True)
    write_label_map_folder(tmp_path / "out", data)
    again = read_label_map_folder(tmp_path / "out")
    assert compare(data, again)[0].exact
    assert again.categories == data.categories


def test_mask_files_hold_overlaps_too(tmp_path: Path) -> None:
    data = make_set(tmp_path / "images", overlapping=True, crowd=True)
    write_mask_files(tmp_path / "out", data)
    again = read_mask_files(tmp_path / "out")
    assert compare(data, again)[0].exact
    assert again.categories == data.categories


def test_the_smaller_object_is_in_front() -> None:
    masks = np.zeros((2, 10, 10), bool)
    masks[0] = True
    masks[1, 3:5, 3:5] = True
    assert np.bincount(painted(RLE.from_bitmaps(masks)).reshape(-1)).tolist() == [0, 96, 4]


@pytest.mark.parametrize(("kind", "suffix"), [(np.uint8, ".png"), (np.uint16, ".tif"), (np.int32, ".tif")])
def test_maps_of_8_16_and_32_bits_numbers_with_gaps(tmp_path: Path, kind: type, suffix: str) -> None:
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    pixels = np.zeros((20, 30), kind)
    pixels[2:5, 2:5], pixels[7:9, 7:20] = 9, 120 if kind is np.uint8 else 30_000
    cv2.imwrite(str(tmp_path / "images/x.jpg"), np.zeros((20, 30, 3), np.uint8))
    cv2.imwrite(str(tmp_path / f"masks/x{suffix}"), pixels)
    targets = read_label_map_folder(tmp_path).splits["all"].images()[0].targets
    assert targets.masks is not None
    assert targets.masks.area().tolist() == [9, 26]


def test_a_map_with_a_palette_has_the_numbers_in_the_file(tmp_path: Path) -> None:
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    cv2.imwrite(str(tmp_path / "images/x.jpg"), np.zeros((20, 30, 3), np.uint8))
    pixels = np.zeros((20, 30), np.uint8)
    pixels[2:5, 2:5], pixels[7:9, 7:20] = 3, 4
    image = Image.fromarray(pixels)
    image.putpalette([0, 0, 0] * 3 + [200, 10, 10] * 253)  # two numbers of one color stay two objects
    image.save(tmp_path / "labels/x.png")
    targets = read_label_map_folder(tmp_path).splits["all"].images()[0].targets
    assert targets.masks is not None
    assert targets.masks.area().tolist() == [9, 26]


def test_the_bowls_own_layout(tmp_path: Path) -> None:
    folder = tmp_path / "0a7d"
    for inner in ("images", "masks"):
        (folder / inner).mkdir(parents=True)
    cv2.imwrite(str(folder / "images/0a7d.png"), np.zeros((48, 64, 3), np.uint8))
    for i, mask in enumerate(shapes()):
        cv2.imwrite(str(folder / f"masks/{i:x}f3.png"), mask.astype(np.uint8) * 255)
    cv2.imwrite(str(folder / "masks/wrong.png"), np.ones((5, 5), np.uint8))
    cv2.imwrite(str(folder / "masks/void.png"), np.zeros((48, 64), np.uint8))
    data = read_mask_files(tmp_path)
    targets = data.splits["all"].images()[0].targets
    assert targets.masks is not None
    assert targets.masks.area().tolist() == shapes().sum((1, 2)).tolist()
    assert sorted(p.kind for p in data.problems) == ["empty", "size"]


def test_a_map_of_colors_is_refused_by_name(tmp_path: Path) -> None:
    data = make_set(tmp_path / "images")
    write_label_map_folder(tmp_path / "out", data)
    colors = np.random.default_rng(0).integers(0, 255, (48, 64, 3)).astype(np.uint8)
    cv2.imwrite(str(tmp_path / "out/labels/train/a.png"), colors)
    again = read_label_map_folder(tmp_path / "out")
    assert "one channel" in str(again.problems[0]) and "a.png" in str(again.problems[0])
    assert len(again) == 2


def test_neither_layout_says_so(tmp_path: Path) -> None:
    with pytest.raises(UserError):
        read_label_map_folder(tmp_path)
    with pytest.raises(UserError):
        read_mask_files(tmp_path)


def test_no_mask_takes_the_place_of_another(tmp_path: Path) -> None:
    for inner in ("images", "masks"):
        (tmp_path / "x" / inner).mkdir(parents=True)
    cv2.imwrite(str(tmp_path / "x/images/x.png"), np.zeros((48, 64, 3), np.uint8))
    names = ("01", "1", "2", "a", "\u00b23")
    for i, name in enumerate(names):
        pixels = np.zeros((48, 64), np.uint8)
        pixels[: i + 1] = 255
        cv2.imwrite(str(tmp_path / f"x/masks/{name}.png"), pixels)
    targets = read_mask_files(tmp_path).splits["all"].images()[0].targets
    assert targets.masks is not None
    assert sorted(targets.masks.area().tolist()) == [64 * (i + 1) for i in range(len(names))]


def test_a_damaged_image_does_not_stop_the_rest(tmp_path: Path) -> None:
    write_mask_files(tmp_path, make_set(tmp_path / "drawn"))
    (tmp_path / "train/b/images/b.png").write_bytes(b"no image")  # it has no masks to tell its size
    data = read_mask_files(tmp_path)
    assert {split: list(images.names) for split, images in data.splits.items()} == {
        "train": ["a.png"],
        "val": ["c.png"],
    }
    (problem,) = data.problems
    assert "b.png: neither the image nor a mask can be read; restore" in str(problem)


def test_label_maps_without_an_image_are_named(tmp_path: Path) -> None:
    write_label_map_folder(tmp_path / "out", make_set(tmp_path / "images"))
    (tmp_path / "out/images/train/a.png").unlink()
    (problem,) = read_label_map_folder(tmp_path / "out").problems
    assert "labels/train/a.png: it has no image" in str(problem)


def test_class_names_are_no_formulas(tmp_path: Path) -> None:
    from eachmask.data.formats.class_table import read_table, write_table

    data = make_set(tmp_path / "images")
    names = ["=1+1", "'=x", "-minus"]
    write_table(tmp_path, data.renamed(names))
    assert all(not line.split(",")[4].startswith(("=", "-")) for line in (tmp_path / "objects.csv").read_text().split())
    assert [category.name for category in read_table(tmp_path).categories] == names


@pytest.mark.parametrize("text", ["", "split,image,number,category_id,category,crowd\n", "split,image,number\na,b,1\n"])
def test_a_cut_class_table_is_named(tmp_path: Path, text: str) -> None:
    from eachmask.data.formats.class_table import read_table

    (tmp_path / "objects.csv").write_text(text)
    with pytest.raises(UserError, match="objects.csv"):
        read_table(tmp_path)
