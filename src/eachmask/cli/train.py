"""``eachmask train``: annotated images in, one model file out."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from eachmask.files.atomic import write_text
from eachmask.structures.errors import UserError

if TYPE_CHECKING:
    from eachmask.data.dataset import AnnotatedImage, AnnotatedSet, Problem
    from eachmask.data.samples import ImageSamples
    from eachmask.structures import Category
    from eachmask.training.recipe import Recipe


@dataclass(frozen=True)
class TrainOptions:
    """Train a model on your own annotated images.

    MODEL is the name of any model variant (`eachmask models --variants` lists them), whose settings then follow from
    the data: number of classes and names, image size, length, learning rate, augmentation. Or it is a recipe: the name
    of a bundled model (nuclei) trains that model again, my.py:function is a recipe of your own.

    The data may be in any format that `eachmask convert` reads: COCO, YOLO, Pascal VOC, Cityscapes, LabelMe, CVAT,
    label maps, mask files. Without --val, a split called val is used if there is one; else a fifth of the images is
    held out. Training starts from official or bundled weights of the variant where they can be had, else from a
    pretrained backbone.

    The run folder gets model.safetensors (the best on val), last.safetensors, report.html, recipe.py (what was done,
    to be run again), environment.json, log.csv, curves.svg, tensorboard/, samples/ and checkpoints/. The same command
    started again continues where it stopped; with a larger --steps it goes on from there.

    Several processes share each batch: torchrun --nproc-per-node 2 -m eachmask train ... (docs/training.md has more).

    Examples:
      eachmask train condinst_lite0_fpn --data my-photos --out runs/mine
      eachmask train mask_rcnn_r50_fpn_v2 --data train.json --val val.json --out runs/mine --device cuda
      eachmask train mask_rcnn_lite0_fpn --data cells --start none --steps 500 --out runs/scratch
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
    """Of the annotations, where it cannot be told: coco, yolo, voc, cityscapes, labelme, cvat, label-maps or
    mask-files."""
    start: str = "auto"
    """auto, backbone (pretrained backbone only), none (random numbers), or a model's name or file to start from; of a
    model of another variant its backbone is taken."""
    steps: int | None = None
    """Train for so many steps instead of the recipe's."""
    batch: int | None = None
    """Images per step, over all processes, instead of the recipe's."""
    size: int | None = None
    """Longer side of the images as the network sees them, px; by default from the data."""
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
    seed: int = 0
    """Same seed, same data, same device: same weights."""
    resume: bool = True
    """Continue the run in --out if there is one."""
    device: str = "auto"
    """cpu, cuda, cuda:1, mps or auto."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Of the arithmetic; auto takes bf16 on GPUs that have it."""
    accumulate: int = 1
    """Compute each batch in so many pieces, where it does not fit in memory at once."""
    workers: int = 0
    """Processes that prepare batches; worth it where the device is faster than one core."""


def train(options: TrainOptions) -> int:
    """Run the command; returns the exit status."""
    from eachmask.training.loop import train as run_training
    from eachmask.training.recipe import Run

    _check(options)
    named = _named_recipe(options)
    train_data, val_data, notes, record = _splits(options, named)
    recipe, decided = (named, []) if named is not None else _recipe_for(options, train_data)
    recipe = _changed(recipe, options)
    if _speaks():
        for note in [*notes, *decided, f"{recipe.steps} steps of {recipe.batch_size} images."]:
            print(note)
    run = Run(
        out=options.out,
        seed=options.seed,
        resume=options.resume,
        device=options.device,
        precision=options.precision,
        accumulate=options.accumulate,
        workers=options.workers,
        notes=record,
    )
    path = run_training(recipe, train_data, val_data, run)
    if not _speaks():
        return 0
    if ":" in options.model:  # a recipe of one's own is kept as it was written
        source, kept = Path(options.model.rsplit(":", 1)[0]), options.out / "recipe.py"
        if source.resolve() != kept.resolve():
            shutil.copyfile(source, kept)
    print(f"The best model is {path}. Use it: eachmask predict IMAGES --model {path} --out results")
    return 0


def _speaks() -> bool:
    """Whether this process is the one of several (torchrun, accelerate launch) that prints and writes."""
    return os.environ.get("RANK", "0") == "0"


def _check(options: TrainOptions) -> None:
    """Mistakes that need no data to be seen."""
    for name in ("steps", "batch", "size", "accumulate", "patience", "evaluate_every", "learning_rate"):
        value = getattr(options, name)
        if value is not None and value <= 0:
            raise UserError(f"--{name.replace('_', '-')} must be more than 0, not {value}")
    if options.workers < 0:
        raise UserError(f"--workers must be 0 or more, not {options.workers}")


def _named_recipe(options: TrainOptions) -> Recipe | None:
    """The recipe of that name; None where it is a variant, whose recipe follows from the data.

    Raises:
        UserError: it is neither; or the options contradict a recipe.
    """
    from eachmask.models import VARIANTS
    from eachmask.recipes import RECIPES, recipe

    if ":" in options.model or options.model in RECIPES:
        if options.start != "auto" or options.size is not None:
            raise UserError(f"{options.model} is a recipe, which decides --start and --size itself: leave them out")
        return recipe(options.model)()
    if options.model not in VARIANTS:
        known = [*RECIPES, *VARIANTS]
        raise UserError(f"there is no model or recipe {options.model!r}; did you mean {_near(options.model, known)}?")
    return None


def _recipe_for(options: TrainOptions, data: ImageSamples) -> tuple[Recipe, list[str]]:
    from eachmask.recipes.auto_recipe import auto_recipe

    return auto_recipe(options.model, data, start=options.start, size=options.size)


def _near(name: str, known: Sequence[str]) -> str:
    import difflib

    return " or ".join(difflib.get_close_matches(name, known, n=3, cutoff=0.4) or known[:6])


def _changed(recipe: Recipe, options: TrainOptions) -> Recipe:
    """The recipe with what the command line says."""
    changes: dict[str, Any] = {
        "steps": options.steps,
        "batch_size": options.batch,
        "learning_rate": options.learning_rate,
        "patience": options.patience,
        "evaluate_every": options.evaluate_every,
        "frozen_stages": options.freeze,
        "drop_at": {None: None, "cosine": (), "step": (0.75, 0.92)}[options.schedule],
    }
    changed = replace(recipe, **{name: value for name, value in changes.items() if value is not None})
    return replace(changed, frozen_stages=None) if options.freeze == -1 else changed


def _splits(
    options: TrainOptions, recipe: Recipe | None
) -> tuple[ImageSamples, ImageSamples, list[str], dict[str, Any]]:
    """Training and val samples, what to say about them, and what to keep in the run's record."""
    from eachmask.data.convert import read_any
    from eachmask.data.dataset import one_class, with_the_rest_ignored
    from eachmask.data.samples import ImageSamples
    from eachmask.models import ONE_CLASS

    variant = options.model if recipe is None else recipe.variant

    def read(path: Path) -> tuple[AnnotatedSet, str]:
        data, found = read_any(path, options.format)
        if recipe is not None and recipe.prepare is not None:
            data = recipe.prepare(data)
        if variant in ONE_CLASS and len(data.categories) > 1:
            data = one_class(data)
        return data, found.name

    data, form = read(options.data)
    problems = list(data.problems)
    images = dict(data.splits)
    val = images.pop("val", [])
    training = images.get("train") or [p for name, split in images.items() if name != "test" for p in split]
    how = "the split val"
    if options.val is not None:
        other, _ = read(options.val)
        problems += other.problems
        val, how = _relabeled(other, data.categories, options.val, "val"), str(options.val)
    elif not val:
        training, val = _held_out(training, options.seed)
        how = "held out of them, by chance"
    for path in options.partial:
        other, _ = read(path)
        problems += other.problems
        training = training + _relabeled(with_the_rest_ignored(other), data.categories, path, "train")
    training, val = (_present(split, problems) for split in (training, val))
    if not training or not val:
        raise UserError(
            f"{options.data} has {len(training)} usable training images and {len(val)} to choose the best weights by: "
            "both must be at least one (eachmask doctor says what is wrong with the others)"
        )
    notes = [
        f"{len(training)} training images and {len(val)} val images ({how}), {form}; "
        f"{len(data.categories)} classes: {', '.join(c.name for c in data.categories[:8])}"
        f"{' ...' if len(data.categories) > 8 else ''}."
    ]
    if problems:
        listed = options.out / "data-problems.txt"
        if _speaks():
            options.out.mkdir(parents=True, exist_ok=True)
            write_text(listed, "\n".join(str(problem) for problem in problems) + "\n")
        count = "One problem" if len(problems) == 1 else f"{len(problems)} problems"
        notes.append(f"{count} in the data, all in {listed}; the first: {problems[0]}.")
    record = {"data": str(options.data), "val": how, "val images": len(val), "problems": len(problems)}
    train_data, val_data = ImageSamples(training, data.categories), ImageSamples(val, data.categories)
    if not train_data.num_objects:
        raise UserError(f"the training images of {options.data} show not one object: there is nothing to learn from")
    return train_data, val_data, notes + _doubts(train_data, val_data), record


def _doubts(train_data: ImageSamples, val_data: ImageSamples) -> list[str]:
    """What makes the scores worth less than they look."""
    notes = []
    known = {train_data.path(i).resolve() for i in range(len(train_data))}
    shared = sum(val_data.path(i).resolve() in known for i in range(len(val_data)))
    if shared:
        notes.append(
            f"Warning: {shared} of the {len(val_data)} val images are training images too: the scores on them say "
            "nothing about other images."
        )
    if not val_data.num_objects:
        notes.append("Warning: the val images show not one object, so all scores are 0: give others with --val.")
    names = [category.name for category in train_data.categories]
    doubled = sorted({name for name in names if names.count(name) > 1})
    if doubled:
        notes.append(f"Warning: several classes have the name {', '.join(doubled)}: nobody can tell them apart.")
    return notes


def _held_out(images: Sequence[AnnotatedImage], seed: int) -> tuple[list[AnnotatedImage], list[AnnotatedImage]]:
    """A fifth of the images, at least one, drawn by the seed."""
    import numpy as np

    if len(images) < 2:
        raise UserError(f"{len(images)} annotated image is too few: at least one to learn from and one to choose by")
    number = max(1, len(images) // 5)
    chosen = set(np.random.default_rng([seed, 4]).permutation(len(images))[:number].tolist())
    kept = [p for i, p in enumerate(images) if i not in chosen]
    return kept, [p for i, p in enumerate(images) if i in chosen]


def _relabeled(other: AnnotatedSet, categories: tuple[Category, ...], path: Path, wanted: str) -> list[AnnotatedImage]:
    """The images of another set's wanted split (or of all) with the training set's labels, matched by name."""
    import torch

    names = {category.name: label for label, category in enumerate(categories)}
    missing = [c.name for c in other.categories if c.name not in names]
    if missing:
        raise UserError(f"{path} has classes that the training data lacks: {', '.join(missing[:5])}")
    exact = {(category.id, category.name): label for label, category in enumerate(categories)}
    lookup = torch.tensor([exact.get((c.id, c.name), names[c.name]) for c in other.categories], dtype=torch.int64)
    chosen = other.splits.get(wanted) or [p for split in other.splits.values() for p in split]
    result = []
    for image in chosen:
        targets = replace(image.targets, labels=lookup[image.targets.labels], categories=categories)
        result.append(replace(image, targets=targets))
    return result


def _present(images: Sequence[AnnotatedImage], problems: list[Problem]) -> list[AnnotatedImage]:
    """Those whose image file is there; the others become problems."""
    from eachmask.data.dataset import Problem

    kept = []
    for image in images:
        if image.path.is_file():
            kept.append(image)
        else:
            remedy = "put it there or remove it"
            problems.append(Problem(str(image.path), "", "the image is missing", remedy, "image"))
    return kept
