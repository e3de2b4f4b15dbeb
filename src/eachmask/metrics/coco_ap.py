"""COCO average precision of masks, boxes or keypoints, computed by hotcoco from Instances or from files.

The protocol is pycocotools' (Lin et al., arXiv 1405.0312): 101 recall points, IoU 0.50:0.05:0.95, at most 100
detections per image *and category* unless told otherwise; hotcoco gives the same twelve numbers.
"""

from __future__ import annotations

import contextlib
import io
import json
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from eachmask.structures import Instances, UserError

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

    Example (one object, found exactly):
        >>> import torch
        >>> from eachmask.structures import Instances
        >>> target = Instances(image_size=(64, 64), boxes=torch.tensor([[8.0, 8.0, 48.0, 48.0]]))
        >>> found = Instances(image_size=(64, 64), boxes=target.boxes, scores=torch.tensor([0.9]))
        >>> round(coco_ap([found], [target], kind="bbox")["ap"], 3)
        1.0

    Raises:
        ValueError: the two lists differ in length, or the predictions have nothing of that kind.
    """
    if len(predictions) != len(targets):
        raise ValueError(f"{len(predictions)} predictions for {len(targets)} images")
    rows = result_rows(predictions, kind)
    if not rows:
        return dict.fromkeys(KEYPOINT_NAMES if kind == "keypoints" else NAMES, 0.0)
    num_classes = 1 + max((int(some.labels.max()) for some in (*targets, *predictions) if len(some)), default=0)
    limits: dict[str, Any] = {"use_cats": not class_agnostic, "max_dets": [1, 10, max_detections]}
    limits = {} if kind == "keypoints" else limits
    evaluation = coco_evaluation(annotation_content(targets, num_classes), rows, kind, **limits)
    if kind == "keypoints" or max_detections == 100:
        return numbers(evaluation, kind)
    return {
        name: value if value > -1 else float("nan") for name, value in zip(NAMES, _summary(evaluation), strict=True)
    }


def annotation_content(
    targets: Sequence[Instances], num_classes: int, areas: Sequence[NDArray[Any]] | None = None
) -> dict[str, Any]:
    """What COCO's tools want to know of the targets; images and categories are numbered from 1.

    Args:
        areas: (N,) sizes of each image's objects, px^2, as their annotators gave them; by default their masks', or
            their boxes' where there are none.
    """
    annotations = [row for i, target in enumerate(targets, start=1) for row in to_coco_annotations(target, i)]
    if areas is not None:
        for row, area in zip(annotations, np.concatenate([np.zeros(0), *areas]).tolist(), strict=True):
            row["area"] = area
    return {
        "images": [{"id": i, "height": t.image_size[0], "width": t.image_size[1]} for i, t in enumerate(targets, 1)],
        "annotations": [{**row, "id": number} for number, row in enumerate(annotations, start=1)],
        "categories": [{"id": i, "name": str(i)} for i in range(1, num_classes + 1)],
    }


def result_rows(predictions: Sequence[Instances], kind: Kind) -> list[dict[str, Any]]:
    """COCO results that have nothing but what is compared: the size of a mask is the mask's, not its box's (which
    pycocotools takes where both are given), that of keypoints theirs.

    Objects without it are left out.
    """
    key = {"segm": "segmentation", "bbox": "bbox", "keypoints": "keypoints"}[kind]
    rows = [row for i, found in enumerate(predictions, start=1) for row in to_coco_annotations(found, i)]
    if kind == "keypoints":
        rows = [row for row in rows if any(row.get(key, ()))]
    if rows and not all(key in row for row in rows):
        raise ValueError(f"the predictions have no {key}: nothing to compare as {kind}")
    kept = ("image_id", "category_id", "score", key)
    return [{name: row.get(name, 1.0) if name == "score" else row[name] for name in kept} for row in rows]


@contextlib.contextmanager
def _quiet_library() -> Iterator[None]:
    """COCO's tools print, warn of what users did not choose, and raise whatever comes to their mind."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except (MemoryError, KeyboardInterrupt):
            raise
        except Exception as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise UserError(f"average precision cannot be computed: {reason}") from error


def coco_evaluation(
    annotations: Path | dict[str, Any], results: Path | list[dict[str, Any]], kind: Kind, **params: Any
) -> Any:
    """hotcoco's evaluation of an annotation file and a results file, matched and accumulated.

    The numbers equal those pycocotools gives for the same two files; where pycocotools is at odds with itself, see
    ``docs/metrics.md``.

    Args:
        annotations, results: paths (read by hotcoco itself: fast), or their content.
        params: what to set of pycocotools' parameters (``use_cats``, ``max_dets``).

    Raises:
        UserError: hotcoco does not take them; its reason.
    """
    from hotcoco import COCO, COCOeval

    with _quiet_library():
        gt = COCO(_plain(annotations))
        evaluation = COCOeval(gt, gt.load_res(_plain(results)), kind)
        num = _num_keypoints(results) if kind == "keypoints" else None
        if num is not None and num != len(evaluation.params.kpt_oks_sigmas):
            evaluation.params.kpt_oks_sigmas = [SIGMA] * num  # docs/metrics.md says what they are
        for name, value in params.items():
            setattr(evaluation.params, name, value)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def _num_keypoints(results: Path | list[dict[str, Any]]) -> int | None:
    """Of an object; None where there is not one result."""
    rows = json.loads(results.read_text(encoding="utf-8-sig")) if isinstance(results, Path) else results
    return next((len(row["keypoints"]) // 3 for row in rows if row.get("keypoints")), None)


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
