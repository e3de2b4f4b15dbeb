"""SAM 2: Segment Anything in images and videos; this is its image half (the other: :mod:`eachmask.models.video`).

Ravi, Gabeur, Hu, Hu, Ryali, Ma, Khedr, Rädle, Rolland, Gustafson, Mintun, Pan, Alwala, Carion, Wu, Girshick, Dollár,
Feichtenhofer: "SAM 2: Segment Anything in Images and Videos", 2024, arXiv 2408.00714; the settings are those of 2.1.

The idea: SAM's decoder on a hierarchical encoder, whose finer maps are added to the enlarged features; a token says
whether the object can be seen at all; and the single mask of prompts that leave no doubt gives way to the best of the
three others where it is unstable, that is, where few pixels change it much:

    stability = pixels above 0.05 / pixels above -0.05 < 0.98.

A still image has no memory: a learned vector stands for it (:meth:`SAM2.encode` adds it, :meth:`SAM2.look` does not).

Where we differ: images are stretched to a square as in the authors' code, but any size is taken.

Shapes: as in :mod:`eachmask.models.promptable.sam`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eachmask.backbones.hiera import Hiera, HieraConfig
from eachmask.models.config import changed
from eachmask.models.promptable import sam
from eachmask.models.promptable.mask_decoder import Decoded, MaskDecoder, by_cells
from eachmask.models.promptable.prompt_tokens import Said
from eachmask.models.promptable.sam import SAM, Embedding, Raw, size_of
from eachmask.structures import DecodeOptions, ImageBatch, Preprocess
from eachmask.structures.soft_masks import Samples

MAX_LOGIT = 32.0
"""Of an earlier answer that is heard again."""


@dataclass(frozen=True)
class Config(sam.Config):
    """What a variant may change."""

    encoder: HieraConfig = HieraConfig()  # type: ignore[assignment]
    stability_offset: float = 0.05
    stability_threshold: float = 0.98


class Maps(NamedTuple):
    """What is seen of B images, before there is any memory."""

    features: Tensor  # (B, C, h, w), stride 16
    finer: tuple[Tensor, Tensor]  # (B, C / 4, 2 h, 2 w) and (B, C / 8, 4 h, 4 w)


class Neck(nn.Module):
    """A feature pyramid whose two finest maps get nothing from above, and without its coarsest one."""

    def __init__(self, channels: tuple[int, ...], width: int) -> None:
        super().__init__()
        self.lateral = nn.ModuleList([nn.Conv2d(c, width, 1) for c in channels])

    def forward(self, maps: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Maps at strides 4, 8, 16, 32 -> (B, C, h, w) at 4, 8, 16."""
        *finer, last, top = (layer(x) for layer, x in zip(self.lateral, maps, strict=True))
        return *finer, last + F.interpolate(top.float(), size_of(last), mode="nearest").to(last.dtype)


class SAM2(SAM):
    """SAM on a hierarchy of maps."""

    samples: ClassVar[Samples] = "direct"
    padding = True
    config: Config

    def __init__(self, num_classes: int = 1, config: Config | None = None) -> None:
        config = config or Config()
        super().__init__(Hiera(config.encoder), config.encoder.channels[-1], num_classes, config)
        width = config.decoder.width
        self.neck = Neck(config.encoder.channels, width)  # type: ignore[assignment]
        self.decoder = MaskDecoder(config.decoder, presence=True)
        self.at_half = nn.Conv2d(width, width // 4, 1)
        self.at_quarter = nn.Conv2d(width, width // 8, 1)
        self.no_memory = nn.Parameter(torch.zeros(1, 1, width))

    def look(self, images: ImageBatch) -> Maps:
        """What is seen of images, as a video needs it."""
        quarter, half, features = self.neck(self.encoder(images.tensor))
        return Maps(features.float(), (self.at_half(half).float(), self.at_quarter(quarter).float()))

    def encode(self, images: ImageBatch) -> Embedding:
        """Look at still images."""
        seen = self.look(images)
        features = seen.features + self.no_memory[..., None].transpose(1, 2)
        return Embedding(features, images.sizes, size_of(images.tensor), seen.finer)

    def finer(self, embedding: Embedding, image: int) -> tuple[Tensor, Tensor] | None:
        """See :meth:`SAM.finer`."""
        half, quarter = (maps[image : image + 1] for maps in embedding.finer)
        return by_cells(half, 2), by_cells(quarter, 4)

    def answer(self, embedding: Embedding, image: int, asked: Said) -> Decoded:
        """See :meth:`SAM.answer`."""
        if asked.masks is not None:
            asked = asked._replace(masks=asked.masks.clamp(-MAX_LOGIT, MAX_LOGIT))
        return super().answer(embedding, image, asked)

    def meant(self, raw: Raw, options: DecodeOptions) -> Tensor:
        """See :meth:`SAM.meant`: an unstable single mask is not meant."""
        return super().meant(raw._replace(sure=raw.sure & self.stable(raw.logits[:, 0])), options)

    def stable(self, logits: Tensor) -> Tensor:
        """(P, h, w) -> (P,) bool: few pixels are near the edge."""
        offset = self.config.stability_offset
        inner, outer = ((logits.flatten(1) > level).sum(1) for level in (offset, -offset))
        return (inner / outer.clamp(min=1) >= self.config.stability_threshold) | (outer == 0)


# Variants -------------------------------------------------------------------------------------------------------------

PREPROCESS = Preprocess(short_side=None, fixed_size=(1024, 1024), divisor=1, resampling="antialias")
"""What the authors' weights are for."""
SMALL = Config(HieraConfig(depths=(1, 2, 11, 2), everywhere=(7, 10, 13)))
BASE = Config(HieraConfig(width=112, heads=2, depths=(2, 3, 16, 3), everywhere=(12, 16, 20), background=(14, 14)))
LARGE = Config(HieraConfig(width=144, heads=2, depths=(2, 6, 36, 4), everywhere=(23, 33, 43), windows=(8, 4, 16, 8)))


def sam2_hiera_t(num_classes: int = 1, **config: Any) -> SAM2:
    """Hiera-T: 12 blocks, 96 channels at first."""
    return SAM2(num_classes, changed(Config(), config))


def sam2_hiera_s(num_classes: int = 1, **config: Any) -> SAM2:
    """Hiera-S: 16 blocks."""
    return SAM2(num_classes, changed(SMALL, config))


def sam2_hiera_b_plus(num_classes: int = 1, **config: Any) -> SAM2:
    """Hiera-B+: 24 blocks, 112 channels at first."""
    return SAM2(num_classes, changed(BASE, config))


def sam2_hiera_l(num_classes: int = 1, **config: Any) -> SAM2:
    """Hiera-L: 48 blocks, 144 channels at first."""
    return SAM2(num_classes, changed(LARGE, config))
