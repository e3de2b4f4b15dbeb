"""From annotated keypoints to a model that draws skeletons: each step as a user meets it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from made_scenes import read_one
from small_sets import make_set

from eachmask.cli import main
from eachmask.data import Dataset
from eachmask.data.builder import map_targets
from eachmask.data.formats.coco_read import read_coco
from eachmask.data.formats.coco_write import write_coco_folder
from eachmask.data.sample import Sample
from eachmask.data.transforms.crop import Flip, LargeScaleJitter
from eachmask.models import keypoint_rcnn_lite0_p3
from eachmask.recipes.auto_recipe import auto_recipe
from eachmask.structures import Category, Instances, UserError
from eachmask.tasks.boxes import box_scores
from eachmask.tasks.keypoints import keypoint_scores
from eachmask.training.pretrained import choose_start
from eachmask.weights.file import read_info

NAMES = ("nose", "left_hand", "right_hand")
SKELETON = ((0, 1), (0, 2))
QUICK = ["--steps", "2", "--batch", "2", "--size", "64", "--start", "none", "--device", "cpu"]


def with_keypoints(data: Dataset, names: tuple[str, ...] = NAMES) -> Dataset:
    """The first class has three points in each object: the middle of its box, and left and right of it."""
    own = replace(data.categories[0], keypoints=names, skeleton=SKELETON if names else ())
    categories = (own, *data.categories[1:])

    def shown(targets: Instances) -> Instances:
        x1, y1, x2, y2 = targets.boxes.unbind(1)
        x = torch.stack([0.5 * x1 + 0.5 * x2, 0.8 * x1 + 0.2 * x2, 0.2 * x1 + 0.8 * x2], dim=1)
        points = torch.stack([x, ((y1 + y2) / 2)[:, None].expand_as(x), torch.full_like(x, 2)], dim=-1)
        points[targets.labels != 0] = 0
        return replace(targets, keypoints=points)

    return map_targets(data, shown).relabeled([0, 1, 2], categories)


@pytest.fixture(scope="module")
def coco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("coco")
    write_coco_folder(folder / "set", with_keypoints(make_set(folder / "images")))
    return folder / "set"


@pytest.fixture(scope="module")
def run(coco: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "mine"
    assert main(["train", "keypoint_rcnn_lite0_p3", "--data", str(coco), "--out", str(out), *QUICK]) == 0
    return out


def test_names_and_skeleton_are_in_the_model_file(run):
    info = read_info(run / "model.safetensors")
    assert info.categories[0] == Category(3, "cell", keypoints=NAMES, skeleton=SKELETON)
    assert info.categories[1].keypoints == () and info.config["keypoint_head"] == {"num_keypoints": 3}
    assert {"val ap", "val ap50", "val ar", "val box_ap"} <= set(info.scores), "scored by keypoints, boxes beside them"
    assert "Flip(keypoint_pairs=((1, 2),))" in (run / "recipe.py").read_text()


def test_predictions_are_coco_keypoint_results(run, coco, tmp_path):
    image = next((coco / "images" / "train").iterdir())
    arguments = [str(image), "--model", str(run / "model.safetensors"), "--out", str(tmp_path / "out")]
    assert main(["predict", *arguments, "--score", "0", "--max-detections", "3", "--device", "cpu"]) == 0
    content = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert content["categories"][0]["keypoints"] == list(NAMES)
    assert content["categories"][0]["skeleton"] == [[1, 2], [1, 3]], "COCO counts from 1"
    assert len(content["annotations"]) == 3
    for row in content["annotations"]:
        assert len(row["keypoints"]) == 9 and row["num_keypoints"] == 3 and "segmentation" not in row
        assert all(0 < score <= 1 for score in row["keypoints"][2::3]), "small scores are not rounded away"


def test_a_model_is_measured_by_its_keypoints(run, coco, tmp_path, capsys):
    model, out = str(run / "model.safetensors"), tmp_path / "out"
    assert main(["evaluate", model, "--data", str(coco), "--out", str(out), "--resamples", "0", "--device", "cpu"]) == 0
    found = json.loads((out / "evaluation.json").read_text())["measured"]["coco"]["keypoints"]
    assert 0 <= found["ap"] <= 1 and "keypoints" in capsys.readouterr().out
    assert "AP of keypoints" in (out / "report.html").read_text()


def test_perfect_keypoints_measure_one(coco, tmp_path):
    """Three keypoints, not COCO's 17; objects of classes without keypoints, and counts that a tool left out."""
    annotations = coco / "instances_train.json"
    content = json.loads(annotations.read_text())
    results = [row | {"score": 0.9} for row in content["annotations"]]
    for row in content["annotations"]:
        del row["num_keypoints"]
    uncounted = tmp_path / "uncounted.json"
    uncounted.write_text(json.dumps(content))
    out = ["--out", str(tmp_path / "out"), "--resamples", "0", "--no-boundary"]
    for file, moved, least, most in ((annotations, 0, 1, 1), (uncounted, 0, 1, 1), (uncounted, 9, 0, 0.5)):
        points = [[v + moved * (i % 3 == 0) for i, v in enumerate(row["keypoints"])] for row in results]
        rows = [row | {"keypoints": moved_points} for row, moved_points in zip(results, points, strict=True)]
        (tmp_path / "results.json").write_text(json.dumps(rows))
        assert main(["evaluate", "--predictions", str(tmp_path / "results.json"), "--data", str(file), *out]) == 0
        measured = json.loads((tmp_path / "out" / "evaluation.json").read_text())["measured"]["coco"]["keypoints"]
        assert least <= measured["ap"] <= most


def test_scores_of_training_are_those_of_evaluation(coco):
    targets = [read_one(coco / "instances_train.json").stated_targets(0)]
    found = [replace(targets[0], masks=None, scores=torch.linspace(0.9, 0.6, len(targets[0])))]
    box_ap = pytest.approx(box_scores(found, targets)["ap"])
    assert keypoint_scores(found, targets) == {"ap": 1, "ap50": 1, "ap75": 1, "ar": 1, "box_ap": box_ap}
    mirrored = [replace(found[0], keypoints=found[0].keypoints[:, [0, 2, 1]])]
    assert keypoint_scores(mirrored, targets)["ap"] < 0.1, "left is not right"
    assert keypoint_scores([Instances.empty(targets[0].image_size)], targets)["ap"] == 0


def test_names_and_skeleton_survive_reading_and_writing(coco, tmp_path):
    data = read_coco(coco)
    assert data.categories[0].keypoints == NAMES and data.categories[0].skeleton == SKELETON
    write_coco_folder(tmp_path / "again", data)
    assert read_coco(tmp_path / "again").categories == data.categories


@pytest.mark.parametrize(
    ("pairs", "read"),
    [
        ([[1, 2], [1, 3]], SKELETON),
        ([[0, 1], [0, 2]], SKELETON),  # of a tool that counts from 0
        ([[1, 2], [1], "ab", [1, 9], [1, 3]], SKELETON),
        ("none", ()),
    ],
)
def test_skeletons_as_tools_write_them(coco, tmp_path, pairs, read):
    content = json.loads((coco / "instances_val.json").read_text())
    content["categories"][0]["skeleton"] = pairs
    (tmp_path / "instances.json").write_text(json.dumps(content))
    assert read_one(tmp_path / "instances.json").categories[0].skeleton == read


def test_left_and_right_need_names(tmp_path):
    data = with_keypoints(make_set(tmp_path))
    samples = data.splits["train"]
    recipe, notes = auto_recipe("keypoint_rcnn_lite0_fpn", samples, start="none")
    assert recipe.augment.flip == Flip(keypoint_pairs=((1, 2),)) and recipe.mix is None
    assert recipe.score is keypoint_scores and not any("mirrored" in note for note in notes)
    nameless = with_keypoints(make_set(tmp_path), names=())
    samples = nameless.splits["train"]
    recipe, notes = auto_recipe("keypoint_rcnn_lite0_fpn", samples, start="none")
    assert recipe.augment.flip.chance == 0 and any("not mirrored" in note for note in notes)


def test_data_without_keypoints_are_refused(tmp_path):
    data = make_set(tmp_path)
    with pytest.raises(UserError, match="the data have none"):
        auto_recipe("keypoint_rcnn_lite0_fpn", data.splits["train"], start="none")


def test_people_start_from_a_backbone_that_has_seen_some():
    start = choose_start("keypoint_rcnn_lite0_p3")
    model = keypoint_rcnn_lite0_p3()
    said = start.load(model)
    assert said == "The backbone starts from that of clicks; the rest is new."
    assert start.preprocess == read_info(start.load.trained).preprocess and not start.whole


@pytest.mark.parametrize("seed", range(8))
def test_keypoints_move_with_their_pixels(seed):
    """Each keypoint has a color of its own in the image; after jitter and mirror the color is still there, and what
    has left the window is not visible."""
    image = np.zeros((60, 90, 3), np.float32)
    places = [(20.5, 30.5), (60.5, 15.5), (75.5, 50.5)]
    for channel, (x, y) in enumerate(places):
        image[int(y) - 4 : int(y) + 5, int(x) - 4 : int(x) + 5, channel] = 1
    points = torch.tensor([[*place, 2.0] for place in places])[None]
    targets = Instances((60, 90), torch.tensor([[10.0, 5, 85, 58]]), keypoints=points)
    rng = np.random.default_rng(seed)
    window = LargeScaleJitter((64, 64), (0.8, 3.0))(Sample(image, targets, Path("a.png"), 0), rng)
    mirrored = Flip(1.0, ((1, 2),))(window, rng)
    for sample, colors in ((window, (0, 1, 2)), (mirrored, (0, 2, 1))):
        for (x, y, visible), channel in zip(sample.targets.keypoints[0].tolist(), colors, strict=True):
            if visible:
                assert sample.image[int(y), int(x), channel] > 0.5
            else:
                assert (x, y) == (0, 0)
                colored = sample.image[..., channel] > 0.6
                inner = colored[1:-1, 1:-1].sum()
                assert inner == 0 or colored.sum() > inner, "whole in the window, and yet not visible"
