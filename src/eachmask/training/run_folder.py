"""What a run leaves behind: recipe, environment, log, curves, images, models.

Every file is complete or absent: it is written under another name and then renamed.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from torch import nn

from eachmask.data.samples import Samples
from eachmask.draw import shrink
from eachmask.files.atomic import write_text
from eachmask.inference.predictor import Predictor
from eachmask.inference.prompt_predictor import PromptPredictor
from eachmask.models.protocol import Promptable
from eachmask.structures import UserError
from eachmask.training.assess import Assessment, assess
from eachmask.training.curves import write_curves
from eachmask.training.environment import environment
from eachmask.training.object_size import object_diameter
from eachmask.training.recipe import Recipe, Run
from eachmask.training.recipe_source import recipe_source, settings
from eachmask.training.report import Pages, Shot, write_report
from eachmask.weights.file import ModelInfo, load_model, replace_info, save_model

SHOWN = 4
"""Val images drawn at every evaluation."""
SIDE = 640
"""Longest side of a drawn image, px."""
WORST = 6
"""Val images with the poorest predictions that the report shows."""
FREE = frozenset({"steps", "evaluate_every", "patience", "license", "decode", "tile", "prepare"})
"""Fields of a recipe that may differ when its run is resumed."""


class RunFolder:
    """Writes one run's files.

    Args:
        run: where.
        recipe: what is trained.
        data: the training samples.
    """

    def __init__(self, run: Run, recipe: Recipe, data: Samples[Any]) -> None:
        self.run, self.recipe, self.data, self.out = run, recipe, data, run.out
        self.out.mkdir(parents=True, exist_ok=True)
        self._board: Any = None
        self._diameter = object_diameter(data, recipe.preprocess)

    def begin(self, device: str, precision: str, processes: int) -> None:
        """Recipe and environment, before the first step."""
        write_text(self.out / "recipe.py", recipe_source(self.recipe))
        facts = environment() | {"device": device, "precision": precision, "processes": processes}
        facts |= {"seed": self.run.seed, "training images": len(self.data), "command": " ".join(sys.argv)}
        facts |= {"variant": self.recipe.variant, "categories": [c.name for c in self.data.categories]} | self.run.notes
        facts |= {"settings": self._settings()}
        write_text(self.out / "environment.json", json.dumps(facts, indent=1, ensure_ascii=False, default=str))
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:  # the extra eachmask[train] brings it
            return
        self._board = SummaryWriter(str(self.out / "tensorboard"))

    def check(self) -> None:
        """Refuse to resume a run of another recipe, other data or another seed.

        Raises:
            UserError: the folder says that its run is one.
        """
        try:
            facts = json.loads((self.out / "environment.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return
        known, own = facts.get("settings"), self._settings()
        changed = [] if not isinstance(known, dict) else [name for name in own if known.get(name) != own[name]]
        if changed:
            details = ", ".join(f"{n} was {_shown(known.get(n))} and is {_shown(own[n])}" for n in changed[:3])
            raise UserError(
                f"{self.out} holds a run of other settings ({details}): choose another --out, and take over what it "
                "has learnt with --pretrained"
            )

    def _settings(self) -> dict[str, str]:
        """All that decides the weights and which of them are best, as texts."""
        recipe = {name: text for name, text in settings(self.recipe).items() if name not in FREE}
        names = [str(Path(self.data.path(i)).name) for i in range(len(self.data))] if hasattr(self.data, "path") else []
        digest = hashlib.sha256("\n".join(names).encode()).hexdigest()[:12]
        classes = ", ".join(category.name for category in self.data.categories)
        return recipe | {"seed": str(self.run.seed), "images": f"{len(self.data)} ({digest})", "classes": classes}

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

    def assess(self, model: nn.Module, data: Samples[Any]) -> Assessment[Any]:
        """Predict the val images with the model as a user would, and measure."""
        asks = self.recipe.ask is not None and isinstance(model, Promptable)
        kind: type[Predictor[Any]] = PromptPredictor if asks else Predictor
        predictor = kind(model, self._info({}), device=self.run.device)
        return assess(predictor, data, self.recipe.score, self.recipe.decode, self.recipe.ask)

    def evaluated(
        self,
        model: nn.Module,
        history: Sequence[dict[str, float]],
        better: bool,
        assessment: Assessment[Any],
        data: Samples[Any],
    ) -> None:
        """Keep what an evaluation brought: weights, log, curves and drawn val images."""
        info = self._info(history[-1], assessment.decode)
        if better:
            save_model(self.out / "model.safetensors", model, info)
        save_model(self.out / "last.safetensors", model, info)
        self.log(history)
        self._draw(int(history[-1]["step"]), assessment, data)

    def finish(self, history: Sequence[dict[str, float]], data: Samples[Any], skipped: Iterable[str]) -> Iterator[str]:
        """The report, from the best weights; yields sentences on what was done and left out."""
        if self._board is not None:
            self._board.close()
        notes = list(skipped)
        if notes:
            write_text(self.out / "skipped.txt", "\n".join(notes) + "\n")
            yield f"{len(notes)} images could not be read and were left out: {self.out / 'skipped.txt'}"
        if not history:
            return
        assessment = self.assess(load_model(self.out / "model.safetensors")[0], data)
        score = assessment.decode.get("score_threshold")
        if score is not None and "score_threshold" not in self.recipe.decode:
            replace_info(self.out / "model.safetensors", decode=assessment.decode)
            yield f"The model shows objects from a score of {score:.2f} on, which gives the best F1 on val."
        title = f"{self.recipe.variant} on {len(self.data)} images"
        pages = Pages(title, self.recipe.best, history, *_shots(assessment, data))
        yield f"Report: {write_report(self.out, pages)}"

    def _info(self, row: dict[str, float], decode: dict[str, Any] | None = None) -> ModelInfo:
        """What the model file says about itself after an evaluation."""
        names, recipe = list(row), self.recipe
        training = {"steps": int(row.get("step", 0)), "of_steps": recipe.steps, "seed": self.run.seed,
                    "batch_size": recipe.batch_size, "images": len(self.data)}  # fmt: skip
        return ModelInfo(
            variant=recipe.variant,
            config=recipe.config,
            preprocess=recipe.preprocess,
            categories=tuple(self.data.categories),
            license=recipe.license,
            training=training,
            scores={f"val {n}": row[n] for n in names[names.index(recipe.best) :]} if row else {},
            decode=recipe.decode if decode is None else decode,
            tile=recipe.tile,
            object_diameter=self._diameter,
        )

    def _draw(self, step: int, assessment: Assessment[Any], data: Samples[Any]) -> None:
        """The first val images with what a user would be shown: samples/step-0000300/NAME.jpg."""
        folder = self.out / "samples" / f"step-{step:07d}"
        folder.mkdir(parents=True, exist_ok=True)
        for i, index in enumerate(list(assessment.found)[:SHOWN]):
            sample = data[index]
            Image.fromarray(_drawn(data, assessment, index)).save(folder / f"{i}-{sample.path.stem}.jpg")


def _drawn(data: Samples[Any], assessment: Assessment[Any], index: int) -> Any:
    """(H, W, 3) uint8 of at most ``SIDE`` px: the image with what a user would be shown."""
    shown = assessment.task.with_categories(assessment.shown(index), tuple(data.categories))
    image, shown = shrink(data[index].image, shown, SIDE)
    return assessment.task.render(image, shown, None)


def _shots(assessment: Assessment[Any], data: Samples[Any]) -> tuple[list[Shot], list[Shot]]:
    """The first val images, and those with the poorest predictions."""
    quality = {i: assessment.task.scoring.quality(assessment.shown(i), data[i].targets) for i in assessment.found}
    worst = sorted(quality, key=lambda i: quality[i])

    def shot(index: int) -> Shot:
        sample = data[index]
        caption = f"{sample.path.name}: {assessment.task.scoring.measure} is {quality[index]:.2f}"
        return Shot(_drawn(data, assessment, index), caption)

    return [shot(i) for i in list(quality)[:WORST]], [shot(i) for i in worst[:WORST]]


def _shown(text: Any) -> str:
    shown = "not set" if text is None else str(text).strip("'")
    return shown if len(shown) <= 60 else f"{shown[:57]}..."
