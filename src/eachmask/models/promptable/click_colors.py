"""What colors say of a window: how like those of the clicked places they are, and whether earlier answers have them.

GrabCut's evidence (Rother et al., SIGGRAPH 2004) in one pass, as maps for a network that weighs it: histograms of the
colors inside and outside of the previous answer take the place of its mixtures.

Shapes: R questions, K clicks of the one that has most, m the side of a window's grid.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

NUM_COLORS = 3
"""Maps of :func:`color_maps`."""
REACH = 0.25
"""Of a click among colors that span -1..1."""
BINS = 12
"""Of the histograms, for each channel."""
DOUBT = 2.0
"""Pixels of either kind that every color is credited with."""


@torch.no_grad()
def color_maps(colors: Tensor, clicked: Tensor, signs: Tensor, previous: Tensor, known: Tensor) -> Tensor:
    """(R, NUM_COLORS, m, m): likeness in 0..1 to the colors clicked on the object, to those clicked beside it, and the
    odds in -1..1 that a color is the object's, 0 where nothing was answered before.

    Args:
        colors: (R or 1, 3, m, m) in -1..1; clicked: (R, 3, K) those of the clicked places.
        signs: (R, K) 1 on the object, 0 beside it, -1 no click.
        previous: (R, m, m) probabilities of the previous answer; known: (R,) bool whether there is one.
    """
    colors, clicked = colors.float().clamp(-1, 1), clicked.float().clamp(-1, 1)
    far = colors.new_zeros(*signs.shape, *colors.shape[2:])  # (R, K, m, m)
    for channel in range(colors.shape[1]):
        apart = colors[:, channel, None] - clicked[:, channel, :, None, None]
        far.addcmul_(apart, apart)
    near = [_likeness(far, signs == sign) for sign in (1, 0)]
    odds = torch.zeros_like(previous, dtype=torch.float32)
    if known.any():
        odds[known] = color_odds(colors.expand(len(known), -1, -1, -1)[known], previous[known].float())
    return torch.stack([*near, odds], 1)


def _likeness(far: Tensor, own: Tensor) -> Tensor:
    """Squared distances (R, K, m, m) -> (R, m, m): likeness to the nearest of some of the clicks, (R, K) bool."""
    if not own.any():
        return far.new_zeros(len(far), *far.shape[2:])
    far = far if own.all() else far.masked_fill(~own[..., None, None], torch.inf)
    return torch.exp(far.amin(1) / (-2 * REACH**2))


def color_odds(colors: Tensor, previous: Tensor) -> Tensor:
    """(R, m, m) in -1..1: how much more frequent each place's color is inside of a mask than outside of it.

    Args:
        colors: (R, 3, m, m) in -1..1; previous: (R, m, m) in 0..1.
    """
    step = BINS ** torch.arange(3, device=colors.device)
    index = (((colors + 1) * (BINS / 2)).long().clamp(0, BINS - 1) * step[:, None, None]).sum(1).flatten(1)
    weights = torch.stack([previous, 1 - previous], 1).flatten(2)  # (R, 2, m * m)
    counts = weights.new_zeros(len(index), 2, BINS**3)
    counts.scatter_add_(2, index[:, None].expand_as(weights), weights)
    counts = F.avg_pool3d(counts.unflatten(2, (BINS,) * 3), 3, 1, 1, count_include_pad=False).flatten(2)
    shares = (counts + DOUBT / 27) / weights.sum(2, keepdim=True).clamp(min=1)
    odds = (shares[:, 0] - shares[:, 1]) / shares.sum(1)
    return odds.gather(1, index).view_as(previous)
