"""Boundary F and the measures of label maps against implementations that share no line with them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from eachmask.metrics.boundary_f import boundary_f
from eachmask.structures import Category, SemanticMap
from eachmask.tasks.semantic import SEMANTIC
from eachmask.tasks.settings import Settings

CLASSES = tuple(Category(i + 1, name) for i, name in enumerate(("road", "car", "sky", "never")))


def made(seed: int, size: tuple[int, int] = (23, 31)) -> tuple[SemanticMap, SemanticMap]:
    """Blocks, and the same a little wrong, with pixels that do not count."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 3, (size[0] // 6 + 1, size[1] // 6 + 1))
    target = np.kron(coarse, np.ones((6, 6), int))[: size[0], : size[1]]
    found = np.roll(target, int(rng.integers(0, 3)), axis=1)
    found[rng.random(size) < 0.02] = 1
    target[rng.random(size) < 0.05] = 255
    return tuple(SemanticMap(torch.from_numpy(labels), CLASSES) for labels in (found, target))


def slow_outline(labels: np.ndarray, label: int, known: np.ndarray) -> set[tuple[int, int]]:
    height, width = labels.shape
    found = set()
    for y in range(height):
        for x in range(width):
            near = [(y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)]
            inside = [(a, b) for a, b in near if 0 <= a < height and 0 <= b < width]
            if labels[y, x] == label and known[y, x] and any(labels[a, b] != label for a, b in inside):
                found.add((y, x))
    return found


def slow_f(pairs, num_classes):
    values = {k: [] for k in range(num_classes)}
    for found, target in pairs:
        a, b = found.labels.numpy(), target.labels.numpy()
        known = b != 255
        reach = max(1, round(0.0075 * math.hypot(*b.shape)))
        for k in range(num_classes):
            if not ((a == k) & known).any() and not ((b == k) & known).any():
                continue
            p, q = slow_outline(a, k, known), slow_outline(b, k, known)
            if not p and not q:
                values[k].append(1.0)
                continue
            hit = [sum(any(math.dist(i, j) <= reach for j in other) for i in own) for own, other in ((p, q), (q, p))]
            precision, recall = hit[0] / max(len(p), 1), hit[1] / max(len(q), 1)
            values[k].append(2 * precision * recall / (precision + recall) if precision + recall else 0.0)
    return [float(np.mean(v)) if v else float("nan") for v in values.values()]


def test_boundary_f_is_that_of_a_plain_loop():
    pairs = [made(seed) for seed in range(3)]
    assert boundary_f(pairs, 4) == pytest.approx(np.array(slow_f(pairs, 4)), nan_ok=True)


def test_one_pixel_off_is_right_and_four_are_wrong():
    target = torch.zeros(20, 20, dtype=torch.int64)
    target[:, 10:] = 1

    def f(shift: int) -> float:
        moved = SemanticMap(torch.roll(target, shift, 1)[:, 4:16], CLASSES)
        return float(boundary_f([(moved, SemanticMap(target[:, 4:16], CLASSES))], 4)[0])

    assert f(0) == f(1) == 1.0 and f(4) == 0.0


def test_a_class_that_is_the_whole_image_has_no_outline():
    """None on both sides is right, on one side wrong."""
    whole = SemanticMap(torch.zeros(8, 8, dtype=torch.int64), CLASSES)
    half = SemanticMap((torch.arange(8) > 3).long().expand(8, 8), CLASSES)
    assert boundary_f([(whole, whole)], 4)[0] == 1.0
    assert boundary_f([(whole, half)], 4)[0] == boundary_f([(half, whole)], 4)[0] == 0.0


def test_one_report_has_all_measures():
    pairs = [made(seed) for seed in range(4)]
    found, targets = (list(column) for column in zip(*pairs, strict=True))
    sections = {s.key: s for s in SEMANTIC.sections(found, targets, Settings())}
    a = np.concatenate([f.labels.numpy().ravel() for f in found])
    b = np.concatenate([t.labels.numpy().ravel() for t in targets])
    a, b = a[b != 255], b[b != 255]
    iou, dice, share = {}, {}, {}
    for k in range(3):
        both = sum(1 for x, y in zip(a, b, strict=True) if x == y == k)
        either = sum(1 for x, y in zip(a, b, strict=True) if k in (x, y))
        iou[k], dice[k], share[k] = both / either, 2 * both / (either + both), float((b == k).mean())
    said = sections["semantic"].values
    assert said["miou"] == pytest.approx(np.mean(list(iou.values())))
    assert said["dice"] == pytest.approx(np.mean(list(dice.values())))
    assert said["fwiou"] == pytest.approx(sum(share[k] * iou[k] for k in range(3)))
    assert said["pixel_accuracy"] == pytest.approx(float((a == b).mean()))
    assert said["boundary_f"] == pytest.approx(np.nanmean(slow_f(pairs, 4)))
    assert sections["iou_per_class"].values["car"] == pytest.approx(iou[1])
    assert sections["iou_per_class"].values["never"] is None
    matrix = np.array(sections["confusion"].values["matrix"])
    assert matrix.sum() == len(a) and matrix[0, 1] == ((b == 0) & (a == 1)).sum()
    assert sections["confusion"].charts
