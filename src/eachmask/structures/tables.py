"""Instances as the records of other libraries, which are imported when they are asked for."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import numpy as np

from eachmask.structures.errors import UserError

if TYPE_CHECKING:
    from eachmask.structures.instances import Instances


def to_pandas(instances: Instances) -> Any:
    """A ``pandas.DataFrame`` with one row per object.

    Raises:
        UserError: pandas is not installed.
    """
    return _library("pandas", "to_pandas").DataFrame(columns_of(instances))


def to_supervision(instances: Instances) -> Any:
    """A ``supervision.Detections``; its masks are (N, H, W) bool, which many objects on a large image make huge.

    Raises:
        UserError: supervision is not installed.
    """
    masks = instances.masks
    tracks = instances.track_ids
    return _library("supervision", "to_supervision").Detections(
        xyxy=instances.boxes.detach().cpu().float().numpy(),
        mask=None if masks is None else masks.to_rle().decode(),
        confidence=None if instances.scores is None else instances.scores.detach().cpu().float().numpy(),
        class_id=instances.labels.cpu().numpy(),
        tracker_id=None if tracks is None else tracks.cpu().numpy(),
        data={"class_name": np.array(instances.label_names)},
    )


def columns_of(instances: Instances) -> dict[str, list[Any]]:
    """Column -> a value per object: class, parent, score, box, area, and what else there is.

    >>> import torch
    >>> from eachmask.structures import Instances
    >>> columns = columns_of(Instances((8, 8), torch.tensor([[1.0, 2, 5, 4]])))
    >>> columns["x1"], columns["area"]
    ([1.0], [8.0])
    """
    boxes = instances.boxes.detach().cpu().double()
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1).numpy() if instances.masks is None else instances.masks.area()
    columns: dict[str, list[Any]] = {"class": instances.label_names, "parent": instances.parent_names}
    if instances.scores is not None:
        columns["score"] = instances.scores.tolist()
    columns |= {name: boxes[:, i].tolist() for i, name in enumerate(("x1", "y1", "x2", "y2"))}
    columns["area"] = areas.tolist()
    if instances.track_ids is not None:
        columns["track"] = instances.track_ids.tolist()
    return columns | {"crowd": instances.crowd.tolist()}


def _library(name: str, method: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise UserError(f"{method} needs the package {name}: pip install {name}") from None
