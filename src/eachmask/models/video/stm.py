"""Space-time memory, small: objects that are marked once are found again in every frame, on two cores of a CPU.

Oh et al.: "Video Object Segmentation using Space-Time Memory Networks", ICCV 2019, arXiv 1904.00607. Places are
compared by weighted distances as in XMem (Cheng, Schwing, ECCV 2022, arXiv 2207.07115), whose memory is used here too.

What differs: one light backbone sees each frame once, for queries and memory alike (Cheng et al., arXiv 2106.05210).
The maps and vectors of :mod:`eachmask.models.promptable.click_decoder` stand on it, so that training starts from the
bundled ``clicks`` model. The last channel of a value is the object's share of the place, so that what is read from
memory contains the labels carried over, whatever the network has learnt. The decoder is also told where the object was
in the frame before.

Training makes clips of still images, see :mod:`eachmask.models.video.moving`.

Shapes: B images of H x W px, N objects of a clip, R objects of all clips, h x w = H / 16 x W / 16.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eachmask.backbones.networks import Timm
from eachmask.models.config import changed
from eachmask.models.promptable.click_decoder import HEAD_WIDTH, HEADS, WIDTHS, Block, Neck, conv, grown
from eachmask.models.video import moving
from eachmask.models.video.marked import MARK, MarkedObjects, Raw, followed
from eachmask.models.video.memory import Follower, MemoryConfig
from eachmask.models.video.xmem import Keys, affinity, aggregate, similarity
from eachmask.ops.losses import dice
from eachmask.structures import ImageBatch, Instances, Prompts, UserError
from eachmask.structures.spatial import Spatial

WIDEST = 128
"""Channels of the decoder at stride 16."""
SHARPNESS = 5.0
"""Length of the vectors that places are compared by, before training."""


@dataclass(frozen=True)
class Config:
    """What a variant may change."""

    keys: int = 64
    """Channels that places are compared by."""
    memory: MemoryConfig = MemoryConfig(max_frames=6, min_frames=3, max_long=2000)
    moving: moving.Config = moving.Config()


class STM(MarkedObjects):
    """Three verbs, and :class:`~eachmask.models.protocol.Recurrent`."""

    backbone_from = "clicks"
    hidden = 1
    """Channels of an object's state: its share of each place in the frame before."""

    def __init__(self, backbone: Timm, num_classes: int = 1, config: Config | None = None) -> None:
        super().__init__()
        self.num_classes, self.config = num_classes, config or Config()
        self.backbone = backbone
        self.neck = Neck(backbone.net.feature_info.channels()[0], backbone.channels)
        self.projection = KeyProjection(self.config.keys)
        self.remembers, self.decoder = ValueEncoder(), Decoder()

    # Verbs --------------------------------------------------------------------------------------------------------

    def forward(self, images: ImageBatch, given: Sequence[Spatial] | None = None) -> Raw:
        """What a moved copy of each image, in which the masks in ``given`` (Prompts) mark objects, says of it: so the
        network is measured while it trains. Videos are followed by :meth:`step`."""
        if given is None:
            return Raw(images, None)
        found = []
        for image, size, one in zip(images.tensor, images.sizes, cast(Sequence[Prompts], given), strict=True):
            if one.masks is None:
                raise UserError(MARK)
            masks = moving.on_canvas(one.masks.to_rle().decode(), image)
            clip = moving.clip(image, masks, image.flip(2), self.config.moving.still())
            answer = self._second(torch.stack([clip.frames[-1], image]), clip.masks[-1])
            found.append(answer[:, : size[0], : size[1]])
        return Raw(images, tuple(found))

    def losses(self, raw: Raw, targets: list[Instances]) -> dict[str, Tensor]:
        """Cross-entropy and Dice of the frames of clips that are made of the images, after each one's first frame."""
        clips = moving.clips(raw.images, targets, self.config.moving)
        totals: dict[str, list[Tensor]] = {"cross_entropy": [], "dice": []}
        if not clips:
            nothing = torch.stack([parameter.sum() for parameter in self.parameters()]).sum() * 0
            return dict.fromkeys(totals, nothing)
        seen = self.look(torch.stack([clip.frames for clip in clips], 1).flatten(0, 1))  # frame by frame
        answers = self.carried(seen, [clip.masks[0] for clip in clips])
        for t, found in enumerate(answers, start=1):
            for one, clip in zip(found, clips, strict=True):
                masks = clip.masks[t]
                numbers = torch.arange(1, len(masks) + 1, device=masks.device)
                labels = (masks * numbers[:, None, None]).sum(0).long()
                totals["cross_entropy"].append(hardest(one, labels))
                totals["dice"].append(dice(one[1:], masks, "plain", eps=1.0).mean())
        return {name: torch.stack(values).mean() for name, values in totals.items()}

    def step(
        self, images: ImageBatch, state: Follower | None, given: Sequence[Prompts] | None = None
    ) -> tuple[Raw, Follower]:
        """See :meth:`~eachmask.models.video.marked.MarkedObjects.step`."""
        return followed(self, self.config.memory, images, state, given)

    # What memory asks ---------------------------------------------------------------------------------------------

    def look(self, frames: Tensor) -> Keys:
        """(T, 3, H, W), normalized, sides multiples of 16."""
        known = self.neck(frames, self.backbone.net(frames))
        fine, (e4, e8, e16) = known.fine, known.maps
        key, shrinkage, selection = self.projection(torch.cat([e16, F.avg_pool2d(known.keys, 2)], 1))
        return Keys(key, shrinkage, selection, (e16, e8, e4, fine))

    def remembered(self, frame: Tensor, seen: Keys, masks: Tensor) -> Tensor:
        """What memory keeps of objects (N, H, W) 0..1 -> (N, values, h, w)."""
        return self._values(seen.maps, masks, masks.sum(0) - masks)

    def _values(self, maps: tuple[Tensor, ...], masks: Tensor, others: Tensor) -> Tensor:
        """Of R objects, from the maps of one frame or of R."""
        e16, _, e4, _ = (x.expand(len(masks), -1, -1, -1) for x in maps)
        values: Tensor = self.remembers(e16, e4, torch.stack([masks, others], 1))
        return values

    def reinforce(self, value: Tensor, hidden: Tensor) -> Tensor:
        """The states of objects whose values were remembered: where they are."""
        return value[:, -1:]

    def segment(self, maps: tuple[Tensor, ...], read: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Probabilities (1 + N, H, W), background first, and the next states (N, 1, h, w)."""
        found = aggregate(self._logits(maps, read, hidden).sigmoid())
        return found, F.avg_pool2d(found[1:, None], 16)

    def _logits(self, maps: tuple[Tensor, ...], read: Tensor, hidden: Tensor) -> Tensor:
        """(R, H, W), from the maps of one frame or of R."""
        logits = self.decoder(tuple(x.expand(len(read), -1, -1, -1) for x in maps), read, hidden)
        return F.interpolate(logits, scale_factor=2.0, mode="bilinear", align_corners=False)[:, 0]

    # Learning -----------------------------------------------------------------------------------------------------

    def _second(self, frames: Tensor, masks: Tensor) -> Tensor:
        """Two frames (2, 3, H, W), the masks (N, H, W) of the first -> (1 + N, H, W) probabilities of the second."""
        height, width = frames.shape[2:]
        margins = (0, -width % 16, 0, -height % 16)
        ((found,),) = self.carried(self.look(F.pad(frames, margins)), [F.pad(masks, margins)])
        return found[:, :height, :width]

    def carried(self, seen: Keys, first: Sequence[Tensor]) -> list[list[Tensor]]:
        """From the masks of each clip's first frame, (N, H, W), to what is found in the later ones: for each a list of
        (1 + N, H, W) probabilities by clip. What was found in a frame is remembered for the next ones.

        Args:
            seen: all frames, the first ones of all clips before the second ones.
        """
        clips, numbers = len(first), [len(masks) for masks in first]
        rows = torch.repeat_interleave(torch.arange(clips), torch.tensor(numbers)).to(seen.key.device)
        frames = [_of_rows(seen, at, clips, rows) for at in range(0, len(seen.key), clips)]
        found, known, hidden = list(first), _Known(), F.avg_pool2d(torch.cat(list(first))[:, None], 16)
        results = []
        for before, now in itertools.pairwise(frames):
            others = torch.cat([masks.sum(0) - masks for masks in found])
            known.add(before, self._values(before.maps, torch.cat(found), others))
            read = known.read(now, rows)
            if self.training:
                told = torch.rand(len(hidden), 1, 1, 1) > self.config.moving.forget
                hidden = hidden * told.to(hidden)
            logits = self._logits(now.maps, read, hidden)
            results.append([aggregate(own.sigmoid()) for own in logits.split(numbers)])
            found = [one[1:] for one in results[-1]]
            hidden = F.avg_pool2d(torch.cat(found)[:, None], 16)
        return results


def _of_rows(seen: Keys, at: int, clips: int, rows: Tensor) -> Keys:
    """Of one frame of each clip its keys (B, ...), and the maps of the clip that each object is in (R, ...)."""
    key, shrinkage, selection = (x[at : at + clips] for x in seen[:3])
    return Keys(key, shrinkage, selection, tuple(x[at : at + clips][rows] for x in seen.maps))


class _Known:
    """The memory of short clips: what was added is kept, and all of it is read."""

    def __init__(self) -> None:
        self.keys: list[Tensor] = []
        self.shrinkages: list[Tensor] = []
        self.values: list[Tensor] = []

    def add(self, frame: Keys, values: Tensor) -> None:
        """A frame of each of B clips, and the values (R, V, h, w) of their objects."""
        self.keys.append(frame.key.flatten(2))
        self.shrinkages.append(frame.shrinkage.flatten(1))
        self.values.append(values.flatten(2))

    def read(self, frame: Keys, rows: Tensor) -> Tensor:
        """(R, V, h, w), of which clip each object is being (R,)."""
        keys, shrinkages = torch.cat(self.keys, 2), torch.cat(self.shrinkages, 1)
        every = zip(keys, shrinkages, frame.key.flatten(2), frame.selection.flatten(2), strict=True)
        weights = torch.stack([affinity(similarity(*one)) for one in every])
        read: Tensor = (torch.cat(self.values, 2) @ weights[rows]).unflatten(2, frame.key.shape[2:])
        return read


# Parts ----------------------------------------------------------------------------------------------------------------


class KeyProjection(nn.Module):
    """Keys, shrinkage and selection of places."""

    def __init__(self, keys: int) -> None:
        super().__init__()
        inputs = WIDTHS[3] + HEADS * HEAD_WIDTH
        self.key, self.shrinkage, self.selection = (
            nn.Conv2d(inputs, outputs, 3, padding=1) for outputs in (keys, 1, keys)
        )
        for layer in (self.key, self.shrinkage, self.selection):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.constant_(cast(Tensor, layer.bias), 0.0)
        with torch.no_grad():  # it begins with the vectors that `clicks` compares places by
            for channel in range(min(keys, HEADS * HEAD_WIDTH)):
                self.key.weight[channel, WIDTHS[3] + channel, 1, 1] += SHARPNESS

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(T, C, h, w) -> (T, keys, h, w), (T, 1, h, w) from 1, (T, keys, h, w) 0..1."""
        return self.key(x), self.shrinkage(x) ** 2 + 1, self.selection(x).sigmoid()


class ValueEncoder(nn.Module):
    """What is remembered of an object at each place; the last channel is its share."""

    def __init__(self) -> None:
        super().__init__()
        _, w4, w8, w16 = WIDTHS
        self.enter = nn.Sequential(conv(w4 + 2, w4), Block(w4, 3))
        self.halve = nn.Sequential(conv(w4, w8, 2, 2), Block(w8), conv(w8, w16, 2, 2))
        self.join = nn.Sequential(conv(2 * w16, w16), Block(w16))

    def forward(self, e16: Tensor, e4: Tensor, masks: Tensor) -> Tensor:
        """Maps (R, C, h, w) and (R, C, 4 h, 4 w), masks (R, 2, H, W) of the object and of all others -> (R, values,
        h, w)."""
        both = F.avg_pool2d(masks, 4).to(e4)
        values = self.join(torch.cat([self.halve(self.enter(torch.cat([e4, both], 1))), e16], 1))
        return torch.cat([values, F.avg_pool2d(both[:, :1], 4).to(values)], 1)


class Decoder(nn.Module):
    """What was read, where the object was, and the frame's maps -> logits at stride 2.

    It begins with the share that memory says and that of the frame before, and learns what is to be added.
    """

    def __init__(self) -> None:
        super().__init__()
        w2, w4, w8, w16 = WIDTHS
        self.enter = nn.Sequential(conv(2 * w16 + 2, WIDEST), Block(WIDEST), Block(WIDEST))
        self.grow8, self.grow4, self.grow2 = nn.Conv2d(WIDEST, w8, 1), nn.Conv2d(w8, w4, 1), nn.Conv2d(w4, w2, 1)
        self.out8, self.out4 = Block(w8), Block(w4, 3)
        self.coarse, self.finest = nn.Conv2d(w4, 1, 3, padding=1), nn.Conv2d(w2, 1, 1)
        self.carried = nn.Parameter(torch.tensor([6.0, 2.0]))
        for layer in (self.coarse, self.finest):
            nn.init.zeros_(layer.weight)
            nn.init.constant_(cast(Tensor, layer.bias), 0.0)

    def forward(self, maps: tuple[Tensor, ...], read: Tensor, hidden: Tensor) -> Tensor:
        """Maps (R, ...) at strides 16 ... 2, (R, values, h, w), (R, 1, h, w) -> (R, 1, H / 2, W / 2)."""
        e16, e8, e4, fine = maps
        y = self.enter(torch.cat([e16, read, hidden.to(read)], 1))
        y = self.out8(e8 + grown(self.grow8(y), e8))
        y = self.out4(e4 + grown(self.grow4(y), e4))
        sharp = self.finest(torch.relu(fine + grown(self.grow2(y), fine)))
        shares = torch.cat([read[:, -1:], hidden.to(read)], 1) - 0.5
        carried = (shares * self.carried.view(1, 2, 1, 1)).sum(1, keepdim=True)
        logits: Tensor = grown(self.coarse(y) + grown(carried, e4), fine) + sharp
        return logits


def hardest(found: Tensor, labels: Tensor, share: float = 0.25) -> Tensor:
    """Cross-entropy of (1 + N, H, W) probabilities, a mean over the share of the pixels that are worst: most of a frame
    is easy background (Cheng et al., arXiv 2106.05210)."""
    wrong = F.nll_loss(found.clamp(min=1e-7).log()[None], labels[None], reduction="none").flatten()
    return wrong.topk(max(1, int(share * len(wrong)))).values.mean()


# Variants -------------------------------------------------------------------------------------------------------------


def stm_lite0(num_classes: int = 1, **config: Any) -> STM:
    """EfficientNet-Lite0, for frames whose shorter side is about 384 px."""
    return STM(Timm("tf_efficientnet_lite0"), num_classes, changed(Config(), config))
