"""Evaluation: all numbers about one model on one data set, as one value that a report or a machine can read."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from eachmask.metrics.bootstrap import Interval
from eachmask.metrics.calibration import Calibration
from eachmask.metrics.sweep import Sweep
from eachmask.structures import UserError

if TYPE_CHECKING:
    from eachmask.evaluation.gallery import Pair


@dataclass(frozen=True)
class Comparison:
    """The same data through another model."""

    name: str
    coco: dict[str, dict[str, float]]
    difference: dict[str, Interval]
    """Mask AP and AP50, first minus second, on the same draws of images."""
    per_class: list[dict[str, float]]


@dataclass(frozen=True)
class Evaluation:
    """All measures of one model on one data set; fractions 0..1, NaN where there was nothing to measure."""

    name: str
    data: str
    num_images: int
    num_objects: int
    num_detections: int
    classes: list[str]
    score: float
    """Threshold of what is not ranked by score."""
    coco: dict[str, dict[str, float]]
    """``segm``, ``bbox``, ``keypoints`` -> COCO's numbers."""
    boundary: dict[str, float]
    per_class: list[dict[str, float]]
    quality: dict[str, float]
    """PQ, SQ, RQ, mean IoU, Dice, SBD, differences in count, coverage, at the threshold."""
    matching: dict[str, dict[str, float]]
    """IoU -> TP, FP, FN, score, precision, recall, at the threshold."""
    tide: dict[str, dict[str, float]]
    confusion: list[list[int]]
    calibration: Calibration
    sweeps: dict[str, Sweep]
    """Class name -> precision and recall at every threshold; the key "" is all classes pooled."""
    intervals: dict[str, Interval]
    comparison: Comparison | None = None
    notes: list[str] = field(default_factory=list)
    published: dict[str, float] = field(default_factory=dict)
    """What the makers of the model say, on their data; never measured here."""
    best: list[Pair] = field(default_factory=list)
    worst: list[Pair] = field(default_factory=list)
    """Images that it does well and badly at the score ``shown_from``, for the report alone."""
    shown_from: float = 0.5
    unread: list[str] = field(default_factory=list)
    """Why images were left out, one sentence each; in the file they are among the notes."""

    def value(self, name: str) -> float:
        """One measure by name: ``ap`` (of masks), ``bbox.ap50``, ``boundary.ap``, ``pq``, ``dice``, ``ece`` ...

        Raises:
            UserError: there is no such measure.
        """
        known = self.values()
        if name not in known:
            raise UserError(f"there is no measure {name!r}; there are: {', '.join(known)}")
        return known[name]

    def values(self) -> dict[str, float]:
        """All single numbers by name."""
        main = self.coco.get("segm") or self.coco["bbox"]
        flat = dict(main)
        for kind, group in (*self.coco.items(), ("boundary", self.boundary)):
            flat |= {f"{kind}.{key}": value for key, value in group.items()}
        flat |= self.quality | {"ece": self.calibration.ece}
        flat |= {f"matching.{iou}": row["score"] for iou, row in self.matching.items()}
        return flat

    def to_json(self) -> dict[str, Any]:
        """For machines: what is not a number becomes null. Of the classes' curves only the best points are kept."""
        plain = asdict(replace(self, best=[], worst=[]))
        for name in ("best", "worst", "shown_from", "unread"):
            plain.pop(name)
        curves = plain.pop("sweeps")
        plain["sweep"] = curves.pop("", None)
        best = ("best_threshold", "best_f1")
        plain["best_thresholds"] = {name: {key: curve[key] for key in best} for name, curve in curves.items()}
        published = plain.pop("published")
        cleaned: dict[str, Any] = _json_ready({"measured": plain, "published_by_others": published})
        return cleaned


def _json_ready(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _json_ready(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_json_ready(item) for item in value]
    if isinstance(value, np.ndarray):
        return _json_ready(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
