from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_sets import built, make_set, rows_of

from eachmask.cli.convert import ConvertOptions
from eachmask.cli.convert import convert as run_command
from eachmask.data.builder import DatasetBuilder
from eachmask.data.compare import compare
from eachmask.data.convert import REPORT, Conversion, convert
from eachmask.data.formats.coco_read import read_coco
from eachmask.data.formats.coco_write import write_coco_folder
from eachmask.data.formats.known import FORMATS
from eachmask.data.images.files import image_files
from eachmask.data.reading import contained, detect_format, read_any
from eachmask.data.targets import instances_of, named_categories
from eachmask.structures import RLE, Instances, UserError

NAMES = [known.name for known in FORMATS if known.target is Instances]
WITH_SIZES = {"coco", "voc", "cityscapes", "labelme", "cvat", "datumaro"}
WITH_OVERLAPS = {"coco", "yolo", "via", "label-studio", "qupath", "imagej", "labelme", "cvat", "mask-files", "datumaro"}
BOXES_ALONE = {"darknet", "voc-boxes"}
WITHOUT_CROWD = {"darknet"}


def holds_all(report: Conversion) -> bool:
    """All images, objects, classes, and all pixels where a format has outlines."""
    loss = report.loss
    complete = not (loss.images_missing or loss.objects_missing or loss.objects_added or loss.class_changed)
    return complete and (loss.exact or report.target_format in BOXES_ALONE)


@pytest.fixture(scope="module")
def coco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("coco")
    write_coco_folder(folder / "data", make_set(folder / "images", overlapping=True, crowd=True))
    return folder / "data"


@pytest.mark.parametrize("name", NAMES)
def test_every_format_is_written_recognized_and_measured(coco: Path, tmp_path: Path, name: str) -> None:
    report = convert(coco, tmp_path / "out", name)
    assert report.source_format == "coco"
    assert detect_format(tmp_path / "out").name == name
    crowd_lost = int(name in WITHOUT_CROWD)
    assert report.loss.objects == 6 and report.loss.objects_missing == crowd_lost
    assert (report.loss.crowd, report.loss.crowd_lost, report.loss.class_changed) == (1, crowd_lost, 0)
    assert (report.with_holes, report.with_parts) == (2, 3)
    assert report.loss.exact == (name in WITH_OVERLAPS)
    if name in BOXES_ALONE:  # masks grow to their boxes
        assert not report.loss.exact and report.loss.pixels_added > 0
    elif name not in WITH_OVERLAPS:  # in two images objects 2 and 4 share 6 x 16 pixels less those in the hole
        assert report.loss.objects_changed == 2 and report.loss.pixels_lost > 0 and 0 < report.loss.min_iou < 1
        assert {row[0] for row in report.worst} == {"train/a.png", "val/c.png"}
    written = json.loads((tmp_path / "out" / REPORT).read_text())
    assert written["loss"]["pixels_lost"] == report.loss.pixels_lost


def test_regions_of_imagej_do_not_tell_when_they_were_written(
    coco: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for year in ("2001", "2002"):
        monkeypatch.setattr("zipfile.time.localtime", lambda seconds, year=year: (int(year), 1, 1, 0, 0, 0))
        convert(coco, tmp_path / year, "imagej")
    first, second = (sorted((tmp_path / year).rglob("*_rois.zip")) for year in ("2001", "2002"))
    assert len(first) == 3 and [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


@pytest.mark.parametrize("middle", sorted(WITH_OVERLAPS - {"coco"}))
def test_there_and_back_ids_included(coco: Path, tmp_path: Path, middle: str) -> None:
    convert(coco, tmp_path / "there", middle)
    convert(tmp_path / "there", tmp_path / "back", "coco")
    before, after = read_coco(coco), read_coco(tmp_path / "back")
    assert compare(before, after)[0].exact
    assert after.categories == before.categories
    assert len(read_coco(tmp_path / "back/instances_train.json", strict=True)) == 2


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"segmentation": {"size": [48, 64], "counts": [1, 2]}}, "segmentation"),
        ({"segmentation": [[1, 2, 3]]}, "an outline of 3 numbers, but x and y come in pairs"),
        ({"segmentation": [["a", "b", 3, 4, 5, 6]]}, "lists of numbers"),
        ({"segmentation": [[1, 2, 9, 12]]}, "fewer than three points"),
        ({"segmentation": None, "bbox": None}, "segmentation"),
        ({"category_id": 8}, "category_id 8"),
        ({"image_id": 99}, "not in the list of images"),
        ({"segmentation": [[100, 100, 120, 100, 120, 120]]}, "covers no pixel"),
    ],
)
def test_a_bad_annotation_is_named_and_the_rest_is_done(
    coco: Path, tmp_path: Path, change: dict[str, object], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    content = json.loads((coco / "instances_train.json").read_text())
    content["annotations"][1] |= change
    (tmp_path / "images").symlink_to(coco / "images")
    (tmp_path / "instances_train.json").write_text(json.dumps(content))
    assert run_command(ConvertOptions(tmp_path, tmp_path / "out", "yolo")) == 1
    printed = capsys.readouterr().out
    assert reason in printed and "annotation 2" in printed and "instances_train.json" in printed
    assert len((tmp_path / "out/labels/train/a.txt").read_text().splitlines()) == 2  # and one in crowd/


def test_nothing_is_written_outside_the_target(tmp_path: Path) -> None:
    data = make_set(tmp_path / "images")
    rows = rows_of(data)
    rows["../../out"] = rows.pop("val")
    rows["train"].append(("../../escaped.png", *rows["train"][0][1:]))
    inside = contained(built(data.categories, rows))
    assert [image.name for _, image in inside.images()] == ["a.png", "b.png", "c.png"]
    assert all("/" not in split and not split.startswith(".") for split in inside.splits)
    assert "escaped" in str(inside.problems[0])


def test_keypoints_that_cannot_be_read_are_named_and_their_object_is_kept(coco: Path, tmp_path: Path) -> None:
    content = json.loads((coco / "instances_train.json").read_text())
    content["annotations"][0]["keypoints"] = [1, 2, 2]
    content["annotations"][1]["keypoints"] = "abc"
    (tmp_path / "images").symlink_to(coco / "images")
    (tmp_path / "instances_train.json").write_text(json.dumps(content))
    data, _ = read_any(tmp_path)
    assert "annotation 2 of image 1: its keypoints cannot be read" in str(data.problems[0])
    points = data.splits["train"].images()[0].targets.keypoints
    assert points is not None and points.tolist() == [[[1, 2, 2]], [[0, 0, 0]], [[0, 0, 0]], [[0, 0, 0]]]


def test_a_file_that_was_cut_off_is_named_and_the_others_are_converted(
    coco: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "images").symlink_to(coco / "images")
    for name in ("train", "val"):
        text = (coco / f"instances_{name}.json").read_text()
        (tmp_path / f"instances_{name}.json").write_text(text[:500] if name == "train" else text)
    assert run_command(ConvertOptions(tmp_path, tmp_path / "out", "yolo")) == 1
    printed = capsys.readouterr().out
    assert "1 of 1" in printed and "instances_train.json" in printed and "copy or export it again" in printed
    with pytest.raises(UserError, match="instances_train.json.*copy or export it again"):
        read_any(tmp_path / "instances_train.json")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("0 0.1 0.1 0.2 0.2 0.3 0.3 0.4", "7 coordinates"),
        ("0 0.1 0.1", "2 coordinates"),
        ("9 0.1 0.1 0.2 0.2 0.3 0.3", "class 9"),
        ("inf 0.1 0.1 0.2 0.2 0.3 0.3", "no number"),
        ("car 0.1 0.1 0.2 0.2 0.3 0.3", "no number"),
    ],
)
def test_a_bad_line_of_yolo_is_named_and_the_rest_is_done(
    coco: Path, tmp_path: Path, line: str, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    convert(coco, tmp_path / "yolo", "yolo")
    file = tmp_path / "yolo/labels/train/a.txt"
    file.write_text(f"{line}\n{file.read_text()}")
    assert run_command(ConvertOptions(tmp_path / "yolo", tmp_path / "out", "coco")) == 1
    printed = capsys.readouterr().out
    assert reason in printed and "a.txt, line 1" in printed and "6 of 6" in printed


@pytest.mark.parametrize("field", ["id", "image_id", "category_id", "segmentation", "bbox", "iscrowd"])
@pytest.mark.parametrize(
    "value", [[], {}, "x", None, -1, 1e300, [10**400] * 4, [None], [["a", 1]], {"counts": "~~", "size": 3}]
)
def test_nonsense_in_a_coco_file_never_stops_the_rest(coco: Path, tmp_path: Path, field: str, value: object) -> None:
    content = json.loads((coco / "instances_train.json").read_text())
    content["annotations"][0][field] = value
    (tmp_path / "images").symlink_to(coco / "images")
    (tmp_path / "instances_train.json").write_text(json.dumps(content))
    assert len(read_any(tmp_path)[0].splits["train"].images()[0].targets) >= 3


def test_polygons_are_no_crowd_and_run_lengths_neither(coco: Path, tmp_path: Path) -> None:
    data, _ = read_any(coco)
    crowd = data.splits["train"].images()[0].targets.crowd
    assert crowd is not None and crowd.tolist() == [False, False, True, False]


def test_images_that_differ_only_in_the_suffix_keep_apart(tmp_path: Path) -> None:
    data = make_set(tmp_path / "images")
    rows = rows_of(data)
    _, path, targets = rows["train"][0]
    (tmp_path / "images/a.jpeg").write_bytes(path.read_bytes())
    rows["train"][1] = ("a.jpeg", tmp_path / "images/a.jpeg", targets[[0]])
    write_coco_folder(tmp_path / "coco", built(data.categories, rows))
    report = convert(tmp_path / "coco", tmp_path / "out", "yolo")
    assert report.loss.exact
    assert any("suffix" in note for note in report.notes)


@pytest.mark.parametrize("name", NAMES)
def test_class_names_that_not_every_format_can_hold(tmp_path: Path, name: str) -> None:
    data = make_set(tmp_path / "images")
    data = data.renamed(["two\nlines ", "", " cell"])
    write_coco_folder(tmp_path / "coco", data)
    report = convert(tmp_path / "coco", tmp_path / "out", name)
    assert holds_all(report)
    assert report.notes[0] == "class names that not every format can hold were changed: two lines, class 7, cell"
    written = [category.name for category in read_any(tmp_path / "out")[0].categories]
    assert written == ["two lines", "class 7", "cell"]


@pytest.mark.parametrize("name", NAMES)
def test_without_a_single_image_all_that_is_lost_is_told(coco: Path, tmp_path: Path, name: str) -> None:
    for path in coco.glob("*.json"):
        shutil.copy(path, tmp_path)
    report = convert(tmp_path, tmp_path / "out", name)
    assert sum("the image is missing" in str(problem) for problem in report.problems) == 3
    assert report.loss.objects_missing == (0 if name in WITH_SIZES else 6)


@pytest.mark.parametrize("split", ["test-dev", "minival"])
def test_splits_of_other_names_find_their_images(tmp_path: Path, split: str) -> None:
    data = make_set(tmp_path / "made")
    data = data.with_splits({split: data.splits["train"]})
    write_coco_folder(tmp_path / "coco", data)
    assert convert(tmp_path / "coco", tmp_path / "out", "yolo").loss.exact
    assert all(image.path.is_file() for _, image in read_coco(tmp_path / "coco").images())


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_named_images_among_the_names(tmp_path: Path, name: str) -> None:
    data = make_set(tmp_path / "made")
    train = data.splits["train"]
    data = data.with_splits(data.splits | {"train": train.renamed([f"images/{name}" for name in train.names])})
    write_coco_folder(tmp_path / "coco", data)
    assert holds_all(convert(tmp_path / "coco", tmp_path / "out", name))


def test_missing_images_are_told(coco: Path, tmp_path: Path) -> None:
    data = make_set(tmp_path / "images")
    data.splits["val"].path(0).unlink()
    write_coco_folder(tmp_path / "coco", data)
    report = convert(tmp_path / "coco", tmp_path / "out", "yolo")
    assert (report.loss.images_missing, report.loss.objects_missing) == (1, 2)
    assert any("c.png" in str(problem) and "missing" in str(problem) for problem in report.problems)


def test_mistakes_in_the_call_are_explained(coco: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="choose one of .*coco, .*yolo"):
        convert(coco, tmp_path / "out", "coocoo")
    with pytest.raises(UserError, match="known format"):
        convert(tmp_path, tmp_path / "out", "coco")
    with pytest.raises(UserError, match="not empty"):
        convert(coco, coco, "yolo")
    with pytest.raises(UserError, match="does not exist"):
        convert(tmp_path / "nothing", tmp_path / "out", "coco")


@pytest.mark.parametrize("middle", ["yolo", "voc", "labelme", "label-maps"])
def test_round_trips_of_real_images(shared: Path, tmp_path: Path, middle: str) -> None:
    source = shared / "data" / "fruits-nuts"
    report = convert(source, tmp_path / "there", middle)
    convert(tmp_path / "there", tmp_path / "back", "coco")
    loss = compare(read_coco(source), read_coco(tmp_path / "back"))[0]
    assert loss.objects == 145 and loss.objects_missing == loss.class_changed == 0
    assert loss == report.loss
    if middle in WITH_OVERLAPS:
        assert loss.exact
    else:  # 12 pairs of neighbors overlap by a few pixels
        assert loss.pixels_lost == 258 and loss.pixels_added == 0 and loss.min_iou > 0.99


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"cvppp"}))
def test_images_in_subfolders_keep_their_names_and_objects(tmp_path: Path, name: str) -> None:
    """Also where only their folders tell them apart, in the set and apart from it."""
    names = ["a/b/left.png", "a/left.png", "left.png"]
    result = DatasetBuilder(named_categories(["nut"]))
    for number, own in enumerate(names):
        (tmp_path / "photos" / own).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30)).save(tmp_path / "photos" / own)
        square = np.zeros((1, 30, 40), bool)
        square[0, 5:15, 4 + 8 * number : 14 + 8 * number] = True
        targets = instances_of(RLE.from_bitmaps(square), [0], [False], result.categories)
        result.add("train", own, tmp_path / "photos" / own, targets)
    write_coco_folder(tmp_path / "coco", result.build())
    report = convert(tmp_path / "coco", tmp_path / "set", name)
    assert not (report.loss.images_missing or report.loss.objects_missing or report.loss.objects_added)
    again, _ = read_any(tmp_path / "set")
    found = {image.stem: image.targets.gt_masks.boxes()[0, 0] for _, image in again.images()}
    assert found == {"a/b/left": 4, "a/left": 12, "left": 20}
    if name in {"voc", "voc-boxes", "darknet", "yolo", "coco"}:
        for image in image_files(tmp_path / "set"):
            if not image.relative_to(tmp_path / "set").parts[0].startswith("Segmentation"):
                image.unlink()
        again, known = read_any(tmp_path / "set", images=tmp_path / "photos")
        assert known.name == name
        places = {image.path: image.targets.gt_masks.boxes()[0, 0] for _, image in again.images()}
        assert places == {tmp_path / "photos" / own: 4 + 8 * number for number, own in enumerate(names)}
        assert not [problem for problem in again.problems if problem.severity == "error"]
