"""What exports say by halves: read as it is meant, or said; never left out or changed without a word."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from foreign_sets import SIZE, SQUARE, coco, image, labels
from PIL import Image
from pycocotools import mask as coco_mask

import eachmask
from eachmask import UserError
from eachmask.data import Dataset, read
from eachmask.structures import SemanticMap

LINE = "0 0.1 0.1 0.3 0.1 0.3 0.4 0.1 0.4\n"


def said(data: Dataset) -> str:
    return "\n".join(map(str, data.problems))


# COCO -----------------------------------------------------------------------------------------------


def run_lengths() -> Any:
    return coco_mask.merge(coco_mask.frPyObjects([SQUARE], *SIZE))


def plain(rle: Any) -> Any:
    flat = coco_mask.decode(rle).T.reshape(-1)
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    return np.diff([0, *edges.tolist(), flat.size]).astype(float).tolist()


@pytest.mark.parametrize("spelling", ["of bytes", "in a list", "floats"])
def test_spellings_of_run_lengths(tmp_path: Path, spelling: str) -> None:
    rle = run_lengths()
    size = [float(n) for n in SIZE]
    found: dict[str, Any] = {
        "of bytes": {"size": size, "counts": str(rle["counts"])},
        "in a list": [{"size": size, "counts": rle["counts"].decode()}],
        "floats": {"size": size, "counts": plain(rle)},
    }
    image(tmp_path / "a.png")
    data = read(coco(tmp_path / "a.json", annotation={"segmentation": found[spelling]}))
    assert data.splits["all"].targets(0).masks.area().tolist() == [int(coco_mask.area(rle))]


def test_annotations_without_an_id_are_not_the_same(tmp_path: Path) -> None:
    image(tmp_path / "a.png")
    row = {"image_id": 1, "category_id": 1, "segmentation": [SQUARE], "bbox": [5, 5, 15, 15]}
    data = read(coco(tmp_path / "a.json", annotations=[row, row, {**row, "category_id": 7}]))
    assert "same id" not in said(data) and "None" not in said(data) and data.splits["all"].num_objects_of(0) == 2


def test_annotations_of_an_image_that_is_listed_twice_are_said_to_be_so(tmp_path: Path) -> None:
    image(tmp_path / "a.png")
    entries = [{"id": number, "file_name": "a.png", "width": 64, "height": 48} for number in (1, 2)]
    data = read(coco(tmp_path / "a.json", annotation={"image_id": 2}, images=entries))
    assert "image 2: it is listed twice" in said(data) and "not in the list of images" not in said(data)


def test_the_empty_class_above_all_others_is_left_out(tmp_path: Path) -> None:
    image(tmp_path / "a.png")
    root = {"id": 0, "name": "parts", "supercategory": "none"}
    classes = [root, *({"id": n, "name": name, "supercategory": "parts"} for n, name in ((1, "nut"), (2, "bolt")))]
    data = read(coco(tmp_path / "a.json", categories=classes))
    assert [c.name for c in data.categories] == ["nut", "bolt"] and labels(data) == [["nut"]]
    assert "class parts: it has no objects and is the supercategory of all others" in said(data)
    own = read(coco(tmp_path / "a.json", categories=classes, annotation={"category_id": 0}))
    assert [c.name for c in own.categories] == ["parts", "nut", "bolt"]


def test_a_class_may_be_called_by_a_number(tmp_path: Path) -> None:
    image(tmp_path / "a.png")
    coco(tmp_path / "a.json", categories=[{"id": 1, "name": "3"}])
    row = {"file_name": "a.png", "category_name": "3", "segmentation": [SQUARE], "score": 0.9}
    (tmp_path / "r.json").write_text(json.dumps([row]))
    found = eachmask.evaluate(tmp_path / "r.json", tmp_path / "a.json", resamples=0, boundary=False)
    assert found.value("ap") == pytest.approx(1)


def test_shares_of_the_image_are_named(tmp_path: Path) -> None:
    image(tmp_path / "a.png")
    shares = {"segmentation": [[n / 64 for n in SQUARE]], "bbox": [0.1, 0.1, 0.2, 0.2]}
    assert "look like shares of the image" in said(read(coco(tmp_path / "a.json", annotation=shares)))


@pytest.mark.parametrize("names", [["annotations"], ["images"], ["images", "annotations"]])
def test_lists_may_be_objects_of_ids(tmp_path: Path, names: list[str]) -> None:
    rows = [
        {"id": n, "image_id": 1, "category_id": 1, "segmentation": [SQUARE], "bbox": [5, 5, 15, 15]} for n in (1, 2)
    ]
    content = json.loads(coco(tmp_path / "a.json", annotations=rows).read_text())
    for name in names:
        content[name] = {f"a{row['id']}": row for row in content[name]}
    (tmp_path / "a.json").write_text(json.dumps(content))
    image(tmp_path / "a.png")
    data = read(tmp_path)
    assert data.splits["all"].num_objects_of(0) == 2 and not data.problems


@pytest.mark.parametrize("of", [{"category_id": "Zelle für Ü"}, {"category_id": None, "category_name": "Zelle für Ü"}])
def test_classes_by_name(tmp_path: Path, of: dict[str, Any]) -> None:
    image(tmp_path / "a.png")
    content = json.loads(coco(tmp_path / "a.json", annotation=of).read_text())
    if of["category_id"] is None:
        del content["annotations"][0]["category_id"]
        (tmp_path / "a.json").write_text(json.dumps(content))
    data = read(tmp_path)
    assert labels(data) == [["Zelle für Ü"]] and not data.problems


@pytest.mark.parametrize("called", ["a.png", "a"])
def test_images_by_their_names(tmp_path: Path, called: str) -> None:
    image(tmp_path / "a.png")
    data = read(coco(tmp_path / "a.json", annotation={"image_id": called}))
    assert data.splits["all"].num_objects_of(0) == 1 and not data.problems


def test_names_of_images_without_a_suffix(tmp_path: Path) -> None:
    image(tmp_path / "images/a.png")
    data = read(coco(tmp_path / "a.json", name="a"))
    assert data.splits["all"].path(0) == tmp_path / "images/a.png" and not data.problems


@pytest.mark.parametrize("outline", [{}, {"segmentation": []}])
def test_corners_for_boxes_are_told(tmp_path: Path, outline: dict[str, Any]) -> None:
    image(tmp_path / "a.png")
    ring = {"segmentation": [[40, 30, 60, 30, 60, 46, 40, 46]]} | outline
    wrong = read(coco(tmp_path / "a.json", annotation={**ring, "bbox": [40, 30, 60, 46]}))
    assert "look like corners" in said(wrong)
    assert "look like corners" not in said(
        read(coco(tmp_path / "a.json", annotation={**ring, "bbox": [40, 30, 20, 16]}))
    )


# YOLO -----------------------------------------------------------------------------------------------


def yolo(folder: Path, yaml: str = "train: images/train\nnames: [nut]\n", text: str = LINE) -> Path:
    image(folder / "images/train/a.png")
    (folder / "labels/train").mkdir(parents=True)
    (folder / "labels/train/a.txt").write_text(text)
    (folder / "data.yaml").write_text(yaml)
    return folder


@pytest.mark.parametrize("name", ["no", "Yes", "on", "01", "1e3", "1_0", "12:30", "2024-01-01", "~"])
def test_classes_are_called_as_they_are_written(tmp_path: Path, name: str) -> None:
    data = read(yolo(tmp_path, f"train: images/train\nnames:\n  0: {name}\n"))
    assert [c.name for c in data.categories] == [name]


def test_backslashes_in_quotes(tmp_path: Path) -> None:
    assert labels(read(yolo(tmp_path, 'train: "images\\train"\nnames: [nut]\n')), "train") == [["nut"]]


def test_what_is_no_number_and_no_list_is_quoted(tmp_path: Path) -> None:
    folder = yolo(tmp_path, text=LINE.replace("0.3 0.1", "0.3;0.1"))
    assert "line 1: it holds '0.3;0.1', which is no number" in said(read(folder))
    (folder / "data.yaml").write_text("train: images/train\nnames: nut, bolt\n")
    with pytest.raises(UserError, match=r"names: must be a list, such as \[nut, bolt\], and is 'nut, bolt'"):
        read(folder)


@pytest.mark.parametrize("seen", [[2, 0], [2, 1, 2, 0], [2, 2, 1]])
def test_keypoints_that_nobody_said_are_no_outlines(tmp_path: Path, seen: list[int]) -> None:
    points = " ".join(f"0.4 0.5 {own}" for own in seen)
    folder = yolo(tmp_path, text=f"0 0.5 0.5 0.2 0.2 {points}\n")
    assert f"it looks like a box and {len(seen)} keypoints, and data.yaml has no kpt_shape" in said(read(folder))
    (folder / "data.yaml").write_text(f"train: images/train\nnames: [nut]\nkpt_shape: [{len(seen)}, 3]\n")
    assert labels(read(folder), "train") == [["nut"]]


@pytest.mark.parametrize("place", ["{0}/{1}", "{1}/{0}"])
def test_splits_of_texts_without_data_yaml(tmp_path: Path, place: str) -> None:
    for split in ("train", "val"):
        image(tmp_path / place.format("images", split) / f"{split}.png")
        text = tmp_path / place.format("labels", split) / f"{split}.txt"
        text.parent.mkdir(parents=True)
        text.write_text(LINE)
    data = read(tmp_path)
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 1, "val": 1}


def test_the_list_of_classes_beside_the_texts(tmp_path: Path) -> None:
    folder = yolo(tmp_path)
    (folder / "data.yaml").unlink()
    (folder / "labels/classes.txt").write_text("nut\nbolt\n")  # as LabelImg saves it
    data = read(folder)
    assert [c.name for c in data.categories] == ["nut", "bolt"] and not data.problems


def test_a_count_of_classes_that_is_not_theirs_is_said(tmp_path: Path) -> None:
    assert "3 classes" in said(read(yolo(tmp_path, "train: images/train\nnc: 3\nnames: [nut]\n")))


def test_images_without_one_text_are_said(tmp_path: Path) -> None:
    yolo(tmp_path)
    (tmp_path / "labels").rename(tmp_path / "annotations")
    assert "not one of its 1 image has a text" in said(read(tmp_path)).replace("images", "image")


@pytest.mark.parametrize("end", [" 0.9 {}\n", " {}\n"])
def test_numbers_of_tracks_are_no_coordinates(tmp_path: Path, end: str) -> None:
    data = read(yolo(tmp_path, text="".join(LINE.rstrip() + end.format(n) for n in (1, 2))))
    alone = read(yolo(tmp_path / "alone")).splits["train"].targets(0)
    assert data.splits["train"].targets(0).masks.area().tolist() == alone.masks.area().tolist() * 2
    assert "numbers of tracks" in said(data)


def test_missing_images_are_to_be_named_by_images(tmp_path: Path) -> None:
    yolo(tmp_path, "train: train.txt\nnames: [nut]\n")
    (tmp_path / "train.txt").write_text("images/train/b.png\nimages/train/a.png\n")
    assert "b.png: the image is missing; put it there, or name the folder of the images with --images" in said(
        read(tmp_path)
    )


# Drawing programs -----------------------------------------------------------------------------------


def test_the_class_is_not_any_attribute_of_via(tmp_path: Path) -> None:
    image(tmp_path / "a.png")
    polygon = {"name": "polygon", "all_points_x": SQUARE[::2], "all_points_y": SQUARE[1::2]}
    region = {"shape_attributes": polygon, "region_attributes": {"id": "17", "type": "nut"}}
    (tmp_path / "via.json").write_text(json.dumps({"a.png1": {"filename": "a.png", "regions": [region]}}))
    data = read(tmp_path)
    assert labels(data) == [["nut"]] and "its attribute 'type', and not 'id'" in said(data)


@pytest.mark.parametrize("query", ["X-Amz-Credential=AK%2F2024%2Fs3&X-Amz-Signature=ab", "sv=1&sig=a%2Fb%3D"])
def test_signatures_are_no_names(tmp_path: Path, query: str) -> None:
    image(tmp_path / "p0.png")
    value = {"x": 10, "y": 10, "width": 20, "height": 20, "rotation": 0, "rectanglelabels": ["nut"]}
    result = {"type": "rectanglelabels", "value": value, "original_width": 64, "original_height": 48}
    task = {"data": {"image": f"https://b.s3.amazonaws.com/x/p0.png?{query}"}, "annotations": [{"result": [result]}]}
    (tmp_path / "tasks.json").write_text(json.dumps([task]))
    assert labels(read(tmp_path)) == [["nut"]]


def test_images_in_another_folder_of_the_set(tmp_path: Path) -> None:
    for kind in ("cvat", "labelme", "qupath"):
        image(tmp_path / kind / "images/default/a.png")
        (tmp_path / kind / "annotations").mkdir()
    points = ";".join(f"{x},{y}" for x, y in zip(SQUARE[::2], SQUARE[1::2], strict=True))
    shape = f'<polygon label="nut" points="{points}"/>'
    (tmp_path / "cvat/annotations.xml").write_text(
        f'<annotations><image id="0" name="a.png" width="64" height="48">{shape}</image></annotations>'
    )
    pairs = [list(pair) for pair in zip(SQUARE[::2], SQUARE[1::2], strict=True)]
    content = {"imagePath": "a.png", "imageWidth": 64, "imageHeight": 48, "shapes": [{"label": "nut", "points": pairs}]}
    (tmp_path / "labelme/annotations/a.json").write_text(json.dumps(content))
    feature = {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [[*pairs, pairs[0]]]}}
    feature["properties"] = {"classification": {"name": "nut"}}
    (tmp_path / "qupath/annotations/a.geojson").write_text(json.dumps([feature]))
    for kind in ("cvat", "labelme", "qupath"):
        data = read(tmp_path / kind)
        split = next(iter(data.splits.values()))
        assert split.path(0).is_file() and split.targets(0).label_names == ["nut"], kind


def test_maps_of_voc_in_folders_as_cvat_writes_them(tmp_path: Path) -> None:
    image(tmp_path / "JPEGImages/b/a.png")
    for folder in ("SegmentationObject", "SegmentationClass"):
        place = tmp_path / folder / "b/a.png"
        place.parent.mkdir(parents=True)
        Image.fromarray(np.dstack([numbers() * 128, *[numbers() * 0] * 2])).save(place)
    (tmp_path / "labelmap.txt").write_text("background:0,0,0::\nnut:128,0,0::\n")
    assert labels(read(tmp_path)) == [["nut"]]


def test_a_compressed_file_is_to_be_unpacked(tmp_path: Path) -> None:
    (tmp_path / "a.json.gz").write_bytes(gzip.compress(b"{}"))
    with pytest.raises(UserError, match="gunzip"):
        read(tmp_path / "a.json.gz")


# Label maps -----------------------------------------------------------------------------------------


def maps(folder: Path, pixels: Any, **options: Any) -> Path:
    image(folder / "images/a.png")
    (folder / "masks").mkdir()
    tifffile.imwrite(folder / "masks/a.tif", pixels, **options)
    return folder


def numbers() -> Any:
    found = np.zeros(SIZE, np.uint8)
    found[5:20, 5:20] = 1
    return found


@pytest.mark.parametrize(
    ("pixels", "why"),
    [
        (np.stack([numbers(), numbers()]), "it has 2 pages, and a label map has one"),
        (numbers().astype(np.int16) - 1, "it has the number -1"),
        (numbers() * np.float32(0.5), "it has the value 0.5"),
        (np.where(numbers() > 0, 1, np.nan).astype(np.float32), "it has the value nan"),
    ],
)
def test_why_a_map_is_no_label_map(tmp_path: Path, pixels: Any, why: str) -> None:
    with pytest.raises(UserError, match=why) as error:
        read(maps(tmp_path, pixels, photometric="minisblack"))
    assert str(error.value).count("a.tif") == 1


def test_colors_are_no_label_map(tmp_path: Path) -> None:
    image(tmp_path / "images/a.png")
    (tmp_path / "masks").mkdir()
    Image.fromarray(np.dstack([numbers() * 255, numbers(), numbers()])).save(tmp_path / "masks/a.png")
    with pytest.raises(UserError, match="it is painted in colors"):
        read(tmp_path)


def test_masks_of_one_bit(tmp_path: Path) -> None:
    data = read(maps(tmp_path, numbers() > 0, photometric="minisblack"))
    assert data.splits["all"].targets(0).masks.area().tolist() == [225]


def test_outlines_of_cellpose_are_named(tmp_path: Path) -> None:
    image(tmp_path / "a.png")
    (tmp_path / "a_cp_outlines.txt").write_text("5,5,20,5,20,20,5,20\n")
    with pytest.raises(UserError, match="Cellpose's outlines, which is not read"):
        read(tmp_path)


@pytest.mark.parametrize("maps_in", ["masks", "labels"])
def test_maps_in_the_folders_of_splits(tmp_path: Path, maps_in: str) -> None:
    for split in ("train", "valid"):
        image(tmp_path / split / "images/a.png")
        (tmp_path / split / maps_in).mkdir()
        tifffile.imwrite(tmp_path / split / maps_in / "a.tif", numbers())
    data = read(tmp_path)
    assert set(data.splits) == {"train", "val"} and labels(data, "val") == [["object"]]
    (tmp_path / "classes.txt").write_bytes("Wasser\nFläche\n".encode("utf-16"))
    of_classes = read(tmp_path, target=SemanticMap)
    assert set(of_classes.splits) == {"train", "val"} and of_classes.categories[1].name == "Fläche"


def test_texts_of_yolo_alone_may_have_a_mark(tmp_path: Path) -> None:
    image(tmp_path / "images/a.png")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/a.txt").write_text(LINE, encoding="utf-8-sig")
    assert labels(read(tmp_path / "labels")) == [["class 0"]]
