"""Ctrl-C and SIGTERM in the middle of a run: the step is finished and kept, then the run ends. Before its first step it
ends at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupt:
    """Notes the first signal instead of dying of it; a second one interrupts at once.

    Outside of a program's main thread, where Python allows no signal handlers, nothing is noted.
    """

    def __init__(self) -> None:
        self.requested = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True


@contextmanager
def ends_with_a_word(out: Path) -> Iterator[None]:
    """While a run is prepared SIGTERM is like Ctrl-C, and either says what of the run in ``out`` is kept.

    Raises:
        KeyboardInterrupt: with a sentence.
    """
    alone = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, signal.default_int_handler) if alone else None
    try:
        yield
    except KeyboardInterrupt as error:
        raise (error if error.args else KeyboardInterrupt(_kept(out))) from None
    finally:
        if alone:
            signal.signal(signal.SIGTERM, before)


def _kept(out: Path) -> str:
    if any((out / "checkpoints").glob("step-*")):
        return f"interrupted; {out} is as the last checkpoint left it: the same command resumes there"
    return f"interrupted before the first step: there is nothing to keep in {out} yet, the same command begins anew"
