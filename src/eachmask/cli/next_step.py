"""Which command uses a model that has just been made."""

from __future__ import annotations

from pathlib import Path


def command_for(variant: str, model: Path) -> str:
    """What to type next.

    >>> command_for("mask_rcnn_lite0_fpn", Path("runs/mine"))
    'eachmask predict IMAGES --model runs/mine'
    >>> command_for("ritm_lite0", Path("runs/mine"))
    'eachmask segment IMAGE --point X,Y --model runs/mine'
    """
    from eachmask import models
    from eachmask.models.video.marked import MarkedObjects
    from eachmask.structures import Matte

    network = models.model_class(variant)
    if getattr(network, "answers_only", False):
        return f"eachmask segment IMAGE --point X,Y --model {model}"
    if network.task.target is Matte:
        return f"eachmask matte IMAGES --model {model}"
    if issubclass(network, MarkedObjects):
        return f"eachmask track VIDEO --first MASKS --model {model}"
    return f"eachmask predict IMAGES --model {model}"
