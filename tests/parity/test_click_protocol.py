"""The protocol of clicks against recorded loops of RITM's evaluation code: every click, every IoU, every NoC."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from parity.clicked import open_extra
from parity.recorded import recorded

from eachmask.metrics.clicks import clicked, noc


@pytest.fixture(scope="module", params=recorded("click_protocol"))
def fixture(request: pytest.FixtureRequest) -> Any:
    return open_extra(request.param)


def answer_of(labels: np.ndarray, radius: float) -> Any:
    """The stand-in for a network: a click stands for the pixels near it that have its label."""
    rows, columns = np.indices(labels.shape)

    def answer(clicks: Any) -> np.ndarray:
        found = np.zeros(labels.shape, bool)
        for positive, row, column in clicks:
            near = (rows - row) ** 2 + (columns - column) ** 2 <= radius**2
            found[near & (labels == labels[row, column])] = positive
        return found

    return answer


def test_loops_are_equal(fixture):
    said, labels = fixture.manifest["config"], fixture.arr("label_picture")
    names = [name for name in fixture.manifest["arrays"] if re.fullmatch(r"loop\..*\.clicks", name)]
    assert names
    for name in names:
        radius, case = re.fullmatch(r"loop\.radius(\d+)\.(.*)\.clicks", name).groups()  # type: ignore[union-attr]
        ours = clicked(
            answer_of(labels, float(radius)),
            fixture.arr(f"gt.{case}"),
            max_clicks=said["max_clicks"],
            enough=said["max_iou_thr"],
        )
        assert np.array_equal(np.array(ours.clicks, np.int32), fixture.arr(name)), name
        assert np.allclose(ours.ious, fixture.arr(name.replace(".clicks", ".iou")), rtol=0, atol=1e-6), name


def test_noc_is_equal(fixture):
    said = fixture.scalar("noc.loop")
    names = [name for name in fixture.manifest["arrays"] if re.fullmatch(r"loop\..*\.iou", name)]
    check(said, [fixture.arr(name) for name in names], fixture.manifest["config"]["max_clicks"])
    for name, made in fixture.scalar("noc.made").items():
        most = int(name.removeprefix("max "))
        check(made, [row[:most] for row in fixture.scalar("noc.made.ious")], most)


def check(said: Any, curves: Any, max_clicks: int) -> None:
    ours = [noc(curves, threshold, max_clicks) for threshold in said["thresholds"]]
    assert np.allclose([row[0] for row in ours], said["noc"], rtol=0, atol=1e-9)
    assert np.allclose([row[1] for row in ours], said["std"], rtol=0, atol=1e-9)
    assert [row[2] for row in ours] == said["over_max"]
