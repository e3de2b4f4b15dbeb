"""Converting a large set: one sees it go on, and memory does not follow the images' pixels."""

from __future__ import annotations

import gc
import time
import tracemalloc
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
import pytest
import torch
from small_sets import CATEGORIES, built, make_set

from eachmask.data.compare import compare
from eachmask.data.convert import convert
from eachmask.data.formats.coco_read import read_coco
from eachmask.data.formats.coco_write import write_coco_folder
from eachmask.data.formats.known import FORMATS
from eachmask.data.targets import instances_of, masks_of
from eachmask.files.progress import bar_after_a_while
from eachmask.structures import RLE, Instances

T = TypeVar("T")


@pytest.mark.parametrize("name", [known.name for known in FORMATS if known.target is Instances])
def test_every_image_is_seen_to_be_written_read_and_compared(tmp_path: Path, name: str) -> None:
    write_coco_folder(tmp_path / "coco", make_set(tmp_path / "images"))
    seen: dict[str, int] = {}

    def progress(what: str, items: Collection[T], /) -> Iterable[T]:
        for item in items:
            seen[what] = seen.get(what, 0) + 1
            yield item

    convert(tmp_path / "coco", tmp_path / "out", name, progress=progress)
    for what in ("reading", "writing", "reading back", "comparing", "counting"):
        assert seen[what] == 3, what


def test_a_bar_comes_after_a_while(capsys: pytest.CaptureFixture[str]) -> None:
    with bar_after_a_while(seconds=0.05) as progress:
        for split in ("ab", "cde"):  # two splits, one bar
            for _ in progress("reading", split):
                time.sleep(0.05)
    shown = capsys.readouterr().err
    assert shown.count("reading") == 1 and "5/5" in shown and "left" in shown


def test_what_is_soon_done_has_no_bar(capsys: pytest.CaptureFixture[str]) -> None:
    with bar_after_a_while(seconds=60) as progress:
        assert list(progress("reading", "ab")) == ["a", "b"]
    assert capsys.readouterr() == ("", "")


def test_a_bar_does_not_swallow_mistakes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="mistake"), bar_after_a_while(seconds=60) as progress:
        for _ in progress("reading", "ab"):
            raise ValueError("mistake")


def test_masks_do_not_keep_what_they_work_out(tmp_path: Path) -> None:
    write_coco_folder(tmp_path / "coco", make_set(tmp_path / "images"))
    data, again = read_coco(tmp_path / "coco"), read_coco(tmp_path / "coco")
    assert compare(data, again)[0].exact
    write_coco_folder(tmp_path / "copy", data)
    for _, image in [*data.images(), *again.images()]:
        assert image.targets.masks is not None and "runs" not in vars(image.targets.masks)
    first = data.splits["train"].images()[0].targets
    masks_of(first).area()
    assert "runs" not in vars(first.masks)


@pytest.mark.parametrize("name", ["coco", "yolo", "label-maps"])
def test_memory_is_that_of_a_few_images(tmp_path: Path, name: str) -> None:
    """30 images of 1000 x 1000: their label maps or bitmaps together would be 30 to 240 MB."""
    side, number = 1000, 30
    (tmp_path / "images").mkdir()
    cv2.imwrite(str(tmp_path / "images/0.png"), np.zeros((side, side), np.uint8))
    bitmaps = np.zeros((2, side, side), bool)
    bitmaps[0, 20:900, 30:400] = bitmaps[1, 100:800, 500:950] = True
    targets = instances_of(RLE.from_bitmaps(bitmaps), [0, 1], [False, False], CATEGORIES)
    images = [(f"{i}.png", tmp_path / "images/0.png", targets) for i in range(number)]
    write_coco_folder(tmp_path / "coco", built(CATEGORIES, {"train": images}))
    convert(tmp_path / "coco", tmp_path / "warm", name)  # what is imported on first use does not count
    gc.collect()
    tracemalloc.start()
    try:
        assert convert(tmp_path / "coco", tmp_path / "out", name).loss.exact
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 25e6  # about 4 (15 for label maps), and what else the process imports meanwhile: scipy alone is 9


def test_images_keep_their_objects_as_they_were_given(tmp_path: Path) -> None:
    masks = RLE.from_bitmaps(np.eye(6, dtype=bool).reshape(1, 6, 6).repeat(2, 0))
    boxes = torch.tensor([[0, 0, 6, 6], [0.5, 0, 6, 6]])
    points = torch.rand(2, 5, 3)
    for targets in (
        Instances((6, 6), boxes, masks, torch.tensor([1, 0]), keypoints=points, crowd=torch.tensor([True, False])),
        Instances((6, 6), boxes, masks.to_polygons()),
        Instances((6, 6), boxes),
        Instances.empty((6, 6)),
    ):
        split = built(CATEGORIES, {"train": [("a.png", tmp_path / "a.png", targets)]}).splits["train"]
        again = split.targets(0)
        assert again.image_size == (6, 6) and again.categories == CATEGORIES
        assert torch.equal(again.boxes, targets.boxes)
        assert torch.equal(again.labels, targets.labels) and torch.equal(again.crowd, targets.crowd)
        assert (again.keypoints is None) == (targets.keypoints is None)
        assert again.keypoints is None or torch.equal(again.keypoints, points)
        assert again.masks.to_rle().to_coco() == masks_of(targets).to_coco(), "without a mask it is its box"
        again.boxes += 1  # they can be changed, and the image's are as before
        assert torch.equal(split.targets(0).boxes, targets.boxes)
