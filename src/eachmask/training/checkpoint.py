"""The state of a run on disk: safetensors for tensors, JSON for the rest, written atomically, two kept.

A checkpoint file is complete or absent, also after a crash in the middle of writing.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from eachmask.files.tensors import checksum_of, write_tensors
from eachmask.files.text import plural
from eachmask.structures import UserError

KEPT = 2


def save_checkpoint(folder: Path, step: int, state: dict[str, Any]) -> Path:
    """Write ``step-0001234.safetensors`` and remove all but the newest two.

    Args:
        state: nested dicts / lists of tensors, numbers, strings, None (no pickle involved).
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, Tensor] = {}
    outline = _flatten(state, "", tensors)
    path = folder / f"step-{step:07d}.safetensors"
    metadata = {"state": json.dumps(outline), "step": str(step), "checksum": _checksum(tensors)}
    write_tensors(path, tensors, metadata)
    for old in sorted(folder.glob("step-*.safetensors"))[:-KEPT]:
        old.unlink()
    return path


def latest_checkpoint(folder: Path) -> tuple[int, dict[str, Any]] | None:
    """(step, state) of the newest sound checkpoint, or None where there is none.

    Raises:
        UserError: there are checkpoints, and all of them are damaged.
    """
    paths = sorted(folder.glob("step-*.safetensors"), reverse=True)
    for path in paths:
        found = _read(path)
        if found is not None:
            return found
    if paths:
        are, them = plural(len(paths), "is", "are"), plural(len(paths), "it", "them")
        raise UserError(
            f"{' and '.join(path.name for path in paths)} in {folder} {are} damaged, so that the run cannot be "
            f"resumed: restore {them}, or remove {folder} to begin anew"
        )
    return None


def _read(path: Path) -> tuple[int, dict[str, Any]] | None:
    """(step, state), or None where the disk has damaged the file."""
    try:
        with safe_open(path, framework="pt") as handle:
            metadata = handle.metadata() or {}
            tensors = {key: handle.get_tensor(key) for key in handle.keys()}  # noqa: SIM118
    except (SafetensorError, OSError):
        return None
    if metadata.get("checksum") not in (None, _checksum(tensors)):
        return None
    try:
        return int(metadata["step"]), _restore(json.loads(metadata["state"]), tensors)
    except (KeyError, TypeError, ValueError, RecursionError):  # the checksum is of the tensors alone
        return None


def _checksum(tensors: dict[str, Tensor]) -> str:
    """CRC-32 of all values, in the order of their names."""
    value = 0
    for name in sorted(tensors):
        value = checksum_of(tensors[name], value)
    return f"{value:08x}"


def _flatten(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """Move tensors out of a nested value into ``tensors``; returns its JSON outline.

    Dicts become pairs, because an optimizer's state has integer keys and JSON would make them strings.
    """
    if isinstance(value, Tensor):
        tensors[name] = value.detach().cpu().contiguous().clone()
        return {"tensor": name}
    if isinstance(value, dict):
        return {"dict": [[key, _flatten(item, f"{name}/{key}", tensors)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        return {"list": [_flatten(item, f"{name}/{i}", tensors) for i, item in enumerate(value)]}
    if value is None or isinstance(value, bool | int | float | str):
        return {"value": value}
    raise TypeError(f"a checkpoint cannot hold {type(value).__name__} (at {name or 'the top'})")


def _restore(outline: Any, tensors: dict[str, Tensor]) -> Any:
    if "tensor" in outline:
        return tensors[outline["tensor"]]
    if "dict" in outline:
        return {key: _restore(item, tensors) for key, item in outline["dict"]}
    if "list" in outline:
        return [_restore(item, tensors) for item in outline["list"]]
    return outline["value"]
