"""Automatic matting: a network says which pixels are surely foreground and surely not, and closed form fills the rest.

Shen, Tao, Gao, Zhou, Jia: "Deep Automatic Portrait Matting", ECCV 2016. Written from the paper.

The idea: closed form matting is good where it knows enough, and a band of one width around a mask is a poor thing to
know: too narrow at hair, too wide along a sleeve. Telling foreground, background and undecided pixels apart is a task
of labels, which networks learn well; what the network is sure of, the solver takes for known.

Where we differ from the paper: any object that a mask or a trimap means takes the place of portraits, so that the
network sees the trimap beside the image and says something only of what that leaves open; EfficientNet-Lite0 and a
ladder take the place of FCN-8s; a label counts from a probability on, where the paper weighs each by it in the solver's
equation; losses are taken of what the network says, not through the solver. It also learns an opacity, which is the
answer in tiles that show foreground or background alone, where there is nothing to solve from.

Shapes: B images of H x W px.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eachmask.backbones.by_name import backbone_named
from eachmask.models.config import changed
from eachmask.models.matting.network import UNIT, Mattes, MattingNetwork, Target
from eachmask.models.matting.solvers import solved
from eachmask.models.matting.trimap_ladder import TrimapLadder, padded, planes_of
from eachmask.models.matting.trimap_network import stacked
from eachmask.structures import DecodeOptions, ImageBatch, Matte, Trimap
from eachmask.structures.spatial import Spatial

FOREGROUND, UNKNOWN, BACKGROUND, OPACITY = range(4)
"""Channels of what the network says: logits of three labels, and of the opacity."""
MEAN, STD = 127 / 255, 128 / 255
"""Of the colors that EfficientNet-Lite knows."""


class Raw(NamedTuple):
    """What the network says of a batch."""

    said: Tensor  # (B, 4, H, W) logits of foreground, undecided and background, and of the opacity
    known: Tensor  # (B, 3, H, W) 0 or 1: foreground, unknown and background as the trimap has them
    images: Tensor  # (B, 3, H, W) in 0..1
    sizes: tuple[tuple[int, int], ...]  # valid (height, width)


@dataclass(frozen=True)
class Config:
    """What a variant may change."""

    backbone: str = "tf_efficientnet_lite0"
    """Any network whose finest map has stride 2, see :func:`eachmask.backbones.by_name.backbone_named`."""
    widths: tuple[int, ...] = (96, 64, 48, 32)
    """Channels of the ladder at strides 16, 8, 4, 2."""
    solid: float = 0.95
    """A pixel is foreground from this opacity on, and background up to the rest of it."""
    sure: float = 0.9
    """A label counts from this probability on."""
    max_side: int = 1024
    """What is unknown in larger images is solved at this longer side, px, and enlarged."""


class AutomaticMatting(MattingNetwork[Raw]):
    """A backbone that sees the image, a ladder that sees the trimap too, and a solver.

    Images are in 0..1, not normalized: the solver wants colors as they are.
    """

    preprocess = UNIT
    takes = Trimap
    backbone_from = "clicks"

    def __init__(self, num_classes: int, config: Config) -> None:
        super().__init__()
        self.num_classes, self.config = num_classes, config
        self.backbone: Any = backbone_named(config.backbone, finest=2)
        self.ladder = TrimapLadder(self.backbone.channels, config.widths)
        # 4 maps times 2 x 2 sub-pixels (Shi et al., CVPR 2016)
        self.head = nn.Conv2d(config.widths[-1], 4 * 4, 3, padding=1)

    def forward(self, images: ImageBatch, given: Sequence[Spatial] | None = None) -> Raw:
        """(B, 3, H, W) and a trimap of each -> (B, 4, H, W).

        Raises:
            UserError: no trimap is given.
        """
        known = stacked(images, given)
        if not known[:, 1].any():  # as in most tiles of a large image
            return Raw(torch.zeros_like(known[:, :1]).expand(-1, 4, -1, -1), known, images.tensor, images.sizes)
        height, width = known.shape[2:]
        seen = padded((images.tensor - MEAN) / STD)
        said = F.pixel_shuffle(self.head(self.ladder(seen, padded(planes_of(known)), self.backbone(seen).maps)), 2)
        return Raw(said[..., :height, :width], known, images.tensor, images.sizes)

    def losses(self, raw: Raw, targets: list[Matte]) -> dict[str, Tensor]:
        """Cross-entropy of the labels and absolute differences of the opacity, where the trimap leaves it open."""
        target = Target.of(targets, raw.said[:, :1]).alpha[:, 0]
        unknown = raw.known[:, 1]
        count = unknown.sum().clamp(min=1)
        labels = torch.full_like(target, UNKNOWN, dtype=torch.int64)
        labels[target >= self.config.solid] = FOREGROUND
        labels[target <= 1 - self.config.solid] = BACKGROUND
        entropy = F.cross_entropy(raw.said[:, :OPACITY].float(), labels, reduction="none")
        apart = (raw.said[:, OPACITY].float().sigmoid() - target).abs()
        return {"labels": (entropy * unknown).sum() / count, "opacity": 2 * (apart * unknown).sum() / count}

    def select(self, raw: Raw, options: DecodeOptions) -> Mattes:
        """The solver's opacities; what the trimap knows stays as it is.

        Raises:
            UserError: pymatting is not installed.
        """
        mattes = []
        for said, planes, image, (height, width) in zip(raw.said, raw.known, raw.images, raw.sizes, strict=True):
            mattes.append(self._solved(*(x[:, :height, :width] for x in (said.float(), planes, image))))
        return Mattes(tuple(mattes))

    def _solved(self, said: Tensor, planes: Tensor, image: Tensor) -> Tensor:
        """(H, W) of one image, from (4, H, W), (3, H, W) and (3, H, W)."""
        surely, unknown, _ = planes
        trimap = torch.where(unknown > 0, self.told(said), surely)
        if (trimap == 1).any() and (trimap == 0).any():
            return solved(image, trimap, "closed_form", self.config.max_side)
        shares = said[:OPACITY].softmax(0)
        opacity = shares[FOREGROUND] + shares[UNKNOWN] * said[OPACITY].sigmoid()
        return torch.where(unknown > 0, opacity, surely)

    def told(self, said: Tensor) -> Tensor:
        """What the network says (4, H, W) as a trimap (H, W): 1 foreground, 0 background, 0.5 undecided."""
        shares = said[:OPACITY].softmax(0)
        known = shares.amax(0) >= self.config.sure
        return torch.where(known, 1 - shares.argmax(0) / 2, 0.5)


# Variants -------------------------------------------------------------------------------------------------------------


def automatic_matting_lite0(num_classes: int = 1, **config: Any) -> AutomaticMatting:
    """EfficientNet-Lite0; 3.5 million weights: learns and answers on a CPU."""
    return AutomaticMatting(num_classes, changed(Config(), config))
