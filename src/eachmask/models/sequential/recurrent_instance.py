"""Recurrent instance segmentation: a memory that has seen the image says one object after another, until none is left.

Romera-Paredes, Torr: "Recurrent Instance Segmentation", ECCV 2016, arXiv 1511.08250.

The idea: people count by pointing at one thing after another, remembering which they had. Two layers of a long
short-term memory, whose gates are convolutions, look at the same features in every step; their state is the map of what
was said. Each step gives a mask and the probability that there was an object left. No order is prescribed: the loss
matches the masks to the objects in the best way, whatever came first.

Where we differ from the paper: the encoder is EfficientNet-Lite0 with a ladder, the features know where they are, the
masks are not refined by a conditional random field. Steps beyond the number of objects learn to stop and are not
matched, for a prediction ends before them.

Shapes: B images, (h, w) cells of the grid, T steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from eachmask.models.config import changed
from eachmask.models.promptable.polygon_rnn import ConvLSTM
from eachmask.models.sequential.sequence import Raw, Said, SequenceConfig, Sequential
from eachmask.ops.matching_losses import Matched, coverage_loss, soft_iou
from eachmask.structures import Instances

State = list[tuple[Tensor, Tensor]]
"""Output and memory (B, hidden, h, w) of each layer."""


@dataclass(frozen=True)
class Config(SequenceConfig):
    """What a variant may change."""

    hidden: int = 32
    """Channels of the memory (paper: 30)."""
    layers: int = 2
    score_weight: float = 1.0
    """Lambda."""


class RecurrentInstance(Sequential[State]):
    """A convolutional memory over the features."""

    config: Config

    def __init__(self, num_classes: int, config: Config) -> None:
        super().__init__(num_classes, config)
        inputs = [self.width, *[config.hidden] * (config.layers - 1)]
        self.layers = nn.ModuleList(ConvLSTM(channels, config.hidden) for channels in inputs)
        self.mask = nn.Conv2d(config.hidden, 1, 1)
        self.bias = nn.Parameter(torch.tensor(7.0))
        """The larger, the more cells an object may have."""
        self.score = nn.Linear(config.hidden, 1)

    def begin(self, raw: Raw) -> State:
        zero = raw.features.new_zeros(len(raw.features), self.config.hidden, *raw.features.shape[-2:])
        return [(zero, zero) for _ in self.layers]

    def next_object(self, raw: Raw, state: State) -> tuple[Said, State]:
        """Masks compete with themselves: the log-softmax over all cells makes one place win (spatial inhibition)."""
        x, after = raw.features, []
        for layer, before in zip(self.layers, state, strict=True):
            after.append(layer(x, before))
            x = after[-1][0]
        outside = ~raw.valid
        logits = self.mask(x)[:, 0].float()
        total = logits.masked_fill(outside, -torch.inf).flatten(1).logsumexp(1)[:, None, None]
        strongest = x.masked_fill(outside[:, None], -1.0).amax((2, 3))
        return Said(logits - total + self.bias, self.score(strongest)[:, 0]), after

    def losses(self, raw: Raw, targets: list[Instances]) -> dict[str, Tensor]:
        """Minus the matched IoU of all objects, and cross-entropy of the scores; a mean over the images."""
        grids = self.targets_of(raw, targets)
        state, steps = self.begin(raw), []
        for _ in range(self.length(grids)):
            said, state = self.next_object(raw, state)
            steps.append(said)
        probabilities = torch.stack([said.masks for said in steps], 1).float().sigmoid()
        scores = torch.stack([said.scores for said in steps], 1).float()
        terms: list[Matched] = []
        for i, grid in enumerate(grids):
            iou = soft_iou(probabilities[i] * grid.weight, grid.masks * grid.weight)
            terms.append(coverage_loss(iou[: len(grid.masks)], scores[i]))  # what comes later will not be heard
        return {
            "overlap": torch.stack([term.overlap for term in terms]).mean(),
            "score": self.config.score_weight * torch.stack([term.score for term in terms]).mean(),
        }


# Variants -------------------------------------------------------------------------------------------------------------


def recurrent_instance_lite0(num_classes: int = 1, **config: Any) -> RecurrentInstance:
    """EfficientNet-Lite0, a ladder to stride 4 and two layers of memory."""
    return RecurrentInstance(num_classes, changed(Config(), config))
