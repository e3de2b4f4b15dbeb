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


TEN = " ".join(["1.0"] * 8)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.json", '{"datasetId": "x", "annotations": [{"coordinates": []}]}', "is Dataloop, .* export COCO there"),
        ("a.json", '[{"labels": [{"jsonResponse": {}}]}]', "is Kili, .* export COCO there"),
        ("a.json", '[{"task_id": "x", "params": {"attachment": "u"}}]', "is Scale's tasks, .* COCO's segmentation"),
        ("a.json", '{"image": {}, "annotations": [{"predicted_iou": 0.9}]}', "is Segment Anything, .* one COCO file"),
        ("a.json", '{"assets": {"a": {"asset": {}, "regions": []}}}', "is VoTT"),
        ("a.json", '[{"labels": [{"poly2d": []}]}]', "is BDD100K, .*to_coco"),
        ("a.json", '{"objects": [{"label": "object--car", "polygon": []}]}', "is Mapillary Vistas, .* panoptic"),
        ("instances.json", '{"videos": [], "annotations": [{"segmentations": []}]}', "is YouTube-VIS"),
        ("a.manifest", '{"source-ref": "s3://b/a.png"}', "is Ground Truth of SageMaker, .* color-maps"),
        ("a.jsonl", '{"image_url": "a.png", "label": []}', "is Azure's labels"),
        ("a.jsonl", '{"image": "a.png", "_task_hash": 1}', "is Prodigy"),
        ("a.jsonl", '{"image": "a.png", "prefix": "", "suffix": ""}', "made for language models"),
        ("metadata.jsonl", '{"file_name": "a.png", "objects": {}}', "is metadata of Hugging Face, .* COCO file"),
        ("a.odgt", '{"ID": "a", "gtboxes": []}', "is CrowdHuman's, .* boxes alone"),
        ("a.xml", "<Annotations><Regions><Region><Vertices/></Region></Regions></Annotations>", "Aperio ImageScope"),
        ("a.xml", "<ASAP_Annotations></ASAP_Annotations>", "is ASAP's"),
        ("a.ome.xml", '<OME xmlns="x"><ROI ID="1"/></OME>', "is OME's regions, .* ROI Manager"),
        ("a.csv", "image_id,roi_id,shape_id\n", "is OMERO's table of regions"),
        ("a.csv", "object_id,labelimage_oid\n", "is ilastik's table, .* Object Identities"),
        ("a.csv", "nut,1,2,3,4,a.png,64,48\n", "is makesense.ai's CSV"),
        ("a.txt", f"imagesource:x\ngsd:1\n{TEN} small-vehicle 0\n", "is DOTA, .* makes YOLO"),
        ("images.npy", "x", "arrays of NumPy: save the objects' numbers as PNG of 16 bits"),
        ("a.mat", "x", "it is MATLAB's"),
        ("a.h5", "x", "it is HDF5"),
        ("a.zarr/0/0.0", "x", "it is Zarr"),
        ("a.pkl", "x", "a pickle may run anything"),
        ("a.tar", "x", "it is an archive: unpack it"),
        ("project.qpproj", "{}", "project of QuPath: export its objects as GeoJSON"),
        ("a.ilp", "x", "project of ilastik: export its Object Identities"),
    ],
)
def test_files_of_tools_that_are_not_read_say_what_helps(tmp_path: Path, name: str, text: str, words: str) -> None:
    image(tmp_path / "images" / "photo.png")
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    sources = [tmp_path] if path.parent != tmp_path else [tmp_path, path]
    for source in sources:
        with pytest.raises(UserError, match=words):
            read(source)


def test_lines_of_yolo_are_not_dotas(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(f"0 0.5 0.5 0.1 0.1\n1 {TEN}\nend\n")
    image(tmp_path / "photo.png")
    with pytest.raises(UserError, match="lines as of yolo"):
        read(tmp_path)


def test_the_file_is_named_and_not_its_copy(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"images": []}', encoding="utf-16")
    with pytest.raises(UserError, match=f"{tmp_path}/a.json is no COCO instances file"):
        read(tmp_path / "a.json")


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("image/a.png", "mask/a.png"), "image and .*mask have images of the same names: .* images and labels"),
        (("imgs/a.jpg", "masks/a_mask.png"), "imgs and .*masks have images of the same names"),
        (("images/a.png", "gt/a.png"), "gt and .*images have images of the same names"),
        (("test/bent/a.png", "ground_truth/bent/a_mask.png"), "bent and .*bent have images of the same names"),
        (("train/a.png", "val/a.png"), "2 images and no annotations"),
        (("a.jpg", "a_segmentation.png"), "a_segmentation may be the map of a: put the images into a folder images"),
        (("images/a.png", "masks/a/1.png"), "make one number map of the files in .*masks/a"),
    ],
)
def test_images_and_maps_elsewhere_are_told_how_to_be_called(
    tmp_path: Path, names: tuple[str, str], words: str
) -> None:
    for name in names:
        image(tmp_path / name)
    with pytest.raises(UserError, match=words):
        read(tmp_path)


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
