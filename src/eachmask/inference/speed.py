"""How long the catalogue's models take here: measured once on random weights, which needs no download, and remembered.

A network takes as long with random weights as with trained ones. What comes on top depends on the image: an object adds
a few milliseconds.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from eachmask.files.atomic import write_text
from eachmask.files.progress import Progress, no_progress
from eachmask.inference.devices import cpu_name, find_device, find_precision
from eachmask.inference.predictor import Predictor
from eachmask.weights.catalogue import Entry, entries
from eachmask.weights.fetch import cache_dir
from eachmask.weights.header import ModelInfo

IMAGE_SIZE = (480, 640)
"""(height, width) px of the photograph that is timed."""
RUNS = 2
"""Timed after a first one that is not; the faster counts."""
AP = "mask AP"


@dataclass(frozen=True)
class Rival:
    """A downloadable model of objects with masks, as one chooses between them."""

    entry: Entry
    ap: float
    """Mask AP on COCO val2017 as published, per cent."""
    seconds: float
    """From an image to the network's answer, here."""


def rated() -> list[Entry]:
    """Entries with a published mask AP that find and name objects by themselves, the best first."""
    chosen = [entry for entry in entries().values() if AP in entry.by_metric() and entry.num_classes > 1]
    return sorted(chosen, key=lambda entry: -entry.by_metric()[AP])


def measured(
    chosen: Collection[Entry],
    progress: Progress = no_progress,
    clock: Callable[[Entry], float] | None = None,
) -> list[Rival]:
    """Time each entry that was not timed on this machine before.

    Args:
        clock: entry -> seconds, in place of running it.
    """
    known = _remembered()
    found = []
    for entry in progress("timing models", list(chosen)):
        if entry.name not in known:
            known[entry.name] = (clock or seconds_of)(entry)
            _remember(known)
        found.append(Rival(entry, entry.by_metric()[AP], known[entry.name]))
    return found


def seconds_of(entry: Entry) -> float:
    """Of one image, with random weights."""
    from eachmask.models import variant

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = variant(entry.name)(num_classes=len(entry.categories), **entry.config).eval()
    info = ModelInfo(entry.name, entry.config, entry.preprocess, entry.categories)
    predictor: Predictor[Any] = Predictor(model, info, in_place=True)
    image = np.random.default_rng(0).integers(0, 256, (*IMAGE_SIZE, 3), np.uint8)
    return min([_timed(predictor, image) for _ in range(RUNS + 1)][1:])


def front(rivals: Collection[Rival]) -> list[Rival]:
    """Those that no other beats in both AP and time, the fastest first."""
    return [
        one
        for one in sorted(rivals, key=lambda rival: rival.seconds)
        if all(other.ap < one.ap for other in rivals if other.seconds < one.seconds)
        and all(other.ap <= one.ap for other in rivals if other.seconds == one.seconds)
    ]


def _timed(predictor: Predictor[Any], image: NDArray[np.uint8]) -> float:
    begin = time.perf_counter()
    predictor.predict(image, score=1.0)  # what random weights find depends on the model and means nothing
    return time.perf_counter() - begin


def _file() -> Path:
    return cache_dir() / "speed.json"


def _machine() -> str:
    device = find_device("auto")
    name = torch.cuda.get_device_name() if device.type == "cuda" else f"{cpu_name()}, {torch.get_num_threads()} threads"
    return f"{name}, {find_precision('auto', device)}, torch {torch.__version__}"


def _all_machines() -> dict[str, dict[str, float]]:
    try:
        content = json.loads(_file().read_text())
    except (OSError, ValueError):
        return {}  # never measured, or damaged: measured anew
    return content if isinstance(content, dict) else {}


def _remembered() -> dict[str, float]:
    own = _all_machines().get(_machine())
    return {name: value for name, value in own.items() if isinstance(value, float)} if isinstance(own, dict) else {}


def _remember(known: dict[str, float]) -> None:
    with suppress(OSError):  # a cache is no must
        _file().parent.mkdir(parents=True, exist_ok=True)
        write_text(_file(), json.dumps(_all_machines() | {_machine(): known}, indent=1))
