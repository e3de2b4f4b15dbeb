"""Latent diversity: a click may mean several things, so the network gives several answers and then chooses.

Li, Chen, Koltun: "Interactive Image Segmentation with Latent Diversity", CVPR 2018.

The idea: one click on a sleeve means the sleeve, the coat or the person, and a network that must give one answer
gives a blur of all. This one gives M masks at once. Only the best of them learns from what was meant (*hindsight
loss*), so that they come to differ, and a selector learns which one that was.

Where we differ: the paper's network is a convolutional one on VGG's features, ours EfficientNet-Lite0 with a light
head; the previous mask is an input, and clicks are asked one by one, as RITM's are
(:mod:`eachmask.models.promptable.clicking`). The selector sees the mean feature within each mask.

Shapes: B images of H x W px, M masks, C features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eachmask.backbones.with_maps import TimmWithMaps
from eachmask.models.config import changed
from eachmask.models.promptable.answering import Raw
from eachmask.models.promptable.clicking import ClickNetwork, LearnConfig, ZoomConfig
from eachmask.models.promptable.ritm import click_features
from eachmask.ops.click_maps import Clicks, clicks_of, distances
from eachmask.ops.losses import normalized_focal
from eachmask.structures import Instances, Prompts


@dataclass(frozen=True)
class Config:
    """What a variant may change."""

    masks: int = 6
    """M."""
    width: int = 64
    """C."""
    reach: float = 260.0
    """Of the distance maps: distances count up to about this, px."""
    others: float = 0.05
    """Weight of the masks that are not the best, without which those that never win never learn."""
    zoom: ZoomConfig = ZoomConfig(size=(400,), after=1)
    learn: LearnConfig = LearnConfig()
    max_side: int | None = 800
    """Larger images are reduced to this longer side while there is no window, px."""


class LatentDiversity(ClickNetwork):
    """M masks and a selector (:class:`~eachmask.models.protocol.Promptable`)."""

    answered_by = ("from_maps",)

    mirror = False  # the mirror image might be answered by another mask

    def __init__(self, num_classes: int = 1, config: Config | None = None) -> None:
        super().__init__()
        self.num_classes, self.config = num_classes, config or Config()
        self.zoom, self.learn, self.max_side = self.config.zoom, self.config.learn, self.config.max_side
        width = self.config.width
        self.backbone = TimmWithMaps("tf_efficientnet_lite0")
        self.click_features = click_features(self.backbone.stem_channels)
        self.convs = nn.ModuleList(nn.Conv2d(channels, width, 1) for channels in self.backbone.channels)
        self.fusion = nn.Conv2d(width * len(self.backbone.channels), width, 1)
        self.masks = nn.Conv2d(width, self.config.masks, 1)
        self.selector = nn.Linear(2 * width, 1)

    def candidates(self, images: Tensor, previous: Tensor, clicks: Clicks) -> tuple[Tensor, Tensor]:
        """All answers.

        Args:
            images: (B, 3, H, W) normalized; previous: (B, 1, H, W) probabilities.

        Returns:
            logits (B, M, H, W) of the masks, and (B, M) of being the one that is meant.
        """
        size = (images.shape[2], images.shape[3])
        near = 1 - distances(clicks, size, self.config.reach).to(previous)
        return self.from_maps(images, torch.cat([previous, near], 1))

    def from_maps(self, images: Tensor, said: Tensor) -> tuple[Tensor, Tensor]:
        """:meth:`candidates`, from the previous mask and how near clicks of each sign are: (B, 3, H, W)."""
        size = (images.shape[2], images.shape[3])
        maps = self.backbone(images, self.click_features(said)).maps
        finest = maps[0].shape[2:]
        thin = [conv(x).relu() for conv, x in zip(self.convs, maps, strict=True)]
        features = self.fusion(torch.cat([F.interpolate(x, finest, mode="bilinear") for x in thin], 1)).relu()
        masks = self.masks(features)
        return F.interpolate(masks, size, mode="bilinear"), self._chances(features, masks)

    def _chances(self, features: Tensor, masks: Tensor) -> Tensor:
        """(B, M) logits, from the mean feature within each mask and beside it."""
        inside = masks.sigmoid().flatten(2)
        flat = features.flatten(2).transpose(1, 2)
        means = [w @ flat / w.sum(2, keepdim=True).clamp(min=1e-3) for w in (inside, 1 - inside)]
        found: Tensor = self.selector(torch.cat(means, 2))[..., 0]
        return found

    def logits(self, images: Tensor, previous: Tensor, clicks: Clicks) -> tuple[Tensor, ...]:
        masks, chances = self.candidates(images, previous, clicks)
        best = chances.argmax(1)
        return (masks[torch.arange(len(masks), device=masks.device), best][:, None],)

    @torch.inference_mode()
    def alternatives(self, image: Tensor, prompts: Prompts) -> tuple[Tensor, Tensor]:
        """All answers to one object's prompts, on the whole image and without a previous mask.

        Args:
            image: (3, h, w) normalized.

        Returns:
            probabilities of the masks (M, h, w), the likeliest first, and of each being meant (M,), of sum 1.
        """
        clicks = clicks_of(prompts.to(image.device))
        masks, chances = self.candidates(image[None], image.new_zeros(1, 1, *image.shape[1:]), clicks)
        order = chances[0].argsort(descending=True, stable=True)
        return masks[0, order].sigmoid(), chances[0].softmax(0)[order]

    def losses(self, raw: Raw, targets: list[Instances]) -> dict[str, Tensor]:
        """Of each image's M masks the best one's normalized focal loss, and the cross-entropy of having chosen it."""
        images, masks = self.lessons(raw, targets)
        clicks, previous = self.simulate(images, masks)
        found, chances = self.candidates(images, previous, clicks)
        each = torch.stack(
            [
                torch.stack([normalized_focal(mask[None].float(), target[None]) for mask in some])
                for some, target in zip(found, masks, strict=True)
            ]
        )
        best = each.detach().argmin(1)
        known = (masks >= 0).flatten(1).any(1).to(each)
        chosen = F.cross_entropy(chances.float(), best, reduction="none") * known
        hindsight = each.gather(1, best[:, None]).mean()
        return {"mask": hindsight + self.config.others * each.mean(), "selector": 0.1 * chosen.mean()}


def latent_diversity_lite0(num_classes: int = 1, **config: Any) -> LatentDiversity:
    """EfficientNet-Lite0, six masks."""
    return LatentDiversity(num_classes, changed(Config(), config))
