"""A model's predictions on a data set that is to be measured: killed at any moment, the same call goes on.

Every image is predicted once and recorded with all its detections, under the model's own classes; which of them the
data set has is asked afterwards. An image that cannot be read is left out and named: whether it was annotated rightly
cannot be known, and counting its objects as missed would blame the model for a file.
"""

from __future__ import annotations

import json
import shutil
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from eachmask import __version__
from eachmask.data.formats.coco import CocoDataset
from eachmask.data.formats.coco_fields import read_json, whole_number
from eachmask.data.images.inputs import Source
from eachmask.data.images.read import unit_range
from eachmask.files.atomic import write_text
from eachmask.files.journal import Journal
from eachmask.files.progress import Progress, no_progress
from eachmask.inference.failures import why
from eachmask.inference.predictor import Predictor
from eachmask.structures import Instances, UserError
from eachmask.structures.coco import to_annotations

_AHEAD = 2
"""Images that are read while the model works."""


@dataclass(frozen=True)
class Predicted:
    """What came out."""

    rows: list[dict[str, Any]]
    """COCO results: image ids of the data set, category ids of the model."""
    unread: dict[Any, str]
    """Image id -> why it has no results, one sentence."""
    resumed: int
    """Images that an earlier call had done."""


def predict_dataset(
    predictor: Predictor[Instances], dataset: CocoDataset, out: Path, progress: Progress = no_progress
) -> Predicted:
    """Predict all images of ``dataset``, with every detection that the network ranks.

    Args:
        out: folder for what is done so far; it is gone when this returns. If it holds an interrupted call with the same
            model and settings, only what is missing is done; of others, nothing is used.

    Raises:
        UserError: not one image can be read; the first reason.
    """
    sources = [_source(dataset, index) for index in range(len(dataset))]
    rows: list[dict[str, Any]] = []
    unread: dict[Any, str] = {}
    with Journal(out, _settings(predictor), (), renew=True) as journal:
        resumed = sum(journal.is_done(source) for source in sources)
        todo = [index for index, source in enumerate(sources) if not journal.is_done(source)]
        options = predictor.ranked_options()
        with ThreadPoolExecutor(1, "read") as reader:
            for index, image in zip(progress("predicting", todo), _read_ahead(dataset, todo, reader), strict=True):
                try:
                    (found,) = predictor.predict_arrays([unit_range(image.result())], options=options)
                    rows_of_image = {"annotations": to_annotations(found)}
                except Exception as error:
                    reason = (
                        str(error) if isinstance(error, UserError) else why(error, "predicted", sources[index].name)
                    )
                    unread[dataset.records[index]["id"]] = reason
                else:
                    journal.append(sources[index], {}, rows_of_image)
        if todo and len(unread) == len(sources):
            raise UserError(f"not one image can be measured; the first: {next(iter(unread.values()))}")
        for record, source in zip(dataset.records, sources, strict=True):
            if record["id"] not in unread:
                rows += [{"image_id": record["id"], **row} for row in journal.body(source)["annotations"]]
    shutil.rmtree(out, ignore_errors=True)
    return Predicted(rows, unread, resumed)


def of_categories(rows: Sequence[Mapping[str, Any]], ids: Mapping[int, int]) -> tuple[list[dict[str, Any]], int]:
    """Results with other category ids, old -> new; and how many were left out because theirs has none."""
    kept = [{**row, "category_id": ids[row["category_id"]]} for row in rows if row["category_id"] in ids]
    return kept, len(rows) - len(kept)


def without_images(dataset: CocoDataset, ids: set[Any], path: Path) -> CocoDataset:
    """The data set without some images; its annotations are written to ``path``, whole or not at all."""

    def plain(value: Any) -> Any:
        number = whole_number(value)  # some tools write 3 here and "3" there
        return value if number is None else number

    unwanted = {plain(value) for value in ids}
    content = read_json(dataset.path, ("images", "annotations", "categories"))
    content["images"] = [record for record in content["images"] if plain(record["id"]) not in unwanted]
    content["annotations"] = [row for row in content["annotations"] if plain(row["image_id"]) not in unwanted]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(content))
    return CocoDataset(path, dataset.folder)


def _source(dataset: CocoDataset, index: int) -> Source:
    """The image under the name that the annotations give it; the size it was annotated at belongs to how it is read."""
    record, path = dataset.records[index], dataset.image_path(index)
    status = path.stat() if path.is_file() else None
    return Source(
        path=path.absolute(),
        name=f"{record['file_name']} (image {record['id']})",
        output=f"{record['width']}x{record['height']}",
        size=status.st_size if status else 0,
        modified=status.st_mtime_ns if status else 0,
    )


def _read_ahead(
    dataset: CocoDataset, indices: Sequence[int], reader: ThreadPoolExecutor
) -> Iterator[Future[NDArray[Any]]]:
    waiting: deque[Future[NDArray[Any]]] = deque()
    for index in indices:
        waiting.append(reader.submit(dataset.image, index))
        if len(waiting) > _AHEAD:
            yield waiting.popleft()
    yield from waiting


def _settings(predictor: Predictor[Instances]) -> dict[str, Any]:
    """All that decides the results."""
    return {
        "eachmask": __version__,
        "model": predictor.fingerprint,
        "device": predictor.device.type,
        "precision": str(predictor.dtype),
        "decode": asdict(predictor.ranked_options()),
    }
