"""How stable a mask is: whether a stricter and a looser threshold give nearly the same pixels.

Segment Anything's stability score (Kirillov et al., arXiv 2304.02643, section 5), for any model whose masks come from
probabilities.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eachmask.structures import DecodeOptions, Instances

INNER, OUTER = 0.731, 0.269
"""Probabilities one logit above and below a half."""


def stable(model: Any, raw: Any, options: DecodeOptions) -> tuple[Instances, NDArray[np.float64]]:
    """What a :class:`~eachmask.models.protocol.Network` answered about one image, and how stable each mask is.

    Returns:
        the objects, and (N,) in 0..1: pixels at :data:`INNER` as a share of those at :data:`OUTER`.
    """
    selected = model.select(raw, options)
    levels = (INNER, options.mask_threshold, OUTER)
    inner, drawn, outer = (model.pack(selected, replace(options, mask_threshold=level))[0] for level in levels)
    few, many = areas_of(inner), areas_of(outer)
    numbers: list[int] = drawn.track_ids.tolist()
    return drawn, np.array([few.get(n, 0) / max(many.get(n, 0), few.get(n, 0), 1) for n in numbers], np.float64)


def areas_of(found: Instances) -> dict[int, int]:
    """Pixels of each object by its number (``track_ids``)."""
    assert found.track_ids is not None
    return dict(zip(found.track_ids.tolist(), found.gt_masks.area().tolist(), strict=True))
