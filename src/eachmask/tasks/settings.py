"""How to measure, whatever the task."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral

from eachmask.structures import UserError
from eachmask.structures.checks import check_number, check_whole


@dataclass(frozen=True)
class Settings:
    """How to measure.

    Raises:
        UserError: a threshold outside 0..1, a negative number of draws or seed, or something else than a number.
    """

    score: float | None = None
    """Threshold of everything that is not ranked by score; None: that of the best F1 on these images."""
    resamples: int = 200
    """Draws of images for the confidence intervals; 0 leaves them out."""
    boundary: bool = True
    """Also boundary AP, the slowest part."""
    seed: int = 0
    gallery: int = 5
    """So many of the best images and of the worst ones are drawn, where the files are there."""
    video: bool = False
    """The images are the frames of one video, in their order: mattes are also measured by how much they flicker."""

    def __post_init__(self) -> None:
        if self.score is not None:
            check_number("score threshold", self.score, 0, 1)
        for name, number in (
            ("number of resamples", self.resamples), ("seed", self.seed), ("number of images shown", self.gallery)
        ):  # fmt: skip
            if isinstance(number, Integral) and number < 0:
                raise UserError(f"the {name} must not be negative, but is {number}")
            check_whole(name, number, 0)
        for name, choice in (("boundary", self.boundary), ("video", self.video)):
            if not isinstance(choice, bool):
                raise UserError(f"{name} must be True or False, not {choice!r}")
