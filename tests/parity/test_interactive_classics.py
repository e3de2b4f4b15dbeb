"""Cuts, walks and segments against recorded outputs of OpenCV, scikit-image and scipy."""

from __future__ import annotations

import re
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from parity.dense import dense, open_dense
from parity.recorded import recorded

from eachmask.models.promptable.grabcut import iterated_cuts
from eachmask.models.promptable.random_walker import probabilities
from eachmask.models.promptable.without_learning import classic
from eachmask.ops.min_cut import min_cut
from eachmask.ops.normalized_cut import normalized_cuts, region_graph
from eachmask.structures import Prompts


@pytest.fixture(scope="module", params=recorded("interactive_classics"))
def fixture(request: pytest.FixtureRequest) -> Any:
    return open_dense(request.param)


def made(fixture: Any, name: str) -> np.ndarray:
    """A recorded image, or with "instances" the objects of the first one, made again."""
    said = fixture.manifest["made"]
    call = said["photo" if name == "instances" else name]["how"]
    height, width, seed = (int(n) for n in re.search(r"make_photo\((\d+), (\d+), seed=(\d+)", call).groups())  # type: ignore[union-attr]
    result = dense().make_photo(height, width, seed=seed, hard="hard=True" in call)[name == "instances"]
    assert dense().digest(result) == said[name]["sha256"], f"{name} differs from the recorded one"
    return np.asarray(result)


@pytest.fixture(scope="module")
def photo(fixture: Any) -> np.ndarray:
    return made(fixture, "photo")


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / max((a | b).sum(), 1))


def test_minimum_cuts(fixture):
    names = [n.removesuffix(".source_side").removeprefix("maxflow.") for n in fixture.manifest["full"] if "side" in n]
    assert names
    for name in names:
        rows, columns = (int(n) for n in re.findall(r"\d+", name))
        seed = int(re.search(r"seed=(\d+)", fixture.manifest["made"][f"maxflow.{name}.capacity"]["how"])[1])  # type: ignore[index]
        edges, weights = dense().make_edges("grid", (rows, columns), seed=seed)
        source, sink = np.random.RandomState(seed + 1).randint(0, 120, (2, rows * columns))
        cut = min_cut(source, sink, edges, np.floor(100 * np.abs(weights)).astype(int))
        assert cut.flow == fixture.manifest["losses"][f"maxflow.{name}"]
        assert np.array_equal(cut.source_side, fixture.full(f"maxflow.{name}.source_side").astype(bool))


def test_grabcut(fixture, photo):
    hint, expected = fixture.full("grabcut.hint"), np.isin(fixture.full("grabcut.mask5"), (1, 3))
    assert iou(iterated_cuts(photo, hint, 5), expected) > 0.9
    for name, image, box in (("rect5", photo, "box_xywh"), ("hard5", made(fixture, "photo_hard"), "hard_box_xywh")):
        x, y, w, h = fixture.manifest["grabcut"][box]
        seen = torch.from_numpy(image).permute(2, 0, 1) / 255
        found = classic("grabcut").answer(seen, Prompts(image.shape[:2], boxes=[[x, y, x + w, y + h]])).numpy() > 0.5
        assert iou(found, np.isin(fixture.full(f"grabcut.{name}"), (1, 3))) > 0.9, name


def test_random_walks(fixture, photo):
    seeds = fixture.full("seeds").astype(int)
    found = probabilities(photo / 255.0, seeds, beta=130, tolerance=1e-8)
    expected = fixture.full("random_walker.colour")
    assert (found.argmax(0) + 1 == expected).mean() > 0.999


def test_normalized_cuts(fixture, photo):
    slic = fixture.full("slic").astype(np.int64)
    pairs, weights = region_graph(photo, slic - 1)
    recorded_links = zip(fixture.full("rag.edges").tolist(), fixture.full("rag.weights"), strict=True)
    expected = {tuple(sorted(edge)): weight for edge, weight in recorded_links}
    first = min(min(e) for e in expected)
    assert {tuple(e + first) for e in pairs} == set(expected)
    assert weights == pytest.approx([expected[tuple(e + first)] for e in pairs], rel=1e-6, abs=1e-12)
    for name in fixture.manifest["full"]:
        if found := re.fullmatch(r"cut_normalized\.([\d.]+)", name):
            labels = normalized_cuts(int(slic.max()), pairs, weights, threshold=float(found[1]))[slic - 1]
            theirs = fixture.full(name).astype(int)
            together = np.unique(np.stack([labels.ravel(), theirs.ravel()]), axis=1).shape[1]
            assert together == len(np.unique(labels)) == len(np.unique(theirs)), "the same parts"


def test_pixels_are_classified(fixture, photo):
    pytest.importorskip("sklearn")
    from eachmask.models.promptable.pixel_classifier import PixelClassifier

    objects = made(fixture, "instances") > 0
    marked = np.random.RandomState(2).random_sample(objects.shape) < 0.02
    found = PixelClassifier().fit([photo], [np.where(marked, objects + 1, 0)]).predict(photo)
    right = float((found.argmax(2) == objects).mean())
    assert right > fixture.manifest["losses"]["trainable_accuracy"] - 0.01
    assert cv2.countNonZero(objects.astype(np.uint8)) > 0
