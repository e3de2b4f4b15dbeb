"""Results folders: which one a command without ``--out`` gets, and what becomes of images that are gone."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any

from eachmask.batch.options import BatchOptions, checked, settings_of
from eachmask.batch.results import names_made
from eachmask.data.images.inputs import Inputs, Source
from eachmask.files.journal import FOLDER, Journal, compact_json, holds_settings
from eachmask.inference.predictor import Predictor
from eachmask.tasks.task import Outputs

INPUTS = "inputs.json"
"""In the journal's folder: what the command that wrote there last was asked to predict."""
_NAMED = 3


def free_folder(first: Path, predictor: Predictor[Any], inputs: Inputs, options: BatchOptions | None = None) -> Path:
    """``first``, first-2, first-3 ...: the first that is free, or that holds what this very command began.

    Raises:
        UserError: options that make no sense.
    """
    outputs = predictor.task.outputs
    if outputs is None:
        return first  # `run` refuses
    settings = settings_of(predictor, checked(options or BatchOptions(), predictor, outputs))
    return next(out for out in _candidates(first) if _is_free(out, outputs) or _is_ours(out, settings, inputs))


def _candidates(first: Path) -> Iterator[Path]:
    yield first
    for number in count(2):
        yield first.with_name(f"{first.name}-{number}")


def _is_free(out: Path, outputs: Outputs[Any]) -> bool:
    names = (*names_made(outputs), f"{FOLDER}/run.json")
    return not out.exists() or (out.is_dir() and not any((out / name).exists() for name in names))


def _is_ours(out: Path, settings: dict[str, Any], inputs: Inputs) -> bool:
    """Whether the same settings and the same words led there."""
    try:
        before = (out / FOLDER / INPUTS).read_text(encoding="utf-8")
    except (OSError, ValueError):
        return False
    return before == _asked(inputs) and holds_settings(out, settings)


def remember_inputs(journal: Journal, inputs: Inputs) -> None:
    """For the next command, which may be the same."""
    journal.write(journal.folder / INPUTS, _asked(inputs).encode())


def _asked(inputs: Inputs) -> str:
    return compact_json(list(inputs.asked)) + "\n"


def leave_out(journal: Journal, sources: Sequence[Source]) -> None:
    """Results of images that no longer exist are removed; those of images that are not asked for stay, with a word."""
    others = sorted(set(journal.entries) - {source.name for source in sources})
    gone = [name for name in others if _is_gone(Path(journal.entries[name].path))]
    for name in gone:
        journal.drop(name)
    if gone:
        warnings.warn(f"removed the results of images that are gone: {_some(gone)}", stacklevel=3)
    stay = [name for name in others if name not in gone]
    if stay:
        warnings.warn(
            f"{journal.out} has files of images that are not among these: {_some(stay)}. The files about all images "
            "leave them out; choose another --out to keep them, or --overwrite to remove their files",
            stacklevel=3,
        )


def _is_gone(path: Path) -> bool:
    """Deleted: its folder is there and it is not. Where the folder is gone too, a disk may only be absent."""
    return path.parent.is_dir() and not path.exists()


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
