"""Exports that no test beside this one has: read as they are meant, or their tool is named and what to do."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from foreign_sets import OTHER, SIZE, SQUARE, coco, image, labels
from PIL import Image

from eachmask import UserError
from eachmask.data import read

LINE = "0 0.1 0.1 0.3 0.1 0.3 0.4 0.1 0.4\n"


def pairs(ring: list[int]) -> list[list[int]]:
    return [ring[i : i + 2] for i in range(0, len(ring), 2)]


@pytest.mark.parametrize("parts", [("train", "valid", "test"), ("test",), ()])
def test_coco_of_roboflow(tmp_path: Path, parts: tuple[str, ...]) -> None:
    tmp_path = tmp_path / "set"
    for folder in [tmp_path / part for part in parts] or [tmp_path]:
        image(folder / "a_png.rf.1f.jpg")
        coco(folder / "_annotations.coco.json", name="a_png.rf.1f.jpg")
    assert set(read(tmp_path).splits) == {{"valid": "val"}.get(part, part) for part in parts or ("all",)}


@pytest.mark.parametrize("parts", [("train", "valid"), ("test",)])
def test_yolo_of_roboflow(tmp_path: Path, parts: tuple[str, ...]) -> None:
    for part in parts:
        image(tmp_path / part / "images/a.jpg")
        (tmp_path / part / "labels").mkdir()
        (tmp_path / part / "labels/a.txt").write_text(LINE)
    entries = "train: ../train/images\nval: ../valid/images\ntest: ../test/images\nnc: 1\nnames: ['nut']\n"
    (tmp_path / "data.yaml").write_text(f"{entries}roboflow:\n  workspace: me\n  version: 1\n")
    data = read(tmp_path)
    assert set(data.splits) == {{"valid": "val"}.get(part, part) for part in parts}
    assert all(labels(data, split) == [["nut"]] for split in data.splits)


@pytest.mark.parametrize("parts", [("train", "valid"), ()])
def test_darknet_of_roboflow(tmp_path: Path, parts: tuple[str, ...]) -> None:
    for folder in [tmp_path / part for part in parts] or [tmp_path]:
        image(folder / "a.jpg").with_suffix(".txt").write_text(LINE)
        (folder / "_darknet.labels").write_text("nut\nbolt\n")
    data = read(tmp_path)
    assert set(data.splits) == ({"train", "val"} if parts else {"all"})
    assert all(labels(data, split) == [["nut"]] for split in data.splits)


def test_semantic_masks_of_roboflow(tmp_path: Path) -> None:
    for part in ("train", "valid"):
        image(tmp_path / part / "a.jpg")
        pixels = np.zeros(SIZE, np.uint8)
        pixels[5:20, 5:20] = 1
        Image.fromarray(pixels).save(tmp_path / part / "a_mask.png")
        (tmp_path / part / "_classes.csv").write_text("Pixel Value, Class\n0, background\n1, nut\n")
    data = read(tmp_path)
    assert [c.name for c in data.categories] == ["background", "nut"] and set(data.splits) == {"train", "val"}
    assert int((data.splits["val"].targets(0).labels == 1).sum()) == 225
    (tmp_path / "valid/_classes.csv").write_text("filename, nut\na.jpg, 1\n")  # tags of whole images
    assert set(read(tmp_path).splits) == {"train"}


def shape(kind: str, key: str = "", **value: Any) -> dict[str, Any]:
    known = {"from_name": "l", "to_name": "image", "original_width": 64, "original_height": 48}
    return {"id": kind, "type": kind, "value": value | ({key: ["nut"]} if key else {}), **known}


BOX = shape("rectanglelabels", "rectanglelabels", x=10, y=10, width=20, height=20, rotation=0)


@pytest.mark.parametrize(
    ("task", "note"),
    [
        ({"annotations": [{"result": []}, {"result": [BOX]}]}, "tasks with several annotations: 1; the last"),
        ({"annotations": [{"result": [BOX]}, {"result": [], "was_cancelled": True}]}, ""),
        ({"annotations": [], "predictions": [{"result": [BOX], "score": 0.5}]}, "tasks with predictions alone: 1"),
        (
            {"annotations": [{"result": [BOX, shape("keypointlabels", "keypointlabels", x=1, y=1, width=1)]}]},
            "a keypoint has no area; it is left out",
        ),
        ({"annotations": [{"result": [BOX, {"type": "relation", "from_id": "a", "to_id": "b"}]}]}, ""),
    ],
)
def test_what_is_passed_over_of_label_studio_is_counted(tmp_path: Path, task: dict[str, Any], note: str) -> None:
    image(tmp_path / "a.png")
    (tmp_path / "p.json").write_text(json.dumps([{"id": 1, "data": {"image": "s3://bucket/a.png"}, **task}]))
    data = read(tmp_path)
    assert labels(data) == [["nut"]]
    assert [note in str(problem) and problem.severity == "note" for problem in data.problems] == [True] * bool(note)


def test_tasks_of_several_images(tmp_path: Path) -> None:
    for name in "ab":
        image(tmp_path / f"{name}.png")
    result = [BOX | {"item_index": 0}, BOX | {"item_index": 1}, BOX | {"item_index": 1}]
    task = {
        "data": {"pages": ["/data/upload/1/1f-a.png", "/data/upload/1/1f-b.png"]},
        "annotations": [{"result": result}],
    }
    (tmp_path / "p.json").write_text(json.dumps([task]))
    assert labels(read(tmp_path)) == [["nut"], ["nut", "nut"]]


def test_addresses_mean_the_image_of_their_last_name(tmp_path: Path) -> None:
    image(tmp_path / "photos/a b.png")
    coco(tmp_path / "instances_val.json", name="https://example.org/x/a%20b.png?size=1&sig=a/b")
    data = read(tmp_path)
    assert data.splits["val"].path(0) == tmp_path / "photos/a b.png" and not data.problems


def test_an_entry_of_another_form_is_told_in_no_words_of_python(tmp_path: Path) -> None:
    image(tmp_path / "a.png")
    good = {"type": "Polygon", "coordinates": [[*pairs(SQUARE), SQUARE[:2]]]}
    features = [{"type": "Feature", "geometry": g, "properties": {}} for g in (good, None, {"type": "Polygon"}, [1])]
    (tmp_path / "a.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    told = [str(problem) for problem in read(tmp_path).problems]
    assert len(told) == 3 and not any(word in " ".join(told) for word in ("NoneType", "object is not", "indices"))
    assert all("another form than expected" in text for text in told)


FOREIGN: list[tuple[str, str, Any]] = [
    ("SuperAnnotate", "a.png.json", {"metadata": {}, "instances": [{"className": "nut", "points": SQUARE}]}),
    ("Supervisely", "ds0/ann/a.png.json", {"objects": [{"classTitle": "nut", "geometryType": "polygon"}]}),
    ("Labelbox", "export.ndjson", {"data_row": {"external_id": "a.png"}, "projects": {}}),
    ("Labelbox", "export.json", [{"DataRow ID": "x", "External ID": "a.png", "Label": {"objects": []}}]),
    ("V7 Darwin", "a.json", {"version": "2.0", "item": {}, "annotations": [{"polygon": {}, "slot_names": ["0"]}]}),
    ("CreateML", "_annotations.createml.json", [{"image": "a", "annotations": [{"label": "nut", "coordinates": {}}]}]),
    ("FiftyOne", "samples.json", {"samples": [{"filepath": "a.png", "truth": {"_cls": "Detections"}}]}),
    ("FiftyOne", "labels.json", {"classes": ["nut"], "labels": {"a": [{"label": 0, "bounding_box": [0, 0, 1, 1]}]}}),
    ("ISAT", "a.json", {"info": {"description": "ISAT"}, "objects": [{"segmentation": pairs(OTHER)}]}),
    ("Label Studio's videos", "p.json", [{"data": {}, "annotations": [{"result": [shape("videorectangle")]}]}]),
    ("VIA's videos", "v.json", {"project": {"data_format_version": "3.1.1"}, "file": {"1": {"fname": "a.mp4"}}}),
    ("Label Studio's CSV", "p.csv", 'annotator,id,image,label\n1,1,a.png,"[{""original_width"": 64}]"\n'),
    ("TensorFlow's", "_annotations.csv", "filename,width,height,class,xmin,ymin,xmax,ymax\na.jpg,64,48,nut,5,5,9,9\n"),
    ("Open Images", "detections.csv", "ImageID,Source,LabelName,Confidence,XMin\na,x,/m/01,1,0.1\n"),
    ("KITTI", "label_2/a.txt", "Car 0.00 0 1.55 5.00 5.00 20.00 20.00 1 1 1 1 1 1 1\n"),
    ("a backup of CVAT", "annotations.json", [{"tags": [], "shapes": [{"type": "polygon"}], "tracks": []}]),
    ("Kaggle", "train.csv", "ImageId,EncodedPixels\na,1 5 60 5\n"),
    ("archive", "set.zip", b"PK"),
    ("compressed", "a.geojson.gz", gzip.compress(b"{}")),
]


@pytest.mark.parametrize(
    ("tool", "name", "content"), FOREIGN, ids=lambda value: value if isinstance(value, str) else ""
)
def test_tools_whose_own_format_is_not_read_are_named(tmp_path: Path, tool: str, name: str, content: Any) -> None:
    image(tmp_path / "images/a.png")
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    data = content if isinstance(content, bytes) else None
    text = content if isinstance(content, str) else None if data else json.dumps(content)
    (tmp_path / name).write_bytes(data or (text or "").encode())
    with pytest.raises(UserError) as caught:
        read(tmp_path)
    assert tool in str(caught.value) and "not read" in str(caught.value) and name in str(caught.value)


def test_a_set_of_yolo_two_folders_down_is_found(tmp_path: Path) -> None:
    folder = tmp_path / "datasets/coco8"
    image(folder / "images/train/a.png")
    (folder / "labels/train").mkdir(parents=True)
    (folder / "labels/train/a.txt").write_text(LINE)
    (folder / "data.yaml").write_text("path: coco8\ntrain: images/train\nnames: [nut]\n")
    with pytest.raises(UserError, match="coco8 is one in the format yolo: pass that folder"):
        read(tmp_path)


def test_voc_without_an_object_is_named(tmp_path: Path) -> None:
    image(tmp_path / "JPEGImages/a.jpg")
    (tmp_path / "Annotations").mkdir()
    (tmp_path / "Annotations/a.xml").write_text("<annotation><filename>a.jpg</filename></annotation>")
    with pytest.raises(UserError, match="no XML file here has an object"):
        read(tmp_path)
