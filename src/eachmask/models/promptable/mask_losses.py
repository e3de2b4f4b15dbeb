"""What Segment Anything learns from: Kirillov et al., 2023, arXiv 2304.02643, section 3 and appendix A.

    loss = 20 focal + 1 dice + (predicted IoU - IoU) ** 2

Of several masks that a prompt may mean, only the best has to answer for its pixels; each has to know how good it is.
Masks are compared in cells of the coarse logits, four px a side, as there is nothing finer to learn there.

Shapes: P objects, M masks of each, h x w cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from eachmask.ops.losses import dice, sigmoid_focal
from eachmask.structures import Instances


@dataclass(frozen=True)
class LossConfig:
    """Weights of the losses."""

    focal: float = 20.0
    dice: float = 1.0
    iou: float = 1.0


class Answered(Protocol):
    """What is asked of a ``Raw``, see :class:`eachmask.models.promptable.sam.Raw`."""

    @property
    def logits(self) -> Tensor: ...
    @property
    def ious(self) -> Tensor: ...
    @property
    def images(self) -> Tensor: ...
    @property
    def objects(self) -> Tensor: ...
    @property
    def sure(self) -> Tensor: ...
    @property
    def sizes(self) -> tuple[tuple[int, int], ...]: ...
    @property
    def padded(self) -> tuple[int, int]: ...


def mask_losses(raw: Answered, targets: Sequence[Instances], config: LossConfig) -> dict[str, Tensor]:
    """Scalars to sum, means over the objects that were asked about."""
    zero = raw.logits.sum() * 0 + raw.ious.sum() * 0
    if not len(raw.logits):
        return {"focal": zero, "dice": zero, "iou": zero}
    logits, ious, sure = raw.logits.float(), raw.ious.float(), raw.sure
    pairs = list(zip(raw.images.tolist(), raw.objects.tolist(), strict=True))
    grid = (int(logits.shape[-2]), int(logits.shape[-1]))
    goals = (
        torch.stack([cells(targets[i][n], grid, raw.padded) for i, n in pairs]).to(logits)[:, None].expand_as(logits)
    )
    focal = sigmoid_focal(logits, goals, reduction="none").mean((2, 3))
    overlap = dice(logits.flatten(0, 1).sigmoid(), goals.flatten(0, 1), "plain", eps=1.0).unflatten(0, focal.shape)
    meant = (torch.arange(focal.shape[1], device=focal.device) > 0) != sure[:, None]  # the first mask, or all others
    blame = config.focal * focal + config.dice * overlap
    best = blame.detach().masked_fill(~meant, torch.inf).argmin(1, keepdim=True)
    found, inside = logits.detach() > 0, goals > 0.5
    common = (found & inside).sum((2, 3)).float()
    gt_ious = common / (found | inside).sum((2, 3)).clamp(min=1)
    error = ((ious - gt_ious).square() * meant).sum(1) / meant.sum(1)
    return {
        "focal": config.focal * focal.gather(1, best).mean() + zero,
        "dice": config.dice * overlap.gather(1, best).mean() + zero,
        "iou": config.iou * error.mean() + zero,
    }


def cells(target: Instances, grid: tuple[int, int], padded: tuple[int, int]) -> Tensor:
    """The share of each cell that one object covers, (h, w), cells beyond the image included."""
    height, width = target.image_size
    rows, columns = (max(1, round(g * s / p)) for g, s, p in zip(grid, (height, width), padded, strict=True))
    mask = torch.from_numpy(target.gt_masks.to_rle().decode()).float()
    share = torch.nn.functional.adaptive_avg_pool2d(mask[None], (rows, columns))[0, 0]
    result = torch.zeros(grid)
    result[:rows, :columns] = share
    return result
