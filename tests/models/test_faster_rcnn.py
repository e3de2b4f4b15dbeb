"""Assignment, sampling and selection of the two-stage family, on worked examples."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from eachmask import models
from eachmask.backbones.features import Features
from eachmask.backbones.fuse import optimize_for_inference
from eachmask.models.detection.conventions import DETECTRON2, MMDET, TORCHVISION
from eachmask.models.detection.fast_rcnn import box_losses, keep_best
from eachmask.models.detection.faster_rcnn import FasterRCNN, faster_rcnn_lite0_fpn
from eachmask.models.detection.faster_rcnn_c4 import faster_rcnn_r18_c4, faster_rcnn_r50_c4
from eachmask.models.detection.rpn import inside
from eachmask.ops.anchors import flatten_anchors
from eachmask.ops.match import IGNORED, UNMATCHED
from eachmask.structures import DecodeOptions, ImageBatch, Instances
from eachmask.structures import boxes as box_ops

NOTHING = (0.0, 0.0, 0.0, 0.0)


@pytest.fixture(scope="module")
def model() -> FasterRCNN:
    torch.manual_seed(0)
    return faster_rcnn_lite0_fpn(num_classes=3).eval()


def target(*boxes: tuple[float, ...]) -> Instances:
    return Instances(
        image_size=(100, 100),
        boxes=torch.tensor(boxes).reshape(-1, 4),
        labels=torch.arange(len(boxes)) % 3,
    )


@pytest.mark.parametrize("order", [[0, 1], [1, 0]])
def test_a_box_without_area_leaves_the_losses_finite_and_unchanged(model, order):
    batch = ImageBatch.from_tensors([torch.rand(3, 100, 100, generator=torch.Generator().manual_seed(0))])
    both = target((10, 10, 50, 60), NOTHING)[order]
    alone = both[both.boxes[:, 2] > 0]
    raw = model(batch)
    torch.manual_seed(3)
    expected = model.losses(raw, [alone])
    torch.manual_seed(3)
    losses = model.losses(raw, [both])
    assert {k: float(v) for k, v in losses.items()} == {k: float(v) for k, v in expected.items()}


def test_sampled_proposals_are_balanced_and_labeled(model):
    gt = target((10, 10, 40, 40), (60, 60, 90, 90))
    near = gt.boxes[[0, 1] * 200] + torch.rand(400, 4, generator=torch.Generator().manual_seed(0))
    far = torch.tensor([[45.0, 0, 55, 9]]).repeat(1000, 1)
    sampled = model.sample_proposals(torch.cat([far, near]), gt)
    assert len(sampled.boxes) == 512 and int((sampled.labels < 3).sum()) == 128
    objects = sampled.labels < 3
    assert torch.equal(sampled.labels[objects], gt.labels[sampled.matched[objects]])
    assert torch.equal(sampled.matched_boxes[objects], gt.boxes[sampled.matched[objects]])


def test_the_true_boxes_are_among_the_proposals(model):
    gt = target((10, 10, 40, 40))
    sampled = model.sample_proposals(torch.zeros(0, 4), gt)
    assert sampled.boxes.tolist() == gt.boxes.tolist() and sampled.labels.tolist() == [0]


def test_box_loss_looks_at_the_true_class_alone():
    logits, deltas = torch.zeros(2, 3), torch.zeros(2, 2, 4)
    deltas[0, 1] = 1.0  # the wrong class's deltas cost nothing
    losses = box_losses(logits, deltas, torch.tensor([0, 2]), torch.zeros(2, 4))
    assert float(losses["box"]) == 0 and float(losses["class"]) == pytest.approx(torch.log(torch.tensor(3.0)))
    losses = box_losses(logits, deltas, torch.tensor([1, 2]), torch.zeros(2, 4))
    assert float(losses["box"]) == pytest.approx(4 * (1 - 0.5 / 9) / 2)  # smooth L1, over both RoIs


def test_selection_keeps_one_of_each_class_and_drops_specks():
    boxes = torch.tensor([[0.0, 0, 20, 20], [1, 0, 21, 20], [50, 50, 50.005, 60]])[:, None].expand(3, 2, 4)
    probabilities = torch.tensor([[0.9, 0.3], [0.8, 0.04], [0.95, 0.0]])
    kept, labels, scores = keep_best(boxes, probabilities, (0.05, 0.5, 10))
    assert scores.tolist() == pytest.approx([0.9, 0.3]) and labels.tolist() == [0, 1] and len(kept) == 2
    assert len(keep_best(boxes, probabilities, (0.05, 0.5, 1))[0]) == 1


def test_regions_are_cut_at_their_exact_place_in_half_precision(model):
    torch.manual_seed(0)
    level = torch.rand(1, 4, 200, 272).bfloat16()
    boxes = [torch.tensor([[701.4, 402.7, 745.9, 480.2]])]
    expected = model.pool(Features((level.float(),) * 4, (4,) * 4, (4,) * 4), boxes, 7)
    for layout in (torch.contiguous_format, torch.channels_last):
        maps = (level.contiguous(memory_format=layout),) * 4
        found = model.pool(Features(maps, (4,) * 4, (4,) * 4), boxes, 7)
        assert found.dtype == torch.bfloat16
        assert torch.allclose(found.float(), expected, atol=0.01)


@torch.inference_mode()
def test_boxes_and_scores_are_float32_under_autocast(model):
    batch = ImageBatch.from_tensors([torch.rand(3, 64, 96)])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (found,) = model.decode(model(batch), DecodeOptions(score_threshold=0.01))
    assert found.boxes.dtype == found.scores.dtype == torch.float32 and len(found)


def test_roi_pool_or_roi_align_in_all_heads():
    features = Features((torch.arange(256.0).view(1, 1, 16, 16),), (4,), (1,))
    boxes = [torch.tensor([[6.0, 6, 38, 38]])]  # 1.5 to 9.5 of the map's pixels
    found = {}
    for pooling in ("align", "pool"):
        model = faster_rcnn_lite0_fpn(num_classes=3, roi={"pooling": pooling, "levels": 1})
        found[pooling] = model.pool(features, boxes, 2)[0, 0]
    # RoIAlign's bin is the mean over 1.5 .. 5.5, RoIPool's the largest of the pixels 2 .. 6, its corners rounded.
    expected = torch.tensor([[3.5 * 17, 3.5 * 16 + 7.5], [7.5 * 16 + 3.5, 7.5 * 17]])
    assert torch.allclose(found["align"], expected)
    assert found["pool"].tolist() == [[6 * 17, 6 * 16 + 10], [10 * 16 + 6, 10 * 17]]


def test_jittered_proposals_stay_near_and_within_the_image():
    torch.manual_seed(0)
    model = faster_rcnn_lite0_fpn(num_classes=3, roi={"jitter": 0.2})
    boxes = torch.tensor([[10.0, 20, 50, 60], [0.0, 0, 30, 30], [95.0, 63, 96, 64]]).repeat(100, 1)
    moved = model._jittered(boxes, (64, 96))
    assert (moved != boxes).any(dim=0).all()
    assert (moved >= 0).all() and (moved[:, 2] <= 96).all() and (moved[:, 3] <= 64).all()
    assert (moved[:, 2:] > moved[:, :2]).all()
    assert (moved - boxes).abs().max() <= 40 * 0.2 + 40 * 0.1 + 1e-4
    untouched = faster_rcnn_lite0_fpn(num_classes=3)
    assert untouched._jittered(boxes, (64, 96)) is boxes


def test_anchors_that_cross_the_border_are_not_learnt():
    rpn = faster_rcnn_lite0_fpn(num_classes=3, rpn={"inside_only": True}).rpn
    anchors = torch.tensor([[-1.0, 0, 20, 20], [2.0, 2, 22, 22], [80.0, 40, 100, 60], [40.0, 30, 60, 50]])
    gt = Instances(image_size=(64, 96), boxes=torch.tensor([[0.0, 0, 20, 20]]), labels=torch.tensor([1]))
    assert inside(anchors, (64, 96)).tolist() == [False, True, False, True]
    assert rpn.assign(anchors, gt, (64, 96)).tolist() == [IGNORED, 0, IGNORED, UNMATCHED]


def test_all_sizes_stand_on_an_only_map():
    with torch.device("meta"):
        model = faster_rcnn_r50_c4(num_classes=3)
    assert model.rpn.level_sizes == [(32, 64, 128, 256, 512)] and model.rpn.objectness.out_channels == 15
    model = faster_rcnn_r18_c4(num_classes=3).eval()
    raw = model(ImageBatch.from_tensors([torch.rand(3, 64, 96)]))
    (anchors,) = model.rpn.anchors(raw)
    assert raw.objectness[0].shape == (1, 15, 4, 6) and anchors.shape == (15 * 24, 4)
    sides = (anchors[:15, 2:] - anchors[:15, :2]).prod(1).sqrt()
    assert torch.allclose(sides.view(5, 3).mean(1), torch.tensor([16.0, 32, 64, 128, 256]), rtol=0.05)


def test_a_backbone_of_timm_by_name():
    model = models.variant("faster_rcnn_timm_fpn")(num_classes=2, backbone="mobilenetv3_small_050")
    assert len(model(ImageBatch.from_tensors([torch.rand(3, 64, 64)])).objectness) == 5


@pytest.mark.parametrize(
    "name", ["cascade_mask_rcnn_lite0_fpn", "mask_scoring_rcnn_lite0_fpn", "panet_lite0_fpn", "faster_rcnn_r18_c4"]
)
@torch.inference_mode()
def test_relatives_are_the_same_when_optimized(name):
    torch.manual_seed(0)
    plain = models.variant(name)(
        num_classes=2, rpn={"post_nms_top_n": 10, "pre_nms_top_n": 20}, max_detections=5
    ).eval()
    batch = ImageBatch.from_tensors([torch.rand(3, 64, 96)])
    fast = optimize_for_inference(plain)
    for one, other in zip(plain(batch).objectness, fast(batch).objectness, strict=True):
        assert torch.allclose(one, other, atol=1e-4)
    raw, boxes = plain(batch), [torch.tensor([[4.0, 5, 60, 50], [30.0, 10, 90, 64]])]
    for one, other in zip(plain.second_stage(raw, boxes)[0], fast.second_stage(raw, boxes)[0], strict=True):
        assert torch.allclose(one, other, atol=1e-3)


def test_an_image_without_objects_counts_as_one_positive_in_mmdetections_losses(model, monkeypatch):
    from eachmask.models.detection.retinanet import retinanet_lite0_fpn

    raw = model(ImageBatch.from_tensors([torch.rand(3, 100, 100)] * 2))
    targets = [target((10, 10, 50, 60)), target()]
    by_divisor = {}
    for divisor in ("sampled", "counted"):
        monkeypatch.setattr(model.rpn, "config", replace(model.config.rpn, batch_size=10**6))
        monkeypatch.setattr(model.rpn, "conventions", replace(model.config.conventions, rpn_divisor=divisor))
        by_divisor[divisor] = float(model.rpn.losses(raw, targets)["rpn_objectness"])
    anchors = torch.cat(model.rpn.anchors(raw))
    matched = [model.rpn.assign(anchors, t, (100, 100)) for t in targets]
    used = sum(int((m >= UNMATCHED).sum()) for m in matched)
    assert by_divisor["sampled"] / by_divisor["counted"] == pytest.approx(1 + 1 / used, abs=1e-7)

    dense = retinanet_lite0_fpn(num_classes=3).eval()
    with torch.inference_mode():
        two, one = (dense(ImageBatch.from_tensors([torch.zeros(3, 100, 100)] * num)) for num in (2, 1))
        both, alone = dense.losses(two, targets), dense.losses(one, targets[:1])
        num = int((dense.assign(torch.cat(dense.anchors(one)), targets[0]) >= 0).sum())
    assert float(both["box"]) == pytest.approx(float(alone["box"]) * num / (num + 1), rel=1e-4)


def test_where_the_proposal_networks_smooth_l1_turns(model, monkeypatch):
    """The same errors cost what each beta says: e - beta / 2 beyond it, e^2 / 2 beta within it, e where it is 0."""
    raw, gt = model(ImageBatch.from_tensors([torch.rand(3, 100, 100)])), target((10, 10, 50, 60))
    anchors = torch.cat(model.rpn.anchors(raw))
    monkeypatch.setattr(model.rpn, "config", replace(model.config.rpn, batch_size=10**6))
    matched = model.rpn.assign(anchors, gt, (100, 100))
    deltas = torch.cat([flatten_anchors(x, 4) for x in raw.deltas], 1)[0][matched >= 0]
    error = (deltas - box_ops.encode(gt.boxes.expand(len(deltas), 4), anchors[matched >= 0], (1.0,) * 4)).abs()
    num = int((matched >= UNMATCHED).sum())
    assert (error < 0.3).any() and (error > 0.3).any()
    for beta in (0.0, 1 / 9, 0.3):
        monkeypatch.setattr(model.rpn, "conventions", replace(TORCHVISION, rpn_smooth_l1_beta=beta))
        smooth = torch.where(error < beta, error**2 / (2 * max(beta, 1e-9)), error - beta / 2)
        assert float(model.rpn.losses(raw, [gt])["rpn_box"]) == pytest.approx(float(smooth.sum()) / num, rel=1e-4)


def test_conventions_are_those_of_the_frameworks():
    """Constants that the recorded losses and detections are too coarse to tell apart."""
    assert [c.rpn_smooth_l1_beta for c in (TORCHVISION, DETECTRON2, MMDET)] == [1 / 9, 0, 0]
    assert [c.smooth_l1_beta for c in (TORCHVISION, DETECTRON2, MMDET)] == [1 / 9, 0, 0]
    assert [c.low_quality_moves for c in (TORCHVISION, DETECTRON2, MMDET)] == [False, False, True]
    assert [c.low_quality_iou for c in (TORCHVISION, DETECTRON2, MMDET)] == [0, 0, 0.3]
    assert [c.min_side for c in (TORCHVISION, DETECTRON2, MMDET)] == [1e-2, 1e-6, 0]
    assert [c.symmetric_clip for c in (TORCHVISION, DETECTRON2, MMDET)] == [False, False, True]


@pytest.mark.parametrize("symmetric", [False, True])
def test_a_box_shrinks_no_more_than_mmdetection_lets_it(symmetric):
    model = faster_rcnn_lite0_fpn(num_classes=2, conventions={"symmetric_clip": symmetric})
    box = torch.tensor([[0.0, 0, 100, 100]])
    (moved,) = model.moved(box, torch.tensor([[0.0, 0, -40, -40]]), (1.0, 1.0, 5.0, 5.0))
    width = float(moved[2] - moved[0])
    assert width == pytest.approx(100 * 16 / 1000 if symmetric else 100 * torch.e**-8, rel=1e-3)


@pytest.mark.parametrize(("lowest", "stands_for"), [(0.0, 0), (0.3, UNMATCHED)])
def test_from_which_overlap_an_objects_best_anchor_is_positive(lowest, stands_for):
    rpn = faster_rcnn_lite0_fpn(num_classes=2, conventions={"low_quality_iou": lowest}).rpn
    anchors = torch.tensor([[0.0, 0, 40, 40], [60.0, 60, 90, 90]])
    gt = target((0.0, 0.0, 20.0, 20.0))  # IoU 0.25 with the first
    assert rpn.assign(anchors, gt, (100, 100)).tolist() == [stands_for, UNMATCHED]


@pytest.mark.parametrize(("best_counts", "moves", "stands_for"), [(False, True, 0), (True, False, 0), (True, True, 1)])
def test_which_object_the_best_proposal_of_another_stands_for(best_counts, moves, stands_for):
    config = {"roi": {"allow_low_quality_matches": best_counts}, "conventions": {"low_quality_moves": moves}}
    model = faster_rcnn_lite0_fpn(num_classes=2, **config)
    gt = Instances.cat([target((0.0, 0.0, 20.0, 20.0)), target((0.0, 0.0, 20.0, 33.0))])
    proposals = torch.tensor([[0.0, 0, 20, 25]])  # IoU 0.8 with the first, 0.76 with the second
    assert model.match_proposals(proposals, gt, 0.5).tolist() == [stands_for]


@pytest.mark.parametrize(("min_side", "count"), [(1e-2, 1), (1e-6, 2), (0.0, 3)])
def test_how_narrow_a_detection_may_be(min_side, count):
    boxes = torch.tensor([[0.0, 0, 20, 20], [50, 50, 50.005, 60], [80, 50, 80, 60]])[:, None]
    kept, _, _ = keep_best(boxes, torch.tensor([[0.9], [0.8], [0.7]]), (0.05, 0.5, 10), min_side)
    assert len(kept) == count
