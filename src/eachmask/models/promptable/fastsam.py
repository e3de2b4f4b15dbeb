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
from typing import Any, Literal, NamedTuple, Protocol

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from eachmask.backbones.fpn import FPN
from eachmask.backbones.networks import ResNet, Timm
from eachmask.models.config import changed
from eachmask.models.instance import yolact, yolact_plus
from eachmask.models.instance.yolact import YOLACT, Raw, Selected, yolact_fpn
from eachmask.structures import RLE, Bitmaps, DecodeOptions, ImageBatch, Instances, Prompts, UserError
from eachmask.structures import boxes as box_ops


@dataclass(frozen=True)
class Config(yolact.Config):
    """What a variant may change."""

    anchors: yolact.AnchorConfig = yolact_plus.ANCHORS
    select: yolact.SelectConfig = yolact.SelectConfig(per_class=1000)  # there is only one class
    score_threshold: float = 0.4
    nms_threshold: float = 0.7
    max_detections: int = 300


# First stage: all instances -------------------------------------------------------------------------------------------


class Prompted(NamedTuple):
    """Everything that was found in each image, and what is meant there."""

    everything: Selected
    prompts: tuple[Prompts, ...]


class FastSAM(YOLACT):
    """YOLACT with the single class *object*, whose masks are chosen by prompts
    (:class:`~eachmask.models.protocol.Promptable`).

    Raises:
        UserError: there is more than one class.
    """

    max_classes = 1
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

    def encode(self, images: ImageBatch) -> Selected:
        """All objects in images, as the model's own thresholds have them: what prompts choose among."""
        return self.select(self(images), DecodeOptions())

    def prompted(self, embedding: Selected, prompts: Sequence[Prompts]) -> Prompted:
        """The question of each image put to what was found there; :meth:`decode` gives the answers.

        Args:
            prompts: one per image, in its pixels as the network saw them.

        Raises:
            UserError: there are texts, for which this network has no encoder.
        """
        if any(asked.texts for asked in prompts):
            raise UserError(
                "FastSAM itself understands no words: give points or boxes, or use "
                "eachmask.models.promptable.fastsam.by_text with an encoder such as CLIP (segment --text --encoder)"
            )
        return Prompted(embedding, tuple(prompts))

    def decode(self, raw: Raw | Prompted, options: DecodeOptions) -> list[Instances]:
        """All objects, or of each object that is meant the best answer, if there is one.

        Answers come in the order of the objects, whose numbers are their ``track_ids``.
        """
        if isinstance(raw, Prompted):
            pairs = zip(self.pack(raw.everything, options), raw.prompts, strict=True)
            chosen = [answers(found, prompts) for found, prompts in pairs]
            least = options.score_threshold
            return chosen if least is None else [found.filter(score=least) for found in chosen]
        return super().decode(raw, options)


# Second stage: prompts ------------------------------------------------------------------------------------------------


def answers(found: Instances, prompts: Prompts) -> Instances:
    """What is meant by prompts, object by object; ``track_ids`` say which of them each is.

    Args:
        found: of the first stage; prompts: in pixels of the same image.
    """
    chosen = [answer(found, prompts.of(i)) for i in range(len(prompts))]
    numbers = [torch.full((len(one),), i) for i, one in enumerate(chosen)]
    return replace(Instances.cat(chosen), track_ids=torch.cat(numbers))


def answer(found: Instances, prompts: Prompts) -> Instances:
    """The object that all prompts together mean, or nothing.

    A rough mask, a box or extreme points choose by overlap, among the masks that hold the points on the object (and
    scribbles) and none of those beside it; points alone choose as :func:`by_points` does.
    """
    lines = [torch.zeros(0, 2), *prompts.scribbles]
    points = torch.cat([prompts.points, *lines[1:]]).cpu().numpy()
    signs = [prompts.signs, *(s.expand(len(x)) for s, x in zip(prompts.scribble_signs, lines[1:], strict=True))]
    marks = torch.cat(signs).bool().cpu().numpy()
    height, width = prompts.image_size
    points = np.clip(points, 0, [width - 1e-3, height - 1e-3])  # the far border belongs to the last pixel
    corners = torch.cat([prompts.extremes.amin(1), prompts.extremes.amax(1)], 1).to(prompts.boxes)
    boxes = torch.cat([prompts.boxes, corners])
    if prompts.masks is None and not len(boxes):
        return by_points(found, points, marks)
    if len(points):
        inside = _contains(_masks(found), points)
        found = found[np.flatnonzero(inside[marks].all(axis=0) & ~inside[~marks].any(axis=0))]
    if prompts.masks is not None:
        overlap = torch.from_numpy(_masks(found).iou(prompts.masks.to_rle())).amax(dim=1)
        best = overlap.argsort(descending=True, stable=True)[:1]
        return found[best[overlap[best] > 0]]
    return by_box(found, boxes[0])


class TextEncoder(Protocol):
    """Puts images and sentences into one space (CLIP and its kin)."""

    def images(self, crops: Sequence[NDArray[np.uint8]]) -> Tensor:
        """Images (h, w, 3) of any sizes -> (N, D)."""

    def texts(self, sentences: Sequence[str]) -> Tensor:
        """Sentences -> (T, D)."""


def by_points(
    found: Instances,
    points: Sequence[Sequence[float]] | NDArray[Any] | Tensor,
    foreground: Sequence[bool] | NDArray[np.bool_] | None = None,
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
    given = torch.as_tensor(box, dtype=torch.float32).reshape(1, 4).cpu()
    iou = box_ops.iou(given, found.boxes.float().cpu())[0]
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


LIGHT = Config(anchors=yolact_plus.LIGHT.anchors, prototypes=yolact.LIGHT.prototypes)
"""For small networks."""


def fastsam_r50(num_classes: int = 1, **config: Any) -> FastSAM:
    """ResNet-50, for images of about 1024 px."""
    chosen = changed(Config(), config)
    return FastSAM(yolact_fpn(ResNet("resnet50"), chosen), num_classes, chosen)


def fastsam_lite0(num_classes: int = 1, **config: Any) -> FastSAM:
    """EfficientNet-Lite0 with narrow branches: in real time without a GPU."""
    chosen = changed(LIGHT, config)
    return FastSAM(yolact_fpn(Timm("tf_efficientnet_lite0"), chosen, channels=96), num_classes, chosen)
