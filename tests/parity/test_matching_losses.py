"""The losses of recurrent networks and their gradients against the papers' formulas, evaluated elsewhere."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from parity.dense import made, open_dense
from parity.recorded import recorded

from eachmask.ops.matching_losses import coverage_loss, matching_loss, soft_iou


@pytest.mark.parametrize("stem", recorded("recurrent_matching_losses"))
@torch.enable_grad()
def test_losses_and_gradients(stem):
    fixture = open_dense(stem)
    said, values = fixture.manifest["config"], fixture.manifest["losses"]
    ids = torch.from_numpy(made(fixture, "instances"))
    masks = torch.stack([ids == i for i in range(1, int(ids.max()) + 1)]).double()
    rng = np.random.RandomState(13)
    first = 2 * rng.standard_normal((said["T"], *ids.shape))
    second = 1.5 * rng.standard_normal(said["T"])
    iou = soft_iou(torch.from_numpy(first).sigmoid(), masks)
    assert np.allclose(iou.numpy(), fixture.full("iou"), rtol=1e-6)
    for case in ("ris.n", "ris.n2", "ren_zemel"):
        logits, scores = torch.from_numpy(first).requires_grad_(), torch.from_numpy(second).requires_grad_()
        iou = soft_iou(logits.sigmoid(), masks[:2] if case == "ris.n2" else masks)
        if case == "ren_zemel":
            loss, weight = matching_loss(iou, scores.sigmoid()), 1.0
            names = ("segmentation", "score_monotone", "total")
            matched = np.zeros(said["T"])
            matched[loss.steps] = 1
            assert np.array_equal(matched, fixture.full("ren_zemel.matched"))
        else:
            loss, weight, names = coverage_loss(iou, scores), said["lambda"], ("match", "conf", "total")
        total = loss.overlap + weight * loss.score
        total.backward()
        for name, ours in zip(names, (loss.overlap, loss.score, total), strict=True):
            assert float(ours.detach()) == pytest.approx(values[f"{case}.{name}"], rel=1e-6)
        assert np.array_equal(torch.stack([loss.steps, loss.objects]).numpy(), fixture.full(f"{case}.assignment"))
        assert np.allclose(scores.grad.numpy(), fixture.full(f"{case}.score_grad"), rtol=1e-6, atol=1e-12)
        error, same_shape = fixture.compare_grad(f"{case}.mask_logits", logits.grad.numpy())
        assert same_shape and error < 1e-3
