"""How dense sections are scored: variation of information and adapted Rand error of the image's division into objects.

Meila, J. Multivariate Analysis 2007; Arganda-Carreras et al., Front. Neuroanat. 2015 (the ISBI 2012 challenge). Only
pixels of true objects count; what is predicted nowhere is one more part there. Computed by scikit-image, averaged over
images.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from eachmask.structures import Masks


def partitions(pairs: Iterable[tuple[Masks, Masks]]) -> dict[str, float]:
    """``vi_split``, ``vi_merge`` (bits: objects in parts, parts of several objects) and ``rand_error`` (0..1).

    The smaller the better; NaN without true objects. Where masks overlap the earlier one has the pixel.

    Args:
        pairs: (predicted, true) masks of one image each.
    """
    from skimage.metrics import adapted_rand_error, variation_of_information

    rows = []
    for predicted, true in pairs:
        if not true.area().sum():
            continue
        maps = true.to_label_map(), predicted.to_label_map()
        with np.errstate(invalid="ignore", divide="ignore"):  # of objects of one pixel there are no pairs of pixels
            error = adapted_rand_error(*maps)[0]  # type: ignore[no-untyped-call]
        split, merge = variation_of_information(*maps, ignore_labels=(0,))  # type: ignore[no-untyped-call]
        rows.append((split, merge, 0.0 if np.isnan(error) else error))
    means = np.mean(rows, axis=0) if rows else np.full(3, np.nan)
    return {name: float(value) for name, value in zip(("vi_split", "vi_merge", "rand_error"), means, strict=True)}
