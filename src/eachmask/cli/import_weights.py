"""``eachmask import``: a checkpoint of another project as a model file."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import tyro

from eachmask.files.text import say


@dataclass(frozen=True)
class ImportOptions:
    """Make a model file of a checkpoint that another project has written, without a network.

    Which project it was (torchvision, MMDetection, MMSegmentation, Detectron2, transformers, a paper's authors) is
    found out: every weight must have its place in the network that you name, and its shape. Nothing in the file is
    executed.

    Examples:
      eachmask import model_final_94dc52.pkl mask2former_r50 --out mask2former.safetensors
      eachmask import iter_80000.pth deeplabv3plus_r50_d8 --classes classes.txt --out streets.safetensors
      eachmask predict photos --model mask2former.safetensors
      eachmask import rvm_mobilenetv3.pth robust_video_matting_mobilenetv3 --out rvm.safetensors
    """

    checkpoint: Annotated[Path, tyro.conf.Positional]
    """A .pth, .pt or .bin file of torch, .safetensors, or a .pkl file of Detectron2."""
    variant: Annotated[str, tyro.conf.Positional]
    """The network that it belongs to, one of `eachmask models --variants`."""
    out: Path
    """The model file, ending in .safetensors."""
    classes: Path | None = None
    """A file with the name of a class on each line, in the order of the network's outputs; by default the classes of
    the published weights."""
    bgr: bool = False
    """The network learned from BGR images less their mean, as Caffe's and many of Detectron2's (PIXEL_STD 1, 1, 1).
    Without it images are normalized as for the published weights of the variant, or for ImageNet's."""


def import_weights(options: ImportOptions) -> int:
    """Run the command; returns the exit status."""
    from eachmask.files.text import counted, read_text
    from eachmask.structures import UserError
    from eachmask.weights.adopt import adopt
    from eachmask.weights.file import save_model

    if options.out.suffix != ".safetensors":
        raise UserError(f"a model file ends in .safetensors, and {options.out} does not")
    names = [] if options.classes is None else [line.strip() for line in read_text(options.classes).splitlines()]
    model, info = adopt(options.checkpoint, options.variant, [name for name in names if name], bgr=options.bgr)
    save_model(options.out, model, replace(info, name=options.out.stem))
    say(f"{options.out}: {options.variant} for {counted(len(info.categories), 'class')}")
    say(f"license: {info.license}")
    return 0
