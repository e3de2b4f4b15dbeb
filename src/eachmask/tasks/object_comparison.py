"""Two models' objects on the same images: AP by kind, by class, and whether these images can tell them apart."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import Any

from eachmask.files.sections import Section, Table, json_ready, number_text
from eachmask.metrics.bootstrap import Interval
from eachmask.tasks.measures import Comparison, signed
from eachmask.tasks.object_sections import KIND_WORDS

MAX_CLASSES = 10
"""Those that differ most are shown."""
_NOTE = (
    "Both measured here on the same images. Intervals come from the same resampled images for both; one that spans "
    "0 says that these images cannot tell the two apart."
)


@dataclass(frozen=True, kw_only=True)
class ObjectComparison(Comparison):
    """The same images through another model."""

    coco: dict[str, dict[str, float]]
    difference: dict[str, Interval]
    """Mask AP and AP50, first minus second, on the same draws of images."""
    per_class: list[dict[str, float]]

    def section(self, name: str, found: Any) -> Section:
        """AP by kind with intervals, and the classes that differ most."""
        rows = []
        for kind, group in found.coco.items():
            for key in ("ap", "ap50", "ap75"):
                theirs = self.coco.get(kind, {}).get(key, float("nan"))
                gap = self.difference.get(key) if kind == "segm" else None
                sure = "" if gap is None else f"{gap.low:+.3f} to {gap.high:+.3f}{_unsure(gap)}"
                cells = [number_text(group[key]), number_text(theirs), signed(group[key] - theirs), sure]
                rows.append([f"{KIND_WORDS[kind]} {key}", *cells])
        rows += self._classes(found)
        table = Table(["", name, self.name, "difference", "95% interval"], rows, _NOTE)
        return Section("comparison", f"Against {self.name}", {}, [table])

    def _classes(self, found: Any) -> list[list[str]]:
        gaps = [
            (a["ap"] - b["ap"], name, a["ap"], b["ap"])
            for name, a, b in zip(found.classes, found.per_class, self.per_class, strict=True)
            if isfinite(a["ap"]) and isfinite(b["ap"])
        ]
        gaps.sort(key=lambda row: -abs(row[0]))
        return [
            [f"class {name}", number_text(a), number_text(b), signed(gap), ""] for gap, name, a, b in gaps[:MAX_CLASSES]
        ]

    def summary(self) -> list[str]:
        """The difference, and whether it is sure."""
        gap = self.difference["ap"]
        sure = "" if gap.excludes_zero else ", which these images cannot tell from 0"
        return [f"mask ap minus that of {self.name}: {gap.value:+.3f} ({gap.low:+.3f} to {gap.high:+.3f}){sure}"]

    def to_json(self) -> dict[str, Any]:
        """For machines."""
        gaps = {name: vars(gap) for name, gap in self.difference.items()}
        ready: dict[str, Any] = json_ready(
            {"name": self.name, "coco": self.coco, "difference": gaps, "per_class": self.per_class}
        )
        return ready


def _unsure(gap: Interval) -> str:
    return "" if gap.excludes_zero else " (unsure)"
