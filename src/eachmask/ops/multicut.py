"""Multicut: a partition of a graph's nodes that cuts repulsive edges and keeps attractive ones.

The energy is the sum of the weights of the edges that are cut; positive weights attract. The number of parts comes out
of it. It is minimized by greedy additive edge contraction (GAEC), then by Kernighan and Lin's moves between neighboring
parts, with joins and splits (Keuper et al.: "Efficient Decomposition of Image and Mesh Graphs by Lifted Multicuts",
ICCV 2015, algorithms 1 and 2). On small graphs :func:`optimal_multicut` tries every partition.

Shapes: N nodes, M edges.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator

import numpy as np

EPSILON = 1e-6
"""Least gain that is worth a move."""

MAX_ROUNDS = 100
MAX_NODES_RESTARTED = 400
"""In larger graphs one descent is enough: a little of the energy for much of the time."""

Neighbors = list[dict[int, float]]
"""Of each node: neighbor -> weight of the edge; parallel edges are added up."""


def multicut_energy(edges: np.ndarray, weights: np.ndarray, labels: np.ndarray) -> float:
    """Sum of the weights between different parts.

    Args:
        edges: (M, 2) nodes; weights: (M,); labels: (N,) part of each node.

    >>> multicut_energy(np.array([[0, 1], [1, 2]]), np.array([2.0, -1.0]), np.array([0, 0, 1]))
    -1.0
    """
    return float(weights[labels[edges[:, 0]] != labels[edges[:, 1]]].sum())


def multicut(edges: np.ndarray, weights: np.ndarray, num_nodes: int, restarts: int = 8, seed: int = 0) -> np.ndarray:
    """(N,) parts 0, 1 ...: the best of several descents; up to eight nodes, the optimum.

    Args:
        edges: (M, 2) nodes; weights: (M,), positive ones attract.
        restarts: contractions with disturbed weights, in graphs of at most ``MAX_NODES_RESTARTED`` nodes; each is
            improved with the true weights.
        seed: of the disturbances.

    >>> edges = np.array([[0, 1], [1, 2], [0, 2]])
    >>> multicut(edges, np.array([2.0, -1.0, -1.0]), 3).tolist()
    [0, 0, 1]
    """
    if num_nodes <= 8 and len(weights):
        return optimal_multicut(edges, weights, num_nodes)
    starts = [contract_edges(edges, weights, num_nodes)]
    if num_nodes <= MAX_NODES_RESTARTED and len(weights):
        rng = np.random.default_rng(seed)
        noise = rng.normal(0, 0.3 * float(np.abs(weights).mean()), (restarts, len(weights)))
        starts += [contract_edges(edges, weights + some, num_nodes) for some in noise]
    results = [_moves(edges, weights, start, MAX_ROUNDS) for start in starts]
    best = min(results, key=lambda labels: multicut_energy(edges, weights, labels))
    return kernighan_lin(edges, weights, best)


def neighbors_of(edges: np.ndarray, weights: np.ndarray, num_nodes: int) -> Neighbors:
    """The graph as one mapping per node.

    >>> neighbors_of(np.array([[0, 1], [1, 0], [1, 2]]), np.array([1.0, 0.5, -1.0]), 3)
    [{1: 1.5}, {0: 1.5, 2: -1.0}, {1: -1.0}]
    """
    result: Neighbors = [{} for _ in range(num_nodes)]
    for (a, b), weight in zip(edges.tolist(), weights.tolist(), strict=True):
        if a != b:
            result[a][b] = result[b][a] = result[a].get(b, 0.0) + weight
    return result


def contract_edges(edges: np.ndarray, weights: np.ndarray, num_nodes: int) -> np.ndarray:
    """GAEC: the edge of largest weight is contracted while it is not negative; parallel edges are added up.

    Returns:
        (N,) parts 0, 1 ...

    >>> contract_edges(np.array([[0, 1], [1, 2], [0, 2]]), np.array([2.0, -1.0, -1.0]), 3).tolist()
    [0, 0, 1]
    """
    graph, parent = neighbors_of(edges, weights, num_nodes), np.arange(num_nodes)
    heap = [(-weight, a, b) for a in range(num_nodes) for b, weight in graph[a].items() if a < b and weight >= 0]
    heapq.heapify(heap)
    while heap:
        negative, a, b = heapq.heappop(heap)
        if graph[a].get(b) != -negative:
            continue  # one of them is gone, or the weight is another one by now
        if len(graph[a]) < len(graph[b]):
            a, b = b, a
        parent[b] = a
        del graph[a][b]
        for c, weight in graph[b].items():
            if c == a:
                continue
            del graph[c][b]
            total = graph[a].get(c, 0.0) + weight
            graph[a][c] = graph[c][a] = total
            if total >= 0:
                heapq.heappush(heap, (-total, a, c))
        graph[b] = {}
    while not np.array_equal(parent, parent[parent]):
        parent = parent[parent]
    return _numbered(parent)


def kernighan_lin(
    edges: np.ndarray, weights: np.ndarray, labels: np.ndarray, max_rounds: int = MAX_ROUNDS
) -> np.ndarray:
    """Moves of nodes between parts that touch, joins of two parts and splits of one, until nothing gains.

    In graphs of at most ``MAX_NODES_RESTARTED`` nodes the contraction is a second start, and parts are solved anew
    together with their neighbors.

    Args:
        labels: (N,) parts to begin with.

    Returns:
        (N,) parts; their energy is never above that of the given ones.

    >>> edges = np.array([[0, 1], [1, 2], [0, 2]])
    >>> kernighan_lin(edges, np.array([2.0, -1.0, -1.0]), np.array([0, 1, 1])).tolist()  # from a bad start
    [0, 0, 1]
    """
    start = _numbered(labels)
    moved = _moves(edges, weights, start, max_rounds)
    if len(labels) > MAX_NODES_RESTARTED:
        return moved
    other = _moves(edges, weights, contract_edges(edges, weights, len(labels)), max_rounds)
    best = min((moved, other), key=lambda parts: multicut_energy(edges, weights, parts))
    return _solve_neighborhoods(edges, weights, best, max_rounds)


def _moves(edges: np.ndarray, weights: np.ndarray, labels: np.ndarray, max_rounds: int) -> np.ndarray:
    """Pairs of parts are looked at until nothing gains; those that did not change since are left out."""
    graph, parts = neighbors_of(edges, weights, len(labels)), _numbered(labels).tolist()
    groups: dict[int, list[int]] = {}
    for node, part in enumerate(parts):
        groups.setdefault(part, []).append(node)
    fresh, changed = len(groups), set(groups)
    for _ in range(max_rounds):
        pairs = [pair for pair in sorted(_touching(graph, parts)) if not changed.isdisjoint(pair)]
        splits = [(part, -1) for part in sorted(changed & set(groups))]
        changed = set()
        for first, second in [*pairs, *splits]:
            if first not in groups or (second >= 0 and second not in groups):
                continue
            target = fresh if second < 0 else second
            if _improve_pair(graph, parts, groups, first, target) > 0:
                changed |= {first, target}
                fresh += second < 0
        if not changed:
            break
    return _numbered(np.array(parts, np.int64))


def _solve_neighborhoods(edges: np.ndarray, weights: np.ndarray, labels: np.ndarray, max_rounds: int) -> np.ndarray:
    """Every part is solved anew together with those around it, from single nodes; what is better stays."""
    for _ in range(max_rounds):
        before = multicut_energy(edges, weights, labels)
        for part in np.unique(labels):
            ends = labels[edges]
            around = np.unique(ends[(ends == part).any(1)]) if len(ends) else labels[:0]
            nodes = np.flatnonzero(np.isin(labels, around))
            within = np.isin(edges, nodes).all(1)
            some, cost = np.searchsorted(nodes, edges[within]), weights[within]
            if len(nodes) < 2:
                continue
            changed = labels.copy()
            changed[nodes] = labels.max() + 1 + _moves(some, cost, np.arange(len(nodes)), max_rounds)
            if multicut_energy(edges, weights, changed) < multicut_energy(edges, weights, labels) - EPSILON:
                labels = _moves(edges, weights, changed, max_rounds)
        if multicut_energy(edges, weights, labels) >= before - EPSILON:
            break
    return labels


def _touching(graph: Neighbors, parts: list[int]) -> set[tuple[int, int]]:
    pairs = ((parts[a], parts[b]) for a, around in enumerate(graph) for b in around)
    return {(p, q) for p, q in pairs if p < q}


def _improve_pair(graph: Neighbors, parts: list[int], groups: dict[int, list[int]], first: int, second: int) -> float:
    """The best prefix of a sequence of single moves between two parts, or their join; what it gains.

    The second part may be empty: the first one is then split.
    """
    nodes = groups[first] + groups.get(second, [])
    if len(nodes) < 2:
        return 0.0
    own = set(nodes)
    gains = {node: _gain_of_moving(graph, parts, node, own) for node in nodes}
    between = sum(w for a in groups[first] for b, w in graph[a].items() if b in own and parts[b] == second)
    moved, total, best, best_length = [], 0.0, 0.0, 0
    side = {node: parts[node] for node in nodes}
    while gains:
        node = max(gains, key=gains.__getitem__)
        total += gains.pop(node)
        moved.append(node)
        for other, weight in graph[node].items():
            if other in gains:
                gains[other] += 2 * weight if side[other] == side[node] else -2 * weight
        side[node] = second if side[node] == first else first
        if total > best + EPSILON:
            best, best_length = total, len(moved)
    if max(best, between) <= EPSILON:
        return 0.0
    if between > best + EPSILON:
        for node in groups.pop(second):
            parts[node] = first
        groups[first] = nodes
        return between
    for node in moved[:best_length]:
        parts[node] = second if parts[node] == first else first
    for part in (first, second):
        groups[part] = [node for node in nodes if parts[node] == part]
        if not groups[part]:
            del groups[part]
    return best


def _gain_of_moving(graph: Neighbors, parts: list[int], node: int, own: set[int]) -> float:
    """Weights to the other part minus weights to its own: what the energy loses when the node changes sides."""
    return sum(w if parts[b] != parts[node] else -w for b, w in graph[node].items() if b in own)


def optimal_multicut(edges: np.ndarray, weights: np.ndarray, num_nodes: int) -> np.ndarray:
    """(N,) parts of least energy, by trying all of them.

    Raises:
        ValueError: there are more than 10 nodes (115,975 partitions).

    >>> optimal_multicut(np.array([[0, 1], [1, 2]]), np.array([2.0, -1.0]), 3).tolist()
    [0, 0, 1]
    """
    if num_nodes > 10:
        raise ValueError(f"{num_nodes} nodes have too many partitions: use multicut")
    every = np.array(list(_partitions(num_nodes)))
    cut = every[:, edges[:, 0]] != every[:, edges[:, 1]]
    best: np.ndarray = every[(cut @ weights).argmin()]
    return best


def _partitions(num: int) -> Iterator[list[int]]:
    """Every way to number nodes so that a new number is one more than the largest before."""

    def extend(labels: list[int], largest: int) -> Iterator[list[int]]:
        if len(labels) == num:
            yield labels
            return
        for label in range(largest + 2):
            yield from extend([*labels, label], max(largest, label))

    return extend([], -1)


def _numbered(labels: np.ndarray) -> np.ndarray:
    """The same parts, numbered from 0 without gaps."""
    result: np.ndarray = np.unique(labels, return_inverse=True)[1].reshape(-1).astype(np.int64)
    return result
