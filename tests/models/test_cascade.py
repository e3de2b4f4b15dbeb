from __future__ import annotations

import pytest
import torch

from eachmask.models.detection import cascade_rcnn
from eachmask.models.detection.cascade_rcnn import Config, cascade_rcnn_lite0_fpn
from eachmask.models.detection.fast_rcnn import Sampled
from eachmask.models.detection.faster_rcnn import FasterRCNN
from eachmask.models.detection.rpn import Raw
from eachmask.models.instance.cascade_mask_rcnn import cascade_mask_rcnn_lite0_fpn
from eachmask.structures import DecodeOptions, ImageBatch, Instances
from eachmask.structures import boxes as box_ops

FEW = {
    "rpn": {"pre_nms_top_n": 60, "post_nms_top_n": 20, "pre_nms_top_n_training": 60, "post_nms_top_n_training": 20},
    "roi": {"batch_size": 16},
}


@pytest.fixture(scope="module")
def model() -> FasterRCNN:
    torch.manual_seed(0)
    return cascade_rcnn_lite0_fpn(num_classes=3, **FEW).eval()


def target(*boxes: list[float]) -> Instances:
    labels = torch.arange(len(boxes)) % 3
    return Instances(image_size=(64, 96), boxes=torch.tensor(boxes).reshape(-1, 4), labels=labels)


def test_the_same_slip_weighs_more_at_later_stages():
    """A tenth of the side off is 1, 2, 3 of what the head is asked for: little errors are worth refining."""
    gt, near = torch.tensor([[10.0, 10, 50, 50]]), torch.tensor([[6.0, 10, 46, 50]])
    deltas = [box_ops.encode(gt, near, weights) for weights in Config().stages.box_weights]
    assert torch.allclose(torch.cat(deltas)[:, 0], torch.tensor([1.0, 2.0, 3.0]))
    wider = torch.tensor([[10.0, 10, 10 + 40 / torch.e, 50]])
    deltas = [box_ops.encode(gt, wider, weights) for weights in Config().stages.box_weights]
    assert torch.allclose(torch.cat(deltas)[:, 2], torch.tensor([5.0, 10.0, 15.0]))


def test_a_stage_that_is_right_refines_boxes_onto_the_truth(model):
    gt = torch.tensor([[10.0, 12, 50, 40], [60.0, 5, 90, 60]])
    boxes = torch.tensor([[5.0, 14, 45, 50], [50.0, 0, 96, 50]])
    for stage, weights in enumerate(model.config.stages.box_weights):
        deltas = box_ops.encode(gt, boxes, weights)
        (refined,) = model.refined(stage, [boxes], deltas, ((64, 96),))
        assert torch.allclose(refined, gt, atol=1e-4)
        (clipped,) = model.refined(stage, [boxes], deltas, ((30, 80),))
        assert torch.allclose(clipped, box_ops.clip(gt, (30, 80)), atol=1e-4)


def test_thresholds_rise_from_stage_to_stage(model):
    """A box at IoU 0.65 is an object to the first two stages and background to the third."""
    gt = target([0.0, 0, 40, 40])
    boxes = torch.tensor([[0.0, 0, 40, 26]])  # IoU 0.65
    labels = [model.sample_proposals(boxes, gt, iou, with_gt=False).labels for iou in model.config.stages.ious]
    assert [int(label) for label in labels] == [0, 0, 3]


@pytest.mark.parametrize("resample", [True, False])
def test_later_stages_learn_from_refined_boxes(resample):
    torch.manual_seed(0)
    model = cascade_rcnn_lite0_fpn(num_classes=3, stages={"resample": resample}, **FEW)
    gt = target([0.0, 0, 40, 40], [50.0, 10, 90, 60])
    proposals = torch.tensor([[2.0, 0, 42, 40], [70.0, 30, 96, 64]])
    before = model.sample_proposals(proposals, gt)
    assert int(before.is_gt.sum()) == 2
    refined = before.boxes + 1
    refined[0] = torch.tensor([5.0, 5, 5, 9])  # nothing left of it
    after: Sampled = model.sample_refined(1, refined, before, gt)
    if resample:  # the true ones are put aside and added again as they are
        assert len(after.boxes) == 4 and int(after.is_gt.sum()) == 2
        assert torch.equal(after.boxes[after.is_gt], gt.boxes)
    else:
        assert torch.equal(after.boxes, refined[1:])


@torch.inference_mode()
@pytest.mark.parametrize("average", ["scores", "logits"])
def test_scores_are_the_mean_over_the_stages(average):
    torch.manual_seed(0)
    model = cascade_rcnn_lite0_fpn(num_classes=3, stages={"average": average}, **FEW).eval()
    raw: Raw = model(ImageBatch.from_tensors([torch.rand(3, 64, 96)]))
    boxes = [torch.tensor([[5.0, 5, 40, 40], [30.0, 20, 90, 60]])]
    ((found, scores),) = model.second_stage(raw, boxes)
    logits = []
    for stage in range(3):
        answer, deltas = model.run_stage(stage, raw.features, boxes)
        logits.append(answer)
        boxes = model.refined(stage, boxes, deltas[:, 0], raw.sizes)
    stack = torch.stack(logits)
    mean = stack.mean(0).softmax(1) if average == "logits" else stack.softmax(2).mean(0)
    assert torch.allclose(scores, mean[:, :3], atol=1e-6) and torch.equal(found[:, 0], boxes[0])


def test_share_of_the_gradient_that_reaches_the_pyramid():
    gradients = []
    for share in (1.0, 0.25):
        torch.manual_seed(0)
        model = cascade_rcnn_lite0_fpn(num_classes=3, stages={"gradient": share}, **FEW).eval()
        raw = model(ImageBatch.from_tensors([torch.rand(3, 64, 96, generator=torch.Generator().manual_seed(0))]))
        level = raw.features.maps[0]
        logits, _ = model.run_stage(0, raw.features, [torch.tensor([[5.0, 5, 40, 40]])])
        gradients.append(torch.autograd.grad(logits.sum(), level)[0])
    assert gradients[0].abs().max() > 0 and torch.allclose(gradients[1], gradients[0] / 4, atol=1e-7)


@torch.inference_mode()
def test_a_box_for_each_class_is_refined_as_its_likeliest():
    """The last stage keeps the boxes of all classes; between stages a box is one."""
    torch.manual_seed(0)
    model = cascade_rcnn_lite0_fpn(num_classes=3, box_head={"class_agnostic": False}, **FEW).eval()
    raw: Raw = model(ImageBatch.from_tensors([torch.rand(3, 64, 96)]))
    boxes = [torch.tensor([[5.0, 5, 40, 40], [30.0, 20, 90, 60]])]
    ((found, _),) = model.second_stage(raw, boxes)
    for stage in range(3):
        logits, deltas = model.run_stage(stage, raw.features, boxes)
        weights = model.config.stages.box_weights[stage]
        moved = box_ops.clip(box_ops.decode(deltas, boxes[0][:, None], weights), (64, 96))
        boxes = [moved[range(2), logits[:, :3].argmax(1)]]
    assert found.shape == (2, 3, 4) and torch.allclose(found, moved)


def test_known_classes_decide_what_moves_a_box(model):
    logits, deltas = torch.tensor([[0.0, 2, 1, 9], [0.0, 2, 1, 9]]), torch.arange(24.0).reshape(2, 3, 4)
    labels = torch.tensor([2, 3])  # the second is background
    assert model.of_class(logits, deltas, labels).tolist() == [[8, 9, 10, 11], [16, 17, 18, 19]]
    assert torch.equal(model.of_class(logits, deltas), deltas[:, 1])


def test_swin_s_authors_learn_the_overlap_of_boxes():
    """giou_4conv1f: boxes that meet their objects cost nothing, one beside its object 10 (1 + 1/2) per box sampled."""
    torch.manual_seed(0)
    model = cascade_rcnn_lite0_fpn(num_classes=3, stages={"giou": 10.0}, box_head={"class_agnostic": False}, **FEW)
    boxes, labels = torch.tensor([[0.0, 0, 10, 10], [0.0, 0, 10, 10], [0.0, 0, 10, 10]]), torch.tensor([0, 2, 3])
    gt_boxes = torch.tensor([[0.0, 0, 10, 10], [30.0, 0, 40, 10], [0.0, 0, 90, 90]])
    sampled = [Sampled(boxes, labels, labels, gt_boxes)]
    loss = model._box_losses(1, torch.zeros(3, 4), torch.zeros(3, 3, 4), sampled)["box"]
    assert float(loss) == pytest.approx(10 * 1.5 / 3, abs=1e-5)
    assert cascade_rcnn.SWIN.stages.giou == 10 and cascade_rcnn.SWIN.box_head.convs == 4


def test_config_is_checked():
    with pytest.raises(ValueError, match="per stage"):
        cascade_rcnn_lite0_fpn(stages={"ious": (0.5, 0.6)})
    assert len(cascade_rcnn.MMDET.stages.box_weights) == 3


@torch.inference_mode()
def test_masks_are_the_mean_of_all_heads():
    torch.manual_seed(0)
    model = cascade_mask_rcnn_lite0_fpn(num_classes=3, max_detections=5, **FEW).eval()
    raw = model(ImageBatch.from_tensors([torch.rand(3, 64, 96)]))
    (found,) = model.decode(raw, DecodeOptions(score_threshold=0.01))
    rois = model.pool(raw.features, [found.boxes], 14)
    mean = sum(head(rois, found.labels).sigmoid() for head in model.mask_heads) / 3
    assert torch.allclose(found.masks.probabilities, mean, atol=1e-6)
