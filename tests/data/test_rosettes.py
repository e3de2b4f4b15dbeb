from __future__ import annotations

import numpy as np

from eachmask.data.rosettes import rosette


def test_the_seed_says_all():
    one, same, other = rosette(3), rosette(3), rosette(4)
    assert np.array_equal(one.image, same.image) and not np.array_equal(one.image, other.image)
    assert np.array_equal(one.targets.masks.to_label_map(), same.targets.masks.to_label_map())


def test_leaves_are_green_objects_that_hide_each_other():
    counts = []
    for seed in range(8):
        sample = rosette(seed, (96, 112), (4, 9))
        assert sample.image.shape == (96, 112, 3) and sample.image.dtype == np.uint8
        assert sample.targets.image_size == (96, 112) and 2 <= len(sample.targets) <= 9
        inside = sample.targets.masks.to_label_map() > 0
        red, green, _ = sample.image.astype(float).transpose(2, 0, 1)
        assert (green - red)[inside].mean() > 15 > (green - red)[~inside].mean()
        assert sample.targets.masks.area().sum() == inside.sum(), "no pixel has two leaves"
        counts.append(len(sample.targets))
    assert len(set(counts)) > 1
