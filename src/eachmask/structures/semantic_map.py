"""SemanticMap: the class of every pixel of an image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from eachmask.structures.category import Category
from eachmask.structures.class_scores import ClassScores
from eachmask.structures.instances import Instances
from eachmask.structures.pixels import Change, PixelMap, check_map, nearest
from eachmask.structures.rle import RLE
from eachmask.structures.view import Viewable


@dataclass(eq=False, repr=False)
class SemanticMap(PixelMap, Viewable):
    """One label per pixel, one byte each where there are at most 255 classes.

    >>> street = (Category(1, "road"), Category(2, "car"))
    >>> seen = SemanticMap(torch.tensor([[0, 0, 1], [0, 1, 255]]), street)
    >>> seen
    SemanticMap(2 classes on 2 x 3: road 50%, car 33%)
    >>> seen.flip().labels.tolist()
    [[1, 0, 0], [255, 1, 0]]
    >>> seen.labels.dtype
    torch.uint8

    Raises:
        ValueError: the labels are not (H, W) whole numbers, or one is neither a class nor ``ignore``.
    """

    labels: Tensor
    """(H, W) uint8 (int32 where there are more classes), 0..K-1 or ``ignore``."""
    categories: tuple[Category, ...] = ()
    ignore: int = 255
    """Of pixels that are of no class, or of none that is known: not learnt from and not measured."""
    scores: ClassScores | None = None
    """Of a prediction, what the labels are the best of, so that it can be resized and blended without steps. Whatever
    else is changed lets go of it."""

    def __post_init__(self) -> None:
        check_map(self.labels, "labels")
        if self.labels.is_floating_point() or self.labels.is_complex() or self.labels.dtype == torch.bool:
            raise ValueError(f"labels must be whole numbers, not {self.labels.dtype}")
        if not len(self.categories) <= self.ignore:
            raise ValueError(
                f"ignore={self.ignore} is the label of a class, for there are {len(self.categories)}: take a higher one"
            )
        self._check_values()
        self.labels = self.labels.to(torch.uint8 if self.ignore <= 255 else torch.int32)

    def _check_values(self) -> None:
        """Before they become bytes, in which a wrong one would pass for another."""
        most = len(self.categories) or self.ignore
        wrong = ((self.labels < 0) | (self.labels >= most)) & (self.labels != self.ignore)
        if wrong.any():
            label = int(self.labels[wrong][0])
            raise ValueError(f"the label {label} is neither one of {most} classes nor ignore={self.ignore}")

    def __repr__(self) -> str:
        height, width = self.image_size
        shares = self.counts().double() / max(self.labels.numel(), 1)
        order = [k for k in shares.argsort(descending=True, stable=True).tolist() if shares[k] > 0]
        names = ", ".join(f"{self.name_of(k)} {100 * float(shares[k]):.0f}%" for k in order[:5])
        return f"SemanticMap({len(order)} classes on {height} x {width}{': ' if names else ''}{names})"

    @property
    def image_size(self) -> tuple[int, int]:
        return int(self.labels.shape[0]), int(self.labels.shape[1])

    def name_of(self, label: int) -> str:
        """A class's name; its number where the categories are not known."""
        return self.categories[label].name if label < len(self.categories) else str(label)

    def counts(self) -> Tensor:
        """(K,) int64, the pixels of each class; where the categories are not known K is the highest label + 1."""
        known = self.labels[self.labels != self.ignore].long()
        return torch.bincount(known, minlength=len(self.categories))

    def resize(self, image_size: tuple[int, int]) -> SemanticMap:
        """Stretched to another (height, width): each pixel takes the label that lies at its center, or, where scores
        are known, the best one there."""
        if self.scores is not None and image_size != self.image_size:
            return replace(self, labels=self.scores.labels(image_size), view=None)
        if image_size == self.image_size:
            return self
        return self._changed(lambda labels, outside: nearest(labels, image_size))

    def present(self) -> set[int]:
        """The classes that have a pixel."""
        return set(self.counts().nonzero().squeeze(1).tolist())

    def relabeled(self, labels: Mapping[int, int], categories: tuple[Category, ...]) -> SemanticMap:
        """In other categories: label k becomes ``labels[k]`` of them, and ``ignore`` where it has none there.

        >>> seen = SemanticMap(torch.tensor([[0, 1, 2]]))
        >>> seen.relabeled({0: 1, 2: 0}, (Category(1, "car"), Category(2, "road"))).labels.tolist()
        [[1, 255, 0]]
        """
        ignore = max(self.ignore, len(categories))
        present = int(self.counts().numel())
        lookup = torch.tensor([labels.get(k, ignore) for k in range(present)] + [ignore], device=self.labels.device)
        place = torch.where(self.labels == self.ignore, present, self.labels.long())
        return SemanticMap(lookup[place], categories, ignore)

    def to_instances(self) -> Instances:
        """One object per class that is there, with all of its pixels."""
        present = self.counts().nonzero().squeeze(1).cpu()
        numbered = torch.where(self.labels == self.ignore, 0, self.labels.int() + 1)
        masks = RLE.from_label_map(numbered.cpu().numpy())
        boxes = torch.from_numpy(masks.boxes())
        return Instances(self.image_size, boxes, masks, labels=present, categories=self.categories)

    @staticmethod
    def from_instances(instances: Instances, ignore: int = 255) -> SemanticMap:
        """Each pixel has the class of the first object on it; ``ignore`` where there is none.

        Raises:
            ValueError: the instances have no masks.
        """
        labels = torch.cat([torch.tensor([ignore]), instances.labels.cpu()])
        return SemanticMap(labels[torch.from_numpy(instances.to_label_map()).long()], instances.categories, ignore)

    def _changed(self, change: Change) -> SemanticMap:
        return replace(self, labels=change(self.labels, self.ignore), scores=None, view=None)

    def to(self, device: torch.device | str) -> SemanticMap:
        """Tensors on another device."""
        scores = None if self.scores is None else self.scores.to(device)
        return replace(self, labels=self.labels.to(device), scores=scores)
