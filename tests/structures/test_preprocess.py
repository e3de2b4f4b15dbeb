from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from eachmask.structures import ImageBatch, Preprocess, UserError

SIZES = [(37, 53), (101, 64), (200, 33), (64, 64), (80, 121)]


@pytest.mark.parametrize(("short", "long"), [(64, 100), (97, 133), (50, 1000)])
def test_equals_torchvision(short, long):
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in SIZES]
    ours = Preprocess(short_side=short, long_side=long)
    theirs = GeneralizedRCNNTransform(short, long, list(ours.mean), list(ours.std)).eval()
    expected, _ = theirs([torch.from_numpy(i).permute(2, 0, 1) / 255 for i in images])
    batch = ours(images)
    assert list(batch.sizes) == expected.image_sizes
    assert torch.equal(batch.tensor, expected.tensors)
    assert [ours.target_size(*size) for size in SIZES] == expected.image_sizes


def test_any_size_becomes_what_torchvision_makes_of_it():
    rng = np.random.default_rng(4)
    for _ in range(40):
        height, width = (int(v) for v in rng.integers(10, 90, 2))
        short, long = (int(v) for v in rng.integers(20, 90, 2))
        ours = Preprocess(short_side=short, long_side=long, divisor=1)
        theirs = GeneralizedRCNNTransform(short, long, [0.0] * 3, [1.0] * 3, size_divisible=1).eval()
        expected, _ = theirs([torch.zeros(3, height, width)])
        assert ours.target_size(height, width) == expected.image_sizes[0]


def test_a_line_of_pixels_keeps_its_last_one():
    batch = Preprocess(short_side=800, long_side=100)([np.zeros((1, 5000, 3), np.uint8)])
    assert batch.sizes == ((1, 100),)


def test_percentiles_stretch_sixteen_bits_and_ignore_a_hot_pixel():
    rng = np.random.default_rng(1)
    image = rng.integers(1000, 1400, (50, 60, 1)).astype(np.uint16).repeat(3, axis=2)
    image[3, 4] = 65535
    tensor = Preprocess(contrast="percentile").to_float(image)
    assert tensor.min() == 0 and tensor.max() == 1 and 0.45 < tensor.mean() < 0.55


def test_a_stretch_keeps_what_lies_beyond_its_percentiles():
    image = np.arange(300, dtype=np.uint16).reshape(10, 10, 3) * 7
    low, high = np.percentile(image, (1, 99))
    seen = Preprocess(contrast="stretch", mean=(0, 0, 0), std=(1, 1, 1), short_side=None, divisor=1)([image]).tensor
    expected = (image.astype(np.float64) - low) / (high - low)
    assert np.allclose(seen[0].permute(1, 2, 0), expected, atol=1e-5)
    assert seen.min() < 0 and seen.max() > 1


def test_percentiles_equal_numpy():
    rng = np.random.default_rng(2)
    for dtype, shape in [
        (np.uint8, (1, 1, 3)),
        (np.uint8, (7, 5, 3)),
        (np.uint16, (64, 64, 3)),
        (np.float32, (9, 8, 3)),
    ]:
        image = rng.integers(0, 256, shape).astype(dtype)
        assert Preprocess(contrast="percentile").limits(image) == pytest.approx(tuple(np.percentile(image, (1, 99.8))))


@pytest.mark.parametrize("contrast", ["range", "percentile", "stretch"])
def test_constant_and_broken_images_stay_finite(contrast):
    preprocess = Preprocess(contrast=contrast)
    assert torch.isfinite(preprocess.to_float(np.full((4, 5, 3), 9, np.uint8))).all()
    assert torch.isfinite(preprocess.to_float(np.zeros((4, 5, 3), np.uint16))).all()
    broken = np.full((4, 5, 3), 0.5, np.float32)
    broken[0, 0], broken[0, 1], broken[0, 2] = np.nan, np.inf, -np.inf
    assert torch.isfinite(preprocess.to_float(broken)).all()
    assert torch.isfinite(preprocess.to_float(np.full((4, 5, 3), np.nan))).all()
    assert np.isnan(broken[0, 0]).all()  # the caller's image is left alone


def test_percentiles_of_large_float_images_look_at_all_channels_and_columns():
    image = np.zeros((2100, 1500, 3), np.float32)
    image[:, 1::2, 2] = 1  # a stride of three values, or of two pixels, would miss it
    low, high = Preprocess(contrast="percentile").limits(image)
    assert (low, high) == (0, 1)


def test_images_of_other_shapes_are_refused():
    for shape in [(4, 5), (4, 5, 4), (0, 5, 3)]:
        with pytest.raises(ValueError, match="must be"):
            Preprocess()([np.zeros(shape, np.uint8)])
    with pytest.raises(ValueError, match="contrast"):
        Preprocess(contrast="auto")


def test_tiles_share_the_limits_of_the_whole():
    rng = np.random.default_rng(3)
    image = rng.integers(0, 4000, (40, 80, 3)).astype(np.uint16)
    preprocess = Preprocess(contrast="percentile")
    whole = preprocess.to_float(image)
    tile = preprocess.to_float(image[:, 40:], preprocess.limits(image))
    assert torch.equal(tile, whole[:, :, 40:])


def test_record_round_trip():
    record = Preprocess(short_side=None, contrast="percentile", fixed_size=(550, 550))
    import json

    from eachmask.weights.header import SCHEMA

    assert SCHEMA.read(Preprocess, json.loads(json.dumps(record.to_dict())), "preprocess") == record


def test_fixed_size_ignores_the_aspect():
    batch = Preprocess(fixed_size=(64, 96))([np.zeros((30, 200, 3), np.uint8)])
    assert batch.tensor.shape == (1, 3, 64, 96)


def test_batch_pads_with_zeros_below_and_right():
    batch = ImageBatch.from_tensors([torch.ones(3, 10, 40), torch.ones(3, 33, 5)])
    assert batch.tensor.shape == (2, 3, 64, 64) and batch.sizes == ((10, 40), (33, 5))
    assert batch.tensor[0, :, 10:].sum() == 0 and batch.tensor[1, :, :, 5:].sum() == 0
    assert batch.num_images == len(batch) == 2 and batch.to("cpu", torch.float16).tensor.dtype == torch.float16
    wider = ImageBatch.from_tensors([torch.ones(3, 10, 40), torch.ones(3, 33, 5)], 32, least=(20, 70))
    assert wider.tensor.shape == (2, 3, 64, 96) and wider.sizes == batch.sizes
    with pytest.raises(ValueError, match="do not fit"):
        ImageBatch(batch.tensor, ((65, 3), (2, 2)))
    with pytest.raises(ValueError, match="at least one"):
        ImageBatch.from_tensors([])


def test_magnification_is_for_images_without_a_wanted_side():
    image = np.zeros((40, 64, 3), np.uint8)
    assert Preprocess(short_side=None, magnification=1.25)([image]).sizes == ((50, 80),)
    assert Preprocess(short_side=80, magnification=1.25)([image]).sizes == ((80, 128),)


def test_the_longer_side_can_be_chosen():
    smaller = Preprocess(short_side=800, long_side=1333).at_long_side(416)
    assert smaller.target_size(480, 640) == (312, 416) and smaller.target_size(640, 480) == (416, 312)
    assert smaller.mean == Preprocess().mean and smaller.divisor == Preprocess().divisor


@pytest.mark.parametrize(
    ("preprocess", "side", "reason"),
    [
        (Preprocess(), 31, "at least 32"),
        (Preprocess(fixed_size=(550, 500)), 320, "at 550 x 500 pixels"),
        (Preprocess(short_side=None, magnification=1.5), 320, "own size, 1.5 times enlarged"),
    ],
)
def test_where_no_side_can_be_chosen(preprocess, side, reason):
    with pytest.raises(UserError, match=reason):
        preprocess.at_long_side(side)
