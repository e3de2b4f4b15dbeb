"""How to measure, whatever the task."""

from __future__ import annotations

from dataclasses import dataclass

from eachmask.structures import UserError


@dataclass(frozen=True)
class Settings:
    """How to measure.

    Raises:
        UserError: a threshold outside 0..1, a negative number of draws or seed.
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
        if self.score is not None and not 0 <= self.score <= 1:
            raise UserError(f"the score threshold must lie in 0..1, not {self.score:g}")
        for name, number in (
            ("number of resamples", self.resamples), ("seed", self.seed), ("number of images shown", self.gallery)
        ):  # fmt: skip
            if number < 0:
                raise UserError(f"the {name} must not be negative, but is {number}")
