"""What a user may ask of ``decode``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, get_args

from eachmask.structures.checks import check_number, check_whole
from eachmask.structures.errors import UserError

Paste = Literal["accurate", "compatible", "torchvision"]
Suppression = Literal["hard", "soft", "fast", "matrix"]


class Limits(NamedTuple):
    """What detections must stand, the user's choices or else the model's.

    >>> Limits(0.05, 0.5, 100)
    Limits(score_threshold=0.05, nms_threshold=0.5, max_detections=100, suppression='hard')
    """

    score_threshold: float
    nms_threshold: float
    max_detections: int
    suppression: Suppression = "hard"


class Defaults(Protocol):
    """A model's own choices, usually its ``Config``."""

    @property
    def score_threshold(self) -> float: ...
    @property
    def nms_threshold(self) -> float: ...
    @property
    def max_detections(self) -> int: ...


@dataclass(frozen=True)
class DecodeOptions:
    """Choices made after the network has spoken. ``None`` means the model's own default.

    Raises:
        UserError: a threshold outside 0..1, fewer than one detection, or an unknown way to paste or to suppress.

    >>> options = DecodeOptions(score_threshold=0.7)
    >>> options.limits(Limits(0.05, 0.5, 100))
    Limits(score_threshold=0.7, nms_threshold=0.5, max_detections=100, suppression='hard')
    """

    score_threshold: float | None = None
    """Drop instances scoring less, 0..1."""
    nms_threshold: float | None = None
    """Of two instances of one class whose boxes overlap more than this IoU, the lower-scoring one goes."""
    max_detections: int | None = None
    """Keep at most so many instances per image, best first."""
    mask_threshold: float = 0.5
    """A pixel belongs to the object from this probability on."""
    with_masks: bool = True
    """False: boxes only, and the mask head does not run."""
    paste: Paste = "accurate"
    """How box-sized masks reach the image: at their exact boxes (``accurate``), or at whole-pixel boxes as torchvision
    pastes them (``torchvision``, also called ``compatible``)."""
    suppression: Suppression | None = None
    """What becomes of the worse of overlapping instances: ``hard`` drops them one after the other, ``fast`` all at
    once, ``soft`` and ``matrix`` lower their scores (see :mod:`eachmask.ops.suppression`)."""

    alternatives: bool = False
    """Of a promptable model: all answers about each object, the best first, instead of the best alone."""

    def __post_init__(self) -> None:
        for name in ("score_threshold", "nms_threshold", "mask_threshold"):
            value = getattr(self, name)
            if value is not None or name == "mask_threshold":
                check_number(name.replace("_", " "), value, 0, 1)
        if self.max_detections is not None:
            check_whole("largest number of detections (max_detections)", self.max_detections, 1)
        if self.paste not in get_args(Paste):
            raise UserError(f"paste must be one of {', '.join(get_args(Paste))}, not {self.paste!r}")
        if self.paste == "torchvision":
            object.__setattr__(self, "paste", "compatible")
        if self.suppression not in (None, *get_args(Suppression)):
            known = ", ".join(get_args(Suppression))
            raise UserError(f"suppression (--nms) must be one of {known}, not {self.suppression!r}")

    def limits(self, model: Defaults, own: Suppression = "hard") -> Limits:
        """The user's choices, or else the model's, whose ``own`` way of suppression is not among its settings."""
        return Limits(
            model.score_threshold if self.score_threshold is None else self.score_threshold,
            model.nms_threshold if self.nms_threshold is None else self.nms_threshold,
            model.max_detections if self.max_detections is None else self.max_detections,
            self.suppression or own,
        )
