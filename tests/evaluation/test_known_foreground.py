"""A model that is handed the annotated foreground."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from small_sets import make_set

import eachmask
from eachmask.data.classes import one_class
from eachmask.evaluation.known_foreground import foreground
from eachmask.inference.predictor import Predictor
from eachmask.models.instance.panoptic_deeplab import panoptic_deeplab_lite0
from eachmask.models.proposal_free.discriminative import discriminative_lite0
from eachmask.structures import RLE, Category, Instances, Preprocess, UserError
from eachmask.weights.file import ModelInfo


def test_the_map_has_the_models_classes_and_no_crowd() -> None:
    bitmaps = np.zeros((3, 4, 6), bool)
    bitmaps[0, :2], bitmaps[1, 2:, :3], bitmaps[2, 2:, 3:] = True, True, True
    masks = RLE.from_bitmaps(bitmaps)
    crowd = torch.tensor([False, False, True])
    targets = Instances((4, 6), torch.from_numpy(masks.boxes()), masks, labels=torch.tensor([1, 0, 0]), crowd=crowd)
    found = foreground(targets, np.array([2, 0]))  # the model does not know the data's class 1
    assert found.labels.tolist() == [[0] * 6, [0] * 6, [2, 2, 2, 0, 0, 0], [2, 2, 2, 0, 0, 0]]


@pytest.fixture
def data(tmp_path: Path) -> eachmask.data.Dataset:
    return one_class(make_set(tmp_path / "images"))


def predictor(model: torch.nn.Module) -> Predictor[Instances]:
    return Predictor(model.eval(), ModelInfo("untrained", {}, Preprocess(), (Category(1, "object"),)), precision="fp32")


def test_what_is_found_is_the_foreground_to_the_pixel(data: eachmask.data.Dataset) -> None:
    torch.manual_seed(0)
    model = predictor(discriminative_lite0(1, min_area=1))
    found, without = (
        eachmask.evaluate(model, data, known_foreground=known, resamples=0, boundary=False) for known in (True, False)
    )
    assert found.value("fg_dice") == pytest.approx(1.0) and without.value("fg_dice") < 0.9
    assert any("handed the annotated foreground" in note for note in found.notes)
    assert not any("foreground" in note for note in without.notes)


def test_a_model_that_takes_none_is_named(data: eachmask.data.Dataset) -> None:
    with pytest.raises(UserError, match="takes none: leave out --known-foreground"):
        eachmask.evaluate(predictor(panoptic_deeplab_lite0(1)), data, known_foreground=True)
