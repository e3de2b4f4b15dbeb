"""Winograd convolution F(4x4, 3x3) on the CPU: 3x3 convolutions with a quarter of the multiplications.

A. Lavin, S. Gray: *Fast Algorithms for Convolutional Neural Networks*, CVPR 2016, arXiv 1509.09308.

A 4x4 tile of the output of a 3x3 convolution depends on a 6x6 tile of the input. Evaluated directly it
takes 16 x 9 = 144 multiplications per pair of channels. Seen as a product of polynomials it is known
from its values at 6 x 6 points, and takes 36. All tiles together become 36 matrix products
`(T, C) @ (C, K)`, one per point, which is what a CPU does best; the way to the values
(`B^T d B`) and back (`A^T m A`) is additions only.

Five choices make it fast, and exact enough for training in float32:

* **The points** are 0, ±1/√2, ±√2 and infinity instead of the paper's 0, ±1, ±2, infinity. The entries of
  the three matrices stay near 1, and the rounding error falls to that of the direct convolution
  (relative error 9e-7 against 20e-7 for the paper's points and 6e-7 direct, 256 channels). B. Barabasz et
  al., *Error Analysis and Improving the Accuracy of Winograd Convolution for Deep Neural Networks*,
  arXiv 1803.10986, explain why points matter.
* **Blocks of tiles** pass through all steps while they are in the cache: a whole 256-channel map in the
  transformed form would be 2.25 times the map, and memory, not arithmetic, would set the time.
* **One direction after the other**: the transforms are a dozen additions of whole planes each way, which share
  their even and odd parts, instead of a product with a 36 x 36 matrix.
* **One thread per block**, instead of many threads inside each small step: every step would end at a barrier,
  and where another process holds one core, every barrier costs a time slice (measured: 20 times slower then).
* **Only where it pays** (`pays`): wide layers on large maps. The additions are the same for any number of channels
  out, and many small steps cost more than one call of oneDNN's direct convolution, the more so where several threads
  take turns in Python.

It serves training alone (:mod:`eachmask.accel.winograd_training`), where it saves half of a step's time.

Shapes: `N` images, `C` channels in, `K` channels out, `H`, `W` rows and columns, `R` rows of tiles in a block,
`S` tiles in a row, `T = N R S` tiles in a block.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

INNER, OUTER = math.sqrt(0.5), math.sqrt(2.0)
"""The points besides 0 and infinity, a and b, each with both signs."""
_A2, _B2 = 0.5, 2.0  # their squares, exactly

BLOCK_SIZE = 32768
"""Tiles x channels of one block: its values at the 36 points are then 5 MB, and so are their products."""
MIN_WORK, MIN_WORK_PER_THREAD = 1.5e6, 4e6
"""Channels in x channels out x tiles from which on it is the faster way: of one thread, and of each of several."""


def pays(channels_in: int, channels_out: int, tiles: int) -> bool:
    """Whether it is faster than the direct convolution, for layers that are not narrow.

    A rule by numbers of multiplications, measured by `benchmarks/winograd.py`, and not a trial on the first call, so
    that the same image gives the same bits in every run.
    """
    threads = torch.get_num_threads()
    least = MIN_WORK if threads == 1 else MIN_WORK_PER_THREAD * threads
    return channels_in * channels_out * tiles >= least


def tiles_of(x: Tensor) -> int:
    """Tiles that cover all of `(N, C, H, W)` maps."""
    return x.shape[0] * -(-x.shape[2] // 4) * -(-x.shape[3] // 4)


def kernel_matrix() -> list[list[float]]:
    """`G` (6, 3): the values of a quadratic at the six points, each divided by its Lagrange denominator."""
    points = [0.0, INNER, -INNER, OUTER, -OUTER]
    rows = []
    for p in points:
        scale = math.prod(p - q for q in points if q != p)
        rows.append([1 / scale, p / scale, p * p / scale])
    return [*rows, [0.0, 0.0, 1.0]]


def conv3x3(x: Tensor, weights: Tensor, bias: Tensor | None = None) -> Tensor:
    """3x3 convolution with stride 1 and padding 1.

    Args:
        x: `(N, C, H, W)` float32 on the CPU, best in channels_last memory.
        weights: `(36, C, K)`, the values of the kernels at the points, `G g G^T` (Lavin and Gray, section 4.1).
        bias: `(K,)`.

    Returns:
        `(N, K, H, W)` in channels_last memory. No gradients flow through it.

    Raises:
        ValueError: another type or device, or channels that do not agree.
    """
    if x.dtype != torch.float32 or x.device.type != "cpu" or x.shape[1] != weights.shape[1]:
        raise ValueError(
            f"winograd takes float32 maps with {weights.shape[1]} channels on the CPU, "
            f"got {x.dtype} {tuple(x.shape)} on {x.device}"
        )
    n, c, h, w = x.shape
    # Turned before it becomes a tensor: a view as the result could not be changed in place where gradients flow.
    result = torch.from_numpy(empty_array((n, h, w, weights.shape[2])).transpose(0, 3, 1, 2))
    out = result.permute(0, 2, 3, 1)
    rows = x.detach().permute(0, 2, 3, 1)

    def run(block: Block) -> None:
        images, first, last = block
        top = 4 * first
        values = tile_values(padded_rows(rows[images], top, last - first))
        products = scratch("products", 36, values[0, 0].numel() // c, weights.shape[2])
        torch.bmm(values.view(36, -1, c), weights, out=products)
        part = _outputs(products.view(*values.shape[:-1], -1))[:, : h - top, :w]
        if bias is not None:
            part.add_(bias)
        out[images, top : 4 * last].copy_(part)

    for_each(list(blocks_of(n, h, w, c)), run)
    return result


def empty_map(shape: tuple[int, ...]) -> Tensor:
    """An uninitialized float32 tensor, see :func:`empty_array`."""
    return torch.from_numpy(empty_array(shape))


def empty_array(shape: tuple[int, ...]) -> NDArray[np.float32]:
    """An uninitialized array whose memory comes in huge pages where the system has them.

    A fresh 56 MB map costs 14,000 page faults (over 30 ms on a virtual machine), 27 with pages of 2 MB.
    numpy asks the system for them by default; torch only under an environment variable.
    """
    return np.empty(shape, dtype=np.float32)


# Cutting and sharing the work ----------------------------------------------------------------------------------------

Block = tuple[slice, int, int]
"""Images, and their rows of tiles from the first up to (not including) the last."""


def blocks_of(n: int, h: int, w: int, c: int) -> Iterator[Block]:
    """Cut N images into blocks of about `BLOCK_SIZE / C` tiles, as many for each thread."""
    rows, columns, threads = -(-h // 4), -(-w // 4), torch.get_num_threads()
    tiles = max(1, BLOCK_SIZE // c)
    if rows * columns * 2 <= tiles or n >= 4 * threads:  # small maps: whole images
        for i0, i1 in _parts(n, n * rows * columns / tiles, threads):
            yield slice(i0, i1), 0, rows
    else:
        for i in range(n):
            for r0, r1 in _parts(rows, rows * columns / tiles, threads):
                yield slice(i, i + 1), r0, r1


def _parts(length: int, count: float, threads: int) -> Iterator[tuple[int, int]]:
    """Cut `range(length)` into about `count` nearly equal parts, a multiple of `threads` if there is enough."""
    number = min(length, max(1, round(count / threads)) * threads)
    edges = [i * length // max(number, 1) for i in range(number + 1)]
    return zip(edges[:-1], edges[1:], strict=True)


def for_each(parts: Iterable[Any], run: Callable[[Any], None]) -> None:
    """Let this thread's share of workers take parts until none is left; the first error is raised here."""
    parts = list(parts)
    threads = min(torch.get_num_threads(), len(parts))
    todo, lock = iter(parts), threading.Lock()

    def work() -> None:
        with torch.inference_mode():
            while True:
                with lock:
                    part = next(todo, None)
                if part is None:
                    return
                run(part)

    if threads <= 1:
        return work()
    pool = _pool(torch.get_num_threads(), os.getpid())
    for job in [pool.submit(work) for _ in range(threads)]:
        job.result()


@lru_cache(maxsize=1)
def _pool(threads: int, process: int) -> ThreadPoolExecutor:
    """Workers in which torch runs single-threaded. A forked `process` needs its own."""
    del process
    ready = threading.Barrier(threads + 1)

    def start() -> None:
        torch.set_num_threads(1)  # holds for this thread, and for later ones until it is set again below
        ready.wait()

    pool = ThreadPoolExecutor(threads, thread_name_prefix="winograd")
    for _ in range(threads):
        pool.submit(start)
    ready.wait()
    torch.set_num_threads(threads)
    return pool


# The steps on one block ----------------------------------------------------------------------------------------------


def padded_rows(rows: Tensor, top: int, tile_rows: int) -> Tensor:
    """Rows `top - 1` to `top + 4 R` of `(N, H, W, C)` with zeros around the map: `(N, 4 R + 2, 4 S + 2, C)`."""
    n, h, w, c = rows.shape
    padded = scratch("padded", n, 4 * tile_rows + 2, -(-w // 4) * 4 + 2, c)
    start, stop = max(0, top - 1), min(h, top + 4 * tile_rows + 1)
    above, below = start - (top - 1), stop - (top - 1)
    padded[:, :above].zero_()
    padded[:, below:].zero_()
    padded[:, above:below, 0].zero_()
    padded[:, above:below, w + 1 :].zero_()
    padded[:, above:below, 1 : w + 1].copy_(rows[:, start:stop])
    return padded


def tile_values(padded: Tensor) -> Tensor:
    """Input `(N, 4 R + 2, 4 S + 2, C)` to the values of its tiles at the points, `(6, 6, N, R, S, C)`."""
    n, height, width, c = padded.shape
    r, s = height // 4, width // 4
    down = scratch("down", 6, n, r, width, c)
    _evaluate([padded[:, i : i + 4 * r - 3 : 4] for i in range(6)], down.unbind(0))
    values = scratch("values", 6, 6, n, r, s, c)
    _evaluate([down[:, :, :, j : j + 4 * s - 3 : 4] for j in range(6)], values.unbind(1))
    return values


def _outputs(products: Tensor) -> Tensor:
    """Products at the points, `(6, 6, N, R, S, K)`, to outputs `(N, 4 R, 4 S, K)`."""
    _, _, n, r, s, k = products.shape
    down = scratch("down", 4, 6, n, r, s, k)
    _interpolate(products.unbind(0), down.unbind(0))
    outputs = scratch("values", n, r, 4, s, 4, k)  # the values have done their part
    _interpolate(down.unbind(1), outputs.permute(2, 4, 0, 1, 3, 5).unbind(1))
    return outputs.view(n, 4 * r, 4 * s, k)


def _evaluate(d: Sequence[Tensor], v: Sequence[Tensor]) -> None:
    """`v = B^T d` in one direction: six pixels to their values at the points 0, a, -a, b, -b, infinity.

    Row `±a` of `B^T` is the polynomial `x (x ± a) (x² - b²)`, so its even part `d4 - b² d2` and its odd
    part `d3 - b² d1` serve both signs; rows 0 and infinity reuse them: 12 additions instead of 18.
    """
    even, odd = scratch("even", *v[0].shape), scratch("odd", *v[0].shape)
    torch.add(d[4], d[2], alpha=-_B2, out=even)
    torch.add(d[3], d[1], alpha=-_B2, out=odd)
    torch.add(even, odd, alpha=INNER, out=v[1])
    torch.add(even, odd, alpha=-INNER, out=v[2])
    torch.add(d[2], d[0], alpha=-_B2, out=v[0])
    torch.add(even, v[0], alpha=-_A2, out=v[0])
    torch.add(d[5], d[3], alpha=-_B2, out=v[5])
    torch.add(v[5], odd, alpha=-_A2, out=v[5])
    torch.add(d[4], d[2], alpha=-_A2, out=even)
    torch.add(d[3], d[1], alpha=-_A2, out=odd)
    torch.add(even, odd, alpha=OUTER, out=v[3])
    torch.add(even, odd, alpha=-OUTER, out=v[4])


def _interpolate(m: Sequence[Tensor], y: Sequence[Tensor]) -> None:
    """`y = A^T m` in one direction: products at the six points to four outputs, `y[j] = sum over p of p^j m[p]`.

    Even `j` need the sums, odd `j` the differences of the products at opposite points.
    """
    inner, outer = scratch("even", *m[0].shape), scratch("odd", *m[0].shape)
    torch.add(m[1], m[2], out=inner)
    torch.add(m[3], m[4], out=outer)
    torch.add(inner, outer, out=y[0])
    torch.add(y[0], m[0], out=y[0])
    torch.mul(outer, _B2, out=outer)
    torch.add(outer, inner, alpha=_A2, out=y[2])
    torch.sub(m[1], m[2], out=inner)
    torch.sub(m[3], m[4], out=outer)
    torch.mul(inner, INNER, out=inner)
    torch.add(inner, outer, alpha=OUTER, out=y[1])
    torch.add(m[5], inner, alpha=_A2, out=y[3])
    torch.add(y[3], outer, alpha=OUTER * _B2, out=y[3])


_memory = threading.local()


def scratch(name: str, *shape: int) -> Tensor:
    """This thread's buffer of that name, grown when needed: fresh memory for each block would cost page faults."""
    size = math.prod(shape)
    buffers: dict[str, Tensor] = _memory.__dict__
    if name not in buffers or buffers[name].numel() < size:
        buffers[name] = empty_map((size,))
    return buffers[name][:size].view(shape)
