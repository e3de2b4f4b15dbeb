"""Cutting regions of interest out of a pyramid, over torchvision's kernels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torchvision
from torch import Tensor

CANONICAL_SIDE, CANONICAL_LEVEL = 224.0, 4
"""A box of 224 x 224 px is pooled from P4 (stride 16), as an ImageNet picture was."""


def roi_levels(boxes: Tensor, num_levels: int, finest: int = 2) -> Tensor:
    """Which level each box is pooled from (Lin et al., arXiv 1612.03144, eq. 1): (N,) 0 .. num_levels - 1.

    Args:
        boxes: (N, 4) px.
        finest: the number of the first level; 2 is P2, stride 4.
    """
    side = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).sqrt()
    level = torch.floor(CANONICAL_LEVEL + torch.log2(side / CANONICAL_SIDE) + 1e-6)
    return level.clamp(finest, finest + num_levels - 1).to(torch.int64) - finest


def roi_align(
    features: Sequence[Tensor],
    boxes: Sequence[Tensor],
    size: int,
    strides: Sequence[int],
    sampling: int = 2,
    aligned: bool = False,
) -> Tensor:
    """RoIAlign (He et al., arXiv 1703.06870, section 3), every box from the level that fits it.

    Args:
        features: levels (B, C, H_i, W_i), fine to coarse.
        boxes: for each image (N_b, 4) px.
        size: side of the pooled grid.
        strides: of the levels.
        sampling: points per bin and side; 0 takes as many as the bin has pixels.
        aligned: shift by half a pixel (Detectron2's correction); torchvision's models do not.

    Returns:
        (N, C, size, size), images in order.
    """
    counts = [len(b) for b in boxes]
    joined = torch.cat([b.to(features[0].dtype) for b in boxes])
    image = torch.repeat_interleave(torch.arange(len(boxes)), torch.tensor(counts)).to(joined)
    rois = torch.cat([image[:, None], joined], dim=1)
    if len(features) == 1:
        return _align(features[0], rois, size, 1 / strides[0], sampling, aligned)
    finest = int(torch.log2(torch.tensor(float(strides[0]))))
    level = roi_levels(torch.cat(list(boxes)).float(), len(features), finest)
    result = joined.new_zeros((len(rois), features[0].shape[1], size, size))
    for i, (feature, stride) in enumerate(zip(features, strides, strict=True)):
        chosen = torch.nonzero(level == i).squeeze(1)
        if len(chosen):
            pooled = _align(feature, rois[chosen], size, 1 / stride, sampling, aligned)
            result = result.index_copy(0, chosen, pooled.to(result.dtype))
    return result


def _align(feature: Tensor, rois: Tensor, size: int, scale: float, sampling: int, aligned: bool) -> Tensor:
    pooled: Tensor = torchvision.ops.roi_align(
        feature, rois, (size, size), spatial_scale=scale, sampling_ratio=sampling, aligned=aligned
    )
    return pooled
