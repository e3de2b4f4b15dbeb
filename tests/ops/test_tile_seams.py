"""Joining the maps of overlapping tiles."""

from __future__ import annotations

import pytest
import torch

from eachmask.ops.tile_seams import depths, join_labels, join_scores, join_values, mean_scores
from eachmask.ops.tiles import tile_boxes
from eachmask.structures.class_scores import ClassScores

SIZE = (50, 70)
TILES = tile_boxes(SIZE, 32, 0.3)


def cut(whole: torch.Tensor) -> list[torch.Tensor]:
    return [whole[..., y1:y2, x1:x2] for x1, y1, x2, y2 in TILES]


def test_what_all_tiles_agree_on_comes_back() -> None:
    rng = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 200, SIZE, generator=rng).to(torch.uint8)
    values = torch.rand(3, *SIZE, generator=rng)
    assert len(TILES) == 6
    assert torch.equal(join_labels(cut(labels), TILES, SIZE), labels)
    assert torch.allclose(join_values(cut(values), TILES, SIZE), values, atol=1e-6)


def test_the_deeper_tile_speaks() -> None:
    tiles = [(0, 0, 40, 10), (20, 0, 60, 10)]
    parts = [torch.zeros(10, 40, dtype=torch.uint8), torch.ones(10, 40, dtype=torch.uint8)]
    joined = join_labels(parts, tiles, (10, 60))
    assert joined[0].tolist() == [0] * 30 + [1] * 30
    blended = join_values([part.float() for part in parts], tiles, (10, 60))[0]
    assert (blended.diff() >= 0).all() and blended.diff().max() < 0.06, "no seam"
    assert blended[25] == pytest.approx((5.5 / 40) / (5.5 / 40 + 14.5 / 40))


def test_ends_of_the_image_are_no_ends_of_a_tile() -> None:
    assert depths((0, 0, 10, 10), (10, 10)).unique().tolist() == [1.0]
    corner = depths((0, 0, 10, 10), (20, 20))
    assert corner[0, 0] == pytest.approx(0.95) and corner[9, 9] == pytest.approx(0.05)


def test_scores_that_count_alike_are_averaged_plainly() -> None:
    tiles = [(0, 0, 40, 10), (20, 0, 60, 10)]
    ones = torch.ones(1, 10, 40)
    parts = [ClassScores(ones, (10, 40)), ClassScores(4 * ones, (10, 40))]
    (strip,) = mean_scores(parts, tiles, (10, 60), even=True)
    assert strip[0, 0].tolist() == [1.0] * 20 + [2.5] * 20 + [4.0] * 20


def test_scores_are_blended_without_a_seam() -> None:
    """Scores of tiles that are cut out of one map give the labels of that map; those that differ change over slowly."""
    rng = torch.Generator().manual_seed(1)
    scores = torch.rand(4, *SIZE, generator=rng)
    parts = [ClassScores(part, tuple(part.shape[1:])) for part in cut(scores)]
    assert torch.equal(join_scores(parts, TILES, SIZE), scores.argmax(0))
    tiles = [(0, 0, 40, 40), (20, 0, 60, 40)]
    slope = torch.linspace(0, 1, 40).expand(40, 40)
    sure, other = torch.stack([slope, 0 * slope + 0.4]), torch.stack([1 - slope, 0 * slope + 0.4])
    labels = join_scores([ClassScores(sure, (40, 40)), ClassScores(other, (40, 40))], tiles, (40, 60))
    assert (labels == labels[:1]).all() and int((labels[0].diff() != 0).sum()) == 2, "no edge where a tile ends"
