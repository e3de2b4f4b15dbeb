"""The bundled ``clicks`` model: from a click to a mask, and measured by simulated clicks."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.data import coins
from test_segment_scribbles import disk

import eachmask
from eachmask.cli import main
from eachmask.evaluation.interactive import evaluate_prompts
from eachmask.structures import Prompts


def test_a_click_on_a_coin_gives_the_coin():
    image = coins()
    look = eachmask.load("clicks", device="cpu", precision="fp32").look_at(image)
    found = look.predict(Prompts(image.shape, points=torch.tensor([[45.0, 55.0], [110.0, 60.0]]), point_objects=[0, 1]))
    assert len(found) == 2
    for box, (x, y) in zip(found.boxes.tolist(), ((45, 55), (110, 60)), strict=True):
        assert abs((box[0] + box[2]) / 2 - x) < 12 and abs((box[1] + box[3]) / 2 - y) < 12
        assert 25 < box[2] - box[0] < 60 and 25 < box[3] - box[1] < 60


def test_segment_takes_it_where_no_model_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = tmp_path / "coins.png"
    Image.fromarray(coins()).save(path)
    assert main(["segment", str(path), "--point", "45,55", "--out", str(tmp_path / "out"), "--device", "cpu"]) == 0
    (found,) = json.loads((tmp_path / "out/predictions.json").read_text())["annotations"]
    assert 500 < found["area"] < 2500


def test_a_lone_click_has_alternatives_the_best_first(tmp_path: Path):
    path, out = tmp_path / "coins.png", tmp_path / "out"
    Image.fromarray(coins()).save(path)
    words = ["segment", str(path), "--point", "45,55", "--alternatives", "--out", str(out), "--device", "cpu"]
    assert main(words) == 0
    scores = [found["score"] for found in json.loads((out / "predictions.json").read_text())["annotations"]]
    assert 2 <= len(scores) <= 3 and scores == sorted(scores, reverse=True)
    look = eachmask.load("clicks", device="cpu", precision="fp32").look_at(coins())
    points = torch.tensor([[45.0, 55.0], [110.0, 60.0], [112.0, 62.0]])
    found = look.predict(Prompts(coins().shape, points=points, point_objects=[0, 1, 1]), alternatives=True)
    numbers = found.track_ids.tolist()
    assert numbers == sorted(numbers) and numbers.count(0) >= 2 and numbers.count(1) == 1


def test_everything_on_a_grid(tmp_path: Path):
    """Coins, some of them whole; the peak of memory does not depend on the number of points."""
    predictor = eachmask.load("clicks", device="cpu", precision="fp32")
    image = coins()[:150, :200]
    config = replace(predictor.everything_config, points_per_side=6, iou_threshold=0.5, stability_threshold=0.5)
    found = predictor.everything(image, config=config)
    assert len(found) >= 2 and (found.scores[:-1] >= found.scores[1:]).all() and (found.scores > 0.5).all()
    assert ((found.masks.area() > 500) & (found.masks.area() < 2500)).any()
    none = predictor.everything(image, config=replace(config, iou_threshold=0.999))
    assert len(none) == 0


@pytest.fixture
def disks(tmp_path: Path) -> Path:
    disk(tmp_path / "disk.png")
    outline = [[35 + 14 * np.cos(t), 30 + 14 * np.sin(t)] for t in np.linspace(0, 2 * np.pi, 40, endpoint=False)]
    annotation = {
        "id": 1, "image_id": 1, "category_id": 1, "iscrowd": 0, "area": 615.0, "bbox": [21, 16, 28, 28],
        "segmentation": [np.ravel(outline).tolist()],
    }  # fmt: skip
    content = {
        "images": [{"id": 1, "file_name": "disk.png", "height": 60, "width": 80}],
        "annotations": [annotation],
        "categories": [{"id": 1, "name": "disk"}],
    }
    (tmp_path / "disks.json").write_text(json.dumps(content))
    return tmp_path / "disks.json"


def test_clicks_and_boxes_measure_a_model(disks: Path, tmp_path: Path):
    out = tmp_path / "measured"
    words = ["evaluate", "clicks", "--data", str(disks), "--out", str(out), "--device", "cpu"]
    assert main([*words, "--prompts", "clicks", "--fail-under", "iou5=0.7"]) == 0
    values = json.loads((out / "evaluation.json").read_text())["clicks"]
    assert values["objects"] == 1 and 1 <= values["noc85"] <= 20 and len(values["curve"]) <= 20
    assert values["iou1"] <= values["iou5"] + 0.1
    assert "IoU over clicks" in (out / "report.html").read_text()
    assert main([*words, "--prompts", "boxes", "--fail-under", "box_iou=1.01"]) == 1


def test_options_that_mean_nothing_are_refused(disks: Path, capsys: pytest.CaptureFixture[str]):
    words = ["evaluate", "clicks", "--data", str(disks)]
    for more, said in (
        (["--prompts", "clicks", "--merge", "all"], "--merge means nothing"),
        (["--most", "3"], "add --prompts"),
    ):
        assert main([*words, *more]) == 2
        assert said in capsys.readouterr().err.replace("\n", " ")


def test_what_cannot_be_asked_is_a_sentence(disks: Path):
    with pytest.raises(eachmask.UserError, match="takes no prompts"):
        evaluate_prompts("nuclei", disks, device="cpu")
    with pytest.raises(eachmask.UserError, match="no object of at least 100000 pixels"):
        evaluate_prompts("clicks", disks, min_area=100_000, device="cpu")


def test_label_annotates_what_it_is_sure_of(tmp_path: Path):
    (tmp_path / "in").mkdir()
    Image.fromarray(coins()[16:158, :128]).resize((384, 426)).save(tmp_path / "in/coins.png")
    words = ["label", str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--name", "coin", "--points-per-side", "5"]
    assert main([*words, "--iou", "0.7", "--stability", "0.8", "--device", "cpu", "--precision", "fp32"]) == 0
    content = json.loads((tmp_path / "out/data/instances_train.json").read_text())
    assert len(content["annotations"]) >= 2 and content["categories"][0]["name"] == "coin"
    assert sum(5000 < found["area"] < 16000 for found in content["annotations"]) >= 2
