"""Annotations of other programs, opened and saved: what nobody touched stays as it was."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from PIL import Image

from eachmask.data.builder import DatasetBuilder
from eachmask.data.formats.format import Format
from eachmask.data.formats.known import FORMATS
from eachmask.data.images.files import images_left_in_place
from eachmask.data.reading import format_named
from eachmask.data.targets import masks_of
from eachmask.files.progress import no_progress
from eachmask.structures import RLE, Category, Instances

pytest.importorskip("fastapi", reason="the extra `studio` is not installed")

from eachmask.studio.in_place import places  # noqa: E402
from eachmask.studio.merge import LISTED, ONE_EACH, TABLED  # noqa: E402
from eachmask.studio.project import HIDDEN, Project  # noqa: E402
from eachmask.studio.save import _all, _made, save  # noqa: E402
from eachmask.studio.schemas import Action  # noqa: E402

SIZE = {"width": 128, "height": 142}
OUTLINES = {
    "left.png": [[10.5, 10.25], [50.75, 12.5], [48.125, 40.875], [12.25, 44.5]],
    "right.png": [[20.25, 20.75], [60.5, 22.25], [58.75, 50.125], [22.5, 54.5]],
}
"""Vertices within pixels: outlines of pixels are others."""
Made = tuple[Path, Path]
"""The folder of the images, and the annotations."""


def labelme(root: Path, beside: bool = False) -> Made:
    photos = root / "photos"
    labels = photos if beside else root / "labels"
    labels.mkdir(exist_ok=True)
    for name, points in OUTLINES.items():
        shape = {"label": "coin", "points": points, "description": "bent", "shape_type": "polygon", "flags": {}}
        head = {"version": "5.4.1", "imagePath": name if beside else f"../photos/{name}", "imageData": None}
        content = head | {"flags": {"seen": True}, "shapes": [shape], "imageHeight": 142, "imageWidth": 128}
        (labels / name).with_suffix(".json").write_text(json.dumps(content, indent=1))
    return photos, labels


def labelme_beside(root: Path) -> Made:
    return labelme(root, beside=True)


def yolo(root: Path) -> Made:
    photos = (root / "photos").rename(root / "images")
    (root / "labels").mkdir()
    (root / "data.yaml").write_text("# mine\npath: .\ntrain: images\nval: images\nnames:\n  0: coin\n")
    for name, points in OUTLINES.items():
        row = " ".join(f"{x / 128:.4f} {y / 142:.4f}" for x, y in points)
        (root / "labels" / name).with_suffix(".txt").write_text(f"0 {row}\n")
    return photos, root


def yolo_texts(root: Path) -> Made:
    """What ``predict save_txt save_conf`` leaves, a score behind each outline, with a list of names."""
    photos, _ = yolo(root)
    (root / "data.yaml").unlink()
    for file in (root / "labels").iterdir():
        file.write_text(file.read_text().replace("\n", " 0.75\n"))
    (root / "labels" / "classes.txt").write_text("coin\n")
    return photos, root / "labels"


def coco(root: Path) -> Made:
    images = [{"id": 10 + i, "file_name": name, "license": 3, **SIZE} for i, name in enumerate(OUTLINES)]
    images.append({"id": 3, "file_name": "elsewhere.png", **SIZE})
    rings = [sum(points, []) for points in [*OUTLINES.values(), OUTLINES["left.png"]]]
    rows = [
        {"id": 100 + i, "image_id": image["id"], "category_id": 5, "iscrowd": 0, "area": 1300.5, "note": "bent"}
        | {"bbox": [10, 10, 40, 34], "segmentation": [ring]}
        for i, (image, ring) in enumerate(zip(images, rings, strict=True))
    ]
    classes = [{"id": 5, "name": "coin", "supercategory": "money", "color": "gold"}]
    content = {"info": {"by": "me"}, "images": images, "annotations": rows, "categories": classes}
    (root / "coco.json").write_text(json.dumps(content))
    return root / "photos", root / "coco.json"


def coco_of_splits(root: Path) -> Made:
    _, file = coco(root)
    (root / "annotations").mkdir()
    file.rename(root / "annotations" / "instances_train.json")
    return (root / "photos").rename(root / "train"), root


def cvat(root: Path) -> Made:
    (root / "labels").mkdir()
    images = [
        f'<image id="{7 + i}" name="{name}" width="128" height="142" task_id="4"><polygon label="coin" occluded="1" '
        f'points="{";".join(f"{x},{y}" for x, y in points)}"><attribute name="bent">true</attribute></polygon></image>'
        for i, (name, points) in enumerate(OUTLINES.items())
    ]
    head = "<meta><task><id>4</id><labels><label><name>coin</name></label></labels></task></meta>"
    content = f"<annotations><version>1.1</version>{head}{''.join(images)}</annotations>"
    (root / "labels" / "annotations.xml").write_text(content)
    return root / "photos", root / "labels"


def of_image(file: Path, name: str) -> object:
    """All that a file says of an image."""
    if file.suffix == ".xml":
        (image,) = [e for e in ElementTree.parse(file).iter("image") if e.get("name") == name]
        return [(e.tag, e.attrib, (e.text or "").strip()) for e in image.iter()]
    if file.suffix == ".json" and "images" in (content := json.loads(file.read_text())):
        images = [image for image in content["images"] if image["file_name"] == name]
        rows = [row for row in content["annotations"] if row["image_id"] in [image["id"] for image in images]]
        return images, rows, [content["info"], content["categories"][0]]
    return file.read_bytes() if file.stem in (name, Path(name).stem, "data") else None


FORMS = [labelme, labelme_beside, yolo, yolo_texts, coco, coco_of_splits, cvat]


@pytest.fixture(params=FORMS, ids=lambda make: make.__name__)
def made(request: pytest.FixtureRequest, tmp_path: Path) -> Made:
    make: Callable[[Path], Made] = request.param
    (tmp_path / "photos").mkdir()
    for name in OUTLINES:
        Image.fromarray(np.zeros((142, 128), np.uint8)).save(tmp_path / "photos" / name)
    return make(tmp_path)


def files(labels: Path) -> list[Path]:
    every = [labels] if labels.is_file() else [path for path in sorted(labels.rglob("*")) if path.is_file()]
    return [path for path in every if path.suffix != ".png" and HIDDEN not in path.parts]


def counts(photos: Path, labels: Path) -> list[int]:
    """Objects of each image, as they are on the disk."""
    shutil.rmtree(photos / HIDDEN)
    project = Project(photos, labels)
    project.journal.close()
    return [project.counts(index)[0] for index in range(2)]


def square(project: Project, name: str = "coin") -> Action:
    (category,) = [category.id for category in project.categories if category.name == name]
    return Action(kind="add", category=category, rings=[[80, 80, 100, 80, 100, 100, 80, 100]])


def test_an_image_that_was_not_touched_keeps_all_that_was_said_of_it(made: Made) -> None:
    before = {path: of_image(path, "left.png") for path in files(made[1])}
    project = Project(*made)
    project.act(1, 0, square(project))
    assert save(project)[1] == 2
    assert {path: of_image(path, "left.png") for path in files(made[1])} == before, "nor is there another file"
    project.act(1, 1, square(project))
    save(project)
    assert {path: of_image(path, "left.png") for path in files(made[1])} == before
    project.journal.close()
    assert counts(*made) == [1, 3]


def test_saving_without_a_change_writes_nothing(made: Made) -> None:
    before = {path: path.read_bytes() for path in files(made[1])}
    project = Project(*made)
    save(project)
    project.journal.close()
    assert {path: path.read_bytes() for path in files(made[1])} == before


def test_the_last_object_of_an_image_does_not_come_back(made: Made) -> None:
    project = Project(*made)
    project.act(1, 0, Action(kind="remove", ids=[1]))
    save(project)
    project.journal.close()
    assert counts(*made) == [1, 0]


def test_an_object_of_a_new_class(made: Made) -> None:
    before = {path: of_image(path, "left.png") for path in files(made[1]) if path.suffix != ".yaml"}
    project = Project(*made)
    project.add_category("leaf")
    project.act(1, 0, square(project, "leaf"))
    save(project)
    project.journal.close()
    assert counts(*made) == [1, 2]
    again = Project(*made)
    assert [c.name for c in again.categories] == ["coin", "leaf"]
    assert [again.targets(1).label_names[i] for i in range(2)] == ["coin", "leaf"]
    again.journal.close()
    assert {path: of_image(path, "left.png") for path in before} == before


def records(labels: Path, name: str) -> list[str]:
    """What each object of an image is said to be."""
    found: list[str] = []
    for file in files(labels):
        said = of_image(file, name)
        if isinstance(said, bytes) and file.stem == Path(name).stem:
            text = said.decode()
            found += text.splitlines() if file.suffix == ".txt" else [json.dumps(s) for s in json.loads(text)["shapes"]]
        elif isinstance(said, tuple):
            found += [json.dumps(row) for row in said[1]]
        elif isinstance(said, list):
            found += [str(said[1:3]), *map(str, said[3:])]
    return found


def test_an_object_that_was_not_touched_keeps_its_own_outline_on_an_image_that_was(made: Made) -> None:
    (before,) = dict.fromkeys(records(made[1], "right.png")[:1])
    project = Project(*made)
    project.act(1, 0, square(project))
    save(project)
    assert records(made[1], "right.png")[0] == before
    project.journal.close()
    again = Project(*made)  # what is on the disk now was partly written by the package
    again.act(1, 1, square(again))
    save(again)
    assert records(made[1], "right.png")[0] == before
    rings: list[list[float]] = [[20, 20, 60, 20, 60, 50, 20, 50]]
    again.act(1, 2, Action(kind="reshape", id=1, rings=rings))
    save(again)
    assert before not in records(made[1], "right.png")
    again.journal.close()
    assert counts(*made) == [1, 3]


def test_points_and_lines_of_labelme_and_parts_of_one_object_stay(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    Image.fromarray(np.zeros((142, 128), np.uint8)).save(tmp_path / "photos" / "left.png")
    Image.fromarray(np.zeros((142, 128), np.uint8)).save(tmp_path / "photos" / "right.png")
    photos, labels = labelme(tmp_path)
    file = labels / "right.json"
    content = json.loads(file.read_text())
    part = content["shapes"][0] | {"group_id": 4}
    other = part | {"points": [[70.5, 70.5], [90.5, 70.5], [90.5, 90.5]]}
    content["shapes"] = [part, {"label": "tip", "points": [[3, 4]], "shape_type": "point"}, other]
    file.write_text(json.dumps(content))
    project = Project(photos, labels)
    assert len(project.history(1).objects) == 1, "two parts"
    project.act(1, 0, square(project))
    save(project)
    project.journal.close()
    assert json.loads(file.read_text())["shapes"][:3] == content["shapes"]


def test_files_that_are_said_to_be_of_one_image_each_are(tmp_path: Path) -> None:
    """Else saving one image would take the others' objects away."""
    names = ["a/1.png", "a/2.png", "b/3.png", "4.png"]
    square = np.zeros((1, 40, 50), bool)
    square[0, 3:12, 4:14] = True
    masks = RLE.from_bitmaps(square)
    kinds = (Category(3, "x"),)
    one = Instances((40, 50), torch.from_numpy(masks.boxes()), masks, torch.tensor([0]), categories=kinds)

    def written(form: Format, chosen: list[str]) -> dict[str, bytes]:
        builder = DatasetBuilder(kinds)
        builder.add_split("all")
        for name in chosen:
            builder.add("all", name, tmp_path / name, one)
        target = tmp_path / f"{form.name}-{len(list(tmp_path.iterdir()))}" / "set"
        target.mkdir(parents=True)
        with images_left_in_place():
            form.write(target, builder.build(), no_progress)
        return {str(p.relative_to(target)): p.read_bytes() for p in target.rglob("*") if p.is_file()}

    for form in [form for form in FORMATS if form.name in ONE_EACH | LISTED]:
        whole, bare, each = written(form, names), written(form, []), [written(form, [name]) for name in names]
        own = [{path: content for path, content in files.items() if path not in bare} for files in each]
        assert len(whole) == len(bare) + sum(map(len, own)), form.name
        bare = bare if form.name in ONE_EACH else {path: whole[path] for path in bare}
        assert whole == bare | own[0] | own[1] | own[2] | own[3], form.name


@pytest.mark.parametrize("form", [*sorted(LISTED), "datumaro", "label-studio", "via"])
def test_one_changed_image_is_written_without_the_others(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos, labels = tmp_path / "photos", tmp_path / "labels"
    photos.mkdir()
    for name in ("left.png", "right.png", "third.png"):
        Image.fromarray(np.zeros((142, 128), np.uint8)).save(photos / name)
    project = Project(photos, labels)
    project.add_category("coin")
    for index in range(2):
        project.act(index, 0, square(project))
    save(project, form)
    project.journal.close()
    shutil.rmtree(photos / HIDDEN)
    project = Project(photos, labels)
    assert project.format == form
    with monkeypatch.context() as patch:
        patch.setattr("eachmask.studio.save._compared", lambda *_: pytest.fail("all were made"))
        project.act(1, 0, square(project).model_copy(update={"rings": [[20, 20, 40, 20, 40, 50, 20, 50]]}))
        save(project)
        if form not in LISTED:
            project.act(2, 0, square(project))
            project.add_category("leaf")
            save(project)
    merged = {path: said(path) for path in files(labels)}
    save(project, overwrite=True)
    assert {path: said(path) for path in files(labels)} == merged
    project.journal.close()
    assert counts(photos, labels)[:2] == [1, 2]


@pytest.mark.parametrize("form", sorted(TABLED))
def test_tables_are_merged_as_if_all_had_been_written(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos, labels = tmp_path / "photos", tmp_path / "labels"
    builder = DatasetBuilder((Category(3, "coin"), Category(-5, "=leaf")))
    builder.add_split("train")
    builder.add_split("val")
    for number, name in enumerate(["a.png", "deep/b.png", "c.png", "d.png", "e.png"]):
        (photos / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((142, 128), np.uint8)).save(photos / name)
        squares = np.zeros((2, 142, 128), bool)
        squares[0, 10:30, 10 + number : 30], squares[1, 50:70, 10 + number : 30] = True, True
        masks = RLE.from_bitmaps(squares)
        targets = Instances((142, 128), torch.from_numpy(masks.boxes()), masks, torch.tensor([0, 1]))
        if number < 4:
            split = "val" if number == 2 else "train"
            builder.add(split, name, photos / name, dataclasses.replace(targets, categories=builder.categories))
    chosen = format_named(form)
    chosen.write(labels, builder.build(), no_progress)
    project = Project(photos, labels)
    assert project.format == form and [project.counts(i)[0] for i in range(5)] == [2, 2, 2, 2, 0]
    with monkeypatch.context() as patch:
        patch.setattr("eachmask.studio.save._compared", lambda *_: pytest.fail("all were made"))
        project.act(0, 0, Action(kind="remove", ids=[2]))
        project.act(2, 0, square(project))
        save(project)
        project.act(0, 1, Action(kind="remove", ids=[1]))
        project.act(4, 0, square(project))
        project.add_category("stone")
        project.act(3, 0, square(project, "stone"))
        save(project)
    for path, content in _made(project, chosen, _all(project)).items():
        assert path.read_bytes() == content, path.name
    project.journal.close()
    shutil.rmtree(photos / HIDDEN)
    again = Project(photos, labels)
    assert [again.counts(i)[0] for i in range(5)] == [0, 2, 3, 3, 1] and again.problems == []
    assert again.targets(3).label_names == ["coin", "=leaf", "stone"]
    again.journal.close()


BESIDE = {"label-maps", "cellpose", "cvppp"}
"""Formats that are known by the images in them."""


@pytest.mark.parametrize("form", sorted({form.name for form in FORMATS if form.target is Instances} - BESIDE))
def test_images_in_subfolders_are_found_again_without_the_journal(form: str, tmp_path: Path) -> None:
    photos, labels = tmp_path / "photos", tmp_path / "labels"
    names = ["a/b/left.png", "a/left.png", "a/right.png", "left.png"]
    for name in names:
        (photos / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((142, 128), np.uint8)).save(photos / name)
    project = Project(photos, labels)
    assert project.names == names
    project.add_category("coin")
    corners = [10, 30, 50, 70]
    for index, x in enumerate(corners):
        ring = [x, 20, x + 30, 20, x + 30, 60, x, 60]
        project.act(index, 0, square(project).model_copy(update={"rings": [ring]}))
    save(project, form)
    for left in range(2):  # the second time from what was saved again
        project.journal.close()
        shutil.rmtree(photos / HIDDEN)
        project = Project(photos, labels)
        assert [one.what for one in project.problems if one.severity == "error"] == []
        found = [project.targets(index) for index in range(len(names))]
        assert [masks_of(one).boxes().tolist() for one in found] == [[[x, 20, x + 30, 60]] for x in corners]
        project.act(left, 0, square(project).model_copy(update={"rings": [[0, 80, 20, 80, 20, 90, 0, 90]]}))
        save(project)
        project.act(left, 1, Action(kind="remove", ids=[max(project.history(left).objects)]))
        save(project)
    project.journal.close()


def said(path: Path) -> object:
    return json.loads(path.read_bytes()) if path.suffix == ".json" else path.read_bytes()


@pytest.mark.parametrize("make", [labelme, labelme_beside, yolo, yolo_texts], ids=lambda make: make.__name__)
def test_a_new_image_lies_where_the_others_do(make: Callable[[Path], Made], tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for name in [*OUTLINES, "third.png"]:
        Image.fromarray(np.zeros((142, 128), np.uint8)).save(tmp_path / "photos" / name)
    photos, labels = make(tmp_path)
    beside = next(path for path in files(labels) if path.stem == "left")
    project = Project(photos, labels)
    project.add_category("leaf")
    project.act(2, 0, square(project, "leaf"))
    save(project)
    project.journal.close()
    assert beside.with_stem("third").is_file()
    again = Project(photos, labels)
    assert [c.name for c in again.categories] == ["coin", "leaf"] and again.targets(2).label_names == ["leaf"]
    again.journal.close()


def test_what_lies_elsewhere_is_no_place_for_a_new_image() -> None:
    known = [Path("/labels/b/left.json"), Path("/labels/right.json")]
    made = [Path("all/a/left.json"), Path("all/b/left.json"), Path("all/right.json")]
    found = places(made, Path("/labels"), known, ["all"])
    assert list(found.values()) == [Path("/labels/all/a/left.json"), *known]
