"""Training by name: which recipe is meant, what its user changes of it, and the run on anybody's data."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from eachmask import models
from eachmask.data.classes import one_class
from eachmask.data.dataset import Dataset
from eachmask.files.text import counted, say
from eachmask.models import VARIANTS
from eachmask.recipes import RECIPES
from eachmask.recipes import recipe as recipe_named
from eachmask.recipes.auto_recipe import auto_recipe
from eachmask.structures import UserError
from eachmask.structures.checks import check_number, check_path, check_whole, told
from eachmask.structures.errors import nearest
from eachmask.training.loop import train as run_recipe
from eachmask.training.recipe import Recipe, Run
from eachmask.training.record import PROBLEMS
from eachmask.training.splits import Data, Splits, read_splits

DROPS: dict[str, tuple[float, ...]] = {"cosine": (), "step": (0.75, 0.92)}
"""Schedule -> shares of the run at which the learning rate falls tenfold; without any it follows a cosine."""


def train(
    model: str | Recipe,
    data: Data,
    out: str | Path,
    *,
    val: Data | None = None,
    partial: Sequence[Data] = (),
    format: str | None = None,
    pretrained: str = "auto",
    backbone: str | None = None,
    steps: int | None = None,
    batch: int | None = None,
    size: int | None = None,
    mosaic: float | None = None,
    copy_paste: float | None = None,
    learning_rate: float | None = None,
    schedule: Literal["cosine", "step"] | None = None,
    freeze: int | None = None,
    patience: int | None = None,
    evaluate_every: int | None = None,
    checkpoint_every: int = 200,
    seed: int = 0,
    resume: bool = True,
    device: str = "auto",
    precision: str = "auto",
    accumulate: int = 1,
    workers: int = 0,
) -> Path:
    """Train a model on annotated images; the same call again resumes where it stopped.

    >>> import tempfile
    >>> import numpy as np
    >>> from PIL import Image
    >>> folder = Path(tempfile.mkdtemp())
    >>> for i in range(4):  # four images with one square each; in label maps pixel value n is object n
    ...     labels = np.zeros((64, 64), np.uint8)
    ...     labels[8:24, 8 * i : 8 * i + 16] = 1
    ...     for name, pixels in (("images", 60 + 120 * labels), ("labels", labels)):
    ...         (folder / "squares" / name).mkdir(parents=True, exist_ok=True)
    ...         Image.fromarray(pixels).save(folder / "squares" / name / f"{i}.png")
    >>> path = train("mask_rcnn_lite0_fpn", folder / "squares", folder / "run", steps=1, batch=2, size=64,
    ...              pretrained="none", device="cpu")  # doctest: +ELLIPSIS
    3 training images and 1 val image...
    >>> path.relative_to(folder).as_posix()
    'run/model.safetensors'

    Then ``eachmask.load(path)`` predicts.

    Args:
        model: a model variant, whose settings then follow from the data; a recipe's name; ``my.py:function``; or a
            recipe itself.
        data, val, partial, format: see :func:`eachmask.training.splits.read_splits`.
        out: folder of the run, made if missing.
        pretrained: ``auto``; ``backbone`` (a pretrained backbone alone); ``none`` (random numbers); or a model's name
            or file, of whose backbone a model of another variant starts.
        backbone: instead of the variant's own: ``swin_t``, ``resnet50``, any of timm's (``convnext_tiny``).
        steps, batch, learning_rate, patience, evaluate_every: instead of the recipe's; batch in images per step.
        checkpoint_every: steps between checkpoints; every evaluation and every interruption saves one too.
        size: longer side of the images as the network sees them, px; by default from the data.
        mosaic: chance, 0..1, that a training image of objects is made of four (Bochkovskiy et al., arXiv 2004.10934).
        copy_paste: chance, 0..1, that another image's objects are pasted into a training image (Ghiasi et al., arXiv
            2012.07177); by default 0.5 where there are masks.
        schedule: how the learning rate falls, along a cosine, or tenfold at 75% and 92% of the run.
        freeze: so many first stages of the backbone and all its batch normalization stay as they are; -1: none.
        seed: same seed, same data, same device: same weights.
        resume: False refuses a folder that holds a run.
        device, precision, accumulate, workers: see :class:`eachmask.training.recipe.Run`.

    Returns:
        ``out/model.safetensors``, the weights that are best on val. Beside it: report.html, log.csv, recipe.py ...

    Raises:
        UserError: an unknown name, a number out of its range, data that cannot be used, or a folder that holds
            another run.
    """
    _check_positive(steps=steps, batch=batch, size=size, accumulate=accumulate, patience=patience,
                    evaluate_every=evaluate_every, checkpoint_every=checkpoint_every,
                    learning_rate=learning_rate)  # fmt: skip
    check_path("folder of the run (--out)", out)
    if not isinstance(model, str | Recipe):
        raise UserError(f"what to train is named by a model variant or a recipe, not by {told(model)}")
    if size is not None:
        check_whole("longer side in pixels (--size)", size, low=32)
    _check_chances(mosaic=mosaic, copy_paste=copy_paste)
    if workers < 0:
        raise UserError(f"--workers must be 0 or more, not {workers}")
    out = Path(out)
    wishes = (backbone, size, mosaic, copy_paste)
    recipe = _named_recipe(model, chooses=pretrained != "auto" or any(wish is not None for wish in wishes))
    known = models.model_class(str(model) if recipe is None else recipe.variant)
    prepare, target = _preparation(known, recipe), known.task.target
    splits = read_splits(data, val, partial, format=format, prepare=prepare, seed=seed, target=target)
    notes = [*splits.notes, *_problem_notes(splits, out)]
    if recipe is None:
        recipe, decided = auto_recipe(
            str(model), splits.train, start=pretrained, size=size, mosaic=mosaic, copy_paste=copy_paste,
            backbone=backbone,
        )  # fmt: skip
        notes += decided
    recipe = _changed(recipe, steps=steps, batch_size=batch, learning_rate=learning_rate, patience=patience,
                      evaluate_every=evaluate_every, frozen_stages=freeze,
                      drop_at=None if schedule is None else DROPS[schedule])  # fmt: skip
    if speaks():
        say("\n".join([*notes, f"{recipe.steps} steps of {counted(recipe.batch_size, 'image')}."]))
    run = Run(out, seed, resume, device, precision, accumulate, workers, checkpoint_every, notes=splits.record,
              problems=splits.problems)  # fmt: skip
    path = run_recipe(recipe, splits.train, splits.val, run)
    if speaks() and isinstance(model, str) and ":" in model:
        _keep_source(Path(model.rsplit(":", 1)[0]), out / "recipe.py")
    return path


def speaks() -> bool:
    """Whether this process is the one of several (torchrun, accelerate launch) that prints and writes."""
    return os.environ.get("RANK", "0") == "0"


def _check_positive(**values: float | None) -> None:
    """Mistakes that need no data to be seen."""
    for name, value in values.items():
        if value is not None:
            check_number(f"number for --{name.replace('_', '-')}", value)
        if value is not None and value <= 0:
            raise UserError(f"--{name.replace('_', '-')} must be more than 0, not {value}")


def _check_chances(**values: float | None) -> None:
    """What happens now and then."""
    for name, value in values.items():
        if value is not None and not 0 <= value <= 1:
            raise UserError(f"--{name.replace('_', '-')} is a chance from 0 to 1, not {value:g}")


def _named_recipe(model: str | Recipe, chooses: bool) -> Recipe | None:
    """The recipe that is meant; None where it is a variant, whose recipe follows from the data.

    Args:
        chooses: what weights start from, how large images are or how they are mixed: only a variant leaves it open.

    Raises:
        UserError: it is neither; or a recipe is asked for other things than it does.
    """
    if isinstance(model, str) and model in VARIANTS:
        return None
    if isinstance(model, str) and ":" not in model and model not in RECIPES:
        raise UserError(f"there is no model or recipe {model!r}; did you mean {nearest(model, [*RECIPES, *VARIANTS])}?")
    if chooses:
        name = model if isinstance(model, str) else model.variant
        own = "--pretrained, --backbone, --size, --mosaic and --copy-paste"
        raise UserError(f"{name} is a recipe, which decides {own} itself: leave them out")
    return recipe_named(model)() if isinstance(model, str) else model


def _preparation(known: Any, recipe: Recipe | None) -> Callable[[Dataset[Any]], Dataset[Any]]:
    """What is done to each data set first: what the recipe says, and one class for models (classes) that know one."""

    def prepared(data: Dataset[Any]) -> Dataset[Any]:
        if recipe is not None and recipe.prepare is not None:
            data = recipe.prepare(data)
        knows_one = getattr(known, "max_classes", None) == 1
        return one_class(data) if knows_one and len(data.categories) > 1 else data

    return prepared


def _problem_notes(splits: Splits, out: Path) -> list[str]:
    """What is wrong with the data; the run keeps all of it in a file."""
    if not splits.problems:
        return []
    count = "One problem" if len(splits.problems) == 1 else f"{len(splits.problems)} problems"
    return [f"{count} in the data, all in {out / PROBLEMS}; the first: {splits.problems[0]}."]


def _changed(recipe: Recipe, **changes: Any) -> Recipe:
    """The recipe with what its user says."""
    changed = replace(recipe, **{name: value for name, value in changes.items() if value is not None})
    return replace(changed, frozen_stages=None) if changed.frozen_stages == -1 else changed


def _keep_source(source: Path, kept: Path) -> None:
    """A custom recipe is kept as it was written."""
    if source.resolve() != kept.resolve():
        shutil.copyfile(source, kept)
