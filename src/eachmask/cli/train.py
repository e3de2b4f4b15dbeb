"""``eachmask train``: a recipe and a folder of annotated images in, one model file out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import tyro

from eachmask.structures import UserError


@dataclass(frozen=True)
class TrainOptions:
    """Train a model by a recipe.

    The data folder holds instances_train.json and instances_val.json (COCO format) and the images in
    images/train and images/val. The run folder gets model.safetensors (the best on val), log.csv,
    curves.svg and checkpoints; the same command started again continues where it stopped.

    Examples:
      eachmask train nuclei --data dsb2018 --out runs/nuclei
      eachmask train my.py:my_recipe --data my-cells --out runs/mine --steps 500
    """

    recipe: Annotated[str, tyro.conf.Positional]
    """Name of a recipe (nuclei) or my.py:function."""
    data: Path
    """Folder with the annotations and images."""
    out: Path
    """Folder of the run; made if missing."""
    steps: int | None = None
    """Train for so many steps instead of the recipe's."""
    batch: int | None = None
    """Images per step instead of the recipe's."""
    seed: int = 0
    """Same seed, same data, same device: same weights."""
    resume: bool = True
    """Continue the run in --out if there is one."""
    device: str = "auto"
    """cpu, cuda, cuda:1, mps or auto."""
    workers: int = 0
    """Processes that prepare batches; worth it where the device is faster than one core."""


def train(options: TrainOptions) -> int:
    """Run the command; returns the exit status."""
    from eachmask.data.coco import CocoDataset
    from eachmask.recipes import recipe
    from eachmask.train.loop import train as run_training
    from eachmask.train.recipe import Run

    chosen = recipe(options.recipe)()
    if options.steps is not None:
        chosen = replace(chosen, steps=options.steps)
    if options.batch is not None:
        chosen = replace(chosen, batch_size=options.batch)
    splits = []
    for split in ("train", "val"):
        annotations = options.data / f"instances_{split}.json"
        if not annotations.is_file():
            raise UserError(
                f"{annotations} does not exist: --data must be a folder with instances_train.json, "
                "instances_val.json and the images in images/train and images/val"
            )
        splits.append(CocoDataset(annotations, options.data / "images" / split))
    run = Run(
        out=options.out, seed=options.seed, resume=options.resume, device=options.device, workers=options.workers
    )
    path = run_training(chosen, splits[0], splits[1], run)
    print(f"The best model is {path}. Use it: eachmask predict IMAGES --model {path} --out results")
    return 0
