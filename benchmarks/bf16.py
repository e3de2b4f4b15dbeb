"""What bf16 changes of the bundled models' results, against float32, over whole packs.

    python benchmarks/bf16.py --nuclei ../shared/data/dsb2018 --objects ../shared/data/coco-mini
        --clicks ../shared/data [--num 40]

Every image is predicted as a user would, by ``eachmask.load(...).predict``, once in each precision. Objects that are
shown are paired one to one by mask IoU, the best first, and an object has changed where it has no partner of its
class at that IoU: ``changed_50`` counts what is another object or none, ``changed_75`` and ``changed_90`` what has
another outline too. AP is COCO's mask AP of all ranked detections in each precision, of ``objects`` over objects as
one class. ``clicks`` is asked about the objects of `benchmarks/clicks.py`, by a click in each object's middle and by
its box; an answer has changed where its IoU with float32's is below 0.5, 0.75 or 0.9. ``--num`` takes so many images
at even ranks of the split instead of all. On CPUs without bf16 instructions its arithmetic is emulated: the numbers
are alike, the time is not.

The last line is JSON, for each model: ``images``, ``shown_fp32``, ``shown_bf16``, ``changed_50``, ``changed_75``,
``changed_90`` (shares of both precisions' objects, 0..1), ``largest_shift`` (of a side of a box whose object has not
changed at IoU 0.5, px), ``ap_fp32``, ``ap_bf16``; of ``clicks``, for each kind of prompt: ``objects``, ``changed_50``
... ``changed_90``, ``iou_fp32``, ``iou_bf16`` (means, with what is annotated).
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

SPLITS = {"nuclei": "test", "objects": "val"}
LEVELS = (0.5, 0.75, 0.9)


def pairs(one: Any, other: Any, level: float) -> list[tuple[int, int]]:
    """Objects of one class whose masks overlap by so much, each at most once, the best overlaps first."""
    iou = one.masks.to_rle().iou(other.masks.to_rle()) if len(one) and len(other) else np.zeros((0, 0))
    iou = iou * (one.labels[:, None] == other.labels[None]).numpy()[: len(iou)] if iou.size else iou
    found: list[tuple[int, int]] = []
    rows, columns = np.nonzero(iou >= level)
    for k in np.argsort(-iou[rows, columns], kind="stable"):
        row, column = int(rows[k]), int(columns[k])
        if all(row != r and column != c for r, c in found):
            found.append((row, column))
    return found


def compare(model: str, data: Path, split: str, num: int | None) -> dict[str, Any]:
    """All measures of one model."""
    from rich.progress import track

    import eachmask
    from eachmask.data.classes import one_class
    from eachmask.data.reading import read_any
    from eachmask.metrics.coco_ap import coco_ap

    samples = one_class(read_any(data)[0]).splits[split]
    chosen = np.unique(np.linspace(0, len(samples) - 1, num or len(samples)).round().astype(int)).tolist()
    predictors = {p: eachmask.load(model, precision=p, device="cpu") for p in ("fp32", "bf16")}
    ranked: dict[str, list[Any]] = {p: [] for p in predictors}
    shown: dict[str, list[Any]] = {p: [] for p in predictors}
    targets = []
    for index in track(chosen, description=model, disable=not sys.stderr.isatty()):
        sample = samples[index]
        targets.append(replace(sample.targets, categories=()))
        for precision, predictor in predictors.items():
            # One pass gives both: what is shown is what of the ranked detections scores enough.
            found = predictor.predict(sample.image, options=predictor.ranked_options())
            least = predictor.decode_options().score_threshold or 0.0
            shown[precision].append(found.filter(score=least))
            ranked[precision].append(replace(found, labels=torch.zeros_like(found.labels), categories=(), view=None))
    return summary(shown) | {
        f"ap_{p}": round(coco_ap(ranked[p], targets, max_detections=1000)["ap"], 4) for p in ranked
    }


def summary(shown: dict[str, list[Any]]) -> dict[str, Any]:
    """How the objects that are shown differ."""
    both = list(zip(shown["fp32"], shown["bf16"], strict=True))
    total = sum(len(a) + len(b) for a, b in both)
    result: dict[str, Any] = {
        "images": len(both),
        "shown_fp32": sum(len(a) for a, _ in both),
        "shown_bf16": sum(len(b) for _, b in both),
    }
    for level in LEVELS:
        same = sum(2 * len(pairs(a, b, level)) for a, b in both)
        result[f"changed_{round(100 * level)}"] = round(1 - same / max(total, 1), 4)
    shifts = [
        float((a.boxes[row] - b.boxes[column]).abs().max()) for a, b in both for row, column in pairs(a, b, LEVELS[0])
    ]
    return result | {"largest_shift": round(max(shifts, default=0.0), 1)}


def compare_answers(packs: Path, num: int | None) -> dict[str, Any]:
    """All measures of ``clicks``, for each kind of prompt."""
    from clicks import coco_mini, grabcut50
    from rich.progress import track

    import eachmask
    from eachmask.evaluation.interactive import ByPredictor, objects_of
    from eachmask.metrics.clicks import iou
    from eachmask.ops.clicks import next_click

    methods = {p: ByPredictor(eachmask.load("clicks", precision=p, device="cpu")) for p in ("fp32", "bf16")}
    ious: dict[str, list[tuple[float, float, float]]] = {"click": [], "box": []}
    samples = [*grabcut50(packs / "grabcut50").samples, *coco_mini(packs / "coco-mini", 150).samples]
    chosen = np.unique(np.linspace(0, len(samples) - 1, num or len(samples)).round().astype(int)).tolist()
    for index in track(chosen, description="clicks", disable=not sys.stderr.isatty()):
        targets = samples[index].targets
        sessions = [look(samples[index].image) for look in methods.values()]
        for number, gt in objects_of(targets, 1, None):
            middle = next_click(gt, np.zeros(gt.shape, bool))
            box = targets.boxes[number].tolist()
            for kind, (one, other) in {
                "click": [session.clicks([middle], None) for session in sessions],
                "box": [session.box(box) for session in sessions],
            }.items():
                ious[kind].append((iou(other, one), iou(one, gt), iou(other, gt)))
    return {kind: {"images": len(chosen)} | answer_summary(np.asarray(rows)) for kind, rows in ious.items()}


def answer_summary(ious: Any) -> dict[str, Any]:
    """Of IoUs (N, 3): bf16's answer with float32's, float32's with the target, bf16's with the target."""
    changed = {f"changed_{round(100 * level)}": round(float((ious[:, 0] < level).mean()), 4) for level in LEVELS}
    means = {f"iou_{p}": round(float(ious[:, 1 + i].mean()), 4) for i, p in enumerate(("fp32", "bf16"))}
    return {"objects": len(ious)} | changed | means


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for model in SPLITS:
        parser.add_argument(f"--{model}", type=Path, help=f"pack to measure {model} on")
    parser.add_argument("--clicks", type=Path, help="folder of the packs grabcut50 and coco-mini, to measure clicks on")
    parser.add_argument("--num", type=int, help="images of each pack; all by default")
    options = parser.parse_args()
    packs = {model: getattr(options, model) for model in SPLITS if getattr(options, model) is not None}
    if not packs and options.clicks is None:
        parser.error("give --nuclei PACK, --objects PACK or --clicks PACKS")
    result = {model: compare(model, pack, SPLITS[model], options.num) for model, pack in packs.items()}
    if options.clicks is not None:
        result["clicks"] = compare_answers(options.clicks, options.num)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
