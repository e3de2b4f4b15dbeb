"""SOLOv2 against recorded outputs of MMDetection and of the authors' code."""

from __future__ import annotations

import pytest
from parity.recorded import check_raw, recorded
from parity.test_solo import check_detections_of, check_losses_of, ran

STEMS = recorded("mmdet_solov2_", "wxinlong_solov2_")


@pytest.mark.parametrize("stem", STEMS)
def test_raw(stem):
    fixture, _, _, raw, pyramid = ran(stem)
    for i, level in enumerate(pyramid):
        check_raw(fixture, f"neck.{i}", level)
    for i, (logits, kernels) in enumerate(zip(raw.logits, raw.kernels, strict=True)):
        check_raw(fixture, f"cls_logits.{i}", logits)
        check_raw(fixture, f"kernel.{i}", kernels)
    check_raw(fixture, "mask_feat", raw.mask_features)


@pytest.mark.parametrize("case", ["plain", "padded_rescaled"])
@pytest.mark.parametrize("stem", STEMS)
def test_detections(stem, case):
    check_detections_of(stem, case)


@pytest.mark.parametrize("stem", STEMS)
def test_losses(stem):
    check_losses_of(stem)
