"""Windows of the ``clicks`` network: what they show, however it is read."""

from __future__ import annotations

import torch

from eachmask.backbones.fuse import optimize_for_inference
from eachmask.models.promptable.click_colors import NUM_COLORS
from eachmask.models.promptable.click_decoder import (
    FEW,
    HEAD_WIDTH,
    HEADS,
    SIMILARITIES,
    WIDTHS,
    Decoder,
    Known,
    Seen,
)
from eachmask.models.promptable.click_questions import NUM_SAID
from eachmask.models.promptable.click_windows import View, extent_of, places, sampled, stretched, view
from eachmask.models.promptable.clicks import similarities

SIDE = 16


def known(batch: int = 1) -> Known:
    """Maps of images of 96 x 64 px."""
    torch.manual_seed(0)
    height, width = 64, 96
    maps = [torch.randn(batch, c, height // s, width // s) for c, s in zip(WIDTHS, (2, 4, 8, 16), strict=True)]
    keys = torch.randn(batch, HEADS * HEAD_WIDTH, height // 8, width // 8)
    fine, *rest = (x.contiguous(memory_format=torch.channels_last) for x in maps)
    return Known(fine, tuple(rest), keys, torch.randn(batch, 3, height // 2, width // 2))


def apart(windows: View, others: View) -> float:
    pairs = zip((windows.fine, *windows.maps, windows.keys, windows.colors),
                (others.fine, *others.maps, others.keys, others.colors), strict=True)  # fmt: skip
    return max(float((a - b).abs().max()) for a, b in pairs)


def test_rows_are_summed_as_maps_are_sampled() -> None:
    maps = known(2)
    image, windows = torch.tensor([0, 0, 1]), torch.tensor([[3.0, 5, 60, 41], [0, 0, 96, 64], [50.5, 20, 90, 64]])
    with torch.inference_mode():
        summed = view(maps, image, windows, SIDE)
    assert apart(summed, view(maps, image, windows, SIDE)) < 1e-4, "with gradients every map is sampled"
    grid = places(windows[:1], extent_of(maps), SIDE)
    direct = sampled(maps.fine, image[:1], grid.flatten(1, 2)).unflatten(2, (SIDE, SIDE))
    assert torch.equal(stretched(maps.fine[:1], image[:1], grid), direct)


def test_what_all_see_is_looked_at_once_and_kept_until_the_image_goes() -> None:
    whole = torch.tensor([[0.0, 0, 96, 64]])
    maps, image = known(), torch.zeros(3, dtype=torch.int64)
    with torch.inference_mode():
        first = view(maps, image, whole.expand(3, -1), SIDE)
        assert len(first.fine) == 1 and view(maps, image[:1], whole, SIDE) is first
        smaller = view(maps, image[:1], whole - torch.tensor([0, 0, 10, 0]), SIDE)
        assert smaller is not first and not torch.equal(smaller.fine, first.fine)
        other = maps._replace(fine=maps.fine + 1)
        assert torch.allclose(view(other, image[:1], whole, SIDE).fine, first.fine + 1, atol=1e-5)
        each = view(maps, image[:2], torch.cat([whole, whole + 1]), SIDE)
    assert len(each.fine) == 2 and float((each.fine[0] - first.fine[0]).abs().max()) < 1e-4


def test_one_row_of_keys_stands_for_all_questions() -> None:
    keys, clicked = torch.randn(1, 64, 4, 4), torch.randn(3, 64, 2)
    signs = torch.tensor([[1, 0], [1, -1], [0, 0]])
    shared = similarities(keys, clicked, signs)
    assert torch.allclose(shared, similarities(keys.expand(3, -1, -1, -1), clicked, signs), atol=1e-6)
    assert (shared[1, HEADS:] == -1).all() and (shared[2, :HEADS] == -1).all()


def test_few_questions_and_many_have_the_same_answers() -> None:
    """A few are left to torch's own convolutions."""
    torch.manual_seed(0)
    decoder = optimize_for_inference(Decoder(NUM_SAID, 4))
    maps, many = known(), 4 * FEW
    said, similar = torch.rand(many, NUM_SAID, SIDE, SIDE), torch.rand(many, SIMILARITIES, SIDE // 2, SIDE // 2)
    colored = torch.rand(many, NUM_COLORS, 2 * SIDE, 2 * SIDE)
    image, windows = torch.zeros(1, dtype=torch.int64), torch.tensor([[3.0, 5, 60, 41]])
    with torch.inference_mode():
        shown = view(maps, image, windows, SIDE)
        logits, qualities = decoder(Seen(shown.fine, shown.maps, similar, said, colored))
        few = decoder(Seen(shown.fine, shown.maps, similar[:FEW], said[:FEW], colored[:FEW]))
    assert torch.allclose(logits[:FEW], few[0], atol=1e-4) and torch.allclose(qualities[:FEW], few[1], atol=1e-4)
