"""What cityscapesScripts' ``createPanopticImgs`` makes of Cityscapes: COCO's panoptic layout under other names.

``gtFine/cityscapes_panoptic_SPLIT.json`` (``..._trainId.json`` with trainIds for category ids) lists the segments, and
``gtFine/cityscapes_panoptic_SPLIT/ID_gtFine_panoptic.png`` has the ids; an image's id is its name without
``_leftImg8bit.png``, which lies in ``leftImg8bit/SPLIT/CITY``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eachmask.data.formats.coco_panoptic import Part
from eachmask.data.formats.panoptic_png import encode_ids, segments_info
from eachmask.data.images.files import files_below, safe_name
from eachmask.files.atomic import atomic
from eachmask.structures import Category, PanopticMap, UserError
from eachmask.structures.coco import category_to_dict

START, TRAIN_IDS, IMAGE = "cityscapes_panoptic_", "_trainId", "_leftImg8bit"


def files(source: Path) -> list[Path]:
    """The JSON files of a folder or of its gtFine, or the one given; those with trainIds if there are no others."""
    if source.is_file():
        return [source] if source.name.startswith(START) and source.suffix == ".json" else []
    found = sorted([*source.glob(f"{START}*.json"), *source.glob(f"gtFine/{START}*.json")])
    plain = [file for file in found if not file.stem.endswith(TRAIN_IDS)]
    return plain or found


def parts_of(file: Path) -> Part:
    """One file, with where its maps and images lie."""
    split = file.stem.removeprefix(START).removesuffix(TRAIN_IDS)
    folder = (file.parent.parent if file.parent.name == "gtFine" else file.parent) / "leftImg8bit" / split
    images = {path.stem.removesuffix(IMAGE): path for path in files_below(folder, f"*{IMAGE}.*")}

    def find(record: Mapping[str, Any]) -> tuple[str, Path]:
        number = safe_name(str(record["id"]), file)
        path = images.get(number, folder / number.split("_")[0] / f"{number}{IMAGE}.png")
        return (path.parent.relative_to(folder) / f"{number}{path.suffix}").as_posix(), path

    return Part(file, split, [file.with_suffix("")], find)


class Writer:
    """One split's JSON file and its PNGs.

    Args:
        folder: gtFine.
    """

    def __init__(self, folder: Path, split: str, categories: tuple[Category, ...]) -> None:
        self.file, self.categories = folder / f"{START}{split}.json", categories
        self.images: dict[str, dict[str, Any]] = {}
        self.annotations: list[dict[str, Any]] = []

    def add(self, number: str, seen: PanopticMap) -> None:
        """One image's map.

        Args:
            number: the image's id, its name without folder and ending.

        Raises:
            UserError: there was one of this name already.
        """
        if number in self.images:
            raise UserError(f"two images are called {number}, by which Cityscapes tells them apart: rename one of them")
        (height, width), name = seen.image_size, f"{number}_gtFine_panoptic.png"
        file = f"{number}_gtFine{IMAGE}.png"
        self.images[number] = {"id": number, "width": width, "height": height, "file_name": file}
        self.annotations.append({"image_id": number, "file_name": name, "segments_info": segments_info(seen)})
        place = self.file.with_suffix("") / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(encode_ids(seen.ids.cpu().numpy()))

    def close(self) -> None:
        """Write the list."""
        categories = [category_to_dict(c) | {"isthing": int(c.is_thing)} for c in self.categories]
        content = {"images": list(self.images.values()), "annotations": self.annotations, "categories": categories}
        with atomic(self.file) as file:
            json.dump(content, file)
