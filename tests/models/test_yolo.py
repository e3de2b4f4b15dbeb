"""YOLO's grid and its loss, from the paper's formulas."""

from __future__ import annotations

import math

import pytest
import torch

from eachmask.models.detection.yolo import YOLO, Raw, assign, relative_boxes, yolo_v1_lite0
from eachmask.structures import DecodeOptions, ImageBatch, Instances

SIDE = 70
"""Of the tensor: ten pixels per cell of the 7 x 7 grid."""


@pytest.fixture(scope="module")
def model() -> YOLO:
    torch.manual_seed(0)
    return yolo_v1_lite0(num_classes=3).eval()


def raw_of(model: YOLO, seed: int = 0) -> Raw:
    generator = torch.Generator().manual_seed(seed)
    boxes = torch.rand(1, 7, 7, 2, 4, generator=generator)
    return Raw(
        boxes * torch.tensor([1, 1, 0.6, 0.6]),
        torch.rand(1, 7, 7, 2, generator=generator),
        torch.rand(1, 7, 7, 3, generator=generator),
        ((SIDE, SIDE),),
        (SIDE, SIDE),
    )


def objects(*boxes: tuple[float, float, float, float], crowd: list[bool] | None = None) -> Instances:
    return Instances(
        (SIDE, SIDE),
        torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        labels=torch.arange(len(boxes)) % 3,
        crowd=None if crowd is None else torch.tensor(crowd),
    )


def iou(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    common = max(width, 0) * max(height, 0)
    return common / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common)


def test_the_loss_is_equation_3(model):
    """Every sum written out, cell by cell and box by box."""
    raw = raw_of(model)
    target = objects((12, 3, 32, 27), (40, 50, 68, 70))
    expected = dict.fromkeys(("center", "size", "object", "no_object", "class"), 0.0)
    for row in range(7):
        for column in range(7):
            mine = [
                i
                for i, (x1, y1, x2, y2) in enumerate(target.boxes.tolist())
                if math.floor((x1 + x2) / 2 / 10) == column and math.floor((y1 + y2) / 2 / 10) == row
            ]
            answers = raw.boxes[0, row, column].tolist()
            confidence = raw.confidence[0, row, column].tolist()
            if not mine:
                expected["no_object"] += 0.5 * sum(c**2 for c in confidence)
                continue
            x1, y1, x2, y2 = target.boxes[mine[0]].tolist()
            ious = []
            for x, y, root_w, root_h in answers:
                cx, cy, w, h = (column + x) / 7, (row + y) / 7, root_w**2, root_h**2
                found = (cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2)
                ious.append(iou(found, (x1 / SIDE, y1 / SIDE, x2 / SIDE, y2 / SIDE)))
            best = ious.index(max(ious))
            x, y, root_w, root_h = answers[best]
            expected["center"] += 5 * ((x - ((x1 + x2) / 20 - column)) ** 2 + (y - ((y1 + y2) / 20 - row)) ** 2)
            expected["size"] += 5 * (root_w - math.sqrt((x2 - x1) / SIDE)) ** 2
            expected["size"] += 5 * (root_h - math.sqrt((y2 - y1) / SIDE)) ** 2
            expected["object"] += (confidence[best] - max(ious)) ** 2
            expected["no_object"] += 0.5 * confidence[1 - best] ** 2
            label = int(target.labels[mine[0]])
            expected["class"] += sum(
                (p - (k == label)) ** 2 for k, p in enumerate(raw.classes[0, row, column].tolist())
            )
    losses = model.losses(raw, [target])
    assert {name: float(value) for name, value in losses.items()} == pytest.approx(expected, rel=1e-4)


def test_nothing_to_learn_where_the_answers_are_right(model):
    target = objects((12, 3, 32, 27), (40, 50, 68, 70))
    boxes, labels, index, _ = assign(target, (SIDE, SIDE), 7)
    owned = index >= 0
    confidence = torch.stack([owned, torch.zeros_like(owned)], dim=-1).float()
    both = torch.stack([boxes, torch.zeros_like(boxes)], dim=2)
    classes = torch.nn.functional.one_hot(labels, 3).float()
    raw = Raw(both[None], confidence[None], classes[None], ((SIDE, SIDE),), (SIDE, SIDE))
    assert sum(map(float, model.losses(raw, [target]).values())) == pytest.approx(0, abs=1e-9)
    (found,) = model.decode(raw, DecodeOptions(score_threshold=0.5))
    order = found.labels.argsort()
    assert torch.allclose(found.boxes[order], target.boxes, atol=1e-4) and found.scores.tolist() == [1, 1]


def test_small_objects_count_more():
    """The same error in pixels costs a small box more, because roots are compared (section 2.2)."""
    small, large = ((math.sqrt((side + 2) / SIDE) - math.sqrt(side / SIDE)) ** 2 for side in (10, 60))
    assert small > 5 * large


def test_the_first_of_two_in_one_cell_has_it():
    _, _, index, _ = assign(objects((12, 12, 16, 16), (10, 10, 19, 19)), (SIDE, SIDE), 7)
    assert index[1, 1] == 0 and (index >= 0).sum() == 1


def test_cells_in_a_crowd_may_say_what_they_like(model):
    raw = raw_of(model)
    crowd = model.losses(raw, [objects((0, 0, 70, 70), crowd=[True])])
    assert all(float(value) == 0 for value in crowd.values())


def test_boxes_of_the_grid():
    answers = torch.zeros(7, 7, 1, 4)
    answers[2, 3, 0] = torch.tensor([0.5, 0.25, 0.5, 0.1])
    x1, y1, x2, y2 = relative_boxes(answers, 7)[2, 3, 0].tolist()
    assert (x1 + x2) / 2 == pytest.approx(3.5 / 7) and (y1 + y2) / 2 == pytest.approx(2.25 / 7)
    assert x2 - x1 == pytest.approx(0.25) and y2 - y1 == pytest.approx(0.01)


def test_at_448_px_the_map_is_not_resized(model):
    images = ImageBatch.from_tensors([torch.zeros(3, 448, 448)])
    with torch.inference_mode():
        assert model.backbone.backbone(images.tensor).maps[-1].shape[-2:] == (14, 14)
        raw = model(images)
    assert raw.boxes.shape == (1, 7, 7, 2, 4) and raw.classes.shape == (1, 7, 7, 3)
