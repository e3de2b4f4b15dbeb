"""Scores of the bundled ``nuclei`` model per image type on a split of the 2018 Data Science Bowl pack.

    python benchmarks/nuclei.py --data ../shared/data/dsb2018 --split test [--precision fp32]

Prints one table per measure and, as its last line, one JSON object with every figure (fractions 0..1).
Every image is predicted as a user would: from its file, through ``eachmask.load(...).predict``.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import eachmask
from eachmask.metrics.coco_ap import coco_ap
from eachmask.metrics.matching import THRESHOLDS, matching_scores
from eachmask.structures import Instances


def scores(predictions: Sequence[Instances], targets: Sequence[Instances]) -> dict[str, float]:
    """COCO mask AP (up to 1,000 objects per image) and TP/(TP+FP+FN) at every threshold, pooled and per image."""
    pairs = [(p.masks, t.masks) for p, t in zip(predictions, targets, strict=True)]
    pooled = matching_scores(pairs)
    each = [matching_scores([pair]) for pair in pairs]
    ap = coco_ap(predictions, targets, max_detections=1000)
    row = {"images": len(targets), "objects": sum(len(t) for t in targets), "ap": ap["ap"], "ap50": ap["ap50"]}
    row |= {f"match{round(100 * t)}": pooled[t].score for t in THRESHOLDS}
    row["match_mean"] = float(np.mean([pooled[t].score for t in THRESHOLDS]))
    row["match50_image_mean"] = float(np.mean([counts[0.5].score for counts in each]))
    row["precision50"], row["recall50"] = pooled[0.5].precision, pooled[0.5].recall
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the dsb2018 pack")
    parser.add_argument("--split", default="test", choices=["train", "val", "test"])
    parser.add_argument("--model", default="nuclei")
    parser.add_argument("--precision", default="auto", choices=["auto", "fp32", "bf16"])
    options = parser.parse_args()
    from eachmask.data.formats.coco_read import read_coco

    annotations = options.data / f"instances_{options.split}.json"
    records = {r["id"]: r for r in json.loads(annotations.read_text())["images"]}
    (dataset,) = read_coco(annotations, images=options.data / "images" / options.split, strict=True).splits.values()
    predictor = eachmask.load(options.model, precision=options.precision)
    predictions, targets, types = [], [], []
    started = time.perf_counter()
    for i in range(len(dataset)):
        sample = dataset[i]
        predictions.append(predictor.predict(sample.path))
        targets.append(sample.targets)
        types.append(records[sample.image_id]["modality"])
    seconds = time.perf_counter() - started
    figures: dict[str, object] = {"split": options.split, "seconds_per_image": seconds / len(dataset)}
    for kind in ("all", *sorted(set(types))):
        chosen = [i for i, t in enumerate(types) if kind in ("all", t)]
        row = scores([predictions[i] for i in chosen], [targets[i] for i in chosen])
        figures[kind] = {name: round(value, 4) for name, value in row.items()}
        print(f"{kind}: " + "  ".join(f"{name} {value:.3f}" for name, value in row.items()))
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
