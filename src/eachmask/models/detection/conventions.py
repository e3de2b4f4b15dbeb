"""What torchvision, Detectron2 and MMDetection do differently in models of the same name.

None of it is in a paper; all of it changes the numbers. Weights want the conventions that they were trained with.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Conventions:
    """Choices of a framework's two-stage models. Defaults are torchvision's."""

    exact_anchors: bool = False
    """Anchors are as large and as far apart as the level's stride says (Detectron2, MMDetection); torchvision rounds
    their corners to whole pixels and divides the image's side by the map's."""
    low_quality_iou: float = 0.0
    """The anchors that overlap an object most are positive whatever their IoU, from this one on."""
    low_quality_moves: bool = False
    """They then stand for this object even if they overlap another one more (MMDetection); in both stages."""
    rpn_divisor: Literal["sampled", "counted", "batch"] = "sampled"
    """The proposal network's losses are divided by the sampled anchors, or by these with one positive and one negative
    at least in each image (MMDetection), or by ``rpn.batch_size`` times images even if fewer were sampled
    (Detectron2)."""
    rpn_smooth_l1_beta: float = 1 / 9
    """Where the proposal network's smooth L1 turns from a parabola to a line; 0 is L1."""
    smooth_l1_beta: float = 1 / 9
    """The same of the box head."""
    sampling_ratio: int = 2
    """RoIAlign's points per bin and side; 0 takes as many as the bin has pixels."""
    roi_aligned: bool = False
    """RoIAlign with pixel centers at .5, as Detectron2 corrected it."""
    symmetric_clip: bool = False
    """Boxes shrink no more in one step than they may grow: by 1000 / 16 (MMDetection); in both stages."""
    binary_masks: bool = False
    """True masks at the head's size are 0 or 1 instead of shares of pixels (Detectron2, MMDetection)."""
    min_side: float = 1e-2
    """Detections narrower than this, px, are dropped."""


TORCHVISION = Conventions()
DETECTRON2 = Conventions(
    exact_anchors=True,
    rpn_divisor="batch",
    rpn_smooth_l1_beta=0.0,
    smooth_l1_beta=0.0,
    sampling_ratio=0,
    roi_aligned=True,
    binary_masks=True,
    min_side=1e-6,
)
"""Their backbones are built with ``stride_first=True``."""
MMDET = Conventions(
    exact_anchors=True,
    low_quality_iou=0.3,
    low_quality_moves=True,
    rpn_divisor="counted",
    rpn_smooth_l1_beta=0.0,
    smooth_l1_beta=0.0,
    sampling_ratio=0,
    roi_aligned=True,
    symmetric_clip=True,
    binary_masks=True,
    min_side=0.0,
)
