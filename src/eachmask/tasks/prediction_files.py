"""Predictions that are a file for each image, maps or mattes: of ``eachmask predict --save``, or of any tool."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeVar

from eachmask.data.classes import Classes
from eachmask.data.formats.format import Format
from eachmask.data.image_files import ImageFiles
from eachmask.data.on_demand import OnDemand
from eachmask.data.samples import Samples
from eachmask.files.progress import no_progress
from eachmask.structures import UserError
from eachmask.structures.spatial import Spatial
from eachmask.tasks.kept_storage import in_classes
from eachmask.tasks.task import Predictions

T = TypeVar("T", bound=Spatial)


def read_prediction_files(form: Format, source: Path, data: Samples[T], classes: Classes) -> Predictions[T]:
    """Predictions for images, each read when it is looked at.

    They are read as a data set of the same images would be. Classes are matched by name; those that no file names are
    the data's, by their numbers.

    Args:
        form: of the files.
        source: folder, or annotation file, in that format.
        data: what they are measured on.
        classes: those of the data.

    Raises:
        UserError: nothing in that format, or an image without a prediction.
    """
    if not isinstance(data, ImageFiles):
        raise UserError(f"{source}: predictions in files are of images in files: give --data as a folder or a file")
    if not source.exists():
        raise UserError(f"{source} does not exist: --predictions must be the folder or the file of the predictions")
    files = [data.path(i).resolve() for i in range(len(data))]
    found = form.read(source, no_progress, images=Path(os.path.commonpath([path.parent for path in files])))
    of_image = {split.path(i).resolve(): (split, i) for split in found.splits.values() for i in range(len(split))}
    missing = [data.file_name(i) for i, path in enumerate(files) if path not in of_image]
    if missing:
        more = "" if len(missing) == 1 else f" and {len(missing) - 1} more images"
        raise UserError(f"{source} has no prediction for {missing[0]}{more}: predict all images of the data")
    numbered = [category.name for category in found.categories] == [str(i) for i in range(len(found.categories))]
    predicted = found.categories
    if numbered and len(predicted) <= len(data.categories):
        predicted = data.categories

    def result(place: int) -> T:
        split, i = of_image[files[place]]
        target: T = split.targets(i)
        return target

    return in_classes(OnDemand(len(files), result), predicted, classes)
