from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from eachmask.backbones.features import Features
from eachmask.models.config import changed
from eachmask.models.instance import pointrend
from eachmask.models.instance.implicit_pointrend import (
    PerceptronConfig,
    PredictedPerceptron,
    implicit_pointrend_lite0_fpn,
)
from eachmask.models.instance.pointrend import (
    PointHead,
    PointHeadConfig,
    grid_points,
    point_targets,
    pointrend_lite0_fpn,
    read_grid,
    read_points,
)
from eachmask.ops.points import point_sample, sample_uncertain_points, uncertainty
from eachmask.ops.roi import roi_align
from eachmask.structures import RLE, DecodeOptions, ImageBatch, Instances


def scene() -> ImageBatch:
    torch.manual_seed(1)
    return ImageBatch.from_tensors([torch.rand(3, 64, 96), torch.rand(3, 80, 50)])


def few(build=pointrend_lite0_fpn, **config):
    torch.manual_seed(0)
    return build(num_classes=3, rpn={"pre_nms_top_n": 60, "post_nms_top_n": 40}, max_detections=12, **config).eval()


def test_points_of_the_loss_are_undecided_where_the_sampled_value_is():
    # A step from -4 to 4 between two columns: the two columns are equally sure, the line between them is not.
    logits = torch.full((1, 1, 8, 8), -4.0)
    logits[..., 4:] = 4
    points = sample_uncertain_points(logits, 100, generator=torch.Generator().manual_seed(0))
    at_step = (points[0, :75, 0] - 0.5).abs() < 0.125
    at_border = ((points[0, :75] - 0.5).abs() > 0.5 - 0.0625).any(dim=1)  # there the map fades into the 0 outside
    assert (at_step | at_border).all() and at_step.sum() > 20
    assert uncertainty(logits).unique().tolist() == [-4.0]  # the cells themselves are all equally sure


@pytest.mark.parametrize("build", [pointrend_lite0_fpn, implicit_pointrend_lite0_fpn])
@torch.inference_mode()
def test_subdivision_keeps_certain_cells_and_asks_the_others(build, monkeypatch):
    model = few(build, points={"mask_size": 56, "per_subdivision": 49})
    features = model(scene()).features
    boxes, labels = [torch.tensor([[4.0, 5, 60, 50], [10, 10, 40, 30]]), torch.zeros(0, 4)], torch.tensor([0, 2])
    asked = []
    answers = model.point_logits

    def spy(fine, points, region, chosen):
        asked.append(points)
        return answers(fine, points, region, chosen)

    monkeypatch.setattr(model, "point_logits", spy)
    mask = model.render(features, boxes, labels)
    assert mask.shape == (2, 56, 56)
    assert [p.shape[1] for p in asked] == [49, 49, 49, 49]  # 7 x 7 whole, then as many cells of 14, 28 and 56
    doubled = model.render(features, boxes, labels)
    assert torch.equal(mask, doubled)
    monkeypatch.setattr(model, "config", changed(model.config, {"points": {"mask_size": 28}}))
    before = F.interpolate(model.render(features, boxes, labels)[:, None], scale_factor=2, mode="bilinear")[:, 0]
    differs = (mask != before).flatten(1)
    order = before.flatten(1).abs().argsort(dim=1)
    kept = torch.ones_like(differs).scatter(1, order[:, :49], False)
    assert not (differs & kept).any() and differs.sum() > 80


@torch.inference_mode()
def test_a_grid_that_is_asked_whole_makes_coarser_ones_needless():
    model = few(points={"mask_size": 28, "per_subdivision": 28 * 28})
    features = model(scene()).features
    boxes, labels = [torch.zeros(0, 4), torch.tensor([[4.0, 5, 40, 50]])], torch.tensor([1])
    assert model.first_side() == 28
    region = model.represent(features, boxes)
    points = grid_points(28, torch.device("cpu"))
    logits = model.point_logits(read_points(features, boxes, points), points, region, labels)
    assert torch.allclose(model.render(features, boxes, labels), logits.view(1, 28, 28))


@torch.inference_mode()
def test_groups_of_regions_change_nothing(monkeypatch):
    model = few(points={"mask_size": 28, "per_subdivision": 49})
    raw = model(scene())
    together = model.decode(raw, DecodeOptions(score_threshold=0.01))
    monkeypatch.setattr(pointrend, "ROI_CHUNK_SIZE", 5)
    for one, other in zip(model.decode(raw, DecodeOptions(score_threshold=0.01)), together, strict=True):
        assert len(one) == 12 and torch.allclose(one.masks.probabilities, other.masks.probabilities, atol=1e-3)


def test_the_point_head_gives_the_logit_of_one_class():
    torch.manual_seed(0)
    head = PointHead(8, 5, PointHeadConfig(width=16))
    torch.nn.init.normal_(head.classes.weight)
    fine, coarse, labels = torch.randn(6, 8, 9), torch.randn(6, 5, 9), torch.tensor([0, 4, 2, 2, 1, 3])
    every = head.classes(head.hidden(fine, coarse))
    assert torch.allclose(head(fine, coarse, labels), every[torch.arange(6), labels], atol=1e-5)


def test_a_predicted_perceptron_is_a_perceptron():
    torch.manual_seed(0)
    head = PredictedPerceptron(8, PerceptronConfig(width=6, layers=2, position_channels=4))
    layers = [torch.nn.Linear(12, 6), torch.nn.Linear(6, 6), torch.nn.Linear(6, 1)]
    weights = [layer.weight.flatten() for layer in layers] + [layer.bias for layer in layers]
    parameters = torch.cat(weights)[None]
    assert parameters.shape[1] == head.num_parameters
    fine, points = torch.randn(1, 8, 5), torch.rand(1, 5, 2)
    angles = 2 * torch.pi * (2 * points - 1) @ head.directions
    x = torch.cat([angles.sin(), angles.cos(), fine.transpose(1, 2)], dim=2)
    expected = layers[2](torch.relu(layers[1](torch.relu(layers[0](x)))))[..., 0]
    assert torch.allclose(head(fine, points, parameters), expected, atol=1e-5)


def test_a_grid_reads_like_roi_align_with_one_point_per_cell():
    maps = torch.randn(2, 3, 20, 24)
    boxes = [torch.tensor([[10.0, 8, 60, 50]]), torch.tensor([[20.0, 30, 80, 64], [4, 4, 40, 20]])]
    expected = roi_align([maps], boxes, 14, [4], sampling=1, aligned=True)
    assert torch.allclose(read_grid(Features((maps,), (4,), (3,)), boxes, 14), expected, atol=1e-5)


def test_point_targets_read_the_bitmap_as_if_it_were_whole():
    rng = np.random.default_rng(0)
    ys, xs = np.mgrid[:40, :50]
    bitmaps = np.stack([(ys - 20) ** 2 + (xs - 25) ** 2 < 150, (xs < 9) & (ys > 30), np.zeros((40, 50), bool)])
    boxes = torch.tensor([[10.0, 5, 42, 36], [0, 20, 20, 40], [3, 3, 9, 9], [12, 12, 30, 33]])
    matched = torch.tensor([0, 1, 2, 0])
    points = torch.from_numpy(rng.random((4, 30, 2), dtype=np.float32))
    place = boxes[:, None, :2] + points * (boxes[:, None, 2:] - boxes[:, None, :2])
    whole = torch.from_numpy(bitmaps).float()[matched, None]
    expected = point_sample(whole, place / torch.tensor([50.0, 40.0]))[:, 0]
    found = point_targets(RLE.from_bitmaps(bitmaps), matched, boxes, points)
    assert torch.allclose(found, expected, atol=1e-5)
    assert found[2].sum() == 0 and ((found > 0) & (found < 1)).any()


def test_masks_of_the_loss_may_be_drawn_in_the_boxes_that_the_box_head_predicts():
    model = few(train_on_predicted=True)
    batch = scene()
    raw = model(batch)
    boxes, labels = [torch.tensor([[4.0, 5, 60, 50], [10, 10, 40, 30]]), torch.zeros(0, 4)], torch.tensor([0, 2])
    torch.nn.init.zeros_(model.box_predictor.deltas.weight)
    torch.nn.init.zeros_(model.box_predictor.deltas.bias)
    assert torch.allclose(model.predicted_boxes(raw, boxes, labels)[0], boxes[0])
    with torch.no_grad():
        model.box_predictor.deltas.bias.view(3, 4)[2, 2] = 5 * np.log(2)  # class 2 is twice as wide
    first, second = model.predicted_boxes(raw, boxes, labels)[0].tolist()
    assert first == [4, 5, 60, 50] and second == pytest.approx([-5, 10, 55, 30], abs=1e-3)
    torch.nn.init.constant_(model.box_predictor.deltas.bias, 99.0)
    (height, width), far = batch.sizes[0], model.predicted_boxes(raw, boxes, labels)[0]
    assert (far[:, 0] >= -width / 2).all() and (far[:, 2] <= 1.5 * width).all()
    bitmaps = np.zeros((1, height, width), bool)
    bitmaps[0, 10:30, 10:50] = True
    target = Instances(
        image_size=(height, width),
        boxes=torch.tensor([[10.0, 10, 50, 30]]),
        labels=torch.tensor([1]),
        masks=RLE.from_bitmaps(bitmaps),
    )
    nothing = Instances(
        image_size=batch.sizes[1],
        boxes=torch.zeros(0, 4),
        masks=RLE.empty(batch.sizes[1]),
        labels=torch.zeros(0, dtype=torch.int64),
    )
    losses = model.losses(raw, [target, nothing])
    assert torch.isfinite(losses["mask"]) and torch.isfinite(losses["point"])
