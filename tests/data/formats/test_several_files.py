"""Of several files of a drawing program one that cannot be read is named, and the others are read."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

import eachmask
from eachmask.structures import UserError

RING = {"name": "polygon", "all_points_x": [1, 9, 9], "all_points_y": [1, 1, 9]}
SHAPE = {"shape_attributes": RING, "region_attributes": {"class": "leaf"}}
BROKEN = '{"shape_attributes" [ "result" "data" "polygonlabels"'


def test_a_torn_file_of_via_stops_no_other(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((12, 12, 3), np.uint8))
    (tmp_path / "good.json").write_text(json.dumps({"a": {"filename": "a.png", "size": 1, "regions": [SHAPE]}}))
    (tmp_path / "torn.json").write_text(BROKEN)
    data = eachmask.data.read(tmp_path, format="via")
    assert data.splits["all"].num_objects == 1
    assert [Path(problem.file).name for problem in data.problems if "cannot be read" in problem.what] == ["torn.json"]
    (tmp_path / "good.json").unlink()
    with pytest.raises(UserError, match="torn"):
        eachmask.data.read(tmp_path, format="via")


def test_a_torn_export_of_label_studio_stops_no_other(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((10, 10, 3), np.uint8))
    value = {"points": [[10, 10], [90, 10], [90, 90]], "polygonlabels": ["leaf"]}
    size = {"original_width": 10, "original_height": 10}
    result = [{"type": "polygonlabels", "value": value, **size}]
    task = {"data": {"image": "a.png"}, "annotations": [{"result": result}]}
    (tmp_path / "good.json").write_text(json.dumps([task]))
    (tmp_path / "torn.json").write_text("[" + BROKEN)
    data = eachmask.data.read(tmp_path, format="label-studio")
    assert data.splits["all"].num_objects == 1
    assert sum("cannot be read" in problem.what for problem in data.problems) == 1
