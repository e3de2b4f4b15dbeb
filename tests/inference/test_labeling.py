"""Annotations that nobody draws: what is kept, what is left for review, what goes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_model import ClickedSpots, Spots, spots_image, spots_info

from eachmask.inference.labeling import Labeler, Proposals, Rules, distinct, judged
from eachmask.inference.load import load
from eachmask.inference.predictor import Predictor
from eachmask.inference.prompt_predictor import PromptPredictor
from eachmask.structures import RLE, Category, Instances, UserError


def squares(*corners: tuple[int, int], side: int = 10) -> RLE:
    bitmaps = np.zeros((len(corners), 40, 40), bool)
    for bitmap, (x, y) in zip(bitmaps, corners, strict=True):
        bitmap[y : y + side, x : x + side] = True
    return RLE.from_bitmaps(bitmaps)


def proposals(masks: RLE, ious: list[float], stability: list[float], scores: list[float]) -> Proposals:
    boxes = torch.from_numpy(masks.boxes())
    found = Instances(masks.size, boxes, masks, scores=torch.tensor(ious), categories=(Category(1, "thing"),))
    return Proposals(found, np.array(stability), np.array(scores))


def test_the_sure_are_kept_the_doubtful_reviewed_the_rest_goes():
    masks = squares((0, 0), (20, 0), (0, 20), (20, 20))
    found = judged(
        proposals(masks, [0.95, 0.75, 0.3, 0.9], [0.95, 0.95, 0.95, 0.85], [0.9, 0.9, 0.9, 0.4]),
        Rules(iou=0.8, stability=0.9, score=0.5, slack=0.2),
    )
    assert found.instances.boxes[:, :2].tolist() == [[0, 0], [20, 0], [20, 20]]  # the surest first
    assert [bool(reason) for reason in found.reasons] == [False, True, True]
    assert found.reasons[1] == "predicted IoU 0.75 below 0.8"
    assert found.reasons[2] == "stability 0.85 below 0.9, score 0.40 below 0.5"
    assert found.doubt.tolist() == sorted(found.doubt) and found.doubt[0] == pytest.approx(1 - 0.95 * 0.95 * 0.9)


def test_of_duplicates_the_surer_stays():
    masks = squares((0, 0), (1, 0), (20, 20))
    found = judged(proposals(masks, [0.85, 0.95, 0.9], [1, 1, 1], [1, 1, 1]), Rules(duplicate=0.7))
    assert found.instances.boxes[:, 0].tolist() == [1, 20]
    assert distinct(masks, 0.9).tolist() == [0, 1, 2] and distinct(masks[[]], 0.9).tolist() == []


def test_parts_go_where_everything_is_looked_for():
    bitmaps = np.zeros((3, 40, 40), bool)
    bitmaps[0, :20, :20], bitmaps[1, :8, :20], bitmaps[2, :14, 15:35] = True, True, True
    found = proposals(RLE.from_bitmaps(bitmaps), [0.95, 0.9, 0.85], [1, 1, 1], [1, 1, 1])
    assert len(judged(found, Rules()).instances) == 3
    assert judged(found, Rules(), nested=False).instances.boxes[:, 0].tolist() == [0, 15]
    assert len(judged(found, Rules(inside=1), nested=False).instances) == 3


def test_a_detector_proposes_and_another_model_draws():
    detector = Predictor(Spots(), spots_info(), device="cpu", precision="fp32")
    image = spots_image(3)
    found = Labeler(load("graph_cut", device="cpu"), detector, Rules(0, 0, 0, 0.9, slack=0))(image)
    proposed = detector.predict(image)
    assert 0 < len(found.instances) <= len(proposed)
    overlap = found.instances.gt_masks.to_rle().iou(proposed.gt_masks)
    assert np.median(overlap.max(1)) > 0.6
    names = {name for name in found.instances.label_names}
    assert names <= {"small spot", "<large> & spot"} and ((found.stability >= 0) & (found.stability <= 1)).all()


def test_everything_has_the_class_that_is_named():
    drawer = PromptPredictor(ClickedSpots(), spots_info(), device="cpu", precision="fp32", optimize=False)
    found = Labeler(drawer, name="spot")(spots_image(1))
    assert len(found.instances) > 2 and set(found.instances.label_names) == {"spot"}


def test_what_finds_nothing_by_itself_is_refused():
    with pytest.raises(UserError, match="graph_cut finds nothing by itself: name a detector"):
        Labeler(load("graph_cut", device="cpu"))


def test_a_rule_is_a_share():
    with pytest.raises(UserError, match="stability"):
        Rules(stability=90)
