"""What networks share that see the clicks: one pass for each answer, with the previous mask as an input.

The loop is RITM's (Sofiiuk, Petrov, Konushin: "Reviving Iterative Training with Mask Guidance for Interactive
Segmentation", arXiv 2102.06583), which SimpleClick keeps: after each click the network sees the image, the clicks so
far and the mask that it gave before; from some click on it sees only a window around that mask, enlarged; and its
logits for the image and for the mirrored image are averaged.

Such a network knows nothing of an image before somebody has clicked: ``encode`` only keeps the image. Prompts with n
clicks and no rough mask are answered as if the clicks had been given one by one, which takes n passes; with the
previous answer's masks in the prompts, one.

In training the clicks are simulated: a few at random on the object and beside it, then up to some more where the
network's own answer is wrong.

Shapes: B images of H x W px, N objects of one image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from eachmask.models.protocol import Network
from eachmask.ops.click_maps import Clicks, Window, clicks_of
from eachmask.ops.losses import normalized_focal
from eachmask.ops.simulated_clicks import first_clicks, next_click
from eachmask.structures import RLE, DecodeOptions, ImageBatch, Instances, Prompts, UserError
from eachmask.structures.soft_masks import SoftMasks
from eachmask.structures.spatial import Spatial
from eachmask.tasks.instances import INSTANCES


class Seen(NamedTuple):
    """Images, before somebody has asked."""

    images: Tensor  # (B, 3, H, W) normalized
    sizes: tuple[tuple[int, int], ...]  # valid (height, width)


class Raw(NamedTuple):
    """Images, and what was asked; nothing is computed yet."""

    images: Tensor  # (B, 3, H, W) normalized
    sizes: tuple[tuple[int, int], ...]  # valid (height, width)
    prompts: tuple[Prompts, ...] | None  # one for each image


class Answers(NamedTuple):
    """What belongs to each object that is meant, one entry per image."""

    sizes: tuple[tuple[int, int], ...]
    probabilities: tuple[Tensor, ...]  # (N, height, width) 0..1


@dataclass(frozen=True)
class ZoomConfig:
    """Which window of the image the network sees."""

    size: tuple[int, ...] = ()
    """The window becomes (height, width), or with one number so long on its longer side; nothing: never a window."""
    after: int = 1
    """Clicks that are answered on the whole image; -1: even without one the whole image is stretched to ``size``."""
    expansion: float = 1.4
    """Of the box around the previous mask."""
    min_side: int = 200
    """Of a window, px."""
    threshold: float = 0.5
    """Of the probabilities around which the window lies."""
    keep_iou: float = 0.5
    """A window is kept until the new one's IoU with it is less, or a click lies outside."""


@dataclass(frozen=True)
class LearnConfig:
    """Simulated clicks."""

    first: int = 3
    """At most so many random clicks on the object, and beside it, to begin with."""
    more: int = 3
    """At most so many where the answer is wrong."""
    forget: float = 0.2
    """Chance that the previous mask is withheld."""


class ClickNetwork(Network[Raw, Answers, Instances]):
    """A network with :meth:`logits`; subclasses write that alone (:class:`~eachmask.models.protocol.Promptable`)."""

    task = INSTANCES
    max_classes = 1
    needs = frozenset({"masks"})
    answers_only = True
    """Prompts are all that it answers: there is no everything."""
    zoom = ZoomConfig()
    learn = LearnConfig()
    mirror = True
    """Average the logits for the image and its mirror image."""
    max_side: int | None = None
    """Larger images are reduced to this longer side, px, where there is no window."""
    threshold = 0.5
    """Of the probabilities of a mask."""

    def logits(self, images: Tensor, previous: Tensor, clicks: Clicks) -> tuple[Tensor, ...]:
        """What the network says of images with clicks on one object each.

        Args:
            images: (B, 3, H, W) normalized; previous: (B, 1, H, W) probabilities.

        Returns:
            (B, 1, H, W) logits, and those of auxiliary outputs, which only training reads.
        """
        raise NotImplementedError

    def forward(self, images: ImageBatch, given: Sequence[Spatial] | None = None) -> Raw:
        """The images and the prompts that are given with them; what depends on clicks is computed when asked for."""
        prompts = None if given is None else tuple(p for p in given if isinstance(p, Prompts))
        return Raw(images.tensor, images.sizes, prompts)

    def encode(self, images: ImageBatch) -> Seen:
        """The images, as they are."""
        return Seen(images.tensor, images.sizes)

    def prompted(self, embedding: Seen, prompts: Sequence[Prompts]) -> Raw:
        """What is asked of each image, in its pixels as the network sees them.

        Raises:
            UserError: there are boxes, extreme points or texts, which this network cannot see.
        """
        for asked in prompts:
            self._check(asked)
        return Raw(embedding.images, embedding.sizes, tuple(prompts))

    def _check(self, prompts: Prompts) -> None:
        name = type(self).__name__
        if prompts.texts:
            raise UserError(f"{name} understands no words: give points on the object")
        if len(prompts.boxes) or len(prompts.extremes):
            raise UserError(f"{name} sees clicks, scribbles and rough masks, but no boxes: give points on the object")

    # Answers

    def select(self, raw: Raw, options: DecodeOptions) -> Answers:
        """One mask for each object that is meant.

        Raises:
            UserError: nothing was asked.
        """
        if raw.prompts is None:
            raise UserError(f"{type(self).__name__} answers clicks: give points on the object that is meant")
        rows = zip(raw.images, raw.sizes, raw.prompts, strict=True)
        return Answers(raw.sizes, tuple(self._of_image(x[:, :h, :w], asked) for x, (h, w), asked in rows))

    def pack(self, selected: Answers, options: DecodeOptions) -> list[Instances]:
        """The masks, in the order of the objects, whose numbers are their ``track_ids``."""
        threshold = self.threshold if options.mask_threshold == 0.5 else options.mask_threshold
        rows = zip(selected.probabilities, selected.sizes, strict=True)
        return [answered(maps, size, threshold) for maps, size in rows]

    def _of_image(self, image: Tensor, prompts: Prompts) -> Tensor:
        """(3, h, w) -> (N, h, w)."""
        return torch.stack([self.answer(image, prompts.of(i)) for i in range(len(prompts))])

    def answer(self, image: Tensor, prompts: Prompts) -> Tensor:
        """(h, w) probabilities of the one object of these prompts, on an image (3, h, w)."""
        clicks = clicks_of(prompts.to(image.device))
        previous, known = _rough(prompts, image), prompts.masks is not None
        window: Window | None = None
        total = clicks.signs.shape[1]
        for num in range(total if known else min(total, 1), total + 1):
            so_far = clicks.first(num)
            window = self.window(previous, so_far, window)
            previous = self.look(image, previous, so_far, window)
        return previous

    def window(self, previous: Tensor, clicks: Clicks, before: Window | None) -> Window | None:
        """Where to look next: around the previous mask, as before while that is good enough; None: everywhere."""
        zoom, size = self.zoom, (previous.shape[0], previous.shape[1])
        num = clicks.signs.shape[1]
        if not zoom.size or 0 <= num <= zoom.after:
            return before
        tight = Window.around(previous > zoom.threshold, clicks)
        if tight is not None:
            wanted = tight.expanded(zoom.expansion, zoom.min_side, size)
        elif zoom.after >= 0:
            return before
        else:
            wanted = Window.whole(size)
        kept = before is not None and before.holds(clicks) and wanted.iou(before) >= zoom.keep_iou
        return before if kept else wanted

    def look(self, image: Tensor, previous: Tensor, clicks: Clicks, window: Window | None) -> Tensor:
        """One pass: (h, w) probabilities on the whole image, 0 beyond the window."""
        size = (image.shape[1], image.shape[2])
        seen = window or Window.whole(size)
        stack = torch.cat([image, previous[None].to(image)])[None]
        stack = stack[:, :, seen.top : seen.bottom + 1, seen.left : seen.right + 1]
        target = self._target(window, size)
        if target != tuple(stack.shape[2:]):
            stack = F.interpolate(stack, target, mode="bilinear", align_corners=True)
            clicks = clicks.seen_through(seen, target)
        found = self._probabilities(stack, clicks)
        found = F.interpolate(found, (seen.height, seen.width), mode="bilinear", align_corners=True)[0, 0]
        margins = (seen.left, size[1] - 1 - seen.right, seen.top, size[0] - 1 - seen.bottom)
        return F.pad(found, margins)

    def _target(self, window: Window | None, size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) at which the network sees the window, or the whole image."""
        if window is None:
            longer = max(size)
            limit = self.max_side if self.max_side is not None and longer > self.max_side else longer
            return round(size[0] * limit / longer), round(size[1] * limit / longer)
        if len(self.zoom.size) == 2:
            return self.zoom.size[0], self.zoom.size[1]
        scale = self.zoom.size[0] / max(window.height, window.width)
        return round(window.height * scale), round(window.width * scale)

    def _probabilities(self, stack: Tensor, clicks: Clicks) -> Tensor:
        """(1, 4, h, w) image and previous mask -> (1, 1, h, w)."""
        if not self.mirror:
            return self.logits(stack[:, :3], stack[:, 3:], clicks)[0].float().sigmoid()
        other = clicks.flip(stack.shape[3])
        both = Clicks(torch.cat([clicks.places, other.places]), torch.cat([clicks.signs, other.signs]))
        stack = torch.cat([stack, stack.flip(3)])
        found = self.logits(stack[:, :3], stack[:, 3:], both)[0].float()
        return ((found[:1] + found[1:].flip(3)) / 2).sigmoid()

    # Learning

    def losses(self, raw: Raw, targets: list[Instances]) -> dict[str, Tensor]:
        """Normalized focal loss of one object of each image, after clicks that are simulated; auxiliary outputs too."""
        images, masks = self.lessons(raw, targets)
        clicks, previous = self.simulate(images, masks)
        outputs = self.logits(images, previous, clicks)
        names = ("mask", *(f"auxiliary_{i}" for i in range(len(outputs) - 1)))
        weights = (1.0, *[0.4] * (len(outputs) - 1))
        values = zip(names, outputs, weights, strict=True)
        return {name: weight * normalized_focal(x[:, 0].float(), masks) for name, x, weight in values}

    def lessons(self, raw: Raw, targets: list[Instances]) -> tuple[Tensor, Tensor]:
        """What is learnt: the images as the network sees them, and one object of each.

        Returns:
            (B, 3, H, W), and (B, H, W) float: 1 object, 0 not, -1 where nothing is known (padding, crowds).
        """
        images = raw.images
        masks = torch.stack([target_mask(t, tuple(images.shape[2:])) for t in targets]).to(images)  # type: ignore[arg-type]
        if len(self.zoom.size) != 2:
            return images, masks
        size = (self.zoom.size[0], self.zoom.size[1])
        valid = [
            F.interpolate(x[None, :, :h, :w], size, mode="bilinear", align_corners=True)
            for x, (h, w) in zip(images, raw.sizes, strict=True)
        ]
        seen = [
            F.interpolate(m[None, None, :h, :w], size, mode="nearest")[0]
            for m, (h, w) in zip(masks, raw.sizes, strict=True)
        ]
        return torch.cat(valid), torch.cat(seen)

    @torch.no_grad()
    def simulate(self, images: Tensor, masks: Tensor) -> tuple[Clicks, Tensor]:
        """Clicks on the objects, and the previous masks (B, 1, H, W) that they correct."""
        clicks = first_clicks(masks, self.learn.first)
        previous = torch.zeros_like(masks)[:, None]
        rounds = int(torch.randint(0, self.learn.more + 1, ()))
        for _ in range(rounds):
            found = self.logits(images, previous, clicks)[0].float().sigmoid()
            keep = torch.rand(len(found), 1, 1, 1, device=found.device) >= self.learn.forget
            clicks, previous = next_click(found[:, 0] > 0.5, masks, clicks), found * keep
        return clicks, previous


def answered(maps: Tensor, size: tuple[int, int], threshold: float) -> Instances:
    """Probabilities (N, h, w) of N objects -> those that have a mask; their score is its mean probability."""
    maps = maps.float()
    inside = maps >= threshold
    area = inside.sum((1, 2))
    scores = (maps * inside).sum((1, 2)) / area.clamp(min=1)
    kept = area.nonzero()[:, 0]
    masks = SoftMasks.from_maps(maps[kept], size, size, threshold)
    boxes = torch.from_numpy(RLE.boxes(masks.to_rle())).to(scores.device)
    return Instances(size, boxes, masks=masks, scores=scores[kept].clamp(max=1), track_ids=kept)


def target_mask(target: Instances, size: tuple[int, int]) -> Tensor:
    """(H, W) float of one object drawn at random: 1 on it, 0 beside it, -1 on crowds and beyond the image."""
    height, width = target.image_size
    known = np.full(size, -1.0, np.float32)
    known[:height, :width] = 0
    crowd, own = target[target.crowd], target[~target.crowd]
    if len(crowd):
        known[:height, :width][crowd.gt_masks.union().decode()[0]] = -1
    if len(own):
        chosen = int(torch.randint(len(own), ()))
        known[:height, :width][own.gt_masks[chosen].to_rle().decode()[0]] = 1
    return torch.from_numpy(known)


def _rough(prompts: Prompts, image: Tensor) -> Tensor:
    """(h, w) probabilities that the rough mask gives; 0 without one."""
    size = (image.shape[1], image.shape[2])
    if prompts.masks is None or not len(prompts.masks):
        return torch.zeros(size, device=image.device)
    masks: Any = prompts.masks
    if isinstance(masks, SoftMasks) and masks.canvas == replace(masks.canvas, grid=size, padded=size, valid=size):
        found = torch.full(size, masks.outside)
        for crop, (x, y) in zip(masks.crops, masks.origins.tolist(), strict=True):
            part = found[y : y + crop.shape[0], x : x + crop.shape[1]]
            part.copy_(torch.maximum(part, crop.cpu().float()))
        return found.clamp(min=0).to(image.device)
    return torch.from_numpy(masks.to_rle().union().decode()[0]).float().to(image.device)
