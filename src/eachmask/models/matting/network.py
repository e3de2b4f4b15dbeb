"""What networks for mattes have in common: the results that users know, and targets as tensors.

Shapes: B images of H x W px.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eachmask.models.protocol import Network
from eachmask.structures import DecodeOptions, Matte, Preprocess, UserError
from eachmask.structures.spatial import Spatial
from eachmask.tasks.matting import MATTING

RawT = TypeVar("RawT")

KERNEL = (1.0, 4.0, 6.0, 4.0, 1.0)
LEVELS = 5
"""Of Laplacian pyramids: their binomial filter, and how many there are."""


UNIT = Preprocess(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), short_side=None, long_side=None, divisor=1)
"""Colors and sizes as they are, in 0..1."""


class Mattes(NamedTuple):
    """One matte per image, in the pixels of its valid area."""

    alpha: tuple[Tensor, ...]  # (h, w) 0..1
    foreground: tuple[Tensor, ...] | None = None  # (3, h, w) RGB 0..1

    @classmethod
    def cut(cls, alpha: Tensor, foreground: Tensor | None, sizes: Sequence[tuple[int, int]]) -> Mattes:
        """From (B, 1, H, W) and (B, 3, H, W), of which images of these sizes are valid."""
        opacities = tuple(a[0, :h, :w] for a, (h, w) in zip(alpha, sizes, strict=True))
        if foreground is None:
            return cls(opacities)
        return cls(opacities, tuple(f[:, :h, :w] for f, (h, w) in zip(foreground, sizes, strict=True)))


class MattingNetwork(Network[RawT, Mattes, Matte], Generic[RawT]):
    """A network whose results are mattes."""

    task = MATTING
    takes: ClassVar[type[Spatial] | None] = None
    """What a user must hand over with each image: a Trimap, a Backdrop, or nothing."""

    def pack(self, selected: Mattes, options: DecodeOptions) -> list[Matte]:
        """One :class:`~eachmask.structures.Matte` per image."""
        colors = selected.foreground or [None] * len(selected.alpha)
        return [
            Matte(a.float().clamp(0, 1), None if c is None else c.float().clamp(0, 1))
            for a, c in zip(selected.alpha, colors, strict=True)
        ]


class Target(NamedTuple):
    """Targets of a batch; what is padded counts as background."""

    alpha: Tensor  # (B, 1, H, W)
    foreground: Tensor  # (B, 3, H, W), zeros where it is not known
    colored: Tensor  # (B, 1, H, W) float, 1 where the foreground counts: it is known and not wholly transparent

    @classmethod
    def of(cls, targets: Sequence[Matte], like: Tensor) -> Target:
        """On the canvas, the device and in the type of (B, 1, H, W)."""
        alpha, colors, known = like.new_zeros(like.shape), like.new_zeros(len(like), 3, *like.shape[2:]), []
        for i, target in enumerate(targets):
            height, width = target.image_size
            alpha[i, 0, :height, :width] = target.alpha.to(like)
            if target.foreground is not None:
                colors[i, :, :height, :width] = target.foreground.to(like)
            known.append(target.foreground is not None)
        counts = (alpha > 0) & torch.tensor(known, device=like.device).view(-1, 1, 1, 1)
        return cls(alpha, colors, counts.to(like))


def laid_on(
    canvas: Tensor, given: Sequence[Any] | None, values: Callable[[Any], Tensor], kind: type, wish: str
) -> Tensor:
    """The canvas (B, C, H, W) with what a user handed over with each image, (C, h, w), at its upper left.

    Args:
        wish: what to say where it is not of this kind for every image.

    Raises:
        UserError: that.
    """
    if given is None or not all(isinstance(one, kind) for one in given):
        raise UserError(wish)
    for slot, one in zip(canvas, given, strict=True):
        height, width = one.image_size
        slot[:, :height, :width] = values(one).to(slot)
    return canvas


def start_half_open(last: Any, channel: int) -> None:
    """Set the biases of a network's last convolution so that alpha, in this channel, begins at one half: clamped
    to 0..1, it learns nothing beyond."""
    bias = torch.zeros(last.out_channels)
    bias[channel] = 0.5
    last.bias = nn.Parameter(bias)


def sobel(values: Tensor) -> Tensor:
    """(B, 1, H, W) -> magnitude of the gradient, of normalized 3 x 3 Sobel filters and repeated borders."""
    along = values.new_tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]]) / 8
    both = F.conv2d(F.pad(values, (1, 1, 1, 1), mode="replicate"), torch.stack([along, along.T])[:, None])
    return (both.square().sum(1, keepdim=True) + 1e-6).sqrt()


def laplacian_loss(found: Tensor, target: Tensor, levels: int = LEVELS) -> Tensor:
    """Mean over levels of 2^level times the mean absolute difference of both Laplacian pyramids, of (B, 1, H, W).

    Levels that an image is too small for are left out.
    """
    total = found.new_zeros(())
    difference = found - target  # the pyramid is linear
    for level in range(levels):
        difference = difference[..., : difference.shape[-2] // 2 * 2, : difference.shape[-1] // 2 * 2]
        if min(difference.shape[-2:]) < 4:
            break
        coarse = _blurred(difference)[..., ::2, ::2]
        wide = torch.zeros_like(difference)
        wide[..., ::2, ::2] = 4 * coarse
        total = total + 2**level * (difference - _blurred(wide)).abs().mean()
        difference = coarse
    return total / levels


def _blurred(values: Tensor) -> Tensor:
    line = values.new_tensor(KERNEL) / sum(KERNEL)
    return F.conv2d(F.pad(values, (2, 2, 2, 2), mode="reflect"), (line[:, None] * line)[None, None])
