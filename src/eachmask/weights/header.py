"""What a model file says about itself: one record, one schema, whoever wrote the file."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from eachmask.models.crop_classifier import Config as ClassifierConfig
from eachmask.structures import Category, DecodeOptions, Preprocess
from eachmask.weights.migrate import FORMAT, migrated_header
from eachmask.weights.schema import Range, Schema, SchemaError

MIN_TILE = 32
_SHARE, _SIDE = Range(0, 1), Range(1, 1 << 16)
SCHEMA = Schema(
    ranges={
        "tile": Range(MIN_TILE, 1 << 20),
        "scales": Range(0.25, 4),
        "object_diameter": Range(1, 1 << 16),
        "preprocess.mean": Range(-1e4, 1e4),
        "preprocess.std": Range(1e-6, 1e4),
        "preprocess.short_side": _SIDE,
        "preprocess.long_side": _SIDE,
        "preprocess.fixed_size": _SIDE,
        "preprocess.magnification": Range(1 / 64, 64),
        "preprocess.divisor": Range(1, 1024),
        "decode.score_threshold": _SHARE,
        "decode.nms_threshold": _SHARE,
        "decode.mask_threshold": _SHARE,
        "decode.max_detections": Range(1),
        "crop_classifier.sure": _SHARE,
        "crop_classifier.at_most": Range(0),
        "crop_classifier.side": _SIDE,
        "crop_classifier.context": Range(1e-3, 100),
        "crop_classifier.least": Range(0, 1 << 16),
        "crop_classifier.labels": Range(0),
        "categories.skeleton": Range(0),
    },
    surplus=True,
)


@dataclass(frozen=True)
class ModelInfo:
    """What a model file says about itself."""

    variant: str
    """Name of the variant function in ``eachmask.models``."""
    config: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of the variant function besides ``num_classes``."""
    preprocess: Preprocess = Preprocess()
    categories: tuple[Category, ...] = ()
    license: str = ""
    training: dict[str, Any] = field(default_factory=dict)
    """Recipe, steps, seed and data of the run that made the weights."""
    scores: dict[str, Any] = field(default_factory=dict)
    """Measured by us, as fractions 0..1."""
    decode: dict[str, Any] = field(default_factory=dict)
    """DecodeOptions that differ from the model's defaults."""
    scales: tuple[float, ...] = ()
    """Every image is seen at these shares of the usual size (objects are joined, label maps averaged); none: once."""
    tile: int | None = None
    """Larger images are predicted in tiles of this side, px; None: in one pass, whatever the size."""
    object_diameter: float | None = None
    """Typical diameter of the objects that it learnt from, px as the network sees them; None: not known."""
    crop_classifier: dict[str, Any] | None = None
    """Settings of a :class:`~eachmask.models.crop_classifier.CropClassifier` in the same file; None without one."""
    name: str = ""
    card: str = ""
    """The model card, Markdown."""

    def to_json(self) -> str:
        """The header's text."""
        return json.dumps({"format": FORMAT} | asdict(self), ensure_ascii=False)

    @staticmethod
    def from_json(text: str) -> ModelInfo:
        """Undo of :meth:`to_json`; fields of later versions are passed over.

        Raises:
            SchemaError: no JSON, or a field of another type or out of its range; the message names it.
        """
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise SchemaError(f"it is no JSON ({error})") from error
        try:
            values = migrated_header(_table(values))
        except (AttributeError, KeyError, TypeError) as error:
            raise SchemaError("it is of an earlier version, and not as that version wrote it") from error
        values["scores"] = _measured(values.get("scores", {}))
        info: ModelInfo = SCHEMA.read(ModelInfo, values)
        decode = asdict(SCHEMA.read(DecodeOptions, info.decode, "decode"))
        info = replace(info, decode={name: value for name, value in info.decode.items() if name in decode})
        if info.crop_classifier is not None:
            SCHEMA.read(ClassifierConfig, info.crop_classifier, "crop_classifier")
        return info


def _table(values: Any) -> dict[str, Any]:
    if not isinstance(values, dict):
        raise SchemaError("it is no table of names and values")
    return values


def _measured(scores: Any) -> Any:
    """A measure that was undefined on the images it was measured on says nothing."""
    if not isinstance(scores, dict):
        return scores
    return {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in scores.items()}
