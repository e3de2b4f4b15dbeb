"""FCOS's rules one by one: which place stands for what, how central it is, what its scores mean."""

from __future__ import annotations

import pytest
import torch

from eachmask.models.detection.fcos import (
    FCOS,
    assign,
    boxes_from,
    centerness,
    distances_to,
    fcos_lite0_fpn,
    iou_of_distances,
    level_points,
)
from eachmask.ops.match import IGNORED, UNMATCHED
from eachmask.structures import DecodeOptions, ImageBatch, Instances

STRIDES, SHAPES, RANGES = (8, 16), [(8, 8), (4, 4)], (24.0,)


def matched(boxes: list[list[float]], radius: float | None = None, crowd: list[bool] | None = None) -> torch.Tensor:
    target = Instances(
        (64, 64),
        torch.tensor(boxes),
        labels=torch.zeros(len(boxes), dtype=torch.int64),
        crowd=None if crowd is None else torch.tensor(crowd),
    )
    return assign(level_points(SHAPES, STRIDES), STRIDES, target, RANGES, radius)


def test_points_are_the_centers_of_cells():
    fine, coarse = level_points(SHAPES, STRIDES)
    assert fine[:2].tolist() == [[4, 4], [12, 4]] and coarse[-1].tolist() == [56, 56]


def test_levels_share_objects_by_size():
    small, large = matched([[8.0, 8, 40, 40]]), matched([[0.0, 0, 64, 64]])
    assert (small[:64] >= 0).any() and not (small[64:] >= 0).any()
    # Within the large box's middle no side is further than 36 px, but only distances up to 24 belong to the fine level.
    assert not (large[:64] >= 0).any() and (large[64:] >= 0).all()


def test_the_smaller_of_two_objects_has_a_place():
    index = matched([[0.0, 0, 24, 24], [8.0, 8, 24, 24]]).reshape(-1)[:64].reshape(8, 8)
    assert index[0, 0] == 0 and index[1, 1] == 1 and index[5, 5] == UNMATCHED


def test_center_sampling():
    index = matched([[0.0, 0, 40, 40]], radius=1.0)[:64].reshape(8, 8)
    places = torch.nonzero(index >= 0).tolist()
    assert places == [[2, 2]], "the others are 8 px or more from the center at (20, 20)"


def test_crowds_are_ignored():
    index = matched([[0.0, 0, 24, 24], [0.0, 0, 64, 64]], crowd=[False, True])
    assert index[0] == 0 and index[63] == IGNORED


def test_centerness_is_1_in_the_middle_and_0_at_the_border():
    distances = torch.tensor([[5.0, 5, 5, 5], [1, 5, 9, 5], [0, 5, 10, 5]])
    assert centerness(distances).tolist() == pytest.approx([1, 1 / 3, 0])


def test_distances_and_boxes_are_each_other_s_undo():
    points, boxes = torch.tensor([[10.0, 20]]), torch.tensor([[1.0, 2, 30, 40]])
    assert torch.equal(boxes_from(points, distances_to(points, boxes)), boxes)
    assert iou_of_distances(torch.ones(1, 4), torch.full((1, 4), 2.0)).item() == pytest.approx(1 / 4)


@pytest.fixture(scope="module")
def models() -> dict[tuple[str, str], FCOS]:
    built = {}
    for score in ("product", "root"):
        for threshold_on in ("class", "product"):
            torch.manual_seed(0)
            built[score, threshold_on] = fcos_lite0_fpn(2, score=score, threshold_on=threshold_on).eval()
    return built


def test_what_a_user_asks_for_is_the_reported_score(models):
    images = ImageBatch.from_tensors([torch.randn(3, 64, 64)])
    with torch.inference_mode():
        raw = models["product", "class"](images)
        for (score, _), model in models.items():
            (found,) = model.decode(raw, DecodeOptions(score_threshold=0.001, nms_threshold=1.0, max_detections=10**6))
            middle = float(found.scores.median())
            (sure,) = model.decode(raw, DecodeOptions(score_threshold=middle, nms_threshold=1.0, max_detections=10**6))
            assert len(sure) == int((found.scores > middle).sum()) > 0, score


def test_the_best_candidates_are_those_of_the_class_or_of_the_product():
    """One candidate per level: the surest of its class is at the border of an object, the other in its middle."""
    logits = torch.full((1, 2, 2, 2), -20.0)
    logits[0, 0, 0, 0], logits[0, 1, 1, 1] = 3.0, 2.0
    center = torch.full((1, 1, 2, 2), -2.0)
    center[0, 0, 1, 1] = 4.0
    levels = [torch.full((1, num, 2, 2), -20.0) for num in (2, 4, 1)]
    for best_by, label in (("class", 0), ("product", 1)):
        model = fcos_lite0_fpn(2, best_by=best_by, candidates=1).eval()
        with torch.inference_mode():
            raw = model(ImageBatch.from_tensors([torch.zeros(3, 32, 32)]))
            rest = len(raw.logits) - 1
            raw = raw._replace(
                logits=(logits, *[levels[0]] * rest),
                distances=(torch.full((1, 4, 2, 2), 4.0), *[levels[1].abs()] * rest),
                centerness=(center, *[levels[2]] * rest),
            )
            (found,) = model.decode(raw, DecodeOptions())
        assert found.labels.tolist() == [label]
        sure = logits[0, label].max().sigmoid() * center[0, 0].flatten()[3 * label].sigmoid()
        assert float(found.scores[0]) == pytest.approx(float(sure))


def test_the_authors_models_rank_by_the_product():
    from eachmask.models.instance.blendmask import Config as BlendMask
    from eachmask.models.instance.centermask import Config as CenterMask
    from eachmask.models.instance.condinst import ADELAIDET

    assert BlendMask().best_by == CenterMask().best_by == ADELAIDET["best_by"] == "product"
    assert fcos_lite0_fpn().config.best_by == "class"


def test_without_classes_every_object_is_of_one():
    torch.manual_seed(0)
    model, plain = fcos_lite0_fpn(num_classes=5, agnostic=True), fcos_lite0_fpn(num_classes=1)
    plain.load_state_dict(model.state_dict())
    images = ImageBatch(torch.rand(1, 3, 64, 64), ((64, 64),))
    boxes = torch.tensor([[4.0, 4, 40, 40], [30, 30, 60, 60]])
    many, one = ([Instances((64, 64), boxes, labels=torch.tensor(labels))] for labels in ([4, 2], [0, 0]))
    raw = model(images)
    assert raw.logits[0].shape[1] == 1
    got, wanted = model.losses(raw, many), plain.losses(plain(images), one)
    assert all(torch.equal(got[name], wanted[name]) for name in wanted)
    (found,) = model.eval().decode(model(images), DecodeOptions(score_threshold=0.0))
    assert len(found) and not found.labels.any()
