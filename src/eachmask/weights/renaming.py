"""Other projects' state dicts under our names: ordered rules, and loading that is all or nothing."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from eachmask.structures import UserError

Rule = tuple[str, str]
"""(pattern, replacement) as for :func:`re.sub`; the first rule whose pattern is found renames an entry."""


NOT_LEARNED = ("num_batches_tracked", "relative_position_index", "relative_coords_table")
"""Counters of batch normalization, which nothing reads, and tables that follow from the size of Swin's windows."""

WRAPPERS = ("state_dict", "model", "model_state_dict", "ema_state_dict")
"""Under one of these a checkpoint keeps the weights, beside a record of the training; the first one there counts."""


def unwrapped(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """The weights alone, without what was saved beside them and without ``module.``, which parallel training adds.

    Args:
        checkpoint: what a project's file holds, or a state dict, which stays as it is.

    Raises:
        UserError: it is neither of these.
    """
    inner = next((checkpoint[name] for name in WRAPPERS if isinstance(checkpoint.get(name), Mapping)), checkpoint)
    if any(name.startswith("module.") for name in inner):
        # Averaged weights have a counter of their own beside them.
        inner = {name.removeprefix("module."): value for name, value in inner.items() if name.startswith("module.")}
    strange = [str(name) for name, value in inner.items() if not hasattr(value, "shape")]
    if strange:
        raise UserError(f"a checkpoint with {', '.join(strange[:3])}, but no weights under {', '.join(WRAPPERS)}")
    return dict(inner)


def rename(state: Mapping[str, Any], rules: Sequence[Rule], project: str) -> dict[str, Tensor]:
    """Every entry under its new name; an empty replacement drops it.

    Args:
        state: a state dict, or a checkpoint with one in it, see :func:`unwrapped`.
        project: whose state dict it is, for messages.

    Raises:
        UserError: an entry that no rule knows, or two that get one name.
    """
    result: dict[str, Tensor] = {}
    for theirs, value in unwrapped(state).items():
        name = _rename(theirs, rules, project)
        if name in result:
            raise UserError(f"two entries of {project}'s weights would both be {name}; one of them is {theirs}")
        if name:
            result[name] = value
    return result


def _rename(name: str, rules: Sequence[Rule], project: str) -> str:
    for pattern, replacement in rules:
        renamed, found = re.subn(pattern, replacement, name)
        if found:
            return renamed if replacement else ""
    raise UserError(f"{project}'s {name} has no counterpart in this model: the weights are of another one")


def fill(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load all or nothing. What is not learned may be missing or surplus, see :data:`NOT_LEARNED`.

    Raises:
        UserError: names or shapes do not fit; the message has the first of each kind.
    """
    own = model.state_dict()
    counters = {k for k in (*own, *state) if k.endswith(NOT_LEARNED)}
    problems = {
        "missing": [k for k in own if k not in state and k not in counters],
        "unexpected": [k for k in state if k not in own and k not in counters],
        "of another shape": [k for k in own if k in state and own[k].shape != state[k].shape],
    }
    found = [f"{len(names)} {kind} ({', '.join(names[:3])})" for kind, names in problems.items() if names]
    if found:
        raise UserError(f"the weights do not fit {type(model).__name__}: {'; '.join(found)}")
    model.load_state_dict({k: torch.as_tensor(v) for k, v in state.items() if k in own}, strict=False)
