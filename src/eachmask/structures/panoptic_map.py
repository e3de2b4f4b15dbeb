"""PanopticMap: which object or region every pixel of an image belongs to (Kirillov et al., CVPR 2019)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from eachmask.structures.category import Category
from eachmask.structures.instances import Instances
from eachmask.structures.pixels import Change, PixelMap, check_map, nearest
from eachmask.structures.rle import RLE
from eachmask.structures.semantic_map import SemanticMap
from eachmask.structures.view import Viewable


@dataclass(frozen=True)
class Segment:
    """A thing, or all of one kind of stuff.

    >>> Segment(id=7, label=0, score=0.9)
    Segment(id=7, label=0, score=0.9, crowd=False)
    """

    id: int
    """Its number in the map, at least 1."""
    label: int
    """0..K-1."""
    score: float | None = None
    """0..1."""
    crowd: bool = False
    """A region of many things, to be ignored rather than learnt."""


@dataclass(eq=False, repr=False)
class PanopticMap(PixelMap, Viewable):
    """Segments that do not overlap. Pixels of no segment are 0.

    >>> kinds = (Category(1, "sky", is_thing=False), Category(2, "kite"))
    >>> seen = PanopticMap(torch.tensor([[1, 1, 2], [1, 3, 0]]), (Segment(1, 0), Segment(2, 1), Segment(3, 1)), kinds)
    >>> seen
    PanopticMap(3 segments on 2 x 3: 2 things, 1 of stuff)
    >>> seen.to_instances()
    Instances(2 objects on 2 x 3: boxes, masks, labels)
    >>> seen.to_semantic().labels.tolist()
    [[0, 0, 1], [0, 1, 255]]
    >>> [segment.id for segment in seen.crop((0, 0, 2, 2)).segments]
    [1, 3]

    Raises:
        ValueError: the ids are not (H, W) whole numbers, a pixel is of no known segment, two segments have one id, or a
            label is of no category.
    """

    ids: Tensor
    """(H, W) int32: the segment's id, 0 where there is none."""
    segments: tuple[Segment, ...]
    """In any order; those without a pixel are left out."""
    categories: tuple[Category, ...] = ()

    def __post_init__(self) -> None:
        check_map(self.ids, "ids")
        if self.ids.is_floating_point() or self.ids.is_complex():
            raise ValueError(f"ids must be whole numbers, not {self.ids.dtype}")
        known = [segment.id for segment in self.segments]
        if len(set(known)) < len(known) or min(known, default=1) < 1:
            raise ValueError(f"segments need ids of their own from 1 on, not {known}")
        present = set(self.ids.unique().tolist()) - {0}
        if not present <= set(known):
            raise ValueError(f"pixels have the id {min(present - set(known))}, which no segment has")
        most = len(self.categories)
        wrong = [s.label for s in self.segments if s.label < 0 or (most and s.label >= most)]
        if wrong:
            raise ValueError(f"a segment has the label {wrong[0]}, but there are {most} categories")
        self.segments = tuple(segment for segment in self.segments if segment.id in present)
        self.ids = self.ids.int()

    def __repr__(self) -> str:
        height, width = self.image_size
        things = sum(self.is_thing(segment) for segment in self.segments)
        kinds = f"{things} things, {len(self.segments) - things} of stuff"
        return f"PanopticMap({len(self.segments)} segments on {height} x {width}: {kinds})"

    def __len__(self) -> int:
        return len(self.segments)

    @property
    def image_size(self) -> tuple[int, int]:
        return int(self.ids.shape[0]), int(self.ids.shape[1])

    def name_of(self, label: int) -> str:
        """A class's name; its number where the categories are not known."""
        return self.categories[label].name if label < len(self.categories) else str(label)

    def is_thing(self, segment: Segment) -> bool:
        """Whether a segment is a thing; where the categories are not known each is."""
        return self.categories[segment.label].is_thing if self.categories else True

    def resize(self, image_size: tuple[int, int]) -> PanopticMap:
        """Stretched to another (height, width): each pixel takes the segment that lies at its center."""
        return self._changed(lambda ids, outside: nearest(ids, image_size))

    def present(self) -> set[int]:
        """The labels of the segments."""
        return {segment.label for segment in self.segments}

    def relabeled(self, labels: Mapping[int, int], categories: tuple[Category, ...]) -> PanopticMap:
        """In other categories: label k becomes ``labels[k]`` of them; segments that have none there are gone, stuff of
        one kind is one segment."""
        first: dict[int, int] = {}
        id_of: dict[int, int] = {0: 0}
        kept: list[Segment] = []
        for segment in self.segments:
            label = labels.get(segment.label, -1)
            stuff = label >= 0 and not categories[label].is_thing and not segment.crowd
            id_of[segment.id] = first.setdefault(label, segment.id) if stuff else segment.id if label >= 0 else 0
            if id_of[segment.id] == segment.id:
                kept.append(replace(segment, label=label))
        values, places = self.ids.unique(return_inverse=True)
        ids = torch.tensor([id_of[i] for i in values.tolist()], dtype=torch.int32, device=self.ids.device)
        return PanopticMap(ids[places], tuple(kept), categories)

    def to_instances(self) -> Instances:
        """The things, as objects, in the order of their ids; with scores where each has one."""
        things = sorted((s for s in self.segments if self.is_thing(s)), key=lambda segment: segment.id)
        ids = self.ids.cpu().numpy()
        masks = RLE.from_label_map(np.where(np.isin(ids, [s.id for s in things]), ids, 0))
        scores = [s.score for s in things if s.score is not None]
        return Instances(
            image_size=self.image_size,
            boxes=torch.from_numpy(masks.boxes()),
            masks=masks,
            labels=torch.tensor([s.label for s in things], dtype=torch.int64),
            scores=torch.tensor(scores) if len(scores) == len(things) else None,
            crowd=torch.tensor([s.crowd for s in things], dtype=torch.bool),
            categories=self.categories,
        )

    def to_semantic(self, ignore: int = 255) -> SemanticMap:
        """The class of every pixel; ``ignore`` where there is no segment."""
        ids = torch.tensor(sorted(s.id for s in self.segments), dtype=torch.int32, device=self.ids.device)
        label_of = {segment.id: segment.label for segment in self.segments}
        labels = torch.tensor([ignore, *(label_of[i] for i in ids.tolist())], device=ids.device)
        place = torch.where(self.ids == 0, 0, torch.searchsorted(ids, self.ids.contiguous()) + 1)
        return SemanticMap(labels[place], self.categories, ignore)

    @staticmethod
    def from_instances(instances: Instances, stuff: SemanticMap | None = None) -> PanopticMap:
        """Objects as segments 1, 2, ...: where they overlap the better one is seen, without scores the earlier.

        Args:
            instances: with masks.
            stuff: the classes of what lies around them, with the same categories; each is one more segment.

        Raises:
            ValueError: the instances have no masks, or the map is of another size.
        """
        scores = instances.scores
        best = instances if scores is None else instances[scores.argsort(descending=True, stable=True)]
        ids = torch.from_numpy(best.to_label_map())
        values = [None] * len(best) if best.scores is None else best.scores.tolist()
        facts = zip(best.labels.tolist(), values, best.crowd.tolist(), strict=True)
        segments = [Segment(i, *fact) for i, fact in enumerate(facts, start=1)]
        if stuff is not None:
            if stuff.image_size != instances.image_size:
                raise ValueError(f"stuff on {stuff.image_size} around objects on {instances.image_size}")
            around = stuff.labels.cpu().int()
            ids = torch.where((ids == 0) & (around != stuff.ignore), around + 1 + len(best), ids)
            present = stuff.counts().nonzero().squeeze(1).tolist()
            segments += [Segment(label + 1 + len(best), label) for label in present]
        categories = instances.categories or (() if stuff is None else stuff.categories)
        return PanopticMap(ids, tuple(segments), categories)

    def _changed(self, change: Change) -> PanopticMap:
        return replace(self, ids=change(self.ids, 0), view=None)
