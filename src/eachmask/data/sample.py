"""Sample: one image with what is known about it, on its way from disk to training, scoring or drawing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from eachmask.structures import Instances


@dataclass(frozen=True)
class Sample:
    """One annotated image.

    ``image`` is (H, W, 3) uint8, uint16 or float32 (RGB); ``targets`` lie in its pixels and may carry
    ``crowd``; ``path`` is the file it came from (for messages); ``image_id`` is the data set's own. A batch that it
    becomes part of is at least ``canvas`` large, (height, width), so that batches are alike however small their images.
    """

    image: NDArray[Any]
    targets: Instances
    path: Path = Path()
    image_id: int = 0
    canvas: tuple[int, int] = (0, 0)
    given: Any = None
    """What a user hands over with the image: clicks, a trimap, a clean background."""
