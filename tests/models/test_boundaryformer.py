from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from eachmask.models.instance import boundaryformer
from eachmask.models.instance.boundaryformer import (
    DeformableAttention,
    PolygonHead,
    PolygonHeadConfig,
    boundaryformer_lite0_fpn,
    first_polygon,
    map_encoding,
)
from eachmask.ops.roi import roi_align
from eachmask.structures import DecodeOptions, ImageBatch, Polygons


def scene() -> ImageBatch:
    torch.manual_seed(1)
    return ImageBatch.from_tensors([torch.rand(3, 64, 96), torch.rand(3, 80, 50)])


def few():
    torch.manual_seed(0)
    config = {"rpn": {"pre_nms_top_n": 60, "post_nms_top_n": 40}, "max_detections": 12}
    return boundaryformer_lite0_fpn(num_classes=3, **config).eval()


@pytest.mark.parametrize("num", [4, 8, 12])
def test_the_first_polygon_goes_evenly_round_a_circle(num):
    points = first_polygon(num)
    assert torch.allclose((points - 0.5).norm(dim=1), torch.full((num,), 0.49), atol=1e-5)
    angle = torch.atan2(points[:, 1] - 0.5, points[:, 0] - 0.5) % (2 * math.pi)
    assert torch.allclose(angle, torch.arange(num) * 2 * math.pi / num, atol=0.011)


@torch.inference_mode()
def test_untrained_polygons_are_the_first_one_with_midpoints():
    head = PolygonHead(16, PolygonHeadConfig(num_points=16, attention_heads=2, feedforward=8, levels=1))
    layers = head([torch.randn(16, 8, 9)], torch.tensor([[0.1, 0.2, 0.8, 0.9]]))
    assert [layer.shape for layer in layers] == [(1, 8, 2), (1, 16, 2)]
    assert torch.allclose(layers[0][0], first_polygon(8), atol=1e-5)
    assert torch.allclose(layers[1][0, ::2], layers[0][0], atol=1e-5)
    assert torch.allclose(layers[1][0, 1::2], (layers[0][0] + layers[0][0].roll(-1, 0)) / 2, atol=1e-5)


@torch.inference_mode()
def test_deformable_attention_on_a_worked_example():
    # One head, one sample: no offset, full weight; so each vertex reads the map where it is, in its box.
    look = DeformableAttention(4, PolygonHeadConfig(attention_heads=1, samples=1, levels=1))
    torch.nn.init.eye_(look.values.weight)
    torch.nn.init.eye_(look.output.weight)
    torch.nn.init.zeros_(look.offsets.bias)
    level = torch.randn(4, 6, 10)
    places, boxes = torch.rand(3, 5, 2), torch.tensor([[0.0, 0, 1, 1], [0.2, 0.4, 0.6, 0.9], [0.5, 0, 1, 0.5]])
    seen = look(torch.randn(3, 5, 4), places, boxes, [level])
    at = boxes[:, None, :2] + places * (boxes[:, None, 2:] - boxes[:, None, :2])
    expected = F.grid_sample(level[None], 2 * at.view(1, 15, 1, 2) - 1, align_corners=False)
    assert torch.allclose(seen, expected[0, :, :, 0].T.view(3, 5, 4), atol=1e-5)
    # An offset of one cell to the right of the map is one cell of the box.
    look.offsets.bias.copy_(torch.tensor([1.0, 0.0]))
    shifted = look(torch.zeros(3, 5, 4), places, boxes, [level])
    right = places + torch.tensor([0.1, 0])
    look.offsets.bias.zero_()
    assert torch.allclose(shifted, look(torch.zeros(3, 5, 4), right, boxes, [level]), atol=1e-5)


@torch.inference_mode()
def test_maps_without_padding_are_roi_align_of_the_whole_image():
    model, batch = few(), scene()
    features = model(batch).features
    for index, (height, width) in enumerate(batch.sizes):
        whole = torch.tensor([[0.0, 0, width, height]])
        for level, stride, found in zip(
            features.maps, features.strides, model.unpadded(features, index, (height, width)), strict=False
        ):
            if level.shape[-2] == level.shape[-1]:  # ours pools squares
                expected = roi_align([level[index : index + 1]], [whole], level.shape[-1], [stride], 0, aligned=True)
                assert torch.allclose(found, expected[0], atol=1e-4)
    padded = model.unpadded(features, 0, tuple(batch.tensor.shape[-2:]))
    assert torch.allclose(padded[0], features.maps[0][0], atol=1e-4)


def test_map_encoding_tells_every_cell_from_the_others():
    code = map_encoding(torch.zeros(16, 5, 7)).flatten(1).T
    distance = torch.cdist(code, code) + 10 * torch.eye(35)
    assert distance.min() > 0.3


@torch.inference_mode()
def test_masks_are_polygons_in_their_boxes_however_they_are_grouped(monkeypatch):
    model = few()
    for step in model.polygon_head.steps:
        torch.nn.init.normal_(step[-1].weight, std=0.5)
    raw = model(scene())
    together = model.decode(raw, DecodeOptions(score_threshold=0.01))
    monkeypatch.setattr(boundaryformer, "BOX_CHUNK_SIZE", 5)
    for one, other in zip(model.decode(raw, DecodeOptions(score_threshold=0.01)), together, strict=True):
        assert len(one) == 12 and isinstance(one.masks, Polygons)
        for (ring,), (same,), box in zip(one.masks.outers, other.masks.outers, one.boxes.numpy(), strict=True):
            assert ring.shape == (32, 2) and np.allclose(ring, same, atol=1e-3)
            assert (ring >= box[:2] - 1e-3).all() and (ring <= box[2:] + 1e-3).all()
