"""SAM 2 over one video: prompts on any frame, corrections, and the objects carried forwards or backwards.

Ravi et al., 2024, arXiv 2408.00714, section 3, in the order of the authors' code: a prompt on a frame that nobody has
tracked through makes it one that all others read (a *prompted* one); a correction of a tracked frame changes its own
answer, and is overwritten when the object is carried through again. Masks that prompts gave enter memory, as certain
ones, when the objects are next carried on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from eachmask.models.promptable.prompt_encoder import FIRST_CORNER, SECOND_CORNER
from eachmask.models.promptable.sam2 import MAX_LOGIT, Maps
from eachmask.models.video.sam2_video import ABSENT, STRIDE, Found, Remembered, SAM2Video
from eachmask.structures import UserError

_BEATEN_LOGIT = -10.0
"""The most that an object has where another one has more and they must not overlap."""


@dataclass
class Track:
    """What is known of one object; frame -> what was found there."""

    prompted: dict[int, Found] = field(default_factory=dict)
    tracked: dict[int, Found] = field(default_factory=dict)
    new: dict[int, Found] = field(default_factory=dict)
    """Answers to prompts since the object was last carried on."""
    directions: dict[int, int] = field(default_factory=dict)
    """Of the frames that it was carried through, 1 or -1."""
    clicks: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    """Points (T, 2) px as the network sees frames, and kinds (T,)."""

    def copy(self) -> Track:
        """What is known so far; the answers themselves never change."""
        return Track(**{name: dict(values) for name, values in vars(self).items()})

    def found(self, frame: int) -> Found | None:
        """The newest answer."""
        return self.new.get(frame) or self.prompted.get(frame) or self.tracked.get(frame)

    def settle(self, remember: Callable[[int, Found], Found]) -> None:
        """Answers to prompts become memory."""
        for frame, found in self.new.items():
            kept = remember(frame, found)
            (self.tracked if frame in self.directions else self.prompted)[frame] = kept
        self.new.clear()
        for frame in self.prompted:
            self.tracked.pop(frame, None)


class Session:
    """Objects of one video.

    Args:
        network: with its weights, in eval mode.
        frame_of: number -> (3, S, S), normalized, a square whose sides are multiples of 32 (see
            :func:`eachmask.inference.following.sam2_preprocess`).
        size: (height, width) of the video: what points, boxes and masks are in.
        frames: of the video, where that is known.
        exclusive: of objects that overlap the one with most says so at each pixel.
    """

    def __init__(
        self,
        network: SAM2Video,
        frame_of: Callable[[int], Tensor],
        size: tuple[int, int],
        frames: int | None = None,
        *,
        exclusive: bool = False,
    ) -> None:
        self.network, self.frame_of, self.size, self.frames = network, frame_of, size, frames
        self.exclusive = exclusive
        self.tracks: dict[int, Track] = {}
        self._seen: tuple[int, Maps] | None = None

    def look(self, frame: int) -> Maps:
        """What is seen of a frame; that of the last one is kept."""
        if self._seen is None or self._seen[0] != frame:
            self._seen = frame, self.network.look_at(self.frame_of(frame))
        return self._seen[1]

    # What a user says -------------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def click(
        self,
        frame: int,
        number: int,
        points: Tensor | None = None,
        signs: Tensor | None = None,
        box: Tensor | None = None,
        *,
        keep: bool = False,
    ) -> Tensor:
        """Points and a box of an object.

        Args:
            points: (T, 2) px of the video; signs: (T,), true on the object, false beside it.
            box: (4,) px, left, top, right, bottom.
            keep: earlier clicks on this object in this frame still count.

        Returns:
            (N, H, W) logits of all objects in this frame.

        Raises:
            UserError: neither points nor a box are given, or a box besides earlier clicks.
        """
        if points is None and box is None or (keep and box is not None):
            raise UserError("give points or a box; a box begins anew, without earlier clicks")
        seen, track = self.look(frame), self.tracks.setdefault(number, Track())
        places, kinds = self._spoken(seen, points, signs, box)
        if keep and frame in track.clicks:
            before = track.clicks[frame]
            places, kinds = torch.cat([before[0], places]), torch.cat([before[1], kinds])
        track.clicks[frame] = places, kinds
        earlier = track.found(frame)
        rough = None if earlier is None else earlier.logits.clamp(-MAX_LOGIT, MAX_LOGIT)
        direction = track.directions.get(frame)
        features = self.network.blank(seen) if direction is None else self._recall(track, frame, direction)
        track.new[frame] = self.network.answer_in(seen, features, places, kinds, rough)
        return self.logits(frame)

    @torch.inference_mode()
    def mask(self, frame: int, number: int, mask: Tensor) -> Tensor:
        """The mask (H, W) of an object, of which there is no doubt.

        Returns:
            (N, H, W) logits of all objects in this frame.

        Raises:
            UserError: it is of another size than the video.
        """
        if tuple(mask.shape) != self.size:
            (height, width), (own_height, own_width) = self.size, mask.shape
            raise UserError(f"a mask of {own_width} x {own_height} px for a video of {width} x {height}")
        seen, track = self.look(frame), self.tracks.setdefault(number, Track())
        side = [STRIDE * s for s in seen.features.shape[2:]]
        large = F.interpolate(
            mask.to(seen.features)[None, None], side, mode="bilinear", align_corners=False, antialias=True
        )
        track.clicks.pop(frame, None)
        track.new[frame] = self.network.answer_mask(seen, (large >= 0.5).to(large))
        return self.logits(frame)

    def _spoken(
        self, seen: Maps, points: Tensor | None, signs: Tensor | None, box: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Places (T, 2) px as the network sees frames and kinds (T,), the corners of a box first."""
        places, kinds = [], []
        if box is not None:
            places.append(box.reshape(2, 2).float())
            kinds.append(torch.tensor([FIRST_CORNER, SECOND_CORNER]))
        if points is not None:
            places.append(points.reshape(-1, 2).float())
            on = torch.ones(len(places[-1])) if signs is None else signs
            kinds.append((on > 0).long())  # BESIDE, ON
        height, width = (STRIDE * side for side in seen.features.shape[2:])
        scale = torch.tensor([width / self.size[1], height / self.size[0]])
        device = seen.features.device
        return (torch.cat([p.cpu() for p in places]) * scale).to(device), torch.cat([k.cpu() for k in kinds]).to(device)

    # What follows -----------------------------------------------------------------------------------------------------

    def propagate(
        self, start: int | None = None, frames: int | None = None, *, backward: bool = False
    ) -> Iterator[tuple[int, Tensor]]:
        """Carry all objects on; gives frames and the logits (N, H, W) in them.

        Args:
            start: the first frame that was prompted by default.
            frames: so many after the first one; by default up to the end of the video.

        Raises:
            UserError: nobody has said what is meant, or the video has an unknown end.
        """
        self.settle()
        prompted = [frame for track in self.tracks.values() for frame in track.prompted]
        if not prompted or (frames is None and self.frames is None and not backward):
            raise UserError("click on an object first, and say how many frames there are")
        first = min(prompted) if start is None else start
        far = first if backward else (self.frames or first + (frames or 0) + 1) - 1 - first
        last = max(0, min(far, far if frames is None else frames))
        direction = -1 if backward else 1
        for step in range(0 if backward and first == 0 else last + 1):
            yield first + direction * step, self.carry(first + direction * step, direction)

    @torch.inference_mode()
    def settle(self) -> None:
        """What was said since is remembered."""
        for track in self.tracks.values():
            track.settle(lambda frame, found: self.network.remember(self.look(frame), found, prompted=True))

    @torch.inference_mode()
    def carry(self, frame: int, direction: int = 1) -> Tensor:
        """One frame, by what is remembered of those around it: logits (N, H, W)."""
        for track in self.tracks.values():
            if frame not in track.prompted:
                seen = self.look(frame)
                found = self.network.answer_in(seen, self._recall(track, frame, direction))
                track.tracked[frame] = self.network.remember(seen, found, prompted=False)
            track.directions[frame] = direction
        return self.logits(frame)

    def _recall(self, track: Track, frame: int, direction: int) -> Tensor:
        config, seen = self.network.config.memory, self.look(frame)
        maps = [(0, found.memory) for found in track.prompted.values()]
        near = ((before, track.tracked.get(frame - direction * before)) for before in range(config.frames - 1, 0, -1))
        maps += [(before, found.memory) for before, found in near if found is not None]
        span = min(config.pointers, self.frames or config.pointers)
        pointers = [
            (direction * (frame - t), found.pointer)
            for t, found in track.prompted.items()
            if direction * (frame - t) >= 0
        ]
        late = ((before, track.tracked.get(frame - direction * before)) for before in range(1, span))
        pointers += [(before, found.pointer) for before, found in late if found is not None]
        kept = [(before, memory) for before, memory in maps if memory is not None]
        if not kept:
            return self.network.blank(seen)
        return self.network.recall(seen, Remembered(kept, pointers, span))

    def logits(self, frame: int) -> Tensor:
        """(N, H, W) of all objects in a frame, in the order in which they were first spoken of."""
        every = []
        for track in self.tracks.values():
            found = track.found(frame)
            if found is None:
                every.append(torch.full((1, *self.size), ABSENT))
            else:
                every.append(F.interpolate(found.logits, self.size, mode="bilinear", align_corners=False)[0].cpu())
        logits = torch.cat(every)
        if not self.exclusive or len(logits) == 1:
            return logits
        first = torch.arange(len(logits))[:, None, None] == logits.argmax(0, keepdim=True)
        return torch.where(first, logits, logits.clamp(max=_BEATEN_LOGIT))

    def forget(self, before: int) -> None:
        """What tracking found in frames before this one: memory stays flat while a video streams in."""
        for track in self.tracks.values():
            for frame in [t for t in track.directions if t < before]:
                track.tracked.pop(frame, None)
                track.directions.pop(frame)
