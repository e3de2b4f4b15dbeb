from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from eachmask.structures import Instances, Matte, PanopticMap, SemanticMap, UserError, View


class Flat:
    """Draws nothing but how many there are."""

    def render(self, result) -> np.ndarray:
        return np.full((3, 4, 3), len(result) if isinstance(result, Instances) else 9, np.uint8)


def results(view: View | None) -> list:
    zeros = torch.zeros(3, 4, dtype=torch.uint8)
    return [
        Instances((3, 4), torch.zeros(2, 4), view=view),
        SemanticMap(zeros, view=view),
        PanopticMap(zeros, (), view=view),
        Matte(zeros.float(), view=view),
    ]


@pytest.mark.parametrize("result", results(Flat()), ids=lambda r: type(r).__name__)
def test_results_show_themselves(result, tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(Image.Image, "show", lambda self: shown.append(np.asarray(self)))
    result.show()
    result.save(tmp_path / "seen.png")
    for image in (shown[0], Image.open(tmp_path / "seen.png"), Image.open(io.BytesIO(result._repr_png_()))):
        assert np.array_equal(np.asarray(image), result.render())
    with pytest.raises(UserError, match="seen.xyz cannot be written .*give it the suffix .png"):
        result.save(tmp_path / "seen.xyz")


@pytest.mark.parametrize("result", results(None), ids=lambda r: type(r).__name__)
def test_without_its_image_a_result_says_how_to_draw(result):
    with pytest.raises(UserError, match=f"this {type(result).__name__} does not know its image.*draw.overlay"):
        result.render()
    assert result._repr_png_() is None


@pytest.mark.parametrize("result", results(Flat()), ids=lambda r: type(r).__name__)
def test_what_is_moved_no_longer_fits_its_image(result):
    for moved in (result.flip(), result.crop((0, 0, 2, 2)), result.shift(1, 1, (9, 9)), result.resize((6, 8))):
        assert moved.view is None


def test_a_choice_of_objects_is_still_of_the_image():
    found = results(Flat())[0]
    assert found[0].render().max() == 1 and found.filter(classes=[1]).render().max() == 0
