"""Polygon-RNN++: a box in, a polygon out, vertex by vertex; a vertex that somebody moves decides those that follow.

Castrejon, Kundu, Urtasun, Fidler: "Annotating Object Instances with a Polygon-RNN", CVPR 2017; Acuna, Ling, Kar,
Fidler: "Efficient Interactive Annotation of Segmentation Datasets with Polygon-RNN++", CVPR 2018, arXiv 1803.09693.

The idea: annotators want polygons, which they can correct. A recurrent network draws one as they do: it sees the
image in the box, the last two vertices and the first one, and says in which cell of a grid the next one lies, or that
the polygon is closed. Where a vertex was wrong the annotator moves it, and the network resumes from there.

Where we differ: EfficientNet-Lite0 instead of a ResNet-50, and what the second paper adds to learning with the right
vertices given is left out: reinforcement learning of the IoU, the evaluator of several first vertices, attention, and
the graph network that refines the grid. The first vertex is the likeliest one.

Shapes: B boxes, G x G cells, T vertices; a vertex is the number of its cell, row by row, and G * G closes the polygon.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from eachmask.backbones.with_maps import TimmWithMaps
from eachmask.models.config import changed
from eachmask.models.promptable.answering import Answering, Raw, target_mask
from eachmask.structures import Instances, Prompts, UserError

FINE = 4
"""Outlines of targets are followed on a grid so much finer."""


@dataclass(frozen=True)
class Config:
    """What a variant may change."""

    grid: int = 28
    """G."""
    size: int = 224
    """Side of the box as the network sees it, px."""
    margin: float = 0.15
    """Of the window around the box, a share of its sides."""
    width: int = 64
    """Channels of the features."""
    hidden: int = 32
    """Channels of the recurrent state."""
    max_vertices: int = 40
    tolerance: float = 1.5
    """Targets' outlines are simplified by so much, quarters of a cell."""


class ConvLSTM(nn.Module):
    """A long short-term memory whose gates are convolutions (Shi et al., arXiv 1506.04214)."""

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.gates = nn.Conv2d(inputs + hidden, 4 * hidden, 3, padding=1)

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """(B, inputs, G, G), and output and memory (B, hidden, G, G) -> the next ones."""
        i, f, o, g = self.gates(torch.cat([x, state[0]], 1)).chunk(4, 1)
        memory = f.sigmoid() * state[1] + i.sigmoid() * g.tanh()
        return o.sigmoid() * memory.tanh(), memory


class PolygonRNN(Answering):
    """Draws polygons (:class:`~eachmask.models.protocol.Promptable`)."""

    answered_by = ("_features", "begin", "next_vertex")
    asked_by = "extremes"
    wants = "give a box around it"

    def __init__(self, num_classes: int = 1, config: Config | None = None) -> None:
        super().__init__()
        self.num_classes, self.config = num_classes, config or Config()
        width, hidden = self.config.width, self.config.hidden
        self.backbone = TimmWithMaps("tf_efficientnet_lite0")
        self.convs = nn.ModuleList(nn.Conv2d(channels, width, 1) for channels in self.backbone.channels)
        self.first = nn.Conv2d(width, 1, 1)
        self.layers = nn.ModuleList([ConvLSTM(width + 3, hidden), ConvLSTM(hidden, hidden)])
        self.next = nn.Conv2d(hidden, 1, 1)
        self.closed = nn.Linear(hidden, 1)

    def check(self, prompts: Prompts) -> None:
        super().check(prompts)
        for i in range(len(prompts)):
            self.box_of(prompts.of(i))

    def box_of(self, prompts: Prompts) -> Tensor:
        """(4,) the box of one object, or that of its extreme points.

        Raises:
            UserError: there is neither.
        """
        if len(prompts.boxes):
            return prompts.boxes[0]
        if len(prompts.extremes):
            return torch.cat([prompts.extremes[0].amin(0), prompts.extremes[0].amax(0) + 1e-3])
        raise UserError(f"PolygonRNN draws a polygon in a box: {self.wants}")

    # The network

    def features(self, image: Tensor, window: Tensor) -> Tensor:
        """What of an image (3, h, w) lies in a window (4,) -> (1, width, G, G)."""
        return self._features(sampled(image[None], window[None], self.config.size))

    def _features(self, windows: Tensor) -> Tensor:
        cells = (self.config.grid, self.config.grid)
        maps = self.backbone(windows).maps
        thin = [
            F.interpolate(conv(x), cells, mode="bilinear", align_corners=False)
            for conv, x in zip(self.convs, maps, strict=True)
        ]
        return torch.stack(thin).sum(0).relu()

    def begin(self, features: Tensor) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """Logits (B, G * G) of the first vertex, and an empty state."""
        zero = features.new_zeros(len(features), self.config.hidden, *features.shape[2:])
        return self.first(features).flatten(1), [(zero, zero) for _ in self.layers]

    def next_vertex(
        self, features: Tensor, vertices: Tensor, state: list[tuple[Tensor, Tensor]]
    ) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """Logits (B, G * G + 1) of the next vertex.

        Args:
            vertices: (B, 3): the last one, the one before it and the first one.
        """
        seen = F.one_hot(vertices, self.config.grid**2 + 1)[..., :-1].unflatten(2, features.shape[2:])
        x, after = torch.cat([features, seen.to(features)], 1), []
        for layer, before in zip(self.layers, state, strict=True):
            after.append(layer(x, before))
            x = after[-1][0]
        return torch.cat([self.next(x).flatten(1), self.closed(x.mean((2, 3)))], 1), after

    # Answers

    def answer(self, image: Tensor, prompts: Prompts) -> Tensor:
        polygon = self.polygon(image, self.box_of(prompts)).cpu().numpy()
        canvas = np.zeros(image.shape[1:], np.float32)
        cv2.fillPoly(canvas, [np.floor(polygon).astype(np.int32)], 1.0)
        return torch.from_numpy(canvas).to(image.device)

    @torch.inference_mode()
    def polygon(self, image: Tensor, box: Tensor, corrected: Sequence[tuple[float, float]] = ()) -> Tensor:
        """(T, 2) xy, px: the outline of what is in a box.

        Args:
            image: (3, h, w) normalized; box: (4,) xyxy.
            corrected: the first vertices, of which somebody has moved the last; those that follow are drawn anew.
        """
        window = widened(box.to(image), self.config.margin)
        features = self.features(image, window)
        logits, state = self.begin(features)
        given = [int(number) for number in self.cells_of(corrected, window)]
        numbers = [given[0] if given else int(logits[0].argmax())]
        while len(numbers) < self.config.max_vertices:
            recent = torch.tensor([[numbers[-1], numbers[max(-2, -len(numbers))], numbers[0]]], device=image.device)
            logits, state = self.next_vertex(features, recent, state)
            number = given[len(numbers)] if len(numbers) < len(given) else int(logits[0].argmax())
            if number == self.config.grid**2:
                break
            numbers.append(number)
        drawn = self.places_of(numbers, window)
        if corrected:
            drawn[: len(corrected)] = drawn.new_tensor(corrected)
        return drawn

    def places_of(self, numbers: Sequence[int], window: Tensor) -> Tensor:
        """Cells -> (T, 2) xy of their centers, px."""
        row, column = np.divmod(np.array(numbers, np.int64), self.config.grid)
        share = torch.from_numpy((np.stack([column, row], 1) + 0.5) / self.config.grid).to(window)
        return window[:2] + share * (window[2:] - window[:2])

    def cells_of(self, places: Sequence[tuple[float, float]], window: Tensor) -> NDArray[np.int64]:
        """(x, y) in px -> numbers of cells, the nearest ones for places outside of the window."""
        low, high = window[:2].cpu().numpy(), window[2:].cpu().numpy()
        share = (np.array(places, np.float64).reshape(-1, 2) - low) / (high - low)
        column, row = np.clip(share * self.config.grid, 0, self.config.grid - 1).astype(np.int64).T
        return np.asarray(row * self.config.grid + column)

    # Learning

    def losses(self, raw: Raw, targets: list[Instances]) -> dict[str, Tensor]:
        """Cross-entropy of every vertex of one object of each image, given those before it."""
        size = (raw.images.shape[2], raw.images.shape[3])
        masks = [target_mask(target, size).numpy() == 1 for target in targets]
        windows = torch.stack([widened(box_of_mask(mask), self.config.margin) for mask in masks]).to(raw.images)
        features = self._features(sampled(raw.images, windows, self.config.size))
        vertices = self.outlines(masks, windows).to(raw.images.device)
        first, state = self.begin(features)
        losses = [F.cross_entropy(first, vertices[:, 0], ignore_index=-1, reduction="sum")]
        known = vertices.clamp(min=0)
        for t in range(1, vertices.shape[1]):
            recent = torch.stack([known[:, t - 1], known[:, max(t - 2, 0)], known[:, 0]], 1)
            logits, state = self.next_vertex(features, recent, state)
            losses.append(F.cross_entropy(logits.float(), vertices[:, t], ignore_index=-1, reduction="sum"))
        num = (vertices[:, 1:] >= 0).sum().clamp(min=1)
        return {"first": losses[0] / len(targets), "next": torch.stack(losses[1:]).sum() / num}

    def outlines(self, masks: Sequence[NDArray[np.bool_]], windows: Tensor) -> Tensor:
        """(B, T + 1) the vertices of each mask (H, W), then what closes them, then -1; all -1 without an object."""
        closing = self.config.grid**2
        rows = [self._outline(mask, window) for mask, window in zip(masks, windows.cpu(), strict=True)]
        result = torch.full((len(rows), max(2, 1 + max(len(row) for row in rows))), -1)
        for i, row in enumerate(rows):
            if row:
                result[i, : len(row) + 1] = torch.tensor([*row, closing])
        return result

    def _outline(self, mask: NDArray[np.bool_], window: Tensor) -> list[int]:
        side = self.config.grid * FINE
        fine = sampled(torch.from_numpy(mask)[None, None].float(), window[None], side)[0, 0].numpy() > 0.5
        rings, _ = cv2.findContours(fine.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        if not rings:
            return []
        ring = cv2.approxPolyDP(max(rings, key=cv2.contourArea), self.config.tolerance, True)[:, 0] // FINE
        numbers = [int(y) * self.config.grid + int(x) for x, y in ring]
        kept = [n for i, n in enumerate(numbers) if i == 0 or n != numbers[i - 1]]
        start = kept.index(min(kept))
        return (kept[start:] + kept[:start])[: self.config.max_vertices - 1]


def widened(box: Tensor, margin: float) -> Tensor:
    """A box (4,) with a margin on every side, a share of its sides; at least two pixels large."""
    size = (box[2:] - box[:2]).clamp(min=2)
    center = (box[:2] + box[2:]) / 2
    half = size * (0.5 + margin)
    return torch.cat([center - half, center + half])


def box_of_mask(mask: NDArray[np.bool_]) -> Tensor:
    """(4,) around the True pixels of (H, W); all of it where there are none."""
    ys, xs = np.nonzero(mask if mask.any() else np.ones_like(mask))
    return torch.tensor([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1], dtype=torch.float32)


def sampled(images: Tensor, windows: Tensor, side: int) -> Tensor:
    """Windows (B, 4) xyxy of images (B, C, H, W), stretched to (B, C, side, side); 0 beyond the image."""
    height, width = images.shape[2:]
    steps = (torch.arange(side, device=images.device, dtype=images.dtype) + 0.5) / side
    x = windows[:, :1] + steps * (windows[:, 2:3] - windows[:, :1])
    y = windows[:, 1:2] + steps * (windows[:, 3:] - windows[:, 1:2])
    shape = (len(images), side, side)
    grid = torch.stack([(2 * x / width - 1)[:, None].expand(shape), (2 * y / height - 1)[:, :, None].expand(shape)], 3)
    return F.grid_sample(images, grid, mode="bilinear", align_corners=False)


def polygon_rnn_lite0(num_classes: int = 1, **config: Any) -> PolygonRNN:
    """EfficientNet-Lite0, 28 x 28 cells."""
    return PolygonRNN(num_classes, changed(Config(), config))
