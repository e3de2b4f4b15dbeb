"""Data sets as other tools write them, each with the right value; made here, and the shared ones where they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from foreign_sets import OTHER, SIZE, SQUARE, coco, image, labels
from PIL import Image

from eachmask import UserError, evaluate
from eachmask.data import read
from eachmask.data.convert import convert
from eachmask.data.formats.coco_read import read_coco
from eachmask.data.formats.coco_results import read_results
from eachmask.data.formats.voc_classes import palette


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_text_files_in_any_encoding(tmp_path: Path, encoding: str) -> None:
    path = coco(tmp_path / "coco" / "instances_train.json")
    path.write_bytes(path.read_text(encoding="utf-8").encode(encoding))
    image(tmp_path / "coco" / "a.png")
    assert labels(read(tmp_path / "coco"), "train") == [["Zelle für Ü"]]

    yolo = tmp_path / "yolo"
    image(yolo / "images" / "train" / "a.png")
    (yolo / "labels" / "train").mkdir(parents=True)
    (yolo / "data.yaml").write_bytes("train: images/train\nnames: [Zelle für Ü]\n".encode(encoding))
    (yolo / "labels/train/a.txt").write_bytes("0 0.1 0.1 0.5 0.1 0.5 0.5\n".encode(encoding))
    data = read(yolo)
    assert labels(data, "train") == [["Zelle für Ü"]] and not data.problems

    shape = {"label": "Zelle für Ü", "points": np.reshape(SQUARE, (-1, 2)).tolist(), "shape_type": "polygon"}
    content = {"shapes": [shape], "imagePath": "a.png", "imageHeight": 48, "imageWidth": 64}
    image(tmp_path / "labelme" / "a.png")
    (tmp_path / "labelme/a.json").write_bytes(json.dumps(content, ensure_ascii=False).encode(encoding))
    assert labels(read(tmp_path / "labelme")) == [["Zelle für Ü"]]


def test_valid_is_a_val_split(tmp_path: Path) -> None:
    for split in ("train", "valid"):
        coco(tmp_path / split / "_annotations.coco.json")
        image(tmp_path / split / "a.png")
    assert set(read(tmp_path).splits) == {"train", "val"} and len(read(tmp_path, split="val")) == 1


@pytest.mark.parametrize(("ours", "theirs"), [("1", 1), (1, "1"), (1.0, 1), (1, 1.0), ("x", "x")])
def test_ids_of_images_as_text_or_with_a_point(tmp_path: Path, ours: Any, theirs: Any) -> None:
    images = [{"id": ours, "file_name": "a.png", "width": 64, "height": 48}]
    path = coco(tmp_path / "i.json", annotation={"image_id": theirs}, images=images)
    image(tmp_path / "a.png")
    assert len(read_coco(path, strict=True).splits["all"].targets(0)) == 1


@pytest.mark.parametrize("nothing", [[], [[]], None])
def test_a_box_without_an_outline_is_its_mask_and_is_counted(tmp_path: Path, nothing: Any) -> None:
    data = read_coco(coco(tmp_path / "i.json", annotation={"segmentation": nothing}), strict=True)
    assert data.splits["all"].targets(0).masks.area().tolist() == [225]
    assert "objects with a box and no outline: 1" in str(data.problems[0])


@pytest.mark.parametrize(
    "name",
    ["images\\1/a-ü 1.png", "..\\..\\studio\\media\\upload\\4\\a-ü 1.png", "images/a-%C3%BC%201.png",
     "/home/anna/pics/a-ü 1.png", "C:\\pics\\a-ü 1.png"],
)  # fmt: skip
def test_names_of_label_studio_are_found_inside_the_set_alone(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "set"
    path = coco(folder / "result.json", name)
    place = image(folder / "images" / "a-ü 1.png")
    assert read(folder).splits["all"].path(0).resolve() == place.resolve()
    image(folder / "more" / "a-ü 1.png")
    place.unlink()
    (folder / "more" / "a-ü 1.png").rename(tmp_path / "a-ü 1.png")
    with pytest.raises(UserError, match="result.json|set/images.* does not exist"):
        read(path).splits["all"].image(0)  # what lies outside the set is never opened


def test_labelmes_words_for_no_class(tmp_path: Path) -> None:
    points = [np.reshape(ring, (-1, 2)).tolist() for ring in (SQUARE, OTHER, SQUARE)]
    names = ("nut", "__ignore__", "_background_")
    shapes = [{"label": n, "points": p, "shape_type": "polygon"} for n, p in zip(names, points, strict=True)]
    content = {"shapes": shapes, "imagePath": "a.png", "imageHeight": 48, "imageWidth": 64}
    image(tmp_path / "a.png")
    (tmp_path / "a.json").write_text(json.dumps(content))
    data = read(tmp_path)
    assert [c.name for c in data.categories] == ["nut"] and not data.problems
    assert data.splits["all"].targets(0).crowd.tolist() == [False, True]


def voc(folder: Path, painted: bool = False) -> None:
    numbers = np.zeros(SIZE, np.uint8)
    numbers[5:20, 5:20], numbers[10:30, 30:50] = 1, 2
    image(folder / "JPEGImages" / "p.png")
    for name, values in (("SegmentationObject", [0, 1, 2]), ("SegmentationClass", [0, 2, 1])):
        pixels = np.array(values, np.uint8)[numbers]
        made = Image.fromarray(pixels)
        made.putpalette(palette())
        if painted and name == "SegmentationClass":
            made = Image.fromarray(np.array([(0, 0, 0), (184, 61, 245), (250, 50, 83)], np.uint8)[pixels])
        (folder / name).mkdir()
        (made.convert("RGB") if painted else made).save(folder / name / "p.png")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("class_names.txt", "_background_\nnut\nbolt\n"),
        ("labelmap.txt", "# label:color_rgb:parts:actions\nbackground:0,0,0::\nnut:184,61,245::\nbolt:250,50,83::\n"),
        ("classes.txt", "7 nut\n9 bolt\n"),
    ],
)
def test_classes_are_called_what_their_list_says(tmp_path: Path, name: str, text: str) -> None:
    voc(tmp_path, painted=name == "labelmap.txt")
    with pytest.raises(UserError, match="does not say what its classes are called"):
        read(tmp_path)
    (tmp_path / name).write_text(text, encoding="utf-8-sig")
    assert labels(read(tmp_path)) == [["bolt", "nut"]]


def test_the_void_of_a_labelmap_is_no_class(tmp_path: Path) -> None:
    """Datumaro lists it as a class called ``ignored``, and refuses void pixels where it is not listed."""
    voc(tmp_path, painted=True)
    rows = ["background:0,0,0::", "ignored:224,224,192::", "nut:184,61,245::", "bolt:250,50,83::"]
    (tmp_path / "labelmap.txt").write_text("\n".join(rows))
    file = tmp_path / "SegmentationClass" / "p.png"
    pixels = np.array(Image.open(file))
    pixels[:3] = 224, 224, 192
    Image.fromarray(pixels).save(file)
    data = read(tmp_path)
    assert [category.name for category in data.categories] == ["nut", "bolt"]
    assert labels(data) == [["bolt", "nut"]] and not data.problems
    convert(tmp_path, tmp_path / "again", to="voc")
    assert "ignored:224,224,192::" in (tmp_path / "again" / "labelmap.txt").read_text()


def test_without_a_list_the_xml_names_the_classes(tmp_path: Path) -> None:
    voc(tmp_path)
    (tmp_path / "Annotations").mkdir()
    entries = "".join(f"<object><name>{n}</name></object>" for n in ("nut", "bolt"))
    (tmp_path / "Annotations" / "p.xml").write_text(f"<annotation>{entries}</annotation>")
    assert labels(read(tmp_path)) == [["nut", "bolt"]]


def test_shapes_of_a_group_of_cvat_are_one_object(tmp_path: Path) -> None:
    def polygon(ring: list[int], more: str = "") -> str:
        points = ";".join(f"{x},{y}" for x, y in np.reshape(ring, (-1, 2)))
        return f'<polygon label="nut" points="{points}" {more}/>'

    shapes = polygon(SQUARE, 'group_id="3"') + polygon(OTHER, 'group_id="3"') + polygon(SQUARE, 'group_id="0"')
    text = f'<annotations><image id="0" name="a.png" width="64" height="48">{shapes}</image></annotations>'
    (tmp_path / "annotations.xml").write_text(text)
    assert read(tmp_path).splits["all"].targets(0).masks.area().tolist() == [225 + 400, 225]


def test_masks_of_jpeg_are_cut_in_the_middle(tmp_path: Path) -> None:
    image(tmp_path / "a" / "images" / "a.png")
    mask = np.zeros(SIZE, np.uint8)
    mask[10:30, 10:30] = 255
    (tmp_path / "a" / "masks").mkdir()
    cv2.imwrite(str(tmp_path / "a/masks/1.jpg"), mask, [cv2.IMWRITE_JPEG_QUALITY, 60])
    assert (cv2.imread(str(tmp_path / "a/masks/1.jpg"), 0) > 0).sum() > 400
    data = read(tmp_path)
    assert data.splits["all"].targets(0).masks.area().tolist() == [400]
    assert "JPEG" in str(data.problems[0])


def test_maps_of_0_and_255_are_named(tmp_path: Path) -> None:
    image(tmp_path / "images" / "a.png")
    (tmp_path / "masks").mkdir()
    mask = np.zeros(SIZE, np.uint8)
    mask[5:9, 5:9] = mask[20:30, 20:30] = 255
    cv2.imwrite(str(tmp_path / "masks/a.png"), mask)
    data = read(tmp_path)
    (problem,) = data.problems
    assert "only 0 and 255" in problem.what and "connected components" in problem.remedy
    assert data.splits["all"].targets(0).masks.area().tolist() == [16, 100]
    (tmp_path / "cells").mkdir()
    image(tmp_path / "cells" / "a.png")
    cv2.imwrite(str(tmp_path / "cells" / "a_masks.png"), mask)
    assert read(tmp_path / "cells").splits["all"].targets(0).masks.area().tolist() == [16, 100]
    mask[5:9, 5:9] = 1
    cv2.imwrite(str(tmp_path / "masks/a.png"), mask)
    assert not read(tmp_path).problems


@pytest.mark.parametrize("image_id", ["a", "a.png", "1", 1.0])
def test_results_whose_images_have_another_kind_of_name(tmp_path: Path, image_id: Any) -> None:
    data = read(coco(tmp_path / "i.json")).splits["all"]
    rows = [{"image_id": image_id, "category_id": 1, "bbox": [5, 5, 15, 15], "segmentation": [[]], "score": 0.9}]
    (tmp_path / "r.json").write_text(json.dumps(rows))
    found = read_results(tmp_path / "r.json", data)
    assert len(found.instances[0]) == 1 and found.rows[0]["image_id"] == 1
    assert any("files' names" in note for note in found.notes) == (image_id in ("a", "a.png"))


@pytest.mark.parametrize(("ids", "used"), [((1, 2), (0, 1)), ((0, 1, 2), (1, 2))])
def test_classes_counted_from_another_number_are_noted(tmp_path: Path, ids: tuple[int, ...], used: tuple[int]) -> None:
    categories = [{"id": i, "name": str(i)} for i in ids]
    rings = (SQUARE, OTHER)
    rows = [{"id": i, "image_id": 1, "category_id": ids[i], "segmentation": [ring]} for i, ring in enumerate(rings)]
    data = read(coco(tmp_path / "i.json", categories=categories, annotations=rows)).splits["all"]
    results = [row | {"category_id": k, "score": 0.9} for row, k in zip(rows, used, strict=True)]
    (tmp_path / "r.json").write_text(json.dumps(results))
    assert any("a shift by one would match" in note for note in read_results(tmp_path / "r.json", data).notes)
    (tmp_path / "r.json").write_text(json.dumps([row | {"score": 0.9} for row in rows]))
    assert read_results(tmp_path / "r.json", data).notes == []


@pytest.mark.parametrize(
    ("case", "splits", "objects"),
    [
        ("ls_projectid", {"all": 3}, None),
        ("ls_updirs", {"all": 3}, None),
        ("ls_urlenc", {"all": 3}, None),
        ("ls_abs", {"all": 3}, None),
        ("coco_str_ids", {"val": 3}, None),
        ("coco_flatseg", {"val": 3}, {"nut", "bolt"}),
        ("coco_pointlists", {"val": 3}, {"nut", "bolt"}),
        ("coco_rle_odd", {"val": 3}, None),
        ("gt_boxonly", {"all": 4}, None),
        ("cvat_coco", {"default": 4}, None),
        ("roboflow_file", {"val": 4}, None),
        ("lm_imagedata", {"all": 3}, {"nut"}),
        ("roboflow_root", {"train": 4, "val": 4}, None),
        ("lm_voc", {"all": 3}, {"nut", "bolt"}),
        ("lm_ignore", {"all": 4}, {"nut"}),
        ("cvat_group", {"all": 2}, {"nut", "bolt"}),
        ("cvat_segmask", {"default": 3}, {"nut", "bolt"}),
        ("via_json", {"train": 3}, {"nut"}),
        ("qupath_geojson", {"all": 1}, {"Tumor"}),
        ("ls_json", {"all": 1}, {"nut"}),
        ("roizip", {"all": 1}, {"object"}),
        ("maps_cellpose", {"all": 3}, {"object"}),
        ("yolo_flat", {"train": 4}, {"nut", "bolt"}),
        ("yolo_ls", {"all": 4}, {"nut", "bolt"}),
        ("yolo_winpath", {"train": 4, "val": 4}, {"nut", "bolt"}),
        ("yolo_bom", {"train": 4, "val": 4}, {"nut", "bolt"}),
        ("maps_binary", {"all": 2}, None),
        ("mask_zero", {"all": 2}, None),
    ],
)
def test_shared_cases(shared: Path, case: str, splits: dict[str, int], objects: set[str] | None) -> None:
    folder = shared / "cases" / case
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there")
    data = read(folder)
    assert {name: len(split) for name, split in data.splits.items()} == splits
    assert all(image.path.is_file() and len(image) for _, image in data.images())
    assert objects is None or {c.name for c in data.categories} == objects


@pytest.mark.parametrize(
    ("case", "annotations", "note"),
    [
        ("coco_flatseg", "instances_val.json", ""),
        ("coco_pointlists", "instances_val.json", ""),
        ("coco_str_ids", "instances_val.json", ""),
        ("cvat_coco", "annotations/instances_default.json", ""),
        ("gt_boxonly", "gt.json", "6 of 12 annotations have no mask"),
        ("res_sahi", "gt.json", "7 results have no mask"),
        ("res_stem", "gt.json", "files' names"),
        ("res_zero", "gt.json", "a shift by one would match"),
        ("res_one_vs_zero", "gt.json", "a shift by one would match"),
    ],
)
def test_shared_results(shared: Path, case: str, annotations: str, note: str) -> None:
    folder = shared / "cases" / case
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there")
    found = evaluate(folder / "res.json", folder / annotations, resamples=0, boundary=False)
    assert found.value("ap") == (0 if "shift" in note else pytest.approx(1)) and note in " ".join(found.notes)
