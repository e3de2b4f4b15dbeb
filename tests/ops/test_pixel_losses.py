"""Losses of label maps against their formulas, pixel by pixel."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from eachmask.ops import pixel_losses

K, SIZE = 4, (2, 3, 5)
WEIGHTS = (1.0, 0.5, 3.0, 2.0)


@pytest.fixture
def drawn() -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (B, K, H, W), and labels of three of the four classes with pixels that do not count."""
    rng = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(SIZE[0], K, *SIZE[1:], generator=rng, dtype=torch.float64)
    labels = torch.randint(0, K - 1, SIZE, generator=rng)
    labels[torch.rand(SIZE, generator=rng) < 0.2] = -1
    return logits, labels


def rows(logits: torch.Tensor, labels: torch.Tensor) -> list[tuple[list[float], int]]:
    """(probabilities, label) of each pixel that counts."""
    found = []
    for b, y, x in itertools.product(*map(range, labels.shape)):
        if labels[b, y, x] >= 0:
            powers = [math.exp(v) for v in logits[b, :, y, x].tolist()]
            found.append(([p / sum(powers) for p in powers], int(labels[b, y, x])))
    return found


def test_cross_entropy_and_its_class_weights(drawn):
    logits, labels = drawn
    plain = [-math.log(p[k]) for p, k in rows(*drawn)]
    assert float(pixel_losses.cross_entropy(*drawn)) == pytest.approx(sum(plain) / len(plain))
    weights = torch.tensor(WEIGHTS, dtype=torch.float64)
    expected = F.cross_entropy(logits, labels, weights, ignore_index=-1)
    assert float(pixel_losses.cross_entropy(*drawn, class_weights=weights)) == pytest.approx(float(expected))


def test_focal(drawn):
    expected = np.mean([-((1 - p[k]) ** 2) * math.log(p[k]) for p, k in rows(*drawn)])
    assert float(pixel_losses.cross_entropy(*drawn, gamma=2.0)) == pytest.approx(expected)


def test_hard_pixels(drawn):
    """A share of all pixels, those that do not count among them."""
    losses = sorted((-math.log(p[k]) for p, k in rows(*drawn)), reverse=True)
    number = int(0.25 * math.prod(SIZE))
    assert float(pixel_losses.cross_entropy(*drawn, hard=0.25)) == pytest.approx(np.mean(losses[:number]))


def test_dice(drawn):
    seen = rows(*drawn)
    values = []
    for k in range(K - 1):
        common = sum(p[k] for p, label in seen if label == k)
        total = sum(p[k] for p, _ in seen) + sum(label == k for _, label in seen)
        values.append(1 - (2 * common + 1) / (total + 1))
    assert float(pixel_losses.soft_dice(*drawn)) == pytest.approx(np.mean(values))


def test_lovasz_is_the_extension_of_the_jaccard_set_function(drawn):
    """Of the definition: sum over falling errors of each error times what its pixel adds to 1 - IoU of the mistaken."""
    seen = rows(*drawn)
    values = []
    for k in range(K - 1):
        true = {i for i, (_, label) in enumerate(seen) if label == k}
        error = [1 - p[k] if i in true else p[k] for i, (p, _) in enumerate(seen)]

        def jaccard_loss(mistaken: set[int], true: set[int] = true) -> float:
            return len(mistaken) / len(true | mistaken)

        order = sorted(range(len(seen)), key=lambda i, error=error: -error[i])
        steps = [jaccard_loss(set(order[: n + 1])) - jaccard_loss(set(order[:n])) for n in range(len(order))]
        values.append(sum(error[i] * step for i, step in zip(order, steps, strict=True)))
    assert float(pixel_losses.lovasz_softmax(*drawn)) == pytest.approx(np.mean(values))


def test_lovasz_of_sure_answers_is_one_minus_iou(drawn):
    _, labels = drawn
    found = torch.randint(0, K - 1, SIZE, generator=torch.Generator().manual_seed(1))
    logits = 100.0 * F.one_hot(found, K).movedim(-1, 1).double()
    known = labels >= 0
    iou = [
        float(((found == k) & (labels == k)).sum() / (((found == k) | (labels == k)) & known).sum())
        for k in range(K - 1)
    ]
    assert float(pixel_losses.lovasz_softmax(logits, labels)) == pytest.approx(1 - np.mean(iou))


@pytest.mark.parametrize("loss", [pixel_losses.cross_entropy, pixel_losses.soft_dice, pixel_losses.lovasz_softmax])
def test_pixels_that_do_not_count_have_no_gradient(loss, drawn):
    logits, labels = drawn
    logits.requires_grad_()
    loss(logits, labels).backward()
    gone = (labels < 0)[:, None].expand_as(logits)
    assert not logits.grad[gone].any() and logits.grad[~gone].any()
    nothing = loss(logits, torch.full_like(labels, -1))
    assert float(nothing.detach()) == 0 and nothing.requires_grad
