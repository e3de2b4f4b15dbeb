from __future__ import annotations

import numpy as np
import pytest
import torch

from eachmask.structures import RLE, Matte, Trimap


@pytest.mark.parametrize(
    ("alpha", "foreground", "message"),
    [
        (torch.zeros(3, 4, dtype=torch.uint8), None, "float in 0..1"),
        (torch.full((3, 4), 1.5), None, "goes from 1.5 to 1.5"),
        (torch.full((3, 4), float("nan")), None, "must lie in 0..1"),
        (torch.zeros(1, 3, 4), None, r"must be \(H, W\)"),
        (torch.zeros(3, 4), torch.zeros(3, 4, 3), r"must be \(3, H, W\)"),
    ],
)
def test_alpha_is_checked(alpha, foreground, message):
    with pytest.raises(ValueError, match=message):
        Matte(alpha, foreground)


def test_alpha_is_averaged_where_it_shrinks_and_bilinear_where_it_grows():
    edge = Matte(torch.tensor([[0.0, 0.0, 1.0, 1.0]]))
    assert edge.resize((1, 8)).alpha[0].tolist() == pytest.approx([0, 0, 0, 0.25, 0.75, 1, 1, 1])
    stripes = Matte(torch.arange(64).remainder(2).float().repeat(4, 1))
    small = stripes.resize((1, 8)).alpha[0, 1:-1]
    assert small.tolist() == pytest.approx([0.5] * 6, abs=0.05), "single pixels would say 0 or 1"


def test_before_another_background():
    image, black = torch.full((3, 1, 3), 0.8), torch.zeros(3, 1, 1)
    matte = Matte(torch.tensor([[0.0, 0.5, 1.0]]))
    assert matte.over(image, black)[0, 0].tolist() == pytest.approx([0, 0.4, 0.8])
    colored = Matte(matte.alpha, torch.ones(3, 1, 3))
    assert colored.over(image, black)[0, 0].tolist() == pytest.approx([0, 0.5, 1])


def test_cut_out():
    matte = Matte(torch.tensor([[0.0, 0.5, 1.0]]))
    image = np.full((1, 3, 3), 7, np.uint8)
    assert matte.to_rgba(image)[0].tolist() == [[7, 7, 7, 0], [7, 7, 7, 128], [7, 7, 7, 255]]
    with_colors = Matte(matte.alpha, torch.ones(3, 1, 3))
    assert with_colors.to_rgba(image)[0, 1].tolist() == [255, 255, 255, 128]
    with pytest.raises(ValueError, match="for a matte on"):
        matte.to_rgba(np.zeros((2, 3, 3), np.uint8))


def disc(size: int, radius: float, center: float | None = None) -> np.ndarray:
    at = np.arange(size) + 0.5 - (size / 2 if center is None else center)
    return at[:, None] ** 2 + at[None] ** 2 <= radius**2


def test_a_band_is_as_wide_as_its_object_is_large():
    widths = []
    for radius in (20, 80):
        band = Trimap.from_mask(RLE.from_bitmaps(disc(300, radius)[None]), width=0.1).unknown
        row = band[150].nonzero().squeeze(1)
        widths.append(len(row) / 4)  # inward and outward, on both sides
        assert row[0] == pytest.approx(150 - radius - widths[-1], abs=1.5)
    assert widths == pytest.approx([0.1 * np.sqrt(np.pi) * radius for radius in (20, 80)], abs=1)


def test_the_border_of_the_image_is_no_outline():
    mask = np.zeros((1, 40, 40), bool)
    mask[:, 20:] = True
    trimap = Trimap.from_mask(RLE.from_bitmaps(mask), width=0.1)
    assert trimap.foreground[-1].all() and trimap.unknown[20].all() and trimap.background[0].all()


def test_what_one_object_surely_covers_is_foreground():
    masks = np.zeros((2, 40, 80), bool)
    masks[0, 5:35, 5:75] = True
    masks[1, 15:20, 30:35] = True
    trimap = Trimap.from_mask(RLE.from_bitmaps(masks), width=0.05)
    assert trimap.foreground[10:30, 10:70].all()
    assert not trimap.foreground[~masks.any(0)].any() and not trimap.background[masks.any(0)].any()
    assert Trimap.from_mask(RLE.empty((4, 5))).background.all()
    with pytest.raises(ValueError, match="-1 wide"):
        Trimap.from_mask(RLE.empty((4, 5)), width=-1)


def test_grays_within_five_of_the_ends_are_sure():
    grays = np.array([[5, 6, 249, 250]], np.uint8)
    assert Trimap.from_gray(grays).values.tolist() == [[0, 128, 128, 255]]


def test_a_trimap_has_three_values():
    with pytest.raises(ValueError, match="not 7"):
        Trimap(torch.tensor([[0, 7]], dtype=torch.uint8))
    assert Trimap(torch.tensor([[0, 128, 255]])).values.dtype == torch.uint8
