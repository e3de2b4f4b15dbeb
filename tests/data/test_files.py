"""Label maps, GeoJSON, polygons and crops: what is written says the same as the masks."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from eachmask.data.formats.crops import crops, file_safe
from eachmask.data.formats.geojson import to_geojson, to_polygon_list
from eachmask.data.formats.label_maps import encode_label_map, label_map_suffix, numbers_in, write_label_map
from eachmask.structures import RLE, Bitmaps, Category, Instances, UserError


@pytest.fixture
def instances() -> Instances:
    """A ring with an island in its hole, and an object of two parts."""
    bitmaps = np.zeros((2, 30, 40), bool)
    bitmaps[0, 3:20, 4:24] = True
    bitmaps[0, 6:16, 8:20] = False
    bitmaps[0, 9:12, 11:15] = True
    bitmaps[1, 24:28, 2:9] = True
    bitmaps[1, 22:29, 30:37] = True
    masks = RLE.from_bitmaps(bitmaps)
    return Instances(
        (30, 40), torch.from_numpy(masks.boxes()), masks, torch.tensor([0, 1]), torch.tensor([0.9, 0.25]),
        categories=(Category(1, "ring"), Category(2, "a/b: c")),
    )  # fmt: skip


def _fill(polygons: list, size: tuple[int, int]) -> np.ndarray:
    """Even-odd filling, by asking for every pixel's center."""
    ys, xs = np.mgrid[: size[0], : size[1]] + 0.5
    inside = np.zeros(size, bool)
    for rings in polygons:
        for ring in rings:
            for (x1, y1), (x2, y2) in zip(ring, ring[1:] + ring[:1], strict=True):
                if y1 != y2:
                    inside ^= ((ys > y1) != (ys > y2)) & (xs < (x2 - x1) * (ys - y1) / (y2 - y1) + x1)
    return inside


def _area(ring: list) -> float:
    x, y = np.array(ring).T
    return float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2


def test_geojson_covers_exactly_the_pixels(instances: Instances) -> None:
    first, second = to_geojson(instances)["features"]
    assert first["geometry"]["type"] == second["geometry"]["type"] == "MultiPolygon"
    assert first["properties"]["classification"] == {"name": "ring"} and first["properties"]["score"] == 0.9
    for feature, mask in zip((first, second), instances.masks.to_rle().decode(), strict=True):
        np.testing.assert_array_equal(_fill(feature["geometry"]["coordinates"], (30, 40)), mask)
        for outer, *holes in feature["geometry"]["coordinates"]:
            assert outer[0] == outer[-1] and _area(outer) > 0
            assert all(hole[0] == hole[-1] and _area(hole) < 0 for hole in holes)
    island, ring = sorted(first["geometry"]["coordinates"], key=lambda rings: _area(rings[0]))
    assert len(island) == 1 and len(ring) == 2  # the hole is the ring's, not the island's


def test_polygons_keep_parts_and_holes(instances: Instances) -> None:
    first, second = to_polygon_list(instances)
    assert (first["id"], first["class"], first["score"]) == (1, "ring", 0.9)
    assert sorted(len(p["holes"]) for p in first["polygons"]) == [0, 1]
    assert [len(p["holes"]) for p in second["polygons"]] == [0, 0]


def test_an_empty_mask_has_no_place() -> None:
    nothing = Instances((5, 6), torch.zeros(1, 4), RLE.from_bitmaps(np.zeros((1, 5, 6), bool)))
    assert to_geojson(nothing)["features"][0]["geometry"] is None
    assert list(crops(nothing, np.zeros((5, 6, 3), np.uint8))) == []


def test_label_map_round_trip(tmp_path: Path, instances: Instances) -> None:
    write_label_map(tmp_path / "l.png", instances.masks)
    stored = cv2.imread(str(tmp_path / "l.png"), cv2.IMREAD_UNCHANGED)
    assert stored.dtype == np.uint16
    np.testing.assert_array_equal(stored, instances.masks.to_label_map())
    assert RLE.from_label_map(numbers_in(tmp_path / "l.png")).to_coco() == instances.masks.to_rle().to_coco()
    cv2.imwrite(str(tmp_path / "c.png"), np.random.default_rng(0).integers(0, 9, (4, 5, 3)).astype(np.uint8))
    for name in ("c.png", "missing.png"):
        with pytest.raises(UserError, match=name):
            numbers_in(tmp_path / name)


def test_label_map_of_very_many(tmp_path: Path) -> None:
    num = 70_000
    y, x = np.divmod(np.arange(num), 300)
    masks = Bitmaps([np.ones((1, 1), bool)] * num, np.stack([x, y], 1).astype(np.int32), (300, 300))
    assert label_map_suffix(num) == ".tif" and label_map_suffix(65535) == ".png"
    (tmp_path / "l.tif").write_bytes(encode_label_map(masks)[0])
    assert len(RLE.from_label_map(numbers_in(tmp_path / "l.tif"))) == num


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_crops_are_transparent_around_the_object(instances: Instances, dtype: type) -> None:
    image = np.random.default_rng(1).integers(0, 255, (30, 40, 3)).astype(dtype)
    found = dict(crops(instances, image))
    assert list(found) == ["0001_ring.png", "0002_a_b_c.png"]
    crop = cv2.imdecode(np.frombuffer(found["0001_ring.png"], np.uint8), cv2.IMREAD_UNCHANGED)
    mask = instances.masks.to_rle().decode()[0, 3:20, 4:24]
    np.testing.assert_array_equal(crop[..., 3] > 0, mask)
    if dtype != np.float32:
        assert crop.dtype == dtype
        np.testing.assert_array_equal(crop[..., 2::-1][mask], image[3:20, 4:24][mask])


def test_file_safe() -> None:
    assert file_safe("../e v/il") == "e_v_il"
    assert file_safe("///") == "object"
    assert len(file_safe("x" * 500)) == 60


def test_boxes_alone_cannot_be_outlined() -> None:
    boxes = Instances((5, 6), torch.zeros(1, 4))
    with pytest.raises(UserError, match="masks"):
        to_geojson(boxes)
    with pytest.raises(UserError, match="masks"):
        list(crops(boxes, np.zeros((5, 6, 3), np.uint8)))
