"""Names of MMDetection's and Detectron2's two-stage models under ours."""

from __future__ import annotations

import pytest
import torch

from eachmask.structures import UserError
from eachmask.weights.from_detectron2 import two_stage as detectron2
from eachmask.weights.from_mmdet import two_stage as mmdet

MMDET = {
    "neck.fpn_convs.3.conv.bias": "backbone.smooth.3.bias",
    "neck.downsample_convs.0.conv.weight": "backbone.down.0.weight",
    "rpn_head.rpn_reg.weight": "rpn.deltas.weight",
    "roi_head.bbox_head.shared_fcs.1.weight": "box_head.layers.1.weight",
    "roi_head.bbox_head.2.shared_fcs.0.bias": "box_heads.2.layers.0.bias",
    "roi_head.bbox_head.0.shared_convs.3.conv.weight": "box_heads.0.convs.3.0.weight",
    "roi_head.bbox_head.2.shared_convs.1.bn.running_var": "box_heads.2.convs.1.1.running_var",
    "roi_head.bbox_head.1.fc_cls.bias": "box_predictors.1.classes.bias",
    "roi_head.mask_head.convs.2.conv.weight": "mask_head.convs.2.0.weight",
    "roi_head.mask_head.0.convs.3.conv.weight": "mask_heads.0.convs.3.0.weight",
    "roi_head.mask_iou_head.fcs.1.bias": "mask_iou_head.layers.1.bias",
}
DETECTRON2 = {
    "backbone.fpn_output4.weight": "backbone.smooth.2.weight",
    "proposal_generator.rpn_head.conv.weight": "rpn.convs.0.weight",
    "roi_heads.box_head.fc2.weight": "box_head.layers.1.weight",
    "roi_heads.box_predictor.bbox_pred.bias": "box_predictor.deltas.bias",
    "roi_heads.mask_head.mask_fcn4.bias": "mask_head.convs.3.0.bias",
}
CASCADE = {
    "roi_heads.box_head.0.fc1.weight": "box_heads.0.layers.0.weight",
    "roi_heads.box_predictor.2.cls_score.bias": "box_predictors.2.classes.bias",
    "roi_heads.mask_head.deconv.weight": "mask_heads.0.upsample.weight",
}


@pytest.mark.parametrize(
    ("convert", "names"), [(mmdet.convert, MMDET), (detectron2.convert, DETECTRON2), (detectron2.convert, CASCADE)]
)
def test_names(convert, names):
    state = {theirs: torch.full((1,), float(i)) for i, theirs in enumerate(names)}
    assert convert(state) == {ours: state[theirs] for theirs, ours in names.items()}


@pytest.mark.parametrize("convert", [mmdet.convert, detectron2.convert])
def test_an_unknown_entry_is_named(convert):
    with pytest.raises(UserError, match=r"semantic_head\.weight"):
        convert({"semantic_head.weight": torch.zeros(1)})
