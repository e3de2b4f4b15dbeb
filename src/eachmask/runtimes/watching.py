"""Which tensors a computation looks at."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode


class _Watch(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[int, Tensor] = {}

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        self._note(args)
        self._note((kwargs or {}).values())
        return function(*args, **(kwargs or {}))

    def _note(self, values: Any) -> None:
        for value in values:
            if isinstance(value, Tensor):
                self.seen[id(value)] = value  # kept, so that its number is not given to another
            elif isinstance(value, tuple | list):
                self._note(value)


def watched(compute: Callable[[], Any]) -> set[int]:
    """The ``id`` of every tensor that is handed to torch while ``compute()`` runs."""
    with _Watch() as watch:
        compute()
    return set(watch.seen)
