"""The software and the machine of a run, for its record."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import torch


def environment() -> dict[str, Any]:
    """Versions and machine."""
    import eachmask
    from eachmask.accel.lazy_dynamo import timm, torchvision

    return {
        "eachmask": eachmask.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision().__version__,
        "timm": timm().__version__,
        "system": platform.platform(),
        "cpu": _cpu(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()
