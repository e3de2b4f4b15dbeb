"""What a run leaves behind: recipe, environment, log, curves, images, models.

Every file is complete or absent: it is written under another name and then renamed.
"""

from __future__ import annotations

import csv
import io
import json
import platform
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn

from eachmask.data.sample import Sample
from eachmask.draw import overlay, shrink
from eachmask.files.atomic import write_text
from eachmask.structures import Instances, UserError
from eachmask.training.curves import write_curves
from eachmask.training.recipe import Recipe, Run, Samples
from eachmask.training.recipe_source import recipe_source
from eachmask.weights.file import ModelInfo, save_model

SHOWN = 4
"""Val images drawn at every evaluation."""
SIDE = 640
"""Longest side of a drawn image, px."""
DRAWN_SCORE = 0.3
"""Least score of a drawn object, unless the recipe's own threshold is higher."""


class RunFolder:
    """Writes one run's files.

    Args:
        run: where.
        recipe: what is trained.
        data: the training samples.
    """

    def __init__(self, run: Run, recipe: Recipe, data: Samples) -> None:
        self.run, self.recipe, self.data, self.out = run, recipe, data, run.out
        self.out.mkdir(parents=True, exist_ok=True)
        self._board: Any = None

    def begin(self, device: str, precision: str, processes: int) -> None:
        """Recipe and environment, before the first step."""
        write_text(self.out / "recipe.py", recipe_source(self.recipe))
        facts = environment() | {"device": device, "precision": precision, "processes": processes}
        facts |= {"seed": self.run.seed, "training images": len(self.data), "command": " ".join(sys.argv)}
        facts |= {"variant": self.recipe.variant, "categories": [c.name for c in self.data.categories]} | self.run.notes
        write_text(self.out / "environment.json", json.dumps(facts, indent=1, ensure_ascii=False, default=str))
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:  # the extra eachmask[train] brings it
            return
        self._board = SummaryWriter(str(self.out / "tensorboard"))

    def check(self) -> None:
        """Refuse to go on with a run of another model or other classes.

        Raises:
            UserError: the folder says that its run is one.
        """
        try:
            facts = json.loads((self.out / "environment.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return
        classes = [c.name for c in self.data.categories]
        for known, wanted in (
            (facts.get("variant"), self.recipe.variant),
            ("the classes " + ", ".join(facts.get("categories", classes)), "the classes " + ", ".join(classes)),
        ):
            if known not in (None, wanted):
                raise UserError(
                    f"{self.out} holds a run of {known}, not of {wanted}: choose another --out, and take over what it "
                    "has learnt with --start"
                )

    def log(self, history: Sequence[dict[str, float]]) -> None:
        """log.csv, curves.svg, and the newest row for TensorBoard."""
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, fieldnames=list(history[-1]), extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(history)
        write_text(self.out / "log.csv", text.getvalue())
        write_curves(self.out / "curves.svg", history, self.recipe.best)
        if self._board is not None:
            names = list(history[-1])
            for name, value in history[-1].items():
                kind = "loss" if names.index(name) < names.index(self.recipe.best) else "val"
                if name != "step":
                    self._board.add_scalar(f"{kind}/{name}", value, int(history[-1]["step"]))
            self._board.flush()

    def save(self, name: str, model: nn.Module, row: dict[str, float]) -> Path:
        """``best`` as model.safetensors, ``last`` as last.safetensors."""
        names = list(row)
        recipe = self.recipe
        info = ModelInfo(
            variant=recipe.variant,
            config=recipe.config,
            preprocess=recipe.preprocess,
            categories=tuple(self.data.categories),
            license=recipe.license,
            training={"steps": int(row["step"]), "of_steps": recipe.steps, "seed": self.run.seed,
                      "batch_size": recipe.batch_size, "images": len(self.data)},
            scores={f"val {n}": row[n] for n in names[names.index(recipe.best) :]},
            decode=recipe.decode,
            tile=recipe.tile,
        )  # fmt: skip
        return save_model(self.out / f"{'model' if name == 'best' else name}.safetensors", model, info)

    def draw(self, step: int, samples: Sequence[Sample], found: Sequence[Instances]) -> None:
        """The first val images with what was found in them: samples/step-0000300/NAME.jpg."""
        folder = self.out / "samples" / f"step-{step:07d}"
        folder.mkdir(parents=True, exist_ok=True)
        for i, (sample, instances) in enumerate(zip(samples, found, strict=True)):
            Image.fromarray(image(sample, instances, self.recipe)).save(folder / f"{i}-{sample.path.stem}.jpg")

    def close(self) -> None:
        """Finish TensorBoard's file."""
        if self._board is not None:
            self._board.close()


def image(sample: Sample, instances: Instances, recipe: Recipe) -> Any:
    """(H, W, 3) uint8 of at most ``SIDE`` px: the image with the objects that are sure enough."""
    sure = sure_enough(instances, recipe)
    sure = replace(sure, categories=sample.targets.categories)  # so that classes are written by name
    image, sure = shrink(sample.image, sure, SIDE)
    return overlay(image, sure)


def sure_enough(instances: Instances, recipe: Recipe) -> Instances:
    """The objects that a user of the model would be shown."""
    least = max(DRAWN_SCORE, recipe.decode.get("score_threshold") or 0.0)
    return instances if instances.scores is None else instances.filter(score=least)


def environment() -> dict[str, Any]:
    """Versions and machine."""
    import eachmask
    from eachmask.backbones import timm
    from eachmask.ops import torchvision

    return {
        "eachmask": eachmask.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "timm": timm.__version__,
        "system": platform.platform(),
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()
