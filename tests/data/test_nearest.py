"""A folder in no known format: what is missing for the nearest is said, and what was tried."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest
from foreign_sets import SQUARE, coco, image

from eachmask import UserError
from eachmask.data import read

RESULTS = json.dumps([{"image_id": 1, "category_id": 1, "segmentation": [SQUARE], "score": 0.9}])


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"a.txt": "0 0.5 0.5 0.1 0.1\n"}, "data.yaml is missing"),
        ({"labels/a.txt": "1 0.1 0.1 0.5 0.1 0.5 0.5\n"}, "labels is one in the format yolo: pass that folder"),
        ({"task_1.xml": "<annotations><version>1.1</version></annotations>"}, "name it annotations.xml"),
        ({"r.json": RESULTS}, "holds results"),
        ({"x.json": '{"annotations": [], "categories": []}'}, "lacks the list images"),
        ({"a_seg.npy": "x", "other.png": ""}, "the image is missing"),
        ({}, "1 image and no annotations"),
    ],
)
def test_the_nearest_format_is_named_and_what_it_lacks(tmp_path: Path, files: dict[str, str], words: str) -> None:
    image(tmp_path / "photo.png")
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=words) as caught:
        read(tmp_path)
    assert "Tried were" in str(caught.value) and "instances_SPLIT.json" in str(caught.value)


def test_folders_of_images_alone(tmp_path: Path) -> None:
    image(tmp_path / "images" / "a.png")
    with pytest.raises(UserError, match="maps of label-maps are missing"):
        read(tmp_path)
    (tmp_path / "images").rename(tmp_path / "masks")
    with pytest.raises(UserError, match="the images are missing"):
        read(tmp_path)
    (tmp_path / "masks" / "a.png").unlink()
    with pytest.raises(UserError, match="holds no files"):
        read(tmp_path)


def test_a_set_further_down_and_archives(tmp_path: Path) -> None:
    coco(tmp_path / "set" / "instances_train.json")
    image(tmp_path / "set" / "a.png")
    with pytest.raises(UserError, match="set is one in the format coco: pass that folder"):
        read(tmp_path)
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        archive.write(tmp_path / "set" / "a.png", "a.png")
    with pytest.raises(UserError, match="unpack it"):
        read(tmp_path / "set.zip")


def test_a_results_folder_in_which_all_images_failed(tmp_path: Path) -> None:
    content = {"info": {"model": "m"}, "images": [], "categories": [{"id": 1, "name": "nut"}], "annotations": []}
    (tmp_path / "predictions.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="it lists no images; .* summary.json says why images failed"):
        read(tmp_path)
