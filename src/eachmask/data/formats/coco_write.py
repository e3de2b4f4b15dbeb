"""COCO files written: data sets, and predictions (then annotations carry ``score``)."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from eachmask.data.dataset import Dataset
from eachmask.data.images.files import copy_image
from eachmask.data.on_demand import OnDemand
from eachmask.data.split import Split
from eachmask.files.atomic import atomic
from eachmask.files.progress import Progress, no_progress
from eachmask.structures import Instances
from eachmask.structures.coco import category_to_dict, to_annotations


def write_coco(
    path: str | Path,
    samples: Sequence[tuple[str, Instances]],
    *,
    info: Mapping[str, Any] | None = None,
    image_fields: Sequence[Mapping[str, Any]] = (),
    category_fields: Mapping[int, Mapping[str, Any]] | None = None,
) -> None:
    """Write a data set, or predictions (then annotations carry ``score``).

    Args:
        path: the JSON file; written whole or not at all.
        samples: (file name, instances) per image; image ids are 1, 2, ... All must share their categories.
        info: the ``info`` block.
        image_fields: further fields of each image's entry, such as LVIS's (:func:`read_image_fields`).
        category_fields: by category id, further fields of its entry (:func:`read_category_fields`).

    Raises:
        ValueError: ``image_fields`` are given, but not for each image.
    """
    if len(image_fields) not in (0, len(samples)):
        raise ValueError(f"fields of {len(image_fields)} images for {len(samples)} samples")
    more = category_fields or {}
    categories = next((instances.categories for _, instances in samples if instances.categories), ())
    head = {"info": dict(info or {}), "categories": [{**more.get(c.id, {}), **category_to_dict(c)} for c in categories]}
    with atomic(Path(path)) as file:  # entry by entry: they are never all in memory as text
        file.write(json.dumps(head)[:-1] + ', "images": [')
        for number, (name, instances) in enumerate(samples, start=1):
            height, width = instances.image_size
            own = image_fields[number - 1] if image_fields else {}
            entry = {**own, "id": number, "file_name": name, "width": width, "height": height}
            file.write((", " if number > 1 else "") + json.dumps(entry))
        file.write('], "annotations": [')
        ids = count(1)
        for number, (_, instances) in enumerate(samples, start=1):
            for row in to_annotations(instances):
                key = next(ids)
                file.write((", " if key > 1 else "") + json.dumps({"id": key, "image_id": number, **row}))
        file.write("]}")


def write_coco_folder(target: Path, data: Dataset, progress: Progress = no_progress) -> list[str]:
    """Write instances_SPLIT.json and images/SPLIT; the format holds everything.

    The files are in ``annotations/`` too, where COCO has them and Datumaro looks: the same files, not copies, where the
    disk can have one under two names.
    """
    target.mkdir(parents=True, exist_ok=True)
    for name, image in progress("writing", list(data.images())):
        copy_image(image, target / "images" / name / image.name)
    for name, split in data.splits.items():
        if len(split):
            samples = OnDemand(len(split), partial(_sample, split))
            path, more = target / f"instances_{name}.json", OnDemand(len(split), split.fields)
            write_coco(path, samples, image_fields=more, category_fields=data.category_fields)
            _under_another_name(path, target / "annotations" / path.name)
    return []


def _sample(split: Split, index: int) -> tuple[str, Instances]:
    return split.names[index], split.scored_targets(index)


def _under_another_name(path: Path, other: Path) -> None:
    other.parent.mkdir(exist_ok=True)
    try:
        os.link(path, other)
    except OSError:  # a disk of Windows' older kind
        shutil.copyfile(path, other)
