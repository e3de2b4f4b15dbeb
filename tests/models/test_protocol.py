"""The protocol: decode is written once, and packing loses nothing that was selected."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from eachmask import models
from eachmask.models.protocol import Detections, Detector, Model, Network, Recurrent
from eachmask.structures import DecodeOptions, ImageBatch, Polygons, RoIMasks


class Raw(NamedTuple):
    boxes: Tensor
    sizes: tuple[tuple[int, int], ...]


class Whole(Detector[Raw]):
    """Says of every image that it is one object."""

    task: Any = None

    def __init__(self) -> None:
        super().__init__()
        self.num_classes = 1

    def forward(self, images: ImageBatch, given: Any = None) -> Raw:
        boxes = [torch.tensor([[0.0, 0, width, height]]) for height, width in images.sizes]
        return Raw(torch.stack(boxes), images.sizes)

    def select(self, raw: Raw, options: DecodeOptions) -> Detections:
        label, score = torch.zeros(1, dtype=torch.int64), torch.ones(1)
        count = len(raw.sizes)
        masks = tuple(torch.ones(1, 4, 4) for _ in raw.sizes) if options.with_masks else None
        return Detections(raw.sizes, tuple(raw.boxes), (label,) * count, (score,) * count, masks)


def decoded(**options: Any) -> Any:
    model = Whole()
    images = ImageBatch.from_tensors([torch.zeros(3, 6, 8), torch.zeros(3, 4, 9)])
    return model.decode(model(images), DecodeOptions(**options))


def test_decode_packs_what_is_selected():
    first, second = decoded()
    assert first.image_size == (6, 8) and second.boxes.tolist() == [[0, 0, 9, 4]]
    assert isinstance(first.masks, RoIMasks) and second.masks.area().tolist() == [36]
    assert all(found.masks is None for found in decoded(with_masks=False))


def test_options_of_masks_reach_them():
    (first, _) = decoded(mask_threshold=0.25, paste="compatible")
    assert first.masks.threshold == 0.25 and first.masks.paste == "compatible"


def test_outlines_become_polygons():
    triangle = torch.tensor([[[0.0, 0], [4, 0], [0, 4]]])
    selected = Detections(((6, 8),), (torch.tensor([[0.0, 0, 4, 4]]),), (torch.zeros(1, dtype=torch.int64),),
                          (torch.ones(1),), outlines=(triangle,))  # fmt: skip
    (found,) = Whole().pack(selected, DecodeOptions())
    assert isinstance(found.masks, Polygons) and found.masks.size == (6, 8) and found.masks.area().tolist() == [6]


def test_a_network_is_a_model_once_its_verbs_are_written():
    assert isinstance(Whole(), Model)
    empty: Network[Any, Any, Any] = Network()
    with pytest.raises(NotImplementedError):
        empty.decode(None, DecodeOptions())


def networks(kind: type[Any] = Network) -> Iterator[type[Any]]:
    for one in kind.__subclasses__():
        yield one
        yield from networks(one)


def test_only_what_remembers_frames_is_recurrent():
    for module in pkgutil.walk_packages(models.__path__, models.__name__ + "."):
        importlib.import_module(module.name)
    ours = [one for one in networks() if one.__module__.startswith(models.__name__)]
    recurrent = [one for one in ours if issubclass(one, Recurrent)]
    assert {"RobustVideoMatting", "STM"} <= {one.__name__ for one in recurrent} and len(recurrent) < len(ours)
    for one in recurrent:
        assert list(inspect.signature(one.step).parameters)[1:3] == ["images", "state"], one
