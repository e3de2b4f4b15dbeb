"""The annotated foreground as something handed over, as experiments on leaves do: how well objects are told apart,
whatever is found of the foreground."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from eachmask.data.split import Split
from eachmask.evaluation.source import Source
from eachmask.inference.predictor import Predictor
from eachmask.structures import Instances, SemanticMap, UserError


def foreground_of(predictor: Predictor[Any], source: Source) -> Callable[[int], SemanticMap]:
    """Place of an image -> the classes of its annotated objects' pixels: 0 is background, c + 1 the model's class c.

    Raises:
        UserError: the model takes no foreground, or the data have no objects.
    """
    name = predictor.info.name or predictor.info.variant
    if getattr(predictor.model, "takes", None) is not SemanticMap:
        raise UserError(f"{name} finds the foreground itself and takes none: leave out --known-foreground")
    samples = source.samples
    if not isinstance(samples, Split):
        raise UserError(f"{source.name} has no objects whose pixels could be handed over: leave out --known-foreground")
    here, _ = source.classes.labels_of(predictor.categories)
    known = {own: label for label, own in reversed(here.items())}
    labels = np.array([known.get(i, -1) for i in range(len(source.classes.categories))]) + 1
    return lambda index: foreground(samples.targets(index), labels)


def foreground(targets: Instances, labels: np.ndarray) -> SemanticMap:
    """The map of an image's objects, crowd regions left out.

    Args:
        labels: (C,) value of the pixels of each class of the targets, 0: background.
    """
    values = np.zeros(targets.image_size, np.int32)
    if targets.masks is not None and len(targets):
        own = ~targets.crowd.numpy()
        values = np.concatenate([[0], labels[targets.labels.numpy()[own]]])[targets.masks[own].to_label_map()]
    return SemanticMap(torch.from_numpy(values.astype(np.int32)), ignore=max(255, int(labels.max(initial=0)) + 1))
