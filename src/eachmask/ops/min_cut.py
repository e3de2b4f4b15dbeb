"""Two labels for every pixel of an image at the least energy: a minimum cut.

Boykov, Jolly: "Interactive Graph Cuts for Optimal Boundary and Region Segmentation of Objects in N-D Images", ICCV
2001. What an energy of unary terms and of penalties for neighbors with different labels costs at its minimum is the
maximum flow through a graph (Greig, Porteous, Seheult, 1989), and scipy finds that.

Shapes: N pixels, E pairs of neighbors.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

SCALE = 1000
"""Whole numbers in which one unit of energy is counted."""
MAX_CAPACITY = 2**24
"""Of one link, in whole numbers: what must not be cut."""


class Cut(NamedTuple):
    """A minimum cut."""

    source_side: NDArray[np.bool_]  # (N,) the smallest set of pixels on the source's side
    flow: int  # its cost


def min_cut(source: NDArray[Any], sink: NDArray[Any], edges: NDArray[Any], capacity: NDArray[Any]) -> Cut:
    """The cheapest way to part source and sink.

    Args:
        source, sink: (N,) whole capacities from the source to each pixel, and from each to the sink.
        edges: (E, 2) pairs of pixels, each at most once; capacity: (E,) whole, in both directions.

    >>> cut = min_cut(np.array([9, 0]), np.array([0, 9]), np.array([[0, 1]]), np.array([2]))
    >>> cut.source_side.tolist(), cut.flow
    ([True, False], 2)
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import breadth_first_order, maximum_flow

    num = len(source)
    pixels = np.arange(num)
    starts = np.concatenate([np.full(num, num), pixels, edges[:, 0], edges[:, 1]])
    ends = np.concatenate([pixels, np.full(num, num + 1), edges[:, 1], edges[:, 0]])
    values = np.concatenate([source, sink, capacity, capacity]).astype(np.int32)
    graph = coo_matrix((values, (starts, ends)), shape=(num + 2, num + 2)).tocsr()
    found = maximum_flow(graph, num, num + 1)
    left = graph - found.flow
    left.data = np.maximum(left.data, 0)
    left.eliminate_zeros()
    reached = breadth_first_order(left, num, return_predecessors=False)
    side = np.zeros(num + 2, bool)
    side[reached] = True
    return Cut(side[:num], int(found.flow_value))


def grid_edges(size: tuple[int, int]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Pairs (E, 2) of the 8-neighbors of a grid (height, width), numbered row by row, and their distances (E,).

    >>> edges, lengths = grid_edges((2, 2))
    >>> edges.tolist(), lengths.round(2).tolist()
    ([[0, 1], [2, 3], [0, 2], [1, 3], [0, 3], [1, 2]], [1.0, 1.0, 1.0, 1.0, 1.41, 1.41])
    """
    numbers = np.arange(size[0] * size[1]).reshape(size)
    pairs = [
        (numbers[:, :-1], numbers[:, 1:], 1.0),
        (numbers[:-1], numbers[1:], 1.0),
        (numbers[:-1, :-1], numbers[1:, 1:], 2**0.5),
        (numbers[:-1, 1:], numbers[1:, :-1], 2**0.5),
    ]
    edges = np.concatenate([np.stack([a.ravel(), b.ravel()], 1) for a, b, _ in pairs])
    return edges, np.concatenate([np.full(a.size, distance) for a, _, distance in pairs])


def energy(labels: NDArray[np.bool_], costs: NDArray[Any], edges: NDArray[np.int64], penalties: NDArray[Any]) -> float:
    """Of a labeling (N,): its pixels' costs (N, 2), and the penalties (E,) of neighbors that have different labels.

    >>> costs = np.array([[0.0, 1.0], [3.0, 0.0]])
    >>> energy(np.array([False, True]), costs, np.array([[0, 1]]), np.array([0.5]))
    0.5
    """
    own = costs[np.arange(len(labels)), labels.astype(int)].sum()
    return float(own + penalties[labels[edges[:, 0]] != labels[edges[:, 1]]].sum())


def cheapest_labels(costs: NDArray[Any], edges: NDArray[np.int64], penalties: NDArray[Any]) -> NDArray[np.bool_]:
    """(N,) the labeling of the least :func:`energy`, to a thousandth of a unit for each term; infinite costs forbid.

    Args:
        costs: (N, 2) of False and of True; penalties: (E,) not negative.

    >>> costs = np.array([[0.0, 9.0], [1.0, 0.8], [9.0, 0.0]])  # the middle pixel does not care
    >>> cheapest_labels(costs, np.array([[0, 1], [1, 2]]), np.array([2.0, 0.1])).tolist()
    [False, False, True]
    """
    least = np.minimum(costs[:, 0], costs[:, 1])[:, None]
    whole = np.minimum(np.rint((costs - least) * SCALE), MAX_CAPACITY)
    cut = min_cut(whole[:, 0], whole[:, 1], edges, np.minimum(np.rint(penalties * SCALE), MAX_CAPACITY))
    return cut.source_side
