"""TensorMask's rules one by one: which window stands for what, its focal loss, masks of many sizes."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from eachmask.models.instance.tensormask import Raw, TensorMask, WindowMasks, focal_star, tensormask_lite0_fpn
from eachmask.ops.match import IGNORED
from eachmask.structures import ImageBatch, Instances, RoIMasks


@pytest.fixture(scope="module")
def ran() -> tuple[TensorMask, Raw]:
    torch.manual_seed(0)
    model = tensormask_lite0_fpn(num_classes=2).eval()
    with torch.inference_mode():
        return model, model(ImageBatch.from_tensors([torch.randn(3, 128, 128)]))


def matched(ran: tuple[TensorMask, Raw], *boxes: list[float], crowd: list[bool] | None = None) -> torch.Tensor:
    model, raw = ran
    target = Instances(
        (128, 128),
        torch.tensor(boxes),
        labels=torch.zeros(len(boxes), dtype=torch.int64),
        crowd=None if crowd is None else torch.tensor(crowd),
    )
    return model.assign(raw, target)


def test_windows_contain_their_object_are_central_and_not_much_larger(ran):
    model, raw = ran
    box = [40.0, 44, 80, 80]
    windows = torch.cat(model.anchors(raw))[matched(ran, box) >= 0]
    assert len(windows)
    assert (windows[:, :2] <= torch.tensor(box[:2])).all() and (windows[:, 2:] >= torch.tensor(box[2:])).all()
    sides = windows[:, 2] - windows[:, 0]
    units = torch.where(sides >= 88, 8, 4)
    offsets = ((windows[:, :2] + windows[:, 2:]) / 2 - torch.tensor([60.0, 62])).norm(dim=1)
    assert (offsets <= units).all()
    assert (sides - units <= 2 * 40).all() and sides.max() == 88


def test_the_finest_windows_take_what_is_smaller_still(ran):
    model, raw = ran
    sides = torch.cat(model.anchors(raw))[matched(ran, [61.0, 61, 64, 64]) >= 0]
    assert len(sides) and (sides[:, 2] - sides[:, 0] == 44).all()


def test_a_window_that_fits_two_objects_is_background(ran):
    alone, both = matched(ran, [50.0, 50, 80, 80]), matched(ran, [50.0, 50, 80, 80], [51.0, 51, 79, 79])
    assert (alone >= 0).sum() > (both >= 0).sum()
    assert not ((alone >= 0) & (both == 0) & (matched(ran, [51.0, 51, 79, 79]) >= 0)).any()


def test_windows_in_a_crowd_are_ignored(ran):
    index = matched(ran, [0.0, 0, 128, 128], crowd=[True])
    assert not (index >= 0).any() and (index == IGNORED).any()


def test_focal_star_is_flat_where_the_answer_is_sure_and_steep_where_it_is_wrong():
    logits, gt = torch.tensor([-4.0, 0, 4], requires_grad=True), torch.ones(3)
    focal_star(logits, gt, 0.5, 3.0).sum().backward()
    plain = torch.tensor([-4.0, 0, 4], requires_grad=True)
    (0.5 * F.binary_cross_entropy_with_logits(plain, gt, reduction="sum")).backward()
    assert logits.grad is not None and plain.grad is not None
    assert logits.grad[0] == pytest.approx(float(plain.grad[0]), rel=0.05)
    assert abs(logits.grad[2]) < 0.01 * abs(plain.grad[2])
    assert torch.allclose(focal_star(plain, gt, 0.5, 1.0).sum(), 0.5 * F.softplus(-plain).sum())


def test_masks_of_many_sizes_keep_their_order():
    grids = [torch.rand(side, side) for side in (15, 11, 30, 11)]
    windows = torch.tensor([[0.0, 0, 30, 30], [10, 5, 40, 35], [-8, -8, 20, 20], [30, 30, 60, 60]])
    masks = WindowMasks(grids, windows, (50, 60), 0.5)
    together = masks.resize((75, 90)).to_rle()
    for i, grid in enumerate(grids):
        alone = RoIMasks(grid[None], windows[i : i + 1] * 1.5, (75, 90)).to_rle()
        assert together[i].iou(alone)[0, 0] == 1
    assert masks[[2, 0]].area().tolist() == masks.area()[[2, 0]].tolist()
    assert len(WindowMasks([], torch.zeros(0, 4), (5, 5), 0.5).to_rle()) == 0
