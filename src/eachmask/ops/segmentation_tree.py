"""A tree of regions, and the best cut through it.

Silberman, Sontag, Fergus: "Instance Segmentation of Indoor Scenes Using a Coverage Loss", ECCV 2014. Regions merge in
the order of the weakest border between them; a segmentation is a set of nodes that together hold every leaf once. Where
the score of a segmentation is the sum of its nodes' scores, the best one is found from the leaves upwards.

Shapes: N leaves, N - 1 merges, (2 N - 1) nodes; leaves come first, then merges in their order.
"""

from __future__ import annotations

import heapq
from typing import NamedTuple

import numpy as np

TIE_BREAK = 1e-9
"""Sum of all scores where coverage decides: less than any pixel's share of it."""


class Tree(NamedTuple):
    """Of connected leaves; several trees where they are not connected.

    >>> tree = region_tree(np.array([[0, 1], [1, 2]]), np.array([0.1, 0.9]), np.array([1.0, 1.0]), 3)
    >>> tree.num_nodes, tree.leaves_of()[3].tolist()
    (5, [True, True, False])
    """

    children: np.ndarray  # (merges, 2) nodes; the i-th merge makes the node N + i
    num_leaves: int
    strengths: np.ndarray  # (merges,) mean strength of the border that a merge gave up

    @property
    def num_nodes(self) -> int:
        """Leaves and merges."""
        return self.num_leaves + len(self.children)

    def leaves_of(self) -> np.ndarray:
        """(nodes, N) bool: which leaves every node holds."""
        result = np.zeros((self.num_nodes, self.num_leaves), bool)
        result[: self.num_leaves] = np.eye(self.num_leaves, dtype=bool)
        for i, (a, b) in enumerate(self.children):
            result[self.num_leaves + i] = result[a] | result[b]
        return result


def region_tree(edges: np.ndarray, strengths: np.ndarray, lengths: np.ndarray, num_leaves: int) -> Tree:
    """Merge the two regions with the weakest mean border, again and again.

    Args:
        edges: (M, 2) leaves that touch, each pair once; strengths: (M,) mean of the border; lengths: (M,) px of it.

    >>> tree = region_tree(np.array([[0, 1], [1, 2]]), np.array([0.1, 0.9]), np.array([1.0, 1.0]), 3)
    >>> tree.children.tolist(), tree.strengths.tolist()  # 3 is of 0 and 1, 4 of 3 and 2
    ([[0, 1], [2, 3]], [0.1, 0.9])
    """
    borders: dict[int, dict[int, tuple[float, float]]] = {i: {} for i in range(num_leaves)}
    for (a, b), strength, length in zip(edges.tolist(), strengths.tolist(), lengths.tolist(), strict=True):
        borders[a][b] = borders[b][a] = (strength * length, length)
    children: list[tuple[int, int]] = []
    given_up: list[float] = []
    heap = [(total / length, a, b) for a, near in borders.items() for b, (total, length) in near.items() if a < b]
    heapq.heapify(heap)
    while heap:
        strength, a, b = heapq.heappop(heap)
        if a not in borders or b not in borders:
            continue  # one of them has merged with another
        new = num_leaves + len(children)
        children.append((a, b))
        given_up.append(strength)
        around: dict[int, tuple[float, float]] = {}
        for old in (a, b):
            for other, (total, length) in borders.pop(old).items():
                borders.get(other, {}).pop(old, None)
                if other not in (a, b):
                    before = around.get(other, (0.0, 0.0))
                    around[other] = (before[0] + total, before[1] + length)
        borders[new] = around
        for other, border in around.items():
            borders[other][new] = border
            heapq.heappush(heap, (border[0] / border[1], other, new))
    return Tree(np.array(children, np.int64).reshape(-1, 2), num_leaves, np.array(given_up, np.float64))


def best_cut(tree: Tree, scores: np.ndarray) -> np.ndarray:
    """(K,) nodes, ascending, that hold every leaf once and whose scores have the largest sum.

    A node is kept whole where its score is at least the best of the two below it.

    Args:
        scores: (nodes,).

    >>> tree = region_tree(np.array([[0, 1], [1, 2]]), np.array([0.1, 0.9]), np.array([1.0, 1.0]), 3)
    >>> best_cut(tree, np.array([0.1, 0.1, 0.5, 0.9, 0.2])).tolist()
    [2, 3]
    """
    best = np.asarray(scores, np.float64).copy()
    whole = np.ones(tree.num_nodes, bool)
    for i, (a, b) in enumerate(tree.children):
        node = tree.num_leaves + i
        if best[a] + best[b] > best[node]:
            best[node], whole[node] = best[a] + best[b], False
    stack = sorted(set(range(tree.num_nodes)) - set(tree.children.ravel().tolist()))
    chosen = []
    while stack:
        node = stack.pop()
        if whole[node]:
            chosen.append(node)
        else:
            stack += tree.children[node - tree.num_leaves].tolist()
    return np.array(sorted(chosen), np.int64)


def best_coverage(
    tree: Tree, iou: np.ndarray, areas: np.ndarray, weighted: bool = True, scores: np.ndarray | None = None
) -> np.ndarray:
    """(K,) nodes of a cut with a large coverage: the target that a learner of cuts may reach for.

    It is the lower bound of :func:`coverage_of_nodes` that is largest. Many cuts share it, as they differ in the
    background alone.

    Args:
        scores: (nodes,) decide between these: the cut with the largest sum; None: the one of fewest nodes.

    >>> tree = region_tree(np.array([[0, 1], [1, 2]]), np.array([0.1, 0.9]), np.array([1.0, 1.0]), 3)
    >>> iou = np.array([[0.5], [0.5], [0.0], [1.0], [0.7]])  # of every node with the one true region
    >>> best_coverage(tree, iou, np.array([20.0])).tolist()
    [2, 3]
    """
    gains = coverage_of_nodes(iou, areas, weighted)
    if scores is not None:
        gains = gains + scores * (TIE_BREAK / max(float(np.abs(scores).sum()), 1.0))
    return best_cut(tree, gains)


def coverage_of_nodes(iou: np.ndarray, areas: np.ndarray, weighted: bool = True) -> np.ndarray:
    """(nodes,) what each contributes to a lower bound of a cut's coverage: the bound is the sum over the cut.

    Every true region is given to the node with the largest IoU, and counts for it alone.

    Args:
        iou: (nodes, G); areas: (G,) px.

    >>> iou = np.array([[0.5, 0.0], [0.9, 0.3]])
    >>> coverage_of_nodes(iou, np.array([30.0, 10.0])).round(2).tolist()
    [0.0, 0.75]
    """
    shares = areas / areas.sum() if weighted else np.full(len(areas), 1 / max(len(areas), 1))
    owner = iou.argmax(0)
    result = np.zeros(len(iou))
    np.add.at(result, owner, iou[owner, np.arange(len(owner))] * shares)
    return result
