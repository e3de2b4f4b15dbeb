"""One-shot video object segmentation: a network for still images learns what is marked, then finds it in each frame.

Caelles, Maninis, Pont-Tuset, Leal-Taixe, Cremers, Van Gool: "One-Shot Video Object Segmentation", CVPR 2017, arXiv
1611.05198.

The idea: a network that knows what things look like is trained further on the one frame in which the objects are
marked, until it knows them by heart. Every other frame is then segmented by itself: nothing is carried from frame to
frame, so that an object that was hidden is found again, and one that looks like it is taken for it.

What differs: the network that knows things is the backbone of the bundled ``clicks`` with its maps, not VGG trained on
DAVIS; several objects share one softmax; the frame is not only mirrored and zoomed but moved, bent and lit anew as in
:mod:`eachmask.models.video.moving`; contours are not snapped to edges.

Shapes: N objects of a video, H x W px.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eachmask.backbones.fuse import optimize_for_inference
from eachmask.backbones.networks import Timm, freeze
from eachmask.models.promptable.click_decoder import WIDTHS, Neck, grown
from eachmask.models.video import moving
from eachmask.models.video.marked import MARK, MarkedObjects, Raw, masks_of
from eachmask.models.video.stm import hardest
from eachmask.ops.losses import dice
from eachmask.structures import ImageBatch, Prompts, UserError

WIDTH = 64
"""Channels of the map that objects are told apart on."""


@dataclass(frozen=True)
class Config:
    """How what is marked is learnt."""

    steps: int = 150
    """After a frame has been marked; half as many after each further one."""
    window: int = 256
    """Side of the parts of a frame that it learns from, px; a multiple of 32."""
    learning_rate: float = 3e-3
    backbone_rate: float = 0.3
    """Times the learning rate."""
    frozen_stages: int = 3
    """Of the backbone, from the image on."""
    moving: moving.Config = replace(moving.Config(), frames=2, jump_chance=0.0)


class Shown(NamedTuple):
    """A frame in which objects were marked."""

    frame: Tensor  # (3, H, W), normalized
    masks: Tensor  # (N, H, W) 0 or 1


class Known(NamedTuple):
    """What is known of a video."""

    finder: Finder
    fast: nn.Module
    """The same, for frames in which nothing is marked."""
    shown: tuple[Shown, ...]
    num: int
    """Objects."""


class OSVOS(MarkedObjects):
    """Learns what is marked in a frame when it is marked.

    Args:
        backbone, neck: of a network for still images, with their weights.
    """

    def __init__(self, backbone: Timm, neck: Neck, config: Config | None = None) -> None:
        super().__init__()
        self.backbone, self.neck = backbone, neck
        self.config, self.num_classes = config or Config(), 1

    def step(
        self, images: ImageBatch, state: Known | None, given: Sequence[Prompts] | None = None
    ) -> tuple[Raw, Known]:
        """See :meth:`~eachmask.models.video.marked.MarkedObjects.step`; a frame in which something is marked takes as
        long as learning it."""
        height, width = images.sizes[0]
        frame = images.tensor[0, :, :height, :width]
        found = None if state is None else state.fast(frame)
        if given is not None:
            found = _given(masks_of(given[0], 0 if state is None else state.num).to(frame), found)
            state = self._taught(Shown(frame, (found[1:] >= 0.5).to(frame)), state)
        if state is None or found is None:
            raise UserError(MARK)
        return Raw(images, (found,)), state

    def _taught(self, new: Shown, state: Known | None) -> Known:
        """What is known once a frame has been learnt."""
        num, before = len(new.masks), () if state is None else state.shown
        # tensors that are made for inference cannot be learnt from
        with torch.inference_mode(False), torch.enable_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            shown = tuple(Shown(one.frame.clone(), _padded(one.masks.clone(), num)) for one in (*before, new))
            finder = Finder(self.backbone, self.neck, num) if state is None else state.finder.copy(num)
            finder.to(new.frame.device)
            learn(finder, shown, self.config, self.config.steps if state is None else self.config.steps // 2)
            return Known(finder, optimize_for_inference(finder), shown, num)


def learn(finder: Finder, shown: Sequence[Shown], config: Config, steps: int) -> None:
    """Train a finder on windows of the frames in which objects are marked, each in two moved copies."""
    freeze(finder.backbone, config.frozen_stages)
    own = [p for name, p in finder.named_parameters() if p.requires_grad and not name.startswith("backbone.")]
    deep = [p for p in finder.backbone.parameters() if p.requires_grad]
    rates: list[dict[str, Any]] = [{"params": own}, {"params": deep, "lr": config.learning_rate * config.backbone_rate}]
    optimizer = torch.optim.AdamW(rates, lr=config.learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, [config.learning_rate, config.learning_rate * config.backbone_rate], total_steps=steps
    )
    finder.eval()  # of one frame no statistics are to be had
    for step in range(steps):
        one = window_of(shown[step % len(shown)], config.window)
        clip = moving.clip(one.frame, one.masks, one.frame.flip(2), config.moving)
        probabilities = finder.logits(clip.frames).softmax(1)
        loss = torch.stack([_loss(*pair) for pair in zip(probabilities, clip.masks, strict=True)]).mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(finder.parameters(), 1.0)
        optimizer.step()
        schedule.step()


def _loss(found: Tensor, masks: Tensor) -> Tensor:
    """Of one image: (1 + N, H, W) probabilities, (N, H, W) 0 or 1."""
    numbers = torch.arange(1, len(masks) + 1, device=masks.device)[:, None, None]
    return hardest(found, (masks * numbers).sum(0).long()) + dice(found[1:], masks, "plain", eps=1.0).mean()


def window_of(shown: Shown, side: int) -> Shown:
    """A square of a frame, filled up by reflection where the frame is smaller; three of four lie around a pixel of an
    object."""
    height, width = shown.frame.shape[1:]
    marked = torch.nonzero(shown.masks.sum(0))
    if len(marked) and torch.rand(()) < 0.75:
        y, x = marked[int(torch.randint(len(marked), ()))].tolist()
    else:
        y, x = int(torch.randint(height, ())), int(torch.randint(width, ()))
    rows, columns = _span(y, side, height, shown.frame), _span(x, side, width, shown.frame)
    return Shown(shown.frame[:, rows][:, :, columns], shown.masks[:, rows][:, :, columns])


def _span(middle: int, side: int, length: int, like: Tensor) -> Tensor:
    """``side`` indices around a place of an axis; those outside are reflected."""
    first = min(max(middle - side // 2, 0), max(length - side, 0))
    places = torch.arange(first, first + side, device=like.device) % max(2 * length, 1)
    return torch.where(places < length, places, 2 * length - 1 - places)


def _given(masks: Tensor, found: Tensor | None) -> Tensor:
    """(1 + N, H, W): what is marked, where nothing is what was found."""
    if found is not None:
        before = found[1:] * (masks.sum(0) <= 0.5)
        others = ~masks[: len(before)].flatten(1).any(1)
        masks[: len(before)][others] = before[others]
    return torch.cat([(1 - masks.sum(0, keepdim=True)).clamp(min=0), masks])


def _padded(masks: Tensor, num: int) -> Tensor:
    """With empty masks for objects that came later."""
    return F.pad(masks, (0, 0, 0, 0, 0, num - len(masks)))


class Finder(nn.Module):
    """A network of its own for the objects of one video.

    Args:
        backbone, neck: of which it has copies.
        num: objects.
    """

    def __init__(self, backbone: Timm, neck: Neck, num: int) -> None:
        super().__init__()
        self.backbone, self.neck = copy.deepcopy(backbone), copy.deepcopy(neck)
        w2, w4, w8, w16 = WIDTHS
        self.of4, self.of8, self.of16 = (nn.Conv2d(width, WIDTH, 1) for width in (w4, w8, w16))
        self.coarse, self.fine = nn.Conv2d(WIDTH, 1 + num, 3, padding=1), nn.Conv2d(w2, 1 + num, 1)
        nn.init.zeros_(self.fine.weight)

    def copy(self, num: int) -> Finder:
        """One that knows the same, with room for more objects."""
        other = copy.deepcopy(self)
        for name in ("coarse", "fine"):
            old: nn.Conv2d = getattr(self, name)
            wider = nn.Conv2d(old.in_channels, 1 + num, old.kernel_size, padding=old.padding)  # type: ignore[arg-type]
            assert wider.bias is not None and old.bias is not None
            with torch.no_grad():
                wider.weight[: old.out_channels], wider.bias[: old.out_channels] = old.weight, old.bias
            setattr(other, name, wider)
        return other

    def logits(self, frames: Tensor) -> Tensor:
        """(T, 3, H, W), normalized, sides multiples of 32 -> (T, 1 + N, H, W), background first."""
        known = self.neck(frames, self.backbone.net(frames))
        e4, e8, e16 = known.maps
        y = torch.relu(self.of4(e4) + grown(self.of8(e8), e4) + grown(self.of16(e16), e4))
        return grown(grown(self.coarse(y), known.fine) + self.fine(known.fine), frames)

    def forward(self, frame: Tensor) -> Tensor:
        """(3, H, W), normalized -> (1 + N, H, W) probabilities."""
        height, width = frame.shape[1:]
        padded = F.pad(frame, (0, -width % 32, 0, -height % 32))[None]
        return self.logits(padded)[0, :, :height, :width].softmax(0)
