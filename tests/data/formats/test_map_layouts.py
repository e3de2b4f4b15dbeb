"""Label maps in the folders of well-known data sets."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from foreign_sets import SIZE, image

from eachmask.data import Dataset, read
from eachmask.data.convert import convert
from eachmask.data.targets import masks_of


def write_map(path: Path, *areas: int) -> None:
    """Numbers from 1, each of so many pixels in a row of its own."""
    numbers = np.zeros(SIZE, np.uint16)
    for row, area in enumerate(areas):
        numbers[row, :area] = row + 1
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), numbers)


def found(data: Dataset) -> dict[str, list[int]]:
    (split,) = data.splits.values()
    return {name: masks_of(split.targets(i)).area().tolist() for i, name in enumerate(split.names)}


def cells(folder: Path) -> Path:
    for number in range(3):
        image(folder / f"01/t{number:03d}.tif")
    image(folder / "02/t000.tif")
    write_map(folder / "01_GT/SEG/man_seg001.tif", 5, 7)
    write_map(folder / "01_GT/TRA/man_track000.tif", 9)
    write_map(folder / "02_GT/SEG/man_seg000.tif", 3)
    return folder


def test_cell_tracking_challenge(tmp_path: Path) -> None:
    data = read(cells(tmp_path))
    assert found(data) == {"01/t001.tif": [5, 7], "02/t000.tif": [3]}
    (note,) = data.problems
    assert note.what == "2 images of 01 have no map in it" and (note.severity, note.count) == ("note", 2)


def test_silver_truth_where_it_has_more(tmp_path: Path) -> None:
    cells(tmp_path)
    for number in (0, 1):
        write_map(tmp_path / f"01_ST/SEG/man_seg{number:03d}.tif", 4)
    assert found(read(tmp_path)) == {"01/t000.tif": [4], "01/t001.tif": [4], "02/t000.tif": [3]}


def test_maps_of_planes_and_without_an_image_are_told(tmp_path: Path) -> None:
    cells(tmp_path)
    write_map(tmp_path / "02_GT/SEG/man_seg_000_003.tif", 3)
    write_map(tmp_path / "02_GT/SEG/man_seg009.tif", 3)
    told = "\n".join(map(str, read(tmp_path).problems))
    assert "man_seg_000_003.tif is the map of one plane of a volume" in told
    assert "man_seg009.tif: it has no image" in told


def test_nuinsseg(tmp_path: Path) -> None:
    for organ, area in (("human liver", 5), ("mouse heart", 6)):
        image(tmp_path / organ / "tissue images/a_1.png")
        write_map(tmp_path / organ / "label masks/a_1.tif", area)
    data = read(tmp_path)
    assert found(data) == {"human liver/a_1.png": [5], "mouse heart/a_1.png": [6]} and not data.problems
    convert(tmp_path, tmp_path / "out", "coco")
    assert sorted(found(read(tmp_path / "out")).values()) == [[5], [6]]


def test_maps_that_the_studio_has_saved_go_before(tmp_path: Path) -> None:
    write_map(cells(tmp_path) / "labels/all/01/t001.png", 8)
    for images in (None, tmp_path):
        assert found(read(tmp_path, images=images)) == {"01/t001.tif": [8], "02/t000.tif": [3]}


def test_maps_are_no_images_where_the_users_folder_has_both(tmp_path: Path) -> None:
    image(tmp_path / "daylight/a.png")
    write_map(tmp_path / "labels/a.png", 5)
    data = read(tmp_path, "label-maps", images=tmp_path)
    assert found(data) == {"a.png": [5]} and not data.problems
    assert data.splits["all"].path(0) == tmp_path / "daylight/a.png"
