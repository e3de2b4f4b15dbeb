"""What a run was done with, as its folder says it, and whether a run that is to be resumed is the same."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from eachmask.data.image_files import ImageFiles
from eachmask.data.samples import Samples
from eachmask.files.atomic import write_text
from eachmask.structures import UserError
from eachmask.training.environment import environment
from eachmask.training.recipe import Recipe, Run
from eachmask.training.recipe_source import recipe_source, settings

RECIPE, ENVIRONMENT, PROBLEMS = "recipe.py", "environment.json", "data-problems.txt"
FREE = frozenset({"steps", "evaluate_every", "patience", "license", "decode", "tile", "prepare"})
"""Fields of a recipe that may differ when its run is resumed."""
MAX_SHOWN = 60
"""Letters of a setting that a message shows."""


def write_record(run: Run, settings: dict[str, str], facts: dict[str, Any], recipe: Recipe, step: int) -> None:
    """Write recipe.py, environment.json and data-problems.txt of a run that is about to begin or to be resumed.

    Where it is resumed with other options, on another machine or with another version, the record has both, under
    ``earlier``: what was different, and until which step.

    Args:
        settings: see :func:`settings_of`.
        facts: what else is to be told.
        step: steps that are done. A run that has had its steps already keeps its record.
    """
    before = _recorded(run.out)
    if step >= recipe.steps and before:
        return
    facts = environment() | facts | {"command": " ".join(sys.argv)} | run.notes | {"settings": settings}
    facts = json.loads(json.dumps(facts, default=str))
    earlier = before.get("earlier", []) if step else []
    if step and (different := _different(before, facts)):
        earlier = [*earlier, {"until step": step} | different]
    facts |= {"earlier": earlier} if earlier else {}
    write_text(run.out / RECIPE, recipe_source(recipe))
    write_text(run.out / ENVIRONMENT, json.dumps(facts, indent=1, ensure_ascii=False))
    if run.problems:
        write_text(run.out / PROBLEMS, "".join(f"{problem}\n" for problem in run.problems))


def settings_of(recipe: Recipe, seed: int, train_data: Samples[Any], val_data: Samples[Any]) -> dict[str, str]:
    """All that decides the weights and which of them are best, as texts."""
    data = {"training data": _told(train_data), "val data": _told(val_data)}
    classes = ", ".join(category.name for category in train_data.categories)
    return settings(recipe) | {"seed": str(seed), "classes": classes} | data


def check_resumed(out: Path, own: dict[str, str]) -> None:
    """Refuse to resume a run of another recipe, other data or another seed.

    Args:
        own: see :func:`settings_of`. What the record does not say (it is of an earlier version) is not compared.

    Raises:
        UserError: the folder says that its run is one.
    """
    known = _recorded(out).get("settings", {})
    changed = [name for name, text in own.items() if name not in FREE and known.get(name, text) != text]
    if changed:
        details = ", ".join(f"{name} was {_apart(known[name], own[name])}" for name in changed[:3])
        raise UserError(
            f"{out} holds a run of other settings ({details}): choose another --out, and take over what it "
            "has learnt with --pretrained"
        )


def _recorded(out: Path) -> dict[str, Any]:
    """What the folder's record says; nothing where there is none, or it is damaged."""
    try:
        facts = json.loads((out / ENVIRONMENT).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(facts, dict) or not isinstance(facts.get("earlier", []), list):
        return {}
    return facts if isinstance(facts.get("settings", {}), dict) else {}


def _different(before: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """What a record says otherwise than the present one; of its settings those that differ."""
    different = {name: value for name, value in before.items() if name != "earlier" and now.get(name) != value}
    if "settings" in different:
        different["settings"] = {k: v for k, v in before["settings"].items() if now["settings"].get(k) != v}
    return different


def _told(data: Samples[Any]) -> str:
    """How many images, and for data sets of files the digest of all that is known of them."""
    return f"{len(data)} images" + (f" ({data.digest})" if isinstance(data, ImageFiles) else "")


def _apart(before: Any, now: str) -> str:
    """Two texts, of long ones the words that differ: ``short_side=64 and is short_side=96``."""
    before, begin, end = str(before), 0, 0
    if max(len(before), len(now)) > MAX_SHOWN:
        begin = len(os.path.commonprefix([before, now]))
        begin = max(before.rfind(mark, 0, begin) for mark in " (") + 1
        alike = os.path.commonprefix([before[:begin:-1], now[:begin:-1]])[::-1]
        end = max((len(alike) - alike.find(mark) for mark in ",)" if mark in alike), default=0)
    return " and is ".join(_short(text[begin : len(text) - end].strip("'")) for text in (before, now))


def _short(text: str) -> str:
    return text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN - 3]}..."
