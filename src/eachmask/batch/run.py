"""Many images into one folder: flat memory, and a run that can be killed at any moment and resumes, within a large
image from its last tile.

The next images are decoded in a background thread while the model works, and the results of the last ones are
written in another. An image is done when its own files are complete and its record is in the journal; the
files about all images are put together from the journal at the end (``eachmask.batch.results``).
"""

from __future__ import annotations

import errno
import shutil
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

from numpy.typing import NDArray

from eachmask import draw
from eachmask.batch.cluster import Cluster, gather, predict_shards, shards_folder, shards_of
from eachmask.batch.folder import leave_out, remember_inputs
from eachmask.batch.options import BatchOptions, checked, settings_of
from eachmask.batch.results import OVERLAYS, THUMBNAIL, Failure, Finished, Summary, names_made
from eachmask.batch.tiles import TileFiles
from eachmask.data.images.inputs import Inputs, Source
from eachmask.data.images.pixel_size import pixel_size
from eachmask.data.images.read import num_channels, read_image, unit_range
from eachmask.files.journal import Journal
from eachmask.files.jpeg import jpeg, jpeg_text, reduced
from eachmask.inference.devices import one_thread
from eachmask.inference.engine import TileListener, unheard
from eachmask.inference.failures import why
from eachmask.inference.predictor import Predictor
from eachmask.structures import UserError
from eachmask.tasks.task import About, Known, Outputs, Task

T = TypeVar("T", bound=Any)

_FATAL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
MAX_BATCHED_BYTES, MAX_BACKLOG = 50_000_000, 400_000_000
"""Bytes of a file that gets a batch of its own; decoded bytes that may wait to be written."""
MIN_CANDIDATES = 300
"""Objects of all classes that are found, at least, where the best of some classes are wanted."""
_THUMBNAIL_SIDE = 256


@dataclass(frozen=True)
class Outcome:
    """How one image ended."""

    source: Source
    problem: str = ""
    """Why it failed, one sentence; empty if it is done."""
    resumed: bool = False
    """It was done by an earlier run."""


Listener = Callable[[Outcome], None]


def _unheard(outcome: Outcome) -> None:
    """The listener where nobody listens."""


def run(
    predictor: Predictor[T],
    inputs: Inputs,
    out: str | Path,
    options: BatchOptions | None = None,
    *,
    overwrite: bool = False,
    listener: Listener = _unheard,
    on_tile: TileListener = unheard,
    cluster: Cluster | None = None,
) -> Summary:
    """Predict all images and write the results folder.

    Args:
        inputs: from :func:`eachmask.data.images.inputs.find_inputs`.
        out: results folder. If it holds an interrupted run with the same model and options, only what is missing
            is done; the files are then equal, byte for byte, to those of a run that was never interrupted.
        overwrite: remove the results of an earlier run first.
        listener: called with the outcome of each image, for a progress bar.
        on_tile: called with the number of tiles that are done of a large image, and of all its tiles.
        cluster: predict on many machines instead of in this process, see :mod:`eachmask.batch.cluster`.

    Returns:
        Counts and reasons, also written to ``summary.json``.

    Raises:
        UserError: options that make no sense, a folder of other results, or a full disk. An image that cannot
            be read or predicted is no error: it is counted and named in the summary.
    """
    outputs = predictor.task.outputs
    options = checked(options or BatchOptions(), predictor, outputs)
    out = Path(out)
    with (
        nullcontext() if cluster is None else one_thread(),
        Journal(out, settings_of(predictor, options), names_made(outputs), overwrite) as journal,
    ):
        remember_inputs(journal, inputs)
        worker = _Worker(predictor, outputs, journal, options, listener, on_tile)
        if cluster is None:
            worker.work(inputs.sources)
        else:
            worker.delegate(inputs.sources, cluster)
        if not worker.failures:
            journal.forget_tiles()
        leave_out(journal, inputs.sources)
        about = About(predictor.info.name, predictor.info.variant, predictor.info.license, tuple(predictor.categories))
        return Finished(journal, inputs, worker.failures, about, outputs).write()


@dataclass
class _Worker(Generic[T]):
    predictor: Predictor[T]
    outputs: Outputs[T]
    journal: Journal
    options: BatchOptions
    listener: Listener
    on_tile: TileListener = unheard
    failures: dict[str, Failure] = field(default_factory=dict)

    @property
    def task(self) -> Task[T]:
        return self.predictor.task

    def work(self, sources: Sequence[Source]) -> None:
        """Everything that is not done yet, in order: read ahead, predict, write behind."""
        pending: deque[tuple[Future[None], int]] = deque()
        with ThreadPoolExecutor(1, "read") as readers, ThreadPoolExecutor(1, "write") as writers:
            try:
                for chunk, images in self._read_ahead(sources, readers):
                    for source, image, result in self._predict(chunk, images):
                        pending.append((writers.submit(self._finish, source, image, result), image.nbytes))
                    while pending and (len(pending) > 2 * len(chunk) or sum(n for _, n in pending) > MAX_BACKLOG):
                        pending.popleft()[0].result()
                while pending:
                    pending.popleft()[0].result()
            finally:  # after an error or Ctrl-C nothing more is begun; what is being written gets finished
                readers.shutdown(wait=False, cancel_futures=True)
                writers.shutdown(wait=True, cancel_futures=True)

    def delegate(self, sources: Sequence[Source], cluster: Cluster) -> None:
        """Everything that is not done yet, by a cluster's workers."""
        for source in sources:
            if self.journal.is_done(source):
                self.listener(Outcome(source, resumed=True))
        if self.journal.overwrite:
            shutil.rmtree(shards_folder(self.journal), ignore_errors=True)
        shards = list(shards_of(self._chunks(sources), self.journal, cluster.shard_size))
        for finished in predict_shards(self.predictor, shards, self.options, cluster):
            todo = [source for source in finished.shard.sources if not self.journal.is_done(source)]
            gather(self.journal, finished.shard)
            for source in todo:
                if self.journal.is_done(source):
                    self.listener(Outcome(source))
                else:
                    self._fail(source, finished.failures.get(source.name, f"{source.name} was not predicted"))
        shutil.rmtree(shards_folder(self.journal), ignore_errors=True)

    def _read_ahead(
        self, sources: Sequence[Source], readers: ThreadPoolExecutor
    ) -> Iterator[tuple[list[Source], dict[str, NDArray[Any]]]]:
        """Batches with something left to do and their decoded images, one batch ahead."""
        waiting: deque[tuple[list[Source], Future[dict[str, NDArray[Any]]]]] = deque()
        for chunk in self._chunks(sources):
            todo = [source for source in chunk if not self.journal.is_done(source)]
            for source in chunk:
                if source not in todo:
                    self.listener(Outcome(source, resumed=True))
            if todo:
                # The whole batch is predicted again, so that each image has the company it would have had.
                waiting.append((chunk, readers.submit(self._read, chunk)))
            if len(waiting) > 1:
                first, images = waiting.popleft()
                yield first, images.result()
        for chunk, images in waiting:
            yield chunk, images.result()

    def _chunks(self, sources: Sequence[Source]) -> Iterator[list[Source]]:
        """Batches that depend on the list of images alone, not on what is done already."""
        chunk: list[Source] = []
        for source in sources:
            if chunk and (len(chunk) == self.options.batch or source.size > MAX_BATCHED_BYTES):
                yield chunk
                chunk = []
            chunk.append(source)
            if source.size > MAX_BATCHED_BYTES:
                yield chunk
                chunk = []
        if chunk:
            yield chunk

    def _read(self, chunk: Sequence[Source]) -> dict[str, NDArray[Any]]:
        images = {}
        for source in chunk:
            try:
                if source.problem:
                    raise UserError(f"{source.name} {source.problem}")
                with source.at_hand() as path:
                    images[source.name] = self._pixels(path, source, self.options.channels)
            except UserError as error:
                self._fail(source, str(error))
        return images

    def _pixels(self, path: Path, source: Source, channels: tuple[int, ...]) -> NDArray[Any]:
        return read_image(path, page=source.page, max_pixels=self.options.max_pixels, channels=channels)

    def _predict(
        self, chunk: Sequence[Source], images: dict[str, NDArray[Any]]
    ) -> Iterator[tuple[Source, NDArray[Any], T]]:
        """Results of the images that could be read and are not done."""
        present = [source for source in chunk if source.name in images]
        for source, result in zip(present, self._results(present, images), strict=True):
            if result is not None and not self.journal.is_done(source):
                yield source, images[source.name], result

    def _results(self, present: Sequence[Source], images: dict[str, NDArray[Any]]) -> list[T | None]:
        """One pass for the batch; one by one if that fails, so that only the culprit is lost.

        Packed here, in the thread that computes: with torch at work in a second one, its threads outnumber the CPUs,
        and GNU OpenMP lets them all sleep between any two layers.
        """
        decode = self.options.decode
        if self.options.classes and decode.max_detections is not None:  # the best of these, not these among the best
            own = getattr(self.predictor.model, "max_objects", None) or MIN_CANDIDATES
            decode = replace(decode, max_detections=max(decode.max_detections, min(own, MIN_CANDIDATES)))
        wishes: dict[str, Any] = {
            "options": decode, "tile": self.options.tile, "overlap": self.options.overlap,
            "stride": self.options.stride, "on_tile": self.on_tile,
        }  # fmt: skip
        if self.options.classes:
            wishes["classes"] = self.options.classes
        if (kept := self.task.kept) is not None:
            wishes["stores"] = [TileFiles(self.journal, self.journal.tiles(source), kept) for source in present]
        try:
            arrays = [unit_range(images[source.name]) for source in present]
            results = self.predictor.predict_arrays(arrays, **wishes)
            if self.options.classes:
                most = self.options.decode.max_detections
                results = [self.task.choose(result, self.options.classes, most) for result in results]
            return [self.task.packed(result) for result in results]
        except Exception as error:
            if len(present) == 1:
                self._fail(present[0], why(error, "predicted", present[0].name))
                return [None]
        return [result for source in present for result in self._results([source], images)]

    def _finish(self, source: Source, image: NDArray[Any], result: T) -> None:
        """Write what belongs to one image, then its record."""
        try:
            self.journal.forget(source)
            known = Known(self.options.pixel_size or pixel_size(source.path), tuple(self._channels(source, result)))
            files, thumbnail, hidden = self._write_files(source, image, result, known)
            record = self.outputs.record(source.name, result, image)
            header = {**record.header, "files": files, "hidden": hidden, "pixel_size": known.pixel_size}
            header |= {"channels": len(known.channels)}
            self.journal.append(source, header, {**record.body, "channels": known.channels, THUMBNAIL: thumbnail})
        except Exception as error:
            if isinstance(error, OSError) and error.errno in _FATAL:
                raise UserError(
                    f"{self.journal.out} cannot be written to ({error.strerror}): make room and run the same command "
                    "again, which resumes where it stopped"
                ) from error
            self._fail(source, why(error, "written", source.name))
            return
        self.listener(Outcome(source))

    def _channels(self, source: Source, result: T) -> Iterator[Sequence[float]]:
        """The objects' means in each channel of a file of which some were chosen, one channel in memory at a time."""
        if self.options.channels and self.outputs.intensities is not None:
            with source.at_hand() as path:
                for channel in range(1, num_channels(path) + 1):
                    yield self.outputs.intensities(result, self._pixels(path, source, (channel,))[..., :1])

    def _write_files(self, source: Source, image: NDArray[Any], result: T, known: Known) -> tuple[list[str], str, int]:
        """The image's own files; their names in the results folder, the thumbnail, objects that the files lack."""
        side = self.options.overlay_side if self.options.overlays else 2 * _THUMBNAIL_SIDE
        canvas, drawn = draw.shrink(image, result, side)
        overlay = self.task.render(canvas, drawn, draw.DrawOptions(names=False))
        thumbnail = jpeg_text(reduced(overlay, _THUMBNAIL_SIDE), 78)
        files, hidden = {}, 0
        if self.options.overlays:
            files[f"{OVERLAYS}/{source.output}.jpg"] = jpeg(self.outputs.named(overlay, drawn), 90)
        for kind in self.options.save:
            written = self.outputs.writers[kind](source.name, result, image)
            completed = self.outputs.completed.get(kind)
            for name, data in written.files.items():
                files[f"{kind}/{source.output}{name}"] = completed(data, result, known) if completed else data
            hidden += written.hidden
        for name, data in files.items():
            self.journal.write(self.journal.out / name, data)
        return list(files), thumbnail, hidden

    def _fail(self, source: Source, reason: str) -> None:
        reason = reason.replace(str(source.path), source.name)
        if source.name not in self.failures:
            self.failures[source.name] = Failure(source.name, reason)
            self.listener(Outcome(source, problem=reason))
