"""Deep watershed: targets, losses and the cut against recorded ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from parity.dense import made, open_dense
from parity.recorded import recorded

from eachmask.ops.watershed_levels import cut, direction_loss, energy_loss, watershed_targets

CODES = {"person": (-128, 24), "car": (32, 26), "bus": (96, 28)}
"""Class codes of the reference and of Cityscapes."""


@pytest.mark.parametrize("stem", recorded("deep_watershed_targets"))
def test_targets_losses_and_cut(stem):
    fixture = open_dense(stem)
    said, ids = fixture.manifest["config"], made(fixture, "instances")
    ours = watershed_targets(ids, [float(b) for b in said["boundaries"][:-1]], said["min_area"])
    for name in ours._fields:
        error, same_shape = fixture.compare_full(name, getattr(ours, name))
        assert same_shape and error < 1e-4, name
    rng = np.random.RandomState(10)
    vectors = torch.from_numpy(rng.standard_normal((*ids.shape, 2))).permute(2, 0, 1)
    logits = torch.from_numpy(rng.standard_normal((*ids.shape, said["levels"]))).permute(2, 0, 1)
    mask, weight = torch.from_numpy(ids > 0).double(), torch.from_numpy(ours.weight).double()
    found = direction_loss(vectors, torch.from_numpy(ours.direction).double(), mask, weight)
    assert float(found) == pytest.approx(fixture.manifest["losses"]["direction_loss"], rel=1e-5)
    found = energy_loss(logits, torch.from_numpy(ours.level), mask, weight)
    assert float(found) == pytest.approx(fixture.manifest["losses"]["energy_loss"], rel=1e-6)
    classes = fixture.full("cut.class_map")
    result = np.zeros(ids.shape, np.int64)
    for name, (code, number) in CODES.items():
        threshold = said["cut_threshold"][name]
        side = 3 if threshold == 1 else 5
        objects = cut(ours.level, classes == code, threshold, said["cut_min_size"][name], side)
        result[objects > 0] = 1000 * number + objects[objects > 0]
    assert np.array_equal(result, fixture.full("cut.instances"))
