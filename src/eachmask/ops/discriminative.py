"""The discriminative loss: pixels of one object are pulled together, objects are pushed apart.

De Brabandere, Neven, Van Gool: "Semantic Instance Segmentation with a Discriminative Loss Function", CVPR workshops
2017, arXiv 1708.02551, eq. 1-4.

Shapes: P pixels of one image, D dimensions of the embedding, K objects.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor


class Terms(NamedTuple):
    """Scalars of one image; 0 where there are no objects."""

    pull: Tensor
    push: Tensor
    regularization: Tensor


def discriminative_terms(
    embedding: Tensor,
    ids: Tensor,
    delta_pull: float = 0.5,
    delta_push: float = 1.5,
    norm: float = 2,
    average: Literal["objects", "pixels"] = "objects",
) -> Terms:
    """The three terms of one image and one class.

    With m the mean of an object's embeddings: pull is ``max(0, |m - x| - delta_pull)^2``, push
    ``max(0, 2 delta_push - |m - m'|)^2`` over ordered pairs of objects, regularization ``|m|``.

    Args:
        embedding: (P, D).
        ids: (P,) 1..K of the pixel's object, 0 takes no part.
        delta_pull: within this distance of the mean nothing pulls.
        delta_push: means farther apart than twice this are not pushed.
        norm: p of the vector norm.
        average: pull is averaged within objects first (the paper) or over all pixels of objects at once.

    >>> embedding = torch.tensor([[0.0], [2.0], [10.0], [10.0]])
    >>> terms = discriminative_terms(embedding, torch.tensor([1, 1, 2, 2]))
    >>> [float(term) for term in terms]  # the first object is too wide, the two are far enough apart
    [0.125, 0.0, 5.5]
    """
    own = ids > 0
    points = embedding[own]
    _, index = torch.unique(ids[own], return_inverse=True)
    num = int(index.max()) + 1 if len(index) else 0
    if not num:
        zero = embedding.sum() * 0
        return Terms(zero, zero, zero)
    areas = torch.bincount(index, minlength=num).to(points.dtype)
    means = points.new_zeros(num, points.shape[1]).index_add(0, index, points) / areas[:, None]
    distance = torch.linalg.vector_norm(points - means[index], ord=norm, dim=1)
    pulled = (distance - delta_pull).clamp(min=0) ** 2
    if average == "objects":
        pull = (points.new_zeros(num).index_add(0, index, pulled) / areas).mean()
    else:
        pull = pulled.mean()
    return Terms(pull, _push(means, delta_push, norm), torch.linalg.vector_norm(means, ord=norm, dim=1).mean())


def _push(means: Tensor, delta_push: float, norm: float) -> Tensor:
    first, second = torch.triu_indices(len(means), len(means), 1, device=means.device)
    if not len(first):
        return means.sum() * 0
    apart = torch.linalg.vector_norm(means[first] - means[second], ord=norm, dim=1)
    result: Tensor = ((2 * delta_push - apart).clamp(min=0) ** 2).mean()
    return result


def greedy_clusters(points: np.ndarray, radius: float) -> np.ndarray:
    """The greedy neighbor rule: the first point that is nobody's takes all that are nobody's within the radius.

    Where the loss's hinges are 0, points of one object are at most ``2 delta_pull`` apart and those of two at least
    ``2 delta_push - 2 delta_pull``: a radius between these finds the objects exactly.

    Args:
        points: (P, D).

    Returns:
        (P,) int32 numbers from 0, in order of the first point.

    >>> greedy_clusters(np.array([[0.0], [0.4], [5.0], [5.2]]), radius=1.0).tolist()
    [0, 0, 1, 1]
    """
    labels = np.full(len(points), -1, np.int32)
    left = np.arange(len(points))
    number = 0
    while len(left):
        near = ((points[left] - points[left[0]]) ** 2).sum(1) <= radius * radius
        labels[left[near]] = number
        left, number = left[~near], number + 1
    return labels
