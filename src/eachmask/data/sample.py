"""Sample: one image with what is known about it, on its way from disk to training, scoring or drawing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic

from numpy.typing import NDArray
from typing_extensions import TypeVar

from eachmask.structures import Instances
from eachmask.structures.spatial import Spatial

T = TypeVar("T", default=Instances)
"""What a sample's targets are."""


@dataclass(frozen=True)
class Sample(Generic[T]):
    """One annotated image.

    ``image`` is (H, W, 3) uint8, uint16 or float32 (RGB); ``targets`` lie in its pixels; ``given`` is what a user
    hands over beside the image (clicks, a trimap, a clean background), in its pixels too; ``path`` is the file it came
    from (for messages); ``image_id`` is the data set's own. A batch that it becomes part of is at least ``canvas``
    large, (height, width), so that batches are alike however small their images.

    >>> import numpy as np
    >>> from eachmask import Instances
    >>> sample = Sample(np.zeros((4, 6, 3), np.uint8), Instances.empty((4, 6)))
    >>> len(sample.targets), sample.given is None
    (0, True)
    """

    image: NDArray[Any]
    targets: T
    path: Path = Path()
    image_id: int = 0
    canvas: tuple[int, int] = (0, 0)
    given: Spatial | None = None
