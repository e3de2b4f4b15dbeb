"""Data sets in further spellings: other versions and exports of the tools, other layouts, other files of masks."""

from __future__ import annotations

import importlib.util
import json
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
from eachmask.data.images.read import read_image

POINTS = np.reshape(SQUARE, (-1, 2)).tolist()
PERCENT = (np.array(POINTS) * 100 / [64, 48]).tolist()


def areas(data: Dataset, split: str = "all") -> list[list[int]]:
    return [data.splits[split].targets(i).masks.area().tolist() for i in range(len(data.splits[split]))]


@pytest.mark.parametrize(("theirs", "ours"), [("Train", "train"), ("Validation", "val"), ("VALID", "val"), ("a", "a")])
def test_splits_are_called_as_usual(tmp_path: Path, theirs: str, ours: str) -> None:
    image(tmp_path / "images" / theirs / "a.png")
    shape = f'<polygon label="nut" points="{";".join(f"{x},{y}" for x, y in POINTS)}"/>'
    of_image = f'<image id="0" name="a.png" subset="{theirs}" width="64" height="48">{shape}</image>'
    (tmp_path / "annotations.xml").write_text(f"<annotations>{of_image}</annotations>")
    assert set(read(tmp_path).splits) == {ours}


def test_two_splits_never_become_one(tmp_path: Path) -> None:
    for split in ("valid", "validation"):
        coco(tmp_path / f"instances_{split}.json", f"{split}.png")
        image(tmp_path / "images" / f"{split}.png")
    assert sorted(len(split) for split in read(tmp_path).splits.values()) == [1, 1]


def region(**changes: Any) -> dict[str, Any]:
    return {"original_width": 64, "original_height": 48, "value": {"points": PERCENT}, "id": "a1"} | changes


LABEL_STUDIO = [
    # the two tags Labels and Polygon: the class is in an entry of its own
    [{"data": {"image": "s3://b/a.png"}, "annotations": [{"result": [
        region(type="polygon"), region(type="labels", value={"points": PERCENT, "labels": ["nut"]})]}]}],
    # JSON-MIN
    [{"image": "/data/upload/1/3c5d1e2f-a.png", "id": 1, "annotator": 1, "label": [
        {"points": PERCENT, "polygonlabels": ["nut"], "original_width": 64, "original_height": 48}]}],
    # an annotation as it is written to a storage
    {"id": 7, "task": {"id": 1, "data": {"image": "/data/local-files/?d=x/a.png"}}, "result": [
        region(type="polygonlabels", value={"points": PERCENT, "polygonlabels": ["nut"]})]},
]  # fmt: skip


@pytest.mark.parametrize("content", LABEL_STUDIO)
def test_exports_of_label_studio(tmp_path: Path, content: Any) -> None:
    image(tmp_path / "a.png")
    (tmp_path / "export.json").write_text(json.dumps(content))
    data = read(tmp_path)
    assert labels(data) == [["nut"]] and areas(data) == [[225]] and not data.problems


def via_3() -> str:
    return json.dumps(
        {
            "project": {"pname": "x", "vid_list": ["1"]},
            "attribute": {"1": {"aname": "class", "options": {"0": "nut", "1": "bolt"}}},
            "file": {"1": {"fid": "1", "fname": "a.png", "loc": 1, "src": ""}},
            "metadata": {
                "1_a": {"vid": "1", "z": [], "xy": [7, *SQUARE], "av": {"1": "0"}},
                "1_b": {"vid": "1", "z": [], "xy": [2, 30, 10, 20, 20], "av": {"1": "1"}},
            },
            "view": {"1": {"fid_list": ["1"]}},
        }
    )


def via_csv() -> str:
    shapes = [
        {"name": "polygon", "all_points_x": SQUARE[::2], "all_points_y": SQUARE[1::2]},
        {"name": "rect", "x": 30, "y": 10, "width": 20, "height": 20},
    ]
    rows = ["filename,file_size,file_attributes,region_count,region_id,region_shape_attributes,region_attributes"]
    for i, (shape, name) in enumerate(zip(shapes, ("nut", "bolt"), strict=True)):
        cells = [json.dumps(cell).replace('"', '""') for cell in (shape, {"class": name})]
        rows.append(f'a.png,1,"{{}}",2,{i},"{cells[0]}","{cells[1]}"')
    return "\n".join([*rows, 'b.png,1,"{}",0,0,"{}","{}"'])


@pytest.mark.parametrize(("name", "text"), [("via_project.json", via_3()), ("via_export_csv.csv", via_csv())])
def test_versions_of_via(tmp_path: Path, name: str, text: str) -> None:
    image(tmp_path / "a.png")
    image(tmp_path / "b.png")
    (tmp_path / name).write_text(text)
    data = read(tmp_path)
    assert labels(data)[0] == ["nut", "bolt"] and areas(data)[0] == [225, 400] and not data.problems


def test_geojson_of_an_older_qupath(tmp_path: Path) -> None:
    image(tmp_path / "a.png")
    geometry = {"type": "Polygon", "coordinates": [[*POINTS, POINTS[0]]]}
    feature = {"type": "Feature", "id": "PathAnnotationObject", "geometry": geometry}
    feature["properties"] = {"classification": {"name": "Tumor", "colorRGB": -377282}, "measurements": []}
    (tmp_path / "a.json").write_text(json.dumps([feature]))
    assert labels(read(tmp_path)) == [["Tumor"]]


def yolo(folder: Path, yaml: str, lines: str = "0 0.1 0.1 0.5 0.1 0.5 0.5\n") -> Dataset:
    image(folder / "train" / "images" / "a.png")
    (folder / "train" / "labels").mkdir(exist_ok=True)
    (folder / "train" / "labels" / "a.txt").write_text(lines)
    (folder / "data.yaml").write_text(yaml)
    return read(folder)


def test_paths_of_windows_in_quotes(tmp_path: Path) -> None:
    data = yolo(tmp_path, 'train: "D:\\data\\new\\train\\images"\nnames: ["nut", "b\\u00f6lt"]\n')
    assert len(data.splits["train"]) == 1 and [c.name for c in data.categories] == ["nut", "bölt"]


def test_results_of_yolo_have_their_scores(tmp_path: Path) -> None:
    lines = "0 0.1 0.1 0.5 0.1 0.5 0.5 0.93\n1 0.5 0.5 0.2 0.2 0.8\n"
    data = yolo(tmp_path, "train: train/images\nnc: 2\n", lines)
    assert labels(data, "train") == [["class_0", "class_1"]]
    assert data.splits["train"].scored_targets(0).scores.tolist() == pytest.approx([0.93, 0.8])
    assert "objects with a box and no outline: 1" in str(data.problems[-1])


def test_texts_beside_images_as_of_labelimg(tmp_path: Path) -> None:
    image(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("1 0.5 0.5 0.25 0.25\n")
    (tmp_path / "classes.txt").write_text("nut\nbolt\n")
    assert labels(read(tmp_path)) == [["bolt"]]


def test_labelme_in_a_folder_called_labels(tmp_path: Path) -> None:
    image(tmp_path / "images" / "a.png")
    (tmp_path / "labels").mkdir()
    shape = {"label": "nut", "points": POINTS, "shape_type": "polygon"}
    content = {"shapes": [shape], "imagePath": "..\\images\\a.png", "imageHeight": 48, "imageWidth": 64}
    (tmp_path / "labels" / "a.json").write_text(json.dumps(content))
    assert labels(read(tmp_path)) == [["nut"]]


def test_cellposes_own_data(tmp_path: Path) -> None:
    for split in ("train", "test"):
        image(tmp_path / split / "000_img.png")
        cv2.imwrite(str(tmp_path / split / "000_masks.png"), numbers(1, 2))
    data = read(tmp_path)
    assert data.splits["train"].names[0] == "000_img.png" and areas(data, "test") == [[225, 400]]


def numbers(first: int, second: int, kind: Any = np.uint16) -> np.ndarray:
    values = np.zeros(SIZE, kind)
    values[5:20, 5:20], values[10:30, 30:50] = first, second
    return values


def maps(folder: Path, values: np.ndarray, name: str = "a.png", **options: Any) -> Dataset:
    image(folder / "images" / "a.png")
    (folder / "masks").mkdir()
    if name.endswith(".tif"):
        tifffile.imwrite(folder / "masks" / name, values, **options)
    else:
        Image.fromarray(values).save(folder / "masks" / name)
    return read(folder)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("a.jpg", numbers(255, 255, np.uint8)),
        ("a_mask.gif", numbers(255, 255, np.uint8)),
        ("a_mask.png", numbers(1, 1, bool)),
        ("a.bmp", np.dstack([numbers(255, 255, np.uint8)] * 3)),
        ("a.png", np.dstack([*[numbers(255, 255, np.uint8)] * 3, np.full(SIZE, 255, np.uint8)])),
        ("a.png", numbers(65535, 65535)),
    ],
)
def test_masks_of_the_foreground(tmp_path: Path, name: str, values: np.ndarray) -> None:
    data = maps(tmp_path, values, name)
    assert areas(data) == [[225, 400]] and data.splits["all"].names[0] == "a.png"
    said = " ".join(map(str, data.problems))
    assert "each connected part is taken for one" in said and ("JPEG" in said) == name.endswith(".jpg")


def test_a_map_of_numbers_in_jpeg_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not keep the numbers"):
        maps(tmp_path, numbers(100, 140, np.uint8), "a.jpg")


def test_of_maps_of_ones_it_is_said_what_they_may_be(tmp_path: Path) -> None:
    data = maps(tmp_path, numbers(1, 1, np.uint8))
    assert areas(data) == [[625]] and "write 255 for 1" in str(data.problems[0])
    (tmp_path / "one").mkdir()
    assert not maps(tmp_path / "one", numbers(1, 0, np.uint8)).problems


@pytest.mark.parametrize("kind", [np.uint16, np.int32, np.uint32, np.float32])
@pytest.mark.parametrize("compression", [None, "zlib", "lzma"])
def test_label_maps_in_tiff(tmp_path: Path, kind: Any, compression: str | None) -> None:
    assert areas(maps(tmp_path, numbers(1, 300, kind), "a.tif", compression=compression)) == [[225, 400]]


def test_signed_bytes_of_tiff(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", numbers(-100, 100, np.int8))
    assert np.unique(read_image(tmp_path / "a.tif")).tolist() == [-100, 0, 100]


@pytest.mark.parametrize(("number", "name"), [(34712, "JPEG2000"), (50001, "WEBP"), (34887, "LERC"), (50002, "JPEGXL")])
def test_a_compression_that_nobody_reads_is_named(
    tmp_path: Path, number: int, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    if importlib.util.find_spec("imagecodecs"):
        pytest.skip("imagecodecs decodes it")
    tifffile.imwrite(tmp_path / "a.tif", numbers(1, 2, np.uint8))
    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+") as tiff:
        tiff.pages[0].tags[259].overwrite(number)
    with pytest.raises(UserError, match=f"cannot be decoded here .{name}, 8 bits.: install imagecodecs"):
        read_image(tmp_path / "a.tif")
    assert capfd.readouterr() == ("", "")


def test_camvid_as_cvat_writes_it(tmp_path: Path) -> None:
    image(tmp_path / "default" / "a.png")
    (tmp_path / "defaultannot").mkdir()
    colors = np.array([(0, 0, 0), (250, 50, 83), (184, 61, 245)], np.uint8)[numbers(1, 2)]
    Image.fromarray(colors).save(tmp_path / "defaultannot" / "a.png")
    (tmp_path / "label_colors.txt").write_text("0 0 0 background\n250 50 83 nut\n184 61 245 bolt\n")
    data = read(tmp_path)
    labels_of = data.splits["default"].targets(0).labels
    assert [c.name for c in data.categories] == ["background", "nut", "bolt"]
    assert [int((labels_of == label).sum()) for label in (1, 2)] == [225, 400]


def cityscapes_map(folder: Path, values: np.ndarray) -> None:
    (folder / "gtFine/default").mkdir(parents=True)
    (folder / "leftImg8bit/default").mkdir(parents=True)
    Image.fromarray(values.astype(np.uint16)).save(folder / "gtFine/default/a_gtFine_instanceIds.png")
    Image.new("RGB", values.shape[::-1]).save(folder / "leftImg8bit/default/a_leftImg8bit.png")


def test_cityscapes_with_cvats_own_classes(tmp_path: Path) -> None:
    values = np.zeros((20, 30))
    values[2:8, 2:8], values[2:8, 12:20], values[12:18, 2:9] = 1000, 1001, 2000
    cityscapes_map(tmp_path, values)
    (tmp_path / "label_colors.txt").write_text("0 0 0 background\n255 0 0 red blood cell\n0 255 0 platelet\n")
    data = read(tmp_path)
    targets = data.splits["default"].targets(0)
    assert [data.categories[i].name for i in targets.labels] == ["red blood cell", "red blood cell", "platelet"]
    assert targets.masks is not None and targets.masks.area().tolist() == [36, 48, 42] and not data.problems


def test_cityscapes_objects_of_no_class_are_named(tmp_path: Path) -> None:
    values = np.full((20, 30), 7)  # road: scenery
    values[2:8, 2:8], values[2:8, 12:20] = 26000, 1001
    cityscapes_map(tmp_path, values)
    data = read(tmp_path)
    assert [data.categories[i].name for i in data.splits["default"].targets(0).labels] == ["car"]
    (problem,) = data.problems
    assert "numbers 1 have no class" in str(problem) and "gtFine/classes.txt" in str(problem)
