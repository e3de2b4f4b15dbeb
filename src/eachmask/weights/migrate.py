"""Model files of earlier versions, in today's words.

A header says in ``format`` which version wrote it; without one it is 1. What has changed its name or place since then
is renamed here, in the header and in the names of the weights, so that every model that was ever trained still loads:
format 2 has other words, format 3 nests the settings of models by the part that they are about.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from eachmask.models import VARIANTS
from eachmask.weights import format_2, format_2_one_stage

PLACES = {**format_2.PLACES, **format_2_one_stage.PLACES}

FORMAT = 3
"""Written into new headers."""

_CONFIG = {
    "box_beta": "smooth_l1_beta",
    "coarse_from_body": "coarse_from_backbone",
    "one_label": "class_agnostic_nms",
    "roi_sampling": "sampling_ratio",
}
"""Settings of variants: name in format 1 -> in format 2."""
_WEIGHTS = (
    (r"(^|\.)body\.", r"\1backbone."),
    (r"(^|\.)shifts\.", r"\1deltas."),
    (r"^namer\.", "crop_classifier."),
    (r"^refinement\.draw\.", "refinement.predict."),
)
"""Names of weights: pattern in earlier formats -> today's."""


def migrated_header(values: dict[str, Any]) -> dict[str, Any]:
    """A header of any format -> one of today's."""
    rows = values.get("categories", ())
    if isinstance(rows, list):  # whatever else it is, the schema names it
        values = values | {"categories": [_category(row) if isinstance(row, dict) else row for row in rows]}
    version = values.get("format", 1)
    if version < 2:
        values = _in_words_of_2(values)
    if version < 3:
        values = values | {"config": nested(values.get("variant", ""), values.get("config", {}))}
    return values


def _category(row: dict[str, Any]) -> dict[str, Any]:
    return {"parent" if key == "supercategory" else key: value for key, value in row.items()}


def migrated_weight(name: str) -> str:
    """The name of a weight in a file of any format -> today's."""
    for pattern, new in _WEIGHTS:
        name = re.sub(pattern, new, name)
    return name


def nested(variant: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a variant that are all on one level (format 2) -> by the part that they are about.

    >>> nested("mask_rcnn_r50_fpn", {"rpn_high": 0.8, "mask_width": 128, "max_detections": 50})
    {'rpn': {'fg_iou': 0.8}, 'mask_head': {'width': 128}, 'max_detections': 50}
    """
    places = PLACES.get(VARIANTS.get(variant, ""), {})
    result: dict[str, Any] = {}
    for name, value in config.items():
        place = places.get(name, name)
        if not place:
            continue
        part, _, leaf = place.rpartition(".")
        (result.setdefault(part, {}) if part else result)[leaf] = value
    return result


def _in_words_of_2(values: dict[str, Any]) -> dict[str, Any]:
    values = {"license" if key == "licence" else key: value for key, value in values.items()}
    values["config"] = {_CONFIG.get(key, key): value for key, value in values.get("config", {}).items()}
    naming = values.pop("naming", None)
    if naming is not None:
        values["crop_classifier"] = {"backbone" if key == "body" else key: value for key, value in naming.items()}
    return values
