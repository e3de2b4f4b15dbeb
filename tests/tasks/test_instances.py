"""The record of tasks with objects: what training asks of it."""

from __future__ import annotations

import pytest
import torch

from eachmask.structures import Instances
from eachmask.tasks.instances import best_threshold, choose


def test_objects_are_shown_from_the_score_of_the_best_f1_on() -> None:
    def found(boxes, scores):
        boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
        labels = torch.zeros(len(boxes), dtype=torch.int64)
        return Instances((40, 40), boxes, labels=labels, scores=torch.tensor(scores))

    targets = [found([[0, 0, 9, 9], [20, 20, 30, 30]], [1.0, 1.0]), found([[5, 5, 15, 15]], [1.0])]
    seen = [
        found([[0, 0, 9, 9], [20, 20, 30, 30], [0, 30, 9, 39]], [0.9, 0.7, 0.2]),
        found([[25, 0, 35, 9], [5, 5, 15, 15]], [0.3, 0.6]),
    ]
    assert best_threshold(seen, targets) == {"score_threshold": pytest.approx(0.6)}
    assert best_threshold([found([[25, 0, 35, 9]], [0.5])], targets[1:]) == {}, "nothing is right"


def test_the_best_objects_are_chosen() -> None:
    boxes = torch.tensor([[0.0, 0, 4, 4], [2, 2, 6, 6], [4, 4, 9, 9]])
    some = Instances((10, 10), boxes, scores=torch.tensor([0.2, 0.9, 0.5]))
    assert choose(some, (), 2).scores.tolist() == pytest.approx([0.9, 0.5])
    assert len(choose(some, (), None)) == 3
