"""What is drawn on one image, and how it came to be: each step can be undone and redone, also after a restart."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from eachmask.studio.objects import Drawn

Delta = dict[str, Any]
"""``objects`` and ``proposals``: id as text -> [before, after], None where there is none; ``fields``: the same by
name. Ready for JSON."""
Step = Literal["do", "undo", "redo"]


@dataclass
class History:
    """One image."""

    objects: dict[int, Drawn] = field(default_factory=dict)
    proposals: dict[int, Drawn] = field(default_factory=dict)
    fields: dict[str, Any] = field(default_factory=lambda: {"comment": "", "reviewed": False, "looks": 0})
    """``looks``: how often a model has looked for objects."""
    revision: int = 0
    saved: int = 0
    """The revision that was last saved."""
    done: list[Delta] = field(default_factory=list)
    undone: list[Delta] = field(default_factory=list)
    last_id: int = 0
    """The highest that was ever given."""

    def step(self, kind: Step, delta: Delta | None = None) -> Delta:
        """Do, undo or redo; returns what was applied, seen forwards in time."""
        if kind == "do":
            assert delta is not None
            self.undone.clear()
        else:
            delta = (self.done if kind == "undo" else self.undone).pop()
        (self.undone if kind == "undo" else self.done).append(delta)
        self.revision += 1
        return self._apply(delta, 0 if kind == "undo" else 1)

    def proposed(self) -> list[Drawn] | None:
        """What the last model that looked had found, also where it was accepted or rejected; None: none has looked."""
        for delta in reversed(self.done):
            if "looks" in delta.get("fields", {}):
                return [Drawn(**after) for _, after in delta.get("proposals", {}).values() if after is not None]
        return None

    def _apply(self, delta: Delta, side: int) -> Delta:
        for name, here in (("objects", self.objects), ("proposals", self.proposals)):
            for key, pair in delta.get(name, {}).items():
                self.last_id = max(self.last_id, int(key))
                if pair[side] is None:
                    here.pop(int(key), None)
                else:
                    here[int(key)] = Drawn(**pair[side])
        for name, pair in delta.get("fields", {}).items():
            self.fields[name] = pair[side]
        return delta


class Draft:
    """A change in the making.

    >>> history = History()
    >>> draft = Draft(history)
    >>> draft.put("objects", Drawn(draft.new_id(), 1, "04"))
    >>> _ = history.step("do", draft.delta)
    >>> sorted(history.objects), history.revision
    ([1], 1)
    >>> _ = history.step("undo")
    >>> sorted(history.objects), history.revision
    ([], 2)
    """

    def __init__(self, history: History) -> None:
        self.history, self.delta = history, Delta()
        self._last = history.last_id

    def new_id(self) -> int:
        """One that no object of the image ever had."""
        self._last += 1
        return self._last

    def put(self, where: Literal["objects", "proposals"], one: Drawn) -> None:
        """Add or replace."""
        self._note(where, one.id, one.to_json())

    def drop(self, where: Literal["objects", "proposals"], key: int) -> None:
        """Take away."""
        self._note(where, key, None)

    def set(self, name: str, value: Any) -> None:
        """Of the image itself."""
        self.delta.setdefault("fields", {})[name] = [self.history.fields[name], value]

    def _note(self, where: str, key: int, after: dict[str, Any] | None) -> None:
        before = getattr(self.history, where).get(key)
        self.delta.setdefault(where, {})[str(key)] = [None if before is None else before.to_json(), after]
