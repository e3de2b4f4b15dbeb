"""A panoptic data set through all commands: doctor, convert, train, predict and evaluate."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import torch

from eachmask import cli
from eachmask.data.formats.panoptic_png import encode_ids, segments_info
from eachmask.structures import Category, PanopticMap, Segment

CLASSES = (Category(1, "ground", is_thing=False), Category(2, "disk"))


def street(folder: Path, split: str, numbers: range) -> None:
    """Two red disks on gray ground in each image."""
    yy, xx = np.mgrid[:64, :96]
    images, annotations = [], []
    for number in numbers:
        ids = np.ones((64, 96), np.int32)
        for disk, x in ((2, 25), (3, 70)):
            ids[(yy - 16 - 6 * number) ** 2 + (xx - x) ** 2 < 150] = disk
        for part, data in (
            ("images", np.where(ids[..., None] > 1, (40, 60, 220), 90).astype(np.uint8)),
            ("panoptic", None),
        ):
            place = folder / part / split / f"{number}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(encode_ids(ids) if data is None else bytes(cv2.imencode(".png", data)[1]))
        target = PanopticMap(torch.from_numpy(ids), (Segment(1, 0), Segment(2, 1), Segment(3, 1)), CLASSES)
        images.append({"id": number, "file_name": f"{number}.png", "height": 64, "width": 96})
        annotations.append({"image_id": number, "file_name": f"{number}.png", "segments_info": segments_info(target)})
    categories = [{"id": c.id, "name": c.name, "isthing": int(c.is_thing)} for c in CLASSES]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / f"panoptic_{split}.json").write_text(json.dumps(content))


def test_from_a_data_set_to_its_score(tmp_path, capsys):
    data, run, out = tmp_path / "data", tmp_path / "run", tmp_path / "out"
    street(data, "train", range(4))
    street(data, "val", range(4, 6))
    assert cli.main(["doctor", str(data)]) == 0
    assert cli.main(["convert", str(data), str(tmp_path / "again"), "--to", "coco-panoptic"]) == 0
    train = ["train", "panoptic_deeplab_mobilenet_v3_large", "--data", str(tmp_path / "again"), "--start", "none"]
    assert cli.main([*train, "--out", str(run), "--steps", "2", "--size", "64", "--device", "cpu"]) == 0
    predict = ["predict", str(data / "images" / "val"), "--model", str(run), "--save", "panoptic", "--device", "cpu"]
    assert cli.main([*predict, "--out", str(out)]) == 0
    measure = ["evaluate", "--data", str(data), "--split", "val", "--task", "panoptic"]
    assert cli.main([*measure, "--predictions", str(out), "--out", str(tmp_path / "measured")]) == 0
    assert cli.main([*measure, "--predictions", str(data / "panoptic_val.json"), "--out", str(tmp_path / "own")]) == 0
    assert "pq 1.000" in capsys.readouterr().out, "the annotations themselves, as any tool's file"
