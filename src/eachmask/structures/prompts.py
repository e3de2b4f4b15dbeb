"""Prompts: how a user says which objects are meant, by clicks, boxes, scribbles, rough masks or words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eachmask.structures import boxes as box_ops
from eachmask.structures.errors import UserError
from eachmask.structures.masks import Masks
from eachmask.structures.rle import RLE
from eachmask.structures.spatial import window_of

_LEFT_OUT = cast(Tensor, None)
"""Filled in once the numbers are known."""


@dataclass(eq=False, repr=False)
class Prompts:
    """What is known of one or more objects on an image of ``image_size`` = (height, width) px.

    Each kind of prompt comes with the number of the object that it speaks of, 0..N-1, in a field of its own. Left out,
    all points and scribbles speak of object 0, and each box, mask, set of extreme points and text of an object of its
    own. Nested lists will do for tensors.

    >>> Prompts((480, 640), points=[[320, 240], [10, 10]], signs=[True, False])
    Prompts(1 object on 480 x 640: 2 points)
    >>> two = Prompts((480, 640), boxes=[[0, 0, 100, 100], [50, 60, 700, 480]])
    >>> two.boxes.tolist()  # cut at the image's border
    [[0.0, 0.0, 100.0, 100.0], [50.0, 60.0, 640.0, 480.0]]
    >>> two.of(1)
    Prompts(1 object on 480 x 640: 1 box)

    Raises:
        UserError: there is no prompt at all, a point lies outside the image, a box has no area in it, or an object's
            number has nothing that belongs to it.
    """

    image_size: tuple[int, int]
    points: Tensor = _LEFT_OUT
    """(P, 2) float xy, px."""
    signs: Tensor = _LEFT_OUT
    """(P,) bool: True on the object, False beside it; left out, all are on it."""
    point_objects: Tensor = _LEFT_OUT
    """(P,) int64."""
    boxes: Tensor = _LEFT_OUT
    """(B, 4) float xyxy."""
    box_objects: Tensor = _LEFT_OUT
    """(B,) int64."""
    extremes: Tensor = _LEFT_OUT
    """(E, 4, 2) float xy: the outermost points of an object, in any order (Maninis et al., CVPR 2018)."""
    extreme_objects: Tensor = _LEFT_OUT
    """(E,) int64."""
    scribbles: tuple[Tensor, ...] = ()
    """S lines of (K, 2) float xy each."""
    scribble_signs: Tensor = _LEFT_OUT
    """(S,) bool, as of points."""
    scribble_objects: Tensor = _LEFT_OUT
    """(S,) int64."""
    masks: Masks | None = None
    """M rough masks on the image's canvas."""
    mask_objects: Tensor = _LEFT_OUT
    """(M,) int64."""
    texts: tuple[str, ...] = ()
    """T words or sentences; they lie nowhere on the image."""
    text_objects: Tensor = _LEFT_OUT
    """(T,) int64."""
    num_objects: int = 0
    """N; 0: as many as are named. Larger where some have no prompt in this part of the image."""

    def __post_init__(self) -> None:
        self.image_size = (int(self.image_size[0]), int(self.image_size[1]))
        self.points = _floats(self.points, "points", 2)
        self.boxes = _floats(self.boxes, "boxes", 4)
        self.extremes = _floats(self.extremes, "extremes", 4, 2)
        self.scribbles = tuple(_floats(line, "a scribble", 2) for line in self.scribbles)
        self.texts = tuple(self.texts)
        self.signs = _filled(self.signs, "signs", torch.ones(len(self.points), dtype=torch.bool))
        self.scribble_signs = _filled(
            self.scribble_signs, "scribble_signs", torch.ones(len(self.scribbles), dtype=torch.bool)
        )
        for kind, (num, own) in self._kinds().items():
            name = f"{kind}_objects"
            default = torch.arange(num) if own else torch.zeros(num, dtype=torch.int64)
            setattr(self, name, _filled(getattr(self, name), name, default))
        self._check_places()
        self._count()

    def _kinds(self) -> dict[str, tuple[int, bool]]:
        """Kind -> how many there are, and whether each is an object of its own where nothing is said."""
        num_masks = 0 if self.masks is None else len(self.masks)
        return {
            "point": (len(self.points), False),
            "box": (len(self.boxes), True),
            "extreme": (len(self.extremes), True),
            "scribble": (len(self.scribbles), False),
            "mask": (num_masks, True),
            "text": (len(self.texts), True),
        }

    def _check_places(self) -> None:
        height, width = self.image_size
        for x, y in torch.cat([self.points, self.extremes.reshape(-1, 2), *self.scribbles]).tolist():
            if not (0 <= x <= width and 0 <= y <= height):
                raise UserError(f"the point ({x:g}, {y:g}) lies outside the image of {width} x {height} pixels")
        given, self.boxes = self.boxes, box_ops.clip(self.boxes, self.image_size)
        for before, (x1, y1, x2, y2) in zip(given.tolist(), self.boxes.tolist(), strict=True):
            if not (x1 < x2 and y1 < y2):
                corners = ", ".join(f"{v:g}" for v in before)
                raise UserError(
                    f"the box ({corners}) has no area in the image of {width} x {height} pixels: give x1, y1, x2, y2"
                )
        if self.masks is not None and tuple(self.masks.size) != self.image_size:
            raise UserError(f"the rough masks are on {self.masks.size} in an image of {self.image_size}: resize them")

    def _count(self) -> None:
        named = {int(i) for kind in self._kinds() for i in getattr(self, f"{kind}_objects").tolist()}
        if self.num_objects:
            return
        if not named:
            raise UserError("there is no prompt: give a point, a box, a scribble, a rough mask or a text")
        missing = set(range(max(named) + 1)) - named
        if missing or min(named) < 0:
            raise UserError(f"no prompt speaks of object {min(missing or named)}: number the objects 0, 1, 2, ...")
        self.num_objects = max(named) + 1

    def __len__(self) -> int:
        return self.num_objects

    def __repr__(self) -> str:
        height, width = self.image_size
        plural = {"box": "boxes"}
        said = [_counted(n, kind, plural.get(kind, f"{kind}s")) for kind, (n, _) in self._kinds().items() if n]
        return f"Prompts({_counted(len(self), 'object', 'objects')} on {height} x {width}: {', '.join(said) or 'none'})"

    def of(self, index: int) -> Prompts:
        """The prompts of one object, as object 0.

        Raises:
            IndexError: there is no such object.
        """
        index = range(len(self))[index]
        kept = self._kept({kind: getattr(self, f"{kind}_objects") == index for kind in self._kinds()})
        zeros: dict[str, Any] = {f"{kind}_objects": getattr(kept, f"{kind}_objects") * 0 for kind in self._kinds()}
        return replace(kept, num_objects=1, **zeros)

    def resize(self, image_size: tuple[int, int]) -> Prompts:
        """Scaled to an image of another (height, width)."""
        old, new = self.image_size, (int(image_size[0]), int(image_size[1]))
        x, y = box_ops.ratios(old, new).tolist()

        def scaled(points: Tensor) -> Tensor:
            return points * points.new_tensor([x, y])

        masks = None if self.masks is None else self.masks.resize(new)
        return self._placed(scaled, new, masks)

    def crop(self, box: Sequence[int]) -> Prompts:
        """What lies in the window (x1, y1, x2, y2), whole pixels; objects keep their numbers.

        Raises:
            ValueError: the window is empty.
        """
        x1, y1, x2, y2 = window_of(box)
        return self.shift(-x1, -y1, (y2 - y1, x2 - x1))

    def shift(self, dx: int, dy: int, image_size: tuple[int, int]) -> Prompts:
        """Moved by whole pixels onto a canvas of (height, width).

        Points off the canvas are gone, lines lose theirs there, boxes and masks are cut; extreme points move to the
        canvas's border, as those of what can still be seen. Objects keep their numbers.
        """
        size = (int(image_size[0]), int(image_size[1]))
        masks = None if self.masks is None else self.masks.shift(dx, dy, size)
        return self._placed(lambda points: points + points.new_tensor([dx, dy]), size, masks)

    def flip(self) -> Prompts:
        """Mirrored left to right."""
        width = self.image_size[1]

        def mirrored(points: Tensor) -> Tensor:
            x, y = points.unbind(-1)
            return torch.stack([width - x, y], dim=-1)

        masks = None if self.masks is None else self.masks.flip()
        return self._placed(mirrored, self.image_size, masks)

    def warp(self, matrix: NDArray[np.float64], image_size: tuple[int, int]) -> Prompts:
        """Moved by an affine map onto a canvas of (height, width); boxes become those around the moved ones.

        Args:
            matrix: (2, 3), from the centers of pixels (column, row) here to those there.
        """
        size = (int(image_size[0]), int(image_size[1]))
        turn, step = torch.from_numpy(matrix[:, :2]).float(), torch.from_numpy(matrix[:, 2]).float()

        def moved(points: Tensor) -> Tensor:  # the center of the first pixel lies at (0.5, 0.5)
            return (points - 0.5) @ turn.T.to(points) + step.to(points) + 0.5

        return self._placed(moved, size, None if self.masks is None else _warped(self.masks, matrix, size))

    def to(self, device: torch.device | str) -> Prompts:
        """Tensors on another device."""
        tensors = {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}
        if self.masks is None and {t.device for t in (*tensors.values(), *self.scribbles)} == {torch.device(device)}:
            return self
        values = {name: value.to(device) for name, value in tensors.items()}
        lines = tuple(line.to(device) for line in self.scribbles)
        masks = None if self.masks is None else self.masks.to(device)
        return replace(self, scribbles=lines, masks=masks, **cast(Any, values))

    def _placed(self, move: Callable[[Tensor], Tensor], size: tuple[int, int], masks: Masks | None) -> Prompts:
        """Points moved by ``move`` onto a canvas; what is off it goes."""
        points, lines = move(self.points), [move(line) for line in self.scribbles]
        lines = [line[_inside(line, size)] for line in lines]
        corners = move(self.boxes[:, [[0, 1], [2, 1], [0, 3], [2, 3]]])
        boxes = box_ops.clip(torch.cat([corners.amin(1), corners.amax(1)], 1), size)
        extremes = move(self.extremes)
        seen = (extremes.amax(1) > 0).all(1) & (extremes.amin(1) < extremes.new_tensor([size[1], size[0]])).all(1)
        chosen = {
            "point": _inside(points, size),
            "box": box_ops.area(boxes) > 0,
            "extreme": seen,
            "scribble": torch.tensor([len(line) > 0 for line in lines], dtype=torch.bool),
            "mask": torch.from_numpy(masks.area() > 0) if masks is not None else torch.zeros(0, dtype=torch.bool),
            "text": torch.ones(len(self.texts), dtype=torch.bool),
        }
        values = {
            "image_size": size, "points": points, "boxes": boxes, "extremes": _within(extremes, size),
            "scribbles": tuple(lines), "masks": masks,
        }  # fmt: skip
        return self._kept(chosen, values)

    def _kept(self, chosen: dict[str, Tensor], values: dict[str, Any] | None = None) -> Prompts:
        """Those of each kind that are chosen, (n,) bool, with other values."""
        now = vars(self) | (values or {})
        masks = now["masks"]
        some: dict[str, Any] = {name: now[name][chosen[kind]] for name, kind in _PER_PROMPT.items()}
        some |= {f"{kind}_objects": now[f"{kind}_objects"][index] for kind, index in chosen.items()}
        some["scribbles"] = tuple(v for v, keep in zip(now["scribbles"], chosen["scribble"], strict=True) if keep)
        some["texts"] = tuple(v for v, keep in zip(now["texts"], chosen["text"], strict=True) if keep)
        some["masks"] = None if masks is None or not chosen["mask"].any() else masks[chosen["mask"]]
        return Prompts(now["image_size"], num_objects=self.num_objects, **some)


_PER_PROMPT = {
    "points": "point", "signs": "point", "boxes": "box", "extremes": "extreme", "scribble_signs": "scribble",
}  # fmt: skip
"""Tensors with a row for each prompt of a kind."""


def _floats(value: Any, what: str, *shape: int) -> Tensor:
    """(n, *shape) float, none where nothing was given; whole numbers become float."""
    if value is None:
        return torch.zeros(0, *shape)
    found = torch.as_tensor(value)
    found = found if found.is_floating_point() else found.float()
    if found.numel() == 0:
        return found.reshape(0, *shape)
    if found.shape[1:] != shape:
        raise UserError(f"{what} must be (n, {', '.join(map(str, shape))}), not {tuple(found.shape)}")
    return found


def _filled(value: Any, what: str, default: Tensor) -> Tensor:
    """One value per prompt, the default's where nothing was given."""
    found = default if value is None else torch.as_tensor(value).to(default.dtype)
    if found.shape != default.shape:
        raise UserError(f"there are {found.numel()} {what} for {len(default)} prompts: give one for each")
    return found


def _warped(masks: Masks, matrix: NDArray[np.float64], size: tuple[int, int]) -> Masks:
    import cv2

    bitmaps = masks.to_rle().decode().astype(np.uint8)
    return RLE.from_bitmaps(np.stack([cv2.warpAffine(m, matrix, size[::-1], flags=cv2.INTER_NEAREST) for m in bitmaps]))


def _inside(points: Tensor, size: tuple[int, int]) -> Tensor:
    """(n, 2) -> (n,) bool."""
    x, y = points.unbind(-1)
    return (x >= 0) & (x <= size[1]) & (y >= 0) & (y <= size[0])


def _within(points: Tensor, size: tuple[int, int]) -> Tensor:
    """Points moved to the nearest place on the canvas."""
    x, y = points.unbind(-1)
    return torch.stack([x.clamp(0, size[1]), y.clamp(0, size[0])], dim=-1)


def _counted(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"
