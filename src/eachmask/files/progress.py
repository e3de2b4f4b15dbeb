"""Progress: how a long loop shows that it is not stuck. The caller decides whether that is a bar, a log or nothing."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from threading import Timer
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    import rich.progress
    from rich.console import Console

T = TypeVar("T")


class Progress(Protocol):
    """A function that loops pass their items through: ``for path in progress("reading", paths)``."""

    def __call__(self, what: str, items: Collection[T], /) -> Iterable[T]:
        """The same items, one after the other; ``what`` says in a word what is done to them."""
        ...


def no_progress(what: str, items: Collection[T], /) -> Iterable[T]:
    """The items; nobody is told."""
    del what
    return items


def bars(console: Console | None = None, *, transfer: bool = False) -> rich.progress.Progress:
    """What commands show while they work: what is done, how far it is, and the time left.

    Args:
        console: by default standard error, so that results can be piped.
        transfer: bytes that come over a network, with their speed; silent where the console is no terminal.
    """
    import rich.progress as rich
    from rich.console import Console

    console = console or Console(stderr=True, highlight=False)
    shown = (
        (rich.DownloadColumn(), rich.TransferSpeedColumn())
        if transfer
        else (rich.MofNCompleteColumn(), rich.TimeElapsedColumn(), rich.TextColumn("left"))
    )
    return rich.Progress(
        rich.TextColumn("{task.description:<15}"),
        rich.BarColumn(),
        *shown,
        rich.TimeRemainingColumn(elapsed_when_finished=True),
        console=console,
        disable=transfer and not console.is_terminal,
    )


@contextmanager
def bar_after_a_while(seconds: float = 2.0) -> Iterator[Progress]:
    """A bar on standard error for each thing that is done, with the time left; none if all is done within seconds."""
    progress = bars()
    totals: dict[str, int] = {}
    tasks: dict[str, rich.progress.TaskID] = {}

    def watched(what: str, items: Collection[T], /) -> Iterable[T]:
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
        yield watched
    finally:
        timer.cancel()
        timer.join()
        if progress.live.is_started:
            progress.stop()
