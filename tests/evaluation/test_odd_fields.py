"""One field of an annotation file at a time is odd, as the tools of others write it: measured, or one sentence."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from foreign_sets import OTHER, SQUARE, image

from eachmask import UserError, evaluate
from eachmask.data import read

BASE: dict[str, Any] = {
    "info": {"year": 2024, "version": "1", "description": "", "contributor": "", "url": "", "date_created": ""},
    "licenses": [{"id": 1, "name": "x", "url": ""}],
    "images": [
        {"id": i, "file_name": f"{i}.png", "width": 64, "height": 48, "license": 1, "coco_url": "", "date_captured": ""}
        for i in (1, 2)
    ],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 1, "bbox": [5, 5, 15, 15], "iscrowd": 0, "segmentation": [SQUARE]},
        {"id": 2, "image_id": 2, "category_id": 2, "bbox": [30, 10, 20, 20], "iscrowd": 0, "segmentation": [OTHER]},
    ],
    "categories": [{"id": 1, "name": "nut", "supercategory": "x"}, {"id": 2, "name": "bolt", "supercategory": "x"}],
}
ODD: list[Any] = [None, "", "text", 0, True, [], {"a": 1}, 10**30]
MISSING = object()
BESIDE = [
    ("info",), *(("info", key) for key in BASE["info"]), ("licenses",), ("licenses", "id"), ("licenses", "url"),
    ("images", "license"), ("images", "coco_url"), ("images", "date_captured"), ("images", "width"),
    ("annotations", "bbox"), ("annotations", "iscrowd"), ("annotations", "attributes"), ("annotations", "score"),
    ("annotations", "ignore"), ("categories", "supercategory"), ("categories", "skeleton"), ("categories", "color"),
]  # fmt: skip
NEEDED = [
    (block, key)
    for block, keys in [
        ("images", ["id", "file_name"]),
        ("annotations", ["id", "image_id", "category_id", "segmentation"]),
        ("categories", ["id", "name"]),
    ]
    for key in [None, *keys]
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i in (1, 2):
        image(tmp_path / f"{i}.png")
    results = [{k: row[k] for k in ("image_id", "category_id", "segmentation")} for row in BASE["annotations"]]
    (tmp_path / "r.json").write_text(json.dumps([{**row, "score": 0.9} for row in results]))
    return tmp_path


def written(folder: Path, block: str, key: str | None, value: Any) -> Path:
    """The file with one field of the first entry changed; a whole block where ``key`` is None."""
    content = copy.deepcopy(BASE)
    place = content if key is None else content[block][0] if isinstance(content[block], list) else content[block]
    place[key or block] = value
    if value is MISSING:
        del place[key or block]
    (folder / "gt.json").write_text(json.dumps(content))
    return folder / "gt.json"


@pytest.mark.parametrize("place", BESIDE, ids=".".join)
def test_what_says_nothing_of_objects_may_be_anything(folder: Path, place: tuple[str, ...]) -> None:
    block, key = place[0], place[1] if len(place) > 1 else None
    for value in [MISSING, *ODD]:
        if place == ("images", "width") and value is True:
            continue  # a width of one pixel
        if place == ("annotations", "iscrowd") and value is True:
            continue  # a crowd region
        found = evaluate(folder / "r.json", written(folder, block, key, value), resamples=0, boundary=False)
        assert found.value("ap") == pytest.approx(1), value


@pytest.mark.parametrize("place", NEEDED, ids=str)
def test_what_is_needed_is_read_alike_or_is_one_sentence(folder: Path, place: tuple[str, str | None]) -> None:
    for value in [MISSING, *ODD]:
        path = written(folder, *place, value)
        sound = False
        try:
            sound = not any(problem.severity == "error" for problem in read(path).problems)
            found = evaluate(folder / "r.json", path, resamples=0, boundary=False)
        except UserError as error:
            assert not sound and "gt.json" in str(error) and "\n" not in str(error), value
        else:
            assert sound and (found.notes or found.value("ap") == pytest.approx(1)), value
