"""Batcher: requests of many clients become batches for one network, in one thread.

A network uses all cores by itself, so that two of them at once would only wait for each other. While one batch is
computed, the requests that arrive meanwhile gather, and those that ask for the same thing go through the network
together. Nobody waits for a batch to fill up.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

from eachmask.server.settings import Limits


class Work(Protocol):
    """What is to be done with images; equal works share a batch."""

    def run(self, items: Sequence[Any]) -> Sequence[Any]:
        """One answer for each item."""


class BusyError(Exception):
    """As many requests wait as may."""

    def __init__(self, retry_after: int) -> None:
        super().__init__(f"as many requests wait as may; try again in {retry_after} s")
        self.retry_after = retry_after
        """Seconds."""


class LateError(Exception):
    """The answer took longer than it may."""


@dataclass(eq=False)
class _Job:
    work: Work
    item: Any
    answer: asyncio.Future[Any]


class Batcher:
    """A queue in front of one thread that computes.

    ``await batcher.ask(work, item)`` gives the answer; :meth:`start` and :meth:`stop` belong into the life of a server.
    """

    def __init__(self, limits: Limits, on_batch: Callable[[int, float], None] = lambda number, seconds: None) -> None:
        self.limits, self._on_batch = limits, on_batch
        self._jobs: deque[_Job] = deque()
        self._filled = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._seconds_each = 0.5
        self._loop: asyncio.Task[None] | None = None

    @property
    def waiting(self) -> int:
        """Requests that nobody has begun with."""
        return len(self._jobs)

    def start(self) -> None:
        """Begin to answer."""
        self._loop = asyncio.get_running_loop().create_task(self._answer_all())

    async def stop(self) -> None:
        """Answer what waits, then end."""
        while self._jobs:
            await asyncio.sleep(0.01)
        if self._loop is not None:
            self._loop.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._loop
        await asyncio.to_thread(self._thread.shutdown)

    async def ask(self, work: Work, item: Any) -> Any:
        """The answer to one request.

        Raises:
            BusyError: too many wait already.
            LateError: it took too long; if nobody has begun with it, nobody will.
            Exception: what the work raised for this item.
        """
        if len(self._jobs) >= self.limits.queue:
            raise BusyError(max(1, round(self._seconds_each * len(self._jobs))))
        job = _Job(work, item, asyncio.get_running_loop().create_future())
        self._jobs.append(job)
        self._filled.set()
        try:
            return await asyncio.wait_for(job.answer, self.limits.seconds)
        except TimeoutError:
            raise LateError(f"no answer within {self.limits.seconds:g} s") from None

    async def _answer_all(self) -> None:
        while True:
            await self._filled.wait()
            jobs = self._next()
            if jobs:
                await self._answer(jobs)

    def _next(self) -> list[_Job]:
        """The oldest request, and those like it, as many as fit; nobody who has gone away."""
        self._jobs = deque(job for job in self._jobs if not job.answer.done())
        if not self._jobs:
            self._filled.clear()
            return []
        first = self._jobs[0]
        batch = [job for job in self._jobs if job.work == first.work][: self.limits.batch]
        self._jobs = deque(job for job in self._jobs if job not in batch)
        return batch

    async def _answer(self, jobs: list[_Job]) -> None:
        begin = time.perf_counter()
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(self._thread, _run, jobs[0].work, [job.item for job in jobs])
        seconds = time.perf_counter() - begin
        self._seconds_each += 0.2 * (seconds / len(jobs) - self._seconds_each)
        self._on_batch(len(jobs), seconds)
        for job, answer in zip(jobs, found, strict=True):
            if job.answer.done():
                continue
            if isinstance(answer, Exception):
                job.answer.set_exception(answer)
            else:
                job.answer.set_result(answer)


def _run(work: Work, items: Sequence[Any]) -> Sequence[Any]:
    """An answer or an exception for each item: what one of them breaks, the others do not suffer from."""
    try:
        return list(work.run(items))
    except Exception as error:
        if len(items) == 1:
            return [error]
        return [answer for item in items for answer in _run(work, [item])]
