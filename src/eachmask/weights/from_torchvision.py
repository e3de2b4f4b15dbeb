"""torchvision's official checkpoints, renamed to ours.

Three things differ besides names: torchvision counts background as class 0, we as class K (the last), and we have
neither a box nor a mask for background.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from eachmask.weights.renaming import fill, rename, unwrapped

RENAMES = (
    (r"^backbone\.body\.", "backbone.backbone."),
    (r"^backbone\.fpn\.inner_blocks\.(\d)\.0\.", r"backbone.lateral.\1."),
    (r"^backbone\.fpn\.layer_blocks\.(\d)\.0\.", r"backbone.smooth.\1."),
    (r"^backbone\.fpn\.inner_blocks\.(\d)\.(\d)\.", r"backbone.lateral.\1.\2."),
    (r"^backbone\.fpn\.layer_blocks\.(\d)\.(\d)\.", r"backbone.smooth.\1.\2."),
    (r"^backbone\.fpn\.inner_blocks\.(\d)\.", r"backbone.lateral.\1."),
    (r"^backbone\.fpn\.layer_blocks\.(\d)\.", r"backbone.smooth.\1."),
    (r"^rpn\.head\.conv\.(\d)\.0\.", r"rpn.convs.\1."),
    (r"^rpn\.head\.conv\.", "rpn.convs.0."),
    (r"^rpn\.head\.cls_logits\.", "rpn.objectness."),
    (r"^rpn\.head\.bbox_pred\.", "rpn.deltas."),
    (r"^roi_heads\.box_head\.fc6\.", "box_head.layers.0."),
    (r"^roi_heads\.box_head\.fc7\.", "box_head.layers.1."),
    (r"^roi_heads\.box_head\.5\.", "box_head.layers.0."),
    (r"^roi_heads\.box_head\.(\d)\.", r"box_head.convs.\1."),
    (r"^roi_heads\.box_predictor\.cls_score\.", "box_predictor.classes."),
    (r"^roi_heads\.box_predictor\.bbox_pred\.", "box_predictor.deltas."),
    # The official first-generation file has the names of older releases, which count from 1.
    *((rf"^roi_heads\.mask_head\.mask_fcn{i + 1}\.", f"mask_head.convs.{i}.0.") for i in range(4)),
    (r"^roi_heads\.mask_head\.(\d)\.(\d)\.", r"mask_head.convs.\1.\2."),
    (r"^roi_heads\.mask_predictor\.conv5_mask\.", "mask_head.upsample."),
    (r"^roi_heads\.mask_predictor\.mask_fcn_logits\.", "mask_head.masks."),
    (r"^roi_heads\.keypoint_head\.(\d+)\.", r"keypoint_head.convs.\1."),
    (r"^roi_heads\.keypoint_predictor\.kps_score_lowres\.", "keypoint_head.upsample."),
)
"""(pattern, replacement): the first that matches a name renames it."""


def convert(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """torchvision's state dict of a detection model, of either generation -> that of our variant.

    The first generation's published weights want ``norm_eps=0.0`` in the model's config.

    Raises:
        UserError: an entry that no rule knows.
    """
    state = unwrapped(state)
    deep = "backbone.fpn.inner_blocks.0.1.weight" in state  # v2's pyramid: convolution and normalization
    # There .0 is the convolution of a pair, not the whole block.
    rules = [(p, r) for p, r in RENAMES if not (deep and r"\.fpn\." in p and p.endswith(r"(\d)\.0\."))]
    renamed = rename(state, rules, "torchvision")
    result = {name: _without_background(name, value) for name, value in renamed.items()}
    return result | _batch_counters(result)


def load_imagenet_resnet(backbone: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Fill a :class:`~eachmask.backbones.networks.ResNet` from torchvision's classifier of the same depth.

    Raises:
        UserError: the weights are of another network; the message has the first names.
    """
    fill(backbone, {k: v for k, v in unwrapped(state).items() if not k.startswith("fc.")})


def _without_background(name: str, value: Tensor) -> Tensor:
    if name.startswith("box_predictor.classes."):
        return torch.roll(value, -1, dims=0)
    if name.startswith("box_predictor.deltas."):
        return value[4:]
    if name.startswith("mask_head.masks."):
        return value[1:]
    return value


def _batch_counters(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """torchvision's frozen normalization counts no batches; ours has the counter and never reads it."""
    means = [name for name in state if name.endswith(".running_mean")]
    counters = (name.removesuffix("running_mean") + "num_batches_tracked" for name in means)
    return {name: torch.tensor(0) for name in counters if name not in state}
