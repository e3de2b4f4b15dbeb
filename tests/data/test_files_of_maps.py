"""Maps and mattes on disk pass through read, convert and doctor as objects do."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

import eachmask
from eachmask import cli
from eachmask.structures import Matte, SemanticMap, Trimap, UserError


@pytest.fixture
def maps(tmp_path: Path) -> Path:
    """Two splits of two images; gray maps of three classes."""
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for name in ("a", "b"):
            write(tmp_path / f"maps/images/{split}/{name}.png", rng.integers(0, 255, (12, 16, 3)))
            labels = rng.integers(0, 3, (12, 16))
            labels[0] = 255
            write(tmp_path / f"maps/classes/{split}/{name}.png", labels)
    (tmp_path / "maps/classes.txt").write_text("road\ncar\nsky\n")
    return tmp_path / "maps"


def write(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), pixels.astype(np.uint16 if pixels.max() > 255 else np.uint8))


def test_maps_are_read_written_and_compared(maps: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = eachmask.data.read(maps)
    sample = data.splits["val"][1]
    assert isinstance(sample.targets, SemanticMap) and sample.image.shape == (12, 16, 3)
    assert [category.name for category in data.categories] == ["road", "car", "sky"]
    assert cli.main(["convert", str(maps), str(tmp_path / "out"), "--to", "class-maps"]) == 0
    assert "pixels that changed                 0 of 768" in capsys.readouterr().out
    again = eachmask.data.read(tmp_path / "out").splits["val"].targets(1)
    assert (again.labels == sample.targets.labels).all() and again.ignore == 255
    assert cli.main(["convert", str(maps), str(tmp_path / "coco"), "--to", "coco"]) == 2
    assert "holds SemanticMap and not Instances" in capsys.readouterr().err


def test_other_classes_are_given_by_labels(maps: Path) -> None:
    """Two classes as one, as for a model that knows fewer."""
    split = eachmask.data.read(maps).splits["train"]
    vehicle = (split.categories[2], split.categories[1])
    merged = split.relabeled([1, 1, 0], vehicle).targets(0)
    before = split.targets(0).labels
    assert ((merged.labels == 0) == (before == 2)).all() and ((merged.labels == 255) == (before == 255)).all()
    assert merged.categories == vehicle and merged.present() == {0, 1}


SCENES = (
    "class-maps", "voc-classes", "pascal-context", "cityscapes-classes", "ade20k", "indoor-maps", "color-maps",
)  # fmt: skip


@pytest.mark.parametrize("scenes", SCENES)
def test_nothing_is_lost_where_two_splits_have_images_of_one_name(
    scenes: str, maps: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And what was written is known again without being told its format."""
    assert cli.main(["convert", str(maps), str(tmp_path / "out"), "--to", scenes]) == 0
    printed = capsys.readouterr().out
    assert "pixels that changed                 0 of 768" in printed and "4 of 4" in printed
    assert cli.main(["doctor", str(tmp_path / "out")]) == 0
    assert f"4 images ({scenes})" in capsys.readouterr().out
    assert cli.main(["convert", str(tmp_path / "out"), str(tmp_path / "back"), "--to", "class-maps"]) == 0
    before, after = (eachmask.data.read(folder) for folder in (maps, tmp_path / "back"))
    assert before.splits.keys() == after.splits.keys()
    for name, split in before.splits.items():
        for i in range(len(split)):
            assert (split.targets(i).labels == after.splits[name].targets(i).labels).all()


def test_the_doctor_names_broken_files_and_leaks(maps: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(maps / "classes/train/a.png", np.full((12, 16), 7))
    write(maps / "classes/train/b.png", np.zeros((5, 5)))
    (maps / "images/val/a.png").write_bytes((maps / "images/train/a.png").read_bytes())
    assert cli.main(["doctor", str(maps)]) == 1
    printed = capsys.readouterr().out
    assert "the label 7 is neither" in printed and "5 x 5, its image 16 x 12" in printed and "too high" in printed
    with pytest.raises(UserError, match="train/b.png"):
        eachmask.data.read(maps).splits["train"].targets(1)


def test_the_doctor_leaves_out_what_cannot_be_used(maps: Path, tmp_path: Path) -> None:
    """Each image once, and not in train what is measured on; what is left is sound, and as it was."""
    write(maps / "classes/train/b.png", np.zeros((5, 5)))
    (maps / "images/val/a.png").write_bytes((maps / "images/train/a.png").read_bytes())
    for name in ("c", "d"):
        for kind in ("images", "classes"):
            (maps / f"{kind}/train/{name}.png").write_bytes((maps / f"{kind}/val/b.png").read_bytes())
    write(maps / "images/train/e.png", np.arange(576).reshape(12, 16, 3) % 251)
    write(maps / "classes/train/e.png", np.ones((12, 16)))
    assert cli.main(["doctor", str(maps), "--fix", str(tmp_path / "fixed")]) == 1
    fixed = eachmask.data.read(tmp_path / "fixed")
    assert {name: sorted(split.names) for name, split in fixed.splits.items()} == {
        "train": ["e.png"], "val": ["a.png", "b.png"]
    }  # fmt: skip
    assert (fixed.splits["train"].targets(0).labels == 1).all()
    assert cli.main(["doctor", str(tmp_path / "fixed")]) == 0


def test_mattes_come_with_their_trimaps(tmp_path: Path) -> None:
    alpha = np.linspace(0, 65535, 12 * 16).reshape(12, 16).round()
    write(tmp_path / "images/a.png", np.zeros((12, 16, 3)))
    write(tmp_path / "alpha/a.png", alpha)
    write(tmp_path / "trimaps/a.png", np.full((12, 16), 128))
    (split,) = eachmask.data.read(tmp_path).splits.values()
    sample = split[0]
    assert isinstance(sample.targets, Matte) and isinstance(sample.given, Trimap)
    assert np.abs(sample.targets.alpha.numpy() * 65535 - alpha).max() < 0.01
    assert cli.main(["convert", str(tmp_path), str(tmp_path / "out"), "--to", "mattes"]) == 0
