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


def slow_outline(labels: np.ndarray, label: int) -> set[tuple[int, int]]:
    height, width = labels.shape
    found = set()
    for y in range(height):
        for x in range(width):
            near = [(y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)]
            inside = [(a, b) for a, b in near if 0 <= a < height and 0 <= b < width]
            if labels[y, x] == label and any(labels[a, b] != label for a, b in inside):
                found.add((y, x))
    return found


def slow_f(pairs, num_classes):
    """What is not known is neither wrong, nor due unless it is a seam between two classes."""
    values = {k: [] for k in range(num_classes)}
    for found, target in pairs:
        a, b = found.labels.numpy(), target.labels.numpy()
        reach = max(1, round(0.0075 * math.hypot(*b.shape)))
        for k in range(num_classes):
            here, there = (a[b != 255] == k).any(), (b == k).any()
            if not here or not there:
                values[k] += [0.0] if here or there else []
                continue
            others = [(int(y), int(x)) for y, x in zip(*np.nonzero((b != 255) & (b != k)), strict=True)]
            p, edges = slow_outline(a, k), slow_outline(b, k)
            gap = {i: min((math.dist(i, j) for j in others), default=math.inf) for i in edges}
            due = [i for i in edges if gap[i] <= 2 * reach]
            judged = [i for i in p if b[i] != 255]
            right = sum(any(math.dist(i, j) <= reach for j in edges) for i in judged)
            found_again = sum(any(math.dist(i, j) <= max(reach, gap[i]) for j in p) for i in due)
            precision, recall = right / len(judged) if judged else 1.0, found_again / len(due) if due else 1.0
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


def disk(radius: float, void: float = 0.0) -> torch.Tensor:
    """Class 1 in the middle of 120 x 160 px of class 0, within a border of void on the outline."""
    y, x = torch.meshgrid(torch.arange(120) - 60, torch.arange(160) - 80, indexing="ij")
    distance = torch.hypot(x.float(), y.float())
    return torch.where((distance - radius).abs() < void, 255, (distance < radius).long())


def test_an_outline_in_the_border_of_void_around_an_object_is_right():
    """As VOC draws it: wherever in the border the outline lies; one outside of it is wrong, and so is none."""
    target = SemanticMap(disk(30, void=1.6), CLASSES)

    def f(labels: torch.Tensor) -> tuple[float, ...]:
        return tuple(boundary_f([(SemanticMap(labels, CLASSES), target)], 4)[:2])

    assert f(disk(30)) == f(disk(29)) == f(disk(31)) == (1.0, 1.0)
    assert max(f(disk(36))) < 0.1 and max(f(disk(24))) < 0.1
    assert f(torch.zeros_like(target.labels)) == (0.0, 0.0)


def test_what_lies_in_a_hole_of_void_is_neither_wrong_nor_due():
    """An object that nobody labeled, whether it is found as a class of its own or not."""
    labels = torch.zeros(60, 80, dtype=torch.int64)
    labels[:, 40:] = 1
    plain = labels.clone()
    labels[20:40, 10:25] = 255
    target = SemanticMap(labels, CLASSES)
    found = torch.where(labels == 255, 2, labels)
    for seen in (plain, found):
        assert boundary_f([(SemanticMap(seen, CLASSES), target)], 4)[:2].tolist() == [1.0, 1.0]


def test_a_class_that_only_one_of_the_two_has_is_wrong_where_it_is_the_whole_image():
    """Neither has an outline."""
    road, car = (SemanticMap(torch.full((8, 8), label), CLASSES) for label in (0, 1))
    assert boundary_f([(road, car)], 4)[:2].tolist() == [0.0, 0.0]


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
