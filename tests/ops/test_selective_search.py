"""The formulas of Uijlings et al. 2013 on examples small enough for a pencil, and what comes of them in a scene."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from eachmask.ops.selective_search import (
    FAST,
    SINGLE,
    Regions,
    Search,
    Strategy,
    describe,
    hierarchy,
    merge,
    neighbors,
    search_batch,
    selective_search,
    similarity,
    union,
)
from eachmask.structures import ImageBatch
from eachmask.structures import boxes as box_ops


def regions(color, texture, size, boxes) -> Regions:
    return Regions(*(np.array(v, np.float64) for v in (color, texture, size, boxes)))


A = regions([[0.5, 0.5, 0.0]], [[1.0, 0.0]], [4], [[0, 0, 2, 2]])
B = regions([[0.25, 0.25, 0.5]], [[0.3, 0.7]], [2], [[4, 0, 5, 2]])


def test_similarities_are_those_of_the_paper():
    # An image of 5 x 4: A is 2 x 2, B is 1 x 2, two columns of air between them.
    assert similarity(A, B, "C", 20)[0] == pytest.approx(0.25 + 0.25)  # eq. 1: what the histograms share
    assert similarity(A, B, "T", 20)[0] == pytest.approx(0.3)  # eq. 3
    assert similarity(A, B, "S", 20)[0] == pytest.approx(1 - 6 / 20)  # eq. 4
    assert similarity(A, B, "F", 20)[0] == pytest.approx(1 - (5 * 2 - 4 - 2) / 20)  # eq. 5
    assert similarity(A, B, "CTSF", 20)[0] == pytest.approx(0.5 + 0.3 + 0.7 + 0.8)  # eq. 6
    assert similarity(A, B, "", 20)[0] == 0


def test_histograms_of_a_union_are_weighted_by_size():
    both = union(A, B)
    assert both.size.tolist() == [6] and both.boxes.tolist() == [[0, 0, 5, 2]]
    assert both.color[0].tolist() == pytest.approx([(4 * 0.5 + 2 * 0.25) / 6] * 2 + [2 * 0.5 / 6])  # eq. 2
    assert both.texture[0].tolist() == pytest.approx([(4 + 0.6) / 6, 1.4 / 6])


def test_a_union_is_described_as_if_its_pixels_were_looked_at():
    rng = np.random.default_rng(0)
    image, labels = rng.random((12, 17, 3)), np.zeros((12, 17), np.int64)
    labels[3:8, 4:13] = 1
    labels[8:, 4:13] = 2
    parts, joined = describe(image, labels), describe(image, np.minimum(labels, 1))
    both = union(*(Regions(*(v[[i]] for v in parts)) for i in (1, 2)))
    for one, other in zip(both, joined, strict=True):
        assert np.allclose(one[0], other[1])
    assert parts.color.shape == (3, 75) and parts.texture.shape == (3, 240)  # the paper's dimensions
    assert np.allclose(parts.color.sum(1), 1) and np.allclose(parts.texture.sum(1), 1)


def test_neighbors_share_an_edge_or_a_corner():
    assert neighbors(np.array([[0, 0, 1], [2, 2, 3], [4, 4, 4]])).tolist() == [
        [0, 1], [0, 2], [0, 3], [1, 2], [1, 3], [2, 3], [2, 4], [3, 4]
    ]  # fmt: skip


def test_the_most_similar_neighbors_go_first():
    # A row of four equal squares; 0 and 1 are of one color, 2 and 3 of another.
    color = [[1, 0], [0.9, 0.1], [0.1, 0.9], [0, 1.0]]
    row = regions(color, [[1]] * 4, [1] * 4, [[i, 0, i + 1, 1] for i in range(4)])
    everything, parents = merge(row, np.array([[0, 1], [1, 2], [2, 3]]), "C", 4)
    assert parents.tolist() == [4, 4, 5, 5, 6, 6, 6]
    assert everything.boxes[4:].tolist() == [[0, 0, 2, 1], [2, 0, 4, 1], [0, 0, 4, 1]]


def scene(size=(96, 128)) -> tuple[np.ndarray, np.ndarray]:
    """A gray ground with noise, a red disc, a green and a blue-and-white box: (H, W, 3), label map."""
    rng = np.random.default_rng(0)
    image = 0.45 + rng.normal(0, 0.02, (*size, 3))
    label_map = np.zeros(size, np.int32)
    ys, xs = np.mgrid[: size[0], : size[1]]
    disc = (ys - 30) ** 2 + (xs - 30) ** 2 <= 15**2
    image[disc] += [0.4, -0.2, -0.2]
    label_map[disc] = 1
    image[20:50, 70:110] += [-0.2, 0.4, -0.2]
    label_map[20:50, 70:110] = 2
    image[60:90, 40:60] += [-0.3, -0.3, 0.4]
    image[60:90, 60:80] += 0.45
    label_map[60:90, 40:80] = 3
    return np.clip(image, 0, 1), label_map


def test_children_lie_within_their_parents():
    image, _ = scene()
    labels, found, parents = hierarchy(image, Strategy("rgb"), 20)
    num = int(labels.max()) + 1
    assert len(parents) == len(found.size) == 2 * num - 1
    children = np.arange(len(parents) - 1)
    assert (parents[children] > children).all() and found.size[-1] == labels.size
    assert (found.boxes[parents[children], :2] <= found.boxes[children, :2]).all()
    assert (found.boxes[parents[children], 2:] >= found.boxes[children, 2:]).all()
    assert np.bincount(parents[children]).max() == 2


@pytest.mark.parametrize("strategies", [SINGLE, FAST], ids=["one strategy", "eight"])
def test_finds_what_is_in_a_scene(strategies):
    image, label_map = scene()
    found = selective_search(image, strategies)
    assert len(found.boxes) == len(found.regions) < 2000
    from eachmask.structures import RLE

    gt = RLE.from_label_map(label_map)
    best = box_ops.iou(torch.from_numpy(gt.boxes()), found.boxes).max(1).values
    assert (best > 0.8).all(), best
    assert (gt.iou(found.regions).max(1) > 0.8).all()
    assert np.array_equal(found.regions.boxes(), found.boxes.numpy())
    assert len(np.unique(found.boxes.numpy(), axis=0)) == len(found.boxes)
    again = selective_search(image, strategies)
    assert torch.equal(again.boxes, found.boxes)
    few = selective_search(image, strategies, most=5)
    assert torch.equal(few.boxes, found.boxes[:5])


def test_batches_are_searched_in_pixels_of_the_batch():
    image, _ = scene()
    search = Search(SINGLE, side=500)
    mean, std = torch.tensor(search.mean), torch.tensor(search.std)
    tensor = ((torch.from_numpy(image).float() - mean) / std).permute(2, 0, 1)
    batch = ImageBatch.from_tensors([tensor, torch.zeros(3, 1, 1), torch.zeros(3, 40, 2)], 32)
    found, dot, line = search_batch(batch, search)
    assert torch.equal(found.boxes, selective_search(image, SINGLE).boxes)
    assert dot.boxes.tolist() == [[0, 0, 1, 1]] and line.boxes.tolist() == [[0, 0, 2, 40]]
    (small, *_) = search_batch(batch, Search(SINGLE, side=64))
    assert small.regions.size == (48, 64)
    assert small.boxes[:, 2].max() == 128 and small.boxes[:, 3].max() == 96
    iou = box_ops.iou(torch.tensor([[15.0, 15, 46, 46], [70, 20, 110, 50], [40, 60, 80, 90]]), small.boxes)
    assert (iou.max(1).values > 0.7).all()
