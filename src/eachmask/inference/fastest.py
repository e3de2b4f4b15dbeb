"""``--precision auto`` on a CPU: bfloat16 where a short measurement says that it is faster here, remembered for good.

Whether bfloat16 pays depends on the CPU, on the build of torch and on the network (its smallest layers, its
normalizations), so that no flag of the CPU answers it; the flag only says where it cannot pay, since the CPU lacks it.
Both precisions run the same network on the same image in turn.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from eachmask import __version__
from eachmask.inference.devices import cpu_name
from eachmask.structures import ImageBatch, Preprocess, UserError
from eachmask.weights.fetch import cache_dir
from eachmask.weights.header import ModelInfo

SIDE = 384
"""Of the square image that is measured on, px; more where the network wants multiples of more, or one size alone."""
ROUNDS = 5
ENOUGH = 1.5
"""Seconds after which no further round begins."""
GAIN = 0.9
"""bfloat16 must need less than this share of float32's time: it rounds more coarsely."""


def fastest(model: nn.Module, info: ModelInfo) -> torch.dtype:
    """What a network that is ready to run on the CPU computes in fastest: float32 or bfloat16.

    The answer is kept in the folder ``precision`` of the cache, in a file for each release, machine and network;
    processes that measure at the same time all take the answer of the one that wrote first.
    """
    file = cache_dir() / "precision" / _key(info)
    known = _read(file)
    if known is not None:
        return known
    try:
        return _remembered(file, measured(lambda dtype: _run(model, info.preprocess, dtype)))
    except UserError:  # an image alone does not do
        return torch.bfloat16


@torch.inference_mode()
def measured(run: Callable[[torch.dtype], None], clock: Callable[[], float] = time.process_time) -> torch.dtype:
    """The faster of both, by the shortest of a few runs of each, which take turns.

    Args:
        run: computes once in the precision that it is given.
        clock: seconds; by default of the CPU in this process, which other processes do not disturb.
    """
    shortest = dict.fromkeys((torch.float32, torch.bfloat16), float("inf"))
    begin = clock()
    for _ in range(ROUNDS):
        for dtype in shortest:
            start = clock()
            run(dtype)
            shortest[dtype] = min(shortest[dtype], clock() - start)
        if clock() - begin > ENOUGH:
            break
    return torch.bfloat16 if shortest[torch.bfloat16] < GAIN * shortest[torch.float32] else torch.float32


def _run(model: nn.Module, preprocess: Preprocess, dtype: torch.dtype) -> None:
    side = -(-SIDE // preprocess.divisor) * preprocess.divisor
    height, width = preprocess.fixed_size or (side, side)
    batch = ImageBatch(torch.zeros(1, 3, height, width), ((height, width),))
    look = getattr(model, "encode", model)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
        look(batch)


def _key(info: ModelInfo) -> str:
    machine = (cpu_name(), torch.__version__, torch.get_num_threads())
    seen = (info.preprocess.divisor, info.preprocess.fixed_size)  # of the preprocessing :func:`_run` uses no more
    about = (__version__, *machine, info.variant, info.config, seen)
    return hashlib.sha256(repr(about).encode()).hexdigest()[:32]


def _read(file: Path) -> torch.dtype | None:
    try:
        return {"bf16": torch.bfloat16, "fp32": torch.float32}.get(file.read_text())
    except (OSError, UnicodeDecodeError):
        return None


def _remembered(file: Path, found: torch.dtype) -> torch.dtype:
    """The answer that is kept, which is another process's where that was first; a cache is no must."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("x") as handle:
            handle.write("bf16" if found == torch.bfloat16 else "fp32")
    except OSError:
        pass
    return _read(file) or found
