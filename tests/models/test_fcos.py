"""FCOS's rules one by one: which place stands for what, how central it is, what its scores mean."""

from __future__ import annotations

import pytest
import torch

from eachmask.backbones.networks import Timm
from eachmask.models.config import changed
from eachmask.models.detection import cascade_rcnn, retinanet
from eachmask.models.detection.fcos import FCOS, Raw, assign, fcos_lite0_fpn, p3_to_p7
from eachmask.models.detection.fcos import Config as FCOSConfig
from eachmask.models.instance import blendmask, centermask, condinst
from eachmask.ops.match import IGNORED, UNMATCHED
from eachmask.ops.point_boxes import boxes_from, centerness, distances_to, iou_of_distances, level_points
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
            built[score, threshold_on] = fcos_lite0_fpn(2, select={"score": score, "threshold_on": threshold_on}).eval()
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


def two_places(model: FCOS, logits: list[float], center: list[float]) -> Raw:
    """An image where two places of the finest level say something: the first of class 0, the last of class 1."""
    with torch.inference_mode():
        raw = model(ImageBatch.from_tensors([torch.zeros(3, 32, 32)]))
    rest = len(raw.logits) - 1
    classes, centers = torch.full((1, 2, 2, 2), -20.0), torch.full((1, 1, 2, 2), -20.0)
    classes[0, 0, 0, 0], classes[0, 1, 1, 1] = logits
    centers[0, 0, 0, 0], centers[0, 0, 1, 1] = center
    nothing = [torch.full((1, num, 2, 2), -20.0) for num in (2, 1)]
    return raw._replace(
        logits=(classes, *[nothing[0]] * rest),
        distances=tuple(torch.full((1, 4, 2, 2), 4.0) for _ in raw.distances),
        centerness=(centers, *[nothing[1]] * rest),
    )


@pytest.mark.parametrize(("best_by", "label"), [("class", 0), ("product", 1)])
def test_the_best_candidates_are_those_of_the_class_or_of_the_product(best_by, label):
    """One candidate per level: the surest of its class is at the border of an object, the other in its middle."""
    model = fcos_lite0_fpn(2, select={"best_by": best_by, "candidates": 1}).eval()
    (found,) = model.decode(two_places(model, [3.0, 2.0], [-2.0, 4.0]), DecodeOptions())
    sure = torch.tensor([[3.0, -2.0], [2.0, 4.0]])[label].sigmoid().prod()
    assert found.labels.tolist() == [label]
    assert float(found.scores[0]) == pytest.approx(float(sure))


AUTHORS = {
    "condinst": (condinst.ADELAIDET, {1}),
    "blendmask": (blendmask.Config(), {1}),
    "centermask": (centermask.Config(), {0, 1}),
    "fcos": (FCOSConfig(), {0, 1}),
}
"""Settings, and which of two objects pass the threshold: one is sure of its class alone, one of its place too."""
SMALL = {"head": {"depth": 1, "groups": 8}}


@pytest.mark.parametrize("name", AUTHORS)
def test_what_the_models_own_threshold_is_of(name):
    """AdelaiDet's is of the product (``THRESH_WITH_CTR``), CenterMask's and MMDetection's of the class alone."""
    config, passes = AUTHORS[name]
    model = FCOS(p3_to_p7(Timm("tf_efficientnet_lite0"), 32), 2, changed(config, SMALL)).eval()
    raw = two_places(model, [0.0, 0.0], [-4.0, 4.0])  # products of 0.009 and 0.49
    (found,) = model.keep(raw, DecodeOptions())
    assert set(found.labels.tolist()) == passes


@pytest.mark.parametrize("name", AUTHORS)
def test_what_the_authors_models_rank_candidates_by(name):
    config = changed(AUTHORS[name][0], SMALL | {"select": {"candidates": 1}})
    model = FCOS(p3_to_p7(Timm("tf_efficientnet_lite0"), 32), 2, config).eval()
    (found,) = model.keep(two_places(model, [3.0, 2.0], [-2.0, 4.0]), DecodeOptions())
    assert found.labels.tolist() == [0 if name == "fcos" else 1]


def test_without_classes_every_object_is_of_one():
    torch.manual_seed(0)
    model, plain = fcos_lite0_fpn(num_classes=5, agnostic=True), fcos_lite0_fpn(num_classes=1)
    plain.load_state_dict(model.state_dict())
    images = ImageBatch(torch.rand(1, 3, 64, 64), ((64, 64),))
    boxes = torch.tensor([[4.0, 4, 40, 40], [30, 30, 60, 60]])
    many, one = ([Instances((64, 64), boxes, labels=torch.tensor(labels))] for labels in ([4, 2], [0, 0]))
    raw = model(images)
    assert raw.logits[0].shape[1] == 1
    got, expected = model.losses(raw, many), plain.losses(plain(images), one)
    assert all(torch.equal(got[name], expected[name]) for name in expected)
    (found,) = model.eval().decode(model(images), DecodeOptions(score_threshold=0.0))
    assert len(found) and not found.labels.any()


def test_choices_of_the_frameworks_are_kept():
    """Constants that the recorded detections are too coarse to tell apart."""
    chosen = {
        name: (select.score, select.threshold_on, select.best_by, select.clip_first)
        for name, select in (
            ("centermask", centermask.Config().select),
            ("blendmask", blendmask.Config().select),
            ("condinst", condinst.ADELAIDET.select),
        )
    }
    assert chosen == {
        "centermask": ("root", "class", "product", False),
        "blendmask": ("root", "product", "product", False),
        "condinst": ("root", "product", "product", False),
    }
    assert retinanet.Config().symmetric_clip and retinanet.Config().loss.smooth_l1_beta == 0.0
    mmdet = cascade_rcnn.MMDET.conventions
    assert (mmdet.rpn_smooth_l1_beta, mmdet.smooth_l1_beta) == (1 / 9, 1.0)


@pytest.mark.parametrize("symmetric", [False, True])
def test_a_box_of_retinanet_shrinks_no_more_than_mmdetection_lets_it(symmetric):
    model = retinanet.retinanet_lite0_fpn(num_classes=1, symmetric_clip=symmetric)
    deltas = torch.tensor([0.0, 0, -40, -40]).reshape(1, 4, 1, 1)
    kept = model._candidates(torch.zeros(1, 1, 1, 1), deltas, torch.tensor([[0.0, 0, 100, 100]]), 0.0)
    width = float(kept.boxes[0, 2] - kept.boxes[0, 0])
    assert width == pytest.approx(100 * 16 / 1000 if symmetric else 0.0, abs=1e-3)
