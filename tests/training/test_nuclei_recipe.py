"""What chooses the weights of the bundled ``nuclei`` model."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from eachmask.recipes.nuclei import SHOWN, nuclei, score
from eachmask.structures import RLE, Instances


def squares(scores: list[float] | None, *corners: tuple[int, int]) -> Instances:
    """Squares of 4 px, of one class."""
    bitmaps = np.zeros((len(corners), 32, 32), bool)
    for bitmap, (x, y) in zip(bitmaps, corners, strict=True):
        bitmap[y : y + 4, x : x + 4] = True
    boxes = torch.tensor([[x, y, x + 4, y + 4] for x, y in corners], dtype=torch.float32)
    found = None if scores is None else torch.tensor(scores)
    return Instances((32, 32), boxes, RLE.from_bitmaps(bitmaps), scores=found)


def test_what_is_not_shown_is_not_counted_as_false_positives() -> None:
    target = squares(None, (0, 0), (10, 10), (20, 20))
    corners = [(0, 0), (10, 10), (0, 20), (20, 0)]
    found = score([squares([0.9, SHOWN, SHOWN - 0.1, 0.1], *corners)], [target])
    assert found["match50"] == found["match_mean"] == pytest.approx(2 / 3)
    missed = score([squares([0.9, SHOWN - 0.1, 0.2, 0.1], *corners)], [target])
    assert missed["match50"] == pytest.approx(1 / 3) and missed["mask_ap50"] == pytest.approx(found["mask_ap50"])


def test_what_is_shown_is_what_the_file_says() -> None:
    assert nuclei().decode == {"score_threshold": SHOWN}
