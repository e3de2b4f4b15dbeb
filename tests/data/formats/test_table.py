from __future__ import annotations

import csv
import io

import cv2
import numpy as np
import pytest
import torch
from skimage.measure import regionprops

from eachmask.data.formats import table
from eachmask.structures import RLE, Category, Instances, masks


def _scene() -> tuple[np.ndarray, Instances]:
    labels = np.zeros((90, 120), np.int32)
    for i, angle in enumerate(range(0, 180, 20)):
        cv2.ellipse(labels, (12 + 36 * (i % 3), 15 + 28 * (i // 3)), (11, 3 + i % 5), angle, 0, 360, i + 1, -1)
    labels[14:17, 10:14] = 0  # a hole
    labels[0, 119] = 10  # one pixel in the corner
    labels[40:44, 100:118] = 11
    masks = RLE.from_label_map(labels)
    instances = Instances(
        labels.shape, torch.from_numpy(masks.boxes()), masks, torch.zeros(len(masks), dtype=torch.int64),
        torch.full((len(masks),), 0.5), categories=(Category(1, "a, b"),),
    )  # fmt: skip
    return labels, instances


def test_measures_equal_scikit_image() -> None:
    labels, instances = _scene()
    image = np.random.default_rng(3).integers(0, 65536, (*labels.shape, 3)).astype(np.uint16)
    rows = table.rows("x.tif", instances, image)
    for row, region in zip(rows, regionprops(labels, intensity_image=image.mean(2)), strict=True):
        record = dict(zip(table.COLUMNS, row, strict=True))
        assert record["id"] == region.label and record["area"] == region.area
        assert record["centroid_x"] == pytest.approx(region.centroid[1] + 0.5, abs=0.006)
        assert record["centroid_y"] == pytest.approx(region.centroid[0] + 0.5, abs=0.006)
        assert record["perimeter"] == pytest.approx(region.perimeter, abs=1e-3)
        assert record["eccentricity"] == pytest.approx(region.eccentricity, abs=1e-4)
        assert record["mean_intensity"] == pytest.approx(region.intensity_mean, abs=1e-3)
        top, left, bottom, right = region.bbox
        assert [record[f"box_{k}"] for k in ("x1", "y1", "x2", "y2")] == [left, top, right, bottom]


def test_csv_quotes_and_disarms() -> None:
    _, instances = _scene()
    rows = table.rows('=HYPERLINK("x").png', instances[:1], np.zeros((90, 120, 3), np.uint8))
    header, record = csv.reader(io.StringIO(table.to_csv(rows)))
    assert tuple(header) == table.COLUMNS
    assert record[:3] == ['\'=HYPERLINK("x").png', "1", "a, b"]


@pytest.mark.parametrize("name", ["=1+1", "+1+1", "-1+1", "@SUM(A1)", "\t=1+1", "\r=1+1"])
def test_csv_disarms_every_beginning_of_a_formula(name: str) -> None:
    ((shown, number),) = csv.reader(io.StringIO(table.to_csv([(name, -2.5)], header=False), newline=""))
    assert (shown, number) == (f"'{name}", "-2.5")


def test_without_masks_and_with_an_empty_one() -> None:
    image = np.zeros((20, 30, 3), np.uint8)
    boxes = torch.tensor([[1.0, 2.0, 4.0, 6.0]])
    (row,) = table.rows("a", Instances((20, 30), boxes), image)
    assert row[3:5] == ("", 12.0) and row[9:] == ("",) * 7
    empty = RLE.from_bitmaps(np.zeros((1, 20, 30), bool))
    (row,) = table.rows("a", Instances((20, 30), boxes, empty), image)
    assert row[4] == 0 and row[9:] == ("",) * 6 + (0,)
    with pytest.raises(ValueError, match="for instances on"):
        table.rows("a", Instances((20, 30), boxes), image[:9])


def test_what_is_seen_of_an_object_is_its_area_in_the_label_map(monkeypatch: pytest.MonkeyPatch) -> None:
    bitmaps = np.random.default_rng(5).random((7, 37, 20)) < 0.4
    instances = Instances((37, 20), torch.zeros(7, 4), RLE.from_bitmaps(bitmaps))
    expected = [int((instances.to_label_map() == i + 1).sum()) for i in range(7)]
    for band in (1 << 22, 100, 1):  # all at once, five rows at a time, one
        monkeypatch.setattr(masks, "_BAND", band)
        rows = table.rows("a", instances, np.zeros((37, 20, 3), np.uint8))
        assert [row[table.COLUMNS.index("visible_area")] for row in rows] == expected
    assert sum(expected) == bitmaps.any(0).sum() < bitmaps.sum()


def test_columns_without_a_value_are_left_out() -> None:
    animals = (Category(1, "animal"), Category(2, "cat", parent="animal"))
    boxes = Instances((20, 30), torch.tensor([[1.0, 2.0, 4.0, 6.0]]), scores=torch.ones(1), categories=animals[:1])
    names = table.columns(boxes.categories, with_masks=False)
    text = table.to_csv(table.rows("a", boxes, np.zeros((20, 30, 3), np.uint8)), columns=names)
    (record,) = csv.DictReader(io.StringIO(text))
    assert list(record) == ["image", "id", "class", "score", "area", "box_x1", "box_y1", "box_x2", "box_y2"]
    assert all(record.values()) and record["class"] == "animal" and record["area"] == "12.0"
    assert table.columns(animals, with_masks=True) == table.COLUMNS
