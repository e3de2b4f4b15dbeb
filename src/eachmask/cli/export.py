"""``eachmask export``: a model as a file that other runtimes run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from eachmask.files.text import say


@dataclass(frozen=True)
class ExportOptions:
    """Write a model as a file that ONNX Runtime or OpenVINO runs.

    The network is in the file's graph; categories, preprocessing, thresholds and the small layers that look at single
    objects or prompts are in its metadata, so that predict, evaluate, serve and eachmask.load take the file like any
    model. Before it is kept it is compared with the model at several sizes.

    Examples:
      eachmask export nuclei --to onnx
      eachmask export runs/cells --to openvino --precision bf16 --out cells.xml
      eachmask predict images --model nuclei.onnx
    """

    model: Annotated[str, tyro.conf.Positional]
    """Name, .safetensors file or folder of a run."""
    to: Literal["onnx", "openvino"] = "onnx"
    """What will run it; it needs the extra of that name."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """openvino alone has others than fp32: bf16 computes in it, fp16 stores weights in it."""
    out: Path | None = None
    """The file; NAME.onnx, or NAME.xml with NAME.bin, in this folder if left out."""
    size: tuple[int, int] | None = None
    """HEIGHT WIDTH that every image is stretched to; any size and any number of images if left out."""


def export(options: ExportOptions) -> int:
    """Run the command; returns the exit status."""
    from eachmask import export as write

    path = write(options.model, options.out, to=options.to, precision=options.precision, size=options.size)
    say(f"{path}: {path.stat().st_size / 1e6:.1f} MB, equal to the model at every size tried")
    say(f"Use it: eachmask predict IMAGES --model {path}")
    return 0
