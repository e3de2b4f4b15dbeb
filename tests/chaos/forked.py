"""Work in a process of its own, with limits of time and memory, that can be killed at any moment."""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import pickle
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import cv2
import pytest
import torch

from eachmask.cli import main

os.environ.setdefault("NUMBA_THREADING_LAYER", "forksafe")  # with GNU's OpenMP, Numba ends processes that fork

COUNTS: Counter[str] = Counter()
"""What has been done and how it ended, over all tests."""
CRASHED = 70
"""Exit status after an exception that nobody caught."""
EVERY = "CHAOS_EVERY"
"""Environment variable: every how many of the many seeds are run, where not all are."""
PATIENCE = 10
"""How many times its limit of processor time work may take by the clock: others may be using the processor."""


def seeds(few: int, many: int) -> pytest.MarkDecorator:
    """A test of ``seeds``: a few that are always run, and many for `make chaos`."""
    rest = pytest.param(range(few, many, int(os.environ.get(EVERY, "1"))), marks=pytest.mark.chaos)
    return pytest.mark.parametrize("seeds", [range(few), rest], ids=["few", "many"])


@dataclass(frozen=True)
class Outcome:
    status: int | None
    """Exit status; None where the process was killed."""
    output: str
    """Both streams."""
    seconds: float
    in_time: bool = True

    @property
    def is_sound(self) -> bool:
        """Whether it ended by itself, with a status that the command line knows and without a traceback."""
        return self.in_time and self.status in (0, 1, 2) and "Traceback" not in self.output


@dataclass(frozen=True)
class Command:
    """A command line, as work."""

    words: tuple[object, ...]
    run: Callable[[list[str]], int] = main

    def __call__(self) -> int:
        return self.run([str(word) for word in self.words])


def forked(
    work: Callable[[], int],
    *,
    kill_after: float | None = None,
    seconds: float = 240,
    megabytes: int = 2000,
    clean: bool = False,
) -> Outcome:
    """Run ``work`` in a copy of this process.

    Args:
        clean: in a copy of a process that has only imported modules instead. What measures needs it: its library has
            threads that a copy lacks and would wait for, once a test has measured here. ``work`` can be pickled then.
        kill_after: seconds until SIGKILL.
        seconds: the limit of processor time.
        megabytes: what it may take beyond what this process has.
    """
    if clean:
        limits = {"kill_after": kill_after, "seconds": seconds, "megabytes": megabytes}
        server = _server()
        assert server.stdin and server.stdout
        server.stdin.write(pickle.dumps((work, limits)))
        server.stdin.flush()
        return pickle.load(server.stdout)
    with tempfile.NamedTemporaryFile("r", errors="replace") as stream:
        begin = time.monotonic()
        child = os.fork()
        if not child:
            _be_the_child(work, stream.name, megabytes, round(seconds))
        status = _waited(child, PATIENCE * seconds if kill_after is None else kill_after)
        took = time.monotonic() - begin
        return Outcome(status, stream.read(), took, status is not None or kill_after is not None)


@cache
def _server() -> subprocess.Popen[bytes]:
    """A process that has only imported modules, and forks on demand; it ends with this one."""
    paths = os.pathsep.join([path for path in sys.path if path])
    command = [sys.executable, "-c", "from chaos.forked import serve; serve()"]
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": paths}
    )


def serve() -> None:
    """Answer one pickled request after the other."""
    importlib.import_module("eachmask.evaluation.measure")
    importlib.import_module("eachmask.cli.evaluate")
    with contextlib.suppress(EOFError):
        while True:
            work, limits = pickle.load(sys.stdin.buffer)
            answer = pickle.dumps(forked(work, **limits))
            sys.stdout.buffer.write(answer)
            sys.stdout.buffer.flush()


def _waited(child: int, seconds: float) -> int | None:
    """Its exit status; None where it had to be killed."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def _be_the_child(work: Callable[[], int], output: str, megabytes: int, seconds: int) -> None:
    gc.freeze()  # collecting a video that the parent read would wait for threads that are not here
    status = CRASHED
    try:
        target = os.open(output, os.O_WRONLY | os.O_APPEND)
        os.dup2(target, 1)
        os.dup2(target, 2)
        sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)
        cv2.setNumThreads(0)
        torch.set_num_threads(1)
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + megabytes * 2**20
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
        status = work()
    except SystemExit as leaving:
        status = leaving.code if isinstance(leaving.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
