"""What a backbone says of objects is read while the model predicts."""

from __future__ import annotations

import numpy as np
import torch
from tiny_model import Spots, spots_info
from torch import nn

from eachmask.backbones.features import Features
from eachmask.inference.appearance import WIDTH, Appearance
from eachmask.inference.predictor import Predictor
from eachmask.structures import RLE, ImageBatch


class Colors(nn.Module):
    """A pyramid of one map: the image, smaller."""

    def forward(self, images: torch.Tensor) -> Features:
        return Features((nn.functional.avg_pool2d(images, 8),), (8,), (3,))


class SpotsWithBackbone(Spots):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = Colors()

    def forward(self, images: ImageBatch):  # noqa: ANN201
        self.backbone(images.tensor)
        return super().forward(images)


def image() -> np.ndarray:
    found = np.zeros((64, 96, 3), np.uint8)
    found[8:24, 8:24], found[40:56, 64:80], found[8:24, 64:80] = (255, 0, 0), (255, 0, 0), (0, 0, 255)
    return found


def masks() -> RLE:
    maps = np.zeros((4, 64, 96), bool)
    maps[0, 8:24, 8:24] = maps[1, 40:56, 64:80] = maps[2, 8:24, 64:80] = True
    maps[3, 17, 17] = True  # smaller than a place of the map
    return RLE.from_bitmaps(maps)


def predictor(model: nn.Module) -> Predictor:
    return Predictor(model, spots_info(), device="cpu", precision="fp32", optimize=False)


def test_objects_that_look_alike_have_like_vectors():
    found = predictor(SpotsWithBackbone())
    appearance = Appearance(found)
    for _ in range(2):
        with appearance.listening():
            found.predict(image())
    vectors = appearance.of(masks())
    assert vectors.shape == (4, WIDTH) and np.allclose(np.linalg.norm(vectors, axis=1), 1)
    alike = vectors @ vectors.T
    assert alike[0, 1] > 0.99 and alike[0, 3] > 0.99 and alike[0, 2] < 0.5
    assert not found.model.backbone._forward_hooks, "nobody listens any more"
    assert appearance.of(masks()[:0]).shape == (0, WIDTH)


def test_without_one_map_of_the_whole_image_nothing_is_said():
    without, tiled = predictor(Spots()), predictor(SpotsWithBackbone())
    for one, tile in ((without, None), (tiled, 64)):
        appearance = Appearance(one)
        with appearance.listening():
            one.predict(image(), tile=tile)
        assert appearance.of(masks()) is None
