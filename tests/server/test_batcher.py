"""Requests of many clients share passes of the network, and one of them cannot harm another."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from eachmask.server.batcher import Batcher, BusyError, LateError, ThreadWorker, WorkerLostError
from eachmask.server.settings import Limits


@dataclass(frozen=True)
class Double:
    """Numbers -> twice as much; 13 is not accepted."""

    name: str = ""
    batches: list[list[int]] = field(default_factory=list, compare=False)
    gate: threading.Event = field(default_factory=threading.Event, compare=False)

    def run(self, items: Sequence[int]) -> Sequence[int]:
        self.gate.wait(10)
        self.batches.append(list(items))
        if 13 in items:
            raise ValueError("13 brings bad luck")
        return [2 * item for item in items]


async def _asked(batcher: Batcher, *questions: tuple[Double, int]) -> list[object]:
    """All at once; the network begins when all of them wait."""
    batcher.start()
    asked = [asyncio.ensure_future(batcher.ask(work, item)) for work, item in questions]
    await asyncio.sleep(0)
    for work, _ in questions:
        work.gate.set()
    found = await asyncio.gather(*asked, return_exceptions=True)
    await batcher.stop()
    return list(found)


def test_equal_requests_go_together_and_answers_find_their_way() -> None:
    one, other = Double("one"), Double("other")
    found = asyncio.run(_asked(Batcher(Limits(batch=3)), (one, 1), (other, 2), (one, 3), (one, 4), (one, 5)))
    assert found == [2, 4, 6, 8, 10]
    assert one.batches == [[1, 3, 4], [5]]
    assert other.batches == [[2]]


def test_one_that_breaks_leaves_the_others_their_answers() -> None:
    work = Double()
    found = asyncio.run(_asked(Batcher(Limits()), (work, 1), (work, 13), (work, 2)))
    assert found[0] == 2 and found[2] == 4
    assert isinstance(found[1], ValueError)


def test_those_who_find_no_place_are_told_when_to_return() -> None:
    work = Double()
    found = asyncio.run(_asked(Batcher(Limits(queue=2)), (work, 1), (work, 2), (work, 3)))
    assert found[:2] == [2, 4]
    assert isinstance(found[2], BusyError) and found[2].retry_after >= 1


def test_what_comes_too_late_is_not_computed() -> None:
    first, second = Double("first"), Double("second")

    async def ask() -> list[object]:
        batcher = Batcher(Limits(seconds=0.2))
        batcher.start()
        found = await asyncio.gather(batcher.ask(first, 1), batcher.ask(second, 2), return_exceptions=True)
        first.gate.set()
        second.gate.set()
        await batcher.stop()
        return list(found)

    assert all(isinstance(answer, LateError) for answer in asyncio.run(ask()))
    assert second.batches == []


@pytest.mark.parametrize("number", [1, 5])
def test_batches_are_reported(number: int) -> None:
    work, seen = Double(), []
    batcher = Batcher(Limits(), lambda size, seconds: seen.append(size))
    asyncio.run(_asked(batcher, *[(work, item) for item in range(number)]))
    assert sum(seen) == number


class Mortal(ThreadWorker):
    """Dies over the first batch, or without one, and comes up again where that is wished."""

    def __init__(self, returns: bool = True) -> None:
        super().__init__()
        self.returns, self.starts, self.is_alive = returns, 0, True

    async def start(self) -> None:
        self.starts += 1
        if self.starts > 1 and not self.returns:
            await asyncio.Event().wait()
        self.is_alive = True

    def alive(self) -> bool:
        return self.is_alive

    async def run(self, work: Double, items: Sequence[int]) -> Sequence[int]:
        if self.starts == 1:
            await asyncio.sleep(0.05)
            self.is_alive = False
            raise WorkerLostError
        return await super().run(work, items)


@pytest.mark.parametrize("workers", [[Mortal()], [Mortal(returns=False), ThreadWorker()]])
def test_a_worker_that_dies_takes_its_own_batch_along_alone(workers: list[ThreadWorker]) -> None:
    work = Double()
    batcher = Batcher(Limits(batch=1), workers=workers)
    found = asyncio.run(_asked(batcher, *[(work, item) for item in range(6)]))
    assert [isinstance(answer, WorkerLostError) for answer in found].count(True) == 1
    assert sorted(answer for answer in found if isinstance(answer, int)) == [2, 4, 6, 8, 10]


def test_a_worker_that_died_without_work_gets_none() -> None:
    worker, work = Mortal(), Double()
    worker.is_alive, worker.starts = False, 1

    async def start() -> None:
        worker.starts += 1
        worker.is_alive = worker.starts > 2

    worker.start = start
    assert asyncio.run(_asked(Batcher(Limits(), workers=[worker]), (work, 1))) == [2]
    assert worker.starts == 3


def test_none_is_taken_in_who_would_wait_too_long() -> None:
    """With a queue as long as the time allows, each answer would come just too late."""
    work = Double()
    batcher = Batcher(Limits(seconds=10, batch=4))
    batcher._seconds_each = 1.0
    found = asyncio.run(_asked(batcher, *[(work, item) for item in range(8)]))
    assert found[:6] == [0, 2, 4, 6, 8, 10]
    assert [answer.retry_after for answer in found[6:] if isinstance(answer, BusyError)] == [6, 6]


def test_a_worker_rests_once_when_nothing_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eachmask.server.batcher.LOOK_SECONDS", 0.01)
    monkeypatch.setattr("eachmask.server.batcher.REST_SECONDS", 0.05)
    worker, work, rested = ThreadWorker(), Double(), list[int]()
    work.gate.set()

    async def rest() -> None:
        rested.append(len(work.batches))

    async def live() -> None:
        batcher = Batcher(Limits(), workers=[worker])
        batcher.start()
        for number in range(2):
            await asyncio.sleep(0.05)  # unemployed: it has nothing to give back
            await batcher.ask(work, number)
            await asyncio.sleep(0.5)
        await batcher.stop()

    worker.rest = rest
    asyncio.run(live())
    assert rested == [1, 2]


def test_nobody_who_answers_is_said_at_once() -> None:
    async def ask() -> object:
        batcher = Batcher(Limits(), workers=[Mortal(returns=False)])
        return (await asyncio.gather(batcher.ask(Double(), 1), return_exceptions=True))[0]

    found = asyncio.run(ask())
    assert isinstance(found, BusyError) and "being loaded" in str(found)
