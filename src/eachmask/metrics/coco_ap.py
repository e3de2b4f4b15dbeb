"""COCO average precision of masks, boxes or keypoints, computed by hotcoco from Instances or from files.

The protocol is pycocotools' (Lin et al., arXiv 1405.0312): 101 recall points, IoU 0.50:0.05:0.95, at most 100
detections per image *and category* unless told otherwise; hotcoco gives the same twelve numbers.
"""

from __future__ import annotations

import contextlib
import io
import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from eachmask.structures import Instances

NAMES = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large",
         "ar1", "ar10", "ar100", "ar_small", "ar_medium", "ar_large")  # fmt: skip
KEYPOINT_NAMES = ("ap", "ap50", "ap75", "ap_medium", "ap_large", "ar", "ar50", "ar75", "ar_medium", "ar_large")
Kind = Literal["segm", "bbox", "keypoints"]
SIGMA = 0.05
"""How far apart two people put the same keypoint, relative to the object's size, where nobody has measured it: COCO has
measured the 17 keypoints of a person, 0.025 (eyes) to 0.107 (hips)."""


def coco_ap(
    predictions: Sequence[Instances],
    targets: Sequence[Instances],
    *,
    kind: Kind = "segm",
    class_agnostic: bool = False,
    max_detections: int = 100,
) -> dict[str, float]:
    """The twelve COCO numbers (ten of keypoints), as fractions 0..1 (NaN where a size range has no object).

    Args:
        predictions, targets: one entry per image, in the same order and image size; targets may
            carry ``crowd``.
        kind: masks, boxes or keypoints.
        class_agnostic: all categories count as one.
        max_detections: per image and category, highest scores first. The names ``ar100`` ... keep their
            COCO meaning "at the largest limit". Of keypoints it is COCO's 20, whatever is said here.

    Raises:
        ValueError: the two lists differ in length.
    """
    if len(predictions) != len(targets):
        raise ValueError(f"{len(predictions)} predictions for {len(targets)} images")
    from hotcoco import COCO, COCOeval

    labels = [t.labels for t in (*targets, *predictions) if len(t)]
    num_classes = 1 + max((int(each.max()) for each in labels), default=0)
    categories = [{"id": i + 1, "name": str(i + 1)} for i in range(num_classes)]
    images = [{"id": i + 1, "height": t.image_size[0], "width": t.image_size[1]} for i, t in enumerate(targets)]
    annotations = [a for i, t in enumerate(targets) for a in to_coco_annotations(t, i + 1)]
    results = [a for i, p in enumerate(predictions) for a in to_coco_annotations(p, i + 1)]
    for number, annotation in enumerate(annotations, start=1):
        annotation["id"] = number
    if not results:
        return dict.fromkeys(KEYPOINT_NAMES if kind == "keypoints" else NAMES, 0.0)
    if kind == "keypoints":
        content = {"images": images, "annotations": annotations, "categories": categories}
        return numbers(coco_evaluation(content, [_keypoints_only(row) for row in results], kind), kind)
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO({"images": images, "annotations": annotations, "categories": categories})
        evaluation = COCOeval(truth, truth.load_res(results), kind)
        evaluation.params.use_cats = not class_agnostic
        evaluation.params.max_dets = [1, 10, max_detections]
        evaluation.evaluate()
        evaluation.accumulate()
        if max_detections == 100:
            evaluation.summarize()
            stats = [float(v) for v in evaluation.stats]
        else:
            stats = _summary(evaluation)
    return {name: value if value > -1 else float("nan") for name, value in zip(NAMES, stats, strict=True)}


def coco_evaluation(annotations: Path | dict[str, Any], results: Path | list[dict[str, Any]], kind: Kind) -> Any:
    """hotcoco's evaluation of an annotation file and a results file, matched and accumulated.

    The numbers equal those pycocotools gives for the same two files; where pycocotools is at odds with itself, see
    ``docs/metrics.md``.

    Args:
        annotations, results: paths (read by hotcoco itself: fast), or their content.
    """
    from hotcoco import COCO, COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(_plain(annotations))
        evaluation = COCOeval(truth, truth.load_res(_plain(results)), kind)
        num = _num_keypoints(results) if kind == "keypoints" else None
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "hotcoco: kpt_oks_sigmas")  # docs/metrics.md says what they are
            if num is not None and num != len(evaluation.params.kpt_oks_sigmas):
                evaluation.params.kpt_oks_sigmas = [SIGMA] * num
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
    return evaluation


def _num_keypoints(results: Path | list[dict[str, Any]]) -> int | None:
    """Of an object; None where there is not one result."""
    rows = json.loads(results.read_text(encoding="utf-8-sig")) if isinstance(results, Path) else results
    return next((len(row["keypoints"]) // 3 for row in rows if row.get("keypoints")), None)


def _keypoints_only(row: dict[str, Any]) -> dict[str, Any]:
    """Of a detection with keypoints the size is theirs, not its box's or mask's."""
    return {key: value for key, value in row.items() if key not in ("bbox", "segmentation", "area")}


def numbers(evaluation: Any, kind: Kind) -> dict[str, float]:
    """Twelve numbers (ten of keypoints), 0..1; NaN where there is no object of that size."""
    names = KEYPOINT_NAMES if kind == "keypoints" else NAMES
    stats = [float(value) for value in evaluation.stats]
    return {name: value if value > -1 else float("nan") for name, value in zip(names, stats, strict=True)}


def _plain(source: Any) -> Any:
    return str(source) if isinstance(source, Path) else source


def _summary(evaluation: Any) -> list[float]:
    """``summarize`` is fixed to 100 detections (pycocotools' row 0): read the arrays instead."""
    precision = np.asarray(evaluation.eval["precision"])  # (T, R, K, A, M)
    recall = np.asarray(evaluation.eval["recall"])  # (T, K, A, M)

    def mean(values: np.ndarray) -> float:
        values = values[values > -1]
        return float(values.mean()) if values.size else -1.0

    ap = [mean(precision[..., 0, -1]), mean(precision[0, :, :, 0, -1]), mean(precision[5, :, :, 0, -1])]
    ap += [mean(precision[..., area, -1]) for area in (1, 2, 3)]
    ar = [mean(recall[..., 0, m]) for m in range(3)] + [mean(recall[..., area, -1]) for area in (1, 2, 3)]
    return ap + ar


def to_coco_annotations(instances: Instances, image_id: int) -> list[dict[str, Any]]:
    """Instances of one image -> COCO dicts with label + 1 as category id.

    Boxes are the instances' own; ``score`` is there when the instances have scores.
    """
    boxes = instances.boxes.detach().cpu().double().numpy()
    rles = None if instances.masks is None else instances.masks.to_rle()
    segmentations = None if rles is None else rles.to_coco()
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1) if rles is None else rles.area()
    rows = []
    for i, (x1, y1, x2, y2) in enumerate(boxes):
        row: dict[str, Any] = {
            "image_id": image_id,
            "category_id": int(instances.labels[i]) + 1,
            "bbox": [float(x1), float(y1), float(x2 - x1), float(y2 - y1)],
            "area": float(areas[i]),
            "iscrowd": int(instances.crowd[i]),
        }
        if segmentations is not None:
            row["segmentation"] = segmentations[i]
        if instances.scores is not None:
            row["score"] = float(instances.scores[i])
        if instances.keypoints is not None:
            points = instances.keypoints[i].detach().cpu()
            row |= {"keypoints": points.flatten().tolist(), "num_keypoints": int((points[:, 2] > 0).sum())}
        rows.append(row)
    return rows
