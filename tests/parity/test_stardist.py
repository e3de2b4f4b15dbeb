"""StarDist's targets, suppression and drawn polygons against recorded ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from parity.dense import made, open_dense
from parity.recorded import recorded

from eachmask.models.proposal_free.stardist import distance_loss
from eachmask.ops.stars import candidates, corners, object_probability, paint_stars, star_distances, suppress


def predictions(fixture: Any) -> tuple[np.ndarray, np.ndarray]:
    """The recorded distances and probabilities."""
    distances = star_distances(made(fixture, "instances"), fixture.manifest["config"]["rays"])
    rng = np.random.RandomState(11)
    n1, n2 = rng.standard_normal(distances.shape), rng.standard_normal(distances.shape)
    distances = np.maximum(distances * (1 + 0.08 * n1) + 0.3 * n2, 1e-3).astype(np.float32)
    probability = fixture.full("prob")
    noise = 0.08 * rng.standard_normal(probability.shape)
    return distances, np.clip(probability + noise, 0, 1).astype(np.float32)


def in_recorded_order(points: np.ndarray, probability: np.ndarray, survivors: np.ndarray) -> np.ndarray:
    """Best first; among equal scores the recorded survivors first, for the order of ties is the processor's."""
    place = {tuple(point): number for number, point in enumerate(survivors.tolist())}
    assert set(place) <= {tuple(point) for point in points.tolist()}
    keys = [(-probability[r, c], place.get((r, c), len(place))) for r, c in points.tolist()]
    return points[sorted(range(len(points)), key=keys.__getitem__)]


@pytest.mark.parametrize("stem", recorded("stardist_2d"))
def test_targets(stem):
    fixture = open_dense(stem)
    ids = made(fixture, "instances")
    assert np.abs(object_probability(ids) - fixture.full("prob")).max() < 1e-4
    assert np.abs(object_probability(ids) - fixture.full("prob_scipy")).max() < 1e-4
    rays = fixture.manifest["config"]["rays"]
    for name, info in fixture.manifest["raw"].items():
        if name == "dist_pred":
            ours = predictions(fixture)[0]
        else:
            other = int(name.removeprefix("dist_rays")) if name.startswith("dist_rays") else rays
            ours = star_distances(ids, other, int(name.removeprefix("dist_grid")) if "grid" in name else 1)
        error, same_shape = fixture.compare_raw(name, ours)
        assert same_shape and error * info["std"] < 1e-4, name


@pytest.mark.parametrize("stem", recorded("stardist_2d"))
def test_suppression_is_equal(stem):
    fixture = open_dense(stem)
    distances, probability = predictions(fixture)
    for name, said in fixture.manifest["config"]["nms"].items():
        seen = (distances * 0.45).astype(np.float32) if name.startswith("half") else distances
        points = candidates(probability, said["prob_thresh"], said.get("b", 2))
        points = in_recorded_order(points, probability, fixture.full(f"{name}.points"))
        kept = suppress(points, seen[tuple(points.T)], said["nms_thresh"])
        points = points[kept]
        scores = probability[tuple(points.T)]
        assert np.array_equal(points, fixture.full(f"{name}.points")), name
        assert np.array_equal(scores, fixture.full(f"{name}.scores"))
        labels = paint_stars(points, seen[tuple(points.T)], scores, probability.shape)
        assert np.array_equal(labels, fixture.full(f"{name}.labels"))
        if f"{name}.dist" in fixture.manifest["full"]:
            assert np.allclose(seen[tuple(points.T)], fixture.full(f"{name}.dist"), atol=1e-4)
    first = next(iter(fixture.manifest["config"]["nms"]))
    points = fixture.full(f"{first}.points")
    assert np.allclose(corners(points, distances[tuple(points.T)]), fixture.full("coord"), atol=1e-3)


@pytest.mark.parametrize("stem", recorded("stardist_2d"))
def test_losses(stem):
    fixture = open_dense(stem)
    said = fixture.manifest["losses"]
    distances, probability = (torch.from_numpy(x).double() for x in predictions(fixture))
    true = torch.from_numpy(fixture.full("prob")).double()
    target = torch.from_numpy(star_distances(made(fixture, "instances"), distances.shape[-1])).double()
    error = (distances - target).abs().mean(-1)
    assert float((true * error).mean()) == pytest.approx(said["mae_weighted_mean"], rel=1e-3)
    ours = distance_loss(distances.permute(2, 0, 1)[None], target.permute(2, 0, 1)[None], true[None], 0.0)
    assert float(ours) == pytest.approx(said["mae_weighted_over_sum_of_weights"], rel=1e-3)
    entropy = torch.nn.functional.binary_cross_entropy(probability.clamp(1e-7, 1 - 1e-7), true)
    assert float(entropy) == pytest.approx(said["bce_prob"], rel=1e-3)
