"""Jobs: the package's own commands in child processes, watched, stopped, resumed, and remembered over restarts."""

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
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from pydantic import ValidationError

from eachmask.files.atomic import write_text
from eachmask.structures import UserError
from eachmask.studio.schemas import JobIn, JobKept, JobOut, JobState

EVERY = 0.5
"""Seconds between looks at a child."""
_SAID = 300
MEASURES = ("ap", "score")
"""The first column of a run's table that is no loss."""
ENDED = "the studio was ended meanwhile; what is done is kept"


@dataclass
class Job:
    """One command.

    Args:
        order: what the page asked for.
        folder: its own; its name is the job's.
        total: images or steps that there are to do.
        ordered: when, seconds since 1970.
    """

    order: JobIn
    folder: Path
    total: int
    ordered: float = field(default_factory=time.time)
    state: JobState = "running"
    message: str = ""
    share: float = 0.0
    """That is done, 0..1."""
    result: dict[str, Any] | None = None
    began: float = field(default_factory=time.monotonic)
    before: float = 0.0
    """The share that was done when it began, or went on."""
    process: subprocess.Popen[bytes] | None = None
    watcher: threading.Thread | None = None
    """Follows the process and writes down how it ended."""

    @property
    def id(self) -> str:
        """Its name."""
        return self.folder.name

    @property
    def run(self) -> Path:
        """What training leaves."""
        return self.folder / "run"

    @property
    def log(self) -> Path:
        """What the command said."""
        return self.folder / "log.txt"

    def samples(self) -> list[Path]:
        """Drawings of what the model in training finds by now."""
        return sorted(max((self.run / "samples").glob("step-*"), default=self.run / "none").glob("*.jpg"))

    def out(self) -> JobOut:
        """As the page gets it."""
        spent, done = time.monotonic() - self.began, self.share - self.before
        eta = spent * (1 - self.share) / done if self.state == "running" and done > 0.01 else None
        samples = [f"{path.parent.name}/{path.name}" for path in self.samples()]
        return JobOut(
            id=self.id, kind=self.order.kind, state=self.state, progress=self.share, message=self.message, eta_s=eta,
            curve=curve_of(self.run / "log.csv"), samples=samples, result=self.result,
        )  # fmt: skip

    def keep(self) -> None:
        """Write down how it is doing."""
        kept = JobKept(
            order=self.order, total=self.total, ordered=self.ordered, state=self.state, message=self.message,
            progress=self.share, result=self.result,
        )  # fmt: skip
        self.folder.mkdir(parents=True, exist_ok=True)
        write_text(self.folder / "job.json", kept.model_dump_json())


def kept_jobs(root: Path) -> list[Job]:
    """The jobs of earlier runs of the studio; those that were running are stopped, a damaged file is passed over."""
    jobs = []
    for path in root.glob("*/job.json"):
        try:
            kept = JobKept.model_validate_json(path.read_bytes())
        except (OSError, ValidationError):
            continue
        state, message = ("stopped", ENDED) if kept.state == "running" else (kept.state, kept.message)
        jobs.append(
            Job(kept.order, path.parent, kept.total, kept.ordered, state, message, kept.progress, kept.result)  # type: ignore[arg-type]
        )
    return sorted(jobs, key=lambda job: job.ordered)


class Plan(Protocol):
    """What the kinds of jobs are."""

    def job(self, order: JobIn) -> Job:
        """A new one, with all that its command reads."""

    def prepare(self, job: Job) -> None:
        """Write the images that its command reads and that are no files yet."""

    def arguments(self, job: Job) -> list[str]:
        """Of ``eachmask``; the same ones again resume it."""

    def progress(self, job: Job) -> Callable[[], float]:
        """Says the share that is done, 0..1, from what the command has written so far."""

    def finish(self, job: Job) -> dict[str, Any]:
        """What to do with the results; returns what the page is told."""


class Jobs:
    """All jobs of a studio.

    Args:
        plan: what they are.
        root: folder of their folders; those of earlier runs of the studio are taken up.
        on_change: told of each change of a job.
    """

    def __init__(self, plan: Plan, root: Path, on_change: Callable[[Job], None] = lambda job: None) -> None:
        self.plan, self.on_change = plan, on_change
        self.jobs = {job.id: job for job in kept_jobs(root)}

    def start(self, order: JobIn) -> Job:
        """Begin one.

        Raises:
            UserError: another one runs, or the order cannot be carried out.
        """
        self._refuse_another()
        job = self.plan.job(order)
        self.jobs[job.id] = job
        return self._begin(job)

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
        if job.state == "running":
            job.state = "stopped"
            if job.process is not None:
                job.process.send_signal(signal.SIGINT)
        return job

    def resume(self, key: str) -> Job:
        """Begin again where a job was stopped.

        Raises:
            UserError: it runs, or is done, or another one runs.
        """
        job = self.get(key)
        if job.state not in ("stopped", "failed"):
            raise UserError(f"the job is {job.state}: there is nothing to resume")
        self._refuse_another()
        if job.watcher is not None:
            job.watcher.join()
        return self._begin(job)

    def close(self) -> None:
        """End all children."""
        for job in self.jobs.values():
            if job.state == "running":
                job.state, job.message = "stopped", ENDED
            if job.process is not None and job.process.poll() is None:
                job.process.terminate()
            if job.watcher is not None:
                job.watcher.join()

    def _refuse_another(self) -> None:
        if any(job.state == "running" for job in self.jobs.values()):
            raise UserError("another job is running: wait for it, or stop it")

    def _begin(self, job: Job) -> Job:
        job.state, job.message, job.began, job.before = "running", "", time.monotonic(), job.share
        job.keep()
        job.process = None
        job.watcher = threading.Thread(target=self._run, args=(job,), daemon=True)
        job.watcher.start()
        return job

    def _run(self, job: Job) -> None:
        try:
            self.plan.prepare(job)
            status = self._watch(job) if job.state == "running" else 0
            self._ended(job, status)
        except Exception as error:  # images or results that cannot be read are a failed job, and not a silent one
            job.state, job.message = "failed", str(error)
        job.keep()
        self.on_change(job)

    def _watch(self, job: Job) -> int:
        """Run the command; returns how it ended."""
        progress = self.plan.progress(job)
        with open(job.log, "wb") as log:
            job.process = process = subprocess.Popen(
                [sys.executable, "-m", "eachmask.studio.child", *self.plan.arguments(job)],
                stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT, env=_environment(),
            )  # fmt: skip
        if job.state != "running":  # stopped in between
            process.send_signal(signal.SIGINT)
        while process.poll() is None:
            share = min(1.0, progress())
            if share != job.share:
                job.share = share
                self.on_change(job)
            time.sleep(EVERY)
        return process.returncode

    def _ended(self, job: Job, status: int) -> None:
        if job.state == "stopped":
            job.message = job.message or "stopped; what is done is kept"
        elif status in (0, 1):
            job.result = self.plan.finish(job)
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
