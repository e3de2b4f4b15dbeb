from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from small_sets import built, make_set, rows_of

from eachmask.cli.doctor import DoctorOptions, doctor
from eachmask.data.check.doctor import examine, repaired, write_repaired
from eachmask.data.check.page import page
from eachmask.data.formats.coco_read import read_coco
from eachmask.data.formats.coco_write import write_coco_folder
from eachmask.data.targets import instances_of
from eachmask.structures import RLE, UserError


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    write_coco_folder(tmp_path / "sound", make_set(tmp_path / "made"))
    return tmp_path / "sound"


def kinds(folder: Path) -> dict[str, str]:
    return {finding.kind: finding.severity for finding in examine(folder).findings}


def test_a_sound_set_has_no_errors(sound: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor(DoctorOptions(sound)) == 0
    result = examine(sound)
    assert result.class_balance["train"] == {"cell": 2, "dead cell": 1, "bead": 1}
    assert sum(result.sizes.values()) == 6
    assert "3 images, 6 objects" in capsys.readouterr().out


@pytest.mark.parametrize("unused", [2, 75])
def test_classes_without_objects_do_not_hide_the_rest(sound: Path, unused: int) -> None:
    """A part of COCO has its eighty classes still: one sentence, not one for each."""
    for path in sound.glob("*.json"):
        content = json.loads(path.read_text())
        if "categories" in content:
            content["categories"] += [{"id": 100 + i, "name": f"unused {i}"} for i in range(unused)]
            path.write_text(json.dumps(content))
    empty = [str(f) for f in examine(sound).findings if f.kind == "empty class"]
    if unused == 2:
        assert len(empty) == 2 and "class unused 1: the class has not one object" in empty[1]
    else:
        (sentence,) = empty
        assert "75 of 78 classes have not one object: unused 0, unused 1" in sentence


def test_missing_and_cut_off_images(sound: Path) -> None:
    (sound / "images/val/c.png").unlink()
    whole = (sound / "images/train/a.png").read_bytes()
    (sound / "images/train/a.png").write_bytes(whole[: len(whole) // 2])
    result = examine(sound)
    errors = {f.kind: str(f) for f in result.findings if f.severity == "error"}
    assert set(errors) == {"missing image", "damaged image"}
    assert "c.png" in errors["missing image"] and "a.png" in errors["damaged image"]
    assert len(repaired(result)) == 1


def test_the_same_image_in_two_splits_is_leakage_and_train_loses_it(sound: Path) -> None:
    Image.open(sound / "images/train/a.png").save(sound / "images/val/c.png", compress_level=0)
    result = examine(sound)
    (leak,) = [f for f in result.findings if f.kind == "leakage"]
    assert leak.severity == "error" and "train" in leak.file and "val" in leak.what
    left = repaired(result)
    assert [len(left.splits[s]) for s in ("train", "val")] == [1, 1]


def test_the_same_image_twice_in_a_split(sound: Path) -> None:
    shutil.copy(sound / "images/train/a.png", sound / "images/train/b.png")
    assert kinds(sound)["duplicate image"] == "warning"


def _split_in_two(folder: Path) -> list[Path]:
    """The instances of train in two files, which list the same images, with every other object each."""
    content = json.loads((folder / "instances_train.json").read_text())
    (folder / "instances_train.json").unlink()
    files = [folder / f"instances_train_{half}.json" for half in (0, 1)]
    for half, file in enumerate(files):
        file.write_text(json.dumps(content | {"annotations": content["annotations"][half::2]}))
    return files


def test_objects_of_the_same_image_in_two_files_are_not_lost(sound: Path, tmp_path: Path) -> None:
    _split_in_two(sound)
    found = [str(f) for f in examine(sound).findings if f.kind == "duplicate image"]
    assert any("with 2 objects that are not annotated there; join the annotations" in text for text in found)
    write_repaired(examine(sound), tmp_path / "fixed")
    assert sum(len(p.targets) for p in read_coco(tmp_path / "fixed").splits["train"].images()) == 4


def test_of_two_copies_the_one_with_more_objects_stays(sound: Path) -> None:
    first, second = _split_in_two(sound)
    content, other = json.loads(first.read_text()), json.loads(second.read_text())
    content["annotations"] += other["annotations"]
    second.write_text(json.dumps(content))
    left = repaired(examine(sound)).splits["train"].images()
    assert sorted(len(image.targets) for image in left) == [0, 4]


def test_images_of_one_name_in_two_folders_of_a_split_keep_apart(sound: Path, tmp_path: Path) -> None:
    shutil.copytree(sound / "images/train", sound / "train2014")
    shutil.copytree(sound / "images/train", sound / "train2017")
    shutil.rmtree(sound / "images/train")
    for half, file in enumerate(_split_in_two(sound)):
        file.rename(sound / f"instances_train20{14 + 3 * half}.json")
        other = cv2.imread(str(sound / f"train20{14 + 3 * half}/a.png"))
        cv2.imwrite(str(sound / f"train20{14 + 3 * half}/a.png"), other + np.uint8(half))
    write_repaired(examine(sound), tmp_path / "fixed")
    assert "orphan" not in kinds(tmp_path / "fixed") and "duplicate id" not in kinds(tmp_path / "fixed")
    fixed = {p.name: p for p in read_coco(tmp_path / "fixed").splits["train"].images()}
    assert len(fixed["a.png"].targets) == len(fixed["a_2.png"].targets) == 2
    assert (fixed["a.png"].path.read_bytes(), fixed["a_2.png"].path.read_bytes()) == (
        (sound / "train2014/a.png").read_bytes(),
        (sound / "train2017/a.png").read_bytes(),
    )


def test_classes_of_one_name(sound: Path, tmp_path: Path) -> None:
    for name in ("train", "val"):
        file = sound / f"instances_{name}.json"
        file.write_text(file.read_text().replace('"dead cell"', '"cell"'))
    assert kinds(sound)["class name"] == "warning"
    assert examine(sound).class_balance["train"] == {"cell 3": 2, "cell 7": 1, "bead": 1}
    write_repaired(examine(sound), tmp_path / "fixed")
    assert "class name" not in kinds(tmp_path / "fixed")


def _with_orientation(path: Path, tag: int) -> None:
    exif = Image.Exif()
    exif[274] = tag
    with Image.open(path) as image:
        image.load()
        image.save(path, exif=exif)


def test_annotations_that_ignore_exif_are_found_and_the_copy_reads_alike(sound: Path, tmp_path: Path) -> None:
    _with_orientation(sound / "images/train/a.png", 6)
    assert kinds(sound)["EXIF"] == "warning"
    write_repaired(examine(sound), tmp_path / "fixed")
    with Image.open(tmp_path / "fixed/images/train/a.png") as image:
        assert image.size == (64, 48) and image.getexif().get(274, 1) == 1
    assert "EXIF" not in kinds(tmp_path / "fixed")


def test_swapped_and_scaled_sizes(sound: Path, tmp_path: Path) -> None:
    stored = cv2.imread(str(sound / "images/train/a.png"))
    cv2.imwrite(str(sound / "images/train/a.png"), stored.transpose(1, 0, 2))
    cv2.imwrite(str(sound / "images/val/c.png"), cv2.resize(cv2.imread(str(sound / "images/val/c.png")), (128, 96)))
    assert {"swapped size", "wrong size"} <= set(kinds(sound))
    write_repaired(examine(sound), tmp_path / "fixed")
    assert examine(tmp_path / "fixed").num_errors == 0
    assert read_coco(tmp_path / "fixed").splits["val"].images()[0].targets.image_size == (96, 128)


def test_objects_that_vanish_as_their_image_is_smaller_go(sound: Path, tmp_path: Path) -> None:
    image = cv2.imread(str(sound / "images/train/a.png"))
    cv2.imwrite(str(sound / "images/train/a.png"), cv2.resize(image, (8, 6)))
    write_repaired(examine(sound), tmp_path / "fixed")
    assert not {"empty", "speck"} & set(kinds(tmp_path / "fixed"))


def test_an_object_is_not_the_crowd_it_stands_in(tmp_path: Path) -> None:
    data = make_set(tmp_path / "made")
    rows = rows_of(data)
    masks = rows["train"][0][2].masks
    assert isinstance(masks, RLE)
    targets = instances_of(masks[[0, 0]], [0, 0], [True, False], data.categories)
    rows["train"][0] = (*rows["train"][0][:2], targets)
    write_coco_folder(tmp_path / "data", built(data.categories, rows))
    assert "annotated twice" not in kinds(tmp_path / "data")


def test_specks_and_double_annotations_go(tmp_path: Path) -> None:
    data = make_set(tmp_path / "made")
    rows = rows_of(data)
    masks = rows["train"][0][2].masks
    assert isinstance(masks, RLE)
    speck = np.zeros((1, 48, 64), bool)
    speck[0, 40, 3:5] = True
    joined = RLE.cat([masks, masks[[0]], RLE.from_bitmaps(speck)])
    targets = instances_of(joined, [0, 1, 2, 0, 0, 0], [False] * 6, data.categories)
    rows["train"][0] = (*rows["train"][0][:2], targets)
    write_coco_folder(tmp_path / "data", built(data.categories, rows))
    found = {f.kind: str(f) for f in examine(tmp_path / "data").findings}
    assert "annotation 5" in found["annotated twice"] and "annotation 1" in found["annotated twice"]
    assert "annotation 6" in found["speck"] and "2 pixels" in found["speck"]
    write_repaired(examine(tmp_path / "data"), tmp_path / "fixed")
    assert [len(p.targets) for p in read_coco(tmp_path / "fixed").splits["train"].images()] == [4, 0]


def test_broken_entries_of_a_coco_file(sound: Path) -> None:
    path = sound / "instances_train.json"
    content = json.loads(path.read_text())
    rows = content["annotations"]
    rows[0]["bbox"] = [5, 5, 0, 3]
    rows[1]["id"] = rows[0]["id"]
    rows[2]["bbox"] = [60, 2, 30, 30]
    rows[3]["segmentation"] = [[40, 36, 52, 36, 52, 90, 40, 90]]
    content["images"].append(dict(content["images"][0]))
    content["categories"].append({"id": 99, "name": "nothing"})
    path.write_text(json.dumps(content))
    found = kinds(sound)
    assert found["degenerate box"] == "error"
    assert {"duplicate id", "outside", "empty class"} <= set(found)
    assert found["no objects"] == "note"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("data.yaml", "train: images\nnames: [cat]\n"),
        ("a.json", json.dumps({"imagePath": "images/a.png", "imageHeight": 10, "imageWidth": 20, "shapes": [
            {"label": "cat", "shape_type": "polygon", "points": [[2, 2], [30, 2], [30, 8]]}]})),
        ("annotations.xml", '<annotations><image id="0" name="a.png" width="20" height="10">'
                            '<polygon label="cat" points="2,2;30,2;30,8"/></image></annotations>'),
    ],
    ids=["yolo", "labelme", "cvat"],
)  # fmt: skip
def test_outlines_that_leave_the_image_are_named_in_every_format(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / "images").mkdir()
    Image.new("RGB", (20, 10)).save(tmp_path / "images/a.png")
    (tmp_path / name).write_text(text)
    if name == "data.yaml":
        (tmp_path / "labels").mkdir()
        (tmp_path / "labels/a.txt").write_text("0 0.1 0.2 1.5 0.2 1.5 0.8\n")
    (leaving,) = [f for f in examine(tmp_path).findings if f.kind == "outside"]
    assert leaving.severity == "warning" and leaving.annotation
    (left,) = repaired(examine(tmp_path)).images()
    assert left[1].targets.boxes[0, 2] == 20


def test_objects_with_a_box_alone_are_counted(tmp_path: Path, sound: Path) -> None:
    path = sound / "instances_train.json"
    content = json.loads(path.read_text())
    for row in content["annotations"][:2]:
        row["segmentation"] = []
    path.write_text(json.dumps(content))
    yolo = tmp_path / "yolo"
    for folder in ("images", "labels"):
        (yolo / folder).mkdir(parents=True)
    Image.new("RGB", (20, 10)).save(yolo / "images/a.png")
    (yolo / "data.yaml").write_text("train: images\nnames: [cat]\n")
    (yolo / "labels/a.txt").write_text("0 0.5 0.5 0.2 0.2\n0 0.5 0.5 0.4 0.4\n0 0.1 0.1 0.5 0.1 0.5 0.5\n")
    for source in (sound, yolo):
        (found,) = [f for f in examine(source).findings if f.kind == "box only"]
        assert found.what.endswith("outline: 2") and found.severity == "warning"


def test_images_without_a_size_have_that_of_their_file(sound: Path) -> None:
    path = sound / "instances_train.json"
    content = json.loads(path.read_text())
    first, second = content["images"][:2]
    del first["width"], first["height"]
    del second["file_name"]
    path.write_text(json.dumps(content))
    data = read_coco(sound)
    assert [p.name for p in data.splits["train"].images()] == [first["file_name"]]
    assert data.splits["train"].images()[0].targets.image_size == (48, 64)
    about = [str(problem) for problem in data.problems]
    assert any("neither width nor height" in text for text in about)
    assert not any("not in the list" in text for text in about)
    lost = sum(row["image_id"] == second["id"] for row in content["annotations"])
    assert sum("the entry of its image cannot be used" in text for text in about) == lost


def test_a_class_that_train_lacks(tmp_path: Path) -> None:
    data = make_set(tmp_path / "made")
    train = data.splits["train"]
    write_coco_folder(tmp_path / "data", data.with_splits(data.splits | {"train": train.take([1])}))
    assert kinds(tmp_path / "data")["class not in train"] == "warning"


def test_the_page_is_whole_and_escaped(tmp_path: Path) -> None:
    data = make_set(tmp_path / "made")
    rows = rows_of(data)
    _, path, targets = rows["train"][0]
    evil = tmp_path / "made" / "<img src=x onerror=alert(1)>.png"
    evil.write_bytes(path.read_bytes())
    rows["val"][0] = (evil.name, evil, targets)
    write_coco_folder(tmp_path / "data", built(data.categories, rows))
    html = page(examine(tmp_path / "data"))
    assert "<img src=x" not in html and "&lt;img src=x" in html
    assert "data:image/jpeg;base64," in html
    assert "http://" not in html and "https://" not in html and "<script" not in html


def test_the_command_writes_page_and_copy(sound: Path, tmp_path: Path) -> None:
    (sound / "images/val/c.png").unlink()
    options = DoctorOptions(sound, html=tmp_path / "r/page.html", fix=tmp_path / "fixed")
    assert doctor(options) == 1
    assert (tmp_path / "r/page.html").read_text().startswith("<!doctype html>")
    assert doctor(DoctorOptions(tmp_path / "fixed")) == 0
    with pytest.raises(UserError, match="not empty"):
        doctor(options)
