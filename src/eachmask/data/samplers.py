"""How often each training image is shown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from eachmask.data.samples import Samples
from eachmask.structures.spatial import Labeled

THRESHOLD = 0.1
"""Classes in fewer than this share of the images are shown more often. LVIS, with 1,203 classes, takes 0.001."""


def repeat_factors(samples: Samples[Any], threshold: float = THRESHOLD) -> Sequence[float]:
    """Repeat-factor sampling (Gupta, Dollar, Girshick: LVIS, CVPR 2019, arXiv 1908.03195, section 6).

    A class in a share f of the images gets r = max(1, sqrt(threshold / f)); an image gets the largest r of its classes.

    Args:
        threshold: the paper's t.

    Returns:
        a weight of at least 1 for each image.
    """
    read = getattr(samples, "targets", None)
    present: list[set[int]] = []
    for i in range(len(samples)):
        targets = read(i) if read is not None else samples[i].targets
        present.append(targets.present() if isinstance(targets, Labeled) else set())
    num_images = np.zeros(len(samples.categories))
    for labels in present:
        num_images[list(labels)] += 1
    share = np.maximum(num_images, 1) / max(len(samples), 1)
    repeat = np.maximum(1.0, np.sqrt(threshold / share))
    return [max((float(repeat[label]) for label in labels), default=1.0) for labels in present]
