"""``eachmask train`` as a user calls it: any format in, a model file out that ``eachmask predict`` takes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from small_sets import CATEGORIES, make_set

import eachmask
from eachmask import models
from eachmask.backbones.networks import freeze
from eachmask.cli import main
from eachmask.data.classes import merged_categories, with_the_rest_ignored
from eachmask.data.formats.coco_write import write_coco_folder
from eachmask.data.formats.labelme import write_labelme
from eachmask.data.joined import joined
from eachmask.data.matching import match_categories
from eachmask.data.transforms.mix import CopyPaste, PhotoMix
from eachmask.recipes.auto_recipe import auto_recipe
from eachmask.structures import UserError
from eachmask.training.pretrained import FromBackbone, backbone_of, choose_start
from eachmask.training.splits import held_out, read_splits
from eachmask.weights.catalogue import bundled
from eachmask.weights.file import load_model, read_info

QUICK = ["--steps", "2", "--batch", "2", "--size", "64", "--start", "none", "--device", "cpu"]


@pytest.fixture(scope="module")
def coco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("coco")
    write_coco_folder(folder / "set", make_set(folder / "images"))
    return folder / "set"


@pytest.fixture(scope="module")
def run(coco: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "mine"
    assert main(["train", "mask_rcnn_lite0_fpn", "--data", str(coco), "--out", str(out), *QUICK]) == 0
    return out


def test_the_model_file_is_all_that_prediction_needs(run, coco):
    info = read_info(run / "model.safetensors")
    assert [(c.id, c.name) for c in info.categories] == [(c.id, c.name) for c in CATEGORIES], "own ids, with their gaps"
    assert info.variant == "mask_rcnn_lite0_fpn" and info.training["images"] == 2
    for model in (run / "model.safetensors", run, str(run)):
        found = eachmask.load(model).predict(np.zeros((48, 64, 3), np.uint8))
        assert found.image_size == (48, 64)


def test_the_written_recipe_trains_again(run, coco, tmp_path):
    again = [f"{run / 'recipe.py'}:recipe", "--data", str(coco), "--out", str(tmp_path / "again"), "--device", "cpu"]
    assert main(["train", *again]) == 0
    first, second = (json.loads((folder / "environment.json").read_text()) for folder in (run, tmp_path / "again"))
    assert first["categories"] == second["categories"]
    old, new = (eachmask.load(folder / "model.safetensors").model.state_dict() for folder in (run, tmp_path / "again"))
    assert all(torch.equal(old[name], new[name]) for name in old)


def test_another_format_and_a_val_set_of_its_own(coco, tmp_path, capsys):
    data = make_set(tmp_path / "images")
    write_labelme(tmp_path / "labelme", data)
    arguments = ["--data", str(tmp_path / "labelme"), "--val", str(coco), "--out", str(tmp_path / "run"), *QUICK]
    assert main(["train", "faster_rcnn_lite0_fpn", *arguments]) == 0
    assert "labelme" in capsys.readouterr().out


def test_one_process_of_several_speaks(coco, tmp_path, capsys, monkeypatch):
    """Each process of a shared run calls the command; what it says, and the list of problems, come once."""
    monkeypatch.setattr("eachmask.recipes.train.run_recipe", lambda *_: bundled()["objects"])
    said = {}
    for rank in "01":
        monkeypatch.setenv("RANK", rank)
        arguments = ["--data", str(coco), "--out", str(tmp_path / rank), *QUICK]
        assert main(["train", "mask_rcnn_lite0_fpn", *arguments]) == 0
        said[rank] = capsys.readouterr().out
    assert "2 steps of 2 images" in said["0"] and "best model" in said["0"] and not said["1"]
    assert "Use it: eachmask predict IMAGES --model" in said["0"]


def test_start_from_ones_own_model(run, coco, tmp_path, capsys):
    out = ["--out", str(tmp_path / "run"), "--steps", "1", "--batch", "2", "--size", "64", "--device", "cpu"]
    start = ["--start", str(run / "model.safetensors")]
    assert main(["train", "mask_rcnn_lite0_fpn", "--data", str(coco), *out, *start]) == 0
    assert "nothing had to be made anew" in capsys.readouterr().out


def test_classes_are_merged_for_a_model_of_one_class(coco, tmp_path):
    out = tmp_path / "run"
    assert main(["train", "panoptic_deeplab_lite0", "--data", str(coco), "--out", str(out), *QUICK]) == 0
    assert [c.name for c in read_info(out / "model.safetensors").categories] == ["object"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["mask_rcnn_lite1", "--data", "x"], "did you mean"),
        (["mask_rcnn_lite0_fpn", "--data", "nowhere"], "nowhere"),
        (["mask_rcnn_lite0_fpn", "--data", "x", "--steps", "0"], "--steps must be more than 0"),
        (
            ["nuclei", "--data", "x", "--size", "300"],
            "decides --pretrained, --backbone, --size, --mosaic and --copy-paste itself",
        ),
        (
            ["nuclei", "--data", "x", "--copy-paste", "0"],
            "decides --pretrained, --backbone, --size, --mosaic and --copy-paste itself",
        ),
        (["mask_rcnn_lite0_fpn", "--data", "x", "--mosaic", "1.5"], "--mosaic is a chance from 0 to 1, not 1.5"),
        (["mask_rcnn_lite0_fpn", "--data", "x", "--copy-paste", "-1"], "--copy-paste is a chance from 0 to 1, not -1"),
        (["mask_rcnn_lite0_fpn", "--data", "x", "--device", "cuda:7"], ""),
    ],
)
def test_mistakes_are_explained_in_a_sentence(arguments, words, tmp_path, capsys):
    assert main(["train", *arguments, "--out", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert said.startswith("eachmask: ") and words in said and "Traceback" not in said
    assert not (tmp_path / "run" / "model.safetensors").exists()


def _without_objects(folder: Path, *splits: str) -> None:
    for split in splits:
        file = folder / f"instances_{split}.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"annotations": []}))


def _doubtful(data: Path, val: Path | None = None) -> list[str]:
    return [note for note in read_splits(data, val).notes if note.startswith("Warning")]


def test_training_images_without_an_object_teach_nothing(coco, tmp_path):
    shutil.copytree(coco, tmp_path / "set")
    _without_objects(tmp_path / "set", "train")
    with pytest.raises(UserError, match="show not one object"):
        read_splits(tmp_path / "set")


def test_scores_that_say_little_are_doubted(coco, tmp_path):
    assert _doubtful(coco) == []
    (shared,) = _doubtful(coco, coco / "instances_train.json")
    assert "2 of the 2 val images are training images too" in shared
    shutil.copytree(coco, tmp_path / "set")
    _without_objects(tmp_path / "set", "val")
    assert "the val images show not one object" in _doubtful(tmp_path / "set")[0]


def test_classes_of_one_name_keep_their_labels(coco, tmp_path):
    shutil.copytree(coco, tmp_path / "set")
    for file in (tmp_path / "set").glob("*.json"):
        file.write_text(file.read_text().replace("dead cell", "cell"))
    splits = read_splits(tmp_path / "set", tmp_path / "set" / "instances_train.json")
    train_data, val_data, notes = splits.train, splits.val, splits.notes
    assert val_data.targets(0).labels.tolist() == train_data.targets(0).labels.tolist() == [0, 1, 2, 0]
    assert any("several classes have the name cell" in note for note in notes)
    labels, _ = match_categories(train_data.categories, val_data.categories)
    assert labels == {0: 0, 1: 1, 2: 2}


@pytest.mark.parametrize(("variant", "old", "words"), [
    ("faster_rcnn_lite0_fpn", "", "other settings (variant was mask_rcnn_lite0_fpn and is faster_rcnn_lite0_fpn"),
    ("mask_rcnn_lite0_fpn", "bead", "other settings (classes was cell, dead cell, bead and is cell, dead"),
])  # fmt: skip
def test_a_run_goes_on_only_as_what_it_was(run, coco, tmp_path, capsys, variant, old, words):
    shutil.copytree(coco, tmp_path / "set")
    for file in (tmp_path / "set").glob("*.json"):
        file.write_text(file.read_text().replace(f'"{old}"', '"pearl"'))
    before = (run / "environment.json").read_text()
    assert main(["train", variant, "--data", str(tmp_path / "set"), "--out", str(run), *QUICK]) == 2
    assert words in capsys.readouterr().err
    assert (run / "environment.json").read_text() == before


@pytest.mark.parametrize(("changed", "words"), [
    ("image", "(training data was 2 images ("), ("train", "(training data was 2 images ("),
    ("val", "(val data was 1 images ("), ("size", "short_side=64, long_side=64 and is short_side=96, long_side=96"),
])  # fmt: skip
def test_a_run_goes_on_only_with_its_data(run, coco, tmp_path, capsys, changed, words):
    data = shutil.copytree(coco, tmp_path / "set")
    if changed == "image":
        (image,) = data.rglob("a.png")
        image.write_bytes(image.read_bytes() + b"a comment")
    for file in data.rglob(f"instances_{changed}.json"):
        content = json.loads(file.read_text())
        file.write_text(json.dumps(content | {"annotations": content["annotations"][:-1]}))
    size = ["--size", "96"] if changed == "size" else []
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert main(["train", "mask_rcnn_lite0_fpn", "--data", str(data), "--out", str(run), *QUICK, *size]) == 2
    assert words in capsys.readouterr().err
    assert before == {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}


def test_data_in_another_place_is_the_same(run, coco, tmp_path):
    data = shutil.copytree(coco, tmp_path / "elsewhere")
    assert main(["train", "mask_rcnn_lite0_fpn", "--data", str(data), "--out", str(run), *QUICK]) == 0


def test_a_file_in_the_place_of_the_run_is_no_folder(coco, tmp_path, capsys):
    (tmp_path / "run").write_text("")
    arguments = ["--data", str(coco), "--out", str(tmp_path / "run"), *QUICK]
    assert main(["train", "mask_rcnn_lite0_fpn", *arguments]) == 2
    assert "run: File exists" in capsys.readouterr().err


def test_a_fifth_is_held_out_and_always_the_same(tmp_path):
    images = joined([make_set(tmp_path).splits["train"]] * 5).renamed([str(i) for i in range(10)])
    kept, held = held_out(images, seed=0)
    assert (len(kept), len(held)) == (8, 2) and sorted([*kept.names, *held.names]) == list(images.names)
    assert [list(part.names) for part in held_out(images, seed=0)] == [list(kept.names), list(held.names)]
    with pytest.raises(UserError, match="too few"):
        held_out(images.take([0]), seed=0)


def test_classes_are_merged_and_the_rest_ignored(tmp_path):
    data = make_set(tmp_path)
    merged = merged_categories(data, lambda category: "bead" if category.name == "bead" else "cell")
    assert [c.name for c in merged.categories] == ["cell", "bead"]
    assert merged.splits["train"].images()[0].targets.labels.tolist() == [0, 0, 1, 0]
    partial = with_the_rest_ignored(data).splits["train"].images()[0].targets
    assert partial.crowd.tolist() == [False] * 4 + [True] and partial.boxes[-1].tolist() == [0, 0, 64, 48]


def test_defaults_follow_the_data(tmp_path):
    data = make_set(tmp_path)
    samples = data.splits["train"]
    recipe, notes = auto_recipe("mask_rcnn_lite0_fpn", samples, start="backbone")
    assert recipe.batch_size == 2 and recipe.preprocess.long_side == 128 and recipe.steps == 300
    assert recipe.preprocess.mean == pytest.approx((127 / 255,) * 3), "what EfficientNet-Lite was trained with"
    assert recipe.frozen_stages == (None if torch.cuda.is_available() else 3) and "2 images" in notes[-1]
    boxes, _ = auto_recipe("faster_rcnn_lite0_fpn", samples, start="none")
    assert boxes.score.__name__ == "box_scores" and boxes.mix is None and boxes.start is None
    own, _ = auto_recipe("rtmdet_ins_nano", samples, start="backbone")
    assert own.frozen_stages is None, "nobody publishes weights of its backbone: random ones are not to be kept"


def test_all_bodies_of_a_model_start_from_imagenet():
    model = models.sds_lite0(num_classes=2)
    said = FromBackbone()(model)
    assert "tf_efficientnet_lite0" in said and "random" not in said
    freeze(backbone_of(model), 2)
    learnt = [name for name, p in model.backbone.named_parameters() if p.requires_grad]
    assert any(".blocks.6" in name for name in learnt) and not any(".blocks.0." in name for name in learnt)


@pytest.mark.parametrize("variant", ["solov2_lite0", "panoptic_deeplab_lite0", "sds_lite0"])
def test_of_a_model_of_another_variant_the_backbone_is_taken(run, variant):
    start = choose_start(variant, str(run / "model.safetensors"))
    assert "is a mask_rcnn_lite0_fpn" in start.note and not start.whole
    model = models.variant(variant)(num_classes=1)
    said = start.load(model)
    assert "model.safetensors" in said
    trained = {k.partition(".net.")[2]: v for k, v in load_model(run / "model.safetensors")[0].state_dict().items()}
    own = backbone_of(model).state_dict()
    for key, value in own.items():
        assert torch.equal(value, trained[key.rpartition("net.")[2]])
    assert own, "has a backbone"


def test_another_backbone_is_no_start(run):
    start = choose_start("mask_rcnn_r18_fpn", str(run / "model.safetensors"))
    with pytest.raises(UserError, match="has another backbone"):
        start.load(models.mask_rcnn_r18_fpn(num_classes=1))


def test_images_are_packed(tmp_path):
    data = make_set(tmp_path)
    samples = data.splits["train"]
    for sample, image in zip(samples, data.splits["train"].images(), strict=True):
        assert np.array_equal(sample.targets.masks.decode(), image.targets.masks.decode())
        assert torch.equal(sample.targets.labels, image.targets.labels)
        assert torch.equal(sample.targets.boxes, image.targets.boxes)


def test_how_images_are_mixed_is_part_of_the_recipe(coco, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "eachmask.recipes.train.run_recipe", lambda recipe, *_: seen.append(recipe.mix) or bundled()["objects"]
    )
    some, none = ["--mosaic", "0.25"], ["--copy-paste", "0"]
    for wishes in ([], some, none, some + none, ["--copy-paste", "0.75"]):
        assert main(["train", "mask_rcnn_lite0_fpn", "--data", str(coco), "--out", str(tmp_path), *QUICK, *wishes]) == 0
    assert seen == [
        CopyPaste(), PhotoMix(0.25, CopyPaste()), None, PhotoMix(0.25, CopyPaste(0.0)), CopyPaste(0.75)
    ]  # fmt: skip


def test_boxes_are_not_pasted(coco, tmp_path, capsys):
    wishes = ["--copy-paste", "0.5"]
    assert main(["train", "fcos_lite0_fpn", "--data", str(coco), "--out", str(tmp_path), *QUICK, *wishes]) == 2
    assert "leave out --copy-paste" in capsys.readouterr().err
