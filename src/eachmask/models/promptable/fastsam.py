"""FastSAM: first everything in the image, in one go; then what a prompt points at.

Zhao, Ding, An, Du, Yu, Li, Tang, Wang: "Fast Segment Anything", 2023, arXiv 2306.12156.

The idea: Segment Anything runs a decoder for every prompt, though what it finds hardly depends on the prompt. A
one-stage network for instance segmentation that knows a single class, *object*, finds all masks at once; a point, a
box or a sentence then only has to choose among them, which costs nothing, so that any number of prompts shares one
pass of the network.

Where we differ: the paper's first stage is a YOLOv8 detector with YOLACT's prototypes and coefficients, whose code
and weights are AGPL; ours is YOLACT itself (:mod:`eachmask.models.instance.yolact`) with three sizes of anchors to a
doubling, because everything means objects of every size, and with boxes that may overlap more, because parts of
things are things too. Written from the paper. The text prompt takes any encoder that puts images and sentences into
one space.

Shapes: as in :mod:`eachmask.models.instance.yolact`; N masks, T points.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from eachmask.backbones.fpn import FPN
from eachmask.backbones.networks import ResNet, Timm
from eachmask.models.instance import yolact
from eachmask.models.instance.yolact import YOLACT, Raw, yolact_fpn
from eachmask.ops.anchors import octave
from eachmask.structures import RLE, Bitmaps, Instances, UserError
from eachmask.structures import boxes as box_ops


@dataclass(frozen=True)
class Config(yolact.Config):
    """What a variant may change."""

    anchor_scales: tuple[tuple[float, ...], ...] = tuple(octave(size) for size in (24, 48, 96, 192, 384))
    square_anchors: bool = False
    candidates_per_class: int = 1000
    """There is only one class."""
    score_threshold: float = 0.4
    nms_threshold: float = 0.7
    max_detections: int = 300


# First stage: all instances -------------------------------------------------------------------------------------------


class FastSAM(YOLACT):
    """YOLACT with the single class *object*.

    Raises:
        UserError: there is more than one class.
    """

    config: Config

    def __init__(self, backbone: FPN, num_classes: int = 1, config: Config | None = None) -> None:
        if num_classes != 1:
            raise UserError(
                f"FastSAM finds objects without naming them, so num_classes is 1, not {num_classes}: for named "
                "objects use yolact_r50 or yolact_lite0"
            )
        super().__init__(backbone, num_classes, config or Config())

    def losses(self, raw: Raw, targets: list[Instances]) -> dict[str, Tensor]:
        """As YOLACT's; objects of whatever class are objects."""
        return super().losses(raw, [replace(t, labels=torch.zeros(len(t), dtype=torch.int64)) for t in targets])


# Second stage: prompts ------------------------------------------------------------------------------------------------


class TextEncoder(Protocol):
    """Puts images and sentences into one space (CLIP and its kin)."""

    def images(self, crops: Sequence[NDArray[np.uint8]]) -> Tensor:
        """Images (h, w, 3) of any sizes -> (N, D)."""

    def texts(self, sentences: Sequence[str]) -> Tensor:
        """Sentences -> (T, D)."""


def by_points(
    found: Instances,
    points: Sequence[Sequence[float]] | NDArray[Any] | Tensor,
    foreground: Sequence[bool] | None = None,
    *,
    which: Literal["union", "smallest", "each"] = "union",
    closing: int = 2,
) -> Instances:
    """What lies under the points (section 3.3, "point prompt").

    A mask is chosen if a foreground point lies in it and no background point does; several points choose several
    parts of one thing, which are joined, and gaps between them are closed.

    Args:
        found: of the first stage, in pixels of the image.
        points: (T, 2) x and y, px.
        foreground: of each point; False marks background. By default all are foreground.
        which: ``union`` joins the chosen masks into one object; ``smallest`` keeps, per foreground point, the smallest
            of them; ``each`` returns all, the smallest first.
        closing: radius, px, of the morphological closing of a union; 0: none.

    Returns:
        the chosen, or nothing where no mask answers.

    Raises:
        ValueError: points and their marks do not pair off, or a point is outside of the image.
    """
    places = np.asarray(points, np.float64).reshape(-1, 2)
    marks = np.ones(len(places), bool) if foreground is None else np.asarray(foreground, bool)
    if len(marks) != len(places):
        raise ValueError(f"{len(marks)} marks for {len(places)} points")
    masks = _masks(found)
    inside = _contains(masks, places)
    chosen = inside[marks].any(axis=0) & ~inside[~marks].any(axis=0)
    areas = masks.area()
    order = np.argsort(areas, kind="stable")
    if which == "smallest":
        hits = inside[marks][:, order] & chosen[order]
        first = {int(order[row.argmax()]) for row in hits if row.any()}
        return found[[i for i in order.tolist() if i in first]]
    order = order[chosen[order]]
    return found[order] if which == "each" or not len(order) else _joined(found[order], closing)


def by_box(found: Instances, box: Sequence[float] | Tensor) -> Instances:
    """The object whose box overlaps the given one most (section 3.3, "box prompt"); nothing if none touches it.

    Args:
        box: x1, y1, x2, y2, px.
    """
    wanted = torch.as_tensor(box, dtype=torch.float32).reshape(1, 4)
    iou = box_ops.iou(wanted, found.boxes.float().cpu())[0]
    best = iou.argsort(descending=True, stable=True)[:1]
    return found[best[iou[best] > 0]]


def by_text(
    found: Instances, image: NDArray[np.uint8], text: str, encoder: TextEncoder, *, num: int = 1
) -> tuple[Instances, Tensor]:
    """The objects that look most like what the text says (section 3.3, "text prompt").

    Every object is cut out of the image, on white, and compared with the text.

    Args:
        image: (H, W, 3) uint8, the image in which ``found`` was found.
        encoder: embeds cut-outs and text; see :class:`TextEncoder`.
        num: how many objects to return.

    Returns:
        the objects, the most similar first, and their similarities (num,), -1..1.

    Raises:
        ValueError: the image is not the one of ``found``.
    """
    if tuple(image.shape[:2]) != found.image_size:
        raise ValueError(f"objects of an image of {found.image_size} (height, width) in one of {image.shape[:2]}")
    bitmaps = _masks(found).to_bitmaps()
    seen = [i for i, crop in enumerate(bitmaps.crops) if crop.any()]
    if not seen:
        return found[:0], torch.zeros(0)
    crops = []
    for i in seen:
        mask, (x, y) = bitmaps.crops[i], bitmaps.origins[i].tolist()
        part = image[y : y + mask.shape[0], x : x + mask.shape[1]]
        crops.append(np.where(mask[..., None], part, np.uint8(255)))
    images, words = encoder.images(crops).float(), encoder.texts([text]).float()
    similarity = F.cosine_similarity(images.cpu(), words.cpu())
    order = similarity.argsort(descending=True, stable=True)[:num]
    return found[torch.tensor(seen)[order]], similarity[order]


def _masks(found: Instances) -> RLE:
    if found.masks is None:
        raise ValueError("prompts choose among masks, but these instances have none")
    return found.masks.to_rle()


def _contains(masks: RLE, points: NDArray[np.float64]) -> NDArray[np.bool_]:
    """(T, N): whether each point's pixel belongs to each mask."""
    height, width = masks.size
    x, y = np.floor(points).astype(np.int64).T
    if ((x < 0) | (y < 0) | (x >= width) | (y >= height)).any():
        raise ValueError(f"a point lies outside of the image of {width} x {height} px")
    runs = masks.runs
    result = np.zeros((len(points), len(masks)), bool)
    for row, place in zip(result, (x * height + y).tolist(), strict=True):
        row[runs.owner[(runs.start <= place) & (place < runs.stop)]] = True
    return result


def _joined(parts: Instances, closing: int) -> Instances:
    """One object of all parts, with the best of their scores."""
    union = _masks(parts).union()
    if closing:
        bitmaps = union.to_bitmaps()
        crop, (x, y) = bitmaps.crops[0], bitmaps.origins[0].tolist()
        framed = np.pad(crop.astype(np.uint8), closing)  # the frame is background and stays it
        disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * closing + 1, 2 * closing + 1))
        closed = cv2.morphologyEx(framed, cv2.MORPH_CLOSE, disc)[closing:-closing, closing:-closing]
        union = Bitmaps([closed.astype(bool)], np.array([[x, y]]), union.size).to_rle()
    best = parts[:1] if parts.scores is None else parts[parts.scores.argmax().reshape(1).cpu()]
    return replace(best, masks=union, boxes=torch.from_numpy(union.boxes()))


# Variants -------------------------------------------------------------------------------------------------------------


def fastsam_r50(num_classes: int = 1, **config: Any) -> FastSAM:
    """ResNet-50, for images of about 1024 px."""
    chosen = Config(**config)
    return FastSAM(yolact_fpn(ResNet("resnet50"), chosen), num_classes, chosen)


LIGHT: dict[str, Any] = {"anchor_scales": tuple(octave(size) for size in (16, 32, 64, 128, 256)),
                         "prototype_convs": 1, "prototype_width": 96}  # fmt: skip
"""For small networks."""


def fastsam_lite0(num_classes: int = 1, **config: Any) -> FastSAM:
    """EfficientNet-Lite0 with narrow branches: in real time without a GPU."""
    chosen = Config(**(LIGHT | config))
    return FastSAM(yolact_fpn(Timm("tf_efficientnet_lite0"), chosen, channels=96), num_classes, chosen)
