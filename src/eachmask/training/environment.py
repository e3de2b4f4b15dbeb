"""The software and the machine of a run, for its record."""

from __future__ import annotations

import platform
from typing import Any

import torch


def environment() -> dict[str, Any]:
    """Versions and machine."""
    import eachmask
    from eachmask.accel.lazy_dynamo import timm, torchvision
    from eachmask.inference.devices import cpu_name

    return {
        "eachmask": eachmask.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision().__version__,
        "timm": timm().__version__,
        "system": platform.platform(),
        "cpu": cpu_name(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }
