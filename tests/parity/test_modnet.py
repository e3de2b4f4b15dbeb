"""MODNet against recorded outputs of its authors' code."""

from __future__ import annotations

from typing import Any

import pytest
from parity.dense import open_dense
from parity.recorded import batch, check_raw, recorded, weights

from eachmask import models
from eachmask.weights import from_modnet
from eachmask.weights.renaming import fill


@pytest.mark.parametrize("stem", recorded("modnet"))
def test_all_outputs(stem: str) -> None:
    fixture: Any = open_dense(stem)
    model = models.variant("modnet")(width=fixture.manifest["config"]["hr_channels"]).eval()
    fill(model, from_modnet.convert(weights(fixture)))
    for i, found in enumerate(model.maps(batch(fixture).tensor)):
        check_raw(fixture, f"backbone.enc{i}", found)
    raw = model(batch(fixture))
    for name, ours in {"semantic": raw.semantic, "detail": raw.detail, "matte": raw.alpha}.items():
        check_raw(fixture, name, ours)
