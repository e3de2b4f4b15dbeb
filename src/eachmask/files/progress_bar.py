"""A progress bar for commands that may be done at once, or take an hour."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from threading import Timer
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from rich.progress import TaskID

    from eachmask.files.progress import Progress

T = TypeVar("T")


@contextmanager
def bar_after_a_while(seconds: float = 2.0) -> Iterator[Progress]:
    """A bar on standard error for each thing that is done, with the time left; none if all is done within seconds."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description:<15}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        TextColumn("left"), TimeRemainingColumn(),
    )  # fmt: skip
    progress = Progress(*columns, console=Console(stderr=True, highlight=False))
    totals: dict[str, int] = {}
    tasks: dict[str, TaskID] = {}

    def watch(what: str, items: Collection[T], /) -> Iterable[T]:
        # what is done to each split of a data set, one after the other, has one bar
        totals[what] = totals.get(what, 0) + len(items)
        if what not in tasks:
            tasks[what] = progress.add_task(what)
        progress.update(tasks[what], total=totals[what])
        for item in items:
            yield item
            progress.advance(tasks[what])

    timer = Timer(seconds, progress.start)
    timer.daemon = True
    timer.start()
    try:
        yield watch
    finally:
        timer.cancel()
        timer.join()
        if progress.live.is_started:
            progress.stop()
