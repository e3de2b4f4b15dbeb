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

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from eachmask.models.promptable.answering import Answering, Raw, target_mask
from eachmask.ops.click_maps import Clicks, Window, clicks_of, disks
from eachmask.ops.losses import normalized_focal
from eachmask.ops.simulated_clicks import first_clicks, next_click
from eachmask.structures import Instances, Preprocess, Prompts, UserError
from eachmask.structures.soft_masks import SoftMasks


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


PREPROCESS = Preprocess(short_side=None, long_side=None, divisor=1)
"""What the authors' weights are for, RITM's as SimpleClick's: images at their own size, of which the network sees
windows."""


class ClickNetwork(Answering):
    """A network with :meth:`logits`; subclasses write that alone."""

    zoom = ZoomConfig()
    learn = LearnConfig()
    mirror = True
    """Average the logits for the image and its mirror image."""
    max_side: int | None = None
    """Larger images are reduced to this longer side, px, where there is no window."""

    def logits(self, images: Tensor, previous: Tensor, clicks: Clicks) -> tuple[Tensor, ...]:
        """What the network says of images with clicks on one object each.

        Args:
            images: (B, 3, H, W) normalized; previous: (B, 1, H, W) probabilities.

        Returns:
            (B, 1, H, W) logits, and those of auxiliary outputs, which only training reads.
        """
        raise NotImplementedError

    def check(self, prompts: Prompts) -> None:
        super().check(prompts)
        if len(prompts.boxes) or len(prompts.extremes):
            name = type(self).__name__
            raise UserError(f"{name} sees clicks, scribbles and rough masks, but no boxes: {self.wants}")

    # Answers

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
            around = tight.expanded(zoom.expansion, zoom.min_side, size)
        elif zoom.after >= 0:
            return before
        else:
            around = Window.whole(size)
        kept = before is not None and before.holds(clicks) and around.iou(before) >= zoom.keep_iou
        return before if kept else around

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


class DiskNetwork(ClickNetwork):
    """One that sees clicks as disks; subclasses write :meth:`from_maps`."""

    answered_by = ("from_maps",)
    config: Any

    def from_maps(self, images: Tensor, maps: Tensor) -> tuple[Tensor, ...]:
        """What :meth:`logits` gives, from images (B, 3, H, W) and what :meth:`maps` gives."""
        raise NotImplementedError

    def maps(self, previous: Tensor, clicks: Clicks, size: tuple[int, int]) -> Tensor:
        """(B, 3, H, W): the previous mask, disks on the object, disks beside it."""
        return torch.cat([previous, disks(clicks, size, self.config.radius).to(previous)], 1)

    def logits(self, images: Tensor, previous: Tensor, clicks: Clicks) -> tuple[Tensor, ...]:
        return self.from_maps(images, self.maps(previous, clicks, (images.shape[2], images.shape[3])))


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
