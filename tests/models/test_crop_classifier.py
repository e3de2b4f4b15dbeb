"""Narrower names: what is cropped, when a name is given, what becomes of it in a file and in the results."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import eachmask
from eachmask.data import Dataset
from eachmask.data.formats import table
from eachmask.data.formats.geojson import to_geojson
from eachmask.draw.labels import captions
from eachmask.models.crop_classifier import Config, CropClassifier, likeliest_class, square, with_narrower
from eachmask.models.instance.condinst import condinst_lite0_fpn
from eachmask.models.instance.mask_rcnn import mask_rcnn_lite0_p3
from eachmask.structures import Bitmaps, Category, Instances, Preprocess, UserError
from eachmask.structures.coco import to_annotations
from eachmask.training.crop_classifier import min_sure, with_kinds
from eachmask.training.pretrained import choose_start
from eachmask.weights.file import ModelInfo, load_classifier, load_model, save_model

ANIMALS = Config(
    names=("cat", "dog", "car"), labels=(0, 0, 1), sure=0.5, at_most=2, preprocess=Preprocess(short_side=None)
)


class Brightness(CropClassifier):
    """Names by how bright a crop is: cat, dog, car from dark to bright, less sure in between."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.seen: list[torch.Tensor] = []

    def forward(self, crops: torch.Tensor) -> torch.Tensor:
        self.seen.append(crops)
        at = crops.mean(dim=(1, 2, 3))
        return -20 * (at[:, None] - torch.tensor([-1.5, 0.0, 1.5])).abs()


def objects(count: int = 3) -> Instances:
    """Squares of 20 px in a row, all labeled 1."""
    x = torch.arange(count) * 40.0 + 10
    return Instances(
        image_size=(60, 40 * count),
        boxes=torch.stack([x, x * 0 + 20, x + 20, x * 0 + 40], dim=1),
        labels=torch.ones(count, dtype=torch.int64),
        scores=torch.linspace(0.9, 0.5, count),
        categories=(Category(1, "animal"), Category(2, "vehicle")),
    )


def test_a_name_comes_with_its_class_and_only_where_the_network_is_sure():
    image = np.zeros((60, 120, 3), np.uint8)
    image[:, 40:80] = 255 * 0.8  # halfway between two names: neither is sure enough
    classifier = Brightness(replace(ANIMALS, at_most=3, sure=0.9))
    image[:, 80:] = 255
    image[:, 40:80] = np.round(255 * (np.array([0.485, 0.456, 0.406]) + 0.75 * np.array([0.229, 0.224, 0.225])))
    named = classifier.name(image, objects(), (0.0, 255.0))
    assert named.label_names == ["cat", "vehicle", "car"]  # the middle one keeps what the detector said
    assert named.parent_names == ["animal", "", "vehicle"]
    assert [category.id for category in named.categories] == [1, 2, 3, 4, 5]


def test_the_likeliest_class_is_that_of_the_likeliest_names_together():
    logits = torch.tensor([[0.3, 0.3, 0.4], [0.1, 0.2, 0.7]]).log()
    assert likeliest_class(logits, ANIMALS).tolist() == [0, 1]
    assert likeliest_class(logits, replace(ANIMALS, offsets=(2.0, 0.0, 0.0))).tolist() == [0, 0]


def test_the_class_can_be_left_to_the_names():
    image = np.full((60, 120, 3), 255, np.uint8)
    bright = objects()
    bright.labels = torch.zeros(3, dtype=torch.int64)
    for sure in (0.5, 1.1):  # also where no name is given
        decided = Brightness(replace(ANIMALS, at_most=2, sure=sure, decides=True)).name(image, bright, (0.0, 255.0))
        names = ["car" if sure < 1 else "vehicle"] * 3
        assert decided.label_names == names, "however many they are, none keeps a class that nobody chose"
    assert not bright.labels.any(), "the objects that were given stay as they are"


def test_a_detector_of_one_class_gets_the_kinds_of_the_data(tmp_path: Path):
    torch.manual_seed(0)
    model = condinst_lite0_fpn(num_classes=1, score_threshold=0.0).eval()
    one_class = (Category(1, "object"),)
    info = ModelInfo("condinst_lite0_fpn", {"score_threshold": 0.0}, Preprocess(short_side=64), one_class)
    classes = [Category(1, "cat", "animal"), Category(2, "dog", "animal"), Category(3, "car", "vehicle")]
    again, changed = with_kinds(model, info, Dataset(tuple(classes), {}))
    assert [c.name for c in changed.categories] == ["animal", "vehicle"]
    path = save_model(
        tmp_path / "m.safetensors", again, changed, classifier=CropClassifier(replace(ANIMALS, decides=True)).eval()
    )
    image = np.random.default_rng(0).integers(0, 255, (64, 80, 3), dtype=np.uint8)
    found = eachmask.load(path, device="cpu").predict(image)
    assert len(found) > 2 and set(found.label_names) <= {"animal", "vehicle", *ANIMALS.names}
    assert len(found.filter(classes=["animal", "vehicle"])) == len(found)
    start = choose_start("condinst_lite0_fpn", str(path))
    assert start.whole and "agnostic" not in start.config, "trained further, it learns the classes itself"


def test_a_detector_that_cannot_leave_classes_to_the_names_is_refused():
    model = mask_rcnn_lite0_p3(num_classes=1)
    info = ModelInfo("mask_rcnn_lite0_p3", categories=(Category(1, "object"),))
    with pytest.raises(UserError, match="train it on the supercategories"):
        with_kinds(model, info, Dataset((Category(1, "cat", "animal"),), {}))


def test_only_the_best_objects_are_looked_at():
    classifier = Brightness(ANIMALS)
    named = classifier.name(np.zeros((60, 120, 3), np.uint8), objects(), (0.0, 255.0))
    assert named.label_names == ["cat", "cat", "vehicle"] and sum(map(len, classifier.seen)) == 2
    none = classifier.name(np.zeros((60, 120, 3), np.uint8), objects()[[]], (0.0, 255.0))
    assert len(none) == 0 and none.label_names == []


@pytest.mark.parametrize("width", [20, 300])
def test_a_crop_is_the_square_around_the_box(width):
    """A ramp tells where each pixel of the crop comes from."""
    image = np.repeat(np.arange(800, dtype=np.float32)[None, :, None], 800, axis=0).repeat(3, axis=2) + 0.5
    crop = square(image, (400 - width / 2, 390, 400 + width / 2, 410), 128, 1.5, 16.0)
    expected = 400 + (np.arange(128) + 0.5 - 64) * 1.5 * width / 128
    np.testing.assert_allclose(crop[64, :, 0], expected, atol=0.02 * width / 20 + 0.05)


def test_a_crop_at_the_edge_is_mirrored():
    image = np.repeat(np.arange(100, dtype=np.float32)[None, :, None], 100, axis=0).repeat(3, axis=2)
    crop = square(image, (0, 40, 20, 60), 64, 2.0, 16.0)[:, :, 0]
    assert crop.min() >= 0 and crop[32, 0] == pytest.approx(9, abs=1.5) and crop[32, 63] == pytest.approx(29, abs=1.5)
    assert square(image, (-5, -5, 300, 300), 64, 1.1, 16.0).shape == (64, 64, 3)  # larger than the image


def test_names_travel_with_the_objects():
    categories, (cat, _, car) = with_narrower(objects().categories, ANIMALS)
    named = replace(objects(), labels=torch.tensor([cat, 1, car]), categories=categories)
    assert named[[2, 0]].label_names == ["car", "cat"]
    assert named.filter(classes=["cat", "car"]).scores.tolist() == named.scores[[0, 2]].tolist()
    assert named.filter(classes=["vehicle"]).label_names == ["vehicle", "car"]
    assert named.filter(classes="animal").label_names == ["cat"]
    assert Instances.cat([named[0], named[1]]).label_names == ["cat", "vehicle"]
    assert captions(named) == ["cat 0.90", "vehicle 0.70", "car 0.50"]
    rows = to_annotations(named)
    assert [row["category_id"] for row in rows] == [3, 2, 5]
    columns = [table.COLUMNS.index(name) for name in ("class", "parent")]
    found = table.rows("a", named, np.zeros((60, 120, 3)))
    assert [[row[c] for c in columns] for row in found] == [["cat", "animal"], ["vehicle", ""], ["car", "vehicle"]]
    assert "cat" in named._repr_html_()
    with_masks = replace(named, masks=Bitmaps([np.ones((4, 4), bool)] * 3, np.zeros((3, 2), int), (60, 120)))
    features = to_geojson(with_masks)["features"]
    assert [f["properties"].get("parent") for f in features] == ["animal", None, "vehicle"]
    assert [f["properties"]["classification"]["name"] for f in features] == ["cat", "vehicle", "car"]


def test_a_name_that_is_its_class_is_no_second_category():
    wide = (Category(4, "person"), Category(9, "animal"))
    categories, labels = with_narrower(wide, Config(("person", "cat"), (0, 1)))
    assert categories == (*wide, Category(10, "cat", "animal")) and labels == (0, 2)


def test_the_least_probability_at_which_enough_are_right():
    probabilities = torch.tensor([0.5, 0.9, 0.8, 0.7, 0.6])
    right = torch.tensor([False, True, True, False, True])
    sure, scores = min_sure(probabilities, right, share=0.75)
    assert sure == pytest.approx(0.6)
    assert scores["named"] == pytest.approx(0.8) and scores["right"] == pytest.approx(0.75)
    assert min_sure(probabilities, right, share=1.0)[0] == pytest.approx(0.8)
    assert min_sure(probabilities, ~right & False)[0] > 1


def test_one_file_holds_the_model_and_its_classifier(tmp_path: Path):
    torch.manual_seed(0)
    model = mask_rcnn_lite0_p3(num_classes=2, score_threshold=0.0, class_agnostic_nms=True).eval()
    info = ModelInfo("mask_rcnn_lite0_p3", {"score_threshold": 0.0, "class_agnostic_nms": True},
                     Preprocess(short_side=64), (Category(1, "animal"), Category(2, "vehicle")))  # fmt: skip
    classifier = CropClassifier(replace(ANIMALS, sure=0.0, side=64)).eval()
    path = save_model(tmp_path / "both.safetensors", model, info, classifier=classifier)
    again = load_classifier(path)
    assert again is not None and again.config == classifier.config
    for name, value in classifier.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], value)
    assert set(load_model(path)[0].state_dict()) == set(model.state_dict())  # to be fine-tuned as any other
    plain = save_model(tmp_path / "plain.safetensors", model, info)
    assert load_classifier(plain) is None
    image = np.random.default_rng(0).integers(0, 255, (64, 80, 3), dtype=np.uint8)
    predictor, without = eachmask.load(path, device="cpu"), eachmask.load(plain, device="cpu")
    assert predictor.fingerprint != without.fingerprint
    found, bare = predictor.predict(image), without.predict(image)
    assert len(found) and len(bare.categories) == 2 and len(found.categories) == 5
    torch.testing.assert_close(found.boxes, bare.boxes)
    assert all(found.parent_names[: ANIMALS.at_most]) and not any(found.parent_names[ANIMALS.at_most :])
    moved = pickle.loads(pickle.dumps(predictor)).predict(image)
    assert json.dumps(to_annotations(moved)) == json.dumps(to_annotations(found))
