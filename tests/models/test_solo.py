"""Which cells learn what, by the papers' rules; what the parity fixtures' four objects do not show."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from eachmask.models.instance.grid_heads import IGNORED, assign, class_loss, coordinates, doubled, mask_loss
from eachmask.models.instance.solo import BranchConfig, Config, MaskBranch
from eachmask.models.instance.solov2 import dynamic_conv
from eachmask.structures import RLE, DecodeOptions, ImageBatch, Instances

CANVAS = (160, 160)
CONFIG = Config(grids=(10, 5), scale_ranges=((1, 64), (48, 512)))


def squares(*boxes: tuple[int, int, int, int], labels: list[int] | None = None) -> Instances:
    bitmaps = np.zeros((len(boxes), *CANVAS), bool)
    for bitmap, (x1, y1, x2, y2) in zip(bitmaps, boxes, strict=True):
        bitmap[y1:y2, x1:x2] = True
    masks = RLE.from_bitmaps(bitmaps) if boxes else RLE.empty(CANVAS)
    return Instances(
        image_size=CANVAS,
        boxes=torch.from_numpy(masks.boxes()),
        masks=masks,
        labels=torch.tensor(labels if labels is not None else [0] * len(boxes)),
    )


def cells_of(assigned, grid):
    return sorted((int(c) // grid, int(c) % grid) for c in assigned.cells)


def test_an_object_belongs_to_the_levels_of_its_size():
    small, both, large = (8, 8, 24, 24), (60, 60, 116, 116), (40, 40, 140, 140)
    fine, coarse = assign(squares(small, both, large), CONFIG, 3, CANVAS)
    assert set(fine.objects.tolist()) == {0, 1} and set(coarse.objects.tolist()) == {1, 2}


def test_the_center_region_is_a_fifth_of_the_box():
    # Center of mass 87.5; a fifth of 56 px is 11.2 px, so 81.9 ... 93.1: within cell 5 (80 ... 96) of ten.
    fine, _ = assign(squares((60, 60, 116, 116)), CONFIG, 3, CANVAS)
    assert cells_of(fine, 10) == [(5, 5)]
    # 79.5 +- 5.6 touches cells 4 and 5 both ways.
    fine, _ = assign(squares((52, 52, 108, 108)), CONFIG, 3, CANVAS)
    assert cells_of(fine, 10) == [(4, 4), (4, 5), (5, 4), (5, 5)]
    assert int((fine.labels == 0).sum()) == 4 and int((fine.labels == 3).sum()) == 96


def test_at_most_one_cell_beside_the_center_and_none_outside():
    wide = replace(CONFIG, center_share=1.0)
    fine, _ = assign(squares((60, 60, 116, 116)), wide, 3, CANVAS)
    assert cells_of(fine, 10) == [(y, x) for y in (4, 5, 6) for x in (4, 5, 6)]
    fine, _ = assign(squares((0, 0, 40, 10)), wide, 3, CANVAS)
    assert min(cells_of(fine, 10)) == (0, 0)


def test_two_objects_in_one_cell():
    target = squares((60, 60, 116, 116), (76, 76, 100, 100), labels=[1, 2])
    fine, _ = assign(target, CONFIG, 3, CANVAS)
    assert fine.cells.tolist() == [55, 55] and fine.objects.tolist() == [0, 1] and fine.num_cells == 1
    assert fine.labels[5, 5] == 2
    only = fine.last_of_each_cell()
    assert only.cells.tolist() == [55] and only.objects.tolist() == [1]


def test_cells_in_a_crowd_are_not_learnt():
    target = replace(squares((0, 0, 80, 80), (100, 100, 130, 130)), crowd=torch.tensor([True, False]))
    fine, _ = assign(target, CONFIG, 3, CANVAS)
    assert (fine.labels[:5, :5] == IGNORED).all() and int((fine.labels == IGNORED).sum()) == 25
    assert set(fine.objects.tolist()) == {1}
    logits = torch.zeros(1, 3, 10, 10)
    alone = class_loss((logits,), [[fine]])
    logits[:, :, :5, :5] = 9.0
    assert class_loss((logits,), [[fine]]) == alone


def test_targets_without_masks_are_refused():
    with pytest.raises(ValueError, match="learns from masks"):
        assign(replace(squares((0, 0, 9, 9)), masks=None), CONFIG, 3, CANVAS)


def test_mask_loss_is_divided_by_cells_or_by_pairs():
    target = squares((60, 60, 116, 116), (76, 76, 100, 100), labels=[1, 2])
    assigned = [assign(target, replace(CONFIG, scale_ranges=((1, 512), (999, 1000))), 3, CANVAS)]
    errors = [torch.tensor([0.5, 0.7])]
    assert float(mask_loss(errors, assigned, CONFIG)) == pytest.approx(3 * 1.2 / 1)
    assert float(mask_loss(errors, assigned, replace(CONFIG, mask_mean="pairs"))) == pytest.approx(3 * 1.2 / 2)
    assert mask_loss([], assigned, CONFIG) == 0


def test_coordinates_go_from_border_to_border():
    xs, ys = coordinates(torch.zeros(2, 7, 3, 5))[1]
    assert xs[0].tolist() == [-1, -0.5, 0, 0.5, 1] and ys[:, 0].tolist() == [-1, 0, 1]


def test_chosen_cells_are_predicted_as_all_are():
    torch.manual_seed(0)
    branch = MaskBranch(16, (4,), BranchConfig(width=32, mask_convs=1))
    maps = branch(torch.randn(1, 16, 6, 8), 0)
    everything = branch.masks[0](doubled(maps))[0].sigmoid()
    cells = torch.tensor([3, 0, 15, 3])
    assert torch.allclose(branch.predict(maps[0], 0, cells, None), everything[cells], atol=1e-6)


def test_a_kernel_is_a_convolution():
    kernels, features = torch.randn(3, 8), torch.randn(8, 5, 6)
    expected = torch.nn.functional.conv2d(features[None], kernels[:, :, None, None])[0].sigmoid()
    assert torch.allclose(dynamic_conv(kernels, features), expected, atol=1e-6)


@pytest.mark.parametrize("name", ["solo_lite0", "decoupled_solo_lite0", "solov2_lite0", "condinst_lite0_fpn"])
def test_maps_keep_their_stride_whatever_the_size(name, monkeypatch):
    """A size that no stride divides: an object has the same true cells as in an image padded to a multiple of 32."""
    from eachmask import models
    from eachmask.models.instance import condinst, solo, solov2

    seen: list[torch.Tensor] = []
    for module, drawer in ((solo, "every_cell"), (solov2, "every_cell"), (condinst, "every_fourth")):
        original = getattr(module, drawer)

        def remember(*args: Any, original: Any = original) -> torch.Tensor:
            seen.append(original(*args))
            return seen[-1]

        monkeypatch.setattr(module, drawer, remember)
    torch.manual_seed(0)
    model = models.variant(name)(num_classes=2).eval()
    areas = []
    for size in ((101, 139), (128, 160)):
        bitmap = np.zeros((1, *size), bool)
        bitmap[0, 20:70, 30:100] = True
        masks = RLE.from_bitmaps(bitmap)
        target = Instances(size, torch.from_numpy(masks.boxes()), masks, torch.tensor([1]))
        seen.clear()
        with torch.no_grad():
            raw = model(ImageBatch(torch.zeros(1, 3, *size), (size,)))
            losses = model.losses(raw, [target])
            (found,) = model.decode(raw, DecodeOptions(score_threshold=1e-3, max_detections=3))
        assert all(bool(value.isfinite()) for value in losses.values())
        assert found.masks.to_rle().size == size
        areas.append({float(mask.sum()) for part in seen for mask in part})
    assert areas[0] == areas[1] and 0 not in areas[0]
