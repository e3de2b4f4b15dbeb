"""Winograd convolution F(4x4, 3x3) on the processor: 3x3 convolutions with a quarter of the multiplications.

A. Lavin, S. Gray: *Fast Algorithms for Convolutional Neural Networks*, CVPR 2016, arXiv 1509.09308.

A 4x4 tile of the output of a 3x3 convolution depends on a 6x6 tile of the input. Evaluated directly it
takes 16 x 9 = 144 multiplications per pair of channels. Seen as a product of polynomials it is known
from its values at 6 x 6 points, and takes 36. All tiles together become 36 matrix products
`(tiles, C) @ (C, K)`, one per point, which is what a processor does best; the way to the values
(`B^T d B`) and back (`A^T m A`) is additions only.

Three choices make it fast and exact enough to be the default in float32:

* **The points** are 0, ±1/√2, ±√2 and infinity instead of the paper's 0, ±1, ±2, infinity. The entries of
  the three matrices stay near 1, and the rounding error falls to that of the direct convolution
  (relative error 9e-7 against 20e-7 for the paper's points and 6e-7 direct, 256 channels); see
  B. Barabasz et al., *Error Analysis and Improving the Accuracy of Winograd Convolution for Deep Neural
  Networks*, arXiv 1803.10986, on why points matter.
* **Blocks of tiles** pass through all steps while they are in the cache: a whole 256-channel map in the
  transformed form would be 2.25 times the map, and memory, not arithmetic, would set the time.
* **One thread per block** with single-threaded steps, instead of many threads inside each small step:
  no barriers, and a busy neighbour on the machine slows only the block it hits.

Shapes: `N` images, `C` channels in, `K` channels out, `H`, `W` rows and columns, `T` tiles in a block.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

Limits = tuple[float, float]
"""An activation that clamps to [low, high]: ReLU is (0, inf), ReLU6 (0, 6)."""

_A2 = 0.5  # square of the inner point a = 1/sqrt(2)
_B2 = 2.0  # square of the outer point b = sqrt(2)
_A = math.sqrt(_A2)
_B = math.sqrt(_B2)
_BLOCK_FLOATS = 24576  # tiles x channels of one block: its 36 planes are then 3.5 MB


def transform_weights(weight: Tensor) -> Tensor:
    """Weights `(K, C, 3, 3)` to their values at the 36 points, `(36, C, K)` float32, ready for matmul.

    Computed in float64 once per layer, so that only one rounding enters here (Lavin and Gray, eq. 8:
    `U = G g G^T`).
    """
    if weight.shape[2:] != (3, 3):
        raise ValueError(f"expected 3x3 kernels, got {tuple(weight.shape)}")
    g = torch.tensor(_kernel_matrix(), dtype=torch.float64)
    values = torch.einsum("ai,kcij,bj->abck", g, weight.detach().double().cpu(), g)
    return values.reshape(36, weight.shape[1], weight.shape[0]).float().contiguous()


def _kernel_matrix() -> list[list[float]]:
    """`G` (6, 3): the values of a quadratic at the six points, each divided by its Lagrange denominator."""
    points = [0.0, _A, -_A, _B, -_B]
    rows = []
    for p in points:
        scale = math.prod(p - q for q in points if q != p)
        rows.append([1 / scale, p / scale, p * p / scale])
    return [*rows, [0.0, 0.0, 1.0]]


def conv3x3(
    x: Tensor, weights: Tensor, bias: Tensor | None = None, *, limits: Limits = (-math.inf, math.inf)
) -> Tensor:
    """3x3 convolution with stride 1 and padding 1.

    `x` is `(N, C, H, W)` float32 on the CPU (best in channels_last memory), `weights` `(36, C, K)` from
    `transform_weights`, `bias` `(K,)`. Returns `(N, K, H, W)` in channels_last memory, clamped to
    `limits` = (low, high): (0, inf) is a ReLU, for free. No gradients flow through it.
    Raises `ValueError` when the channels do not agree.
    """
    if x.dtype != torch.float32 or x.device.type != "cpu" or x.shape[1] != weights.shape[1]:
        raise ValueError(
            f"winograd takes float32 maps with {weights.shape[1]} channels on the CPU, "
            f"got {x.dtype} {tuple(x.shape)} on {x.device}"
        )
    n, c, h, w = x.shape
    rows = x.detach().permute(0, 2, 3, 1).contiguous()
    out = empty_map((n, h, w, weights.shape[2]))
    if out.numel() == 0:
        return out.permute(0, 3, 1, 2)
    blocks = _blocks(n, h, w, c)
    if len(blocks) < max(2, torch.get_num_threads()):
        _run(blocks, rows, out, weights, bias, limits)  # too few: let each step use all threads instead
    else:
        _run_in_threads(blocks, rows, out, weights, bias, limits)
    return out.permute(0, 3, 1, 2)


def empty_map(shape: tuple[int, ...]) -> Tensor:
    """An uninitialised float32 tensor whose memory comes in huge pages where the system has them.

    A fresh 56 MB map costs 14,000 page faults (over 30 ms on a virtual machine), 27 with pages of 2 MB.
    numpy asks the system for them by default; torch only under an environment variable.
    """
    return torch.from_numpy(np.empty(shape, dtype=np.float32))


# ---- cutting the work -----------------------------------------------------------------------------

_Block = tuple[int, int, int, int]  # images [i0, i1), tile rows [r0, r1)


def _blocks(n: int, h: int, w: int, c: int) -> list[_Block]:
    """Cut N images of tile rows into blocks of about `_BLOCK_FLOATS / C` tiles, all of nearly one size."""
    tile_rows, tile_columns = -(-h // 4), -(-w // 4)
    tiles = max(32, _BLOCK_FLOATS // c)
    if tile_rows * tile_columns * 2 <= tiles:  # small maps: several images in one block
        step = max(1, round(tiles / (tile_rows * tile_columns)))
        return [(i, min(n, i + step), 0, tile_rows) for i in range(0, n, step)]
    parts = max(1, round(tile_rows * tile_columns / tiles))
    step = -(-tile_rows // parts)
    return [(i, i + 1, r, min(tile_rows, r + step)) for i in range(n) for r in range(0, tile_rows, step)]


def _run(
    blocks: Sequence[_Block], rows: Tensor, out: Tensor, weights: Tensor, bias: Tensor | None, limits: Limits
) -> None:
    with torch.inference_mode():
        for i0, i1, r0, r1 in blocks:
            plan = _plan(i1 - i0, r1 - r0, rows.shape[2], rows.shape[3], out.shape[3])
            plan.load(rows[i0:i1], 4 * r0)
            plan.multiply(weights)
            plan.store(out[i0:i1], 4 * r0, bias, limits)


def _run_in_threads(
    blocks: Sequence[_Block], rows: Tensor, out: Tensor, weights: Tensor, bias: Tensor | None, limits: Limits
) -> None:
    """Let the workers take blocks from one list until it is empty; the first error is raised here."""
    todo = iter(blocks)
    lock = threading.Lock()

    def work() -> None:
        while True:
            with lock:
                block = next(todo, None)
            if block is None:
                return
            _run([block], rows, out, weights, bias, limits)

    threads = torch.get_num_threads()
    pool = _pool(threads, os.getpid())
    for job in [pool.submit(work) for _ in range(threads)]:
        job.result()


@lru_cache(maxsize=1)
def _pool(threads: int, pid: int) -> ThreadPoolExecutor:
    """Workers in which torch runs single-threaded. `pid` makes a forked child start its own."""
    del pid
    ready = threading.Barrier(threads + 1)

    def start() -> None:
        torch.set_num_threads(1)  # holds for this thread only
        ready.wait()

    pool = ThreadPoolExecutor(threads, thread_name_prefix="winograd")
    for _ in range(threads):
        pool.submit(start)
    ready.wait()
    torch.set_num_threads(threads)  # later threads must not inherit the workers' setting
    return pool


# ---- one block ------------------------------------------------------------------------------------

_local = threading.local()


def _plan(images: int, tile_rows: int, width: int, c: int, k: int) -> _Plan:
    """This thread's plan for blocks of this size; the last few sizes stay ready for the next image."""
    if not hasattr(_local, "plan"):
        _local.memory = _Memory()
        _local.plan = lru_cache(maxsize=64)(lambda *size: _Plan(_local.memory, *size))
    return _local.plan(images, tile_rows, width, c, k)  # type: ignore[no-any-return]


class _Memory:
    """Named scratch buffers of one thread, grown when needed and shared by all its plans."""

    def __init__(self) -> None:
        self.buffers: dict[str, Tensor] = {}

    def __call__(self, name: str, *shape: int) -> Tensor:
        size = math.prod(shape)
        buffer = self.buffers.get(name)
        if buffer is None or buffer.numel() < size:
            self.buffers[name] = buffer = empty_map((size,))
        return buffer[:size].view(shape)


class _Plan:
    """All views into the scratch memory that the steps on one block size need, made once.

    A step is an addition of two views into a third; making the views anew would cost as much as adding.
    """

    def __init__(self, memory: _Memory, images: int, tile_rows: int, width: int, c: int, k: int) -> None:
        n, r, t = images, tile_rows, -(-width // 4)
        wide = 4 * t + 2
        self.width, self.tiles = width, n * r * t
        self.padded = memory("padded", n, 4 * r + 2, wide, c)
        by_rows = memory("rows", 6, n, r, wide, c)
        values = memory("values", 6, 6, n, r, t, c)
        self.down = (
            [self.padded[:, i : i + 4 * r - 3 : 4] for i in range(6)],
            list(by_rows.unbind(0)),
            (memory("p", n, r, wide, c), memory("q", n, r, wide, c)),
        )
        self.across = (
            [by_rows[:, :, :, j : j + 4 * t - 3 : 4] for j in range(6)],
            list(values.unbind(1)),
            (memory("p", 6, n, r, t, c), memory("q", 6, n, r, t, c)),
        )
        self.values = values.view(36, self.tiles, c)
        self.products = memory("products", 36, self.tiles, k)
        products = self.products.view(6, 6, n, r, t, k)
        half = memory("rows", 4, 6, n, r, t, k)
        self.result = memory("values", n, 4 * r, 4 * t, k)
        tiled = self.result.view(n, r, 4, t, 4, k).permute(2, 4, 0, 1, 3, 5)
        self.back_down = (
            list(products.unbind(0)),
            list(half.unbind(0)),
            (memory("p", 6, n, r, t, k), memory("q", 6, n, r, t, k)),
        )
        self.back_across = (
            list(half.unbind(1)),
            list(tiled.unbind(1)),
            (memory("p", 4, n, r, t, k), memory("q", 4, n, r, t, k)),
        )

    def load(self, rows: Tensor, top: int) -> None:
        """Copy `rows` (n, H, W, C) from row `top - 1` on with a border of zeros, and transform."""
        first = top - 1
        start, stop = max(0, first), min(rows.shape[1], first + self.padded.shape[1])
        self.padded[:, : start - first].zero_()
        self.padded[:, stop - first :].zero_()
        self.padded[:, :, 0].zero_()
        self.padded[:, :, self.width + 1 :].zero_()
        self.padded[:, start - first : stop - first, 1 : self.width + 1].copy_(rows[:, start:stop])
        _evaluate(*self.down)
        _evaluate(*self.across)

    def multiply(self, weights: Tensor) -> None:
        """The 36 products `(T, C) @ (C, K)`: here the time goes."""
        torch.bmm(self.values, weights, out=self.products)

    def store(self, out: Tensor, top: int, bias: Tensor | None, limits: Limits) -> None:
        """Transform back, add `bias`, and write what lies inside the map to `out` (n, H, W, K)."""
        _interpolate(*self.back_down)
        _interpolate(*self.back_across)
        height = min(self.result.shape[1], out.shape[1] - top)
        result = self.result[:, :height, : self.width]
        target = out[:, top : top + height]
        if bias is not None:
            result.add_(bias)
        low, high = limits
        if high == math.inf and low > -math.inf:
            torch.clamp_min(result, low, out=target)
        elif limits != (-math.inf, math.inf):
            torch.clamp(result, low, high, out=target)
        else:
            target.copy_(result)


def _evaluate(d: Sequence[Tensor], v: Sequence[Tensor], scratch: tuple[Tensor, Tensor]) -> None:
    """`B^T d` in one direction: six views `d` to their values at the points 0, a, -a, b, -b, infinity.

    Row `±a` of `B^T` is the polynomial `x (x ± a) (x² - b²)`, so its even part `d4 - b² d2` and its odd
    part `d3 - b² d1` serve both signs; rows 0 and infinity reuse them: 12 additions instead of 18.
    """
    even, odd = scratch
    torch.add(d[4], d[2], alpha=-_B2, out=even)
    torch.add(d[3], d[1], alpha=-_B2, out=odd)
    torch.add(even, odd, alpha=_A, out=v[1])
    torch.add(even, odd, alpha=-_A, out=v[2])
    torch.add(d[2], d[0], alpha=-_B2, out=v[0])
    torch.add(even, v[0], alpha=-_A2, out=v[0])
    torch.add(d[5], d[3], alpha=-_B2, out=v[5])
    torch.add(v[5], odd, alpha=-_A2, out=v[5])
    torch.add(d[4], d[2], alpha=-_A2, out=even)
    torch.add(d[3], d[1], alpha=-_A2, out=odd)
    torch.add(even, odd, alpha=_B, out=v[3])
    torch.add(even, odd, alpha=-_B, out=v[4])


def _interpolate(m: Sequence[Tensor], y: Sequence[Tensor], scratch: tuple[Tensor, Tensor]) -> None:
    """`A^T m` in one direction: six products at the points to four outputs, `y[j] = sum p^j m[p]`.

    Even `j` need the sums, odd `j` the differences of the products at opposite points.
    """
    inner, outer = scratch
    torch.add(m[1], m[2], out=inner)
    torch.add(m[3], m[4], out=outer)
    torch.add(inner, outer, out=y[0])
    torch.add(y[0], m[0], out=y[0])
    torch.mul(outer, _B2, out=outer)
    torch.add(outer, inner, alpha=_A2, out=y[2])
    torch.sub(m[1], m[2], out=inner)
    torch.sub(m[3], m[4], out=outer)
    torch.mul(inner, _A, out=inner)
    torch.add(inner, outer, alpha=_B, out=y[1])
    torch.add(m[5], inner, alpha=_A2, out=y[3])
    torch.add(y[3], outer, alpha=_B * _B2, out=y[3])
