"""The training loop, to be read in one sitting.

It never asks what kind of model it holds: a step is ``losses(model(images), targets)``, an evaluation is
``decode(model(images))``. Everything random is a function of (seed, step), so a run that was killed and started again
ends with the same weights as one that was not.
"""

from __future__ import annotations

import contextlib
import copy
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from eachmask import models
from eachmask.accel.winograd_training import FastConvolutions
from eachmask.backbones.fuse import optimize_for_inference
from eachmask.backbones.networks import freeze, set_training_mode
from eachmask.data.sample import Sample
from eachmask.files.atomic import write_text
from eachmask.metrics.coco_matches import box_overlap, mask_overlap, match
from eachmask.metrics.matching import count_in_image
from eachmask.metrics.sweep import sweep
from eachmask.structures import Category, DecodeOptions, Instances, UserError
from eachmask.training.checkpoint import latest_checkpoint, save_checkpoint
from eachmask.training.console import Console
from eachmask.training.devices import Step, make_accelerator, share_of
from eachmask.training.optim import MovingAverage, make_optimizer, set_learning_rate
from eachmask.training.pretrained import backbone_of
from eachmask.training.recipe import Recipe, Run, Samples
from eachmask.training.report import Pages, Shot, write_report
from eachmask.training.run_folder import SHOWN, RunFolder, image, sure_enough
from eachmask.training.sampling import Batch, TrainingSequence, batches
from eachmask.weights.file import load_model, replace_info

WORST = 6
"""Val images with the poorest masks that the report shows."""


@dataclass
class State:
    """What changes during a run."""

    model: nn.Module
    average: MovingAverage
    step_module: nn.Module
    """Forward and losses, prepared by accelerate."""
    optimizer: Any
    accelerator: Any
    step: int = 0
    best: float = -1.0
    since_best: int = 0
    """Evaluations since the best one."""
    history: list[dict[str, float]] = field(default_factory=list)
    total: dict[str, float] = field(default_factory=dict)
    """Sums of the losses since the last evaluation, for the log."""
    summed: int = 0
    """Steps in these sums."""

    def to_dict(self) -> dict[str, Any]:
        """For the checkpoint."""
        scaler = self.accelerator.scaler
        return {
            "model": self.model.state_dict(),
            "average": self.average.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": None if scaler is None else scaler.state_dict(),
            "best": self.best,
            "since_best": self.since_best,
            "history": self.history,
            "total": self.total,
            "summed": self.summed,
        }

    def load(self, step: int, state: dict[str, Any]) -> None:
        """From a checkpoint."""
        self.model.load_state_dict(state["model"])
        self.average.model.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.accelerator.scaler is not None and state["scaler"] is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.step, self.best, self.since_best = step, state["best"], state["since_best"]
        self.history, self.total, self.summed = state["history"], state["total"], state["summed"]


def train(recipe: Recipe, train_data: Samples, val_data: Samples, run: Run) -> Path:
    """Train, score on val as it goes, keep the best averaged weights.

    Returns:
        ``run.out/model.safetensors``, the best model. Beside it: last.safetensors, recipe.py, environment.json,
        log.csv, curves.svg, tensorboard/, samples/, checkpoints/ and report.html.

    Raises:
        UserError: a loss stopped being a number (the message names the batch), ``run.out`` holds a run and
            ``run.resume`` is False or it is one of another model or other classes, or the device or data do not
            allow it.
    """
    accelerator = make_accelerator(run)
    checkpoints = run.out / "checkpoints"
    found = latest_checkpoint(checkpoints)
    if found and not run.resume:
        raise UserError(f"{run.out} already holds a run: choose another --out, or leave --resume on to continue it")
    if not len(train_data):
        raise UserError("there is not one training image")
    torch.manual_seed(run.seed)
    folder = RunFolder(run, recipe, train_data) if accelerator.is_main_process else None
    if found and folder is not None:
        folder.check()
    state, start = new_state(recipe, train_data.categories, accelerator, load=not found)
    if found:
        state.load(*found)
    if folder is not None:
        folder.begin(str(accelerator.device), accelerator.mixed_precision, accelerator.num_processes)
    share = share_of(accelerator, run)
    draws = TrainingSequence(train_data, recipe, run.seed)
    skipped: dict[str, None] = {}
    with Console(recipe.steps, state.step, silent=folder is None) as console:
        if found:
            start = f"Resumed at step {state.step} of {recipe.steps}."
            if state.step >= recipe.steps:
                start = f"The run has had its {state.step} steps already; a larger number goes on from there."
        console.say(start)
        for pieces in batches(draws, range(state.step, recipe.steps), share, run.workers):
            _seed(run.seed, state.step, share.rank)
            skipped |= dict.fromkeys(note for piece in pieces for note in piece.skipped)
            losses = train_step(state, recipe, pieces)
            _check_finite(losses, pieces, state.step, run.out)
            state.step += 1
            state.summed += 1
            for name, value in losses.items():
                state.total[name] = state.total.get(name, 0.0) + value
            console.advance(state.step, sum(losses.values()))
            last = state.step == recipe.steps
            stop = False
            if state.step % recipe.evaluate_every == 0 or last:
                stop = _assess(state, recipe, val_data, folder, console)
            if folder is not None and (state.step % run.checkpoint_every == 0 or last or stop):
                save_checkpoint(checkpoints, state.step, state.to_dict())
            if stop:
                console.say(f"Stopped at step {state.step}: {state.since_best} evaluations without a better score.")
                break
        if folder is not None:
            _finish(state, recipe, val_data, folder, skipped, console)
    accelerator.wait_for_everyone()
    return run.out / "model.safetensors"


def train_step(state: State, recipe: Recipe, pieces: Sequence[Batch]) -> dict[str, float]:
    """One update of model and average; returns the losses as numbers (and updates nothing if one is not finite)."""
    set_training_mode(state.model)
    set_learning_rate(state.optimizer, recipe, state.step)
    state.optimizer.zero_grad(set_to_none=True)
    values: dict[str, float] = {}
    for i, piece in enumerate(pieces):
        more = i + 1 < len(pieces)
        waiting = state.accelerator.no_sync(state.step_module) if more else contextlib.nullcontext()
        with waiting:
            with FastConvolutions():
                losses = state.step_module(piece.images.to(state.accelerator.device), piece.targets)
            total = torch.stack([value.float() for value in losses.values()]).sum() / len(pieces)
            for name, value in losses.items():
                values[name] = values.get(name, 0.0) + float(value.detach()) / len(pieces)
            if not math.isfinite(sum(values.values())):
                return values
            state.accelerator.backward(total)
    state.accelerator.clip_grad_norm_(state.model.parameters(), recipe.clip_norm)
    state.optimizer.step()
    state.average.update(state.model, state.step)
    return values


@torch.inference_mode()
def predict(model: nn.Module, recipe: Recipe, sample: Sample, device: torch.device) -> Instances:
    """What the model finds in one whole image, in the image's own pixels, masks packed."""
    images = recipe.preprocess([sample.image]).to(device)
    (found,) = model.decode(model(images), DecodeOptions(**recipe.decode))  # type: ignore[operator]
    found = found.to(torch.device("cpu")).resize((sample.image.shape[0], sample.image.shape[1]))
    return found if found.masks is None else replace(found, masks=found.masks.to_rle())


def evaluate(
    model: nn.Module, recipe: Recipe, data: Samples, device: torch.device
) -> tuple[dict[str, float], dict[int, Instances]]:
    """Scores of the model on whole images, and what it found in each by index; unreadable ones are left out."""
    model.eval()
    if device.type == "cpu":
        model = optimize_for_inference(model)
    found: dict[int, Instances] = {}
    targets = []
    for i in range(len(data)):
        with contextlib.suppress(UserError):  # an image that cannot be read is named at the end of the run
            sample = data[i]
            found[i] = predict(model, recipe, sample, device)
            targets.append(sample.targets)
    if not targets:
        raise UserError("there is not one val image that can be read")
    return recipe.score(list(found.values()), targets), found


def new_state(
    recipe: Recipe, categories: Sequence[Category], accelerator: Any, *, load: bool = True
) -> tuple[State, str]:
    """Model, average and optimizer before the first step, and a sentence on what the weights start from.

    Args:
        load: pretrained weights, where the recipe has a start; a checkpoint makes them unnecessary.
    """
    model = models.variant(recipe.variant)(num_classes=len(categories), **recipe.config)
    start = "The weights start from random numbers."
    if recipe.start is not None and load:
        start = recipe.start(model)
    if recipe.frozen_stages is not None:
        freeze(backbone_of(model), recipe.frozen_stages)
    model.to(device=accelerator.device, memory_format=torch.channels_last)
    average = MovingAverage(model, copy.deepcopy(model), recipe.ema_decay)
    optimizer = make_optimizer(model, recipe)
    prepared, optimizer = accelerator.prepare(Step(model), optimizer)
    return State(model, average, prepared, optimizer, accelerator), start


def _seed(seed: int, step: int, rank: int) -> None:
    """Chance in the losses (sampled proposals, points) depends on the step alone, not on what came before."""
    torch.manual_seed(int(np.random.SeedSequence([seed, 3, step, rank]).generate_state(1, np.uint64)[0] >> 1))


def _assess(state: State, recipe: Recipe, val_data: Samples, folder: RunFolder | None, console: Console) -> bool:
    """Evaluate, log, keep what is best; whether to stop early."""
    means = {name: value / state.summed for name, value in state.total.items()}
    if state.accelerator.num_processes > 1:
        values = torch.tensor(list(means.values()), device=state.accelerator.device)
        means = dict(zip(means, state.accelerator.reduce(values, "mean").tolist(), strict=True))
    state.total, state.summed = {}, 0
    if folder is not None:
        scores, found = evaluate(state.average.model, recipe, val_data, state.accelerator.device)
        row = {"step": float(state.step)} | means | scores
        state.history.append(row)
        better = row[recipe.best] > state.best
        state.best = max(state.best, row[recipe.best])
        state.since_best = 0 if better else state.since_best + 1
        if better:
            folder.save("best", state.average.model, row)
        folder.save("last", state.average.model, row)
        folder.log(state.history)
        shown = list(found)[:SHOWN]
        folder.draw(state.step, [val_data[i] for i in shown], [found[i] for i in shown])
        console.evaluated(row, better)
    stop = recipe.patience is not None and state.since_best >= recipe.patience
    if state.accelerator.num_processes > 1:
        from accelerate.utils import broadcast_object_list

        stop = broadcast_object_list([stop])[0]
    return stop


def _finish(
    state: State, recipe: Recipe, val_data: Samples, folder: RunFolder, skipped: dict[str, None], console: Console
) -> None:
    """The report, drawn from the best weights; and what had to be left out."""
    folder.close()
    if skipped:
        write_text(folder.out / "skipped.txt", "\n".join(skipped) + "\n")
        console.say(f"{len(skipped)} images could not be read and were left out: {folder.out / 'skipped.txt'}")
    if not state.history:
        return
    model = load_model(folder.out / "model.safetensors")[0].to(state.accelerator.device)
    _, found = evaluate(model, recipe, val_data, state.accelerator.device)
    best = best_threshold(list(found.values()), [val_data[i].targets for i in found], len(val_data.categories))
    if best is not None and "score_threshold" not in recipe.decode:
        recipe = replace(recipe, decode=recipe.decode | {"score_threshold": best})
        replace_info(folder.out / "model.safetensors", decode=recipe.decode)
        console.say(f"The model shows objects from a score of {best:.2f} on, which gives the best F1 on val.")
    quality = {i: _quality(instances, val_data[i].targets, recipe) for i, instances in found.items()}
    worst = sorted(quality, key=lambda i: quality[i])[:WORST]
    shown = (list(found)[:WORST], worst)
    shots = [[_shot(val_data[i], found[i], quality[i], recipe) for i in chosen] for chosen in shown]
    title = f"{recipe.variant} on {len(folder.data)} images"
    console.say(f"Report: {write_report(folder.out, Pages(title, recipe.best, state.history, *shots))}")


def best_threshold(found: Sequence[Instances], targets: Sequence[Instances], num_classes: int) -> float | None:
    """The score from which on objects should be shown: that of the best F1 at IoU 0.5; None if nothing is right."""
    if any(i.scores is None for i in found):
        return None
    with_masks = all(i.masks is not None for i in (*found, *targets))
    best = sweep(match(found, targets, num_classes, overlap=mask_overlap if with_masks else box_overlap))
    return best.best_threshold if best is not None and best.best_f1 > 0 else None


def _quality(found: Instances, targets: Instances, recipe: Recipe) -> float:
    """TP/(TP+FP+FN) at IoU 0.5 of what is sure enough to be drawn."""
    return count_in_image(sure_enough(found, recipe), targets, 0.5).score


def _shot(sample: Sample, found: Instances, quality: float, recipe: Recipe) -> Shot:
    caption = f"{sample.path.name}: TP/(TP+FP+FN) at IoU 0.5 is {quality:.2f}, {len(sample.targets)} annotated"
    return Shot(image(sample, found, recipe), caption)


def _check_finite(losses: dict[str, float], pieces: Sequence[Batch], step: int, out: Path) -> None:
    """Stop before a broken number reaches the weights, and say where it came from."""
    broken = [name for name, value in losses.items() if not math.isfinite(value)]
    if broken:
        names = [name for piece in pieces for name in piece.names]
        dump = out / "non-finite-loss.json"
        dump.write_text(json.dumps({"step": step, "losses": {k: str(v) for k, v in losses.items()}, "files": names}))
        raise UserError(
            f"the loss {', '.join(broken)} is not a number at step {step} on {', '.join(names)}: look at these images "
            f"and annotations, or lower the learning rate (details in {dump}; the last checkpoint is intact)"
        )
