"""Whether two predictors say the same, whatever they predict."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from eachmask.structures import Instances, Matte, PanopticMap, SemanticMap


def check(a: Any, b: Any) -> None:
    """Boxes within 0.1 px, scores within 1e-3, masks of an IoU above 0.99; of 1,000 pixels of a map 998; mattes."""
    assert type(a) is type(b)
    if isinstance(a, Instances):
        _check_instances(a, b)
    elif isinstance(a, SemanticMap):
        assert (a.labels == b.labels).float().mean() > 0.998
    elif isinstance(a, PanopticMap):
        assert len(a.segments) == len(b.segments)
        assert (a.ids == b.ids).float().mean() > 0.998
    else:
        assert isinstance(a, Matte)
        torch.testing.assert_close(a.alpha, b.alpha, atol=5e-3, rtol=0)


def _check_instances(a: Instances, b: Instances) -> None:
    assert len(a) == len(b)
    torch.testing.assert_close(a.boxes, b.boxes, atol=0.1, rtol=0)
    if a.scores is not None:
        torch.testing.assert_close(a.scores, b.scores, atol=1e-3, rtol=0)
    if a.masks is not None and b.masks is not None and len(a):
        iou = np.asarray(a.masks.iou(b.masks)).diagonal()
        assert (iou[a.masks.area() > 0] > 0.99).all()
