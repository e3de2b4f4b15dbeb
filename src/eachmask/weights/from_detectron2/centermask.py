"""CenterMask2 in Detectron2's layout, on ResNet or on VoVNet, whose layers carry slashes in their names."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from eachmask.weights.from_detectron2.backbone import fpn
from eachmask.weights.from_detectron2.condinst import fcos, scalars
from eachmask.weights.renaming import Rule, rename, unwrapped

_BODY = r"^backbone\.bottom_up\."
_NET = "backbone.backbone.net."
_MASK = r"^roi_heads\.mask_head\."
_IOU = r"^roi_heads\.maskiou_head\."


def _vovnet() -> tuple[Rule, ...]:
    """Their stages 2 ... 5 and their blocks count from 1 at the latest; timm's count from 0."""
    rules: list[Rule] = []
    for ours, theirs in (("conv", "conv"), ("bn", "norm")):
        for i in range(3):
            rules.append((rf"{_BODY}stem\.stem_{i + 1}/{theirs}\.", f"{_NET}stem_{i}.{ours}."))
        for stage in range(2, 6):
            for block in range(1, 10):
                name = rf"{_BODY}stage{stage}\.OSA{stage}_{block}\."
                place = f"{_NET}stages_{stage - 2}.blocks.{block - 1}."
                rules.append((rf"{name}layers\.(\d+)\.\w+/{theirs}\.", rf"{place}conv_mid.\1.{ours}."))
                rules.append((rf"{name}concat\.\w+/{theirs}\.", f"{place}conv_concat.{ours}."))
                if ours == "conv":
                    rules.append((rf"{name}ese\.fc\.", f"{place}attn.fc."))
    return tuple(rules)


def _rules(depth: int, mask_convs: int) -> tuple[Rule, ...]:
    """Rules of a model whose towers and mask head have so many convolutions."""
    return (
        *fpn(first=3),
        *fcos(depth),
        *((rf"{_MASK}mask_fcn{i + 1}\.", f"mask_head.convs.{i}.0.") for i in range(mask_convs)),
        (_MASK + r"spatialAtt\.conv\.", f"mask_head.convs.{mask_convs}.conv."),
        (_MASK + r"deconv\.", "mask_head.upsample."),
        (_MASK + r"predictor\.", "mask_head.masks."),
        *((rf"{_IOU}maskiou_fcn{i + 1}\.", f"mask_iou_head.convs.{i}.") for i in range(4)),
        *((rf"{_IOU}maskiou_fc{i + 1}\.", f"mask_iou_head.layers.{i}.") for i in range(2)),
        (_IOU + r"maskiou\.", "mask_iou_head.ious."),
        *_vovnet(),
    )


def convert(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Their state dict -> ours (``centermask_r50_fpn``, ``centermask_v39_fpn``, ``centermask_lite_v39_fpn``).

    Raises:
        UserError: an entry that no rule knows.
    """
    state = unwrapped(state)
    mask_convs = len({name.split(".")[2] for name in state if "mask_head.mask_fcn" in name})
    depth = len({name for name in state if "fcos_head.cls_tower" in name and name.endswith("weight")}) // 2
    return scalars(rename(state, _rules(depth, mask_convs), "CenterMask2"))
