"""BlendMask's pieces against the paper's formulas."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F

from eachmask.models.instance.blendmask import IGNORED, blend, classes_of_pixels
from eachmask.structures import RLE, Instances


def test_blending_is_a_normalized_mixture_of_bases():
    torch.manual_seed(0)
    bases, attention = torch.randn(3, 4, 8, 8), torch.randn(3, 4, 2, 2)
    found = blend(bases, attention)
    large = F.interpolate(attention, size=(8, 8), mode="bilinear", align_corners=False)
    weights = large.exp() / large.exp().sum(dim=1, keepdim=True)
    expected = sum(bases[:, k] * weights[:, k] for k in range(4))
    assert torch.allclose(found, expected, atol=1e-5)
    # Sure attention takes one base as it is.
    attention[:], attention[:, 2] = -50.0, 50.0
    assert torch.allclose(blend(bases, attention), bases[:, 2], atol=1e-5)


def test_classes_of_pixels():
    bitmaps = np.zeros((3, 20, 30), bool)
    bitmaps[0, :10, :20] = bitmaps[1, 5:, 10:] = bitmaps[2, 14:18, 2:12] = True
    target = Instances(
        (20, 30),
        torch.zeros(3, 4),
        masks=RLE.from_bitmaps(bitmaps),
        labels=torch.tensor([4, 2, 0]),
        crowd=torch.tensor([False, False, True]),
    )
    full = np.full((24, 32), 7)
    full[:20, :30][bitmaps[0]], full[:20, :30][bitmaps[1]], full[:20, :30][bitmaps[2]] = 4, 2, IGNORED
    assert np.array_equal(classes_of_pixels(target, (3, 4), 7).numpy(), full[::8, ::8])
    assert IGNORED in classes_of_pixels(target, (3, 4), 7)
