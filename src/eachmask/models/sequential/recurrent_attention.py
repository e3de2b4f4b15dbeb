"""Recurrent attention: look where nothing has been found yet, zoom in, draw one object, put it on the canvas.

Ren, Zemel: "End-to-End Instance Segmentation with Recurrent Attention", CVPR 2017, arXiv 1605.09410.

The idea: all that is remembered is a canvas on which every object that was found is painted. A box network looks at
the canvas in a few glimpses and chooses where to attend; Gaussian filters cut that window out of the features, a small
network draws the object in it, and the same filters put the drawing back. What is foreground, and in which direction
the middle of the object lies, is said by a pre-network: touching objects differ in it.

Training: masks and boxes are matched to the objects in the best way; scores must fall (monotonic loss). At first the
canvas shows the true objects, later more and more what the network drew itself (scheduled teacher forcing).

Where we differ from the paper: the encoder is EfficientNet-Lite0 with a ladder, and the window is cut out of its
features; glimpses go where the cells are like what is asked for, not to fixed places alone, and the window lies around
the last one; the drawing in a window is a probability; nothing flows back through the canvas.

Shapes: B images, (h, w) cells of the grid, T steps, N objects, p the side of a window in cells of its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eachmask.models.config import changed
from eachmask.models.sequential.sequence import GridTargets, Raw, Said, SequenceConfig, Sequential, convolutions
from eachmask.ops.matching_losses import Matched, matching_loss, soft_iou
from eachmask.structures import Instances

DIRECTIONS = 8
"""Of the middle of an object, seen from its pixels."""
CELLS = 8
"""Side of the grid that glimpses choose among."""


@dataclass(frozen=True)
class Config(SequenceConfig):
    """What a variant may change."""

    stride: int = 2
    window: int = 24
    """p."""
    hidden: int = 64
    """Width of the box network's memory."""
    glimpses: int = 3
    box_weight: float = 1.0
    score_weight: float = 1.0
    forcing_steps: int = 300
    """The true objects' share on the canvas falls from 1 to 0 in so many steps of training."""
    box_margin: float = 0.1
    """Of true boxes on each side, a share of their sides."""


class State(NamedTuple):
    """What is remembered."""

    context: Tensor  # (B, C + 1 + DIRECTIONS, h, w) features, and what the pre-network says: the same in all steps
    canvas: Tensor  # (B, h, w) 0..1


def seen_by(state: State) -> Tensor:
    """All that is remembered (B, C, h, w)."""
    return torch.cat([state.context, state.canvas[:, None]], 1)


def painted(state: State, masks: Tensor) -> State:
    """Masks (B, h, w) 0..1 on the canvas too; nothing flows back through it."""
    return state._replace(canvas=torch.maximum(state.canvas, masks.detach().to(state.canvas)))


class Attended(NamedTuple):
    """One step, with where it looked."""

    said: Said
    boxes: Tensor  # (B, h, w) logits of the window


class PreNetwork(nn.Module):
    """Foreground, and the direction of each object's middle, from features of ``width`` channels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(convolutions(width, width), nn.Conv2d(width, 1 + DIRECTIONS, 1))

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, 1 + DIRECTIONS, h, w) logits."""
        logits: Tensor = self.layers(features)
        return logits

    def context(self, features: Tensor) -> Tensor:
        """Features with its probabilities behind them; nothing of what follows changes it."""
        logits = self(features).detach()
        return torch.cat([features, logits[:, :1].sigmoid(), logits[:, 1:].softmax(1)], 1)

    def loss(self, features: Tensor, targets: Sequence[GridTargets]) -> Tensor:
        """Cross-entropy of both, a mean over the cells that count."""
        terms = []
        for logits, target in zip(self(features).float(), targets, strict=True):
            inside, directions = directions_of(target.masks)
            foreground = F.binary_cross_entropy_with_logits(logits[0], inside, target.weight, reduction="sum")
            direction = F.cross_entropy(logits[None, 1:], directions[None], reduction="none")[0]
            own = inside * target.weight
            terms.append(foreground / target.weight.sum().clamp(min=1))
            terms.append((direction * own).sum() / own.sum().clamp(min=1))
        return torch.stack(terms).sum() / len(targets)


def directions_of(masks: Tensor) -> tuple[Tensor, Tensor]:
    """Where objects are (h, w), 0 or 1, and in which of the directions their middle lies (h, w) int64.

    Args:
        masks: (N, h, w) 0 or 1.
    """
    ys = torch.arange(masks.shape[1], device=masks.device, dtype=masks.dtype)[:, None].expand(masks.shape[1:])
    xs = torch.arange(masks.shape[2], device=masks.device, dtype=masks.dtype).expand(masks.shape[1:])
    inside, directions = torch.zeros_like(ys), torch.zeros_like(ys, dtype=torch.int64)
    for mask in masks:
        area = mask.sum().clamp(min=1)
        angle = torch.atan2((mask * ys).sum() / area - ys, (mask * xs).sum() / area - xs)
        bins = (angle / (2 * math.pi) * DIRECTIONS).round().long() % DIRECTIONS
        directions = torch.where(mask > 0, bins, directions)
        inside = torch.maximum(inside, mask)
    return inside, directions


def gaussian_filters(center: Tensor, side: Tensor, sigma: Tensor, cells: int, window: int) -> Tensor:
    """(B, cells, p) a Gaussian around each of p places, evenly spaced in a window of one axis; 1 at its summit.

    Args:
        center, side: (B,) of the window, shares of the axis.
        sigma: (B,) in units of the distance between two places.
        cells: of the axis; window: p.
    """
    places = (torch.arange(window, device=center.device) + 0.5) / window - 0.5
    middles = (center[:, None] + side[:, None] * places) * cells
    spread = (sigma * side * cells / window).clamp(min=0.3)[:, None, None]
    along = torch.arange(cells, device=center.device)[:, None] + 0.5
    return torch.exp(-0.5 * ((along - middles[:, None]) / spread) ** 2)


class RecurrentAttention(Sequential[State]):
    """A canvas, a box network with glimpses, and a network that draws in the box."""

    config: Config

    def __init__(self, num_classes: int, config: Config) -> None:
        super().__init__(num_classes, config)
        seen = self.width + 1 + DIRECTIONS + 1
        width, hidden = config.decoder_channels[-1], config.hidden
        self.pre = PreNetwork(self.width)
        self.look = convolutions(seen, width, 2 * width, stride=2)
        self.attend, self.query = nn.Linear(hidden, CELLS * CELLS), nn.Linear(hidden, 2 * width)
        self.memory = nn.LSTMCell(2 * width, hidden)
        self.box = nn.Linear(hidden, 6)
        self.draw = convolutions(seen, 2 * width, width, width)
        self.drawn = nn.Conv2d(width, 1, 1)
        self.score = nn.Linear(hidden + width, 1)
        self.contrast = nn.Parameter(torch.tensor([math.log(10.0), 5.0]))
        """Logarithm of what a drawing is multiplied with, and what is taken off, before it is a logit."""
        with torch.no_grad():
            self.box.bias.copy_(torch.tensor([0.0, 0.0, -0.8, -0.8, -0.7, -0.7]))  # a third of the image's sides

    def begin(self, raw: Raw) -> State:
        canvas = raw.features.new_zeros(len(raw.features), *raw.features.shape[-2:])
        return State(self.pre.context(raw.features), canvas)

    def next_object(self, raw: Raw, state: State) -> tuple[Said, State]:
        said = self.attended(state).said
        return said, painted(state, said.masks.sigmoid())

    def attended(self, state: State) -> Attended:
        """Look, zoom in, draw, put back."""
        seen = seen_by(state)
        memory, looked = self._glimpse(seen)
        box = self.box(memory).float()
        center, side, sigma = looked + 0.25 * box[:, :2].tanh(), box[:, 2:4].sigmoid(), box[:, 4:].exp()
        h, w = seen.shape[-2:]
        columns = gaussian_filters(center[:, 0], side[:, 0], sigma[:, 0], w, self.config.window)
        rows = gaussian_filters(center[:, 1], side[:, 1], sigma[:, 1], h, self.config.window)
        read = [filters / filters.sum(1, keepdim=True).clamp(min=1e-6) for filters in (rows, columns)]
        window = torch.einsum("bhp,bchw,bwq->bcpq", read[0].to(seen), seen, read[1].to(seen))
        drawing = self.draw(window)
        probabilities = self.drawn(drawing)[:, 0].float().sigmoid()
        score = self.score(torch.cat([memory, drawing.amax((2, 3))], 1))[:, 0]
        masks = self._put_back(probabilities, rows, columns)
        return Attended(Said(masks, score), self._put_back(torch.ones_like(probabilities), rows, columns))

    def losses(self, raw: Raw, targets: list[Instances]) -> dict[str, Tensor]:
        """Matched IoU of masks and of boxes, monotonic scores, and the pre-network's cross-entropy."""
        grids = self.targets_of(raw, targets)
        steps = self._unroll(raw, grids)
        masks = torch.stack([one.said.masks for one in steps], 1).sigmoid()
        windows = torch.stack([one.boxes for one in steps], 1).sigmoid()
        scores = torch.stack([one.said.scores for one in steps], 1).float().sigmoid()
        terms: list[Matched] = []
        boxes: list[Tensor] = []
        for i, grid in enumerate(grids):
            iou = soft_iou(masks[i] * grid.weight, grid.masks * grid.weight)
            terms.append(matching_loss(iou, scores[i]))
            around = soft_iou(windows[i], boxes_around(grid.masks, self.config.box_margin))
            boxes.append(matching_loss(around, scores[i].detach()).overlap)
        return {
            "pre": self.pre.loss(raw.features, grids),
            "overlap": torch.stack([term.overlap for term in terms]).mean(),
            "box": self.config.box_weight * torch.stack(boxes).mean(),
            "score": self.config.score_weight * torch.stack([term.score for term in terms]).mean(),
        }

    def _glimpse(self, seen: Tensor) -> tuple[Tensor, Tensor]:
        """(B, hidden) what a few looks at the cells have told, and (B, 2) where the last was, x and y as shares."""
        cells = F.adaptive_avg_pool2d(self.look(seen), CELLS).flatten(2)
        hidden = memory = cells.new_zeros(len(cells), self.config.hidden)
        weights = cells.new_zeros(len(cells), cells.shape[2])
        for _ in range(self.config.glimpses):
            alike = torch.einsum("bcn,bc->bn", cells, self.query(hidden))
            weights = (self.attend(hidden) + alike).softmax(1)
            hidden, memory = self.memory(torch.einsum("bcn,bn->bc", cells, weights), (hidden, memory))
        along = (torch.arange(CELLS, device=cells.device) + 0.5) / CELLS
        places = torch.stack([along.repeat(CELLS), along.repeat_interleave(CELLS)], 1)
        return hidden, weights.float() @ places

    def _put_back(self, drawing: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """(B, p, p) 0..1 in windows -> (B, h, w) logits."""
        return self.contrast[0].exp() * torch.einsum("bhp,bpq,bwq->bhw", rows, drawing, columns) - self.contrast[1]

    def _unroll(self, raw: Raw, grids: Sequence[GridTargets]) -> list[Attended]:
        """All steps, the canvas partly painted with true objects."""
        state, steps = self.begin(raw), []
        taken = [torch.zeros(len(grid.masks), dtype=torch.bool, device=raw.valid.device) for grid in grids]
        forced = max(0.0, 1 - int(self.training_steps) / self.config.forcing_steps) if self.training else 0.0
        for _ in range(self.length(grids)):
            steps.append(self.attended(state))
            drawn = steps[-1].said.masks.detach().sigmoid()
            if forced:
                true = [next_object(one, grid, some) for one, grid, some in zip(drawn, grids, taken, strict=True)]
                chosen = torch.rand(len(true), 1, 1, device=drawn.device) < forced
                drawn = torch.where(chosen, torch.stack(true), drawn)
            state = painted(state, drawn)
        return steps


def next_object(drawn: Tensor, grid: GridTargets, taken: Tensor) -> Tensor:
    """(h, w) the object not taken yet that a drawing (h, w) fits best, which is then taken; zeros if none is left."""
    if bool(taken.all()):
        return torch.zeros_like(drawn)
    best = int(soft_iou(drawn[None], grid.masks)[0].masked_fill(taken, -1).argmax())
    taken[best] = True
    return grid.masks[best].to(drawn)


def boxes_around(masks: Tensor, margin: float) -> Tensor:
    """(N, h, w) 0 or 1: the boxes of masks, wider by a share of their sides."""
    filled = []
    for dim in (1, 2):
        seen = masks.amax(dim)  # (N, cells of the other axis)
        along = torch.arange(seen.shape[1], device=masks.device)
        first = torch.where(seen > 0, along, seen.shape[1]).amin(1, keepdim=True)
        last = torch.where(seen > 0, along, -1).amax(1, keepdim=True)
        extra = margin * (last + 1 - first)
        filled.append((along >= first - extra) & (along <= last + extra))
    columns, rows = filled
    return (rows[:, :, None] & columns[:, None]).to(masks)


# Variants -------------------------------------------------------------------------------------------------------------


def recurrent_attention_lite0(num_classes: int = 1, **config: Any) -> RecurrentAttention:
    """EfficientNet-Lite0, a ladder to stride 2, windows of 24 x 24 cells."""
    return RecurrentAttention(num_classes, changed(Config(), config))
