"""Winograd's 3 x 3 convolution against torch's in training: where `eachmask.accel.winograd.pays` should say yes.

    python benchmarks/winograd.py [--threads 2] [--repeats 9]

Both go forward and backward in turn on the same map, the median of the repeats counts. A line for each number of
channels; in it, for each size of map, the tiles, both times in milliseconds, their ratio, and a star where the rule
takes Winograd.
What counts is the rule's choice against the better of the two: `worst_choice` is the largest share of time that a
choice loses, `mean_choice` the mean over all.

The last line is JSON: `speedup_where_chosen` (geometric mean), `worst_choice`, `mean_choice`, `threads`.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from eachmask.accel import winograd
from eachmask.accel.winograd_training import conv3x3

CHANNELS = (96, 128, 160, 192, 256, 384, 512)
SIZES = ((12, 16), (16, 24), (25, 34), (32, 48), (50, 68), (68, 100), (100, 136))


def medians(calls: list[Callable[[], object]], repeats: int) -> list[float]:
    """Seconds of each, called in turn."""
    times: list[list[float]] = [[] for _ in calls]
    for repeat in range(repeats + 2):
        for call, taken in zip(calls, times, strict=True):
            begin = time.perf_counter()
            call()
            if repeat >= 2:
                taken.append(time.perf_counter() - begin)
    return [statistics.median(taken) for taken in times]


def direct_step(conv: nn.Conv2d, x: Tensor) -> None:
    """Forward and backward as torch has it."""
    conv(x).sum().backward()


def fast_step(conv: nn.Conv2d, x: Tensor) -> None:
    """The same as Winograd."""
    conv3x3(x, conv.weight, conv.bias).sum().backward()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    speedups, losses = [], []
    for channels in CHANNELS:
        cells = []
        for size in SIZES:
            conv = nn.Conv2d(channels, channels, 3, padding=1).to(memory_format=torch.channels_last)
            x = torch.randn(1, channels, *size).to(memory_format=torch.channels_last).requires_grad_()
            plain, fast = medians([lambda: direct_step(conv, x), lambda: fast_step(conv, x)], options.repeats)  # noqa: B023
            chosen = winograd.pays(channels, channels, winograd.tiles_of(x))
            if chosen:
                speedups.append(plain / fast)
            losses.append((fast if chosen else plain) / min(plain, fast) - 1)
            star = "*" if chosen else " "
            cells.append(f"{winograd.tiles_of(x)}: {plain * 1e3:.1f} {fast * 1e3:.1f} {plain / fast:.2f}{star}")
        print(f"{channels:4d}  " + " | ".join(cells), flush=True)
    result = {
        "speedup_where_chosen": round(math.exp(statistics.mean(map(math.log, speedups))), 2) if speedups else None,
        "worst_choice": round(max(losses), 2),
        "mean_choice": round(statistics.mean(losses), 3),
        "threads": options.threads,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
