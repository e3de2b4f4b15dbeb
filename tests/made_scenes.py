"""Made data sets for the metrics: small scenes of ellipses, predictions near them, and pycocotools' answer."""

from __future__ import annotations

import contextlib
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from eachmask.data.formats.coco_read import read_coco
from eachmask.data.split import Split
from eachmask.structures import RLE, Category, Instances, Masks
from eachmask.structures.coco import to_annotations

SIZE = (90, 120)
CATEGORIES = (Category(3, "cell"), Category(7, "dead <b>cell</b>"), Category(9, "debris"))


def ellipse(cy: float, cx: float, ry: float, rx: float, size: tuple[int, int] = SIZE) -> np.ndarray:
    y, x = np.mgrid[: size[0], : size[1]] + 0.5
    return ((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 <= 1


def of_bitmaps(bitmaps: np.ndarray, **fields: Any) -> Instances:
    masks = RLE.from_bitmaps(bitmaps)
    return Instances(masks.size, torch.from_numpy(masks.boxes()), masks, categories=CATEGORIES, **fields)


def target(rng: np.random.Generator, num: int, crowd: bool = False) -> Instances:
    places = zip(rng.uniform(10, 80, num), rng.uniform(10, 110, num), *rng.uniform(3, 25, (2, num)), strict=True)
    flags = torch.zeros(num, dtype=torch.bool)
    flags[:1] = crowd
    bitmaps = np.stack([ellipse(*place) for place in places]) if num else np.zeros((0, *SIZE), bool)
    return of_bitmaps(bitmaps, labels=torch.from_numpy(rng.integers(0, 2, num)), crowd=flags)


def near(rng: np.random.Generator, true: Instances, far: int = 3) -> Instances:
    """Most objects, shifted a little, some twice, some of another class; scores have ties."""
    chosen = true[np.flatnonzero(rng.random(len(true)) < 0.9)]
    chosen = Instances.cat([chosen, chosen[:2]])
    if not len(chosen):
        return replace(Instances.empty(true.image_size), categories=true.categories)
    moved = [m.masks.shift(*rng.integers(-far, far + 1, 2).tolist(), true.image_size) for m in chosen]
    masks = Masks.cat(moved)
    kept = np.flatnonzero(masks.area() > 0)
    masks = masks[kept]
    labels = chosen.labels[kept].clone()
    wrong = torch.from_numpy(rng.random(len(kept)) < 0.15)
    labels[wrong] = (labels[wrong] + 1) % len(true.categories)
    scores = torch.from_numpy(rng.random(len(kept)).round(1).astype(np.float32))
    return Instances(
        masks.size, torch.from_numpy(masks.boxes()), masks, labels=labels, scores=scores, categories=true.categories
    )


def made(seed: int, num_images: int = 8) -> tuple[list[Instances], list[Instances]]:
    """Predictions and targets; some images are empty, some have a crowd."""
    rng = np.random.default_rng(seed)
    targets = [target(rng, int(rng.integers(0, 9)), crowd=i % 3 == 0) for i in range(num_images)]
    return [near(rng, t) for t in targets], targets


def write(folder: Path, predictions: list[Instances], targets: list[Instances]) -> tuple[Path, Path]:
    """Annotations and results as files."""
    images = [{"id": 10 + i, "file_name": f"{i}.png", "height": SIZE[0], "width": SIZE[1]} for i in range(len(targets))]
    gt = [{"image_id": 10 + i, **row} for i, t in enumerate(targets) for row in to_annotations(t)]
    for number, row in enumerate(gt, start=1):
        row["id"] = number
    found = [{"image_id": 10 + i, **row} for i, p in enumerate(predictions) for row in to_annotations(p)]
    categories = [{"id": c.id, "name": c.name} for c in CATEGORIES]
    paths = folder / "instances.json", folder / "results.json"
    paths[0].write_text(json.dumps({"images": images, "annotations": gt, "categories": categories}))
    paths[1].write_text(json.dumps(found))
    return paths


def read_one(annotations: Path, images: Path | None = None) -> Split:
    """One COCO file, read strictly."""
    (split,) = read_coco(annotations, images=images or annotations.parent, strict=True).splits.values()
    return split


def jittered(split: Split, seed: int = 0) -> list[Instances]:
    """Predictions made from a data set's own annotations."""
    rng = np.random.default_rng(seed)
    return [near(rng, replace(split.stated_targets(i), keypoints=None), 6) for i in range(len(split))]


def pycocotools(annotations: Path, rows: list[dict[str, Any]], kind: str) -> list[float]:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        gt = COCO(str(annotations))
        evaluation = COCOeval(gt, gt.loadRes(json.loads(json.dumps(rows))), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [float(v) for v in evaluation.stats]
