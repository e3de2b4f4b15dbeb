"""Winograd convolution with gradients: all three passes of a 3x3 convolution with a quarter of the multiplications.

The gradient of the input is itself a 3x3 convolution, with the kernels turned by 180 degrees and the channels
exchanged. The gradient of the kernels goes the way of :mod:`eachmask.accel.winograd` backwards: where the output is
`Y = A^T [U * (B^T d B)] A` with `U = G g G^T` (Lavin and Gray, equation 11), the chain rule gives

    dM = A dY A^T,    dU = sum over tiles of (B^T d B) * dM,    dg = G^T dU G

so that here too 36 matrix products, `(C, T) @ (T, K)`, take the place of nine for each of 16 outputs.

Sums have a fixed order for a given number of threads, so that the same step gives the same bits.

Shapes: as in :mod:`eachmask.accel.winograd`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from eachmask.accel import winograd

MIN_CHANNELS = 64
"""With fewer, the additions of the transforms outweigh the saved multiplications."""
MIN_TILES = 128
"""With fewer, transforming the kernels back and forth takes longer than it saves."""


def conv3x3(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """3x3 convolution with stride 1 and padding 1, with gradients.

    Args:
        x: `(N, C, H, W)` float32 on the CPU.
        weight: `(K, C, 3, 3)`.
        bias: `(K,)`.

    Returns:
        `(N, K, H, W)` in channels_last memory.
    """
    result: Tensor = _Conv3x3.apply(x, weight, bias)
    return result


def of_call(
    x: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1
) -> Tensor | None:
    """The answer to a call of `torch.conv2d`, or None where the ordinary way is the better or the only one."""
    if (
        tuple(weight.shape[2:]) != (3, 3)
        or groups != 1
        or any(value not in (1, (1, 1), [1, 1]) for value in (stride, padding, dilation))
        or min(weight.shape[:2]) < MIN_CHANNELS
        or x.dim() != 4
        or x.device.type != "cpu"
        or not x.dtype == weight.dtype == torch.float32
        or winograd.tiles_of(x) < MIN_TILES
        or not winograd.pays(weight.shape[1], weight.shape[0], winograd.tiles_of(x))
        or torch.is_autocast_enabled("cpu")
        or not (torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad))
    ):
        return None
    return conv3x3(x, weight, bias)


class _Conv3x3(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return winograd.conv3x3(x, _values_of_kernels(weight), bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        (above,) = grads
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        turned = weight.flip(2, 3).transpose(0, 1)
        return (
            winograd.conv3x3(above, _values_of_kernels(turned)) if needs_x else None,
            _gradient_of_kernels(x, above) if needs_weight else None,
            above.sum((0, 2, 3)) if needs_bias else None,
        )


def _values_of_kernels(weight: Tensor) -> Tensor:
    """`(K, C, 3, 3)` -> `(36, C, K)`, in one matrix product: this happens in every step."""
    k, c = weight.shape[:2]
    return torch.mm(_kernel_transform(), weight.detach().permute(2, 3, 1, 0).reshape(9, c * k)).view(36, c, k)


def _gradient_of_kernels(x: Tensor, above: Tensor) -> Tensor:
    """The gradient `(K, C, 3, 3)` from the input `(N, C, H, W)` and the output's gradient `(N, K, H, W)`."""
    (n, c, h, w), k = x.shape, above.shape[1]
    rows, above_rows = x.detach().permute(0, 2, 3, 1), above.detach().permute(0, 2, 3, 1)
    blocks = list(winograd.blocks_of(n, h, w, max(c, k)))
    shares = [blocks[i :: torch.get_num_threads()] for i in range(torch.get_num_threads())]
    sums = [torch.zeros(0)] * len(shares)

    def run(share: int) -> None:
        total = torch.zeros(36, c, k)
        for images, first, last in shares[share]:
            values = winograd.tile_values(winograd.padded_rows(rows[images], 4 * first, last - first))
            values = values.view(36, -1, c)
            total.baddbmm_(values.transpose(1, 2), _spread(above_rows[images], first, last).view(36, -1, k))
        sums[share] = total

    winograd.for_each(range(len(shares)), run)
    total = torch.stack(sums).sum(0) if len(sums) > 1 else sums[0]
    return torch.mm(_kernel_transform().T, total.view(36, c * k)).view(3, 3, c, k).permute(3, 2, 0, 1).contiguous()


def _spread(above: Tensor, first: int, last: int) -> Tensor:
    """`A dY A^T` of some rows of tiles: the gradient `(N, H, W, K)` to `(6, 6, N, R, S, K)`."""
    n, h, w, k = above.shape
    r, s = last - first, -(-w // 4)
    whole = winograd.scratch("whole", n, 4 * r, 4 * s, k)
    below = min(h - 4 * first, 4 * r)
    whole[:, below:].zero_()
    whole[:, :below, w:].zero_()
    whole[:, :below, :w].copy_(above[:, 4 * first : 4 * first + below])
    down = winograd.scratch("spread down", 6, n, r, 4 * s, k)
    _interpolate_back([whole[:, i::4] for i in range(4)], down.unbind(0))
    products = winograd.scratch("products", 6, 6, n, r, s, k)
    _interpolate_back([down[:, :, :, j::4] for j in range(4)], products.unbind(1))
    return products


def _interpolate_back(y: Sequence[Tensor], m: Sequence[Tensor]) -> None:
    """`m = A y` in one direction: point `p` gets `y0 + p y1 + p² y2 + p³ y3`, and infinity `y3`."""
    even, odd = winograd.scratch("even", *m[0].shape), winograd.scratch("odd", *m[0].shape)
    for first, point in ((1, winograd.INNER), (3, winograd.OUTER)):
        torch.add(y[0], y[2], alpha=point**2, out=even)
        torch.add(y[1], y[3], alpha=point**2, out=odd)
        torch.add(even, odd, alpha=point, out=m[first])
        torch.add(even, odd, alpha=-point, out=m[first + 1])
    m[0].copy_(y[0])
    m[5].copy_(y[3])


@lru_cache(maxsize=1)
def _kernel_transform() -> Tensor:
    """`(36, 9)`: the product of `G` with itself in both directions."""
    g = torch.tensor(winograd.kernel_matrix(), dtype=torch.float64)
    return torch.kron(g, g).float()
