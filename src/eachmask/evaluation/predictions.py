"""A model's predictions on a data set that is to be measured: killed at any moment, the same call resumes.

Every image is predicted once and recorded with all its detections, under the model's own classes; which of them the
data set has is asked afterwards. An image that cannot be read is left out and named: whether it was annotated rightly
cannot be known, and counting its objects as missed would blame the model for a file.
"""

from __future__ import annotations

import shutil
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from eachmask import __version__
from eachmask.data.image_files import ImageFiles
from eachmask.data.images.inputs import Source as File
from eachmask.data.images.read import unit_range
from eachmask.data.samples import Samples
from eachmask.data.split import Split
from eachmask.evaluation.source import Source
from eachmask.files.journal import Journal
from eachmask.files.progress import Progress, no_progress
from eachmask.inference.failures import why
from eachmask.inference.predictor import Predictor
from eachmask.structures import UserError
from eachmask.structures.spatial import Spatial

_AHEAD = 2
"""Images that are read while the model works."""


@dataclass(frozen=True)
class Predicted:
    """What came out."""

    bodies: list[Any]
    """Of each image that could be read, in order: what the task's storage dumps; the result where it has none."""
    unread: dict[int, str]
    """Place of an image -> why it has no result, one sentence."""
    resumed: int
    """Images that an earlier call had done."""


def predict_samples(
    predictor: Predictor[Any],
    source: Source,
    out: Path,
    progress: Progress = no_progress,
    given: Callable[[int], Spatial] | None = None,
) -> Predicted:
    """Predict all images of a source, with everything that the network ranks.

    Args:
        out: folder for what is done so far; it is gone when this returns. If it holds an interrupted call with the same
            model and settings, only what is missing is done; of others, nothing is used.
        given: place of an image -> what is handed over with it; None: what the samples say.

    Raises:
        UserError: not one image can be read; the first reason.
    """
    storage = source.storage(predictor.task)
    if storage is None:
        return _in_memory(predictor, source, progress, given)
    files = [_file(source, index) for index in range(len(source.samples))]
    unread: dict[int, str] = {}
    settings = _settings(predictor) | ({} if given is None else {"known_foreground": True})
    with Journal(out, settings, (), renew=True) as journal:
        resumed = sum(journal.is_done(file) for file in files)
        todo = [index for index, file in enumerate(files) if not journal.is_done(file)]
        for index, found in _results(predictor, source, todo, progress, given):
            if isinstance(found, str):
                unread[index] = found
            else:
                journal.append(files[index], {}, storage.dump(predictor.task.packed(found)))
        _refuse_nothing(unread, len(files))
        bodies = [journal.body(file) for index, file in enumerate(files) if index not in unread]
    shutil.rmtree(out, ignore_errors=True)
    return Predicted(bodies, unread, resumed)


def _in_memory(
    predictor: Predictor[Any], source: Source, progress: Progress, given: Callable[[int], Spatial] | None
) -> Predicted:
    todo = range(len(source.samples))
    found = dict(_results(predictor, source, todo, progress, given))
    unread = {index: why for index, why in found.items() if isinstance(why, str)}
    _refuse_nothing(unread, len(todo))
    return Predicted([predictor.task.packed(found[i]) for i in todo if i not in unread], unread, 0)


def _results(
    predictor: Predictor[Any],
    source: Source,
    todo: Sequence[int],
    progress: Progress,
    given: Callable[[int], Spatial] | None,
) -> Iterator[tuple[int, Any]]:
    """Place and result of each image, or, as a sentence, why there is none."""
    options = predictor.ranked_options()
    with ThreadPoolExecutor(1, "read") as reader:
        for index, sample in zip(progress("predicting", todo), _read_ahead(source, todo, reader), strict=True):
            try:
                image, beside = sample.result()
                known = beside if given is None else given(index)
                own = None if known is None else [known]
                yield index, predictor.predict_arrays([unit_range(image)], given=own, options=options)[0]
            except Exception as error:
                said = isinstance(error, UserError)
                yield index, str(error) if said else why(error, "predicted", source.title(index))


def _refuse_nothing(unread: Mapping[int, str], number: int) -> None:
    if number and len(unread) == number:
        raise UserError(f"not one image can be measured; the first: {next(iter(unread.values()))}")


def _file(source: Source, index: int) -> File:
    """The image under the name that the annotations give it; the size it was annotated at belongs to how it is read."""
    assert isinstance(source.samples, ImageFiles)
    path, (height, width) = source.samples.path(index), source.samples.image_size(index)
    status = path.stat() if path.is_file() else None
    return File(
        path=path.absolute(),
        name=source.title(index),
        output=f"{width}x{height}",
        size=status.st_size if status else 0,
        modified=status.st_mtime_ns if status else 0,
    )


def _read_ahead(
    source: Source, indices: Sequence[int], reader: ThreadPoolExecutor
) -> Iterator[Future[tuple[NDArray[Any], Spatial | None]]]:
    waiting: deque[Future[tuple[NDArray[Any], Spatial | None]]] = deque()
    for index in indices:
        waiting.append(reader.submit(_image, source.samples, index))
        if len(waiting) > _AHEAD:
            yield waiting.popleft()
    yield from waiting


def _image(samples: Samples[Any], index: int) -> tuple[NDArray[Any], Spatial | None]:
    """The image, and what is given beside it."""
    if isinstance(samples, Split):
        return samples.image(index), None
    sample = samples[index]
    return sample.image, sample.given


def _settings(predictor: Predictor[Any]) -> dict[str, Any]:
    """All that decides the results."""
    return {
        "eachmask": __version__,
        "model": predictor.fingerprint,
        "device": predictor.device.type,
        "precision": str(predictor.dtype),
        "decode": asdict(predictor.ranked_options()),
    }
