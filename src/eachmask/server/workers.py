"""Workers: where models compute, a thread of the server's process or processes beside it.

A process has models of its own and gets one batch at a time through a pipe. When it dies (``kill -9``, no memory left)
the batch that it computed is lost, and nothing else: connections and the queue are the server's.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import signal
import traceback
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

from eachmask.server.batcher import ThreadWorker, WorkerLostError
from eachmask.server.guard import Refusal
from eachmask.server.settings import ServerSettings
from eachmask.server.works import Rest
from eachmask.structures import UserError

if TYPE_CHECKING:
    from eachmask.server.models import Models

END_SECONDS = 5.0
"""For a process that is told to end; then it is killed."""
_LOST = "the process that computed this ended before it answered; another takes its place"


class ModelThread(ThreadWorker):
    """Models in a thread of this process."""

    def __init__(self, settings: ServerSettings) -> None:
        super().__init__()
        self.settings = settings
        self._models: Models | None = None

    def load(self) -> None:
        """Load the models, unless they are.

        Raises:
            UserError: one of them cannot be loaded.
        """
        self._thread.submit(self._load).result()

    def _load(self) -> None:
        """In the thread that computes, see :mod:`eachmask.accel.spinning`."""
        if self._models is None:
            from eachmask.server.models import Models

            self._models = Models(self.settings)

    async def start(self) -> None:
        """The same, while the server answers."""
        await asyncio.to_thread(self.load)

    def compute(self, work: Any, items: Sequence[Any]) -> Sequence[Any]:
        """An answer or an exception for each item."""
        assert self._models is not None
        return self._models.run(work, items)

    def described(self) -> list[dict[str, Any]]:
        """What is served, see :meth:`Models.described`; nothing before it is loaded."""
        return self._models.described() if self._models is not None else []

    async def renew(self, name: str) -> None:
        """Read a model's file anew, while the one before answers.

        Raises:
            UserError: it cannot be loaded; the one before stays.
        """
        assert self._models is not None
        alone = ThreadPoolExecutor(1)  # what torch starts there ends with it
        try:
            await asyncio.get_running_loop().run_in_executor(alone, self._models.load, name)
        finally:
            alone.shutdown(wait=False)


class ModelProcess:
    """Models in a process of their own, which is started anew when it dies.

    Args:
        share: so many processes share the cores.
    """

    def __init__(self, settings: ServerSettings, share: int = 1) -> None:
        self.settings, self._share = settings, share
        self._process: _Process | None = None
        self._turn = asyncio.Lock()

    def load(self) -> None:
        """Start the process, unless it is there.

        Raises:
            UserError: a model cannot be loaded there.
            WorkerLostError: it died.
        """
        if not self.alive():
            self.end()
            self._process = _Process(self.settings, self._share)

    async def start(self) -> None:
        """The same, while others work."""
        async with self._turn:
            await asyncio.to_thread(self.load)

    def alive(self) -> bool:
        """Whether the process is there."""
        process = self._process  # another thread may change it
        return process is not None and process.alive()

    async def run(self, work: Any, items: Sequence[Any]) -> Sequence[Any]:
        """An answer or an exception for each item.

        Raises:
            WorkerLostError: the process died meanwhile; :meth:`start` makes another.
        """
        async with self._turn:
            assert self._process is not None
            return await asyncio.to_thread(self._process.ask, work, items)

    async def rest(self) -> None:
        """Let the system have memory that is free again.

        Raises:
            WorkerLostError: the process died meanwhile.
        """
        await self.run(Rest(), ())

    def described(self) -> list[dict[str, Any]]:
        """What is served, see :meth:`Models.described`; nothing while it is being loaded."""
        process = self._process
        return process.described if process is not None and process.alive() else []

    async def renew(self, name: str) -> None:
        """Start a process that reads all files anew, and let the one before answer until then.

        Raises:
            UserError: a model cannot be loaded; the process before stays.
            WorkerLostError: the new one died; likewise.
        """
        fresh = await asyncio.to_thread(_Process, self.settings, self._share)
        async with self._turn:
            before, self._process = self._process, fresh
        if before is not None:
            await asyncio.to_thread(before.end)

    async def stop(self) -> None:
        """End, once what runs is through."""
        async with self._turn:
            await asyncio.to_thread(self.end)

    def end(self) -> None:
        """End now."""
        process, self._process = self._process, None
        if process is not None:
            process.end()


class _Process:
    """One process and the pipe to it."""

    def __init__(self, settings: ServerSettings, share: int) -> None:
        context = multiprocessing.get_context("spawn")  # a fork would share threads' locks
        self._line, theirs = context.Pipe()
        self._process = context.Process(target=_answer, args=(theirs, settings.to_json(), share), daemon=True)
        self._process.start()
        theirs.close()  # so that its end is seen here
        self.described: list[dict[str, Any]] = self._received()
        """What it serves."""

    def ask(self, work: Any, items: Sequence[Any]) -> Sequence[Any]:
        """An answer or an exception for each item.

        Raises:
            WorkerLostError: it died.
        """
        with contextlib.suppress(OSError):  # which is seen below
            self._line.send((work, list(items)))
        answers: Sequence[Any] = self._received()
        return answers

    def alive(self) -> bool:
        """Whether it is there."""
        return self._process.is_alive()

    def _received(self) -> Any:
        try:
            found = self._line.recv()
        except (EOFError, OSError):
            self._process.kill()  # should it have closed the pipe alone
            self._process.join()
            raise WorkerLostError(_LOST) from None
        if isinstance(found, Exception):
            raise found
        return found

    def end(self) -> None:
        """Close the pipe, which it understands, and see it end."""
        self._line.close()
        self._process.join(END_SECONDS)
        self._process.kill()
        self._process.join()


def _answer(line: Connection, settings: str, share: int) -> None:
    """The process: models, then batches, until nobody listens any more."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # it is the server that is asked to end, and it ends this
    import torch

    from eachmask.server.models import Models

    torch.set_num_threads(max(1, torch.get_num_threads() // share))
    try:
        models = Models(ServerSettings.from_json(settings))
    except UserError as error:
        line.send(error)
        return
    try:
        line.send(models.described())
        while True:
            work, items = line.recv()
            line.send([_sendable(one) for one in models.run(work, items)])
    except (EOFError, OSError):
        return


def _sendable(found: Any) -> Any:
    """An unexpected error is printed where it happened: what travels of it is a sentence."""
    if not isinstance(found, Exception) or isinstance(found, UserError | Refusal):
        return found
    traceback.print_exception(found)
    return RuntimeError(f"{type(found).__name__}: {found}")


def workers_of(settings: ServerSettings, number: int) -> list[ModelThread | ModelProcess]:
    """One thread, or several processes."""
    return [ModelThread(settings)] if number == 1 else [ModelProcess(settings, number) for _ in range(number)]
