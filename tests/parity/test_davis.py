"""J and F against the evaluation of DAVIS 2017, number by number."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from parity.prompted import open_prompted

from eachmask.metrics import davis


@pytest.fixture(scope="module")
def fixture(shared) -> Any:
    return open_prompted(str(shared / "parity" / "davis2017_evaluation"))


def test_frames(fixture):
    names = fixture.scalar("frames.names")
    target, found, (void,) = (fixture.mask(f"frames.{name}") for name in ("gt", "result", "void"))
    edges = fixture.mask("frames.boundary_of_gt")
    for i, name in enumerate(names):
        said = fixture.scalar("frames.values")[name]
        assert (davis.contour(target[i]) == edges[i]).all()
        a, b = found[i], target[i]
        ours = {
            "J": davis.region_j(a, b),
            "F": davis.contour_f(a, b),
            "J_void": davis.region_j(a & ~void, b & ~void),
            "F_void": davis.contour_f(a & ~void, b & ~void),
            "F_th3": davis.contour_f(a, b, 3),
            "F_th_1_percent": davis.contour_f(a, b, 0.01),
        }
        assert ours == pytest.approx(said, abs=1e-6), name


def test_tiny_images(fixture):
    for said in fixture.scalar("tiny").values():
        target, found = (np.array(said[name]).astype(bool) for name in ("gt", "result"))
        assert (davis.contour(target) == np.array(said["boundary_gt"])).all()
        assert davis.region_j(found, target) == pytest.approx(said["J"])
        assert davis.contour_f(found, target) == pytest.approx(said["F"])


def test_statistics(fixture):
    for size, reach in fixture.scalar("radius").items():
        assert davis.radius([int(v) for v in size.split("x")]) == reach
    for num, said in fixture.scalar("statistics").items():
        values = said["values"]
        if isinstance(values, str):
            values = np.round(np.random.RandomState(int(num)).random_sample(int(num)), 4)
        assert davis.statistics(values) == pytest.approx(said["stats"], abs=1e-6, nan_ok=True), num


@pytest.mark.parametrize("task", ["semi-supervised", "unsupervised"])
def test_sequences(fixture, task):
    measure = davis.semi_supervised if task == "semi-supervised" else davis.unsupervised
    names = dict.fromkeys(name.rsplit("_", 1)[0] for name in fixture.scalar(f"{task}.objects"))
    every = []
    for name in names:
        target, found = (fixture.arr(f"{task}.{name}.{part}") for part in ("gt", "result"))
        scores = measure(found, target)
        order = np.argsort(scores.results, kind="stable")  # there, by the results
        assert scores.j[order] == pytest.approx(fixture.arr(f"{task}.{name}.J"), abs=1e-6), name
        assert scores.f[order] == pytest.approx(fixture.arr(f"{task}.{name}.F"), abs=1e-6), name
        every.append(scores)
    assert davis.summary(every) == pytest.approx(fixture.scalar(f"{task}.global"), abs=1e-6)


@pytest.mark.parametrize("by", ["j", "f"])
def test_matched_by_one_measure(fixture, by):
    means: list[float] = []
    for name in dict.fromkeys(name.rsplit("_", 1)[0] for name in fixture.scalar("unsupervised.objects")):
        target, found = (fixture.arr(f"unsupervised.{name}.{part}") for part in ("gt", "result"))
        scores = davis.unsupervised(found, target, by)
        values = scores.j if by == "j" else scores.f
        means += [float(row.mean()) for row in values[np.argsort(scores.results, kind="stable")]]
    assert means == pytest.approx(fixture.scalar(f"unsupervised.only_{by.upper()}_M"), abs=1e-6)
