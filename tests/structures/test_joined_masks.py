"""Masks of several collections: the same pixels as those of each, in any order and at any size."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from eachmask.structures import RLE, Masks, SoftMasks
from eachmask.structures.joined_masks import JoinedMasks


@pytest.fixture
def parts() -> list[Masks]:
    rng = np.random.default_rng(0)
    bitmaps = RLE.from_bitmaps(rng.random((3, 16, 24)) > 0.5)
    maps = torch.from_numpy(rng.random((2, 4, 6), np.float32))
    return [bitmaps, SoftMasks.from_maps(maps, (16, 24), (16, 24), 0.5), bitmaps[:0]]


def test_they_are_those_of_the_parts(parts: list[Masks]) -> None:
    joined, all_of_them = JoinedMasks.of(parts), Masks.cat(parts)
    for index in ([4, 0, 3, 0], slice(1, None, 2), np.array([True, False, False, True, False]), []):
        chosen = joined[index]
        assert len(chosen) == len(all_of_them[index]) and chosen.size == (16, 24)
        assert np.array_equal(chosen.to_label_map(), all_of_them[index].to_label_map())
        assert chosen.area().tolist() == all_of_them[index].area().tolist()


def test_each_part_is_resized_as_it_does_that(parts: list[Masks]) -> None:
    larger = JoinedMasks.of(parts)[[4, 1]].resize((32, 40))
    assert larger.size == (32, 40)
    alone = Masks.cat([parts[1].resize((32, 40))[[1]], parts[0].resize((32, 40))[[1]]])
    assert larger.to_rle().area().tolist() == alone.area().tolist()
    assert larger.iou(alone).diagonal().tolist() == [1.0, 1.0]


def test_only_what_is_asked_for_is_computed(parts: list[Masks], monkeypatch: pytest.MonkeyPatch) -> None:
    computed, own = [], SoftMasks.to_rle
    monkeypatch.setattr(SoftMasks, "to_rle", lambda self: computed.append(len(self)) or own(self))
    JoinedMasks.of(parts)[[3, 0, 3]].to_rle()
    assert computed == [1]


def test_canvases_must_be_the_same(parts: list[Masks]) -> None:
    with pytest.raises(ValueError, match="not of the same image"):
        JoinedMasks.of([parts[0], parts[1].resize((8, 8))])
    with pytest.raises(ValueError, match="nothing to join"):
        JoinedMasks.of([])
