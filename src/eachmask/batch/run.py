"""Many images into one folder: flat memory, and a run that can be killed at any moment and goes on.

The next images are decoded in a background thread while the model works, and the results of the last ones are
written in another. An image is done when its own files are complete and its record is in the journal; the
files about all images are put together from the journal at the end (``eachmask.batch.results``).
"""

from __future__ import annotations

import base64
import errno
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from eachmask import __version__, draw
from eachmask.batch.results import FINAL_FILES, Failure, Summary, write_results
from eachmask.data.formats import table
from eachmask.data.formats.coco import to_annotations
from eachmask.data.formats.crops import crops
from eachmask.data.formats.geojson import to_geojson, to_polygon_list
from eachmask.data.formats.label_maps import encode_label_map, label_map_suffix
from eachmask.data.images.inputs import Inputs, Source
from eachmask.data.images.read import MAX_PIXELS, read_image, unit_range
from eachmask.files.journal import Journal, compact_json, remove
from eachmask.inference.failures import why
from eachmask.inference.predictor import Predictor
from eachmask.structures import DecodeOptions, Instances, UserError

Extra = Literal["labels", "crops", "polygons", "csv", "geojson"]

_FATAL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
_BIG_FILE, _BIG_BACKLOG = 50_000_000, 400_000_000
"""Bytes of a file that gets a batch of its own; decoded bytes that may wait to be written."""
_CHOSEN_FROM = 300
"""Objects of all classes that are found, at least, where the best of some classes are wanted."""
_THUMBNAIL_SIDE = 256


@dataclass(frozen=True)
class BatchOptions:
    """What a run does with every image."""

    decode: DecodeOptions = DecodeOptions()
    classes: tuple[str, ...] = ()
    """Keep only objects of these classes; all if empty."""
    tile: int | None = None
    overlap: float = 0.2
    batch: int | None = None
    """Images per pass of the network; None: 1 on a CPU, 4 on a GPU."""
    save: tuple[Extra, ...] = ()
    overlays: bool = True
    overlay_side: int = 4096
    """Overlays of larger images are reduced to this side, px."""
    max_pixels: int = MAX_PIXELS


@dataclass(frozen=True)
class Outcome:
    """How one image ended."""

    source: Source
    problem: str = ""
    """Why it failed, one sentence; empty if it is done."""
    resumed: bool = False
    """It was done by an earlier run."""


Listener = Callable[[Outcome], None]


def run(
    predictor: Predictor,
    inputs: Inputs,
    out: str | Path,
    options: BatchOptions | None = None,
    *,
    overwrite: bool = False,
    listener: Listener | None = None,
) -> Summary:
    """Predict all images and write the results folder.

    Args:
        inputs: from :func:`eachmask.data.images.inputs.find_inputs`.
        out: results folder. If it holds an interrupted run with the same model and options, only what is missing
            is done; the files are then equal, byte for byte, to those of a run that was never interrupted.
        overwrite: remove the results of an earlier run first.
        listener: called with the outcome of each image, for a progress bar.

    Returns:
        Counts and reasons, also written to ``summary.json``.

    Raises:
        UserError: options that make no sense, a folder of other results, or a full disk. An image that cannot
            be read or predicted is no error: it is counted and named in the summary.
    """
    options = _checked(options or BatchOptions(), predictor)
    out = Path(out)
    made = (*FINAL_FILES, "overlays", *get_args(Extra))
    with Journal(out, _settings(predictor, options), made, overwrite) as journal:
        worker = _Worker(predictor, journal, options, listener or (lambda outcome: None))
        worker.work(inputs.sources)
        return write_results(journal, inputs, worker.failures, replace(predictor.info, categories=predictor.categories))


@dataclass
class _Worker:
    predictor: Predictor
    journal: Journal
    options: BatchOptions
    listener: Listener
    failures: dict[str, Failure] = field(default_factory=dict)

    def work(self, sources: Sequence[Source]) -> None:
        """Everything that is not done yet, in order: read ahead, predict, write behind."""
        pending: deque[tuple[Future[None], int]] = deque()
        with ThreadPoolExecutor(1, "read") as readers, ThreadPoolExecutor(1, "write") as writers:
            try:
                for chunk, images in self._read_ahead(sources, readers):
                    for source, image, instances in self._predict(chunk, images):
                        pending.append((writers.submit(self._finish, source, image, instances), image.nbytes))
                    while pending and (len(pending) > 2 * len(chunk) or sum(n for _, n in pending) > _BIG_BACKLOG):
                        pending.popleft()[0].result()
                while pending:
                    pending.popleft()[0].result()
            finally:  # after an error or Ctrl-C nothing more is begun; what is being written gets finished
                readers.shutdown(wait=False, cancel_futures=True)
                writers.shutdown(wait=True, cancel_futures=True)

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
            if chunk and (len(chunk) == self.options.batch or source.size > _BIG_FILE):
                yield chunk
                chunk = []
            chunk.append(source)
            if source.size > _BIG_FILE:
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
                images[source.name] = read_image(source.path, page=source.page, max_pixels=self.options.max_pixels)
            except UserError as error:
                self._fail(source, str(error))
        return images

    def _predict(
        self, chunk: Sequence[Source], images: dict[str, NDArray[Any]]
    ) -> Iterator[tuple[Source, NDArray[Any], Instances]]:
        """Instances of the images that could be read and are not done."""
        present = [source for source in chunk if source.name in images]
        for source, instances in zip(present, self._instances(present, images), strict=True):
            if instances is not None and not self.journal.is_done(source):
                if self.options.classes:
                    instances = instances.filter(classes=self.options.classes)[: self.options.decode.max_detections]
                yield source, images[source.name], instances

    def _instances(self, present: Sequence[Source], images: dict[str, NDArray[Any]]) -> list[Instances | None]:
        """One pass for the batch; one by one if that fails, so that only the culprit is lost."""
        decode = self.options.decode
        if self.options.classes and decode.max_detections is not None:  # the best of these, not these among the best
            decode = replace(decode, max_detections=max(decode.max_detections, _CHOSEN_FROM))
        wishes: dict[str, Any] = {"options": decode, "tile": self.options.tile, "overlap": self.options.overlap}
        try:
            arrays = [unit_range(images[source.name]) for source in present]
            return list(self.predictor.predict_arrays(arrays, **wishes))
        except Exception as error:
            if len(present) == 1:
                self._fail(present[0], why(error, "predicted", present[0].name))
                return [None]
        return [result for source in present for result in self._instances([source], images)]

    def _finish(self, source: Source, image: NDArray[Any], instances: Instances) -> None:
        """Write what belongs to one image, then its record."""
        try:
            if instances.masks is not None:
                instances = replace(instances, masks=instances.masks.to_rle())
            old = self.journal.superseded(source)
            for name in old["files"] if old else ():
                remove(self.journal.out / name)
            files, thumbnail, hidden = self._write_files(source, image, instances)
            header, body = _record(source, instances, image)
            self.journal.append(source, {**header, "files": files, "hidden": hidden}, {**body, "thumbnail": thumbnail})
        except Exception as error:
            if isinstance(error, OSError) and error.errno in _FATAL:
                raise UserError(
                    f"{self.journal.out} cannot be written to ({error.strerror}): make room and run the same command "
                    "again, it goes on where it stopped"
                ) from error
            self._fail(source, why(error, "written", source.name))
            return
        self.listener(Outcome(source))

    def _write_files(self, source: Source, image: NDArray[Any], instances: Instances) -> tuple[list[str], str, int]:
        """The image's own files; their names in the results folder, the thumbnail, objects that a label map lacks."""
        side = self.options.overlay_side if self.options.overlays else 2 * _THUMBNAIL_SIDE
        image_drawn, drawn = draw.shrink(image, instances, side)
        overlay = draw.overlay(image_drawn, drawn, draw.DrawOptions(names=False))
        thumbnail = _jpeg(_reduced(overlay, _THUMBNAIL_SIDE), 78)
        files, hidden = [], 0
        if self.options.overlays:
            if len(drawn) <= draw.DrawOptions.crowded:
                overlay = draw.write_names(overlay, drawn)
            files.append(f"overlays/{source.output}.jpg")
            self.journal.write(self.journal.out / files[-1], _jpeg(overlay, 90))
        for kind in self.options.save:
            if kind == "labels":
                name, hidden = self._write_label_map(source, instances)
            else:
                name = self._write_extra(kind, source, image, instances)
            files.append(name)
        return files, base64.b64encode(thumbnail).decode("ascii"), hidden

    def _write_label_map(self, source: Source, instances: Instances) -> tuple[str, int]:
        if instances.masks is None:
            raise UserError("label maps need masks, and this model finds boxes only")
        name = f"labels/{source.output}{label_map_suffix(len(instances))}"
        data, hidden = encode_label_map(instances.masks)
        self.journal.write(self.journal.out / name, data)
        return name, hidden

    def _write_extra(self, kind: Extra, source: Source, image: NDArray[Any], instances: Instances) -> str:
        """One kind of file for one image; the crops are a folder."""
        name = f"{kind}/{source.output}"
        if kind == "crops":
            remove(self.journal.out / name)
            for file, data in crops(instances, image):
                self.journal.write(self.journal.out / name / file, data)
            return name
        if kind == "polygons":
            name, data = f"{name}.json", compact_json(to_polygon_list(instances)).encode()
        elif kind == "geojson":
            name, data = f"{name}.geojson", compact_json(to_geojson(instances)).encode()
        else:
            name, data = f"{name}.csv", table.to_csv(table.rows(source.name, instances, image)).encode()
        self.journal.write(self.journal.out / name, data)
        return name

    def _fail(self, source: Source, reason: str) -> None:
        reason = reason.replace(str(source.path), source.name)
        if source.name not in self.failures:
            self.failures[source.name] = Failure(source.name, reason)
            self.listener(Outcome(source, problem=reason))


def _record(source: Source, instances: Instances, image: NDArray[Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(header, body) of an image in the journal."""
    names = instances.label_names
    scores = [] if instances.scores is None else instances.scores.tolist()
    header = {
        "height": image.shape[0],
        "width": image.shape[1],
        "objects": len(instances),
        "mean_score": round(float(np.mean(scores)), 4) if scores else None,
        "classes": {name: names.count(name) for name in sorted(set(names))},
    }
    body = {
        "annotations": to_annotations(instances),
        "table": table.to_csv(table.rows(source.name, instances, image), header=False),
    }
    return header, body


def _checked(options: BatchOptions, predictor: Predictor) -> BatchOptions:
    """Options with defaults filled in; nonsense is refused before the first image."""
    predictor.tile_size(options.tile, options.overlap)
    predictor.decode_options(options.decode)
    if options.batch is not None and options.batch < 1:
        raise UserError(f"a batch needs at least one image, not {options.batch}")
    classes_known = [category.name for category in predictor.categories]
    known = {name.casefold(): name for name in classes_known}
    for name in options.classes:
        if name.casefold() not in known:
            shown = ", ".join(sorted(classes_known)[:20]) + (" ..." if len(known) > 20 else "")
            raise UserError(f"the model knows no class {name!r}; its classes are {shown or 'not named'}")
    classes = tuple(sorted({known[name.casefold()] for name in options.classes}))
    batch = options.batch or (1 if predictor.device.type == "cpu" else 4)
    order = get_args(Extra)
    return replace(options, classes=classes, batch=batch, save=tuple(k for k in order if k in options.save))


def _settings(predictor: Predictor, options: BatchOptions) -> dict[str, Any]:
    """All that decides an image's results, under the names that the user knows."""
    decode = predictor.decode_options(options.decode)
    return {
        "eachmask": __version__,
        "model": f"{predictor.info.name or predictor.info.variant} {predictor.fingerprint[:12]}",
        "--device": predictor.device.type,
        "--precision": str(predictor.dtype).removeprefix("torch."),
        "--score": decode.score_threshold,
        "--classes": list(options.classes),
        "--max-detections": decode.max_detections,
        "nms threshold": decode.nms_threshold,
        "mask threshold": decode.mask_threshold,
        "pasting": decode.paste,
        "--tile": predictor.tile_size(options.tile, options.overlap),
        "--overlap": options.overlap,
        "--batch": options.batch,
        "--save": list(options.save),
        "--overlays": options.overlays,
        "--overlay-side": options.overlay_side,
    }


def _reduced(image: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    scale = side / max(image.shape[:2])
    if scale >= 1:
        return image
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


def _jpeg(image: NDArray[np.uint8], quality: int) -> bytes:
    ok, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not ok:
        raise UserError(f"an overlay of {image.shape[1]} x {image.shape[0]} pixels cannot be a JPEG")
    return bytes(data)
