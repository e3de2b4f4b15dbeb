"""How large the objects are that a model learns from: by it users tell how large theirs are (``--diameter``)."""

from __future__ import annotations

from typing import Any

import numpy as np

from eachmask.data.samples import Samples
from eachmask.inference.diameter import diameters
from eachmask.structures import Instances, Preprocess, UserError

LOOKED_AT = 200
"""So many images say it."""


def object_diameter(data: Samples[Any], preprocess: Preprocess) -> float | None:
    """Median over images of their objects' median diameter, px as the network sees them; of a box, that of the circle
    of half its area.

    None where the targets are no objects, there are none, or every image is seen in one size.
    """
    if preprocess.fixed_size is not None:
        return None
    medians = []
    for index in range(0, len(data), max(1, len(data) // LOOKED_AT)):
        try:
            target = data.targets(index) if hasattr(data, "targets") else data[index].targets
        except UserError:  # it is named where training comes upon it
            continue
        if not isinstance(target, Instances):
            return None
        every = diameters(target[~target.crowd])
        if len(every):
            medians.append(preprocess.scale(*target.image_size) * np.median(every))
    return round(max(1.0, float(np.median(medians))), 1) if medians else None
