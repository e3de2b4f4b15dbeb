"""What an average precision loses to which kind of error (TIDE: Bolya et al., ECCV 2020, arXiv 2008.08115).

Every wrong detection and every missed object is of one kind; the share of a kind is the AP50 that would be gained
if that kind alone were corrected. Shares do not add up to what is missing, for correcting one kind changes the others.
Computed by hotcoco, which follows the authors' tool.
"""

from __future__ import annotations

from typing import Any

KINDS = {
    "Cls": "wrong class, right place",
    "Loc": "right class, inaccurate outline",
    "Both": "wrong class, inaccurate outline",
    "Dupe": "second detection of an object",
    "Bkg": "detection on background",
    "Miss": "object without any detection",
}


def tide(evaluation: Any) -> dict[str, dict[str, float]]:
    """For each kind ``ap50_lost`` (0..1) and ``count``; with the special cases FP and FN (all false positives,
    all misses corrected), which have no count.

    Args:
        evaluation: from :func:`~eachmask.metrics.coco_ap.coco_evaluation`.
    """
    found = evaluation.tide_errors(pos_thr=0.5, bg_thr=0.1)
    rows = {}
    for kind in (*KINDS, "FP", "FN"):
        rows[kind] = {"ap50_lost": float(found["delta_ap"][kind])}
        if kind in found["counts"]:
            rows[kind]["count"] = int(found["counts"][kind])
    return rows
