"""Label maps in the layouts of well-known data sets: written, read back, and read as their makers distribute them."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

import eachmask
from eachmask import cli
from eachmask.data.formats.known import FORMATS
from eachmask.data.reading import detect_format, format_named
from eachmask.files.progress import no_progress
from eachmask.structures import Instances, SemanticMap, UserError

NAMES = ("road", "sky", "tree")
LAYOUTS = ("class-maps", "voc-classes", "pascal-context", "cityscapes-classes", "ade20k", "indoor-maps", "color-maps")


def put(path: Path, values, palette: bool = False) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.asarray(values, np.uint8))
    if palette:
        image = image.convert("P")
        image.putpalette(list(range(256)) * 3)
    image.save(path)
    return path


def photo(path: Path, size=(4, 6)) -> Path:
    return put(path, np.full((*size, 3), 90))


@pytest.fixture
def data(tmp_path):
    """Two splits of images, one of them in a folder, three classes and pixels that do not count."""
    source = tmp_path / "made"
    rng = np.random.default_rng(0)
    for split, number in (("train", 2), ("val", 1)):
        for i in range(number):
            own = f"{split}{i}.png" if i else f"deep/{split}.png"
            photo(source / "images" / split / own)
            labels = rng.integers(0, 3, (4, 6))
            labels[0] = 255
            put(source / "classes" / split / own, labels)
    (source / "classes.txt").write_text("\n".join(NAMES))
    return eachmask.data.read(source, target=SemanticMap)


@pytest.mark.parametrize("name", LAYOUTS)
def test_what_is_written_comes_back(data, tmp_path, name):
    target = tmp_path / name
    format_named(name).write(target, data, no_progress)
    assert detect_format(target, SemanticMap).name == name
    again = eachmask.data.read(target, target=SemanticMap)
    assert [c.name for c in again.categories] == list(NAMES) and not [
        p for p in again.problems if p.severity == "error"
    ]
    assert {k: len(v) for k, v in again.splits.items()} == {"train": 2, "val": 1}
    for split, images in data.splits.items():
        other = again.splits[split]
        assert sorted(other.names) == sorted(images.names)
        for i in range(len(images)):
            place = list(other.names).index(images.names[i])
            assert torch.equal(images.targets(i).labels, other.targets(place).labels), name
            assert other[place].image.shape == (4, 6, 3)


def test_every_layout_of_label_maps_is_tried():
    assert set(LAYOUTS) == {f.name for f in FORMATS if issubclass(f.target, SemanticMap)}


def labels_of(source: Path, name: str) -> tuple[list[str], list]:
    data = eachmask.data.read(source, target=SemanticMap)
    assert detect_format(source, SemanticMap).name == name
    (split,) = data.splits.values()
    return [c.name for c in data.categories], split.targets(0).labels.tolist()


def test_voc_as_it_is_distributed(tmp_path):
    photo(tmp_path / "JPEGImages" / "2007_000001.jpg", (1, 4))
    put(tmp_path / "SegmentationClass" / "2007_000001.png", [[0, 1, 20, 255]], palette=True)
    names, labels = labels_of(tmp_path, "voc-classes")
    assert labels == [[0, 1, 20, 255]] and names[0] == "background" and names[20] == "tvmonitor" and len(names) == 21


def test_cityscapes_ids_become_the_trained_classes(tmp_path):
    photo(tmp_path / "leftImg8bit" / "val" / "ulm" / "ulm_0_leftImg8bit.png", (1, 4))
    put(tmp_path / "gtFine" / "val" / "ulm" / "ulm_0_gtFine_labelIds.png", [[7, 26, 0, 33]])
    names, labels = labels_of(tmp_path, "cityscapes-classes")
    assert labels == [[0, 13, 255, 18]] and names[13] == "car" and len(names) == 19
    put(tmp_path / "gtFine" / "val" / "ulm" / "ulm_0_gtFine_labelTrainIds.png", [[0, 13, 255, 18]])
    assert labels_of(tmp_path, "cityscapes-classes") == (names, labels)


def test_ade20k_counts_from_one_and_zero_does_not_count(tmp_path):
    photo(tmp_path / "images" / "training" / "a.jpg", (1, 3))
    put(tmp_path / "annotations" / "training" / "a.png", [[0, 1, 150]])
    (tmp_path / "objectInfo150.txt").write_text("Idx\tRatio\tTrain\tVal\tStuff\tName\n1\t0.1\t1\t1\t1\twall, panel\n")
    names, labels = labels_of(tmp_path, "ade20k")
    assert names == ["wall"] and labels[0][:2] == [255, 0]
    (tmp_path / "objectInfo150.txt").unlink()
    names, labels = labels_of(tmp_path, "ade20k")
    assert len(set(names)) == 150 and (names[0], names[149]) == ("wall", "flag") and labels == [[255, 0, 149]]


def test_nyu_has_three_classes_more_than_sun(tmp_path):
    photo(tmp_path / "image" / "a.png", (1, 3))
    put(tmp_path / "label40" / "a.png", [[0, 1, 40]])
    names, labels = labels_of(tmp_path, "indoor-maps")
    assert len(names) == 40 and labels == [[255, 0, 39]] and names[39] == "otherprop"


def test_nobodys_maps_are_taken_for_rooms(tmp_path):
    """Folders image and label are many people's: the 37 classes are SUN RGB-D's only if it is said."""
    photo(tmp_path / "image" / "a.png", (1, 3))
    put(tmp_path / "label" / "a.png", [[0, 1, 2]])
    with pytest.raises(UserError, match="call the folders images and labels"):
        eachmask.data.read(tmp_path)
    assert len(eachmask.data.read(tmp_path, format="indoor-maps", target=SemanticMap).categories) == 37
    (tmp_path / "classes.txt").write_text("leaf\nstem\n")
    names, labels = labels_of(tmp_path, "indoor-maps")
    assert names == ["leaf", "stem"] and labels == [[255, 0, 1]]


VOC_COLORS = [[[0, 0, 0], [128, 0, 0], [0, 64, 128], [224, 224, 192]]]


@pytest.mark.parametrize(
    ("listed", "colors", "last"),
    [
        ({}, VOC_COLORS, 20),
        ({"labelmap.txt": "background:0,0,0::\ncat:128,0,0::\ndog:0,64,128::\n"}, VOC_COLORS, 2),
        ({"class_names.txt": "_background_\ncat\ndog\n"}, [[[v] * 3 for v in (0, 1, 2, 255)]], 2),
    ],
)
def test_voc_maps_of_rgb_are_painted_or_have_their_number_three_times(tmp_path, listed, colors, last):
    """As CVAT exports them, and as careless programs save indices."""
    photo(tmp_path / "JPEGImages" / "2007_000001.jpg", (1, 4))
    put(tmp_path / "SegmentationClass" / "2007_000001.png", colors)
    for name, text in listed.items():
        (tmp_path / name).write_text(text)
    names, labels = labels_of(tmp_path, "voc-classes")
    assert labels == [[0, 1, last, 255]] and names[last] == ("dog" if listed else "tvmonitor")


def test_the_doctor_tells_of_values_and_colors_that_are_no_class(tmp_path, capsys):
    """They do not count, which nobody asked for; what is known not to count is not told."""
    for number in (0, 1):
        photo(tmp_path / "voc" / "JPEGImages" / f"2007_{number:06}.jpg", (2, 4 + number))
        photo(tmp_path / "city" / "leftImg8bit" / "val" / "ulm" / f"ulm_{number}_leftImg8bit.png", (2, 4 + number))
        photo(tmp_path / "painted" / "train" / f"{number}.png", (2, 4 + number))
    put(tmp_path / "voc" / "SegmentationClass" / "2007_000000.png", [[0, 1, 20, 255], [0, 0, 77, 99]], palette=True)
    put(tmp_path / "voc" / "SegmentationClass" / "2007_000001.png", np.full((2, 5), 255), palette=True)
    city = tmp_path / "city" / "gtFine" / "val" / "ulm"
    put(city / "ulm_0_gtFine_labelIds.png", [[0, 6, 33, 255], [7, 7, 7, 7]])
    put(city / "ulm_1_gtFine_labelIds.png", [[34, 6, 33, 255, 7], [7, 7, 7, 7, 7]])
    put(tmp_path / "painted" / "train_labels" / "0.png", np.zeros((2, 4, 3)))
    put(tmp_path / "painted" / "train_labels" / "1.png", np.full((2, 5, 3), [1, 2, 3]))
    (tmp_path / "painted" / "label_colors.txt").write_text("128 64 128\tRoad\n0 0 0\tVoid\n")
    said = {}
    for name in ("voc", "city", "painted"):
        assert cli.main(["doctor", str(tmp_path / name)]) == 0
        said[name] = [line for line in capsys.readouterr().out.splitlines() if "classes have not" not in line]
    assert "2007_000000.png: 25.0% of its pixels have values that are no class (77, 99 ...)" in "".join(said["voc"])
    assert "2007_000001.png: not one pixel is of a class" in "".join(said["voc"])
    assert "ulm_1_gtFine_labelIds.png: 10.0% of its pixels" in "".join(said["city"]) and len(said["city"]) == 2
    assert "1.png: 100.0% of its pixels have colors that are no class ((1, 2, 3) ...)" in "".join(said["painted"])
    assert "0.png: not one pixel is of a class" in "".join(said["painted"])


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_maps_of_jpeg_are_refused_under_whatever_name(tmp_path, suffix):
    """White is no mask there but a class, or does not count."""
    photo(tmp_path / "images" / "x.png", (8, 8))
    labels = np.full((8, 8), 255)
    labels[:4] = 1
    path = put(tmp_path / "classes" / "x.jpg", labels)
    path.rename(path.with_suffix(suffix))
    (tmp_path / "classes.txt").write_text("a\nb\n")
    with pytest.raises(UserError, match=r"is JPEG, which does not keep the numbers of classes"):
        eachmask.data.read(tmp_path, target=SemanticMap).splits["all"].targets(0)


@pytest.mark.parametrize(
    ("listed", "names"),
    [
        (None, ["background", "foreground"]),
        ("membrane\n", ["background", "membrane"]),
        ("cell\ngap\n", ["cell", "gap"]),
    ],
)
def test_masks_in_black_and_white_are_two_classes(tmp_path, listed, names):
    """As most sets of one kind of thing have them; as labels, white would be what does not count."""
    for number in range(3):
        photo(tmp_path / "images" / f"{number}.png", (1, 4))
        put(tmp_path / "masks" / f"{number}.png", [[0, 0, 0, 0]] if number == 0 else [[0, 255, 255, 0]])
    if listed:
        (tmp_path / "classes.txt").write_text(listed)
    data = eachmask.data.read(tmp_path, target=SemanticMap)
    assert [c.name for c in data.categories] == names
    assert [data.splits["all"].targets(i).labels.tolist() for i in (0, 1)] == [[[0, 0, 0, 0]], [[0, 1, 1, 0]]]
    put(tmp_path / "masks" / "2.png", [[0, 255, 1, 0]])
    data = eachmask.data.read(tmp_path, target=SemanticMap)
    if listed != "membrane\n":  # a list of one name has no 1
        assert data.splits["all"].targets(1).labels.tolist() == [[0, 255, 255, 0]], "numbers, of which 255 is void"


@pytest.mark.parametrize("target", [SemanticMap, Instances])
def test_maps_as_fiftyone_exports_them(tmp_path, target):
    """Its directories of segmentations: data/ and labels/."""
    photo(tmp_path / "data" / "x.jpg")
    put(tmp_path / "labels" / "x.png", np.tile([0, 1, 2, 2, 0, 1], (4, 1)))
    data = eachmask.data.read(tmp_path, target=target)
    (split,) = data.splits.values()
    assert split.names[0] == "x.jpg" and split.targets(0) is not None and len(split) == 1


@pytest.mark.parametrize("quality", [40, 75, 95])
def test_jpeg_masks_in_black_and_white_are_cut_at_half(tmp_path, quality):
    mask = np.zeros((96, 128), np.uint8)
    cv2.circle(mask, (60, 50), 30, 255, -1)
    (tmp_path / "masks").mkdir()
    for name, pixels in (("a", mask), ("b", 0 * mask)):
        photo(tmp_path / "images" / f"{name}.png", mask.shape)
        cv2.imwrite(str(tmp_path / "masks" / f"{name}.jpg"), pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])
    data = eachmask.data.read(tmp_path, target=SemanticMap)
    assert [c.name for c in data.categories] == ["background", "foreground"]
    labels = data.splits["all"].targets(0).labels.numpy()
    assert ((labels == 1) != (mask > 0)).mean() < 0.005 and not data.splits["all"].targets(1).labels.any()
    assert "2 masks are JPEG" in "".join(map(str, data.problems))


@pytest.mark.parametrize("values", [(1, 255), (0, 2, 255), (0, 90)])
def test_other_jpeg_maps_are_no_masks(tmp_path, values):
    """Numbers of classes, and what does not count; or gray."""
    labels = np.repeat(np.repeat(np.array([values], np.uint8), 64, 1), 96, 0)
    (tmp_path / "masks").mkdir()
    photo(tmp_path / "images" / "a.png", labels.shape)
    cv2.imwrite(str(tmp_path / "masks/a.jpg"), labels, [cv2.IMWRITE_JPEG_QUALITY, 95])
    with pytest.raises(UserError, match="does not keep the numbers of classes"):
        eachmask.data.read(tmp_path, target=SemanticMap).splits["all"].targets(0)


def test_a_map_that_cannot_be_read_is_not_blamed_on_the_list_of_classes(tmp_path):
    photo(tmp_path / "images" / "x.png")
    put(tmp_path / "classes" / "x.png", np.zeros((4, 6, 3)) + [1, 2, 3])
    (tmp_path / "classes.txt").write_text("a\nb\n")
    with pytest.raises(UserError, match=r"one channel of whole numbers$"):
        eachmask.data.read(tmp_path, target=SemanticMap).splits["all"].targets(0)


@pytest.mark.parametrize("table", ["label_colors.txt", "class_dict.csv"])
def test_painted_maps_are_read_by_their_table(tmp_path, table):
    photo(tmp_path / "train" / "a.png", (1, 4))
    put(tmp_path / "train_labels" / "a_L.png", [[[128, 64, 128], [64, 0, 128], [0, 0, 0], [1, 2, 3]]])
    rows = ["64 0 128\tCar", "128 64 128\tRoad", "0 0 0\tVoid"]
    if table.endswith("csv"):
        rows = ["name,r,g,b", "Car,64,0,128", "Road,128,64,128", "Void,0,0,0"]
    (tmp_path / table).write_text("\n".join(rows))
    assert labels_of(tmp_path, "color-maps") == (["Car", "Road"], [[1, 0, 255, 255]])


def test_a_table_with_a_bad_line_is_named(tmp_path):
    photo(tmp_path / "train" / "a.png")
    put(tmp_path / "train_labels" / "a.png", np.zeros((4, 6, 3)))
    (tmp_path / "label_colors.txt").write_text("64 0 Car\n")
    with pytest.raises(UserError, match=r"label_colors.txt: each line"):
        eachmask.data.read(tmp_path, target=SemanticMap)


@pytest.mark.parametrize("content", ['["a", "b"]', '{"classes": ["a", "b"], "ignore_index": 255}'])
def test_names_in_json(tmp_path, content):
    photo(tmp_path / "images" / "x.jpg", (1, 2))
    put(tmp_path / "semantic" / "x.png", [[1, 255]])
    (tmp_path / "classes.json").write_text(content)
    assert labels_of(tmp_path, "class-maps") == (["a", "b"], [[1, 255]])
    (tmp_path / "classes.json").write_text('{"classes": 3}')
    with pytest.raises(UserError, match="list of names"):
        eachmask.data.read(tmp_path, target=SemanticMap)
