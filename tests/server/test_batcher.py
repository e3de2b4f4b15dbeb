"""Requests of many clients share passes of the network, and one of them cannot harm another."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from eachmask.server.batcher import Batcher, BusyError, LateError
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
