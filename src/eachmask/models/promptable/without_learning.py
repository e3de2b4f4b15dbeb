"""What answers prompts without having learned anything: marks on an image, and a cut of what is between them.

:func:`classic` gives these by name as they are loaded; they are :class:`~eachmask.models.protocol.Promptable` like all
others, have no weights and cannot be trained.

Prompts become marks: points and scribbles are drawn with a thin brush, what is outside of a box (or of the box of
extreme points) is surely not the object, and a rough mask says what it probably is. Where nothing says what is not
the object, the border of the image does.

Shapes: images (H, W, 3) uint8.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eachmask.models.config import changed
from eachmask.models.promptable.answering import Answering, Raw
from eachmask.structures import Instances, Prompts, UserError

CLASSICS = {
    "graph_cut": "graph_cut",
    "grabcut": "grabcut",
    "random_walker": "random_walker",
    "normalized_cuts": "normalized_cuts",
    "pixel_classifier": "pixel_classifier",
}
"""Name -> the module beside this one that builds it."""
UNKNOWN, OBJECT, BACKGROUND = 0, 1, -1
"""Marks."""


@dataclass(frozen=True)
class BrushConfig:
    """How prompts are drawn."""

    width: int = 3
    """Of points and lines, px of the reduced image."""
    max_side: int = 400
    """Larger images are reduced to this longer side, px, and the answer is enlarged again."""


@dataclass(frozen=True)
class Marks:
    """What prompts say of the pixels of an image."""

    seeds: NDArray[np.int8]
    """(H, W) of OBJECT, BACKGROUND and UNKNOWN."""
    probable: NDArray[np.bool_]
    """(H, W) what is the object if nothing else speaks: the rough mask, or the inside of the box."""


class Classic(Answering):
    """Marks, and :meth:`cut`, which subclasses write."""

    brush: BrushConfig
    wants = "give points, a scribble or a box"

    def __init__(self, brush: BrushConfig) -> None:
        super().__init__()
        self.brush, self.num_classes = brush, 1

    def cut(self, image: NDArray[np.uint8], marks: Marks) -> NDArray[Any]:
        """(H, W) probabilities, or bool: the object that the marks mean."""
        raise NotImplementedError

    def answer(self, image: Tensor, prompts: Prompts) -> Tensor:
        """(h, w) of the one object of these prompts, on an image (3, h, w) in 0..1."""
        size = (image.shape[1], image.shape[2])
        pixels = self.reduced(image)
        small = (pixels.shape[0], pixels.shape[1])
        found = self.cut(pixels, marks_of(prompts.resize(small), self.brush.width)).astype(np.float32)
        if small != size:
            found = np.asarray(cv2.resize(found, size[::-1], interpolation=cv2.INTER_LINEAR))
        return torch.from_numpy(np.ascontiguousarray(found)).to(image.device)

    def reduced(self, image: Tensor) -> NDArray[np.uint8]:
        """An image (3, h, w) in 0..1 as (H, W, 3), no larger than it is worked on."""
        size = (image.shape[1], image.shape[2])
        scale = min(1.0, self.brush.max_side / max(size))
        small = (max(1, round(size[0] * scale)), max(1, round(size[1] * scale)))
        pixels = (image.permute(1, 2, 0).cpu().numpy().clip(0, 1) * 255).round().astype(np.uint8)
        if small != size:
            pixels = np.asarray(cv2.resize(pixels, small[::-1], interpolation=cv2.INTER_AREA), np.uint8)
        return pixels

    def losses(self, raw: Raw, targets: list[Instances]) -> dict[str, Tensor]:
        """Nothing.

        Raises:
            UserError: always.
        """
        raise UserError(f"{type(self).__name__} has nothing to learn: train a model such as ritm_lite0")


def classic(name: str, **config: Any) -> Classic:
    """What has that name in :data:`CLASSICS`, with other settings.

    Raises:
        UserError: there is no such setting.
    """
    module = importlib.import_module(f"eachmask.models.promptable.{CLASSICS[name]}")
    built: Classic = module.build(changed(module.Config(), config))
    return built


def marks_of(prompts: Prompts, width: int = 3) -> Marks:
    """The marks that one object's prompts make on their image.

    Args:
        width: of points and lines, px.
    """
    seeds = np.zeros(prompts.image_size, np.int8)
    inside = np.zeros(prompts.image_size, bool)
    corners = [*prompts.boxes.tolist()]
    corners += [[*e.amin(0).tolist(), *e.amax(0).tolist()] for e in prompts.extremes]
    if corners:
        for x1, y1, x2, y2 in corners:
            inside[int(y1) : int(np.ceil(y2)), int(x1) : int(np.ceil(x2))] = True
        seeds[~inside] = BACKGROUND
    probable = inside.copy()
    if prompts.masks is not None and len(prompts.masks):
        probable = prompts.masks.to_rle().union().decode()[0]
    for place, sign in zip(prompts.points.tolist(), prompts.signs.tolist(), strict=True):
        _draw(seeds, [place], OBJECT if sign else BACKGROUND, width)
    for place in prompts.extremes.reshape(-1, 2).tolist():
        _draw(seeds, [place], OBJECT, 1)
    for line, sign in zip(prompts.scribbles, prompts.scribble_signs.tolist(), strict=True):
        _draw(seeds, line.tolist(), OBJECT if sign else BACKGROUND, width)
    if not (seeds == BACKGROUND).any():
        _border(seeds, probable)
    return Marks(seeds, probable)


def _draw(seeds: NDArray[np.int8], line: list[list[float]], mark: int, width: int) -> None:
    limits = np.array(seeds.shape[::-1]) - 1
    places = np.minimum(np.floor(np.array(line)), limits).astype(np.int32)
    if len(places) == 1:
        cv2.circle(seeds, places[0].tolist(), width // 2, mark, cv2.FILLED)
    else:
        cv2.polylines(seeds, [places], False, mark, width)


def _border(seeds: NDArray[np.int8], probable: NDArray[np.bool_]) -> None:
    """The frame of the image, where nothing else is said of it, is background."""
    frame = np.ones(seeds.shape, bool)
    frame[1:-1, 1:-1] = False
    seeds[frame & (seeds == UNKNOWN) & ~probable] = BACKGROUND
