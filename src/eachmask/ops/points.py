"""Reading maps at points between pixels, and choosing points worth reading (PointRend, arXiv 1912.08193)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F


def point_sample(maps: Tensor, points: Tensor) -> Tensor:
    """Bilinear values at points in 0..1 of the map's extent.

    Args:
        maps: (R, C, H, W).
        points: (R, P, 2) as (x, y); (0, 0) is the corner of the first pixel, (1, 1) that of the last, so that the first
            pixel's center is at (0.5 / W, 0.5 / H). Outside the map it is 0.

    Returns:
        (R, C, P).

    >>> maps = torch.tensor([[[[0.0, 4.0]]]])
    >>> point_sample(maps, torch.tensor([[[0.25, 0.5], [0.5, 0.5], [0.75, 0.5]]])).tolist()
    [[[0.0, 2.0, 4.0]]]
    """
    grid = 2 * points[:, :, None] - 1
    return F.grid_sample(maps, grid, mode="bilinear", align_corners=False).squeeze(-1)


def uncertainty(logits: Tensor) -> Tensor:
    """How undecided a mask is, most at the boundary: minus the distance of the logit from 0 (section 3.1).

    >>> uncertainty(torch.tensor([-3.0, 0.5])).tolist()
    [-3.0, -0.5]
    """
    return -logits.abs()


def margin(logits: Tensor) -> Tensor:
    """How undecided between classes: the second best logit minus the best (section 4.2); one class is undecided at 0.

    Args:
        logits: (R, K, ...).

    Returns:
        (R, 1, ...), at most 0.

    >>> margin(torch.tensor([[3.0, 1.0, 2.5]])).tolist()
    [[-0.5]]
    """
    if logits.shape[1] == 1:
        return uncertainty(logits)
    best = logits.topk(2, dim=1).values
    return best[:, 1:] - best[:, :1]


def sample_uncertain_points(
    logits: Tensor,
    num_points: int,
    oversample: float = 3.0,
    importance: float = 0.75,
    uncertain: Callable[[Tensor], Tensor] = uncertainty,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Training points, mostly near boundaries, the rest anywhere (section 3.1, "training").

    The uncertainty is that of the *sampled* values, not a sampled uncertainty map: between two pixels of logit -1 and 1
    the value is 0, the most uncertain there is, while their uncertainties would average to -1.

    Args:
        logits: (R, K, H, W), of which ``uncertain`` makes (R, 1, H, W); K = 1 as a rule.
        num_points: N per region.
        oversample: k; k N candidates are sampled, of which ``importance * N`` most uncertain stay.
        importance: beta, 0..1.

    Returns:
        (R, N, 2) as (x, y) in 0..1.

    >>> sample_uncertain_points(torch.zeros(2, 1, 4, 4), num_points=5).shape
    torch.Size([2, 5, 2])
    """
    num_regions, device = len(logits), logits.device
    num_candidates = int(num_points * oversample)
    candidates = torch.rand(num_regions, num_candidates, 2, generator=generator, device=device)
    values = uncertain(point_sample(logits, candidates)).squeeze(1)  # (R, kN)
    num_chosen = int(importance * num_points)
    best = values.topk(num_chosen, dim=1).indices
    chosen = candidates.gather(1, best[..., None].expand(-1, -1, 2))
    anywhere = torch.rand(num_regions, num_points - num_chosen, 2, generator=generator, device=device)
    return torch.cat([chosen, anywhere], dim=1)


def most_uncertain_cells(uncertainties: Tensor, num_points: int) -> tuple[Tensor, Tensor]:
    """The cells to refine in one step of subdivision (section 3.1, "inference").

    Args:
        uncertainties: (R, 1, H, W).

    Returns:
        flat indices (R, P) and their centers (R, P, 2) in 0..1, P = min(num_points, H W).

    >>> index, centers = most_uncertain_cells(torch.tensor([[[[-3.0, -0.1]]]]), 1)
    >>> index.tolist(), centers.tolist()
    ([[1]], [[[0.75, 0.5]]])
    """
    _, _, height, width = uncertainties.shape
    index = uncertainties.flatten(1).topk(min(num_points, height * width), dim=1).indices
    x = (index % width + 0.5) / width
    y = (index.div(width, rounding_mode="floor") + 0.5) / height
    return index, torch.stack([x, y], dim=-1)
