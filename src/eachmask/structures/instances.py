"""Instances: the objects of one image. One type for targets and predictions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eachmask.structures import boxes as box_ops
from eachmask.structures import keypoints as keypoint_ops
from eachmask.structures.category import Category, labels_among
from eachmask.structures.checks import check_number
from eachmask.structures.coco import to_coco
from eachmask.structures.masks import Index, Masks, as_index
from eachmask.structures.rle import RLE
from eachmask.structures.spatial import window_of
from eachmask.structures.tables import to_pandas, to_supervision
from eachmask.structures.view import Viewable

_PER_OBJECT = ("boxes", "masks", "labels", "scores", "keypoints", "track_ids", "crowd")
_ZEROS = cast(Tensor, None)
"""Left out: a zero for each object, once their number is known."""


@dataclass(eq=False, repr=False)
class Instances(Viewable):
    """N objects in one image of ``image_size`` = (height, width) pixels.

    >>> cat, dog = Category(1, "cat", "animal"), Category(2, "dog", "animal")
    >>> boxes = torch.tensor([[0.0, 0, 4, 2], [5, 1, 9, 6]])
    >>> found = Instances((6, 10), boxes, labels=torch.tensor([0, 1]), scores=torch.tensor([0.9, 0.4]),
    ...                   categories=(cat, dog))
    >>> found
    Instances(2 objects on 6 x 10: boxes, labels, scores)
    >>> found.filter(score=0.5).label_names, found.filter(classes=["animal"]).label_names
    (['cat'], ['cat', 'dog'])
    >>> found[1].shift(10, 0, (6, 20)).boxes.tolist()
    [[15.0, 1.0, 19.0, 6.0]]
    >>> [one.label_names for one in found.crop((4, 0, 10, 6))]
    [['dog']]

    Raises:
        ValueError: the parts are of different lengths or on different canvases.
    """

    image_size: tuple[int, int]
    boxes: Tensor
    """(N, 4) float xyxy, half-open."""
    masks: Masks | None = None
    labels: Tensor = _ZEROS
    """(N,) int64, 0..K-1."""
    scores: Tensor | None = None
    """(N,) float in 0..1."""
    keypoints: Tensor | None = None
    """(N, P, 3) float: x, y and visibility (targets: 0, 1, 2) or score (predictions)."""
    track_ids: Tensor | None = None
    crowd: Tensor = _ZEROS
    """(N,) bool: a region of many objects (COCO's ``iscrowd``), to be ignored rather than learnt."""
    categories: tuple[Category, ...] = ()

    def __post_init__(self) -> None:
        self.image_size = (int(self.image_size[0]), int(self.image_size[1]))
        if self.boxes.ndim != 2 or self.boxes.shape[1] != 4:
            raise ValueError(f"boxes must be (N, 4), not {tuple(self.boxes.shape)}")
        for name, dtype in (("labels", torch.int64), ("crowd", torch.bool)):
            if getattr(self, name) is _ZEROS:
                setattr(self, name, torch.zeros(len(self.boxes), dtype=dtype, device=self.boxes.device))
        for name in _PER_OBJECT[1:]:
            value = getattr(self, name)
            if value is not None and len(value) != len(self.boxes):
                raise ValueError(f"{len(value)} {name} for {len(self.boxes)} boxes")
        if self.masks is not None and tuple(self.masks.size) != self.image_size:
            raise ValueError(f"masks on {self.masks.size} in an image of {self.image_size} (height, width)")

    def __len__(self) -> int:
        return len(self.boxes)

    def __repr__(self) -> str:
        height, width = self.image_size
        present = [name for name in _PER_OBJECT if name != "crowd" and getattr(self, name) is not None]
        crowd = ["crowd"] * bool(self.crowd.any())
        return (
            f"Instances({len(self)} object{'s' * (len(self) != 1)} on {height} x {width}: {', '.join(present + crowd)})"
        )

    def __iter__(self) -> Iterator[Instances]:
        """One by one, each a collection of one."""
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: Index) -> Instances:
        """The chosen objects, in the given order; a single int keeps a collection of one."""
        chosen = torch.from_numpy(as_index(index, len(self)))
        return self._map(lambda value: value[chosen.to(value.device) if isinstance(value, Tensor) else chosen])

    @property
    def gt_masks(self) -> Masks:
        """The masks of a target that a model learns from.

        Raises:
            ValueError: there are none.
        """
        if self.masks is None:
            raise ValueError("this model learns from masks, but a target has none")
        return self.masks

    @property
    def label_names(self) -> list[str]:
        """Each object's class name; its number where the categories are not known."""
        known = [c.name for c in self.categories]
        return [known[k] if k < len(known) else str(k) for k in self.labels.tolist()]

    @property
    def parent_names(self) -> list[str]:
        """The name of the category above each object's; empty where there is none."""
        known = [c.parent for c in self.categories]
        return [known[k] if k < len(known) else "" for k in self.labels.tolist()]

    @staticmethod
    def empty(image_size: tuple[int, int], with_masks: bool = True) -> Instances:
        """No objects, with labels and scores."""
        return Instances(
            image_size=image_size,
            boxes=torch.zeros(0, 4),
            masks=RLE.empty(image_size) if with_masks else None,
            labels=torch.zeros(0, dtype=torch.int64),
            scores=torch.zeros(0),
        )

    @staticmethod
    def cat(parts: Sequence[Instances]) -> Instances:
        """Objects of one image joined; a field stays only where every part has it.

        Raises:
            ValueError: no parts, or parts of different image sizes.
        """
        if not parts:
            raise ValueError("nothing to join: the image size would be unknown")
        if any(part.image_size != parts[0].image_size for part in parts):
            raise ValueError("objects of images of different sizes cannot be joined")
        joined: dict[str, Any] = {}
        for name in _PER_OBJECT:
            values = [getattr(part, name) for part in parts]
            if any(value is None for value in values):
                continue
            joined[name] = Masks.cat(values) if name == "masks" else torch.cat(values)
        first = parts[0]
        return Instances(first.image_size, **joined, categories=first.categories)

    def filter(self, score: float | None = None, classes: Sequence[int | str] | str | None = None) -> Instances:
        """Objects scoring at least ``score`` that are of one of ``classes``.

        Args:
            score: 0..1.
            classes: names or labels; a name also means all categories below it, so that "animal" takes cats and dogs.

        Raises:
            UserError: a class is not known.
        """
        keep = torch.ones(len(self), dtype=torch.bool)
        if score is not None:
            check_number("score", score)
        if score is not None and self.scores is not None:
            keep &= self.scores.cpu() >= score
        if classes is not None:
            chosen = labels_among(self.categories, classes)
            keep &= torch.tensor([label in chosen for label in self.labels.tolist()], dtype=torch.bool)
        return self[keep]

    def present(self) -> set[int]:
        """The labels of the objects."""
        return set(self.labels.tolist())

    def relabeled(self, labels: Mapping[int, int], categories: tuple[Category, ...]) -> Instances:
        """In other categories: label k becomes ``labels[k]`` of them; objects that have none there are left out."""
        kept = self[torch.tensor([label in labels for label in self.labels.tolist()], dtype=torch.bool)]
        new = torch.tensor([labels[label] for label in kept.labels.tolist()], dtype=torch.int64)
        return replace(kept, labels=new.to(kept.labels.device), categories=categories, view=None)

    def to(self, device: torch.device | str) -> Instances:
        """Tensors on another device; RLE and its kin stay where they are, in memory."""
        return self._map(lambda value: value.to(device))

    def resize(self, image_size: tuple[int, int]) -> Instances:
        """Everything scaled to an image of another (height, width)."""
        old, new = self.image_size, (int(image_size[0]), int(image_size[1]))
        if new == old:
            return self
        return replace(
            self,
            image_size=new,
            boxes=box_ops.resize(self.boxes, old, new),
            masks=None if self.masks is None else self.masks.resize(new),
            keypoints=None if self.keypoints is None else keypoint_ops.resize(self.keypoints, old, new),
            view=None,
        )

    def flip(self, keypoint_pairs: Sequence[tuple[int, int]] | None = None) -> Instances:
        """Mirrored left to right.

        Args:
            keypoint_pairs: indices of keypoints that change their names in a mirror (left and right eye); None: those
                that each object's category names so.
        """
        width = self.image_size[1]
        x1, y1, x2, y2 = self.boxes.unbind(1)
        return replace(
            self,
            boxes=torch.stack([width - x2, y1, width - x1, y2], dim=1),
            masks=None if self.masks is None else self.masks.flip(),
            keypoints=None if self.keypoints is None else self._mirrored(self.keypoints, keypoint_pairs),
            view=None,
        )

    def _mirrored(self, keypoints: Tensor, pairs: Sequence[tuple[int, int]] | None) -> Tensor:
        width = self.image_size[1]
        if pairs is not None:
            return keypoint_ops.flip(keypoints, width, pairs)
        result = keypoint_ops.flip(keypoints, width)
        for label, category in enumerate(self.categories):
            if len(category.keypoints) == keypoints.shape[1]:
                own = self.labels == label
                pairs = keypoint_ops.mirror_pairs(category.keypoints)
                result[own] = keypoint_ops.flip(keypoints[own], width, pairs)
        return result

    def crop(self, box: Sequence[int]) -> Instances:
        """What lies in the window (x1, y1, x2, y2), whole pixels; objects without a pixel in it are gone.

        Boxes are cut at the window's border, not drawn anew around what is left of a mask (see
        :meth:`with_boxes_from_masks`).

        Raises:
            ValueError: the window is empty.
        """
        x1, y1, x2, y2 = window_of(box)
        cropped = self._moved(-x1, -y1, (y2 - y1, x2 - x1))
        size_left = box_ops.area(cropped.boxes) if cropped.masks is None else cropped.masks.area()
        return cropped[size_left > 0]

    def shift(self, dx: int, dy: int, image_size: tuple[int, int]) -> Instances:
        """Moved by whole pixels onto a canvas of (height, width): a tile's objects onto the whole image.

        What leaves the canvas is cut; objects whose box leaves it are gone.
        """
        moved = self._moved(dx, dy, image_size)
        left = (box_ops.area(moved.boxes) <= 0) & (box_ops.area(self.boxes) > 0)
        return moved[~left] if left.any() else moved

    def _moved(self, dx: int, dy: int, size: tuple[int, int]) -> Instances:
        window = (-dx, -dy, size[1] - dx, size[0] - dy)
        return replace(
            self,
            image_size=size,
            boxes=box_ops.clip(self.boxes + self.boxes.new_tensor([dx, dy, dx, dy]), size),
            masks=None if self.masks is None else self.masks.shift(dx, dy, size),
            keypoints=None if self.keypoints is None else keypoint_ops.crop(self.keypoints, window),
            view=None,
        )

    def to_label_map(self) -> NDArray[np.int32]:
        """(H, W): 0 is background, i + 1 the i-th object; where objects overlap the earlier one wins.

        Raises:
            ValueError: there are no masks.
        """
        if self.masks is None:
            raise ValueError("these instances have no masks to make a map of")
        return self.masks.to_label_map()

    def with_boxes_from_masks(self) -> Instances:
        """Boxes tight around the masks.

        Raises:
            ValueError: there are no masks.
        """
        if self.masks is None:
            raise ValueError("these instances have no masks to take boxes from")
        return replace(self, boxes=torch.from_numpy(self.masks.boxes()).to(self.boxes))

    def _map(self, change: Callable[[Any], Any]) -> Instances:
        values = {name: getattr(self, name) for name in _PER_OBJECT}
        return replace(self, **{name: change(value) for name, value in values.items() if value is not None})

    def to_coco(self, file_name: str = "", image_id: int = 1) -> dict[str, Any]:
        """A whole COCO file about this image, ready for JSON: ``images``, ``annotations``, ``categories``."""
        return to_coco(self, file_name, image_id)

    def to_pandas(self) -> Any:
        """A ``pandas.DataFrame``: a row per object with its class, score, box (px), area (px) and what else is known.

        Raises:
            UserError: pandas is not installed.
        """
        return to_pandas(self)

    def to_supervision(self) -> Any:
        """A ``supervision.Detections`` with boxes, masks, scores, labels and ``data["class_name"]``.

        Raises:
            UserError: supervision is not installed.
        """
        return to_supervision(self)

    def _repr_html_(self) -> str:
        from eachmask.structures.preview import preview

        return preview(self)
