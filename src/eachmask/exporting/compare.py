"""Whether an exported file gives what its model gives: other sizes than the traced one, and two images at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from eachmask.exporting.graph import example_image, first_line, padded
from eachmask.runtimes.exported import Verb
from eachmask.runtimes.header import Header
from eachmask.runtimes.sessions import session_of
from eachmask.structures import UserError
from eachmask.weights.header import ModelInfo

SIZES = ((96, 160), (130, 97), (64, 225))
"""(height, width) px of the images that both are shown."""
TOLERANCE = {"fp32": 1e-3, "fp16": 2e-2, "bf16": 1e-1}
"""Largest difference, as a share of the tensor's largest value."""


@torch.no_grad()
def check_equal(path: Path, model: nn.Module, info: ModelInfo, header: Header) -> None:
    """Show both the same images.

    Raises:
        UserError: they differ.
    """
    session = session_of(path)
    assert session is not None
    verb = Verb(session, header, model)
    for size in SIZES if header.dynamic else SIZES[:1]:
        for count in (1, 2):
            images = example_image(info.preprocess, size).repeat(count, 1, 1, 1)
            images[-1] = images[-1].flip(-1)
            batch = padded(images, info.preprocess.divisor)
            try:
                found = verb(batch)
            except Exception as error:  # a runtime's own errors derive from nothing narrower
                raise UserError(
                    f"{info.name} cannot be exported: the file fails at {size}: {first_line(error)}"
                ) from error
            worst = difference(found, getattr(model, header.verb)(batch))
            if not worst <= TOLERANCE[header.precision]:
                raise UserError(
                    f"{info.name} cannot be exported: at {size[0]} x {size[1]} px the file's results differ from the "
                    f"model's by {worst:.2g} of the largest"
                )


def difference(found: Any, expected: Any) -> float:
    """The largest difference of tensors that both have, as a share of the tensor's largest value.

    Infinite where shapes or numbers differ. What is None in ``found`` is what the rest of the model does not read.
    """
    if isinstance(expected, tuple | list) and isinstance(found, tuple | list):
        pairs = zip(found, expected, strict=False)
        return max((difference(*pair) for pair in pairs), default=0.0) if len(found) == len(expected) else float("inf")
    if isinstance(expected, Tensor) and found is None:
        return 0.0
    if isinstance(expected, Tensor):
        return _share(found, expected) if found.shape == expected.shape else float("inf")
    return 0.0 if found == expected else float("inf")


def _share(a: Tensor, b: Tensor) -> float:
    if not a.numel():
        return 0.0
    a, b = a.double(), b.double()
    return float((a - b).abs().max() / b.abs().max().clamp(min=1e-6))
