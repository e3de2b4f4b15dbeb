from __future__ import annotations

import numpy as np
import pytest
import torch

from eachmask.models.proposal_free.discriminative import Raw, discriminative_lite0
from eachmask.structures import DecodeOptions, ImageBatch, SemanticMap


def said(ids: np.ndarray, labels: list[int], num_classes: int) -> Raw:
    """What a flawless network says of a map of objects."""
    classes = np.concatenate([[0], np.array(labels) + 1])[ids]
    logits = torch.nn.functional.one_hot(torch.from_numpy(classes), num_classes + 1).permute(2, 0, 1).float() * 10
    places = torch.randn(ids.max() + 1, 8, generator=torch.Generator().manual_seed(0)) * 5
    embedding = places[torch.from_numpy(ids).long()].permute(2, 0, 1)
    return Raw(logits[None], embedding[None], (ids.shape,))


def scene() -> np.ndarray:
    ids = np.zeros((40, 60), np.int32)
    ids[5:20, 5:25], ids[5:20, 25:40], ids[25:38, 10:50] = 1, 2, 3
    ids[5:20, 20:22] = 3  # an object in two parts stays one
    return ids


@pytest.mark.parametrize("clustering", ["mean_shift", "greedy"])
def test_flawless_maps_give_the_objects_back(clustering):
    model = discriminative_lite0(2, clustering=clustering)
    (found,) = model.decode(said(scene(), [0, 1, 0], 2), DecodeOptions())
    assert len(found) == 3 and sorted(found.labels.tolist()) == [0, 0, 1]
    areas = sorted(np.bincount(scene().ravel())[1:].tolist())
    assert sorted(found.masks.area().tolist()) == areas


def test_pixels_are_thinned_out_for_mean_shift_only():
    model = discriminative_lite0(1, max_points=100)
    (found,) = model.decode(said(scene(), [0, 0, 0], 1), DecodeOptions())
    assert sorted(found.masks.area().tolist()) == sorted(np.bincount(scene().ravel())[1:].tolist())


def test_a_foreground_that_is_handed_over_is_taken():
    model = discriminative_lite0(1).eval()
    batch = ImageBatch.from_tensors([torch.rand(3, 40, 60)])
    known = SemanticMap(torch.from_numpy((scene() > 0).astype(np.uint8)))
    with torch.inference_mode():
        (found,) = model.decode(model(batch, [known]), DecodeOptions())
    assert found.masks.to_label_map().astype(bool).sum() == (scene() > 0).sum()
    assert float(found.scores.min()) > 0.99
