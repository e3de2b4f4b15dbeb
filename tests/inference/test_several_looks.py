"""Objects found in several looks at one image: joined in the image's own pixels, tiled or whole."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_model import Spots, spots_info

import eachmask
from eachmask.inference.predictor import Predictor
from eachmask.structures import Instances, UserError
from eachmask.weights.file import read_info, save_model

LOOKS = (0.5, 1.0)


@pytest.fixture
def image() -> np.ndarray:
    """A square and a dot that a look at half the size does not see."""
    image = np.zeros((64, 96, 3), np.uint8)
    image[8:40, 16:48] = 255
    image[51, 81] = 255
    return image


def predictor_of(**changes: object) -> Predictor[Instances]:
    return Predictor(Spots(), replace(spots_info(), **changes), device="cpu", precision="fp32")


def test_what_one_look_misses_another_finds(image: np.ndarray) -> None:
    usual, several = predictor_of(), predictor_of(scales=LOOKS)
    (square, dot), every = usual.predict(image), several.predict(image, score=0.0)
    assert len(usual.predict(image)) == 2 and several.fingerprint != usual.fingerprint
    assert every.boxes[:2].tolist() == [square.boxes[0].tolist(), dot.boxes[0].tolist()]
    first, second = every.scores[:2].tolist()
    assert first == pytest.approx(float(square.scores[0]), abs=1e-3) and second == pytest.approx(0.6)
    assert np.array_equal(every.masks[[0]].to_label_map(), square.masks.to_label_map())


def test_the_file_says_which_looks_and_a_user_may_say_others(tmp_path: Path, image: np.ndarray) -> None:
    info = replace(spots_info(), scales=LOOKS)
    save_model(tmp_path / "spots.safetensors", Spots(), info)
    assert read_info(tmp_path / "spots.safetensors").scales == LOOKS
    loaded = predictor_of(scales=LOOKS)
    alone = loaded.multi_scale((1.0,)).predict(image)
    assert alone.scores.tolist() == predictor_of().predict(image).scores.tolist()
    same = predictor_of().multi_scale(LOOKS).predict(image, score=0.0)
    assert same.scores.tolist() == loaded.predict(image, score=0.0).scores.tolist()


def test_no_side_is_preferred(image: np.ndarray) -> None:
    twice = predictor_of().multi_scale((1.0,), flip=True)
    found = twice.predict(image, score=0.0)
    mirrored = twice.predict(np.ascontiguousarray(image[:, ::-1]), score=0.0).flip()
    assert torch.allclose(found.scores, mirrored.scores)
    assert np.array_equal(found[:2].masks.to_label_map(), mirrored[:2].masks.to_label_map())


def test_tiles_are_looked_at_as_often(image: np.ndarray) -> None:
    several = predictor_of(scales=LOOKS)
    tiled = several.predict(np.tile(image, (1, 3, 1)), tile=96, overlap=0.0, score=0.2)
    assert tiled.boxes[:, 0].sort().values.tolist() == [16.0, 81.0, 112.0, 177.0, 208.0, 273.0]


@pytest.mark.parametrize("scales", [(), (0.1,), (9.0,)])
def test_scales_out_of_range_are_refused(scales: tuple[float, ...]) -> None:
    with pytest.raises(UserError, match="--scales"):
        predictor_of().multi_scale(scales)


def test_who_sees_images_at_one_size_alone_says_so() -> None:
    info = spots_info()
    preprocess = replace(info.preprocess, fixed_size=(64, 64), short_side=None, long_side=None)
    with pytest.raises(UserError, match="at 64 x 64 pixels and at no other scale"):
        predictor_of(preprocess=preprocess).multi_scale((0.5, 1.0))


def test_masks_of_the_bundled_model_are_computed_when_somebody_asks(image: np.ndarray) -> None:
    found = eachmask.load("objects", device="cpu", precision="fp32").predict(image, score=0.02)
    assert len(found) and found.masks is not None and found.masks.size == (64, 96)
    assert found.masks.area().shape == (len(found),)
