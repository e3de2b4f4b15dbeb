"""What models have in common that fill in what a trimap leaves open: the trimap as planes, losses, results.

Shapes: B images of H x W px.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from eachmask.models.matting.network import Mattes, MattingNetwork, Target, laid_on, laplacian_loss, sobel
from eachmask.structures import DecodeOptions, ImageBatch, Matte, Trimap


class Raw(NamedTuple):
    """What the network says of a batch."""

    alpha: Tensor  # (B, 1, H, W) 0..1 or a little beyond, what the trimap knows as it says
    unknown: Tensor  # (B, 1, H, W) 1 where the trimap leaves it open, else 0
    sizes: tuple[tuple[int, int], ...]  # valid (height, width)


class TrimapNetwork(MattingNetwork[Raw]):
    """Subclasses write :meth:`opacities`; what the trimap knows, stays to the last bit."""

    takes = Trimap

    def opacities(self, images: ImageBatch, known: Tensor) -> Tensor:
        """(B, 3, H, W) and planes (B, 3, H, W) of foreground, unknown and background -> (B, 1, H, W)."""
        raise NotImplementedError

    def forward(self, images: ImageBatch, given: Sequence[Any] | None = None) -> Raw:
        """(B, 3, H, W) and a trimap of each -> (B, 1, H, W).

        Raises:
            UserError: no trimap is given.
        """
        known = stacked(images, given)
        surely, unknown = known[:, :1], known[:, 1:2]
        if not unknown.any():  # as in most tiles of a large image
            return Raw(surely, unknown, images.sizes)
        return Raw(torch.where(unknown > 0, self.opacities(images, known), surely), unknown, images.sizes)

    def losses(self, raw: Raw, targets: list[Matte]) -> dict[str, Tensor]:
        """Absolute differences of alpha and of its gradient where the trimap leaves it open, and of Laplacian
        pyramids."""
        target = Target.of(targets, raw.alpha).alpha
        target = torch.where(raw.unknown > 0, target, raw.alpha.detach())  # what was given wrong is not to be refined
        count = raw.unknown.sum().clamp(min=1)
        edges = (sobel(raw.alpha) - sobel(target)).abs() * raw.unknown
        share = raw.unknown.mean().clamp(min=1e-3)
        return {
            "alpha": ((raw.alpha - target).abs() * raw.unknown).sum() / count,
            "edges": edges.sum() / count,
            "laplacian": laplacian_loss(raw.alpha, target) / share,
        }

    def select(self, raw: Raw, options: DecodeOptions) -> Mattes:
        """All of it; the colors are found afterwards."""
        return Mattes.cut(raw.alpha, None, raw.sizes)


def stacked(images: ImageBatch, given: Sequence[Any] | None) -> Tensor:
    """(B, 3, H, W) of 0 and 1: foreground, unknown, background; what is padded is background.

    Raises:
        UserError: no trimap is given.
    """
    planes = torch.zeros_like(images.tensor)
    planes[:, 2] = 1
    wish = "this model fills in what a trimap leaves open: give --trimap"
    return laid_on(planes, given, lambda t: torch.stack([t.foreground, t.unknown, t.background]), Trimap, wish)
