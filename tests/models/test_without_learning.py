"""What answers prompts without having learned: disks on a busy background, from every kind of prompt."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import eachmask
from eachmask.models.promptable.pixel_classifier import features
from eachmask.models.promptable.without_learning import BACKGROUND, CLASSICS, OBJECT, classic, marks_of
from eachmask.models.protocol import Model, Promptable
from eachmask.structures import RLE, ImageBatch, Prompts, UserError

SIZE = (60, 80)
NEEDS_SKLEARN = pytest.mark.skipif(
    __import__("importlib.util").util.find_spec("sklearn") is None, reason="needs scikit-learn, which is not here"
)
NAMES = [pytest.param(n, marks=NEEDS_SKLEARN if n == "pixel_classifier" else ()) for n in CLASSICS]


def disk() -> tuple[np.ndarray, np.ndarray]:
    """A reddish disk on a bluish ground, both noisy, and its bitmap."""
    rng = np.random.default_rng(0)
    ys, xs = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    inside = (ys - 30) ** 2 + (xs - 35) ** 2 <= 14**2
    image = np.where(inside[..., None], [190.0, 80, 70], [60.0, 90, 150]) + rng.normal(0, 8, (*SIZE, 3))
    return image.clip(0, 255).astype(np.uint8), inside


PROMPTS = {
    "points": {"points": [[35, 30], [5, 5], [70, 50]], "signs": [True, False, False]},
    "one point": {"points": [[35, 30]]},
    "scribbles": {"scribbles": [[[28, 25], [42, 36]], [[5, 5], [75, 5], [75, 55]]], "scribble_signs": [True, False]},
    "box": {"boxes": [[19, 14, 51, 46]]},
    "box and point": {"boxes": [[19, 14, 51, 46]], "points": [[35, 30]], "point_objects": [0]},
    "extremes": {"extremes": [[[21.5, 30], [48.5, 30], [35, 16.5], [35, 43.5]]]},
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("said", PROMPTS)
def test_a_disk_is_cut_out(name, said):
    image, inside = disk()
    predictor = eachmask.load(name, device="cpu")
    found = predictor.predict(image, Prompts(SIZE, **PROMPTS[said]))
    assert len(found) == 1 and found.image_size == SIZE and 0 < float(found.scores[0]) <= 1
    iou = float(found.masks.iou(RLE.from_bitmaps(inside[None]))[0, 0])
    assert iou > (0.5 if name == "pixel_classifier" and said != "scribbles" else 0.9), iou  # it learns from few pixels


@pytest.mark.parametrize("name", NAMES)
def test_what_all_promise(name):
    model = classic(name)
    assert isinstance(model, Promptable) and isinstance(model, Model) and not list(model.parameters())
    with pytest.raises(UserError, match="nothing to learn"):
        model.losses(model(ImageBatch.from_tensors([torch.zeros(3, 8, 8)])), [])
    with pytest.raises(UserError, match="give"):
        model.check(Prompts(SIZE, texts=["cat"]))
    with pytest.raises(UserError, match="no setting"):
        classic(name, nonsense=1)


@pytest.mark.parametrize("name", [n for n in CLASSICS if n not in ("pixel_classifier", "normalized_cuts")])
def test_tiny_flat_and_full_images(name):
    model = classic(name)
    for size in ((1, 1), (2, 3), (9, 8)):
        found = model.answer(torch.full((3, *size), 0.5), Prompts(size, points=[[0.5, 0.5]]))
        assert tuple(found.shape) == size and torch.isfinite(found).all()
        found = model.answer(torch.full((3, *size), 0.5), Prompts(size, boxes=[[0, 0, size[1], size[0]]]))
        assert tuple(found.shape) == size and torch.isfinite(found).all()


def test_large_images_are_reduced_and_answers_enlarged():
    image, inside = disk()
    large = image.repeat(12, axis=0).repeat(12, axis=1)
    predictor = eachmask.load("grabcut", device="cpu")
    found = predictor.predict(large, Prompts(large.shape[:2], boxes=[[19 * 12, 14 * 12, 51 * 12, 46 * 12]]))
    expected = RLE.from_bitmaps(inside.repeat(12, axis=0).repeat(12, axis=1)[None])
    assert float(found.masks.iou(expected)[0, 0]) > 0.9


def test_segments_without_prompts():
    image, inside = disk()
    found = eachmask.load("normalized_cuts", device="cpu").everything(image)
    assert len(found) >= 2 and float(found.masks.iou(RLE.from_bitmaps(inside[None])).max()) > 0.9
    with pytest.raises(UserError, match="answers prompts alone"):
        eachmask.load("graph_cut", device="cpu").everything(image)


def test_marks():
    said = Prompts((20, 30), points=[[5, 5], [25, 15]], signs=[True, False], boxes=[[2, 2, 20, 18]], box_objects=[0])
    marks = marks_of(said)
    assert marks.seeds[5, 5] == OBJECT and marks.seeds[15, 25] == marks.seeds[0, 0] == BACKGROUND
    assert marks.seeds[10, 15] == 0 and marks.probable[10, 15] and not marks.probable[0, 0]
    lone = marks_of(Prompts((20, 30), points=[[0, 10]]))
    assert lone.seeds[10, 0] == OBJECT and lone.seeds[0, 10] == lone.seeds[10, 29] == BACKGROUND
    rough = marks_of(Prompts((20, 30), masks=RLE.from_bitmaps(np.ones((1, 20, 30), bool))))
    assert rough.probable.all()


def test_features_do_not_depend_on_the_range():
    image, _ = disk()
    few = features(image, scales=(1.0, 2.0))
    assert few.shape == (*SIZE, 7 * 3 * 2) and np.isfinite(few).all()
    assert features(image.astype(np.uint16) * 257, scales=(1.0, 2.0)) == pytest.approx(few, abs=1e-3)
    assert features(np.zeros((8, 9, 5)), scales=(1.0,)).shape == (8, 9, 35)
    ramp = features(np.tile(np.arange(40.0), (40, 1)), scales=(1.0,))
    middle = ramp[20, 20]
    assert middle[1] == pytest.approx(0, abs=1e-3) and middle[2] > 0, "a ramp has a gradient and no curvature"


@NEEDS_SKLEARN
def test_five_channels_of_16_bits_and_three_kinds():
    from eachmask.models.promptable.pixel_classifier import PixelClassifier

    rng = np.random.default_rng(1)
    kinds = np.zeros((40, 60), int)
    kinds[:, 20:40], kinds[:, 40:] = 1, 2
    values = rng.normal(9000, 300, (40, 60, 5)) + kinds[..., None] * np.array([3000, 0, 1000, 0, 2000])
    image = values.astype(np.uint16)
    marks = np.zeros_like(kinds)
    for x in (8, 30, 52):
        marks[18:22, x - 2 : x + 2] = kinds[20, x] + 1
    found = PixelClassifier().fit([image], [marks]).predict(image)
    assert found.shape == (40, 60, 3) and (found.argmax(2) == kinds).mean() > 0.9
    with pytest.raises(UserError, match="two kinds"):
        PixelClassifier().fit([image], [np.where(marks == 1, 1, 0)])
