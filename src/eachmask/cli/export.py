"""``eachmask export``: a model as a file that other runtimes run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from eachmask.files.text import say


@dataclass(frozen=True)
class ExportOptions:
    """Write a model as a file that ONNX Runtime, OpenVINO or torch alone runs.

    The network is in the file's graph; categories, preprocessing, thresholds and the small layers that look at single
    objects or prompts are in its metadata, so that predict, evaluate, serve and eachmask.load take the file like any
    model. Before it is kept it is compared with the model at several sizes.

    Examples:
      eachmask export nuclei --to onnx
      eachmask export runs/cells --to openvino --precision bf16 --out cells.xml
      eachmask export runs/cells --precision int8 --data cells-coco
      eachmask predict images --model nuclei.onnx
    """

    model: Annotated[str, tyro.conf.Positional]
    """Name, .safetensors file or folder of a run."""
    to: Literal["onnx", "openvino", "torch-export"] = "onnx"
    """What will run it: ONNX Runtime or OpenVINO, with the extra of that name, or torch alone (a .pt2 file)."""
    precision: Literal["fp32", "bf16", "fp16", "int8"] = "fp32"
    """openvino has bf16, which computes in it, and fp16, which stores weights in it. onnx has int8, which wants --data
    and is refused where it loses more than one point of AP (PQ, mean IoU) on them."""
    out: Path | None = None
    """The file; NAME.onnx, NAME.xml with NAME.bin, or NAME.pt2, in this folder if left out."""
    size: Annotated[tuple[int, int] | None, tyro.conf.arg(metavar="HEIGHT WIDTH")] = None
    """HEIGHT WIDTH that every image is stretched to; any size and any number of images if left out. torch-export of
    some networks, such as nuclei, needs it."""
    data: Path | None = None
    """For int8: annotated images in any format, of which the part `val` is used."""
    images: Path | None = None
    """With --data: the folder of the images, where it is not the one that the annotations lie in."""


def export(options: ExportOptions) -> int:
    """Run the command; returns the exit status."""
    from eachmask import export as write
    from eachmask.cli.next_step import command_for
    from eachmask.runtimes.sessions import session_of

    path = write(
        options.model, options.out, to=options.to, precision=options.precision, size=options.size,
        data=options.data, images=options.images,
    )  # fmt: skip
    session = session_of(path)
    assert session is not None
    info = session.header().info
    lost = {
        name[5:]: (before, info.scores["int8_" + name[5:]])
        for name, before in info.scores.items()
        if name[:5] == "fp32_"
    }
    equal = ", ".join(f"{name} {100 * a:.1f} -> {100 * b:.1f}" for name, (a, b) in lost.items())
    say(f"{path}: {path.stat().st_size / 1e6:.1f} MB, {equal or 'equal to the model at every size tried'}")
    say(f"Use it: {command_for(info.variant, path)}")
    return 0
