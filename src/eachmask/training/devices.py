"""Devices, precision and processes, over accelerate.

A run is the same whether one process computes a batch, several share it (``torchrun``, ``accelerate launch``, on one
machine or many), or one computes it in parts: ``Recipe.batch_size`` counts the images of a step in all of them.
"""

from __future__ import annotations

import atexit
import os
from typing import Any

import torch
from torch import Tensor, nn

from eachmask.inference.devices import find_device
from eachmask.structures import ImageBatch, UserError
from eachmask.training.recipe import Run
from eachmask.training.sampling import Share

PRECISIONS = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}


class Step(nn.Module):
    """Forward and losses as one call, which is what distributed data-parallel training has to see."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: ImageBatch, given: list[Any] | None, targets: list[Any]) -> dict[str, Tensor]:
        """The model's losses on a batch."""
        raw = self.model(images) if given is None else self.model(images, given)
        losses: dict[str, Tensor] = self.model.losses(raw, targets)  # type: ignore[operator]
        return losses


def make_accelerator(run: Run) -> Any:
    """accelerate's ``Accelerator`` for the run's device and precision.

    Raises:
        UserError: accelerate is not installed, or the device or precision does not exist here.
    """
    try:
        from accelerate import Accelerator
        from accelerate.state import AcceleratorState
    except ImportError as error:
        raise UserError("training needs accelerate: pip install 'eachmask[train]'") from error
    on_cpu = find_device(run.device).type == "cpu"
    precision = _precision(run.precision, on_cpu)
    if "WORLD_SIZE" not in os.environ:  # alone: whatever an earlier run of this process chose is forgotten
        AcceleratorState._reset_state(reset_partial_state=True)
        os.environ.pop("ACCELERATE_TORCH_DEVICE", None)
        if run.device.startswith("cuda:"):
            os.environ["ACCELERATE_TORCH_DEVICE"] = run.device
    else:
        # Default arguments there hold the group of all processes if there is one when it is imported; nothing
        # could end the group's threads then, and one that is still running when Python ends aborts the process.
        import torch.distributed.nn  # noqa: F401
    return Accelerator(cpu=on_cpu, mixed_precision=PRECISIONS[precision])


def leave_at_exit(accelerator: Any) -> None:
    """When this process ends, take leave of the others, which ends the threads that talk to them."""
    if accelerator.num_processes > 1:
        atexit.register(_leave)


def _leave() -> None:
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def share_of(accelerator: Any, run: Run) -> Share:
    """This process's part of each batch."""
    return Share(accelerator.process_index, accelerator.num_processes, run.accumulate)


def _precision(name: str, on_cpu: bool) -> str:
    if name == "auto":
        return "bf16" if not on_cpu and torch.cuda.is_available() and torch.cuda.is_bf16_supported() else "fp32"
    if name not in PRECISIONS:
        raise UserError(f"there is no precision {name!r}: choose auto, {', '.join(PRECISIONS)}")
    if name == "fp16" and on_cpu:
        raise UserError("fp16 does not train on a CPU: choose --precision bf16 or fp32")
    return name
