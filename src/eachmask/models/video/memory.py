"""XMem's memories, and a video followed with them: working memory of frames, long-term memory of prototypes.

Cheng, Schwing, ECCV 2022, arXiv 2207.07115. Frames enter the working memory every so often; when it is full all but the
first and the last ones are condensed into the places that were read most, so that memory stays flat however long the
video is; of these the least read are forgotten.

Shapes: as in :mod:`eachmask.models.video.xmem`; Q places of one frame.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from eachmask.models.video.xmem import Keys, affinity, aggregate, read_best, similarity
from eachmask.structures import UserError


@dataclass(frozen=True)
class MemoryConfig:
    """When what is remembered; the authors' settings for DAVIS."""

    every: int = 5
    """Frames between those that enter memory."""
    deep_every: int = -1
    """Frames between deep updates of the states; below 0: with every memory frame."""
    top: int = 30
    """Places that a query reads."""
    long_term: bool = True
    max_frames: int = 10
    """Of the working memory: at so many it is condensed."""
    min_frames: int = 5
    """That are left then."""
    prototypes: int = 128
    """Places that one condensing leaves."""
    max_long: int = 10000
    """Places of the long-term memory."""


@dataclass
class Store:
    """P places; objects that came together are a group, whose values cover the newest places."""

    key: Tensor  # (C, P)
    shrinkage: Tensor  # (P,)
    selection: Tensor  # (C, P)
    used: Tensor  # (P,) summed affinity
    age: Tensor  # (P,) frames that could read it
    values: list[Tensor] = field(default_factory=list)  # (objects of the group, values, newest places)

    def __len__(self) -> int:
        return len(self.shrinkage)

    @property
    def usage(self) -> Tensor:
        """How much each place was read per frame."""
        return self.used / self.age

    @staticmethod
    def of(key: Tensor, shrinkage: Tensor, selection: Tensor, values: list[Tensor]) -> Store:
        """Places that nobody has read."""
        return Store(key, shrinkage, selection, torch.zeros_like(shrinkage), torch.full_like(shrinkage, 1e-7), values)

    def joined(self, other: Store) -> Store:
        """With newer places, whose further objects are a group of their own."""
        values = [torch.cat([a, b], 2) for a, b in zip(self.values, other.values, strict=False)]
        both = {n: torch.cat([getattr(self, n), getattr(other, n)], -1) for n in _FIELDS}
        return Store(**both, values=values + other.values[len(self.values) :])

    def kept(self, places: Tensor) -> Store:
        """Some places (P,) bool."""
        values = [value[:, :, places[-value.shape[2] :]] for value in self.values]
        return Store(**{n: getattr(self, n)[..., places] for n in _FIELDS}, values=values)


_FIELDS = ("key", "shrinkage", "selection", "used", "age")


class Memory:
    """What is remembered of one video."""

    def __init__(self, config: MemoryConfig) -> None:
        self.config = config
        self.work: Store | None = None
        self.long: Store | None = None

    def copy(self) -> Memory:
        """What is remembered so far; reading and adding leave it as it is."""
        other = Memory(self.config)
        other.work, other.long = (None if store is None else replace(store) for store in (self.work, self.long))
        return other

    def read(self, query: Tensor, selection: Tensor) -> Tensor:
        """(C, Q), (C, Q) -> values (N, V, Q)."""
        assert self.work is not None
        work, long, top = self.work, self.long, self.config.top
        alike = similarity(work.key, work.shrinkage, query, selection)
        before = None if long is None else similarity(long.key, long.shrinkage, query, selection)
        read = []
        for group, value in enumerate(work.values):
            own, values = alike[-value.shape[2] :], value
            if long is not None and before is not None and group < len(long.values):
                old = long.values[group]
                own, values = torch.cat([before[-old.shape[2] :].T, own.T], 1).T, torch.cat([old, value], 2)
            found, used = read_best(own, values, top)
            if group == 0:
                self._count(used)
            read.append(found)
        return torch.cat(read)

    def _count(self, usage: Tensor) -> None:
        for store, part in ((self.work, usage[-len(self.work or ()) :]), (self.long, usage[: len(self.long or ())])):
            if store is not None:
                store.used, store.age = store.used + part, store.age + 1

    def add(self, key: Tensor, shrinkage: Tensor, selection: Tensor, value: Tensor) -> None:
        """A frame: (C, Q), (Q,), (C, Q), (N, V, Q)."""
        known = [len(group) for group in self.work.values] if self.work else []
        sizes = [*known, *([len(value) - sum(known)] if len(value) > sum(known) else [])]
        new = Store.of(key, shrinkage, selection, list(value.split(sizes)))
        self.work = new if self.work is None else self.work.joined(new)
        config = self.config
        if config.long_term and len(self.work) >= config.max_frames * key.shape[1]:
            self._forget(config.max_long - config.prototypes)
            self._condense(key.shape[1])

    def _forget(self, most: int) -> None:
        if self.long is not None and len(self.long) >= most and len(self.long) > most:
            least = self.long.usage.topk(len(self.long) - most, largest=False).values[-1]
            self.long = self.long.kept(self.long.usage > least)

    def _condense(self, frame: int) -> None:
        """All but the first frame and the last ones become prototypes."""
        assert self.work is not None
        work, last = self.work, (self.config.min_frames - 1) * frame
        middle = torch.zeros(len(work), dtype=torch.bool, device=work.key.device)
        middle[frame : len(work) - last] = True
        old = work.kept(middle)
        best = old.usage.topk(min(self.config.prototypes, len(old))).indices
        alike = similarity(old.key, old.shrinkage, old.key[:, best], old.selection[:, best])
        values = [v @ affinity(alike[-v.shape[2] :]) for v in old.values if v.shape[2]]
        shrinkage = old.shrinkage @ affinity(alike)
        new = Store.of(old.key[:, best], shrinkage, old.selection[:, best], values)
        self.work, self.long = work.kept(~middle), new if self.long is None else self.long.joined(new)


class MemoryNetwork(Protocol):
    """What a :class:`Follower` asks of a network: :class:`~eachmask.models.video.xmem.XMem` answers it, and
    :class:`~eachmask.models.video.stm.STM`."""

    hidden: int
    """Channels of an object's state."""

    def look(self, frames: Tensor) -> Keys:
        """(T, 3, H, W), normalized, sides multiples of 16."""
        ...

    def remembered(self, frame: Tensor, seen: Keys, masks: Tensor) -> Tensor:
        """What memory keeps of objects: (1, 3, H, W), what was seen of it, (N, H, W) -> (N, values, h, w)."""
        ...

    def reinforce(self, value: Tensor, hidden: Tensor) -> Tensor:
        """The states of objects after their values have been seen."""
        ...

    def segment(self, maps: tuple[Tensor, ...], read: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Probabilities (1 + N, H, W), background first, and the next states."""
        ...


class Follower:
    """Objects of one video, whose masks are given in its first frame, or later.

    Args:
        network: with its weights, in eval mode.
    """

    def __init__(self, network: MemoryNetwork, config: MemoryConfig | None = None) -> None:
        self.network, self.config = network, config or MemoryConfig()
        self.memory, self.hidden = Memory(self.config), None
        self._frame, self._remembered, self._deep = -1, 0, -self.config.deep_every

    hidden: Tensor | None
    """(N, hidden, h, w): the states of the objects."""

    @property
    def num_objects(self) -> int:
        """That are followed."""
        return 0 if self.hidden is None else len(self.hidden)

    def copy(self) -> Follower:
        """A follower that goes on from here by itself."""
        other = copy.copy(self)
        other.memory = self.memory.copy()
        return other

    @torch.inference_mode()
    def step(self, image: Tensor, masks: Tensor | None = None, *, new: bool = False, last: bool = False) -> Tensor:
        """One frame.

        Args:
            image: (3, H, W), normalized.
            masks: (N, H, W) 0 or 1: what is given of this frame, where something is.
            new: the masks that are not empty are those of new objects, the others go on.
            last: no frame follows, so nothing needs to be remembered.

        Returns:
            (1 + N, H, W) probabilities, background first.

        Raises:
            UserError: nothing is given in the first frame.
        """
        self._frame += 1
        if self._frame == 0 and masks is None:
            raise UserError("the first frame needs masks of the objects to follow")
        config, margins = self.config, padding(image.shape[-2:])
        frame = F.pad(image, margins)[None].contiguous(memory_format=torch.channels_last)
        remember = (masks is not None or self._frame - self._remembered >= config.every) and not last
        deep = (remember if config.deep_every < 0 else self._frame - self._deep >= config.deep_every) and not last
        seen = self.network.look(frame)
        found = None
        if self._frame and (masks is None or new):
            found = self._found(seen, update=not last and not (config.deep_every < 0 and deep))
        if masks is not None:
            found = self._given(F.pad(masks.float(), margins), found, seen.key)
        assert found is not None
        if remember:
            self._remember(frame, seen, found[1:], deep)
        left, right, top, bottom = margins
        return found[:, top : found.shape[1] - bottom, left : found.shape[2] - right]

    def _found(self, seen: Keys, update: bool) -> Tensor:
        assert self.hidden is not None
        grid = seen.key.shape[-2:]
        read = self.memory.read(seen.key[0].flatten(1), seen.selection[0].flatten(1)).unflatten(2, grid)
        found, hidden = self.network.segment(seen.maps, read, self.hidden)
        if update:
            self.hidden = hidden
        return found

    def _given(self, masks: Tensor, found: Tensor | None, key: Tensor) -> Tensor:
        if found is not None:
            before = found[1:] * (masks.sum(0) <= 0.5)
            going = ~masks[: len(before)].flatten(1).any(1)
            masks[: len(before)][going] = before[going]
        fresh = len(masks) - self.num_objects
        zeros = key.new_zeros(fresh, self.network.hidden, *key.shape[-2:])
        self.hidden = zeros if self.hidden is None else torch.cat([self.hidden, zeros])
        return aggregate(masks)

    def _remember(self, frame: Tensor, seen: Keys, masks: Tensor, deep: bool) -> None:
        assert self.hidden is not None
        value = self.network.remembered(frame, seen, masks)
        key, selection = seen.key[0].flatten(1), seen.selection[0].flatten(1)
        self.memory.add(key, seen.shrinkage.flatten(), selection, value.flatten(2))
        self._remembered = self._frame
        if deep:
            self.hidden, self._deep = self.network.reinforce(value, self.hidden), self._frame


def padding(size: tuple[int, ...] | torch.Size) -> tuple[int, int, int, int]:
    """Left, right, top, bottom that make sides multiples of 16, the smaller half first."""
    height, width = (-side % 16 for side in size)
    return width // 2, width - width // 2, height // 2, height - height // 2
