"""Whether an exported file gives what its model gives: at other sizes than the traced one, and for two at once."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from eachmask.exporting.answers import calls, owner
from eachmask.exporting.graph import example_image, first_line, for_any_size, padded
from eachmask.runtimes.exported import Answer, Verb
from eachmask.runtimes.header import Header
from eachmask.runtimes.sessions import Session, session_of
from eachmask.structures import ImageBatch, UserError

SIZES = ((96, 160), (130, 97))
"""(height, width) px of small images that both are shown, alone and in pairs."""
PHOTO = (480, 640)
"""... and of one that the network sees as large as it was made for: what has small limits shows there."""
TOLERANCE = {"fp32": 1e-3, "fp16": 2e-2, "bf16": 2e-1}
"""In float32 the largest difference, as a share of the tensor's largest value. Where numbers are rounded on purpose
the root mean square of the differences, as a share of that of the values: a single place may be rounded far off, say a
short vector that is made 1 long. Noise on a small image, which no network was trained for, is rounded most: a tenth was
seen (``objects`` by OpenVINO on AMX) in a file whose AP is the model's. A size that a trace has frozen is off by far
more."""
OF_PHOTO = 10
"""... times this: rounding grows with the pixels that norms average over."""
_OF = ("the largest", "the root mean square")


@torch.no_grad()
def check_equal(path: Path, model: nn.Module, header: Header) -> None:
    """Show both the same images.

    Raises:
        UserError: they differ.
    """
    session = session_of(path)
    assert session is not None
    verb, info = Verb(session, header, model), header.info
    shown = [(size, count) for size in SIZES for count in (1, 2)] + [(info.preprocess.target_size(*PHOTO), 1)]
    for size, count in [(s, c) for s, c in shown if c == 1 or header.batched] if header.dynamic else shown[:1]:
        images = example_image(info.preprocess, size).repeat(count, 1, 1, 1)
        images[-1] = images[-1].flip(-1)
        batch = padded(images, info.preprocess.divisor)
        about = f"{info.name} cannot be exported{for_any_size(info.preprocess)}"
        try:
            found = verb(batch)
        except Exception as error:  # a runtime's own errors derive from nothing narrower
            raise UserError(f"{about}: the file fails at {size}: {first_line(error)}") from error
        expected = getattr(model, header.verb)(batch)
        worst = difference(found, expected, header.precision)
        tolerance = TOLERANCE[header.precision] * (1 if size in SIZES or not header.dynamic else OF_PHOTO)
        if not worst <= max(tolerance, by_rounding(model, header, batch, expected)):
            raise UserError(
                f"{about}: at {size[0]} x {size[1]} px the file's results differ from the model's by {worst:.2g} of "
                f"{_OF[header.precision != 'fp32']}"
            )

    _check_answers(model, header, session)


def by_rounding(model: nn.Module, header: Header, batch: ImageBatch, expected: Any) -> float:
    """What rounding alone may do to this network: twice what torch's own bf16 does; 0 for other precisions.

    Layers of random numbers add up the errors of the layers before, where those of a trained network damp them.
    """
    if header.precision != "bf16":
        return 0.0
    with torch.autocast("cpu", torch.bfloat16):
        own = difference(getattr(model, header.verb)(batch), expected, "bf16")
    return 2 * own if math.isfinite(own) else 0.0


def _check_answers(model: nn.Module, header: Header, session: Session) -> None:
    heard = calls(model, header.info.preprocess) if header.answers else {}
    for path, arguments in heard.items():
        layer, name = owner(model, path)
        answer = Answer(session, header.answers[path])
        pairs = [(answer(*given), getattr(layer, name)(*given)) for given in arguments]
        worst = max(difference(found, expected, header.precision) for found, expected in pairs)
        if not worst <= TOLERANCE[header.precision]:
            raise UserError(
                f"{header.info.name} cannot be exported: the file's answers to prompts differ from the model's by "
                f"{worst:.2g} of {_OF[header.precision != 'fp32']}"
            )


def difference(found: Any, expected: Any, precision: str = "fp32") -> float:
    """How far tensors that both have are apart, as :data:`TOLERANCE` counts.

    Infinite where shapes or numbers differ. What is None in ``found`` is what the rest of the model does not read.
    """
    if isinstance(expected, tuple | list) and isinstance(found, tuple | list):
        if len(found) != len(expected):
            return float("inf")
        return max((difference(*pair, precision) for pair in zip(found, expected, strict=True)), default=0.0)
    if isinstance(expected, Tensor) and found is None:
        return 0.0
    if isinstance(expected, Tensor):
        return _share(found, expected, precision) if found.shape == expected.shape else float("inf")
    return 0.0 if found == expected else float("inf")


def _share(a: Tensor, b: Tensor, precision: str) -> float:
    if not a.numel():
        return 0.0
    a, b = a.double(), b.double()
    apart, size = (v.abs().max() if precision == "fp32" else v.square().mean().sqrt() for v in (a - b, b))
    return float(apart / size.clamp(min=1e-6))
