from __future__ import annotations

import re
import subprocess
import sys
from importlib import import_module

import pytest
from torchvision.models import detection
from torchvision.models._meta import _COCO_CATEGORIES

from eachmask import models
from eachmask.structures import Preprocess, UserError
from eachmask.weights.catalogue import FILE, Entry, bundled, entries, find, read_catalogue
from eachmask.weights.coco_categories import COCO_CATEGORIES
from eachmask.weights.file import read_info
from eachmask.weights.schema import SchemaError

CATALOGUE = tuple(entries().values())
THEIRS = {
    "mask_rcnn_r50_fpn": detection.MaskRCNN_ResNet50_FPN_Weights.COCO_V1,
    "mask_rcnn_r50_fpn_v2": detection.MaskRCNN_ResNet50_FPN_V2_Weights.COCO_V1,
    "faster_rcnn_r50_fpn": detection.FasterRCNN_ResNet50_FPN_Weights.COCO_V1,
    "faster_rcnn_r50_fpn_v2": detection.FasterRCNN_ResNet50_FPN_V2_Weights.COCO_V1,
    "keypoint_rcnn_r50_fpn": detection.KeypointRCNN_ResNet50_FPN_Weights.COCO_V1,
}
SCORES = {"box_map": "box AP", "mask_map": "mask AP", "kp_map": "keypoint AP"}

PROMPTABLE = {
    "from_sam": "promptable.sam",
    "from_mobile_sam": "promptable.sam",
    "from_efficient_sam": "promptable.efficient_sam",
    "from_sam2": "promptable.sam2",
    "from_ritm": "promptable.clicking",
}
"""Of weights whose files are named without a digest, and which are measured by prompts where they are at all: whose
PREPROCESS they want."""
UNNAMED = (*PROMPTABLE, "from_modnet", "from_cellpose")
"""Of weights whose files are named without a digest, and which the usual images do not measure."""
torchvision_entry = pytest.mark.parametrize(
    "entry", [entry for entry in CATALOGUE if entry.converter == "from_torchvision"], ids=lambda entry: entry.name
)
each_entry = pytest.mark.parametrize("entry", CATALOGUE, ids=lambda entry: entry.name)


@torchvision_entry
def test_entry_says_what_torchvision_says(entry: Entry) -> None:
    weights = THEIRS[entry.name]
    assert entry.url == weights.url
    assert re.search(rf"-{entry.sha256}\.pth$", weights.url), "the file's name carries the digest's first digits"
    assert entry.by_metric() == {SCORES[k]: v for k, v in weights.meta["_metrics"]["COCO-val2017"].items()}
    assert entry.size_mb == pytest.approx(weights.meta["_file_size"] * 1.048576, abs=0.06)
    assert [c.name for c in entry.categories] == weights.meta["categories"][1:]


def test_categories_are_torchvisions_without_background() -> None:
    assert [c.name for c in COCO_CATEGORIES] == _COCO_CATEGORIES[1:]
    assert [c.id for c in COCO_CATEGORIES] == list(range(1, 91))
    assert {c.parent for c in COCO_CATEGORIES if c.name == "N/A"} == {""}


@torchvision_entry
def test_preprocessing_is_torchvisions(entry: Entry) -> None:
    assert entry.preprocess == Preprocess(short_side=800, long_side=1333, divisor=32)


@each_entry
def test_file_name_carries_the_first_digits_of_its_digest(entry: Entry) -> None:
    assert re.fullmatch(r"[0-9a-f]{8,64}", entry.sha256)
    assert len(entry.sha256) == 64 or re.search(rf"-{entry.sha256[:8]}\.pth$", entry.url)
    assert entry.converter in UNNAMED or re.search(rf"-{entry.sha256[:8]}\.pth$", entry.url)


@each_entry
def test_entry_fits_a_variant(entry: Entry) -> None:
    assert entry.name in models.VARIANTS


@each_entry
def test_card_has_what_a_user_must_know(entry: Entry) -> None:
    card = entry.card()
    assert entry.license in card and entry.host in card
    assert all(f"{name} {value:.1f}" in card for name, value in entry.by_metric().items())
    assert entry.info().scores == {}, "published scores are never shown as measured ones"


def test_unknown_name_offers_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean mask_rcnn_r50_fpn"):
        find("mask-rcnn-r50-fpn")


def test_bundled_models_speak_for_themselves() -> None:
    for name, path in bundled().items():
        info = read_info(path)
        assert info.name == name and info.license and info.categories and info.scores and info.card
        assert info.variant in models.VARIANTS
        assert path.stat().st_size < 20e6


# The file -----------------------------------------------------------------------------------------

TEXT = FILE.read_text()


MEASURED_ON = {"background": "COCO val2017 with VOC's labels", "road": "Cityscapes val", "wall": "ADE20K val"}
"""By the name of the first class."""


def test_names_are_those_of_converters() -> None:
    for entry in CATALOGUE:
        assert callable(import_module(f"eachmask.weights.{entry.converter}").convert)
        images = MEASURED_ON.get(entry.categories[0].name, "COCO val2017")
        assert entry.converter in UNNAMED or {score.data for score in entry.published} == {images}


def test_tasks_are_those_of_the_scores() -> None:
    kinds = {"PQ": "panoptic", "mask AP": "instances", "keypoint AP": "keypoints", "mIoU": "semantic"}
    for entry in CATALOGUE:
        usual = {"from_modnet": "matting"} | dict.fromkeys([*PROMPTABLE, "from_cellpose"], "instances")
        named = [kinds[name] for name in entry.by_metric() if name in kinds]
        assert entry.task == (named or [usual.get(entry.converter, "boxes")])[0], entry.name


@each_entry
def test_an_entrys_task_is_that_of_its_model(entry: Entry) -> None:
    assert entry.task == models.model_class(entry.name).task.name


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('task = "instances"', 'task = "masks"', r"task must be 'boxes' .* or 'matting', not 'masks'"),
        ("size_mb = 178.1", "size_mb = -1", r"size_mb must be in 0\.1\.\.100000, not -1"),
        ("size_mb = 178.1", "size_mb = nan", "size_mb must be a number, not nan"),
        ("value = 37.9", "value = 379", r"published\[\]\.value must be in 0\.\.100, not 379"),
        ("value = 37.9", "valu = 37.9", r"published\[\]\.value is missing"),
        ('sha256 = "bf2d0c1e"\n', "", "sha256 is missing"),
        ("config = { norm_eps = 0.0 }", "confg = { norm_eps = 0.0 }", "confg is none of name, summary"),
        ("[550, 550]", "[550]", r"preprocess\.fixed_size must be a list of 2, not \[550\]"),
    ],
)
def test_a_mistake_in_an_entry_is_named(old: str, new: str, message: str) -> None:
    assert old in TEXT
    with pytest.raises(SchemaError, match=message):
        read_catalogue(TEXT.replace(old, new, 1))


def test_reading_waits_until_it_is_needed() -> None:
    code = "import eachmask.weights.catalogue as c, sys; sys.exit(c.entries.cache_info().currsize)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@each_entry
def test_promptable_models_preprocess_as_their_files_say(entry: Entry) -> None:
    if entry.converter not in PROMPTABLE:
        return
    module = import_module(f"eachmask.models.{PROMPTABLE[entry.converter]}")
    assert entry.preprocess.to_dict() | {"short_side": None} == module.PREPROCESS.to_dict() | {"short_side": None}


def test_mattes_and_clicks_preprocess_as_their_networks_say() -> None:
    for name in ("modnet", "ritm_hrnet18"):
        assert entries()[name].preprocess == models.model_class(name).preprocess


def test_scores_are_in_their_units() -> None:
    assert "Published scores (GrabCut, clicks): NoC@85 1.42, NoC@90 1.54" in entries()["ritm_hrnet18"].card()
    assert "Published scores (COCO val2017, per cent): box AP 37.9" in entries()["mask_rcnn_r50_fpn"].card()
    assert "Categories: none" in entries()["modnet"].card()
    assert "Categories: cells" in entries()["cellpose_cyto3"].card()


def test_cellposes_objects_are_thirty_pixels_across() -> None:
    assert entries()["cellpose_cyto3"].info().object_diameter == 30
    assert entries()["sam_vit_b"].info().object_diameter is None
