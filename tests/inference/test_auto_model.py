from __future__ import annotations

import numpy as np
import pytest
import skimage.data
from PIL import Image
from scipy.ndimage import gaussian_filter

from eachmask.cli import main
from eachmask.data.images.read import as_array
from eachmask.inference.auto_model import auto_model, looks_like_microscopy


def fluorescence() -> np.ndarray:
    """Bright spots on black, (200, 240, 3) uint16."""
    spots = np.zeros((200, 240))
    spots[tuple(np.random.default_rng(0).integers(10, 190, (2, 40)))] = 1
    light = gaussian_filter(spots, 4)
    return np.repeat((300 + 20_000 * light / light.max()).astype(np.uint16)[..., None], 3, axis=2)


def stained() -> np.ndarray:
    """Purple spots on pink, (200, 240, 3) uint8."""
    where = fluorescence()[..., :1] > 5000
    return np.where(where, [[[110, 60, 150]]], [[[235, 190, 220]]]).astype(np.uint8)


@pytest.mark.parametrize("name", ["astronaut", "chelsea", "coffee", "rocket"])
def test_photographs_are_none(name):
    assert not looks_like_microscopy(getattr(skimage.data, name)())


@pytest.mark.parametrize("name", ["coins", "cell", "immunohistochemistry", "hubble_deep_field"])
def test_fields_of_spots_and_sections_go_to_nuclei(name):
    assert looks_like_microscopy(as_array(getattr(skimage.data, name)()))


@pytest.mark.parametrize("name", ["camera", "moon", "grass", "gravel", "retina", "page"])
def test_gray_photographs_and_textures_are_none(name):
    assert not looks_like_microscopy(as_array(getattr(skimage.data, name)()))


def test_microscope_images_are_recognized():
    assert looks_like_microscopy(fluorescence()) and looks_like_microscopy(stained())
    assert looks_like_microscopy((fluorescence() / 65535).astype(np.float32))
    assert looks_like_microscopy((255 - fluorescence() // 128).astype(np.uint8)), "brightfield: dark on white"


def test_a_constant_image_is_no_reason_to_fail():
    assert looks_like_microscopy(np.zeros((5, 4, 3), np.uint8)) in (True, False)


def test_the_first_images_decide(tmp_path):
    cell, photo, broken = tmp_path / "a.png", tmp_path / "b.png", tmp_path / "c.png"
    Image.fromarray(stained()).save(cell)
    Image.fromarray(skimage.data.chelsea()).save(photo)
    broken.write_bytes(b"no image")
    assert auto_model([cell, broken]) == auto_model([cell, cell, photo]) == "nuclei"
    assert auto_model([photo, broken, cell]) != "nuclei"


def test_predict_without_a_model_says_what_it_chose(tmp_path, capsys):
    Image.fromarray(stained()).save(tmp_path / "a.png")
    assert main(["predict", str(tmp_path / "a.png"), "--out", str(tmp_path / "out"), "--device", "cpu"]) == 0
    assert "nuclei" in capsys.readouterr().err
