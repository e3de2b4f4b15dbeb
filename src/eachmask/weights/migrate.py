"""Model files of earlier versions, in today's words.

A header says in ``format`` which version wrote it; without one it is 1. What has changed its name since then is
renamed here, in the header and in the names of the weights, so that every model that was ever trained still loads.
"""

from __future__ import annotations

import re
from typing import Any

FORMAT = 2
"""Written into new headers."""

_CONFIG = {
    "box_beta": "smooth_l1_beta",
    "coarse_from_body": "coarse_from_backbone",
    "one_label": "class_agnostic_nms",
    "roi_sampling": "sampling_ratio",
}
"""Settings of variants: name in format 1 -> today's."""
_WEIGHTS = ((r"(^|\.)body\.", r"\1backbone."), (r"(^|\.)shifts\.", r"\1deltas."), (r"^namer\.", "crop_classifier."))
"""Names of weights: pattern in format 1 -> today's."""


def migrated_header(values: dict[str, Any]) -> dict[str, Any]:
    """A header of any format -> one of today's."""
    values = values | {"categories": [_category(row) for row in values.get("categories", ())]}
    if values.get("format", 1) >= FORMAT:
        return values
    values = {"license" if key == "licence" else key: value for key, value in values.items()}
    values["config"] = {_CONFIG.get(key, key): value for key, value in values.get("config", {}).items()}
    naming = values.pop("naming", None)
    if naming is not None:
        values["crop_classifier"] = {"backbone" if key == "body" else key: value for key, value in naming.items()}
    return values


def _category(row: dict[str, Any]) -> dict[str, Any]:
    return {"parent" if key == "supercategory" else key: value for key, value in row.items()}


def migrated_weight(name: str) -> str:
    """The name of a weight in a file of any format -> today's."""
    for pattern, new in _WEIGHTS:
        name = re.sub(pattern, new, name)
    return name
