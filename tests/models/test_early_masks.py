"""SDS, CFM, hypercolumns, MNC and FCIS: the piece of arithmetic that each is known for."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from eachmask import models
from eachmask.models.detection.fast_rcnn import SamplingConfig
from eachmask.models.instance.cfm import mask_features
from eachmask.models.instance.fcis import assemble, class_logits, mask_logits
from eachmask.models.instance.hypercolumns import ColumnHead, ColumnsConfig, interpolation
from eachmask.models.instance.sds import Refinement, keep_regions, region_grids, sample_regions
from eachmask.ops.selective_search import Proposals
from eachmask.structures import RLE, ImageBatch, Instances

# SDS


def regions() -> RLE:
    bitmaps = np.zeros((3, 20, 30), bool)
    bitmaps[0, 4:12, 2:10] = True
    bitmaps[1, 4:12, 2:18] = True
    bitmaps[1, 4:8, 10:18] = False  # an L
    return RLE.from_bitmaps(bitmaps)


def test_a_region_on_the_grid_of_its_box():
    square, corner, nothing = region_grids(regions(), 4)
    assert (square == 1).all() and not nothing.any()
    assert corner.tolist() == [[1, 1, 0, 0]] * 2 + [[1] * 4] * 2
    assert region_grids(regions(), 3)[1, 1].tolist() == pytest.approx([1, 0.75, 0.5], abs=0.26)


def test_regions_are_taken_for_objects_by_their_pixels_not_their_boxes():
    masks = regions()[:2]
    boxes = torch.from_numpy(masks.boxes())
    lower = np.zeros((1, 20, 30), bool)
    lower[0, 8:12, 2:18] = True  # half of the L's box, but it has more than half of its pixels
    proposals = Proposals(torch.tensor([[2.0, 8, 18, 12]]), RLE.from_bitmaps(lower))
    target = Instances((20, 30), boxes[1:], masks=masks[1:], labels=torch.tensor([1]))
    chosen = sample_regions(proposals, target, 3, SamplingConfig(positive_fraction=1.0))
    assert chosen.sampled.labels.tolist() == [1, 1]
    signs = {tuple(b): s for b, s in zip(chosen.sampled.boxes.tolist(), chosen.signs.tolist(), strict=True)}
    assert signs == {(2, 8, 18, 12): [-1, 0, -1], (2, 4, 18, 12): [-1, 1, -1]}
    grid = dict(zip(map(tuple, chosen.sampled.boxes.tolist()), chosen.shapes, strict=True))
    assert (grid[2, 8, 18, 12] == 1).all() and grid[2, 4, 18, 12].mean() == pytest.approx(0.75)


def test_refinement_begins_with_the_region_itself():
    refinement = Refinement(4, 2, 10)
    shapes = torch.tensor([[[1.0, 0], [0, 1]]])
    _, logits = refinement(torch.zeros(1, 4), torch.tensor([1]), shapes)
    assert torch.equal(logits[0] > 0, shapes[0] > 0)  # where the drawing does not know


def test_selected_regions_know_their_proposals():
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 11], [20, 20, 30, 30]])
    probabilities = torch.tensor([[0.5, 0.1], [0.9, 0.0], [0.0, 0.7]])
    _, labels, scores, kept = keep_regions(boxes, probabilities, (40, 40), (0.3, 0.5, 10))
    assert kept.tolist() == [1, 2] and labels.tolist() == [0, 1]
    assert scores.tolist() == pytest.approx([0.9, 0.7])


# CFM


def test_features_outside_of_the_region_are_zero():
    shape = torch.zeros(1, 8, 8)
    shape[0, :, :4] = 1
    masked = mask_features(torch.ones(1, 3, 4, 4), shape)
    assert (masked[..., :2] == 1).all() and (masked[..., 2:] == 0).all()
    thin = torch.zeros(1, 8, 8)
    thin[0, 0, :] = 0.2
    assert (mask_features(torch.ones(1, 3, 4, 4), thin)[0, 0, 0] == 1).all(), "a thin region keeps its best cells"


# Hypercolumns


def test_a_pixel_listens_to_the_nearest_classifiers():
    weights = interpolation(2, 4)
    assert torch.allclose(weights.sum(0), torch.ones(4, 4))
    # Classifiers stand at 1/4 and 3/4 of the side, pixels at 1/8, 3/8, 5/8, 7/8.
    assert weights[0, 0].tolist() == pytest.approx([1, 0.75, 0.25, 0], abs=1e-6)
    assert weights[3, 3].tolist() == pytest.approx([0, 0.25, 0.75, 1], abs=1e-6)
    assert (interpolation(1, 5) == 1).all()


def test_a_column_is_the_sum_of_its_layers():
    """Enlarging answers is the same as classifying enlarged columns (paper, section 4)."""
    torch.manual_seed(0)
    head = ColumnHead((3, 5), 2, ColumnsConfig(classifiers=1, mask_side=8))
    layers = [torch.randn(2, 3, 4, 4), torch.randn(2, 5, 2, 2)]
    labels = torch.tensor([1, 0])
    column = torch.cat([torch.nn.functional.interpolate(x, (8, 8), mode="bilinear") for x in layers], dim=1)
    weight = torch.cat([w[labels, 0] for w in head.weights], dim=1)
    expected = (column * weight[:, :, None, None]).sum(1).sigmoid()
    assert torch.allclose(head(layers, labels), expected, atol=1e-5)


# MNC


@pytest.fixture(scope="module")
def cascade():
    torch.manual_seed(0)
    return models.mnc_lite0(num_classes=2, rpn={"pre_nms_top_n": 30, "post_nms_top_n": 20}).eval()


def test_boxes_with_a_gradient_are_the_same_boxes(cascade):
    raw = cascade(ImageBatch.from_tensors([torch.randn(3, 60, 90)]))
    for mine, theirs in zip(cascade.rpn.propose(raw, 30, 20), cascade.propose(raw, 30, 20), strict=True):
        assert mine.requires_grad and not theirs.requires_grad and torch.equal(mine, theirs)


def test_a_later_stage_teaches_where_the_box_should_have_been(cascade):
    """The gradient of the last class loss alone reaches what the first stage said of its boxes."""
    image = torch.randn(3, 60, 90)
    masks = RLE.from_bitmaps(np.pad(np.ones((1, 24, 30), bool), ((0, 0), (20, 16), (30, 30))))
    target = Instances((60, 90), torch.from_numpy(masks.boxes()), masks=masks, labels=torch.tensor([1]))
    raw = cascade(ImageBatch.from_tensors([image]))
    losses = cascade.losses(raw, [target])
    assert {"class", "mask", "box", "class_2", "mask_2", "box_2"} < set(losses)
    gradients = torch.autograd.grad(losses["class_2"], raw.deltas, allow_unused=True)
    assert any(g is not None and g.abs().sum() > 0 for g in gradients)


# FCIS


def test_every_part_of_a_region_is_read_off_its_own_map():
    # 2 x 2 parts, one channel, maps that hold the number of their part.
    maps = torch.arange(4.0).view(1, 4, 1, 1).expand(1, 4, 8, 8)
    region = assemble(maps, [torch.tensor([[4.0, 4, 28, 20]])], 2, 3, 4)
    assert region.shape == (1, 1, 6, 6)
    assert region[0, 0, :, ::3].tolist() == [[0, 1]] * 3 + [[2, 3]] * 3
    assert assemble(maps, [torch.zeros(0, 4)], 2, 3, 4).shape == (0, 1, 6, 6)


def test_places_within_a_region_are_those_of_the_image():
    # All four maps are the same ramp, which says its own x in px; so is the assembled region.
    ramp = (4 * (torch.arange(16.0) + 0.5)).expand(1, 4, 8, 16).contiguous()
    region = assemble(ramp, [torch.tensor([[10.0, 4, 34, 20]])], 2, 3, 4)
    assert region[0, 0, 0].tolist() == pytest.approx([12, 16, 20, 24, 28, 32])
    two = assemble(ramp.repeat(2, 1, 1, 1), [torch.zeros(0, 4), torch.tensor([[10.0, 4, 34, 20]] * 2)], 2, 3, 4)
    assert torch.equal(two, region.repeat(2, 1, 1, 1))


def test_class_and_mask_come_from_the_same_maps():
    # One region of two pixels, one class and background; the left pixel is inside, the right one in the box only.
    inside, outside = torch.tensor([[4.0, 0], [0, 0]]), torch.tensor([[0.0, 4], [1, 1]])
    scores = torch.stack([inside, outside]).view(1, 2, 2, 1, 2)
    assert class_logits(scores).tolist() == [[4, 1]], "inside or outside: the region fits the object"
    assert mask_logits(scores, torch.tensor([0])).tolist() == [[[4, -4]]]
