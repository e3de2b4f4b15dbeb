"""Evaluation: all numbers about one model on one data set, as one value that a report or a machine can read."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from eachmask.files.sections import json_ready
from eachmask.metrics.bootstrap import Interval
from eachmask.structures import UserError
from eachmask.tasks.object_measures import ObjectMeasures

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


@dataclass(frozen=True, kw_only=True)
class Evaluation(ObjectMeasures):
    """All measures of one model's objects on one data set, and what they are about."""

    name: str
    data: str
    comparison: Comparison | None = None
    notes: list[str] = field(default_factory=list)
    published: dict[str, float] = field(default_factory=dict)
    """What the makers of the model say, on their data; never measured here."""
    best: list[Pair] = field(default_factory=list)
    worst: list[Pair] = field(default_factory=list)
    """Images that it does well and badly at the threshold, for the report alone."""
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
        for name in ("best", "worst", "unread"):
            plain.pop(name)
        curves = plain.pop("sweeps")
        plain["sweep"] = curves.pop("", None)
        best = ("best_threshold", "best_f1")
        plain["best_thresholds"] = {name: {key: curve[key] for key in best} for name, curve in curves.items()}
        published = plain.pop("published")
        cleaned: dict[str, Any] = json_ready({"measured": plain, "published_by_others": published})
        return cleaned
