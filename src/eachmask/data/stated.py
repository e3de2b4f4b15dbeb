"""Objects with what their COCO files say of them to the last digit.

COCO's protocol measures by the boxes, scores and sizes that files state, in 64 bits; masks need not agree with them.
Values alone would do for every other measure.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eachmask.data.split import Split
from eachmask.structures import Instances

MAX_AREA = 1e15
"""No object is as large as this, px^2."""


class StatedTargets(list[Instances]):
    """The targets of a split, image by image in a given order, with the boxes that a COCO file states."""

    def __init__(self, split: Split, order: Iterable[int]) -> None:
        places = list(order)
        super().__init__(split.stated_targets(i) for i in places)
        self.areas = [_areas(split.stated_of(i), target) for i, target in zip(places, self, strict=True)]
        """(K,) size of each image's objects, px^2: as stated, their masks' where the file states none."""


class StatedResults(list[Instances]):
    """Predictions, image by image, with the results they were read from."""

    def __init__(self, instances: Iterable[Instances], rows: Sequence[dict[str, Any]]) -> None:
        super().__init__(instances)
        self.rows = list(rows)
        """COCO's dicts; ``image_id`` is the place of the image from 1, ``category_id`` the label + 1."""


def _areas(stated: NDArray[np.float64] | None, target: Instances) -> NDArray[np.float64]:
    own = np.zeros(len(target)) if target.masks is None else target.masks.area().astype(np.float64)
    if stated is None:
        return own
    area = stated[:, 4]
    return np.where((area >= 0) & (area < MAX_AREA), area, own)
