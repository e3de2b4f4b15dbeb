"""Labels of any size out of coarse scores."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from eachmask.structures import SemanticMap
from eachmask.structures.class_scores import ClassScores


@pytest.mark.parametrize("grid", [(7, 9), (1, 1), (2, 1), (12, 5)])
@pytest.mark.parametrize("size", [(56, 72), (31, 17), (5, 7), (1, 1)])
def test_labels_are_those_of_interpolated_scores(grid, size):
    torch.manual_seed(0)
    scores = torch.randn(6, *grid)
    found = ClassScores(scores, grid)
    full = F.interpolate(scores[None], size=size, mode="bilinear", align_corners=False)[0]
    assert torch.allclose(found.rows(0, size[0], size), full, atol=1e-5)
    wrong = found.labels(size) != full.argmax(0)
    ties = full.topk(2, 0).values.diff(dim=0)[0].abs() < 1e-5
    assert not (wrong & ~ties).any()


def test_padding_is_left_out():
    torch.manual_seed(0)
    scores = torch.randn(3, 8, 8)
    full = F.interpolate(scores[None], size=(64, 64), mode="bilinear", align_corners=False)[0].argmax(0)
    found = ClassScores(scores, (8 * 40 / 64, 8 * 50 / 64)).labels((40, 50))
    assert float((found != full[:40, :50]).float().mean()) < 1e-3


def test_a_map_is_resized_by_its_scores_and_else_lets_go_of_them():
    scores = ClassScores(torch.tensor([[[1.0, 0.0]], [[0.0, 1.5]]]), (1, 2))
    seen = SemanticMap(scores.labels((1, 2)), scores=scores)
    wide = seen.resize((1, 80))
    assert int(wide.labels.sum()) == 44, "nearest would change in the middle, at 40"
    assert wide.resize((1, 2)).labels.tolist() == seen.labels.tolist() and wide.scores is not None
    assert seen.flip().scores is None and seen.crop((0, 0, 1, 1)).scores is None
    assert seen.to("cpu").scores is not None


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("size", [(17, 23), (61, 80), (40, 52)])
def test_interpolated_twice(aligned, size, monkeypatch):
    monkeypatch.setattr("eachmask.structures.class_scores.CHUNK_SIZE", 2000)  # several strips
    grid = torch.randn(5, 6, 8, generator=torch.Generator().manual_seed(3))
    padded, seen = (48, 64), (40, 52)
    extent = tuple((s - aligned) * (c - aligned) / (p - aligned) for s, c, p in zip(seen, (6, 8), padded, strict=True))
    whole = F.interpolate(grid[None], size=padded, mode="bilinear", align_corners=aligned)[..., :40, :52]
    expected = F.interpolate(whole, size=size, mode="bilinear", align_corners=aligned)[0]
    scores = ClassScores(grid, extent, aligned, seen)
    assert torch.allclose(scores.rows(0, size[0], size), expected, atol=1e-5)
    assert torch.equal(scores.labels(size), expected.argmax(0))
