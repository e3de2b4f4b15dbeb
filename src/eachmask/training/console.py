"""What the terminal shows during a run: a live table of the last evaluations, and a bar with the time left."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType

import rich.console
from rich.console import Group
from rich.live import Live
from rich.table import Table

from eachmask.files.progress import bars
from eachmask.files.text import printable

ROWS = 10
"""Evaluations shown at once."""
EVERY = 30.0
"""Seconds between lines where the output is a file."""


class Console:
    """Live on a terminal; plain lines elsewhere; nothing where it is ``silent`` (all processes but the first).

    Args:
        steps: of the whole run.
        first: step that the run resumes from.
    """

    def __init__(
        self, steps: int, first: int = 0, *, silent: bool = False, console: rich.console.Console | None = None
    ) -> None:
        self.console = console or rich.console.Console(quiet=silent)
        self.steps = steps
        self.rows: list[tuple[dict[str, float], bool]] = []
        self.progress = bars(self.console)
        self.task = self.progress.add_task("training", total=steps, completed=first)
        self.live = Live(console=self.console, refresh_per_second=2, get_renderable=self._image)
        self._first, self._began, self._spoke = first, time.monotonic(), time.monotonic()

    def __enter__(self) -> Console:
        if self.console.is_terminal:
            self.live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.console.is_terminal:
            self.live.stop()

    def say(self, sentence: str) -> None:
        """A sentence above the table."""
        self.console.print(printable(sentence), highlight=False, markup=False)

    def advance(self, step: int, loss: float) -> None:
        """One step is done."""
        self.progress.update(self.task, completed=step, description=f"loss {loss:.3f}")
        now = time.monotonic()
        if not self.console.is_terminal and now - self._spoke > EVERY:
            self._spoke = now
            left = (now - self._began) / max(step - self._first, 1) * (self.steps - step)
            self.say(f"step {step} of {self.steps}: loss {loss:.3f}, {_duration(left)} left")

    def evaluated(self, row: dict[str, float], best: bool) -> None:
        """A row of the log."""
        self.rows.append((row, best))
        if not self.console.is_terminal:
            shown = "  ".join(f"{name} {value:.4f}" for name, value in row.items() if name != "step")
            self.say(f"step {row['step']:.0f}: {shown}{' (best so far, saved)' if best else ''}")

    def _image(self) -> Group:
        return Group(*([self._table()] if self.rows else []), self.progress)

    def _table(self) -> Table:
        table = Table(header_style="bold", box=None, pad_edge=False)
        names: Sequence[str] = list(self.rows[-1][0])
        for name in names:
            table.add_column(name, justify="right")
        for row, best in self.rows[-ROWS:]:
            cells = [f"{row[n]:.0f}" if n == "step" else f"{row[n]:.4f}" for n in names if n in row]
            table.add_row(*cells, style="bold green" if best else None)
        return table


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"
