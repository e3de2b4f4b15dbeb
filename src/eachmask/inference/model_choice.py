"""Which downloadable model is worth its time on this machine, and the one question whether to take it."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import Literal, get_args

from eachmask.files.atomic import write_text
from eachmask.files.progress import Progress, no_progress
from eachmask.inference.speed import Rival, front, measured, rated
from eachmask.weights.catalogue import Entry
from eachmask.weights.fetch import cache_dir, cached

Wish = Literal["best", "fast", "tiny"]
WISHES: tuple[str, ...] = get_args(Wish)
SECONDS = 0.5
"""An image may take so long where the model is to be fast."""
NETWORK_SECONDS = 1.0
"""So long the network is waited for before a download is offered."""


def choose(wish: Wish, progress: Progress = no_progress, clock: Callable[[Entry], float] | None = None) -> Entry:
    """The model of objects with masks that fits a wish.

    Args:
        wish: best: the highest published AP. tiny: the smallest download. fast: the highest AP that takes at most
            half a second for a photograph of 640 x 480 px here; where none does, the fastest.
        clock: see :func:`~eachmask.inference.speed.measured`.
    """
    if wish == "best":
        return rated()[0]
    if wish == "tiny":
        return min(rated(), key=lambda entry: entry.size_mb)
    rivals: list[Rival] = []
    for entry in progress("timing models", rated()):
        rivals += measured([entry], clock=clock)
        if rivals[-1].seconds <= SECONDS:
            return entry
    return front(rivals)[0].entry


class Offer:
    """Whether photographs are predicted by a downloaded model from now on: asked once, the answer is kept in the cache.

    Args:
        ask: a question -> yes or no.
        watching: gives the progress that is shown while models are timed, and is left before the question.
    """

    def __init__(
        self,
        ask: Callable[[str], bool],
        watching: Callable[[], AbstractContextManager[Progress]] = lambda: nullcontext(no_progress),
    ) -> None:
        self.ask, self.watching = ask, watching

    def model(self, own: str) -> str:
        """The model to use in place of the bundled one: the downloaded one, if that was said yes to."""
        answer = self.answer()
        if answer is None:
            with self.watching() as progress:
                entry = choose("fast", progress)
            if not cached(entry) and not reachable(entry.host):
                return own  # asked when there is a network
            (rival,) = measured([entry])
            answer = entry.name if self.ask(self._question(rival, own)) else own
            with suppress(OSError):  # asked again, where there can be no cache
                _file().parent.mkdir(parents=True, exist_ok=True)
                write_text(_file(), json.dumps({"photographs": answer}))
        return answer

    def answer(self) -> str | None:
        """What was answered; None: not asked yet."""
        from eachmask.weights.catalogue import bundled, entries

        try:
            kept = json.loads(_file().read_text())["photographs"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return kept if kept in (*bundled(), *entries()) else None

    def _question(self, rival: Rival, own: str) -> str:
        entry = rival.entry
        return (
            f"{own}, which comes with the package, knows photographs a little. {entry.name} knows them well: published "
            f"mask AP {rival.ap:g}, {entry.size_mb:.0f} MB from {entry.host}, {rival.seconds:.1f} s an image here; "
            f"license: {entry.license}. Download it and use it for photographs from now on?"
        )


def reachable(host: str) -> bool:
    """Whether the network answers."""
    try:
        with socket.create_connection((host, 443), NETWORK_SECONDS):
            return True
    except OSError:
        return False


def _file() -> Path:
    return cache_dir() / "answers.json"
