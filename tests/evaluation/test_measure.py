"""``eachmask.evaluate``: values in, a value out; files only where they are asked for."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_sets import make_set

import eachmask
from eachmask.data.formats.coco_write import write_coco_folder
from eachmask.structures import UserError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_coco_folder(tmp_path / "set", make_set(tmp_path / "images"))
    return tmp_path / "set"


def test_the_annotations_themselves_are_perfect_predictions(folder: Path) -> None:
    data = eachmask.data.read(folder)
    val = data.splits["val"]
    predictions = [perfect(val.targets(i)) for i in range(len(val))]
    before = sorted(folder.rglob("*"))
    found = eachmask.evaluate(predictions, data, resamples=0)
    again = eachmask.evaluate(predictions, folder, resamples=0)
    assert found.value("ap") == again.value("ap") == pytest.approx(1.0) and found.value("pq") == pytest.approx(1.0)
    assert found.num_images == len(val) and sorted(folder.rglob("*")) == before, "nothing is written"


def perfect(targets: eachmask.Instances) -> eachmask.Instances:
    import torch

    found = targets[~targets.crowd]
    found.scores = torch.full((len(found),), 0.9)
    return found


def test_one_prediction_for_each_image(folder: Path) -> None:
    with pytest.raises(UserError, match="0 predictions for 1 images"):
        eachmask.evaluate([], folder)


def test_the_report_is_written_where_a_folder_is_named(folder: Path, tmp_path: Path) -> None:
    data = eachmask.data.read(folder)
    targets = perfect(data.splits["val"].targets(0))
    eachmask.evaluate([targets], data, tmp_path / "out", resamples=0, boundary=False)
    assert {"report.html", "evaluation.json", "predictions.json"} <= {
        path.name for path in (tmp_path / "out").iterdir()
    }


def test_settings_of_a_model_do_not_fit_predictions(folder: Path) -> None:
    with pytest.raises(UserError, match="--side, --precision, --nms, --paste and --known-foreground"):
        eachmask.evaluate([], folder, side=512)
