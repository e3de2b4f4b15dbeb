"""What a model's own backbone says of the objects that it found: by this they are known again in other frames.

The backbone's map is read while the model predicts, so that it costs nothing: of each object the mean within its mask,
without the mean of the frame, brought to few numbers by a random projection, which keeps angles (Johnson and
Lindenstrauss: "Extensions of Lipschitz mappings into a Hilbert space", 1984).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from eachmask.backbones.features import Features
from eachmask.inference.predictor import Predictor
from eachmask.structures import Masks

WIDTH = 64
"""Numbers that are kept of an object."""
STRIDE = 8
"""Px, as the network sees the image, of a place of the map: of a backbone's strides the nearest one is taken."""


class Appearance:
    """The maps of a predictor's backbone, and what they say of masks.

    Args:
        predictor: of any model; one whose backbone gives no :class:`~eachmask.backbones.features.Features` says
            nothing.
    """

    def __init__(self, predictor: Predictor[Any]) -> None:
        self.predictor = predictor
        self._seen: list[Features] = []

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """While one image is predicted; what was heard of the image before is forgotten."""
        self._seen.clear()
        backbone = getattr(self.predictor.model, "backbone", None)
        if not isinstance(backbone, nn.Module):
            yield
            return
        hook = backbone.register_forward_hook(self._hear)
        try:
            yield
        finally:
            hook.remove()

    def _hear(self, module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, Features):
            self._seen.append(output)

    def of(self, masks: Masks) -> NDArray[np.float64] | None:
        """(N, :data:`WIDTH`) vectors of length 1; None where the model has no such map of the whole image, because it
        has no such backbone or cuts images into tiles.

        Args:
            masks: N objects of the image that was predicted last, in its own pixels.
        """
        if len(self._seen) != 1 or len(self._seen[0].maps[0]) != 1:
            return None
        features = self._seen[0]
        level = min(range(len(features.maps)), key=lambda i: abs(features.strides[i] - STRIDE))
        stride, whole = features.strides[level], features.maps[level][0].detach().float().cpu()
        height, width = self.predictor.info.preprocess.target_size(int(masks.size[0]), int(masks.size[1]))
        values = whole[:, : max(1, height // stride), : max(1, width // stride)]
        inside = torch.from_numpy(_inside(masks, (values.shape[1], values.shape[2])))
        centered = values - values.mean((1, 2), keepdim=True)
        means = inside.flatten(1).to(values) @ centered.flatten(1).T / inside.flatten(1).sum(1, keepdim=True)
        found: NDArray[np.float64] = nn.functional.normalize(_projected(means)).double().numpy()
        return found


def _inside(masks: Masks, size: tuple[int, int]) -> NDArray[np.bool_]:
    """(N, h, w) places within masks; of one that is too small for any, that in the middle of its box."""
    inside = np.array(masks.resize(size).to_rle().decode(), bool).reshape(len(masks), *size)
    shares = np.array([size[1] / masks.size[1], size[0] / masks.size[0]])
    for one, (x1, y1, x2, y2) in zip(inside, masks.boxes().tolist(), strict=True):
        if not one.any():
            x, y = np.array([x1 + x2, y1 + y2]) / 2 * shares
            one[min(int(y), size[0] - 1), min(int(x), size[1] - 1)] = True
    return inside


def _projected(vectors: Tensor) -> Tensor:
    """(N, C) -> (N, WIDTH), the same way in every run."""
    generator = torch.Generator().manual_seed(0)
    return vectors @ torch.randn(vectors.shape[1], WIDTH, generator=generator)
