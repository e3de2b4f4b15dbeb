"""Variants that are too large for tests: each is built of the code of a small one, its sibling, which is tested."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from eachmask import models


def check_complete(room: str, cases: Iterable[str], siblings: Mapping[str, str]) -> None:
    """Every variant of a room is a case, or has its sibling among them."""
    known, cases = {name for name, module in models.VARIANTS.items() if module.startswith(f"{room}.")}, set(cases)
    assert cases | set(siblings) == known and set(siblings.values()) <= cases


def without_numbers(*names: str, **config: Any) -> tuple[nn.Module, ...]:
    """Variants with the shapes of their weights alone, which takes no time and no memory."""
    with torch.device("meta"):
        return tuple(models.variant(name)(**config) for name in names)
