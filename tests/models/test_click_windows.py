"""Windows of the ``clicks`` network: what they show, however it is read."""

from __future__ import annotations

import pytest
import torch

from eachmask.backbones.fuse import optimize_for_inference
from eachmask.models.promptable.click_colors import NUM_COLORS
from eachmask.models.promptable.click_decoder import (
    HEAD_WIDTH,
    HEADS,
    SIMILARITIES,
    WIDTHS,
    Decoder,
    Known,
    Seen,
    of_length_one,
)
from eachmask.models.promptable.click_questions import NUM_SAID
from eachmask.models.promptable.click_windows import View, view
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


@torch.inference_mode()
def some_seen(questions: int) -> Seen:
    """A window that so many questions look through."""
    shown = view(known(), torch.zeros(1, dtype=torch.int64), torch.tensor([[3.0, 5, 60, 41]]), SIDE)
    said, similar = (torch.rand(questions, n, SIDE // s, SIDE // s) for n, s in ((NUM_SAID, 1), (SIMILARITIES, 2)))
    return Seen(shown.fine, shown.maps, similar, said, torch.rand(questions, NUM_COLORS, 2 * SIDE, 2 * SIDE))


def apart(windows: View, others: View) -> float:
    pairs = zip((windows.fine, *windows.maps, windows.keys, windows.colors),
                (others.fine, *others.maps, others.keys, others.colors), strict=True)  # fmt: skip
    return max(float((a - b).abs().max()) for a, b in pairs)


def test_maps_are_read_by_lines_as_they_are_sampled() -> None:
    maps = known(2)
    image, windows = torch.tensor([0, 0, 1]), torch.tensor([[3.0, 5, 60, 41], [0, 0, 96, 64], [50.5, 20, 90, 64]])
    for rows in ([0, 1, 2], [0], [2]):
        with torch.inference_mode():
            by_lines = view(maps, image[rows], windows[rows], SIDE)
        assert apart(by_lines, view(maps, image[rows], windows[rows], SIDE)) < 1e-4, "with gradients they are sampled"


def test_rounded_maps_are_read_by_lines_too() -> None:
    maps, windows = known(), torch.tensor([[3.0, 5, 60, 41], [50.5, 20, 90, 64]])
    rounded = maps._replace(fine=maps.fine.bfloat16(), maps=tuple(x.bfloat16() for x in maps.maps))
    image = torch.zeros(2, dtype=torch.int64)
    with torch.inference_mode():
        found = view(rounded, image, windows, SIDE)
        assert found.fine.dtype == torch.bfloat16
        assert apart(found, view(maps, image, windows, SIDE)) < 0.05, "three roundings to eight bits of values up to 4"


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
    keys, clicked = of_length_one(torch.randn(1, 64, 4, 4)).flatten(1, 2), torch.randn(3, 64, 2)
    signs = torch.tensor([[1, 0], [1, -1], [0, 0]])
    shared = similarities(keys, clicked, signs)
    assert torch.allclose(shared, similarities(keys.expand(3, -1, -1, -1), clicked, signs), atol=1e-6)
    assert (shared[1, HEADS:] == -1).all() and (shared[2, :HEADS] == -1).all()
    assert float(similarities(keys, 3 * keys[0, None, :, 1, 2, None], signs[:1, :1])[0, 0, 1, 2]) == pytest.approx(1)


def test_few_questions_and_many_have_the_same_answers() -> None:
    """The CPU's library chooses other kernels for them."""
    torch.manual_seed(0)
    decoder = optimize_for_inference(Decoder(NUM_SAID, 4))
    seen = some_seen(8)
    with torch.inference_mode():
        logits, qualities = decoder(seen)
        few = decoder(seen._replace(similar=seen.similar[:2], said=seen.said[:2], colored=seen.colored[:2]))
    assert torch.allclose(logits[:2], few[0], atol=1e-4) and torch.allclose(qualities[:2], few[1], atol=1e-4)
