"""Files of other tools: what they write otherwise than COCO itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from eachmask.data.formats.coco_read import read_coco
from eachmask.structures import UserError

SQUARE = [[5, 5, 20, 5, 20, 20, 5, 20]]


def _write(path: Path, name: str, **changes: Any) -> Path:
    annotation = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [5, 5, 15, 15], "segmentation": SQUARE}
    content = {
        "images": [{"id": 1, "file_name": name, "width": 64, "height": 48}],
        "annotations": [annotation | changes.pop("annotation", {})],
        "categories": [{"id": 1, "name": "cell"}],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content | changes))
    return path


def _draw(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((48, 64, 3), 9, np.uint8)).save(path)
    return path


@pytest.mark.parametrize("name", ["images/train/a.png", "./images/train/a.png", "images\\train\\a.png", "a.png"])
def test_names_may_begin_at_the_data_set_or_at_the_folder_of_the_split(tmp_path: Path, name: str) -> None:
    file = _write(tmp_path / "instances_train.json", name)
    image = _draw(tmp_path / "images/train/a.png")
    (record,) = read_coco(tmp_path).splits["train"].images()
    assert record.path.resolve() == image and record.name == "a.png"
    sample = read_coco(file, images=tmp_path / "images" / "train", strict=True).splits["train"][0]
    assert sample.path.resolve() == image


@pytest.mark.parametrize(("declared", "used"), [("1", "1"), (1, "1"), (1.0, 1), (1, 1.0)])
def test_ids_of_classes_written_as_text_or_with_a_point(tmp_path: Path, declared: Any, used: Any) -> None:
    categories = [{"id": declared, "name": "cell"}]
    _write(tmp_path / "instances_train.json", "a.png", annotation={"category_id": used}, categories=categories)
    _draw(tmp_path / "a.png")
    data = read_coco(tmp_path)
    assert data.problems == [] and [c.id for c in data.categories] == [1]
    assert len(data.splits["train"].images()[0].targets) == 1


def test_a_class_whose_id_is_a_word_is_named(tmp_path: Path) -> None:
    _write(tmp_path / "instances_train.json", "a.png", categories=[{"id": "cell", "name": "cell"}])
    with pytest.raises(UserError, match="must be a whole number, not 'cell': number the categories"):
        read_coco(tmp_path)
