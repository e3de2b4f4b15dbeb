"""The training loop, to be read in one sitting.

It never asks what kind of model it holds: a step is ``losses(model(images), targets)``, an evaluation predicts as a
user would and asks the model's task for scores. Everything random is a function of (seed, step), so a run that was
killed and started again ends with the same weights as one that was not.
"""

from __future__ import annotations

import contextlib
import copy
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from eachmask import models
from eachmask.accel.convolutions import FastConvolutions
from eachmask.backbones.networks import freeze, set_training_mode
from eachmask.data.samples import Samples
from eachmask.files.lock import lock
from eachmask.structures import Category, UserError
from eachmask.training.checkpoint import latest_checkpoint, save_checkpoint
from eachmask.training.console import Console
from eachmask.training.devices import Step, leave_at_exit, make_accelerator, share_of
from eachmask.training.interrupt import Interrupt
from eachmask.training.optim import MovingAverage, make_optimizer, set_learning_rate
from eachmask.training.pretrained import backbone_of
from eachmask.training.recipe import Recipe, Run
from eachmask.training.run_folder import RunFolder
from eachmask.training.sampling import Batch, TrainingSequence, batches


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


def train(recipe: Recipe, train_data: Samples[Any], val_data: Samples[Any], run: Run) -> Path:
    """Train, score on val as it goes, keep the best averaged weights.

    Ctrl-C and SIGTERM end the run after the step that is being computed, with a checkpoint.

    Returns:
        ``run.out/model.safetensors``, the best model. Beside it: last.safetensors, recipe.py, environment.json,
        log.csv, curves.svg, tensorboard/, samples/, checkpoints/ and report.html.

    Raises:
        UserError: a loss stopped being a number (the message names the batch), ``run.out`` holds a run and
            ``run.resume`` is False or it is a run of other settings, another process trains there, all of its
            checkpoints are damaged, or the device or data do not allow it.
        KeyboardInterrupt: the run was interrupted, and its checkpoint is complete; the message says at which step.
    """
    accelerator = make_accelerator(run)
    if not len(train_data):
        raise UserError("there is not one training image")
    if not accelerator.is_main_process:
        return _train(recipe, train_data, val_data, run, accelerator)
    run.out.mkdir(parents=True, exist_ok=True)
    with lock(run.out / ".lock", run.out):
        return _train(recipe, train_data, val_data, run, accelerator)


def _train(recipe: Recipe, train_data: Samples[Any], val_data: Samples[Any], run: Run, accelerator: Any) -> Path:
    checkpoints = run.out / "checkpoints"
    found = latest_checkpoint(checkpoints)
    if found and not run.resume:
        raise UserError(f"{run.out} already holds a run: choose another --out, or leave --resume on to continue it")
    torch.manual_seed(run.seed)
    folder = RunFolder(run, recipe, train_data, val_data) if accelerator.is_main_process else None
    if found and folder is not None:
        folder.check()
    state, start = new_state(recipe, train_data.categories, accelerator, load=not found)
    if found:
        state.load(*found)
    if folder is not None:
        folder.begin(str(accelerator.device), accelerator.mixed_precision, accelerator.num_processes, state.step)
    sequence = TrainingSequence(train_data, recipe, run.seed)
    with Console(recipe.steps, state.step, silent=folder is None) as console, Interrupt() as interrupt:
        console.say(_resumed(state, recipe) if found else start)
        _Training(recipe, run, state, folder, console, interrupt).run(sequence)
    accelerator.wait_for_everyone()
    leave_at_exit(accelerator)
    return run.out / "model.safetensors"


def _resumed(state: State, recipe: Recipe) -> str:
    if state.step >= recipe.steps:
        return f"The run has had its {state.step} steps already; a larger number resumes it."
    return f"Resumed at step {state.step} of {recipe.steps}."


@dataclass
class _Training:
    """A run between its first step and its last."""

    recipe: Recipe
    settings: Run
    state: State
    folder: RunFolder | None
    """None in all processes but the first."""
    console: Console
    interrupt: Interrupt
    skipped: dict[str, None] = field(default_factory=dict)
    """Sentences on training images that could not be read."""

    def run(self, sequence: TrainingSequence) -> None:
        """All steps that are left, then the report."""
        state, recipe, run = self.state, self.recipe, self.settings
        share = share_of(state.accelerator, run)
        for parts in batches(sequence, range(state.step, recipe.steps), share, run.workers):
            self._step(parts, share.rank)
            last = state.step == recipe.steps
            due = state.step % recipe.evaluate_every == 0 or last
            stop = self._evaluate() if due else False
            interrupted = self._interrupted()
            if due or stop or interrupted or state.step % run.checkpoint_every == 0:
                self._checkpoint()
            if interrupted:
                kept = f"interrupted after step {state.step}, which is kept: the same command resumes there"
                raise KeyboardInterrupt(kept)
            if stop:
                said = f"{state.since_best} evaluations without a better score"
                self.console.say(f"Stopped at step {state.step}: {said}.")
                break
        if self.folder is not None:
            for sentence in self.folder.finish(self.state.history, self.skipped):
                self.console.say(sentence)

    def _step(self, parts: Sequence[Batch], rank: int) -> None:
        state = self.state
        _seed(self.settings.seed, state.step, rank)
        self.skipped |= dict.fromkeys(note for part in parts for note in part.skipped)
        losses = train_step(state, self.recipe, parts)
        _check_finite(losses, parts, state.step, self.settings.out)
        state.step += 1
        state.summed += 1
        for name, value in losses.items():
            state.total[name] = state.total.get(name, 0.0) + value
        self.console.advance(state.step, sum(losses.values()))

    def _evaluate(self) -> bool:
        """Measure, log, keep what is best; whether to stop early."""
        state, recipe = self.state, self.recipe
        means = _mean_losses(state)
        if self.folder is not None:
            assessment = self.folder.assess(state.average.model)
            row = {"step": float(state.step)} | means | assessment.scores
            state.history.append(row)
            better = row[recipe.best] > state.best
            state.best = max(state.best, row[recipe.best])
            state.since_best = 0 if better else state.since_best + 1
            self.folder.evaluated(state.average.model, state.history, better, assessment)
            self.console.evaluated(row, better)
        return _agreed(state.accelerator, recipe.patience is not None and state.since_best >= recipe.patience)

    def _interrupted(self) -> bool:
        """Whether any process was asked to end."""
        requested = self.interrupt.requested
        if self.state.accelerator.num_processes == 1:
            return requested
        flag = torch.tensor([float(requested)], device=self.state.accelerator.device)
        return bool(self.state.accelerator.reduce(flag, "sum").item() > 0)

    def _checkpoint(self) -> None:
        if self.folder is not None:
            save_checkpoint(self.settings.out / "checkpoints", self.state.step, self.state.to_dict())


def train_step(state: State, recipe: Recipe, parts: Sequence[Batch]) -> dict[str, float]:
    """One update of model and average; returns the losses as numbers (and updates nothing if one is not finite)."""
    set_training_mode(state.model)
    set_learning_rate(state.optimizer, recipe, state.step)
    state.optimizer.zero_grad(set_to_none=True)
    values: dict[str, float] = {}
    for i, part in enumerate(parts):
        more = i + 1 < len(parts)
        waiting = state.accelerator.no_sync(state.step_module) if more else contextlib.nullcontext()
        with waiting:
            with FastConvolutions():
                losses = state.step_module(part.images.to(state.accelerator.device), part.given, part.targets)
            total = torch.stack([value.float() for value in losses.values()]).sum() / len(parts)
            for name, value in losses.items():
                values[name] = values.get(name, 0.0) + float(value.detach()) / len(parts)
            if not math.isfinite(sum(values.values())):
                return values
            state.accelerator.backward(total)
    state.accelerator.clip_grad_norm_(state.model.parameters(), recipe.clip_norm)
    state.optimizer.step()
    state.average.update(state.model, state.step)
    return values


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
    torch.manual_seed(int(np.random.SeedSequence([seed, 3, step, rank]).generate_state(1, np.uint64)[0]) >> 1)


def _mean_losses(state: State) -> dict[str, float]:
    """Of all processes since the last evaluation; counting begins anew."""
    means = {name: value / state.summed for name, value in state.total.items()}
    if state.accelerator.num_processes > 1:
        values = torch.tensor(list(means.values()), device=state.accelerator.device)
        means = dict(zip(means, state.accelerator.reduce(values, "mean").tolist(), strict=True))
    state.total, state.summed = {}, 0
    return means


def _agreed(accelerator: Any, decision: bool) -> bool:
    """The first process's decision, in all of them."""
    if accelerator.num_processes == 1:
        return decision
    from accelerate.utils import broadcast_object_list

    return bool(broadcast_object_list([decision])[0])


def _check_finite(losses: dict[str, float], parts: Sequence[Batch], step: int, out: Path) -> None:
    """Stop before a broken number reaches the weights, and say where it came from."""
    broken = [name for name, value in losses.items() if not math.isfinite(value)]
    if broken:
        names = [name for part in parts for name in part.names]
        dump = out / "non-finite-loss.json"
        dump.write_text(json.dumps({"step": step, "losses": {k: str(v) for k, v in losses.items()}, "files": names}))
        raise UserError(
            f"the loss {', '.join(broken)} is not a number at step {step} on {', '.join(names)}: look at these images "
            f"and annotations, or lower the learning rate (details in {dump}; the last checkpoint is intact)"
        )
