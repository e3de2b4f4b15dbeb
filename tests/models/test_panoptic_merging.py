"""How Panoptic FPN and Panoptic-DeepLab make one map of their parts, against loops over pixels on random parts."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from eachmask import models
from eachmask.models.panoptic.panoptic_fpn import MergeConfig, merge_things_and_stuff
from eachmask.structures import RLE, DecodeOptions, Instances
from eachmask.structures.class_scores import ClassScores

SIZE = (18, 24)
THINGS, STUFF = (1, 3, 4), (0, 2)


def boxes_of(rng: np.random.Generator, number: int) -> np.ndarray:
    """(N, H, W) rectangles that overlap."""
    masks = np.zeros((number, *SIZE), bool)
    for mask in masks:
        y, x = rng.integers(0, SIZE[0] - 5), rng.integers(0, SIZE[1] - 5)
        mask[y : y + rng.integers(3, 9), x : x + rng.integers(3, 11)] = True
    return masks


def plain_merge(masks, scores, labels, regions, config) -> tuple[list[tuple[int, float | None]], list[frozenset]]:
    """(label, score) and pixels of each segment, in the order in which they are made."""
    sets = [frozenset(zip(*map(tuple, np.nonzero(mask)), strict=True)) for mask in masks]
    taken: set[tuple[int, int]] = set()
    facts, places = [], []
    for i in sorted(range(len(sets)), key=lambda i: -scores[i]):
        if len(sets[i] & taken) <= config.overlap_threshold * len(sets[i]):
            facts.append((THINGS[labels[i]], float(scores[i])))
            places.append(sets[i] - taken)
            taken |= sets[i]
    for number, label in enumerate(STUFF, start=1):
        left = frozenset(zip(*map(tuple, np.nonzero(regions == number)), strict=True)) - taken
        if len(left) >= config.stuff_area:
            facts.append((label, None))
            places.append(left)
    return facts, places


@pytest.mark.parametrize("seed", range(12))
def test_panoptic_fpn_gives_pixels_to_the_surer_object_and_the_rest_to_stuff(seed):
    rng = np.random.default_rng(seed)
    config = MergeConfig(overlap_threshold=float(rng.choice([0.3, 0.5, 0.8])), stuff_area=int(rng.choice([1, 60, 150])))
    masks, labels = boxes_of(rng, 9), rng.integers(0, len(THINGS), 9)
    scores = rng.permutation(np.linspace(0.5, 0.95, 9)).astype(np.float32)
    regions = np.kron(rng.integers(0, 3, (3, 4)), np.ones((6, 6), int))
    rle = RLE.from_bitmaps(masks)
    objects = Instances(
        SIZE, torch.from_numpy(rle.boxes()), rle, labels=torch.from_numpy(labels), scores=torch.from_numpy(scores)
    )
    found = merge_things_and_stuff(objects, torch.from_numpy(regions), THINGS, STUFF, config)
    facts, places = plain_merge(masks, scores, labels, regions, config)
    assert [(s.label, s.score) for s in found.segments] == facts
    ids = found.ids.numpy()
    assert [frozenset(zip(*map(tuple, np.nonzero(ids == s.id)), strict=True)) for s in found.segments] == places
    assert int((ids > 0).sum()) == sum(map(len, places))


def plain_groups(labels, heat, offsets, group, stuff) -> set[tuple[int, frozenset]]:
    """(class, pixels) of each segment: every pixel of a thing goes to the center that is nearest to where it points."""
    height, width = heat.shape
    half = group.window // 2
    centers = []
    for y in range(height):
        for x in range(width):
            around = heat[max(0, y - half) : y + half + 1, max(0, x - half) : x + half + 1]
            if heat[y, x] > group.center_threshold and heat[y, x] >= around.max():
                centers.append((y, x))
    members: dict[int, set[tuple[int, int]]] = {}
    rest: dict[int, set[tuple[int, int]]] = {}
    for y in range(height):
        for x in range(width):
            if labels[y, x] in stuff:
                rest.setdefault(int(labels[y, x]), set()).add((y, x))
            elif centers:
                a, b = y + offsets[0, y, x], x + offsets[1, y, x]
                distance = [(a - cy) ** 2 + (b - cx) ** 2 for cy, cx in centers]
                members.setdefault(int(np.argmin(distance)), set()).add((y, x))
    found = {(label, frozenset(own)) for label, own in rest.items() if len(own) >= group.stuff_area}
    for own in members.values():
        votes = Counter(int(labels[place]) for place in own)
        found.add((min(votes, key=lambda k: (-votes[k], k)), frozenset(own)))
    return found


@pytest.mark.parametrize("seed", range(8))
def test_panoptic_deeplab_groups_pixels_by_where_they_point(seed):
    rng = np.random.default_rng(100 + seed)
    model = models.panoptic_deeplab_mobilenet_v3_large(
        5, stuff=STUFF, group={"stuff_area": 70, "window": 5, "center_threshold": 0.4, "top_k": 200}
    )
    labels = np.kron(rng.integers(0, 5, (3, 4)), np.ones((6, 6), int))
    logits = torch.from_numpy(np.eye(5)[labels] * 4.0).float().movedim(-1, 0)
    heat = rng.permutation(SIZE[0] * SIZE[1]).reshape(SIZE) / (SIZE[0] * SIZE[1])
    if seed == 0:
        heat = heat * 0.3  # no center at all: things are of no segment
    offsets = rng.normal(0, 3, (2, *SIZE))
    found = model.grouped(
        ClassScores(logits, SIZE), torch.from_numpy(heat).float(), torch.from_numpy(offsets), DecodeOptions()
    )
    ids = found.ids.numpy()
    own = {(s.label, frozenset(zip(*map(tuple, np.nonzero(ids == s.id)), strict=True))) for s in found.segments}
    expected = plain_groups(labels, heat, offsets, model.config.group, STUFF)
    assert own == expected and (len(expected) > 10 or seed == 0)
