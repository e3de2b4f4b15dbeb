from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from eachmask.ops.segmentation_tree import Tree, best_coverage, best_cut, region_tree


def chain(num: int, seed: int) -> Tree:
    """Leaves in a row with borders of random strength."""
    rng = np.random.default_rng(seed)
    edges = np.array([(i, i + 1) for i in range(num - 1)])
    return region_tree(edges, rng.random(num - 1), np.ones(num - 1), num)


def cuts(tree: Tree, node: int) -> Iterator[list[int]]:
    """Every cut below a node."""
    yield [node]
    if node >= tree.num_leaves:
        a, b = tree.children[node - tree.num_leaves]
        for left in cuts(tree, int(a)):
            for right in cuts(tree, int(b)):
                yield left + right


def test_the_weakest_border_goes_first_and_borders_are_averaged():
    edges = np.array([[0, 1], [1, 2], [0, 2]])
    tree = region_tree(edges, np.array([0.1, 0.9, 0.5]), np.array([1.0, 1.0, 3.0]), 3)
    assert tree.children.tolist() == [[0, 1], [2, 3]]
    assert tree.leaves_of().tolist()[3:] == [[True, True, False], [True, True, True]]


@pytest.mark.parametrize("seed", range(6))
def test_the_best_cut_is_the_best_of_all(seed):
    tree = chain(7, seed)
    scores = np.random.default_rng(seed).normal(size=tree.num_nodes)
    found = best_cut(tree, scores)
    assert tree.leaves_of()[found].sum(0).tolist() == [1] * 7
    assert scores[found].sum() == pytest.approx(max(scores[cut].sum() for cut in cuts(tree, tree.num_nodes - 1)))


def coverage_of_cut(iou: np.ndarray, areas: np.ndarray, nodes: np.ndarray, weighted: bool = True) -> float:
    """Mean over the true regions of the best IoU with a chosen node, weighted by area or not."""
    best = iou[nodes].max(0, initial=0.0)
    return float(best @ areas / areas.sum()) if weighted else float(best.mean())


def test_true_regions_that_are_nodes_are_covered():
    tree = chain(6, 3)
    leaves = tree.leaves_of()
    inner = tree.children[-1]
    true = leaves[inner]
    iou = (leaves[:, None] & true).sum(2) / (leaves[:, None] | true).sum(2)
    areas = true.sum(1).astype(float)
    found = best_coverage(tree, iou, areas)
    assert coverage_of_cut(iou, areas, found) == coverage_of_cut(iou, areas, found, weighted=False) == 1
    assert coverage_of_cut(iou, areas, np.array([tree.num_nodes - 1])) < 1


def test_of_cuts_that_cover_equally_well_scores_decide():
    children = np.array([[0, 1], [2, 3], [4, 5]])  # leaves 2 and 3 are background
    tree = Tree(children, 4, np.zeros(3))
    iou, areas = np.array([[0.5], [0.5], [0], [0], [1], [0], [0.5]]), np.array([10.0])
    assert best_coverage(tree, iou, areas).tolist() == [4, 5]
    parts = np.array([9, 9, 1, 1, -9, -1, 9])
    assert best_coverage(tree, iou, areas, scores=parts).tolist() == [2, 3, 4]
    assert best_coverage(tree, iou, areas, scores=-parts).tolist() == [4, 5]


def test_leaves_that_do_not_touch_have_a_tree_each():
    tree = region_tree(np.zeros((0, 2), int), np.zeros(0), np.zeros(0), 3)
    assert best_cut(tree, np.ones(3)).tolist() == [0, 1, 2]
