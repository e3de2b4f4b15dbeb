"""Batcher: requests of many clients become batches for a network, in one thread or in several processes.

A network uses all cores by itself, so that two of them at once would only wait for each other. While one batch is
computed, the requests that arrive meanwhile gather, and those that ask for the same thing go through the network
together. Nobody waits for a batch to fill up. The queue is the server's: a worker that dies takes its batch with it,
and the others that wait never notice.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

from eachmask.accel.malloc import give_back_freed_memory
from eachmask.server.settings import Limits
from eachmask.structures import UserError

LOG = logging.getLogger("eachmask.server")
LOAD_SECONDS = 5
"""After which who asks while models are being loaded may ask again."""
LOOK_SECONDS = 1.0
"""So often somebody looks whether a worker without work is still there."""
REST_SECONDS = 5.0
"""After so long without work a worker is told that it may rest."""
MAX_PAUSE = 30.0
"""Seconds between attempts to start a worker that cannot be started."""


class Worker(Protocol):
    """Something that computes one batch at a time."""

    async def start(self) -> None:
        """Come up, or up again; UserError or WorkerLostError where that fails."""

    def alive(self) -> bool:
        """Whether it still is up."""

    async def run(self, work: Any, items: Sequence[Any]) -> Sequence[Any]:
        """An answer or an exception for each item; WorkerLostError where it died."""

    async def rest(self) -> None:
        """Give back what work alone needs: nothing is to be done for a while; WorkerLostError where it died."""

    async def stop(self) -> None:
        """End, once what runs is through."""


class BusyError(Exception):
    """As many requests wait as may, or nobody is there yet to answer."""

    def __init__(self, retry_after: int, why: str = "as many requests wait as may") -> None:
        super().__init__(f"{why}; try again in {retry_after} s")
        self.retry_after = retry_after
        """Seconds."""


class LateError(Exception):
    """The answer took longer than it may."""


class WorkerLostError(Exception):
    """What computed the answer died over it."""


class ThreadWorker:
    """A thread of this process, in which works run by themselves: ``work.run(items)``."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")

    async def start(self) -> None:
        """Nothing needs to come up."""

    def alive(self) -> bool:
        """Yes."""
        return True

    async def run(self, work: Any, items: Sequence[Any]) -> Sequence[Any]:
        """An answer or an exception for each item."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self.compute, work, items)

    def compute(self, work: Any, items: Sequence[Any]) -> Sequence[Any]:
        """The same, within the thread."""
        return answered(work.run, items)

    async def rest(self) -> None:
        """Let the system have memory that is free again."""
        await asyncio.to_thread(give_back_freed_memory)

    async def stop(self) -> None:
        """End, once what runs is through."""
        await asyncio.to_thread(self.end)

    def end(self) -> None:
        """The same, outside of an event loop."""
        self._thread.shutdown()


@dataclass(eq=False)
class _Job:
    work: Any
    item: Any
    answer: asyncio.Future[Any]


class Batcher:
    """A queue in front of workers.

    ``await batcher.ask(work, item)`` gives the answer; :meth:`start` and :meth:`stop` belong into the life of a server.

    Args:
        on_batch: told items and seconds of each batch.
        workers: by default one thread, in which works run by themselves.
    """

    def __init__(
        self,
        limits: Limits,
        on_batch: Callable[[int, float], None] = lambda number, seconds: None,
        workers: Sequence[Worker] = (),
    ) -> None:
        self.limits, self._on_batch = limits, on_batch
        self.workers = list(workers) or [ThreadWorker()]
        self._jobs: deque[_Job] = deque()
        self._filled = asyncio.Event()
        self._seconds_each = 0.5
        """Of one request in a batch, lately; a guess at first."""
        self._up, self._idle = 0, 0
        self._loops: list[asyncio.Task[None]] = []

    @property
    def waiting(self) -> int:
        """Requests that nobody has begun with."""
        return len(self._jobs)

    @property
    def up(self) -> int:
        """Workers that are there."""
        return self._up

    def start(self) -> None:
        """Begin to answer."""
        loop = asyncio.get_running_loop()
        self._loops = [loop.create_task(self._live(worker)) for worker in self.workers]

    async def stop(self) -> None:
        """Answer what waits, then end."""
        while self._jobs and self._up:
            await asyncio.sleep(0.01)
        for loop in self._loops:
            loop.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await loop
        await asyncio.gather(*(worker.stop() for worker in self.workers))

    async def ask(self, work: Any, item: Any) -> Any:
        """The answer to one request.

        Raises:
            BusyError: as many wait already as may, or as half of the time of :class:`Limits` is enough for.
            LateError: it took too long; if nobody has begun with it, nobody will.
            WorkerLostError: what computed it died.
            Exception: what the work raised for this item.
        """
        if not self._up:
            raise BusyError(LOAD_SECONDS, "the models are being loaded")
        wait = self._seconds_each * len(self._jobs) / self._up
        # Where the wait took all of the time, every answer would come just too late, and nobody would get one.
        too_long = wait > self.limits.seconds / 2 and len(self._jobs) >= self.limits.batch
        if too_long or len(self._jobs) >= self.limits.queue:
            raise BusyError(max(1, round(wait)))
        job = _Job(work, item, asyncio.get_running_loop().create_future())
        self._jobs.append(job)
        self._filled.set()
        try:
            return await asyncio.wait_for(job.answer, self.limits.seconds)
        except TimeoutError:
            raise LateError(f"no answer within {self.limits.seconds:g} s") from None

    async def _live(self, worker: Worker) -> None:
        """A worker's life: up, at work until it dies, and up again."""
        while True:
            await self._raise(worker)
            self._up += 1
            try:
                await self._answer_all(worker)
            except WorkerLostError:
                LOG.warning("a worker died and is started anew")
            finally:
                self._up -= 1

    async def _raise(self, worker: Worker) -> None:
        """Start it, however often that fails."""
        pause = 1.0
        while True:
            try:
                return await worker.start()
            except (UserError, WorkerLostError) as error:
                LOG.warning("a worker did not start, which is tried again in %g s (%s)", pause, error)
            await asyncio.sleep(pause)
            pause = min(2 * pause, MAX_PAUSE)

    async def _answer_all(self, worker: Worker) -> None:
        rest_at = math.inf
        while True:
            if jobs := await self._offered(worker):
                await self._answer(worker, jobs)
                rest_at = time.monotonic() + REST_SECONDS
            elif time.monotonic() >= rest_at:
                await worker.rest()
                rest_at = math.inf

    async def _offered(self, worker: Worker) -> list[_Job]:
        """What is to be done, or nothing after a while.

        Raises:
            WorkerLostError: it died meanwhile.
        """
        self._idle += 1
        try:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._filled.wait(), LOOK_SECONDS)
            if not worker.alive():
                raise WorkerLostError
            return self._next()
        finally:
            self._idle -= 1

    def _next(self) -> list[_Job]:
        """The oldest request, and those like it, as many as fit; nobody who has gone away.

        What waits is shared out among the workers that have nothing to do.
        """
        self._jobs = deque(job for job in self._jobs if not job.answer.done())
        if not self._jobs:
            self._filled.clear()
            return []
        first = self._jobs[0]
        share = -(-len(self._jobs) // self._idle)
        batch = [job for job in self._jobs if job.work == first.work][: min(share, self.limits.batch)]
        self._jobs = deque(job for job in self._jobs if job not in batch)
        return batch

    async def _answer(self, worker: Worker, jobs: list[_Job]) -> None:
        begin = time.perf_counter()
        try:
            found = await worker.run(jobs[0].work, [job.item for job in jobs])
        except WorkerLostError as error:
            _give(jobs, [error] * len(jobs))
            raise
        seconds = time.perf_counter() - begin
        self._seconds_each += 0.2 * (seconds / len(jobs) - self._seconds_each)
        self._on_batch(len(jobs), seconds)
        _give(jobs, found)


def _give(jobs: list[_Job], found: Sequence[Any]) -> None:
    for job, answer in zip(jobs, found, strict=True):
        if job.answer.done():
            continue
        if isinstance(answer, Exception):
            job.answer.set_exception(answer)
        else:
            job.answer.set_result(answer)


def answered(run: Callable[[Sequence[Any]], Sequence[Any]], items: Sequence[Any]) -> list[Any]:
    """An answer or an exception for each item: what one of them breaks, the others do not suffer from.

    >>> answered(lambda items: [6 // item for item in items], [1, 0, 2])
    [6, ZeroDivisionError('integer division or modulo by zero'), 3]
    """
    try:
        return list(run(items))
    except Exception as error:
        if len(items) == 1:
            return [error]
        return [answer for item in items for answer in answered(run, [item])]
