"""Jobs: the package's own commands in child processes, watched, stopped and resumed."""

from __future__ import annotations

import csv
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eachmask.structures import UserError
from eachmask.studio.schemas import JobOut

EVERY = 0.5
"""Seconds between looks at a child."""
_SAID = 300
MEASURES = ("ap", "score")
"""The first column of a run's table that is no loss."""


@dataclass
class Job:
    """One command.

    Args:
        arguments: of ``eachmask``; the same ones again resume it.
        progress: share that is done, 0..1, from what the command has written so far.
        finish: what to do with its results; returns what the page is told.
    """

    id: str
    kind: str
    folder: Path
    arguments: Sequence[str]
    progress: Callable[[], float]
    finish: Callable[[], dict[str, Any]]
    state: str = "running"
    message: str = ""
    share: float = 0.0
    result: dict[str, Any] | None = None
    began: float = field(default_factory=time.monotonic)
    process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> Path:
        """What the command said."""
        return self.folder / "log.txt"

    def out(self) -> JobOut:
        """As the page gets it."""
        spent = time.monotonic() - self.began
        eta = spent * (1 - self.share) / self.share if self.state == "running" and self.share > 0.01 else None
        return JobOut(
            id=self.id, kind=self.kind, state=self.state, progress=self.share, message=self.message, eta_s=eta,  # type: ignore[arg-type]
            curve=curve_of(self.folder / "run" / "log.csv"), result=self.result,
        )  # fmt: skip


class Jobs:
    """All jobs of a studio.

    Args:
        on_change: told of each change of a job.
    """

    def __init__(self, on_change: Callable[[Job], None] = lambda job: None) -> None:
        self.jobs: dict[str, Job] = {}
        self.on_change = on_change

    def start(self, job: Job) -> Job:
        """Begin, or resume."""
        if any(other.state == "running" and other is not job for other in self.jobs.values()):
            raise UserError("another job is running: wait for it, or stop it")
        self.jobs[job.id] = job
        job.state, job.message, job.began = "running", "", time.monotonic()
        job.folder.mkdir(parents=True, exist_ok=True)
        with open(job.log, "wb") as log:
            job.process = subprocess.Popen(
                [sys.executable, "-m", "eachmask", *job.arguments],
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=_environment(),
            )  # fmt: skip
        threading.Thread(target=self._watch, args=(job, job.process), daemon=True).start()
        return job

    def get(self, key: str) -> Job:
        """The job of that name.

        Raises:
            UserError: there is none.
        """
        if key not in self.jobs:
            raise UserError(f"there is no job {key}")
        return self.jobs[key]

    def stop(self, key: str) -> Job:
        """End a job; what is done is kept, and resuming it begins there."""
        job = self.get(key)
        if job.state == "running" and job.process is not None:
            job.state = "stopped"
            job.process.send_signal(signal.SIGINT)
        return job

    def resume(self, key: str) -> Job:
        """Begin again where a job was stopped.

        Raises:
            UserError: it runs, or is done.
        """
        job = self.get(key)
        if job.state not in ("stopped", "failed"):
            raise UserError(f"the job is {job.state}: there is nothing to resume")
        if job.process is not None:
            job.process.wait()
        return self.start(job)

    def close(self) -> None:
        """End all children."""
        for job in self.jobs.values():
            if job.process is not None and job.process.poll() is None:
                job.state = "stopped"
                job.process.terminate()
                job.process.wait()

    def _watch(self, job: Job, process: subprocess.Popen[bytes]) -> None:
        while process.poll() is None:
            share = min(1.0, job.progress())
            if share != job.share:
                job.share = share
                self.on_change(job)
            time.sleep(EVERY)
        try:
            self._ended(job, process.returncode)
        except Exception as error:  # results that cannot be read are a failed job, and not a silent one
            job.state, job.message = "failed", str(error)
        self.on_change(job)

    def _ended(self, job: Job, status: int) -> None:
        if job.state == "stopped":
            job.message = "stopped; what is done is kept"
        elif status in (0, 1):
            job.result = job.finish()
            job.state, job.share = "done", 1.0
        else:
            job.state, job.message = "failed", _last_line(job.log)


def curve_of(table: Path) -> list[tuple[float, float]]:
    """(step, loss) of a run so far; a run's table has a column for each loss, and then those of the measures."""
    try:
        with open(table, encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        losses = list(itertools.takewhile(lambda name: name not in MEASURES, list(rows[0])[1:])) if rows else []
        return [(float(row["step"]), sum(float(row[name]) for name in losses)) for row in rows]
    except (OSError, ValueError, KeyError, TypeError):
        return []


@dataclass
class Lines:
    """Counts the lines of a file that grows; what was read before is not read again."""

    path: Path
    known: int = 0
    offset: int = 0

    def count(self) -> int:
        """So far; 0 before there is a file."""
        try:
            with open(self.path, "rb") as file:
                if self.offset > file.seek(0, os.SEEK_END):  # begun anew
                    self.known = self.offset = 0
                file.seek(self.offset)
                while block := file.read(1 << 20):
                    self.known += block.count(b"\n")
                    self.offset += len(block)
        except OSError:
            return 0
        return self.known


def _environment() -> dict[str, str]:
    """Of a child: it imports the package that runs here."""
    import eachmask

    here = str(Path(eachmask.__file__).parents[1])
    paths = [here, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {name: value for name, value in os.environ.items() if name != "EACHMASK_KEY"} | {
        "PYTHONPATH": os.pathsep.join(paths)
    }


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1][-_SAID:] if lines else "the command ended without a word"


def content_of(path: Path) -> dict[str, Any]:
    """A JSON file that a command has written."""
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found
