"""What is written of panoptic maps: COCO's panoptic PNG and JSON, Cityscapes' instance ids, label maps."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eachmask.data.formats.panoptic_png import encode_ids, encode_instance_ids, segments_info
from eachmask.files.journal import compact_json
from eachmask.files.png import png
from eachmask.structures import PanopticMap
from eachmask.structures.coco import category_to_dict
from eachmask.tasks.records import Records, class_counts, coco_images, mean_score
from eachmask.tasks.task import About, Outputs, Record, Recorded, Written, legend


def record(name: str, seen: PanopticMap, image: NDArray[Any]) -> Record:
    """Segments by class, and COCO's ``segments_info``."""
    header = {
        "height": image.shape[0],
        "width": image.shape[1],
        "objects": len(seen),
        "mean_score": mean_score([segment.score for segment in seen.segments if segment.score is not None]),
        "classes": class_counts([seen.name_of(segment.label) for segment in seen.segments]),
    }
    return Record(header, {"segments_info": segments_info(seen)})


def _panoptic(name: str, seen: PanopticMap, image: NDArray[Any]) -> Written:
    return Written({".png": encode_ids(seen.ids.cpu().numpy())})


def _labels(name: str, seen: PanopticMap, image: NDArray[Any]) -> Written:
    """The class of each pixel, 8 bits (16 where there are more classes)."""
    labels = seen.to_semantic(max(255, len(seen.categories))).labels.cpu().numpy()
    return Written({".png": png(labels if labels.dtype == np.uint8 else labels.astype(np.uint16))})


def _instance_ids(name: str, seen: PanopticMap, image: NDArray[Any]) -> Written:
    return Written({".png": encode_instance_ids(seen)})


def panoptic_json(records: Records, about: About) -> Iterator[str]:
    """COCO's panoptic results: images, categories, one annotation per image; its PNGs are those of ``--save panoptic``.

    Image ids are the places in the list of inputs from 1.
    """
    yield from coco_images(records, about)
    categories = [category_to_dict(c) | {"isthing": int(c.is_thing)} for c in about.categories]
    yield f'],\n"categories":{compact_json(categories)},\n"annotations":['
    for i, image in enumerate(records()):
        segments = image.record.body["segments_info"]
        row = {"image_id": image.number, "file_name": _map_of(image), "segments_info": segments}
        yield f"{',' if i else ''}\n{compact_json(row)}"
    yield "]}\n"


def _map_of(image: Recorded) -> str:
    """What ``--save panoptic`` calls an image's map."""
    files: list[str] = image.record.header.get("files", [])
    saved = next((name for name in files if name.startswith("panoptic/")), None)
    if saved is None:
        return PurePosixPath(image.name).with_suffix(".png").as_posix()
    return saved.removeprefix("panoptic/")


OUTPUTS: Outputs[PanopticMap] = Outputs(
    record=record,
    named=legend,
    writers={"panoptic": _panoptic, "labels": _labels, "instance_ids": _instance_ids},
    collections={"panoptic.json": panoptic_json},
    noun="segment",
)
