"""Shapes as the tools that draw them write them: each is read, or told with its reason."""

from __future__ import annotations

import base64
import io
import json
import struct
import zipfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from foreign_sets import SIZE, SQUARE, coco, image, labels
from PIL import Image

from eachmask import UserError
from eachmask.data import Dataset, read
from eachmask.data.check.doctor import examine
from eachmask.data.targets import masks_of

CORNERS = np.reshape(SQUARE, (-1, 2)).tolist()
PERCENT = (np.array(CORNERS) * 100 / [64, 48]).tolist()


def said(data: Dataset) -> str:
    return "\n".join(map(str, data.problems))


def areas(data: Dataset) -> list[list[int]]:
    split = data.splits["all"]
    return [masks_of(split.targets(i)).area().tolist() for i in range(len(split))]


# YOLO -----------------------------------------------------------------------------------------------


def test_numbers_of_tracks_behind_tabs(tmp_path: Path) -> None:
    image(tmp_path / "a.png")
    lines = [[n, 0.1, 0.1, 0.3, 0.1, 0.3, 0.4, 7 + n] for n in (0, 1)]
    (tmp_path / "a.txt").write_text("\n".join("\t".join(map(str, line)) for line in lines))
    (tmp_path / "classes.txt").write_text("nut\nbolt")
    data = read(tmp_path)
    assert labels(data) == [["nut", "bolt"]] and "numbers of tracks" in said(data)


# CVAT -----------------------------------------------------------------------------------------------


def test_points_of_tracks_are_told(tmp_path: Path) -> None:
    for number in range(2):
        image(tmp_path / f"images/frame_{number:06d}.png")
    points = ";".join(f"{x},{y}" for x, y in CORNERS)
    shapes = [
        f'<track label="nut"><polygon frame="0" outside="0" points="{points}"/></track>',
        '<track label="tip"><points frame="0" outside="0" points="3,3"/><points frame="1" outside="1"/></track>',
        '<track label="arm"><skeleton frame="1"><points label="a" outside="0" points="3,3"/></skeleton></track>',
    ]
    (tmp_path / "annotations.xml").write_text(f"<annotations>{''.join(shapes)}</annotations>")
    data = read(tmp_path)
    assert labels(data) == [["nut"], []] and [c.name for c in data.categories] == ["nut"]
    assert "points 2 of frame_000000.png: a points has no area" in said(data)
    assert "skeleton 1 of frame_000001.png: a skeleton has no area" in said(data)


def test_shapes_without_numbers_are_told_in_plain_words(tmp_path: Path) -> None:
    image(tmp_path / "a.png")
    shapes = '<polygon label="nut" points=""/><polygon label="nut" points="5,5;20,5;20,20;5,20"/>'
    one = f'<image id="0" name="a.png" width="64" height="48">{shapes}</image>'
    (tmp_path / "annotations.xml").write_text(f"<annotations>{one}</annotations>")
    data = read(tmp_path)
    assert areas(data) == [[225]] and "polygon 1 of a.png: it cannot be read (it holds what is no number)" in said(data)


# LabelMe --------------------------------------------------------------------------------------------


def labelme(folder: Path, *shapes: dict[str, Any]) -> Dataset:
    image(folder / "a.png")
    content = {"shapes": list(shapes), "imagePath": "a.png", "imageHeight": 48, "imageWidth": 64}
    (folder / "a.json").write_text(json.dumps(content))
    return read(folder)


def test_a_quadrilateral_is_an_outline(tmp_path: Path) -> None:
    assert areas(labelme(tmp_path, {"label": "nut", "shape_type": "quadrilateral", "points": CORNERS})) == [[225]]


def test_other_json_is_told_in_plain_words(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("[1, 2]")
    data = labelme(tmp_path, {"label": "nut", "points": CORNERS})
    assert areas(data) == [[225]] and "no LabelMe file (it has another form than expected)" in said(data)


def test_shapes_that_are_not_known_are_no_lines(tmp_path: Path) -> None:
    odd = {"label": "nut", "shape_type": "ellipse", "points": CORNERS[:3]}
    data = labelme(tmp_path, odd, {"label": "nut", "points": CORNERS})
    assert areas(data) == [[225]] and data.problems[0].severity == "error"
    assert "shape 1: it cannot be read (shapes of the type 'ellipse' are not known)" in said(data)


# Label Studio ---------------------------------------------------------------------------------------


def region(kind: str, names: list[str], **value: Any) -> dict[str, Any]:
    value = value or {"points": PERCENT}
    size = {"original_width": 64, "original_height": 48, "from_name": "x", "id": "a"}
    return {**size, "type": kind, "value": {**value, kind: names}}


def label_studio(folder: Path, *regions: dict[str, Any], **task: Any) -> Dataset:
    image(folder / "a.png")
    own = {"annotations": [{"result": list(regions)}], **task}
    (folder / "export.json").write_text(json.dumps([{"data": {"image": "a.png"}, **own}]))
    return read(folder)


def bit_mask(channels: int) -> dict[str, Any]:
    pixels = np.zeros((48, 64, channels), np.uint8)
    pixels[5:20, 5:20, -1] = 255
    text = base64.b64encode(cv2.imencode(".png", pixels)[1].tobytes()).decode()
    return region("bitmasklabels", ["nut"], imageDataURL=f"data:image/png;base64,{text}")


def test_bit_masks(tmp_path: Path) -> None:
    data = label_studio(tmp_path, bit_mask(4))
    assert labels(data) == [["nut"]] and areas(data) == [[225]] and not data.problems


def test_bit_masks_without_transparency_are_named(tmp_path: Path) -> None:
    assert "its imageDataURL is no PNG with transparency" in said(label_studio(tmp_path, bit_mask(3)))


@pytest.mark.parametrize(
    ("names", "wanted", "told"),
    [([], "object", "regions without a label: 1"), (["nut", "bolt"], "nut", "regions with several labels: 1")],
)
def test_regions_of_no_label_or_several(tmp_path: Path, names: list[str], wanted: str, told: str) -> None:
    data = label_studio(tmp_path, region("polygonlabels", names))
    assert labels(data) == [[wanted]] and told in said(data)


def test_the_image_of_a_task_is_what_ends_as_one(tmp_path: Path) -> None:
    shape = region("polygonlabels", ["nut"])
    data = label_studio(tmp_path, shape, data={"caption": "hello", "photo": "s3://b/a.png?sig=1"})
    assert labels(data) == [["nut"]] and not data.problems


def test_tasks_that_were_skipped_are_told(tmp_path: Path) -> None:
    shape = region("polygonlabels", ["nut"])
    cancelled = {"result": [shape], "was_cancelled": True}
    skipped = label_studio(tmp_path, annotations=[cancelled])
    assert areas(skipped) == [[]] and "nobody has annotated, or that were skipped: 1" in said(skipped)
    nothing: dict[str, Any] = {"result": []}  # was found there by somebody
    assert not label_studio(tmp_path, annotations=[cancelled, nothing]).problems


# QuPath and ImageJ ----------------------------------------------------------------------------------

POLYGON = {"type": "Polygon", "coordinates": [[*CORNERS, CORNERS[0]]]}


def geojson(folder: Path, content: Any) -> Dataset:
    image(folder / "a.png")
    (folder / "a.geojson").write_text(json.dumps(content))
    return read(folder)


@pytest.mark.parametrize("content", [POLYGON, {"type": "GeometryCollection", "geometries": [POLYGON]}])
def test_a_geometry_alone_is_an_object(tmp_path: Path, content: Any) -> None:
    data = geojson(tmp_path, content)
    assert areas(data) == [[225]] and not data.problems


def test_coordinates_on_a_map_are_told(tmp_path: Path) -> None:
    ring = [[-115.2, 36.1], [-115.1, 36.1], [-115.1, 36.2], [-115.2, 36.1]]
    feature = {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}, "properties": {}}
    told = said(geojson(tmp_path, {"type": "FeatureCollection", "crs": {"type": "name"}, "features": [feature]}))
    assert "places on a map (crs)" in told and "feature 1: it covers no pixel, since it lies outside" in told


def region_of_imagej(position: int, second: int = 0) -> bytes:
    head = bytearray(128)
    struct.pack_into(">4sHBx4h", head, 0, b"Iout", 227, 1, 5, 5, 20, 20)  # a rectangle
    struct.pack_into(">ii", head, 56, position, 64)
    struct.pack_into(">i", head, 64 + 8, second)  # of a hyperstack: Z
    return bytes(head)


@pytest.mark.parametrize(
    ("places", "told"), [([(1, 0), (2, 0)], True), ([(0, 1), (0, 2)], True), ([(3, 0)] * 2, False)]
)
def test_regions_on_several_slices_are_told(tmp_path: Path, places: list[tuple[int, int]], told: bool) -> None:
    image(tmp_path / "a.png")
    with zipfile.ZipFile(tmp_path / "a_rois.zip", "w") as archive:
        for number, place in enumerate(places):
            archive.writestr(f"{number}.roi", region_of_imagej(*place))
    data = read(tmp_path)
    assert areas(data) == [[225, 225]] and ("lie on 2 slices of a stack" in said(data)) == told


def test_outlines_beside_the_image_are_said_to_be_there(tmp_path: Path) -> None:
    image(tmp_path / "a.png")
    far = [n + 500 for n in SQUARE]
    data = read(coco(tmp_path / "a.json", annotation={"segmentation": [far], "bbox": [505, 505, 15, 15]}))
    assert "annotation 1 of a.png: it covers no pixel, since it lies outside" in said(data)


# Maps -----------------------------------------------------------------------------------------------


def number_map() -> Any:
    numbers = np.zeros(SIZE, np.uint16)
    numbers[5:20, 5:20], numbers[25:40, 30:50] = 1, 2
    return numbers


def maps(folder: Path, numbers: Any, name: str = "a.png", of: str = "a.png") -> Dataset:
    image(folder / "images" / of)
    (folder / "masks").mkdir(exist_ok=True)
    Image.fromarray(numbers).save(folder / "masks" / name)
    return read(folder)


@pytest.mark.parametrize("void", [255, 65535])
def test_void_among_the_numbers_of_objects_is_told(tmp_path: Path, void: int) -> None:
    numbers = number_map().astype(np.uint8 if void == 255 else np.uint16)
    assert not maps(tmp_path, numbers).problems
    numbers[:3] = void
    assert f"in 1 map {void} stands far above all other numbers, and is an object" in said(maps(tmp_path, numbers))
    numbers[numbers == 2] = void - 1  # as many objects
    assert not maps(tmp_path, numbers).problems


@pytest.mark.parametrize(("name", "of"), [("a.ome.tif", "a.png"), ("a.tif", "a.ome.tif"), ("a.ome.tif", "a.ome.tif")])
def test_maps_of_ome(tmp_path: Path, name: str, of: str) -> None:
    assert areas(maps(tmp_path, number_map(), name, of)) == [[225, 300]]


def test_a_background_that_is_not_0_is_told(tmp_path: Path) -> None:
    data = maps(tmp_path, number_map() + 1)
    assert areas(data) == [[64 * 48 - 525, 225, 300]] and "not one pixel is 0" in said(data)


@pytest.mark.parametrize("of", ["color", "white", "black"])
def test_files_of_one_mask_each_by_color_or_transparency(tmp_path: Path, of: str) -> None:
    image(tmp_path / "a/images/a.png")
    (tmp_path / "a/masks").mkdir()
    inside = (number_map() == 1).astype(np.uint8) * 255
    opaque = np.full(SIZE, 255, np.uint8)
    color = {"color": inside, "white": opaque, "black": np.zeros(SIZE, np.uint8)}[of]
    pixels = np.dstack([color] * 3 + [opaque if of == "color" else inside])
    Image.fromarray(pixels).save(tmp_path / "a/masks/1.png")
    data = read(tmp_path)
    assert areas(data) == [[225]] and not data.problems


def test_masks_without_black_are_told(tmp_path: Path) -> None:
    image(tmp_path / "a/images/a.png")
    (tmp_path / "a/masks").mkdir()
    purple, yellow = (68, 1, 84), (253, 231, 37)  # as plotting programs save a mask
    pixels = np.where((number_map() == 1)[..., None], yellow, purple).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a/masks/1.png")
    assert "1.png: the mask covers all of the image; make it black where the object is not" in said(read(tmp_path))


def test_files_of_one_mask_each_in_any_tiff(tmp_path: Path) -> None:
    image(tmp_path / "a/images/a.tif")
    (tmp_path / "a/masks").mkdir()
    tifffile.imwrite(tmp_path / "a/masks/1.tif", (number_map() == 1).astype(np.float32), compression="lzma")
    assert areas(read(tmp_path)) == [[225]]


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


def test_pointers_of_git_lfs_are_named(tmp_path: Path) -> None:
    image(tmp_path / "images/a.png")
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks/a.png").write_text(POINTER)
    with pytest.raises(UserError, match="git lfs pull fetches"):
        read(tmp_path)
    for name in ("instances_train.json", "a.json"):
        (tmp_path / name).write_text(POINTER)
        with pytest.raises(UserError, match=f"{name} is a pointer of Git LFS, .* git lfs pull fetches the file"):
            read(tmp_path / name)


def test_pages_behind_the_first_are_told(tmp_path: Path) -> None:
    coco(tmp_path / "instances_train.json", name="a.tif")
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((3, *SIZE), np.uint8), photometric="minisblack")
    told = "\n".join(map(str, examine(tmp_path).findings))
    assert "a.tif: it has 3 pages, and its annotations are taken to be of the first" in told


def cellpose(folder: Path, content: Any) -> Dataset:
    image(folder / "a.tif")
    np.save(folder / "a_seg.npy", content, allow_pickle=True)
    return read(folder)


@pytest.mark.parametrize(
    "content", [{"masks": number_map().astype(np.float32)}, np.array([{"masks": number_map()}], object)]
)
def test_variants_of_cellposes_files(tmp_path: Path, content: Any) -> None:
    assert areas(cellpose(tmp_path, content)) == [[225, 300]]


def test_cellposes_files_without_masks_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a_seg.npy: it holds no masks; save the objects from Cellpose again"):
        cellpose(tmp_path, {"outlines": number_map()})


# Annotations made before EXIF turned the image -------------------------------------------------------


def turned(path: Path) -> None:
    photo = Image.new("RGB", SIZE[::-1])
    exif = photo.getexif()
    exif[274] = 6
    buffer = io.BytesIO()
    photo.save(buffer, "JPEG", exif=exif)
    path.write_bytes(buffer.getvalue())


def voc(folder: Path, height: int, width: int) -> None:
    size = f"<size><width>{width}</width><height>{height}</height></size>"
    box = "<bndbox><xmin>6</xmin><ymin>6</ymin><xmax>60</xmax><ymax>40</ymax></bndbox>"
    entry = f"<object><name>nut</name>{box}</object>"
    (folder / "a.xml").write_text(f"<annotation><filename>a.jpg</filename>{size}{entry}</annotation>")


def test_boxes_on_the_stored_pixels_keep_them(tmp_path: Path) -> None:
    turned(tmp_path / "a.jpg")
    voc(tmp_path, *SIZE)
    assert areas(read(tmp_path)) == [[55 * 35]] and "leaves" not in said(read(tmp_path))
    assert "ignore the EXIF orientation" in "\n".join(map(str, examine(tmp_path).findings))
    voc(tmp_path, 0, 0)  # says nothing
    assert areas(read(tmp_path)) == [[(48 - 5) * 35]]


def test_boxes_on_a_larger_copy_are_of_that(tmp_path: Path) -> None:
    image(tmp_path / "a.jpg")
    voc(tmp_path, 96, 128)
    target = read(tmp_path).splits["all"].targets(0)
    assert target.image_size == (96, 128) and masks_of(target).area().tolist() == [55 * 35]
    assert "the annotations are for 128 x 96, the image is 64 x 48" in "\n".join(map(str, examine(tmp_path).findings))
    for height, width in ((90, 128), (49, 65)):  # of no copy, and miscounted
        voc(tmp_path, height, width)
        assert read(tmp_path).splits["all"].targets(0).image_size == SIZE


def test_regions_of_label_studio_on_the_stored_pixels(tmp_path: Path) -> None:
    turned(tmp_path / "a.jpg")
    shape = region("polygonlabels", ["nut"])
    task = {"data": {"image": "a.jpg"}, "annotations": [{"result": [shape]}]}
    (tmp_path / "export.json").write_text(json.dumps([task]))
    split = read(tmp_path).splits["all"]
    assert split.targets(0).image_size == SIZE and masks_of(split.targets(0)).area().tolist() == [225]


# VIA and VOC ----------------------------------------------------------------------------------------


def test_numbers_that_make_no_points_are_told_in_plain_words(tmp_path: Path) -> None:
    image(tmp_path / "a.png")
    shape = {"name": "polygon", "all_points_x": [5, 20, 20], "all_points_y": [5, 5, 20, 20]}
    regions = [{"shape_attributes": shape, "region_attributes": {"class": "nut"}}]
    (tmp_path / "via.json").write_text(json.dumps({"a": {"filename": "a.png", "size": 1, "regions": regions}}))
    assert "region 1: it cannot be read (it has 3 x and 4 y)" in said(read(tmp_path))


@pytest.mark.parametrize(
    ("chosen", "wanted", "told"),
    [
        ({}, "object", "region 1: it has no class: it is an object"),
        ({"type": {"nut": True, "bolt": True}}, "nut", "region 1: it has several classes, and is of the first"),
        ({"type": {"nut": False, "bolt": True}}, "bolt", ""),
    ],
)
def test_regions_of_via_of_no_class_or_several(tmp_path: Path, chosen: Any, wanted: str, told: str) -> None:
    image(tmp_path / "a.png")
    shape = {"name": "rect", "x": 5, "y": 5, "width": 15, "height": 15}
    regions = [{"shape_attributes": shape, "region_attributes": chosen}]
    (tmp_path / "via.json").write_text(json.dumps({"a": {"filename": "a.png", "size": 1, "regions": regions}}))
    data = read(tmp_path)
    assert labels(data) == [[wanted]] and told in said(data) and bool(told) == bool(data.problems)


def test_objects_without_a_box_are_told_in_plain_words(tmp_path: Path) -> None:
    image(tmp_path / "a.png")
    box = "<bndbox><xmin>6</xmin><ymin>6</ymin><xmax>20</xmax><ymax>20</ymax></bndbox>"
    objects = "".join(f"<object><name>nut</name>{own}</object>" for own in (box, "<bndbox><xmin>6</xmin></bndbox>"))
    (tmp_path / "a.xml").write_text(f"<annotation><filename>a.png</filename>{objects}</annotation>")
    data = read(tmp_path)
    assert areas(data) == [[225]] and "object 2: it cannot be read (it has no bndbox of four numbers)" in said(data)
