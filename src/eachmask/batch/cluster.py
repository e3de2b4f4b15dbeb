"""A run on many machines: Ray's workers predict shards of the images, and one results folder gets everything.

A shard is a small run of its own (:mod:`eachmask.batch.run`) in a folder beside the journal, so that a worker that
takes over from a lost one resumes at the image where that one was. When a shard is through, its files are moved into
the results folder and its records into the journal: an image counts once, whoever predicted it, and the files about all
images equal, byte for byte, those of one process. All machines must see the images and the results folder under the
same paths.

A worker gets its next shard when it has finished the last one, and nothing but names travels, so memory is bounded. It
has one thread: what several would add, several workers add without waiting for one another.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eachmask.batch.options import BatchOptions
from eachmask.data.images.inputs import Inputs, Source
from eachmask.files.journal import Journal
from eachmask.inference.devices import one_thread
from eachmask.inference.predictor import Predictor
from eachmask.structures import UserError

LOCAL = "local"
MAX_STARTS = 4
"""So often a shard is begun, by worker after worker; after that its images count as failed."""
PAUSE = 1.0
"""Seconds until a worker that does not answer is asked again."""
MAX_SECONDS = 5.0
"""To wait for an address to answer."""
SHARDS = "shards"
"""Folder beside the journal's records."""


@dataclass(frozen=True)
class Cluster:
    """Where a run is done."""

    address: str = LOCAL
    """``local``: this machine alone; else what ``ray.init`` takes: auto, HOST:PORT, ray://HOST:PORT."""
    workers: int | None = None
    """None: as many as there are CPU cores, or GPUs where the predictor is on one."""
    shard_size: int = 100
    """Images of a shard, about."""


@dataclass(frozen=True)
class Shard:
    """What one worker does in one go."""

    sources: list[Source]
    out: Path

    @property
    def begun(self) -> Path:
        """A file with a byte for each time that a worker began it."""
        return self.out.with_suffix(".begun")

    def begin(self) -> None:
        """Count another start."""
        self.begun.parent.mkdir(parents=True, exist_ok=True)
        with self.begun.open("ab") as file:
            file.write(b".")

    def starts(self) -> int:
        """How often it was begun."""
        return self.begun.stat().st_size if self.begun.exists() else 0


@dataclass(frozen=True)
class Done:
    """What became of a shard."""

    shard: Shard
    failures: dict[str, str]
    """Name of an image -> why it has no result."""


def connected(cluster: Cluster) -> Any:
    """The module ray, connected.

    Raises:
        UserError: it is not installed, or nothing answers at the address.
    """
    try:
        import ray
    except ImportError:
        raise UserError("--on needs the package ray: pip install 'eachmask[ray]'") from None
    _check_answers(cluster.address)
    where: dict[str, Any] = {"num_cpus": cluster.workers} if cluster.address == LOCAL else {"address": cluster.address}
    quiet: dict[str, Any] = {"log_to_driver": False, "include_dashboard": False, "logging_level": logging.ERROR}
    try:
        ray.init(**where, **quiet, ignore_reinit_error=True)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise UserError(f"there is no Ray cluster at {cluster.address}: {error}") from error
    return ray


def _check_answers(address: str) -> None:
    """Ray itself asks an address for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not (host and port.isdigit()):
        return  # local, auto, or what only Ray understands
    try:
        socket.create_connection((host, int(port)), MAX_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise UserError(f"there is no Ray cluster at {address}: {error}") from None


def shards_of(chunks: Iterator[list[Source]], journal: Journal, size: int) -> Iterator[Shard]:
    """Whole batches, so that each image has the company that it has in one process; what is done is left out."""
    sources: list[Source] = []
    for chunk in chunks:
        sources += chunk
        if len(sources) >= size:
            yield from _unless_done(sources, journal)
            sources = []
    yield from _unless_done(sources, journal)


def _unless_done(sources: list[Source], journal: Journal) -> Iterator[Shard]:
    if not all(journal.is_done(source) for source in sources):
        names = "\0".join(source.name for source in sources)
        yield Shard(sources, shards_folder(journal) / hashlib.sha256(names.encode()).hexdigest()[:16])


def shards_folder(journal: Journal) -> Path:
    """Where workers write; it is gone when all is done."""
    return journal.folder.absolute() / SHARDS


def predict_shards(
    predictor: Predictor[Any], shards: Sequence[Shard], options: BatchOptions, cluster: Cluster
) -> Iterator[Done]:
    """Each shard as it is finished, in any order.

    Raises:
        UserError: ray is not installed or does not answer; the disk is full.
    """
    if not shards:
        return
    ray = connected(cluster)
    gpu = predictor.device.type == "cuda"
    workers = cluster.workers or int(ray.cluster_resources().get("GPU" if gpu else "CPU", 1))
    # Ray's own retries are gone within seconds, long before it knows that a machine is: no shard would outlive it.
    remote = ray.remote(num_cpus=1, num_gpus=int(gpu), max_restarts=-1, max_task_retries=0)(Worker)
    shared = ray.put(predictor)
    idle = [remote.remote(shared, options) for _ in range(min(workers, len(shards)))]
    todo, running = list(reversed(shards)), dict[Any, tuple[Any, Shard]]()
    while todo or running:
        while todo and idle:
            worker, shard = idle.pop(), todo.pop()
            shard.begun.unlink(missing_ok=True)
            running[worker.work.remote(shard)] = worker, shard
        ((reference,), _) = ray.wait(list(running))
        worker, shard = running.pop(reference)
        failures = _failures(ray, reference, shard)
        if failures is None:  # the same worker, which Ray starts anew on another machine when it knows more
            time.sleep(PAUSE)
            running[worker.work.remote(shard)] = worker, shard
            continue
        if todo:
            idle.append(worker)
        else:
            ray.kill(worker)  # makes room for the successor of a worker whose machine is gone
        yield Done(shard, failures)


def _failures(ray: Any, reference: Any, shard: Shard) -> dict[str, str] | None:
    """None: its worker was lost, or does not answer."""
    try:
        result: dict[str, str] = ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, UserError):
            raise error.cause from None
        raise
    except ray.exceptions.RayError as error:
        if isinstance(error, getattr(ray.exceptions, "ActorDiedError", ())):
            shard.begin()  # a worker that cannot even be started, and will never be
        if shard.starts() < MAX_STARTS:
            return None
        lost = f"was not predicted: {MAX_STARTS} workers were lost with it or with an image of its shard"
        return {source.name: f"{source.name} {lost}" for source in shard.sources}
    return result


class Worker:
    """A process of Ray's with a predictor of its own."""

    def __init__(self, predictor: Predictor[Any], options: BatchOptions) -> None:
        self.predictor, self.options = predictor, options

    def work(self, shard: Shard) -> dict[str, str]:
        """Name of each image without a result, and why."""
        from eachmask.batch.run import run

        shard.begin()
        with one_thread():  # on their number sums in bf16 depend
            summary = run(self.predictor, Inputs(shard.sources), shard.out, self.options)
        return {failure.file: failure.reason for failure in summary.failures}


def gather(journal: Journal, shard: Shard) -> None:
    """Move what a shard gave into the results folder; done twice, or after a kill in between, it comes to the same."""
    with Journal(shard.out, journal.settings, journal.made) as part:
        for source in shard.sources:
            if part.is_done(source) and not journal.is_done(source):
                journal.forget(source)
                journal.take_over(part, source)
    shutil.rmtree(shard.out, ignore_errors=True)
    shard.begun.unlink(missing_ok=True)
