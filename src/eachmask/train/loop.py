"""The training loop, to be read in one sitting.

It never asks what kind of model it holds: a step is ``losses(model(images), targets)``, an evaluation is
``decode(model(images))``. Everything random is a function of (seed, step) or stored in the checkpoint, so a
run that was killed and started again ends with the same weights as one that was not.
"""

from __future__ import annotations

import copy
import csv
import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import nn

from eachmask import models
from eachmask.structures import DecodeOptions, Instances, UserError
from eachmask.train.checkpoint import latest_checkpoint, random_state, save_checkpoint, set_random_state
from eachmask.train.curves import write_curves
from eachmask.train.draws import Draws, batches
from eachmask.train.optim import MovingAverage, make_optimiser, set_learning_rate
from eachmask.train.recipe import Recipe, Run, Samples
from eachmask.weights.file import ModelInfo, save_model


@dataclass
class State:
    """What changes during a run."""

    model: nn.Module
    average: MovingAverage
    optimiser: torch.optim.AdamW
    step: int = 0
    best: float = -1.0
    history: list[dict[str, float]] = field(default_factory=list)
    total: dict[str, float] = field(default_factory=dict)
    """Sums of the losses since the last evaluation, for the log."""

    def to_dict(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "average": self.average.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "best": self.best,
            "history": self.history,
            "total": self.total,
            "random": random_state(),
        }

    def load(self, step: int, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.average.model.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.best = step, state["best"]
        self.history, self.total = state["history"], state["total"]
        set_random_state(state["random"])


def train(recipe: Recipe, train_data: Samples, val_data: Samples, run: Run) -> Path:
    """Train, score on val as it goes, keep the best averaged weights.

    Returns:
        ``run.out/model.safetensors``, the best model; ``log.csv`` and ``curves.svg`` lie beside it.

    Raises:
        UserError: a loss stopped being a number (the message names the batch), or ``run.out`` holds
            a run and ``run.resume`` is False.
    """
    console = Console()
    device = torch.device(_device(run.device))
    torch.manual_seed(run.seed)
    state = _new_state(recipe, train_data, device, console)
    checkpoints = run.out / "checkpoints"
    found = latest_checkpoint(checkpoints)
    if found and not run.resume:
        raise UserError(f"{run.out} already holds a run: choose another --out, or leave --resume on to continue it")
    if found:
        state.load(*found)
        console.print(f"Resumed at step {state.step} of {recipe.steps}.")
    run.out.mkdir(parents=True, exist_ok=True)
    draws = Draws(train_data, recipe, run.seed)
    with _progress(console) as progress:
        bar = progress.add_task("training", total=recipe.steps, completed=state.step)
        for images, targets, names in batches(draws, state.step, recipe.steps, run.workers):
            losses = train_step(state, recipe, images.to(device), targets)
            _check_finite(losses, names, state.step, run.out)
            state.step += 1
            for name, value in losses.items():
                state.total[name] = state.total.get(name, 0.0) + value
            progress.update(bar, completed=state.step, description=f"loss {sum(losses.values()):.3f}")
            last = state.step == recipe.steps
            if state.step % recipe.evaluate_every == 0 or last:
                passed = (state.step - 1) % recipe.evaluate_every + 1
                row = {"step": float(state.step)} | {k: v / passed for k, v in state.total.items()}
                state.total = {}
                row |= evaluate(state.average.model, recipe, val_data, device)
                _keep(state, row, recipe, train_data, run, console)
            if state.step % run.checkpoint_every == 0 or last:
                save_checkpoint(checkpoints, state.step, state.to_dict())
    return run.out / "model.safetensors"


def train_step(state: State, recipe: Recipe, images: Any, targets: list[Instances]) -> dict[str, float]:
    """One update of model and average; returns the losses as numbers."""
    state.model.train()
    set_learning_rate(state.optimiser, recipe, state.step)
    losses = state.model.losses(state.model(images), targets)  # type: ignore[operator]
    total = torch.stack([value.float() for value in losses.values()]).sum()
    values = {name: float(value.detach()) for name, value in losses.items()}
    if math.isfinite(float(total.detach())):
        state.optimiser.zero_grad(set_to_none=True)
        total.backward()
        nn.utils.clip_grad_norm_(state.model.parameters(), recipe.clip_norm)
        state.optimiser.step()
        state.average.update(state.model, state.step)
    return values


@torch.inference_mode()
def evaluate(model: nn.Module, recipe: Recipe, data: Samples, device: torch.device) -> dict[str, float]:
    """Scores of the model on whole images, one at a time, in their own resolution."""
    model.eval()
    predictions, targets = [], []
    options = DecodeOptions(**recipe.decode)
    for i in range(len(data)):
        sample = data[i]
        images = recipe.preprocess([sample.image]).to(device)
        (instances,) = model.decode(model(images), options)  # type: ignore[operator]
        size = (sample.image.shape[0], sample.image.shape[1])
        predictions.append(instances.to(torch.device("cpu")).resize(size))
        targets.append(sample.targets)
    return recipe.score(predictions, targets)


def _new_state(recipe: Recipe, data: Samples, device: torch.device, console: Console) -> State:
    num_classes = len(data.categories)
    model = models.variant(recipe.variant)(num_classes=num_classes, **recipe.config)
    if recipe.start is not None:
        console.print(recipe.start(model))
    model.to(device=device, memory_format=torch.channels_last)
    average = MovingAverage(model, copy.deepcopy(model), recipe.ema_decay)
    return State(model, average, make_optimiser(model, recipe))


def _keep(state: State, row: dict[str, float], recipe: Recipe, data: Samples, run: Run, console: Console) -> None:
    """Log a row; save the averaged model when it is the best so far."""
    state.history.append(row)
    names = [name for name in row if name != "step"]
    marker = ""
    if row[recipe.best] > state.best:
        state.best, marker = row[recipe.best], " (best so far, saved)"
        info = ModelInfo(
            variant=recipe.variant,
            config=recipe.config,
            preprocess=recipe.preprocess,
            categories=tuple(data.categories),
            licence=recipe.licence,
            training={"steps": state.step, "of_steps": recipe.steps, "seed": run.seed, "batch_size": recipe.batch_size},
            scores={f"val {name}": row[name] for name in names[names.index(recipe.best) :]},
            decode=recipe.decode,
            tile=recipe.tile,
        )
        save_model(run.out / "model.safetensors", state.average.model, info)
    _write_log(run.out / "log.csv", state.history)
    write_curves(run.out / "curves.svg", state.history, recipe.best)
    shown = "  ".join(f"{name} {row[name]:.4f}" for name in names)
    console.print(f"step {state.step}: {shown}{marker}")


def _write_log(path: Path, history: Sequence[dict[str, float]]) -> None:
    part = path.with_suffix(".part")
    with open(part, "w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, fieldnames=list(history[-1]), extrasaction="ignore")
        writer.writeheader()
        writer.writerows(history)
    os.replace(part, path)


def _check_finite(losses: dict[str, float], names: list[str], step: int, out: Path) -> None:
    """Stop before a broken number reaches the weights, and say where it came from."""
    broken = [name for name, value in losses.items() if not math.isfinite(value)]
    if broken:
        dump = out / "non-finite-loss.json"
        dump.write_text(json.dumps({"step": step, "losses": {k: str(v) for k, v in losses.items()}, "files": names}))
        raise UserError(
            f"the loss {', '.join(broken)} is not a number at step {step} on {', '.join(names)}: look at these images "
            f"and annotations, or lower the learning rate (details in {dump}; the last checkpoint is intact)"
        )


def _device(name: str) -> str:
    if name != "auto":
        return name
    return "cuda" if torch.cuda.is_available() else "cpu"


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        TextColumn("left"), TimeRemainingColumn(), console=console,
    )  # fmt: skip
