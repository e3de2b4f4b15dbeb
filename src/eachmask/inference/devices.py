"""Where a network runs and in which precision: chosen in one place, for prediction and training alike."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from eachmask.structures import UserError
from eachmask.structures.checks import told

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""Name on the command line -> what the network computes in."""


def find_device(name: str) -> torch.device:
    """auto, cpu, cuda, cuda:N or mps -> the device.

    Raises:
        UserError: it is not here.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError):
        known = "auto, cpu, cuda, cuda:0, cuda:1, ... or mps"
        raise UserError(f"there is no device {told(name)}: choose {known}") from None
    here = {
        "cpu": True,
        "cuda": torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }
    if not here.get(device.type, False):
        raise UserError(f"this machine (or this build of torch) has no {name}: use --device cpu or auto")
    return device


def find_precision(name: str, device: torch.device) -> torch.dtype:
    """auto, fp32, bf16 or fp16 -> what the network computes in; boxes and scores are always fp32.

    Raises:
        UserError: unknown, or fp16 on a CPU.
    """
    if name == "auto":
        if device.type == "cpu":
            return torch.bfloat16 if cpu_computes_bf16() else torch.float32
        return torch.float16 if device.type == "cuda" else torch.float32
    if name not in PRECISIONS:
        raise UserError(f"unknown precision {told(name)}: choose auto, fp32, bf16 or fp16")
    if name == "fp16" and device.type == "cpu":
        raise UserError("fp16 is for GPUs: on a CPU choose fp32 or bf16")
    return PRECISIONS[name]


def cpu_computes_bf16() -> bool:
    """Whether the CPU multiplies bfloat16 in hardware (AVX512_BF16, AMX or Armv8.6): else it is slower."""
    try:
        flags = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return False
    return bool(flags & {"avx512_bf16", "amx_bf16", "bf16"})


def cpu_name() -> str:
    """What the CPU calls itself; without a name, its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return f"{platform.machine()} {platform.processor()}".strip()


@contextmanager
def one_thread() -> Iterator[None]:
    """What is computed within is computed by one thread.

    >>> threads = torch.get_num_threads()
    >>> with one_thread():
    ...     torch.get_num_threads()
    1
    >>> torch.get_num_threads() == threads
    True
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
