"""Mattes from trimaps without having learned anything: the solvers of :mod:`eachmask.ops.matting` as models.

:data:`SOLVERS` are loaded by their names, as what answers prompts without weights is.

Shapes: B images of H x W px in 0..1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from eachmask.models.config import changed
from eachmask.models.matting.network import Mattes, MattingNetwork
from eachmask.ops.matting import Solver, solve_near
from eachmask.structures import DecodeOptions, ImageBatch, Matte, Trimap, UserError
from eachmask.structures.spatial import Spatial

SOLVERS: dict[str, Solver] = {
    "closed_form": "closed_form",
    "knn_matting": "knn",
    "learning_based_matting": "learning_based",
    "random_walk_matting": "random_walk",
}
"""Name -> the solver."""


class Raw(NamedTuple):
    """What was solved."""

    alpha: Tensor  # (B, 1, H, W) 0..1
    sizes: tuple[tuple[int, int], ...]  # valid (height, width)


@dataclass(frozen=True)
class Config:
    """What may be changed."""

    max_side: int = 1024
    """What is unknown in larger images is solved at this longer side, px, and enlarged."""


class TrimapSolver(MattingNetwork[Raw]):
    """A solver; it has no weights and nothing to learn."""

    takes = Trimap

    def __init__(self, solver: Solver, config: Config) -> None:
        super().__init__()
        self.num_classes, self.solver, self.config = 1, solver, config

    def forward(self, images: ImageBatch, given: Sequence[Spatial] | None = None) -> Raw:
        """(B, 3, H, W) and a trimap of each -> (B, 1, H, W).

        Raises:
            UserError: no trimap is given, or one that leaves nothing known.
        """
        if given is None or not all(isinstance(one, Trimap) for one in given):
            raise UserError("this matte is solved for between what is surely foreground and surely not: give --trimap")
        alpha = torch.zeros_like(images.tensor[:, :1])
        for slot, image, trimap, (height, width) in zip(alpha, images.tensor, given, images.sizes, strict=True):
            pixels = image[:, :height, :width].permute(1, 2, 0).double().cpu().numpy().clip(0, 1)
            known = np.round(cast(Trimap, trimap).values.cpu().numpy() / 127.5) / 2
            found = solve_near(pixels, known, self.solver, self.config.max_side)
            slot[0, :height, :width] = torch.from_numpy(found).to(slot)
        return Raw(alpha, images.sizes)

    def losses(self, raw: Raw, targets: list[Matte]) -> dict[str, Tensor]:
        """Nothing.

        Raises:
            UserError: always.
        """
        raise UserError("a solver has nothing to learn: train a model such as modnet")

    def select(self, raw: Raw, options: DecodeOptions) -> Mattes:
        """All of it; the colors are found afterwards."""
        return Mattes.cut(raw.alpha, None, raw.sizes)


def solver(name: str, **config: Any) -> TrimapSolver:
    """What has that name in :data:`SOLVERS`, with other settings."""
    return TrimapSolver(SOLVERS[name], changed(Config(), config))
