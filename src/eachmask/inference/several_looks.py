"""Several looks at one image: at other sizes and mirrored, their opinions of each pixel's class averaged.

Of objects the engine joins what was found (:mod:`eachmask.ops.looks`).

Multi-scale and flip testing, as papers on semantic segmentation report it (Chen et al., arXiv 1606.00915, section 4.1).
Each look costs one more pass of the network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eachmask.models.protocol import Promptable
from eachmask.models.semantic.labeling import Labeling, resized
from eachmask.structures import DecodeOptions, ImageBatch, Preprocess, UserError


def check_looks(network: type[Any], scales: Sequence[float], preprocess: Preprocess) -> None:
    """Raises UserError where results of a class of networks are neither averaged nor joined, where it sees every image
    at one size, or where a scale is out of range."""
    if not issubclass(network, Labeling) and (issubclass(network, Promptable) or network.task.join is None):
        raise UserError("several looks are for models of label maps and of objects: leave out --scales, --flip")
    if not scales or not all(0.25 <= scale <= 4 for scale in scales):
        raise UserError(f"--scales must lie in 0.25 to 4, not {', '.join(f'{scale:g}' for scale in scales)}")
    for scale in scales:
        preprocess.scaled(scale)


class SeveralLooks(nn.Module):
    """A network that labels pixels, asked once for each scale, and once more for its mirror image.

    Args:
        scales: of the image as the network usually sees it, each 0.25 to 4.
        flip: also mirrored, left to right.
        divisor: sides of what the network sees are multiples of it.
    """

    def __init__(self, model: nn.Module, scales: Sequence[float], flip: bool, divisor: int = 32) -> None:
        super().__init__()
        assert isinstance(model, Labeling)
        self.model, self.scales, self.divisor = model, tuple(scales), divisor
        self.mirrored = (False, True) if flip else (False,)
        self.task, self.num_classes, self.suppresses = model.task, model.num_classes, model.suppresses

    def forward(self, images: ImageBatch, given: Any = None) -> Any:
        """What the network says of the image as it is, with the mean opinion of all looks in place of its scores."""
        raw = self.model(images)
        size = raw.logits.shape[-2:]
        total = torch.zeros_like(raw.logits, dtype=torch.float32)
        for scale in self.scales:
            for mirrored in self.mirrored:
                seen = self._seen(images, scale, mirrored)
                logits = raw.logits if seen is images else self.model(seen).logits
                probabilities = logits.float().softmax(1)
                total += resized(probabilities.flip(-1) if mirrored else probabilities, size)
        return raw._replace(logits=total / (len(self.scales) * len(self.mirrored)), aux=None)

    def decode(self, raw: Any, options: DecodeOptions) -> Any:
        """As the network itself."""
        return self.model.decode(raw, options)

    def _seen(self, images: ImageBatch, scale: float, mirrored: bool) -> ImageBatch:
        if scale == 1 and not mirrored:
            return images
        size = tuple(max(1, round(side * scale / self.divisor)) * self.divisor for side in images.tensor.shape[-2:])
        tensor: Tensor = images.tensor
        if size != tuple(tensor.shape[-2:]) and scale != 1:
            tensor = F.interpolate(tensor, size=size, mode="bilinear", align_corners=False)
        sizes = ((int(tensor.shape[-2]), int(tensor.shape[-1])),) * len(images)
        return replace(images, tensor=tensor.flip(-1) if mirrored else tensor, sizes=sizes)
