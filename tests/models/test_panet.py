from __future__ import annotations

import pytest
import torch
from torch import nn

from eachmask.backbones.features import Features
from eachmask.backbones.fpn import FPN, Pyramid
from eachmask.backbones.pafpn import PAFPN, PLAIN, BottomUp
from eachmask.models.instance.mask_rcnn import MaskHeadConfig
from eachmask.models.instance.panet import AdaptivePooling, FusedMaskHead, panet_lite0_fpn
from eachmask.ops.roi import roi_align
from eachmask.structures import ImageBatch


class Backbone(nn.Module):
    """Four maps of a few channels, straight from the image."""

    channels, strides = (4, 5, 6, 7), (4, 8, 16, 32)

    def forward(self, images: torch.Tensor) -> Features:
        maps = [
            nn.functional.avg_pool2d(images.mean(1, keepdim=True), stride).expand(-1, width, -1, -1)
            for width, stride in zip(self.channels, self.strides, strict=True)
        ]
        return Features(tuple(maps), self.strides, self.channels)


@pytest.mark.parametrize("chained", [True, False])
@torch.inference_mode()
def test_the_second_path_is_the_formula(chained):
    """N2 = P2, N(i + 1) = relu(conv(P(i + 1) + relu(strided_conv(N(i)))))."""
    torch.manual_seed(0)
    pafpn = PAFPN(Backbone(), Pyramid(channels=8), BottomUp(chained=chained, norm=nn.BatchNorm2d)).eval()
    images = torch.rand(1, 3, 64, 96)
    first = FPN.with_extra
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PAFPN, "with_extra", first)
        levels = pafpn(images).maps[:4]
    found = pafpn(images)
    expected, below = [levels[0]], levels[0]
    for level, down, finish in zip(levels[1:], pafpn.down, pafpn.finish, strict=True):
        total = level + down(below)
        expected.append(finish(total))
        below = expected[-1] if chained else total
    assert found.strides == (4, 8, 16, 32, 64) and len(found.maps) == 5
    assert all(torch.equal(a, b) for a, b in zip(found.maps, expected, strict=False))
    assert torch.equal(found.maps[4], expected[3][..., ::2, ::2])


def test_forms_of_the_second_path():
    assert isinstance(PAFPN(Backbone(), Pyramid(channels=8), PLAIN).down[0], nn.Conv2d)
    layers = PAFPN(Backbone(), Pyramid(channels=8), BottomUp(norm=nn.BatchNorm2d)).down[0]
    assert [type(layer) for layer in layers] == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU] and layers[0].bias is None


@torch.inference_mode()
def test_the_largest_answer_of_all_levels_wins():
    torch.manual_seed(0)
    pooling = AdaptivePooling(4, 6, 3, norm=True).eval()
    rois = [torch.randn(2, 4, 7, 7) for _ in range(3)]
    answers = torch.stack([layer(x) for layer, x in zip(pooling.levels, rois, strict=True)])
    assert torch.equal(pooling(rois), answers.amax(0))


@torch.inference_mode()
def test_every_level_is_pooled_from():
    model = panet_lite0_fpn(num_classes=2).eval()
    raw = model(ImageBatch.from_tensors([torch.rand(3, 64, 96)]))
    boxes = [torch.tensor([[3.0, 5, 60, 50]])]
    found = model.pool_every_level(raw.features, boxes, 7)
    assert len(found) == 4
    for i, rois in enumerate(found):
        expected = roi_align([raw.features.maps[i]], boxes, 7, [raw.features.strides[i]], 2)
        assert torch.allclose(rois, expected, atol=1e-6)


@torch.inference_mode()
def test_the_fully_connected_branch_adds_one_mask_to_every_class():
    torch.manual_seed(0)
    head = FusedMaskHead(3, MaskHeadConfig(width=8)).eval()
    rois = torch.randn(2, 8, 14, 14)
    with_it = [head(rois, torch.full((2,), k)) for k in range(3)]
    head.branch[-1].weight.zero_()
    head.branch[-1].bias.zero_()
    without = [head(rois, torch.full((2,), k)) for k in range(3)]
    added = torch.stack(with_it) - torch.stack(without)
    assert added.abs().max() > 0 and torch.allclose(added[0], added[1], atol=1e-5)
    assert torch.allclose(added[0], added[2], atol=1e-5)


def test_config_is_checked():
    with pytest.raises(ValueError, match="fused after a convolution"):
        panet_lite0_fpn(box_head={"convs": 0})
