"""Models that follow what is marked in a frame of a video: what all return, and XMem and SAM 2 as such models.

They are :class:`~eachmask.models.protocol.Recurrent`: ``step`` takes a frame, what is remembered and, where something
is marked, Prompts with masks; :class:`~eachmask.inference.video_predictor.VideoPredictor` runs it.

Shapes: N objects of a video, H x W px.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from eachmask.models.protocol import Network
from eachmask.models.video.memory import Follower, MemoryConfig, MemoryNetwork
from eachmask.models.video.sam2_session import Session
from eachmask.models.video.sam2_video import SAM2Video
from eachmask.models.video.xmem import XMem
from eachmask.structures import DecodeOptions, ImageBatch, Instances, Prompts, SoftMasks, UserError
from eachmask.structures.spatial import Spatial
from eachmask.tasks.instances import INSTANCES

MARK = "mark the objects to follow by masks: eachmask track VIDEO --first MASK.png"


class Raw(NamedTuple):
    """Images, and what was found in them."""

    images: ImageBatch
    found: tuple[Tensor, ...] | None
    """Of each image (1 + N, H, W) probabilities, background first; None where nothing was marked."""


class Selected(NamedTuple):
    """The objects of each image."""

    margins: tuple[Tensor, ...]  # (N, H, W) 0..1, at least one half where the object is more probable than all else
    scores: tuple[Tensor, ...]  # (N,) mean probability of the object's pixels


class MarkedObjects(Network[Raw, Selected, Instances]):
    """A network whose results are the objects that were marked; ``track_ids`` are their numbers in the prompts."""

    task = INSTANCES
    max_classes = 1
    needs = frozenset({"masks"})

    def forward(self, images: ImageBatch, given: Sequence[Spatial] | None = None) -> Raw:
        """One image by itself shows nothing that is marked."""
        return Raw(images, None)

    def step(self, images: ImageBatch, state: Any | None, given: Sequence[Prompts] | None = None) -> tuple[Raw, Any]:
        """A frame of one video, see :class:`~eachmask.models.protocol.Recurrent`.

        Args:
            given: what is marked in it: masks of objects, known ones or new ones. The first frame needs some.

        Raises:
            UserError: nothing is marked in the first frame, or otherwise than by masks.
        """
        raise NotImplementedError

    def select(self, raw: Raw, options: DecodeOptions) -> Selected:
        """How much more probable an object is than all else.

        Raises:
            UserError: nothing was marked.
        """
        if raw.found is None:
            raise UserError(f"this model finds what is marked in an earlier frame: {MARK}")
        margins = tuple((one[1:] - _others(one)[1:]) / 2 + 0.5 for one in raw.found)
        scores = [
            (one[1:] * (margin >= 0.5)).flatten(1).sum(1) / (margin >= 0.5).flatten(1).sum(1).clamp(min=1)
            for one, margin in zip(raw.found, margins, strict=True)
        ]
        return Selected(margins, tuple(scores))

    def pack(self, selected: Selected, options: DecodeOptions) -> list[Instances]:
        """The objects that have a pixel."""
        found = []
        for margins, scores in zip(selected.margins, selected.scores, strict=True):
            size = (int(margins.shape[1]), int(margins.shape[2]))
            masks = SoftMasks.from_maps(margins.float(), size, size)
            boxes, numbers = masks.rough_boxes().to(scores), torch.arange(len(scores))
            one = Instances(size, boxes, masks, scores=scores, track_ids=numbers)
            found.append(one[(margins >= 0.5).flatten(1).any(1).cpu()])
        return found


def _others(found: Tensor) -> Tensor:
    """(K, H, W) from 0 -> of each the largest of the others."""
    before, after = [torch.zeros_like(found[0])], [torch.zeros_like(found[0])]
    for one, other in zip(found[:-1], found[1:].flip(0), strict=True):
        before.append(torch.maximum(before[-1], one))
        after.append(torch.maximum(after[-1], other))
    return torch.maximum(torch.stack(before), torch.stack(after[::-1]))


def masks_of(prompts: Prompts, known: int) -> Tensor:
    """(N, H, W) bool of all objects, known ones and new ones, empty where nothing is marked.

    Raises:
        UserError: something is marked otherwise than by masks, or a new object not at all.
    """
    numbers = [] if prompts.masks is None else prompts.mask_objects.tolist()
    if not numbers or prompts.num_objects > known + len({k for k in numbers if k >= known}):
        raise UserError(MARK)
    assert prompts.masks is not None
    masks = torch.zeros(max(known, prompts.num_objects), *prompts.image_size, dtype=torch.bool)
    for number, bitmap in zip(numbers, prompts.masks.to_rle().decode(), strict=True):
        masks[number] |= torch.from_numpy(bitmap)
    return masks


def followed(
    network: MemoryNetwork,
    memory: MemoryConfig,
    images: ImageBatch,
    state: Follower | None,
    given: Sequence[Prompts] | None,
) -> tuple[Raw, Follower]:
    """:meth:`MarkedObjects.step` by a memory network; the state that is given stays what it is."""
    follower = Follower(network, memory) if state is None else state.copy()
    height, width = images.sizes[0]
    frame = images.tensor[0, :, :height, :width]
    masks = None if given is None else masks_of(given[0], follower.num_objects).to(frame.device)
    found = follower.step(frame, masks, new=state is not None)
    return Raw(images, (found,)), follower


class XMemFollower(MarkedObjects):
    """XMem, with the weights of its authors."""

    def __init__(self, network: XMem, memory: MemoryConfig | None = None) -> None:
        super().__init__()
        self.network, self.memory, self.num_classes = network, memory or MemoryConfig(), 1

    def step(
        self, images: ImageBatch, state: Follower | None, given: Sequence[Prompts] | None = None
    ) -> tuple[Raw, Follower]:
        """See :meth:`MarkedObjects.step`."""
        return followed(self.network, self.memory, images, state, given)


class SAM2State(NamedTuple):
    """A video in which SAM 2 follows objects."""

    session: Session
    frame: int  # the next one


class SAM2Follower(MarkedObjects):
    """SAM 2's memory: each object is carried on by itself, and has the pixels where it says so most."""

    def __init__(self, network: SAM2Video) -> None:
        super().__init__()
        self.network, self.num_classes = network, 1

    def step(
        self, images: ImageBatch, state: SAM2State | None, given: Sequence[Prompts] | None = None
    ) -> tuple[Raw, SAM2State]:
        """See :meth:`MarkedObjects.step`. Frames are squares of the network's side; so are the masks."""
        frame, memory, size = images.tensor[0], self.network.config.memory, images.sizes[0]
        number = 0 if state is None else state.frame
        session = Session(self.network, lambda _: frame, size) if state is None else _continued(state.session, frame)
        if state is None and given is None:
            raise UserError(MARK)
        if given is not None:
            for one, mask in enumerate(masks_of(given[0], len(session.tracks))):
                if mask.any():
                    session.mask(number, one, mask)
            session.settle()
        logits = session.carry(number)
        session.forget(number - max(memory.frames, memory.pointers))
        shares = logits.sigmoid()
        rest = (1 - shares.amax(0, keepdim=True)).clamp(min=0)
        return Raw(images, (torch.cat([rest, shares]),)), SAM2State(session, number + 1)


def _continued(session: Session, frame: Tensor) -> Session:
    """With the next frame; the session that is given stays what it is."""
    following = copy.copy(session)
    following.tracks = {number: track.copy() for number, track in session.tracks.items()}
    following.frame_of, following._seen = lambda _: frame, None
    return following
