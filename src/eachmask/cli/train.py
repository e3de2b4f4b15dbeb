"""``eachmask train``: annotated images in, one model file out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from eachmask.files.text import say


@dataclass(frozen=True)
class TrainOptions:
    """Train a model on your own annotated images.

    MODEL is the name of any model variant (`eachmask models --variants` lists them), whose settings then follow from
    the data: number of classes and names, image size, length, learning rate, augmentation. Or it is a recipe: the name
    of a bundled model (nuclei) trains that model again, my.py:function is a custom recipe.

    The data may be in any format that `eachmask convert` reads: COCO, YOLO, Pascal VOC, Cityscapes, LabelMe, CVAT,
    label maps, mask files. Without --val, a split called val is used if there is one; else a fifth of the images is
    held out. Training starts from official or bundled weights of the variant where they can be had, else from a
    pretrained backbone.

    The run folder gets model.safetensors (the best on val), last.safetensors, report.html, recipe.py (what was done,
    to be run again), environment.json, log.csv, curves.svg, tensorboard/, samples/ and checkpoints/. The same command
    started again continues where it stopped; with a larger --steps it resumes from there.

    Several processes share each batch: torchrun --nproc-per-node 2 -m eachmask train ... (docs/training.md has more).

    Examples:
      eachmask train condinst_lite0_fpn --data my-photos --out runs/mine
      eachmask train mask_rcnn_r50_fpn_v2 --data train.json --val val.json --out runs/mine --device cuda
      eachmask train mask_rcnn_lite0_fpn --data cells --pretrained none --steps 500 --out runs/scratch
      eachmask train yolact_lite0 --data cells --copy-paste 0 --mosaic 0.5 --out runs/mosaics
      eachmask train cascade_mask_rcnn_r50_fpn_mmdet --backbone swin_v2_t --data my-photos --out runs/swin
      eachmask train nuclei --data dsb2018 --out runs/nuclei
      eachmask train my.py:my_recipe --data my-cells --out runs/mine
    """

    model: Annotated[str, tyro.conf.Positional]
    """Model variant, recipe name, or my.py:function."""
    data: Path
    """Folder or annotation file with the training images."""
    out: Path
    """Folder of the run; made if missing."""
    val: Path | None = None
    """Folder or annotation file of the images that choose the best weights."""
    partial: tuple[Path, ...] = ()
    """More training images, in which only some of the classes are annotated: whatever else is in them counts neither
    as object nor as background."""
    format: str | None = None
    """Of the annotations, where it cannot be told: coco, yolo, voc, cityscapes, labelme, cvat, label-maps,
    mask-files, class-maps, mattes ..."""
    pretrained: Annotated[str, tyro.conf.arg(aliases=["--start"])] = "auto"
    """auto, backbone (pretrained backbone only), none (random numbers), or a model's name or file to start from; of a
    model of another variant its backbone is taken."""
    backbone: str | None = None
    """Instead of the variant's own: swin_t, resnet50, any of timm's (convnext_tiny); for models that read the maps of
    one, as those with a pyramid do."""
    steps: int | None = None
    """Train for so many steps instead of the recipe's."""
    batch: int | None = None
    """Images per step, over all processes, instead of the recipe's."""
    size: int | None = None
    """Longer side of the images as the network sees them, px; by default from the data."""
    mosaic: float | None = None
    """Chance, 0 to 1, that a training image is made of four; none are by default."""
    copy_paste: float | None = None
    """Chance, 0 to 1, that objects of another image are pasted into a training image; by default 0.5 where there are
    masks, 0 pastes none."""
    learning_rate: float | None = None
    """Instead of the recipe's."""
    schedule: Literal["cosine", "step"] | None = None
    """How the learning rate falls: along a cosine, or tenfold at 75% and 92% of the run."""
    freeze: int | None = None
    """Fix so many first stages of the backbone and all its batch normalization; -1 trains everything."""
    patience: int | None = None
    """Stop after so many evaluations without a better score."""
    evaluate_every: int | None = None
    """Steps between evaluations."""
    checkpoint_every: int = 200
    """Steps between checkpoints; every evaluation and Ctrl-C save one too."""
    seed: int = 0
    """Same seed, same data, same device: same weights."""
    resume: bool = True
    """Continue the run in --out if there is one."""
    device: str = "auto"
    """cpu, cuda, cuda:1, mps or auto."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Of the arithmetic; auto takes bf16 on GPUs that have it."""
    accumulate: int = 1
    """Compute each batch in so many parts, where it does not fit in memory at once."""
    workers: int = 0
    """Processes that prepare batches; worth it where the device is faster than one core."""


def train(options: TrainOptions) -> int:
    """Run the command; returns the exit status."""
    from eachmask.training.interrupt import ends_with_a_word

    with ends_with_a_word(options.out):  # importing torch takes seconds too
        from eachmask.recipes.train import speaks
        from eachmask.recipes.train import train as train_by_name

        path = train_by_name(**vars(options))
    if speaks():
        from eachmask.cli.next_step import command_for
        from eachmask.weights.file import read_info

        use = command_for(read_info(path).variant, path.parent)
        say(f"The best model is {path}. Use it: {use} --out results")
    return 0
