"""Every verb on every representation of every kind of mask against plain numpy on dense bitmaps."""

from __future__ import annotations

import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from eachmask.structures import RLE, Bitmaps, Masks, Polygons, RoIMasks

HEIGHT, WIDTH = 13, 17


def bitmaps_of(kind: str) -> np.ndarray:
    masks = np.zeros((3, HEIGHT, WIDTH), bool)
    if kind == "none":
        return masks[:0]
    if kind == "pixels":
        masks[0, 0, 0] = masks[1, -1, -1] = masks[2, 5, 8] = True
    elif kind == "borders":
        masks[0, :, [0, -1]] = masks[0, [0, -1]] = True
        masks[1, :, 3:9] = masks[2, 4:7, :] = True
    elif kind == "full":
        masks[:] = True
    elif kind == "noise":
        masks[:] = np.random.default_rng(0).random(masks.shape) < 0.5
        masks[1] = False
    return masks


KINDS = ["none", "empty", "pixels", "borders", "full", "noise"]


def as_bitmaps(masks: np.ndarray) -> Bitmaps:
    """Whole bitmaps with a margin around them, so that crops leave the canvas."""
    crops = [np.pad(m, 2, mode="edge") for m in masks]
    return Bitmaps(crops, np.full((len(masks), 2), -2, np.int32), (HEIGHT, WIDTH))


def as_roi_masks(masks: np.ndarray) -> RoIMasks:
    """One grid cell per pixel: the box is the canvas."""
    grids = torch.from_numpy(masks).float()
    box = torch.tensor([0.0, 0, WIDTH, HEIGHT])
    return RoIMasks(grids, box.expand(len(masks), 4), (HEIGHT, WIDTH))


FORMS = {
    "rle": RLE.from_bitmaps,
    "polygons": lambda masks: RLE.from_bitmaps(masks).to_polygons(),
    "crops": lambda masks: RLE.from_bitmaps(masks).to_bitmaps(),
    "bitmaps": as_bitmaps,
    "roi": as_roi_masks,
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_verb_of_every_form(form, kind):
    dense = bitmaps_of(kind)
    masks: Masks = FORMS[form](dense)
    flat = dense.reshape(len(dense), HEIGHT * WIDTH)

    assert masks.size == (HEIGHT, WIDTH) and len(masks) == len(dense) == len(list(masks))
    assert np.array_equal(masks.to_rle().decode(), dense)
    assert masks.area().dtype == np.int64 and np.array_equal(masks.area(), flat.sum(1))
    assert masks.boxes().dtype == np.float32 and masks.boxes().tolist() == [tight_box(m) for m in dense]
    assert np.array_equal(masks[::-1].to_rle().decode(), dense[::-1])
    assert np.array_equal(masks.crop((2, 3, 11, 9)).decode(), dense[:, 3:9, 2:11])
    assert np.array_equal(masks.pad((1, 2, 3, 4)).decode(), np.pad(dense, ((0, 0), (2, 4), (1, 3))))
    assert np.array_equal(masks.shift(-3, 2, (HEIGHT, WIDTH - 3)).decode()[:, 2:], dense[:, :-2, 3:])
    assert np.array_equal(masks.flip().decode(), dense[:, :, ::-1])
    assert np.array_equal(masks.flip(horizontal=False).decode(), dense[:, ::-1])
    assert np.array_equal(masks.union().decode()[0], dense.any(0))
    assert np.array_equal(masks.to_bitmaps().to_rle().decode(), dense)
    assert np.array_equal(masks.to_polygons().to_rle().decode(), dense)
    assert masks.to_label_map().dtype == np.int32 and np.array_equal(masks.to_label_map(), earliest(dense))
    assert np.array_equal(masks.resize((2 * HEIGHT, 2 * WIDTH)).to_rle().area() > 0, flat.any(1))
    assert np.array_equal(Masks.cat([masks, masks]).decode(), np.concatenate([dense, dense]))
    assert masks.to("cpu").size == masks.size and type(masks).__name__ in repr(masks)

    other = bitmaps_of("noise").reshape(3, -1).astype(int)
    common, union = flat @ other.T, (flat[:, None] | other[None].astype(bool)).sum(2)
    assert np.array_equal(masks.intersection(RLE.from_bitmaps(bitmaps_of("noise"))), common)
    assert np.allclose(masks.iou(RLE.from_bitmaps(bitmaps_of("noise"))), common / np.maximum(union, 1))


def tight_box(mask: np.ndarray) -> list[float]:
    if not mask.any():
        return [0, 0, 0, 0]
    ys, xs = np.nonzero(mask)
    return [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]


def earliest(masks: np.ndarray) -> np.ndarray:
    labels = np.zeros((HEIGHT, WIDTH), int)
    for i in reversed(range(len(masks))):
        labels[masks[i]] = i + 1
    return labels


@pytest.mark.parametrize("size", [(31, 40), (9, 11), (6, 60), (26, 7)])
@pytest.mark.parametrize("form", ["rle", "bitmaps"])
def test_resize_is_that_of_whole_canvases(size, form):
    rng = np.random.default_rng(sum(size))
    coarse = torch.from_numpy(rng.random((5, 1, 4, 5)))
    dense = F.interpolate(coarse, size=(HEIGHT, WIDTH), mode="bicubic")[:, 0].numpy() > 0.5
    canvases = torch.from_numpy(dense[:, None]).double()
    value = F.interpolate(canvases, size=size, mode="bilinear", align_corners=False)[:, 0].numpy()
    decided = np.abs(value - 0.5) > 1e-6
    assert decided.mean() > 0.9
    assert np.array_equal(FORMS[form](dense).resize(size).to_rle().decode()[decided], (value > 0.5)[decided])


def test_a_whole_canvas_stays_whole_at_any_size():
    full = RLE.from_bitmaps(np.ones((1, 7, 9), bool))
    for size in [(1, 1), (3, 50), (7, 8), (14, 18), (100, 90)]:
        assert full.resize(size).area().tolist() == [size[0] * size[1]]


@pytest.mark.parametrize("band", [1 << 22, 60])
def test_the_first_of_two_masks_is_seen_whole(monkeypatch, band):
    """At once, and in bands of three rows."""
    monkeypatch.setattr("eachmask.structures.masks._BAND", band)
    bitmaps = np.zeros((3, 10, 20), bool)
    bitmaps[0, 2:8, 3:9], bitmaps[1, 5:10, 6:20], bitmaps[2, 3:5, 4:6] = True, True, True
    assert RLE.from_bitmaps(bitmaps).visible_area().tolist() == [36, 70 - 9, 0]


def test_overlaps_are_the_pairs_that_share_pixels():
    rng = np.random.default_rng(0)
    for _ in range(50):
        a, b = (rng.random((rng.integers(0, 9), 6, 7)) < rng.choice([0.03, 0.2]) for _ in range(2))
        rows, columns, pixels = RLE.from_bitmaps(a).overlaps(RLE.from_bitmaps(b))
        common = (a[:, None] & b[None]).sum((2, 3))
        assert np.array_equal(
            common > 0, np.bincount(rows * len(b) + columns, minlength=common.size).reshape(common.shape)
        )
        assert np.array_equal(pixels, common[rows, columns]) and (np.diff(rows) >= 0).all()


def test_crops_may_be_any_numbers_and_must_fit_their_origins():
    bright = Bitmaps([np.full((2, 3), 255, np.uint8)], np.array([[1, 1]]), (5, 5))
    assert bright.area().tolist() == [6]
    assert Bitmaps([], np.zeros((0, 2), np.int32), (5, 5)).to_rle().counts.size == 0
    assert Bitmaps([np.zeros((0, 4), bool), np.ones((1, 1), bool)], [[0, 0], [4, 4]], (5, 5)).area().tolist() == [0, 1]
    with pytest.raises(ValueError, match="1 crops at 2 places"):
        Bitmaps([np.ones((1, 1))], np.zeros((2, 2)), (5, 5))
    with pytest.raises(ValueError, match=r"\(h, w\)"):
        Bitmaps([np.ones((1, 1, 1))], np.zeros((1, 2)), (5, 5))


def test_cat_mixes_forms_but_not_canvases():
    dense = bitmaps_of("noise")
    joined = Masks.cat([form(dense) for form in FORMS.values()])
    assert np.array_equal(joined.decode(), np.concatenate([dense] * len(FORMS)))
    with pytest.raises(ValueError, match="not of the same image"):
        Masks.cat([RLE.empty((3, 4)), RLE.empty((4, 3))])


def test_masks_travel_between_processes():
    for form in FORMS.values():
        masks = form(bitmaps_of("noise"))
        masks.area()
        assert np.array_equal(pickle.loads(pickle.dumps(masks)).to_rle().decode(), masks.to_rle().decode())
    rle = RLE.from_bitmaps(bitmaps_of("noise"))
    before = len(pickle.dumps(rle))
    rle.area()
    assert len(pickle.dumps(rle)) == before  # what is cached stays at home


def test_masks_do_not_need_torch():
    program = "import sys, eachmask.structures as s; s.RLE.empty((3, 4)); s.Polygons; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_polygons_know_their_type():
    assert isinstance(as_bitmaps(bitmaps_of("noise")).to_polygons(), Polygons)
