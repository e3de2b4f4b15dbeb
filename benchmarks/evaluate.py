"""COCO mask AP of made images, from JSON files to twelve numbers: eachmask against pycocotools.

    python benchmarks/evaluate.py --images 5000

Both read the same two files. The last line is JSON: ``speedup``, ``max_abs_difference`` and the seconds of each.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from eachmask.metrics.coco_ap import NAMES, coco_evaluation, numbers
from eachmask.structures import RLE
from eachmask.structures.runs import ColumnRuns

SIZE, CLASSES = (480, 640), 80


def ellipses(center: np.ndarray, radius: np.ndarray) -> RLE:
    """(N, 2) centers and radii, px, as x and y -> N masks."""
    strokes: list[tuple[int, np.ndarray, np.ndarray, np.ndarray]] = []
    for i, ((cx, cy), (rx, ry)) in enumerate(zip(center, radius, strict=True)):
        x = np.arange(int(cx - rx), int(cx + rx) + 1)
        half = ry * np.sqrt(np.maximum(1 - ((x + 0.5 - cx) / rx) ** 2, 0))
        strokes.append((i, x, np.round(cy - half).astype(int), np.round(cy + half).astype(int)))
    owner = np.concatenate([np.full(len(x), i) for i, x, _, _ in strokes])
    x, top, bottom = (np.concatenate([s[k] for s in strokes]) for k in (1, 2, 3))
    return RLE.from_column_runs(ColumnRuns(owner, x, top, bottom), len(center), SIZE)


def make(folder: Path, num_images: int) -> tuple[Path, Path]:
    """Annotations and results: objects with detections near them, some of a wrong class, and some on nothing."""
    rng = np.random.default_rng(0)
    gt: list[dict[str, Any]] = []
    found: list[dict[str, Any]] = []
    for image in range(1, num_images + 1):
        num = int(rng.integers(1, 11))
        center, radius = rng.uniform((20, 20), (620, 460), (num, 2)), rng.lognormal(3.2, 0.7, (num, 2)).clip(3, 200)
        labels = rng.integers(1, CLASSES + 1, num)
        masks = ellipses(center, radius)
        for i, (rle, area) in enumerate(zip(masks.to_coco(), masks.area(), strict=True)):
            x1, y1, x2, y2 = masks[i].boxes()[0].tolist()
            gt.append(
                {
                    "id": len(gt) + 1,
                    "image_id": image,
                    "category_id": int(labels[i]),
                    "segmentation": rle,
                    "area": float(area),
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "iscrowd": int(rng.random() < 0.01),
                }
            )
        kept = rng.random(num) < 0.85
        extra = int(rng.poisson(0.8))
        near = center[kept] + rng.normal(0, 0.12, (int(kept.sum()), 2)) * radius[kept]
        where = np.concatenate([near, rng.uniform((20, 20), (620, 460), (extra, 2))])
        size = np.concatenate([radius[kept] * rng.lognormal(0, 0.1, (int(kept.sum()), 2)), np.full((extra, 2), 25.0)])
        if not len(where):
            continue
        right = np.concatenate([labels[kept], rng.integers(1, CLASSES + 1, extra)])
        wrong = rng.random(len(right)) < 0.1
        right[wrong] = rng.integers(1, CLASSES + 1, int(wrong.sum()))
        scores = np.round(rng.random(len(right)), 3)
        for rle, label, score in zip(ellipses(where, size).to_coco(), right, scores, strict=True):
            found.append({"image_id": image, "category_id": int(label), "segmentation": rle, "score": float(score)})
    images = [{"id": i, "file_name": f"{i}.png", "height": SIZE[0], "width": SIZE[1]} for i in range(1, num_images + 1)]
    categories = [{"id": k, "name": f"class {k}"} for k in range(1, CLASSES + 1)]
    paths = folder / "annotations.json", folder / "results.json"
    paths[0].write_text(json.dumps({"images": images, "categories": categories, "annotations": gt}))
    paths[1].write_text(json.dumps(found))
    print(f"{num_images} images, {len(gt)} objects, {len(found)} detections")
    return paths


def theirs(annotations: Path, results: Path) -> list[float]:
    """pycocotools' numbers."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        gt = COCO(str(annotations))
        evaluation = COCOeval(gt, gt.loadRes(str(results)), "segm")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [float(v) for v in evaluation.stats]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--repeats", type=int, default=3, help="of ours; the median counts")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        annotations, results = make(Path(name), options.images)
        seconds = []
        for _ in range(options.repeats):
            start = time.perf_counter()
            ours = numbers(coco_evaluation(annotations, results, "segm"), "segm")
            seconds.append(time.perf_counter() - start)
        start = time.perf_counter()
        reference = theirs(annotations, results)
        reference_seconds = time.perf_counter() - start
    difference = max(abs(np.nan_to_num(ours[n], nan=-1.0) - r) for n, r in zip(NAMES, reference, strict=True))
    for n, r in zip(NAMES, reference, strict=True):
        print(f"{n:10} {ours[n]:.6f} {r:.6f}")
    ours_seconds = float(np.median(seconds))
    print(
        json.dumps(
            {
                "speedup": round(reference_seconds / ours_seconds, 1),
                "max_abs_difference": float(difference),
                "seconds": round(ours_seconds, 3),
                "pycocotools_seconds": round(reference_seconds, 3),
                "images": options.images,
            }
        )
    )


if __name__ == "__main__":
    main()
