"""What a run leaves behind: recipe, environment, log, curves, images, models.

Every file is complete or absent: it is written under another name and then renamed.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from PIL import Image
from torch import nn

from eachmask.data.samples import Samples
from eachmask.draw import shrink
from eachmask.files.atomic import write_text
from eachmask.inference.predictor import Predictor
from eachmask.inference.prompt_predictor import PromptPredictor
from eachmask.models.protocol import Promptable
from eachmask.training.assess import Assessment, assess
from eachmask.training.curves import write_curves
from eachmask.training.object_size import object_diameter
from eachmask.training.recipe import Recipe, Run
from eachmask.training.record import check_resumed, settings_of, write_record
from eachmask.training.report import Pages, Shot, write_report
from eachmask.weights.file import ModelInfo, load_model, replace_info, save_model

SHOWN = 4
"""Val images drawn at every evaluation."""
SIDE = 640
"""Longest side of a drawn image, px."""
WORST = 6
"""Val images with the poorest predictions that the report shows."""


class RunFolder:
    """Writes one run's files.

    Args:
        run: where.
        recipe: what is trained.
        data: the training samples.
        val_data: those that choose the best weights.
    """

    def __init__(self, run: Run, recipe: Recipe, data: Samples[Any], val_data: Samples[Any]) -> None:
        self.run, self.recipe, self.data, self.val_data, self.out = run, recipe, data, val_data, run.out
        self.out.mkdir(parents=True, exist_ok=True)
        self._board: Any = None
        self._diameter = object_diameter(data, recipe.preprocess)
        self._settings = settings_of(recipe, run.seed, data, val_data)

    def begin(self, device: str, precision: str, processes: int, step: int) -> None:
        """The record of what is trained and where, before the first step.

        Args:
            step: steps that are done already.
        """
        facts = {"device": device, "precision": precision, "processes": processes, "seed": self.run.seed,
                 "training images": len(self.data), "variant": self.recipe.variant,
                 "categories": [category.name for category in self.data.categories]}  # fmt: skip
        write_record(self.run, self._settings, facts, self.recipe, step)
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
        check_resumed(self.out, self._settings)

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

    def assess(self, model: nn.Module) -> Assessment[Any]:
        """Predict the val images with the model as a user would, and measure."""
        asks = self.recipe.ask is not None and isinstance(model, Promptable)
        kind: type[Predictor[Any]] = PromptPredictor if asks else Predictor
        predictor = kind(model, self._info({}), device=self.run.device)
        return assess(predictor, self.val_data, self.recipe.score, self.recipe.decode, self.recipe.ask)

    def evaluated(
        self,
        model: nn.Module,
        history: Sequence[dict[str, float]],
        better: bool,
        assessment: Assessment[Any],
    ) -> None:
        """Keep what an evaluation brought: weights, log, curves and drawn val images."""
        info = self._info(history[-1], assessment.decode)
        if better:
            save_model(self.out / "model.safetensors", model, info)
        save_model(self.out / "last.safetensors", model, info)
        self.log(history)
        self._draw(int(history[-1]["step"]), assessment)

    def finish(self, history: Sequence[dict[str, float]], skipped: Iterable[str]) -> Iterator[str]:
        """The report, from the best weights; yields sentences on what was done and left out."""
        if self._board is not None:
            self._board.close()
        notes = list(skipped)
        if notes:
            write_text(self.out / "skipped.txt", "\n".join(notes) + "\n")
            yield f"{len(notes)} images could not be read and were left out: {self.out / 'skipped.txt'}"
        if not history:
            return
        assessment = self.assess(load_model(self.out / "model.safetensors")[0])
        score = assessment.decode.get("score_threshold")
        if score is not None and "score_threshold" not in self.recipe.decode:
            replace_info(self.out / "model.safetensors", decode=assessment.decode)
            yield f"The model shows objects from a score of {score:.2f} on, which gives the best F1 on val."
        title = f"{self.recipe.variant} on {len(self.data)} images"
        pages = Pages(title, self.recipe.best, history, *_shots(assessment, self.val_data))
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
            scales=recipe.scales,
            tile=recipe.tile,
            object_diameter=self._diameter,
        )

    def _draw(self, step: int, assessment: Assessment[Any]) -> None:
        """The first val images with what a user would be shown: samples/step-0000300/NAME.jpg."""
        folder = self.out / "samples" / f"step-{step:07d}"
        folder.mkdir(parents=True, exist_ok=True)
        for i, index in enumerate(list(assessment.found)[:SHOWN]):
            sample = self.val_data[index]
            Image.fromarray(_drawn(self.val_data, assessment, index)).save(folder / f"{i}-{sample.path.stem}.jpg")


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
