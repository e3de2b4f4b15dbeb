from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from eachmask.data import Split
from eachmask.data.formats.coco_read import read_coco
from eachmask.data.formats.coco_results import read_results
from eachmask.data.formats.coco_write import to_annotations, write_coco
from eachmask.structures import RLE, Category, Instances, UserError

CATEGORIES = [{"id": 90, "name": "brush"}, {"id": 3, "name": "car", "supercategory": "vehicle"}]


def strict(file: Path, images: Path) -> Split:
    (split,) = read_coco(file, images=images, strict=True).splits.values()
    return split


def _bitmap(rows: slice, columns: slice) -> np.ndarray:
    mask = np.zeros((20, 30), bool)
    mask[rows, columns] = True
    return mask


def _write(folder: Path, annotations: list[dict], **changes: object) -> Path:
    (folder / "images").mkdir(exist_ok=True)
    for name in ("a.png", "b.png"):
        Image.new("RGB", (30, 20)).save(folder / "images" / name)
    images = [
        {"id": 7, "file_name": "a.png", "width": 30, "height": 20},
        {"id": 5, "file_name": "b.png", "width": 30, "height": 20},
    ]
    content = {"images": images, "categories": CATEGORIES, "annotations": annotations} | changes
    (folder / "i.json").write_text(json.dumps(content))
    return folder / "i.json"


def _annotations() -> list[dict]:
    compressed = RLE.from_bitmaps(_bitmap(slice(2, 9), slice(3, 6))[None]).to_coco()[0]
    plain = RLE.from_bitmaps(_bitmap(slice(0, 4), slice(0, 30))[None])
    return [
        {"id": 0, "image_id": 5, "category_id": 3, "segmentation": compressed, "bbox": [3, 2, 3, 7], "iscrowd": 0},
        {"id": 1, "image_id": 7, "category_id": 90, "bbox": [5, 6, 10, 4],
         "segmentation": [[5, 6, 15, 6, 15, 10, 5, 10], [1, 1, 3, 1, 3, 3, 1, 3]]},
        {"id": 2, "image_id": 5, "category_id": 90, "iscrowd": 1,
         "segmentation": {"size": [20, 30], "counts": plain.counts.tolist()}},
    ]  # fmt: skip


def test_ids_with_gaps_in_any_order(tmp_path: Path) -> None:
    data = strict(_write(tmp_path, _annotations()), tmp_path / "images")
    assert [c.id for c in data.categories] == [90, 3]
    assert data.categories[1] == Category(3, "car", "vehicle")
    first, second = data[0], data[1]
    assert (first.image_id, second.image_id, first.path.name) == (7, 5, "a.png")
    assert first.image.shape == (20, 30, 3)
    assert first.targets.labels.tolist() == [0]
    assert second.targets.labels.tolist() == [1, 0]
    assert second.targets.crowd.tolist() == [False, True]
    assert second.targets.masks.area().tolist() == [21, 120]
    assert second.targets.boxes.tolist() == [[3, 2, 6, 9], [0, 0, 30, 4]]  # the second from its mask
    assert first.targets.masks.area().tolist() == [44]


def test_masks_equal_pycocotools(shared: Path) -> None:
    coco_tools = pytest.importorskip("pycocotools.coco")
    path = shared / "data/coco-mini/instances_val.json"
    gt = coco_tools.COCO(path)
    data = strict(path, shared / "data/coco-mini/images/val")
    for index in range(0, len(data), 20):
        targets = data.targets(index)
        rows = gt.loadAnns(gt.getAnnIds(imgIds=[data.image_id(index)]))
        assert [data.categories[k].id for k in targets.labels.tolist()] == [r["category_id"] for r in rows]
        for mask, row in zip(targets.masks.to_coco(), rows, strict=True):
            expected = gt.annToRLE(row)["counts"]
            assert mask["counts"] == (expected if isinstance(expected, str) else expected.decode()), row["id"]


def test_round_trip(tmp_path: Path) -> None:
    data = strict(_write(tmp_path, _annotations()), tmp_path / "images")
    write_coco(tmp_path / "o.json", [(name, data.targets(i)) for i, name in enumerate(data.names)])
    again = strict(tmp_path / "o.json", tmp_path / "images")
    assert again.categories == data.categories
    for i in range(2):
        a, b = data.targets(i), again.targets(i)
        assert a.masks.to_coco() == b.masks.to_coco()
        assert torch.equal(a.boxes, b.boxes) and torch.equal(a.labels, b.labels) and torch.equal(a.crowd, b.crowd)


def test_results_come_back_with_scores(tmp_path: Path) -> None:
    data = strict(_write(tmp_path, _annotations()), tmp_path / "images")
    found = data.targets(1)
    found.scores = torch.tensor([0.25, 0.123456789])
    rows = [{"image_id": 5, **row} for row in to_annotations(found)]
    assert [row["category_id"] for row in rows] == [3, 90]
    (tmp_path / "r.json").write_text(json.dumps(rows))
    back = read_results(tmp_path / "r.json", data).instances
    assert [len(b) for b in back] == [0, 2]
    assert back[1].scores.tolist() == pytest.approx([0.25, 0.123457])
    assert back[1].masks.to_coco() == found.masks.to_coco()


@pytest.mark.parametrize(
    "row", [3, {"id": 1, "image_id": [5]}, {"id": 1, "image_id": 5, "category_id": {}, "bbox": [1, 1, 2, 2]}]
)
def test_annotations_that_are_none(tmp_path: Path, row: object) -> None:
    with pytest.raises(UserError, match=r"i.json"):
        strict(_write(tmp_path, [*_annotations(), row]), tmp_path / "images")


def test_images_without_objects_stay_and_empty_masks_go(tmp_path: Path) -> None:
    rows = [{"id": 4, "image_id": 7, "category_id": 3, "segmentation": [[1, 1, 1, 1, 1, 1]], "bbox": [1, 1, 0, 0]}]
    data = read_coco(_write(tmp_path, rows), images=tmp_path / "images", strict=True)
    assert [len(sample.targets) for sample in data.splits["all"]] == [0, 0]
    assert [(p.annotation, p.kind) for p in data.problems] == [("annotation 4 of a.png", "empty")]


def test_keypoints_are_packed(tmp_path: Path) -> None:
    rows = _annotations()
    rows[0]["keypoints"] = [1, 2, 2, 0, 0, 0]
    data = strict(_write(tmp_path, rows), tmp_path / "images")
    assert data.targets(1).keypoints.tolist() == [[[1, 2, 2], [0, 0, 0]], [[0, 0, 0], [0, 0, 0]]]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"category_id": 4}, "annotation 9 .*category_id 4"),
        ({"image_id": 99}, "annotation 9 of image 99: its image is not in the list"),
        ({"segmentation": {"size": [3, 3], "counts": [9]}}, "annotation 9 of a.png"),
        ({"segmentation": {"counts": "%%"}}, "annotation 9 of a.png"),
        ({"segmentation": None, "bbox": None}, "annotation 9 of a.png"),
    ],
)
def test_broken_annotations_are_named(tmp_path: Path, change: dict, reason: str) -> None:
    good = {"id": 9, "image_id": 7, "category_id": 3, "segmentation": [[1, 1, 9, 1, 9, 9]], "bbox": [1, 1, 8, 8]}
    path = _write(tmp_path, [good | change])
    with pytest.raises(UserError, match=reason) as error:
        strict(path, tmp_path / "images")
    assert "i.json" in str(error.value)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"images": [], "annotations": []}', "\x00"])
def test_other_files_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(UserError, match="x.json"):
        strict(tmp_path / "x.json", tmp_path)


def test_orientation_follows_the_annotations(tmp_path: Path) -> None:
    path = _write(tmp_path, [])
    exif = Image.Exif()
    exif[274] = 6
    Image.new("RGB", (30, 20)).save(tmp_path / "images/a.png", exif=exif)  # annotated as stored
    Image.new("RGB", (20, 30)).save(tmp_path / "images/b.png", exif=exif)  # annotated as seen
    data = strict(path, tmp_path / "images")
    assert data[0].image.shape == data[1].image.shape == (20, 30, 3)
    Image.new("RGB", (31, 20)).save(tmp_path / "images/a.png")
    with pytest.raises(UserError, match="is 31 x 20, but its annotations are for 30 x 20"):
        data[0]


def test_boxes_without_masks() -> None:
    found = Instances((20, 30), torch.tensor([[1.0, 2.0, 4.0, 6.5]]), scores=torch.tensor([0.5]))
    (row,) = to_annotations(found)
    assert row == {"category_id": 1, "bbox": [1, 2, 3, 4.5], "area": 13.5, "iscrowd": 0, "score": 0.5}
