"""Joins packs of annotated images into the data set that the bundled ``clicks`` model learns from.

    python benchmarks/clicks_data.py PACKS OUT

PACKS holds dsb2018, coco-mini, coco-person-single (COCO files instances_train.json and instances_val.json) and
davis-mini, davis-clips (video_instances.json; every eighth frame is taken, schoolgirls aside, whose source is unknown).
OUT gets instances_train.json, instances_val.json (40 images, to choose the weights by) and links to the images.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from eachmask.structures import RLE

EVERY = 8
VAL = {"dsb2018": 12, "coco-mini": 22, "coco-person-single": 6}
"""Val images of each pack, evenly spaced."""


def from_coco(file: Path) -> list[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Images with their annotations."""
    data = json.loads(file.read_text())
    own: dict[int, list[dict[str, Any]]] = {image["id"]: [] for image in data["images"]}
    for annotation in data["annotations"]:
        own[annotation["image_id"]].append(annotation)
    return [(image, own[image["id"]]) for image in data["images"]]


def from_clips(file: Path) -> list[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Some frames of training clips, as images."""
    data = json.loads(file.read_text())
    result = []
    for video in data["videos"]:
        if video.get("split", "train") != "train" or "schoolgirls" in video["file_names"][0]:
            continue
        for i in range(0, len(video["file_names"]), EVERY):
            masks = [a["segmentations"][i] for a in data["annotations"] if a["video_id"] == video["id"]]
            image = {"file_name": video["file_names"][i], "height": video["height"], "width": video["width"]}
            result.append((image, [{"segmentation": mask, "bbox": box_of(mask)} for mask in masks if mask]))
    return result


def box_of(mask: dict[str, Any]) -> list[float]:
    """x, y, width, height of a COCO RLE."""
    x1, y1, x2, y2 = RLE.from_coco([mask]).boxes()[0].tolist()
    return [x1, y1, x2 - x1, y2 - y1]


def main(packs: Path, out: Path) -> None:
    """Write the joined set."""
    parts: dict[str, list[Any]] = {"train": [], "val": []}
    for name in ("dsb2018", "coco-mini", "coco-person-single"):
        parts["train"] += [(name, *one) for one in from_coco(packs / name / "instances_train.json")]
        val = from_coco(packs / name / "instances_val.json")
        parts["val"] += [(name, *val[i * len(val) // VAL[name]]) for i in range(VAL[name])]
    for name in ("davis-mini", "davis-clips"):
        parts["train"] += [(name, *one) for one in from_clips(packs / name / "video_instances.json")]
    out.mkdir(parents=True, exist_ok=True)
    for split, images in parts.items():
        write(packs, out, split, images)


def write(packs: Path, out: Path, split: str, images: list[Any]) -> None:
    """One COCO file with a single category, and links."""
    records, annotations = [], []
    for number, (pack, image, shapes) in enumerate(images, start=1):
        source = next(p for p in candidates(packs / pack, image["file_name"], split) if p.is_file())
        link = out / split / f"{pack}-{number:05d}{source.suffix}"
        link.parent.mkdir(exist_ok=True)
        if not link.exists():
            link.symlink_to(source.resolve())
        size = {"height": image["height"], "width": image["width"]}
        records.append({"id": number, "file_name": f"{split}/{link.name}"} | size)
        for shape in shapes:
            own = {"id": len(annotations) + 1, "image_id": number, "category_id": 1}
            said = {"segmentation": shape["segmentation"], "bbox": shape["bbox"], "iscrowd": shape.get("iscrowd", 0)}
            annotations.append(own | said)
    categories = [{"id": 1, "name": "object"}]
    content = {"images": records, "annotations": annotations, "categories": categories}
    (out / f"instances_{split}.json").write_text(json.dumps(content))
    print(f"{split}: {len(records)} images, {len(annotations)} objects")


def candidates(pack: Path, name: str, split: str) -> list[Path]:
    """Where an image of a pack may lie."""
    return [pack / name, pack / "images" / name, pack / "images" / split / name, pack / split / name]


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
