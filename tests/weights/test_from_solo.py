from __future__ import annotations

import pytest
import torch

from eachmask.structures import UserError
from eachmask.weights import from_solo
from eachmask.weights.from_mmdet import solo as from_mmdet


def test_deformable_convolutions_get_a_bias_of_zero():
    state = {
        "mask_head.kernel_convs.1.conv.weight": torch.ones(4, 2, 3, 3),
        "mask_head.kernel_convs.1.conv.conv_offset.weight": torch.ones(27, 2, 3, 3),
        "mask_head.kernel_convs.1.conv.conv_offset.bias": torch.ones(27),
        "mask_head.kernel_convs.1.gn.weight": torch.ones(4),
        "backbone.layer2.0.conv2.weight": torch.ones(8, 8, 3, 3),
        "backbone.layer2.0.conv2.conv_offset.weight": torch.ones(27, 8, 3, 3),
    }
    found = from_mmdet.convert(state)
    assert found["kernels.convs.1.0.bias"].tolist() == [0] * 4
    assert found["backbone.backbone.layer2.0.conv2.bias"].tolist() == [0] * 8
    assert set(found) - {"kernels.convs.1.0.bias", "backbone.backbone.layer2.0.conv2.bias"} == {
        "kernels.convs.1.0.weight",
        "kernels.convs.1.0.offsets.weight",
        "kernels.convs.1.0.offsets.bias",
        "kernels.convs.1.1.weight",
        "backbone.backbone.layer2.0.conv2.weight",
        "backbone.backbone.layer2.0.conv2.offsets.weight",
    }


@pytest.mark.parametrize("convert", [from_mmdet.convert, from_solo.convert])
def test_an_entry_of_another_model_is_named(convert):
    with pytest.raises(UserError, match="roi_head.bbox_head.fc_cls.weight"):
        convert({"roi_head.bbox_head.fc_cls.weight": torch.zeros(1)})
