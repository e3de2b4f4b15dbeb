"""When an exported file counts as equal to its model."""

from __future__ import annotations

import torch

from eachmask.exporting.compare import TOLERANCE, difference


def test_one_place_far_off_is_rounding_and_all_places_are_not() -> None:
    expected = torch.linspace(-1, 1, 1000)
    one = expected.clone()
    one[500] += 0.5
    assert difference(one, expected) > TOLERANCE["fp32"]
    assert difference(one, expected, "bf16") < TOLERANCE["bf16"]
    shifted = expected.roll(60)
    assert difference((shifted,), (expected,), "bf16") > TOLERANCE["bf16"]
    assert difference([one], [one, one], "bf16") == difference(one[1:], one, "bf16") == float("inf")
    assert difference(None, expected, "bf16") == 0
