"""DCNN matting: a network improves what a solver found.

Cho, Tai, Kweon: "Natural Image Matting Using Deep Convolutional Neural Networks", ECCV 2016. Written from the paper.

The idea: closed form matting carries opacities from known pixels into unknown ones along colors that change smoothly,
and is nearly right almost everywhere; where it errs, it errs in ways that can be learned: a haze over what is surely
background, holes in what is surely foreground. A small network sees the image, the trimap and the solver's matte, and
says by how much each opacity is to change. What the trimap knows stays as it is.

Where we differ from the paper: the matte of KNN matting is left out and the trimap put in its place; a small U-Net
takes the place of six convolutions, so that it sees across wide bands; it says the change of the matte, which begins
at zero; edges and Laplacian pyramids are learned beside the matte.

Shapes: B images of H x W px.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from eachmask.models.config import changed
from eachmask.models.matting.network import UNIT
from eachmask.models.matting.small_unet import SmallUNet
from eachmask.models.matting.solvers import solved
from eachmask.models.matting.trimap_network import TrimapNetwork
from eachmask.structures import ImageBatch

PLANES = 7
"""The image's three, the trimap's three, and the solver's matte."""


@dataclass(frozen=True)
class Config:
    """What a variant may change."""

    widths: tuple[int, ...] = (16, 32, 48, 64)
    """Channels at the image's own resolution, at half of it, and so on."""
    max_side: int = 1024
    """What is unknown in larger images is solved at this longer side, px, and enlarged."""


class DcnnMatting(TrimapNetwork):
    """Closed form, and a U-Net that changes its matte.

    Images are in 0..1, not normalized: the solver wants colors as they are.
    """

    preprocess = UNIT

    def __init__(self, num_classes: int, config: Config) -> None:
        super().__init__()
        self.num_classes, self.config = num_classes, config
        self.change = SmallUNet(PLANES, 1, config.widths)

    def opacities(self, images: ImageBatch, known: Tensor) -> Tensor:
        """The solver's, changed.

        Raises:
            UserError: pymatting is not installed.
        """
        begun = torch.zeros_like(known[:, :1])
        for slot, image, planes, (height, width) in zip(begun, images.tensor, known, images.sizes, strict=True):
            slot[0, :height, :width] = self._begun(image[:, :height, :width], planes[:, :height, :width])
        change: Tensor = self.change(torch.cat([images.tensor, known, begun], 1))
        return begun + change.to(begun)

    def _begun(self, image: Tensor, planes: Tensor) -> Tensor:
        """(H, W) what the solver found. Where a tile knows no foreground, or no background, all is taken for what it
        knows."""
        surely, unknown, not_at_all = planes
        if surely.any() and not_at_all.any():
            return solved(image, surely + unknown / 2, "closed_form", self.config.max_side)
        return torch.where(unknown > 0, 0.5 + 0.5 * surely.amax() - 0.5 * not_at_all.amax(), surely)


# Variants -------------------------------------------------------------------------------------------------------------


def dcnn_matting(num_classes: int = 1, **config: Any) -> DcnnMatting:
    """200,000 weights: learns and answers on a CPU."""
    return DcnnMatting(num_classes, changed(Config(), config))
