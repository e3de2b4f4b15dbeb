"""Files of drawing programs: read with the right pixels, and written so that they are read back."""

from __future__ import annotations

import json
import struct
import zipfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from eachmask.data import Dataset, read
from eachmask.data.builder import DatasetBuilder
from eachmask.data.convert import convert
from eachmask.data.formats.imagej import decode_roi
from eachmask.data.formats.label_studio import decode_brush
from eachmask.data.reading import format_named
from eachmask.data.targets import instances_of, named_categories
from eachmask.files.progress import no_progress
from eachmask.structures import RLE, UserError

SQUARE = [[5, 5], [20, 5], [20, 20], [5, 20]]
SIZE = (48, 64)


def image(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((*SIZE, 3), 9, np.uint8))
    return path


def areas(data: Dataset, split: str = "all") -> list[int]:
    return list(data.splits[split].targets(0).masks.area().tolist())


def names(data: Dataset) -> list[str]:
    return data.splits["all"].targets(0).label_names


@pytest.mark.parametrize("to", ["via", "label-studio", "qupath", "imagej", "cellpose", "datumaro"])
def test_objects_with_holes_and_parts_are_read_back(tmp_path: Path, to: str) -> None:
    bitmaps = np.zeros((2, *SIZE), bool)
    bitmaps[0, 5:20, 5:20], bitmaps[0, 8:12, 8:12] = True, False
    bitmaps[1, 25:30, 5:20] = bitmaps[1, 35:40, 30:60] = True
    categories = named_categories(["bolt", "nut"])
    made = DatasetBuilder(categories)
    targets = instances_of(RLE.from_bitmaps(bitmaps), [1, 0], [False, False], categories)
    made.add("train", "a.png", image(tmp_path / "a.png"), targets)
    format_named("coco").write(tmp_path / "coco", made.build(), no_progress)
    report = convert(tmp_path / "coco", tmp_path / to, to)
    assert report.loss.exact, report.loss
    assert read(tmp_path / to).splits["train"].targets(0).label_names == ["nut", "bolt"]


def test_vias_shapes(tmp_path: Path) -> None:
    shapes: list[dict[str, Any]] = [
        {"name": "rect", "x": 1, "y": 2, "width": 10, "height": 4},
        {"name": "circle", "cx": 30, "cy": 20, "r": 8},
        {"name": "ellipse", "cx": 40, "cy": 30, "rx": 4, "ry": 10, "theta": 0},
        {"name": "point", "cx": 3, "cy": 3},
    ]
    regions = [{"shape_attributes": shape, "region_attributes": {"kind": {"nut": True}}} for shape in shapes]
    content = {"_via_img_metadata": {"a.png9": {"filename": "a.png", "size": 9, "regions": regions}}}
    image(tmp_path / "a.png")
    (tmp_path / "project.json").write_text(json.dumps(content), encoding="utf-8-sig")
    data = read(tmp_path)
    assert names(data) == ["nut"] * 3 and areas(data)[0] == 40
    assert areas(data)[1] == pytest.approx(np.pi * 64, abs=12) and areas(data)[2] == pytest.approx(np.pi * 40, abs=12)
    assert [problem.what for problem in data.problems] == ["a point has no area"]


@pytest.mark.parametrize(
    "name", ["/data/upload/1/ab12-a%201.png", "..\\..\\a 1.png", "/data/local-files/?d=x/a%201.png", "/etc/a 1.png"]
)
def test_label_studios_regions_and_names(tmp_path: Path, name: str) -> None:
    shared = {"original_width": 64, "original_height": 48}
    box = {"x": 25, "y": 25, "width": 50, "height": 50, "rotation": 0, "rectanglelabels": ["nut"]}
    ring = {"points": [[0, 0], [50, 0], [50, 50], [0, 50]], "polygonlabels": ["bolt"]}
    result = [
        {"type": "rectanglelabels", "value": box, **shared},
        {"type": "polygonlabels", "value": ring, **shared},
        {"type": "choices", "value": {"choices": ["good"]}},
    ]
    task = {"data": {"image": name}, "annotations": [{"result": [], "was_cancelled": True}, {"result": result}]}
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "export.json").write_text(json.dumps([task]))
    place = image(tmp_path / "set" / "images" / "a 1.png")
    data = read(tmp_path / "set")
    assert names(data) == ["nut", "bolt"] and areas(data) == [32 * 24, 32 * 24] and not data.problems
    assert data.splits["all"].path(0) == place
    result[0]["image_rotation"] = 90
    (tmp_path / "set" / "export.json").write_text(json.dumps([task]))
    (problem,) = read(tmp_path / "set").problems
    assert problem.count == 1 and "image_rotation" in problem.what and problem.severity == "note"
    place.rename(tmp_path / "a 1.png")  # outside the set
    found = format_named("label-studio").read(tmp_path / "set", no_progress)
    assert not len(found) and found.problems[0].kind == "missing"


def test_brush_strokes_of_label_studio() -> None:
    runs = [(1, 4, 0), (0, 3, (1, 2, 3)), (1, 9, 255)]
    bits = f"{16:032b}{7:05b}" + f"{3:04b}" * 4
    for repeated, length, values in runs:
        bits += f"{repeated}{1:02b}{length - 1:04b}"
        bits += "".join(f"{v:08b}" for v in (values if isinstance(values, tuple) else (values,)))
    bits += "0" * (-len(bits) % 8)
    data = [int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)]
    assert decode_brush(data, 16).tolist() == [0] * 4 + [1, 2, 3] + [255] * 9
    with pytest.raises(ValueError, match="cut short"):
        decode_brush(data[:-3], 16)


def test_qupaths_names_and_holes(tmp_path: Path) -> None:
    hole = [[8, 8], [8, 12], [12, 12], [12, 8], [8, 8]]
    geometry = {"type": "Polygon", "coordinates": [[*SQUARE, SQUARE[0]], hole]}
    features = [
        {"type": "Feature", "geometry": geometry, "properties": {"classification": {"name": "Tumor"}}},
        {"type": "Feature", "geometry": geometry, "properties": {"classification": {"names": ["Tumor", "CD8"]}}},
        {"type": "Feature", "geometry": {"type": "Point", "coordinates": [1, 1]}, "properties": {}},
    ]
    image(tmp_path / "a.png")
    (tmp_path / "a.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    data = read(tmp_path)
    assert names(data) == ["Tumor", "Tumor: CD8"] and areas(data) == [225 - 16] * 2
    assert "Point has no area" in data.problems[0].what


def roi(kind: int, top: int, left: int, bottom: int, right: int, body: bytes = b"", number: int = 0) -> bytes:
    head = bytearray(64)
    head[:4] = b"Iout"
    struct.pack_into(">hBx4hH", head, 4, 227, kind, top, left, bottom, right, number)
    return bytes(head) + body


def test_regions_of_imagej(tmp_path: Path) -> None:
    points = (np.array(SQUARE).T - 5).astype(">i2")
    path = np.array([0, 5, 5, 1, 20, 5, 1, 20, 20, 1, 5, 20, 4, 0, 8, 8, 1, 12, 8, 1, 12, 12, 1, 8, 12, 4], ">f4")
    composite = bytearray(roi(1, 5, 5, 20, 20, path.tobytes()))
    struct.pack_into(">i", composite, 36, len(path))
    image(tmp_path / "a.png")
    with zipfile.ZipFile(tmp_path / "a_rois.zip", "w") as archive:
        archive.writestr("1.roi", roi(7, 5, 5, 20, 20, points.tobytes(), 4))
        archive.writestr("2.roi", roi(1, 2, 1, 6, 11))
        archive.writestr("3.roi", roi(2, 10, 10, 30, 40))
        archive.writestr("4.roi", bytes(composite))
        archive.writestr("5.roi", roi(3, 0, 0, 9, 9))
        archive.writestr("6.roi", roi(0, 5, 5, 20, 20, b"", 900))
    data = read(tmp_path)
    found = areas(data)
    assert found[:2] == [225, 40] and found[2] == pytest.approx(np.pi * 150, abs=15) and found[3] == 225 - 16
    assert [problem.annotation for problem in data.problems] == ["5.roi", "6.roi"]
    with pytest.raises(ValueError, match="no region"):
        decode_roi(b"PK")


def test_an_archive_of_endless_names_is_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image(tmp_path / "a.png")
    with zipfile.ZipFile(tmp_path / "a_rois.zip", "w") as archive:
        for i in range(9):
            archive.writestr(f"{i}.roi", roi(1, 2, 1, 6, 11))
    assert areas(read(tmp_path)) == [40] * 9
    monkeypatch.setattr("eachmask.data.formats.imagej.MAX_BYTES", 200)  # more than a region has, less than the names
    with pytest.raises(UserError):
        read(tmp_path)


class _Runs:
    """A pickle of it would make a file where it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_files_of_cellposes_window(tmp_path: Path) -> None:
    labels = np.zeros(SIZE, np.uint16)
    labels[2:6, 2:6], labels[20:25, 20:30] = 1, 7
    for stem, labels_of in (("a", labels), ("b", np.asfortranarray(labels.astype(">i4")) - 1), ("c", labels[None])):
        image(tmp_path / f"{stem}.png")
        content: dict[str, Any] = {
            "masks": labels_of, "outlines": labels, "flows": [[np.zeros((1, 4, 4))], []],
            "filename": tmp_path / "a.png", "ismanual": np.zeros(7, bool), "diameter": np.float32(30),
            "colors": np.zeros((7, 3), np.uint8), "restore": None,
        }  # fmt: skip
        np.save(tmp_path / f"{stem}_seg.npy", content)  # type: ignore[arg-type]
    cv2.imwrite(str(tmp_path / "a_masks.tif"), np.zeros_like(labels))  # the window's file is newer
    data = read(tmp_path)
    assert [image.targets.masks.area().tolist() for _, image in data.images()] == [[16, 50]] * 3
    assert not data.problems


def test_pickles_of_cellpose_run_nothing(tmp_path: Path) -> None:
    labels = np.zeros(SIZE, np.uint16)
    labels[2:6, 2:6] = 1
    for stem, content in (("a", b"\x93NUMPY no array"), ("b", None), ("c", None)):
        image(tmp_path / f"{stem}.png")
        if content is not None:
            (tmp_path / f"{stem}_seg.npy").write_bytes(content)
        else:
            np.save(tmp_path / f"{stem}_seg.npy", {"masks": labels, "flows": _Runs(tmp_path / "ran")})  # type: ignore[arg-type]
    for stem in "ab":
        cv2.imwrite(str(tmp_path / f"{stem}_masks.tif"), labels)
    data = read(tmp_path)
    assert [image.targets.masks.area().tolist() for _, image in data.images()] == [[16], [16]]
    assert not (tmp_path / "ran").exists()
    told = {Path(problem.file).name: problem for problem in data.problems}
    assert [told[f"{stem}_seg.npy"].severity for stem in "ab"] == ["warning", "warning"]
    assert "would run" in told["b_seg.npy"].what and "a_masks.tif is taken" in told["a_seg.npy"].remedy
    assert any("would run" in problem.what and problem.severity == "error" for problem in data.problems)


def test_cellpose_opens_what_is_written(tmp_path: Path) -> None:
    """As its window does: ``numpy.load(..., allow_pickle=True).item()``, then outlines, masks and the rest."""
    made = DatasetBuilder(named_categories(["object"]))
    masks = RLE.from_bitmaps(np.pad(np.ones((1, 6, 7), bool), ((0, 0), (2, SIZE[0] - 8), (3, SIZE[1] - 10))))
    made.add("train", "a.png", image(tmp_path / "a.png"), instances_of(masks, [0], [False], made.categories))
    format_named("cellpose").write(tmp_path / "out", made.build(), no_progress)
    content = np.load(tmp_path / "out/train/a_seg.npy", allow_pickle=True).item()
    assert content["masks"].sum() == 42 and content["outlines"].sum() == 42 - 20
    assert content["filename"] == "a.png" and len(content["ismanual"]) == 1


def test_yolo_of_darknet_and_label_studio(tmp_path: Path) -> None:
    line = "1 0.1 0.1 0.5 0.1 0.5 0.5\n"
    flat, studio, moved = (tmp_path / name for name in ("flat", "studio", "moved"))
    image(flat / "obj_train_data" / "a.png")
    (flat / "obj_train_data/a.txt").write_text(line)
    (flat / "obj.data").write_text("classes = 2\ntrain = data/train.txt\nnames = data/obj.names\nbackup = b/\n")
    (flat / "train.txt").write_text("data/obj_train_data/a.png\n")
    (flat / "obj.names").write_text("nut\nbolt\n", encoding="utf-8-sig")
    image(studio / "images" / "a.png")
    (studio / "labels").mkdir()
    (studio / "labels/a.txt").write_text(line)
    (studio / "classes.txt").write_text("nut\nbolt\n")
    image(moved / "images" / "train" / "a.png")
    (moved / "labels/train").mkdir(parents=True)
    (moved / "labels/train/a.txt").write_text(line)
    (moved / "data.yaml").write_text("path: D:\\p\\nuts\ntrain: D:\\p\\nuts\\images\\train\nnames: [nut, bolt]\n")
    for folder in (flat, studio, moved):
        (split,) = read(folder).splits.values()
        assert split.targets(0).label_names == ["bolt"] and split.path(0).is_file()
