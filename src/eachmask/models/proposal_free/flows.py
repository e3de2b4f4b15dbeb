"""Flows: every pixel says in which direction the middle of its object lies; pixels that arrive together are one object.

Stringer, Wang, Michaelos, Pachitariu: "Cellpose: a generalist algorithm for cellular segmentation", Nature Methods
2021.

The idea: heat that spreads from the middle of an object, within the object, has a gradient that leads from every pixel
to the middle, around corners too. The network predicts this field and where objects are; when predicting, pixels follow
the field for some hundred steps, and those that end at one place are one object, whatever its shape. Objects whose own
flows differ much from the predicted ones are dropped.

Two networks: ``flows_cpnet`` is Cellpose's own, from scratch, on gray images; ``flows_lite0`` has the encoder and the
ladder of the other systems here. ``cellpose_cyto3`` is what the official weights of that name fit. Where we differ from
the package: images are not resized to a mean diameter of 30 px, but stay as the recipe or ``--diameter`` scales them;
the network sees an image at once rather than in tiles of 224 px, whose styles differ; pixels are followed at its scale;
an object's score is its mean probability times the exponential of minus its flow error.

Shapes: B images, (H, W) the padded batch size. Vectors are (y, x).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from eachmask.models.config import changed
from eachmask.models.proposal_free.cpnet import CPNet
from eachmask.models.proposal_free.dense import (
    DenseConfig,
    PixelInstances,
    PixelNetwork,
    mean_per_object,
    objects_of_map,
    pixel_targets,
)
from eachmask.ops.flows import FLOW_SCALE, flow_errors, flows_of, masks_of_flows
from eachmask.structures import DecodeOptions, ImageBatch, Instances, UserError
from eachmask.structures.spatial import Spatial


class Raw(NamedTuple):
    """What the network says."""

    flow: Tensor  # (B, 2, H, W) (y, x), unit vectors times 5
    foreground: Tensor  # (B, H, W) logits
    sizes: tuple[tuple[int, int], ...]  # valid (height, width) of each image


@dataclass(frozen=True)
class Config(DenseConfig):
    """What a variant may change."""

    network: Literal["ladder", "cpnet"] = "ladder"
    channels: tuple[int, ...] = (1, 32, 64, 128, 256)
    """Of Cellpose's network: of the image (1: gray; 2: gray and, left empty, a stain of nuclei; 3: color), then of each
    level."""
    steps: int = 200
    """That pixels follow the flow."""
    logit_threshold: float = 0.0
    """Of the foreground, from which a pixel takes part."""
    max_flow_error: float = 0.4
    max_share: float = 0.4
    """Of the image that an object may cover (Cellpose: 0.4)."""
    min_hits: int = 10
    """A seed is where more pixels than this end."""
    score_threshold: float = 0.3


class Flows(PixelInstances[Raw]):
    """A field of vectors and a foreground.

    Raises:
        UserError: there is more than one class, or the network wants neither gray nor color images.
    """

    max_classes = 1

    def __init__(self, num_classes: int, config: Config) -> None:
        super().__init__()
        if num_classes != 1:
            raise UserError(f"flows separate objects of one class, so num_classes is 1, not {num_classes}")
        if config.channels[0] not in (1, 2, 3):
            raise UserError(
                f"channels must begin with 1 (gray), 2 (gray and an empty one) or 3 (color), not {config.channels[0]}"
            )
        self.num_classes, self.config = num_classes, config
        self.network = CPNet(config.channels) if config.network == "cpnet" else PixelNetwork(3, config)

    @property
    def encoder(self) -> Any:
        """The part that may start from ImageNet."""
        return getattr(self.network, "encoder", self.network)

    def forward(self, images: ImageBatch, given: Sequence[Spatial] | None = None) -> Raw:
        """(B, 3, H, W) -> flows and foreground at the same resolution."""
        x = images.tensor
        if self.config.network == "cpnet" and self.config.channels[0] < 3:
            x = x.mean(1, keepdim=True)
            x = F.pad(x, (0, 0, 0, 0, 0, self.config.channels[0] - 1))
        maps = self.network(x)
        return Raw(maps[:, :2], maps[:, 2], images.sizes)

    def losses(self, raw: Raw, targets: list[Instances]) -> dict[str, Tensor]:
        """Half the squared error of the flows, cross-entropy of the foreground; crowd and padding are ignored."""
        size = (raw.flow.shape[-2], raw.flow.shape[-1])
        maps = [pixel_targets(t, size, valid) for t, valid in zip(targets, raw.sizes, strict=True)]
        device = raw.flow.device
        flow = torch.from_numpy(np.stack([flows_of(t.ids) for t in maps])).to(device)
        inside = torch.from_numpy(np.stack([t.ids > 0 for t in maps])).to(device).float()
        valid = torch.from_numpy(np.stack([t.valid for t in maps])).to(device).float()
        return flow_losses(raw.flow.float(), raw.foreground.float(), flow, inside, valid)

    def select(self, raw: Raw, options: DecodeOptions) -> Raw:
        """All of it; pixels are followed by :meth:`pack`."""
        return Raw(raw.flow.float(), raw.foreground.float(), raw.sizes)

    def pack(self, selected: Raw, options: DecodeOptions) -> list[Instances]:
        """Pixels that end together."""
        flow, logits = selected.flow.cpu().numpy(), selected.foreground.cpu().numpy()
        return [
            self._objects(flow[i, :, :h, :w], logits[i, :h, :w], options) for i, (h, w) in enumerate(selected.sizes)
        ]

    def _objects(self, flow: np.ndarray, logits: np.ndarray, options: DecodeOptions) -> Instances:
        config = self.config
        ids = masks_of_flows(
            flow,
            logits,
            steps=config.steps,
            logit_threshold=config.logit_threshold,
            max_flow_error=config.max_flow_error,
            min_area=config.min_area,
            max_share=config.max_share,
            min_hits=config.min_hits,
        )
        num = int(ids.max(initial=0))
        probability = 1 / (1 + np.exp(-logits.astype(np.float64)))
        scores = mean_per_object(ids, probability, num)
        if num:
            scores = scores * np.exp(-flow_errors(ids, flow))
        return objects_of_map(ids, scores, np.zeros(num, np.int64), config, options)


def flow_losses(flow: Tensor, logits: Tensor, true_flow: Tensor, inside: Tensor, valid: Tensor) -> dict[str, Tensor]:
    """``flow`` and ``foreground``, means over the valid pixels.

    Args:
        flow: (B, 2, H, W) predicted, times 5; true_flow: of length 1.
        logits, inside, valid: (B, H, W), the last two 0 or 1.
    """
    seen = valid.sum().clamp(min=1)
    squared = ((flow - FLOW_SCALE * true_flow) ** 2).mean(1)
    entropy = F.binary_cross_entropy_with_logits(logits, inside, reduction="none")
    return {"flow": 0.5 * (squared * valid).sum() / seen, "foreground": (entropy * valid).sum() / seen}


# Variants -------------------------------------------------------------------------------------------------------------


def flows_lite0(num_classes: int = 1, **config: Any) -> Flows:
    """EfficientNet-Lite0 and a ladder."""
    return Flows(num_classes, changed(Config(), config))


def flows_cpnet(num_classes: int = 1, **config: Any) -> Flows:
    """Cellpose's network on gray images, 6.6 M parameters."""
    return Flows(num_classes, changed(Config(network="cpnet"), config))


def cellpose_cyto3(num_classes: int = 1, **config: Any) -> Flows:
    """Cellpose's network as its authors have trained it; every object that passes the test of its flow is shown."""
    own = Config(network="cpnet", channels=(2, 32, 64, 128, 256), min_area=15, score_threshold=0.0)
    return Flows(num_classes, changed(own, config))
