"""Mattes from trimaps without having learned anything: the solvers of :mod:`eachmask.ops.matting` as models.

:data:`SOLVERS` are loaded by their names, as what answers prompts without weights is.

Shapes: B images of H x W px in 0..1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from eachmask.models.config import changed
from eachmask.models.matting.trimap_network import Raw, TrimapNetwork
from eachmask.ops.matting import Solver, solve_near
from eachmask.structures import ImageBatch, Matte, UserError

SOLVERS: dict[str, Solver] = {
    "closed_form": "closed_form",
    "knn_matting": "knn",
    "learning_based_matting": "learning_based",
    "random_walk_matting": "random_walk",
}
"""Name -> the solver."""


@dataclass(frozen=True)
class Config:
    """What may be changed."""

    max_side: int = 1024
    """What is unknown in larger images is solved at this longer side, px, and enlarged."""


class TrimapSolver(TrimapNetwork):
    """A solver; it has no weights and nothing to learn."""

    def __init__(self, solver: Solver, config: Config) -> None:
        super().__init__()
        self.num_classes, self.solver, self.config = 1, solver, config

    def opacities(self, images: ImageBatch, known: Tensor) -> Tensor:
        """The solver's.

        Raises:
            UserError: a trimap leaves nothing known, or pymatting is not installed.
        """
        alpha = torch.zeros_like(known[:, :1])
        for slot, image, planes, (height, width) in zip(alpha, images.tensor, known, images.sizes, strict=True):
            trimap = (planes[0] + planes[1] / 2)[:height, :width]
            slot[0, :height, :width] = solved(image[:, :height, :width], trimap, self.solver, self.config.max_side)
        return alpha

    def losses(self, raw: Raw, targets: list[Matte]) -> dict[str, Tensor]:
        """Nothing.

        Raises:
            UserError: always.
        """
        raise UserError("a solver has nothing to learn: train a model such as dcnn_matting")


def solved(image: Tensor, trimap: Tensor, solver: Solver, max_side: int) -> Tensor:
    """(3, H, W) in 0..1 and (H, W) of 0 (background), 0.5 (unknown) and 1 (foreground) -> (H, W) opacities, see
    :func:`~eachmask.ops.matting.solve_near`.

    Raises:
        UserError: the trimap leaves nothing known, or pymatting is not installed.
    """
    pixels = image.permute(1, 2, 0).double().cpu().numpy().clip(0, 1)
    found = solve_near(pixels, trimap.double().cpu().numpy(), solver, max_side)
    return torch.from_numpy(found).to(trimap)


def solver(name: str, **config: Any) -> TrimapSolver:
    """What has that name in :data:`SOLVERS`, with other settings."""
    return TrimapSolver(SOLVERS[name], changed(Config(), config))
