"""SAM 2 in videos: prompts on any frame, and a memory that carries the objects through the others.

Ravi et al.: "SAM 2: Segment Anything in Images and Videos", 2024, arXiv 2408.00714; the settings are those of 2.1.

The idea: each object has a memory of its own: small maps of the frames that were prompted and of the last six ones, and
pointers, which are the mask tokens of up to sixteen frames. The features of a new frame attend to them, and the image
decoder, without any prompt, makes the mask of what they have become:

    x <- x + attention(x, memory + code of place and time, memory).

:class:`~eachmask.models.video.sam2_session.Session` keeps the memory and runs this network over a video.

Where we differ: holes are not filled. The maps of memory are rounded to bfloat16 as in the authors' code.

Shapes: B = 1 frame and object at a time; h x w cells of the feature grid, C channels, M of memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eachmask.models.config import changed
from eachmask.models.instance.boundaryformer import map_encoding
from eachmask.models.promptable import sam2
from eachmask.models.promptable.mask_decoder import MLP, by_cells
from eachmask.models.promptable.prompt_encoder import NOTHING
from eachmask.models.promptable.sam2 import SAM2, Maps
from eachmask.models.video.sam2_memory import MemoryAttention, MemoryConfig, MemoryEncoder, time_code
from eachmask.structures import ImageBatch

STRIDE = 16
"""Px of a cell."""
ABSENT = -1024.0
"""Logit where an object cannot be seen."""
GIVEN_LOGIT = 10.0
"""Of a mask that is given, and of whether there is one."""


@dataclass(frozen=True)
class Config(sam2.Config):
    """What a variant may change."""

    memory: MemoryConfig = MemoryConfig()
    side: int = 1024
    """Px of the square that frames are stretched to, a multiple of 32."""


class Found(NamedTuple):
    """An object in a frame."""

    logits: Tensor  # (1, 1, 4 h, 4 w)
    pointer: Tensor  # (1, C)
    presence: Tensor  # (1,) logit
    memory: Tensor | None = None  # (1, M, h, w), rounded to bfloat16


class Remembered(NamedTuple):
    """What of earlier (or later) frames is read."""

    maps: Sequence[tuple[int, Tensor]]  # frames before the present one, 0 for prompted ones; (1, M, h, w)
    pointers: Sequence[tuple[int, Tensor]]  # frames before the present one; (1, C)
    span: int  # frames whose pointers may be read, at most


class SAM2Video(SAM2):
    """SAM 2 with both halves."""

    config: Config

    def __init__(self, num_classes: int = 1, config: Config | None = None) -> None:
        config = config or Config()
        super().__init__(num_classes, config)
        memory, width = config.memory, config.decoder.width
        self.memory_attention = MemoryAttention(width, memory)
        self.memory_encoder = MemoryEncoder(width, memory)
        self.times = nn.Parameter(torch.zeros(memory.frames, 1, 1, memory.width))
        self.pointer = MLP((width, width, width, width))
        self.pointer_time = nn.Linear(width, memory.width)
        self.no_pointer = nn.Parameter(torch.zeros(1, width))
        self.no_object = nn.Parameter(torch.zeros(1, memory.width))
        self.given_mask = nn.Conv2d(1, 1, 4, stride=4)

    # Answers ----------------------------------------------------------------------------------------------------------

    def look_at(self, frame: Tensor) -> Maps:
        """What is seen of a normalized frame (3, H, W)."""
        return self.look(ImageBatch(frame[None], ((int(frame.shape[1]), int(frame.shape[2])),)))

    def blank(self, seen: Maps) -> Tensor:
        """The features of a frame of which nothing is remembered, (1, C, h, w)."""
        return seen.features + self.no_memory[..., None].transpose(1, 2)

    def answer_in(
        self,
        seen: Maps,
        features: Tensor,
        points: Tensor | None = None,
        kinds: Tensor | None = None,
        masks: Tensor | None = None,
        *,
        single: bool = False,
    ) -> Found:
        """The object that prompts mean, or that memory means where there are none.

        Args:
            features: (1, C, h, w), with what memory says.
            points: (T, 2) px as the network sees frames; kinds: (T,).
            masks: (1, 1, 4 h, 4 w) logits.
            single: the first mask is meant however few points there are.
        """
        size = (features.shape[2], features.shape[3])
        own = features.new_zeros(0, 2) if points is None else points.to(features)
        sorts = torch.zeros(0, dtype=torch.int64, device=own.device) if kinds is None else kinds.to(own.device)
        ends = 1 if len(own) else 2  # without any prompt there is one point that is nothing, and another ends it
        places = torch.cat([own, own.new_zeros(ends, 2)])[None]
        sorts = torch.cat([sorts, sorts.new_full((ends,), NOTHING)])[None]
        half, quarter = seen.finer
        decoded = self.decoder(
            features + self.prompts.dense(masks),
            self.prompts.position.grid(size),
            self.tokens(places, sorts, (STRIDE * size[0], STRIDE * size[1])),
            (by_cells(half, 2), by_cells(quarter, 4)),
        )
        best = 1 + int(decoded.ious[0, 1:].argmax())
        single = single or len(own) > 1
        shown = 0 if single and bool(self.stable(decoded.logits[:, 0])) else best
        there = decoded.presence[:, None] > 0
        logits = decoded.logits[:, shown : shown + 1].masked_fill(~there[..., None, None], ABSENT)
        pointer = self.pointer(decoded.tokens[:, 0 if single else best])
        return Found(logits, torch.where(there, pointer, self.no_pointer), decoded.presence)

    def answer_mask(self, seen: Maps, mask: Tensor) -> Found:
        """The object whose mask is given: (1, 1, 16 h, 16 w) of 0 and 1."""
        side = (mask.shape[2] // 4, mask.shape[3] // 4)
        scaled = mask * GIVEN_LOGIT * 2 - GIVEN_LOGIT
        logits = F.interpolate(scaled, side, mode="bilinear", align_corners=False, antialias=True)
        found = self.answer_in(seen, seen.features, masks=self.given_mask(mask), single=True)
        there = mask.flatten(1).any(1)
        pointer = torch.where(there[:, None], found.pointer, self.no_pointer)
        return Found(logits, pointer, there.to(mask) * GIVEN_LOGIT * 2 - GIVEN_LOGIT)

    # Memory -----------------------------------------------------------------------------------------------------------

    def remember(self, seen: Maps, found: Found, prompted: bool) -> Found:
        """With what is kept of it.

        Args:
            prompted: the mask counts as certain.
        """
        return found._replace(memory=self.written(seen, found, prompted).bfloat16())

    def written(self, seen: Maps, found: Found, prompted: bool) -> Tensor:
        """What is kept, (1, M, h, w), before it is rounded."""
        config = self.config.memory
        size = [STRIDE * side for side in seen.features.shape[2:]]
        logits = F.interpolate(found.logits, size, mode="bilinear", align_corners=False)
        masks = (logits > 0).to(logits) if prompted else logits.sigmoid()
        kept = self.memory_encoder(seen.features, masks * config.scale + config.bias)
        absent = (found.presence[:, None] <= 0).to(kept)
        return kept + (absent * self.no_object)[..., None, None]  # type: ignore[no-any-return]

    def recall(self, seen: Maps, remembered: Remembered) -> Tensor:
        """The features of a frame with what memory says of them, (1, C, h, w)."""
        memory, code, pointers = self.tokens_of(remembered)
        return self.memory_attention(seen.features, memory, code, pointers)  # type: ignore[no-any-return]

    def tokens_of(self, remembered: Remembered) -> tuple[Tensor, Tensor, int]:
        """Memory (1, S, M), its code (1, S, M), and how many tokens at the end are of pointers."""
        tokens, codes = [], []
        for before, kept in remembered.maps:
            maps = kept.to(self.times.dtype)
            place = map_encoding(maps[0], 1.0)[None]
            tokens.append(maps.flatten(2).transpose(1, 2))
            codes.append(place.flatten(2).transpose(1, 2) + self.times[before - 1, 0])
        if not remembered.pointers:
            return torch.cat(tokens, 1), torch.cat(codes, 1), 0
        width = self.config.memory.width
        pointers = torch.cat([pointer for _, pointer in remembered.pointers])
        since = torch.tensor([t for t, _ in remembered.pointers], device=pointers.device, dtype=pointers.dtype)
        parts = pointers.shape[1] // width
        times = self.pointer_time(time_code(since / max(1, remembered.span - 1), pointers.shape[1]))
        tokens.append(pointers.reshape(1, -1, width))
        codes.append(times.repeat_interleave(parts, 0)[None])
        return torch.cat(tokens, 1), torch.cat(codes, 1), parts * len(pointers)


# Variants -------------------------------------------------------------------------------------------------------------

PUBLISHED = (Config(), *(Config(encoder=one.encoder) for one in (sam2.SMALL, sam2.BASE, sam2.LARGE)))
"""What the authors have weights for: Hiera-T, -S, -B+ and -L."""


def sam2_video(num_classes: int = 1, **config: Any) -> SAM2Video:
    """SAM 2.1 with Hiera-T and a memory."""
    return SAM2Video(num_classes, changed(Config(), config))
