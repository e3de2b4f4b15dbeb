"""What is made of Grounding DINO's answers against what transformers recorded."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from parity.clicked import open_extra
from parity.recorded import recorded

from eachmask.inference.words import choose


@pytest.fixture(scope="module", params=recorded("grounding_dino"))
def fixture(request: pytest.FixtureRequest) -> Any:
    return open_extra(request.param)


def test_boxes_and_scores(fixture):
    names = [n.removesuffix(".post.scores") for n in fixture.manifest["arrays"] if n.endswith(".post.scores")]
    assert names
    for name in names:
        logits, boxes = (torch.from_numpy(fixture.arr(f"{name}.{what}")) for what in ("logits", "boxes"))
        expected = fixture.arr(f"{name}.post.scores")
        size, threshold = (240, 448), 0.9
        scores, corners, _ = choose(logits, boxes, size, threshold)
        assert len(scores) == len(expected), name
        assert fixture.compare_arr(f"{name}.post.scores", scores.numpy()) < 1e-3
        assert fixture.compare_arr(f"{name}.post.boxes", corners.numpy()) < 1e-3
