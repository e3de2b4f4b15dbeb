"""What LVIS adds to COCO's format: images named by URL, classes known to be absent, how rare a class is."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eachmask.data.convert import convert
from eachmask.data.formats.coco_read import read_coco
from eachmask.data.formats.coco_write import write_coco
from eachmask.data.packed import Records

CATEGORIES = [
    {"id": 12, "name": "gull", "frequency": "r", "synset": "gull.n.02", "image_count": 3},
    {"id": 700, "name": "boat", "frequency": "f", "synset": "boat.n.01", "image_count": 1900},
]


@pytest.fixture
def lvis(tmp_path: Path) -> Path:
    folder = tmp_path / "images" / "train2017"
    folder.mkdir(parents=True)
    images = []
    for number, absent in ((391, [700]), (522, [])):
        Image.new("RGB", (30, 20)).save(folder / f"{number:012d}.png")
        images.append({"id": number, "height": 20, "width": 30, "license": 1,
                       "coco_url": f"http://images.cocodataset.org/train2017/{number:012d}.png",
                       "neg_category_ids": absent, "not_exhaustive_category_ids": [12]})  # fmt: skip
    rows = [{"id": 1, "image_id": 391, "category_id": 12, "bbox": [3, 4, 9, 8], "area": 72.0,
             "segmentation": [[3, 4, 12, 4, 12, 12, 3, 12]]}]  # fmt: skip
    path = tmp_path / "instances_all.json"
    path.write_text(json.dumps({"images": images, "categories": CATEGORIES, "annotations": rows}))
    return path


def test_fields_are_read_and_written(lvis: Path, tmp_path: Path) -> None:
    dataset = read_coco(lvis, images=tmp_path / "images", strict=True)
    data = dataset.splits["all"]
    assert data[0].path.name == "000000000391.png" and data[0].targets.masks.area().tolist() == [72]
    assert data.fields(0)["neg_category_ids"] == [700] and data.fields(-1)["neg_category_ids"] == []
    assert dataset.category_fields[12] == {"frequency": "r", "synset": "gull.n.02", "image_count": 3}
    write_coco(
        tmp_path / "again.json",
        [(data.file_name(i), data.targets(i)) for i in range(len(data))],
        image_fields=[data.fields(i) for i in range(len(data))],
        category_fields=dataset.category_fields,
    )
    again = read_coco(tmp_path / "again.json", images=tmp_path / "images", strict=True)
    assert again.category_fields == dataset.category_fields and again.categories == dataset.categories
    assert [again.splits["all"].fields(i) for i in range(2)] == [data.fields(i) for i in range(2)]
    with pytest.raises(ValueError, match="fields of 1 images for 2 samples"):
        write_coco(tmp_path / "x.json", [("a", data.targets(0)), ("b", data.targets(1))], image_fields=[{}])


def test_fields_survive_convert(lvis: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    report = convert(lvis, target, "coco")
    assert report.loss.exact
    content = json.loads((target / "instances_all.json").read_text())
    assert [image["neg_category_ids"] for image in content["images"]] == [[700], []]
    assert [image["not_exhaustive_category_ids"] for image in content["images"]] == [[12], [12]]
    assert [category["frequency"] for category in content["categories"]] == ["r", "f"]


def test_records_are_a_packed_list_of_dicts() -> None:
    rows = [{"id": i, "file_name": f"ü{i}.png", "more": [i]} for i in range(50)]
    records = Records(rows)
    assert list(records) == rows and records[-1] == rows[-1] and records[3:5] == rows[3:5]
    assert list(pickle.loads(pickle.dumps(records))) == rows and list(Records([])) == []
    assert records.nbytes < 50 * 60
    with pytest.raises(IndexError):
        records[50]
    records[0]["id"] = 9
    assert records[0]["id"] == 0, "an entry is a copy"


def test_annotations_are_a_few_arrays(lvis: Path, tmp_path: Path) -> None:
    data = read_coco(lvis, images=tmp_path / "images").splits["all"]
    growing = [name for name, value in vars(data).items() if isinstance(value, list | dict)]
    assert not growing and isinstance(data.first, np.ndarray), "lists of objects grow in every worker process"
    assert len(pickle.dumps(data)) < data.nbytes + 5000
    assert data.targets(-1).image_size == (20, 30)
    with pytest.raises(IndexError):
        data.targets(2)
