"""Every model on a GPU, as far as that can be told without one: no tensor is left in main memory, same results."""

from __future__ import annotations

import numpy as np
import pytest
import skimage.data
import torch
from models.test_contract import CASES, Case, losses_of, scenes
from pretended_gpu import GPU, Away, pretended_gpu

from eachmask import Predictor, load
from eachmask.structures import DecodeOptions, Preprocess
from eachmask.weights.file import ModelInfo

SIZES = [(64, 96), (96, 64)]


def test_what_is_pretended_behaves_like_a_gpu():
    with pretended_gpu():
        there = torch.arange(3.0, device="cuda")
        assert there.device == GPU and isinstance(there * 2, Away) and (there + 1).sum().item() == 6
        with pytest.raises(RuntimeError, match="same device"):
            there + torch.ones(3)
        with pytest.raises(TypeError, match="numpy"):
            there.numpy()
        with pytest.raises(TypeError, match="numpy"):
            np.asarray(there)
        assert not isinstance(there.cpu(), Away) and (there + torch.tensor(1.0)).tolist() == [1, 2, 3]


@pytest.mark.parametrize("case", CASES, ids=[case.variant for case in CASES])
def test_finds_the_same_there(case: Case):
    model = case.build()
    batch, _ = scenes(case, *SIZES)
    options = DecodeOptions(score_threshold=case.score)
    with torch.no_grad():
        expected = model.decode(model(batch), options)
        with pretended_gpu():
            there = model.to("cuda")
            found = [instances.to("cpu") for instances in there.decode(there(batch.to("cuda")), options)]
    for ours, theirs in zip(expected, found, strict=True):
        assert not isinstance(theirs.boxes, Away) and not isinstance(theirs.scores, Away)
        assert abs(len(ours) - len(theirs)) <= 2  # an untrained network's scores are near one another
        both = min(len(ours), len(theirs))
        assert torch.allclose(ours.scores[:both], theirs.scores[:both], atol=2e-3)
        if case.masks:
            areas = [float(found.resize((50, 70)).masks.to_rle().area().mean()) for found in (ours, theirs)]
            assert areas[0] == pytest.approx(areas[1], rel=0.05)


@pytest.mark.parametrize("case", CASES, ids=[case.variant for case in CASES])
def test_its_losses_are_there(case: Case):
    """Targets stay in main memory, as the loop leaves them."""
    model = case.build().train()
    batch, targets = scenes(case, *SIZES)
    with pretended_gpu():
        there = model.to("cuda")
        losses = losses_of(there, batch.to("cuda"), targets)
        assert losses and all(loss.device == GPU and torch.isfinite(loss) for loss in losses.values())


@pytest.mark.parametrize("tile", [None, 48])
def test_a_predictor_gives_its_results_in_main_memory(tile):
    case = next(case for case in CASES if case.variant == "mask_rcnn_lite0_fpn")
    info = ModelInfo(
        variant=case.variant,
        categories=(),
        config=case.config,
        preprocess=Preprocess(short_side=96, long_side=128),
    )
    image = np.random.default_rng(0).integers(0, 255, (80, 100, 3), np.uint8)
    options = DecodeOptions(score_threshold=case.score)
    with pretended_gpu():
        predictor = Predictor(case.build(), info, device="cuda", precision="fp32")
        found = predictor.predict(image, tile=tile, options=options)
    assert len(found) and not isinstance(found.boxes, Away) and not isinstance(found.scores, Away)
    assert found.masks.to_rle().size == (80, 100)


def test_a_bundled_model_names_what_it_finds_there():
    image = skimage.data.chelsea()[::2, ::2]
    expected = load("objects", device="cpu", precision="fp32").predict(image)
    with pretended_gpu():
        found = load("objects", device="cuda", precision="fp32").predict(image)
    assert found.label_names == expected.label_names
    assert len(found) and torch.allclose(found.boxes, expected.boxes, atol=0.5)
