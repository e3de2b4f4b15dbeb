"""CondInst's pieces against their definitions."""

from __future__ import annotations

import numpy as np
import torch

from eachmask.models.instance.condinst import aligned_upsample, centres_of_mass, condinst_lite0_fpn
from eachmask.structures import RLE, DecodeOptions, ImageBatch, Instances


def test_aligned_upsampling_keeps_cells_at_their_places():
    torch.manual_seed(0)
    x = torch.randn(1, 2, 5, 6)
    for factor in (1, 2, 4):
        found = aligned_upsample(x, factor)
        assert found.shape == (1, 2, 5 * factor, 6 * factor)
        for row in range(5 * factor):
            for column in range(6 * factor):
                y = min(max((row - factor // 2) / factor, 0), 4)
                z = min(max((column - factor // 2) / factor, 0), 5)
                (y0, z0), (v, w) = (int(y), int(z)), (y % 1, z % 1)
                y1, z1 = min(y0 + 1, 4), min(z0 + 1, 5)
                wanted = (1 - v) * ((1 - w) * x[..., y0, z0] + w * x[..., y0, z1])
                wanted = wanted + v * ((1 - w) * x[..., y1, z0] + w * x[..., y1, z1])
                assert torch.allclose(found[..., row, column], wanted, atol=1e-5)


def test_places_stand_for_objects_near_their_centre_of_mass():
    bitmaps = np.zeros((2, 40, 50), bool)
    bitmaps[0, 10:30, 5:8] = bitmaps[0, 27:30, 5:45] = True  # an L: its mass is not in the middle of its box
    masks = RLE.from_bitmaps(bitmaps)
    boxes = torch.from_numpy(masks.boxes())
    boxes[1] = torch.tensor([2.0, 4.0, 6.0, 8.0])  # no pixels: the box must do
    found = centres_of_mass(Instances((40, 50), boxes, masks=masks, labels=torch.tensor([0, 0])))
    ys, xs = np.nonzero(bitmaps[0])
    assert torch.allclose(found, torch.tensor([[xs.mean(), ys.mean()], [4.0, 6.0]], dtype=torch.float32))


def test_masks_do_not_depend_on_how_many_are_drawn_together(monkeypatch):
    torch.manual_seed(0)
    model = condinst_lite0_fpn(num_classes=2).eval()
    batch = ImageBatch.from_tensors([torch.randn(3, 64, 96)])
    with torch.no_grad():
        raw = model(batch)
        options = DecodeOptions(score_threshold=0.001, max_detections=9)
        (together,) = model.decode(raw, options)
        monkeypatch.setattr("eachmask.ops.dynamic.AT_ONCE", 1)
        (alone,) = model.decode(raw, options)
    assert len(together) == 9
    assert np.array_equal(together.masks.to_rle().counts, alone.masks.to_rle().counts)
