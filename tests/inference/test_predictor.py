from __future__ import annotations

import copy
import pickle
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image
from tiny_model import Spots, spots_image, spots_info
from torch import nn

import eachmask
from eachmask.inference.devices import find_device, find_precision
from eachmask.inference.load import load
from eachmask.inference.predictor import Predictor
from eachmask.inference.preprocessing import preprocessed
from eachmask.structures import DecodeOptions, ImageBatch, Instances, Preprocess, UserError
from eachmask.tasks.instances import INSTANCES


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor(Spots(), spots_info(), device="cpu", precision="fp32")


def _same(a: Instances, b: Instances) -> None:
    assert a.image_size == b.image_size and a.categories == b.categories
    assert torch.equal(a.boxes, b.boxes) and torch.equal(a.labels, b.labels)
    torch.testing.assert_close(a.scores, b.scores)
    assert a.masks.to_rle().to_coco() == b.masks.to_rle().to_coco()


def test_every_kind_of_input_gives_the_same(predictor: Predictor, tmp_path: Path) -> None:
    image = spots_image(3)
    Image.fromarray(image).save(tmp_path / "a.png")
    expected = predictor.predict(image)
    assert len(expected) > 2 and expected.image_size == (96, 128)
    assert [c.id for c in expected.categories] == [3, 7]
    for given in (
        tmp_path / "a.png",
        str(tmp_path / "a.png"),
        torch.from_numpy(image).permute(2, 0, 1),
        Image.fromarray(image),
        image.astype(np.float32) / 255,
        image.astype(np.uint16) * 257,
    ):
        _same(predictor(given), expected)


def test_lists_of_different_sizes(predictor: Predictor) -> None:
    images = [spots_image(i, 64 + 16 * (i % 3), 96) for i in range(5)]
    for found, image in zip(predictor.predict(images), images, strict=True):
        _same(found, predictor.predict(image))
    assert predictor.predict([]) == []


def test_results_are_in_the_pixels_of_the_image() -> None:
    info = spots_info(preprocess=Preprocess((0, 0, 0), (1, 1, 1), short_side=48, long_side=200, divisor=32))
    image = np.zeros((200, 300, 3), np.uint8)
    image[40:120, 60:180] = 255
    (box,) = Predictor(Spots(), info, device="cpu", precision="fp32").predict(image).boxes.tolist()
    assert box == pytest.approx([60, 40, 180, 120], abs=5)


def test_options_are_the_users_then_the_files_then_the_models(predictor: Predictor) -> None:
    image = spots_image(3)
    scores = predictor.predict(image).scores
    strict = predictor.predict(image, options=DecodeOptions(score_threshold=float(scores[1])))
    assert len(strict) == 2
    saved = Predictor(Spots(), spots_info(decode={"max_detections": 3}), device="cpu", precision="fp32")
    assert len(saved.predict(image)) == 3
    assert len(saved.predict(image, options=DecodeOptions(max_detections=1))) == 1
    assert len(saved.predict(image, options=DecodeOptions(score_threshold=0.1))) == 3


@pytest.mark.parametrize(
    ("wish", "reason"),
    [
        ({"tile": 5}, "tile of 5"),
        ({"overlap": 0.5}, "overlap"),
    ],
)
def test_nonsense_is_refused(predictor: Predictor, wish: dict, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        predictor.predict(spots_image(0), **wish)


def test_floats_out_of_range(predictor: Predictor) -> None:
    with pytest.raises(UserError, match="0..1, but this one goes from 0 to 255"):
        predictor.predict(np.linspace(0, 255, 300).reshape(10, 10, 3))
    for wrong in (np.nan, np.inf):
        with pytest.raises(UserError, match="holds NaN or infinity"):
            predictor.predict(np.full((10, 10), wrong))
    stretching = Predictor(
        Spots(), spots_info(preprocess=replace(spots_info().preprocess, contrast="percentile")),
        device="cpu", precision="fp32",
    )  # fmt: skip
    image = spots_image(3)
    _same(stretching.predict(image.astype(np.float32) * 1000), stretching.predict(image))


class _OneClass(Spots):
    """A fragment in a tile is of no other class than the object."""

    def _spots(self, values: np.ndarray, options: DecodeOptions) -> Instances:
        found = super()._spots(values, options)
        return replace(found, labels=torch.zeros_like(found.labels))


def test_tiles_equal_one_pass() -> None:
    predictor = Predictor(_OneClass(), spots_info(), device="cpu", precision="fp32")
    image = spots_image(11, 220, 300, num=14)
    image[100:140, 90:190] = 220  # one object across several tiles
    whole, tiled = predictor.predict(image), predictor.predict(image, tile=96, overlap=0.3)
    assert len(tiled) == len(whole)
    overlap = whole.masks.iou(tiled.masks)
    assert (overlap.max(1) > 0.99).all()
    assert len(predictor.predict(image, tile=96, overlap=0.3, options=DecodeOptions(max_detections=2))) == 2


def test_tiles_share_their_contrast() -> None:
    """Dim objects in a dark corner must not be stretched to bright ones because their tile is dark."""
    info = spots_info(preprocess=replace(spots_info().preprocess, contrast="percentile"), tile=64)
    image = np.zeros((200, 200, 3), np.uint16)
    image[20:40, 20:40] = 60_000
    image[150:160, 150:160] = 6_000
    assert len(Predictor(Spots(), info, device="cpu", precision="fp32").predict(image)) == 1


def test_large_images_are_reduced_before_they_become_floats(monkeypatch: pytest.MonkeyPatch) -> None:
    info = spots_info(preprocess=Preprocess((0, 0, 0), (1, 1, 1), short_side=64, long_side=400, divisor=32))
    image = np.zeros((600, 900, 3), np.uint8)
    image[100:300, 200:500] = 255
    model = Predictor(Spots(), info, device="cpu", precision="fp32")
    usual = model.predict(image)
    monkeypatch.setattr("eachmask.inference.preprocessing.LARGE", 1000)
    seen = []
    monkeypatch.setattr(Preprocess, "to_float", _spy(Preprocess.to_float, seen))
    reduced = model.predict(image)
    assert seen == [(128, 192)]
    assert reduced.image_size == (600, 900) and usual.masks.iou(reduced.masks)[0, 0] > 0.9


@pytest.mark.parametrize(
    "preprocess",
    [
        Preprocess(short_side=64, long_side=400),
        Preprocess(fixed_size=(55, 57), divisor=1, channels="bgr"),
        Preprocess(short_side=None, magnification=0.07, contrast="percentile"),
    ],
    ids=["short-side", "fixed-bgr", "percentile"],
)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_a_large_image_is_read_only_where_resizing_reads_it(
    preprocess: Preprocess, dtype: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = (np.random.default_rng(0).random((613, 4001, 3)) * (1 if dtype == np.float32 else 255)).astype(dtype)
    limits = preprocess.limits(image)
    expected = preprocess([image], limits=limits)
    seen: list[tuple[int, int]] = []
    monkeypatch.setattr(Preprocess, "to_float", _spy(Preprocess.to_float, seen))
    found = preprocessed(preprocess, image, limits)
    height, width = preprocess.target_size(613, 4001)
    assert seen == [(2 * height, 2 * width)]
    assert found.sizes == expected.sizes
    torch.testing.assert_close(found.tensor, expected.tensor, rtol=0, atol=2e-6)


def test_a_image_that_is_read_nearly_everywhere_becomes_floats_as_a_whole() -> None:
    image = spots_image(3, 100, 120)
    preprocess = Preprocess(short_side=48, long_side=200)
    found = preprocessed(preprocess, image, (0.0, 255.0))
    assert torch.equal(found.tensor, preprocess([image]).tensor)


def test_a_model_can_be_trained_after_it_has_predicted() -> None:
    model = Spots().train()
    before = copy.deepcopy(model.state_dict())
    Predictor(model, spots_info(), device="cpu", precision="fp32").predict(spots_image(0))
    assert model.training and all(p.requires_grad for p in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    model.mix(torch.ones(1, 3, 4, 4)).sum().backward()
    assert model.mix.weight.grad is not None


def _spy(function: object, seen: list) -> object:
    def spying(self: Preprocess, image: np.ndarray, *rest: object) -> object:
        seen.append(image.shape[:2])
        return function(self, image, *rest)  # type: ignore[operator]

    return spying


def test_a_pickled_predictor_does_the_same(predictor: Predictor) -> None:
    again = pickle.loads(pickle.dumps(predictor))
    _same(again.predict(spots_image(5)), predictor.predict(spots_image(5)))
    assert again.fingerprint == predictor.fingerprint


def test_fingerprint_is_of_weights_and_settings(predictor: Predictor) -> None:
    def print_of(model: nn.Module, **changes: object) -> str:
        return Predictor(model, spots_info(**changes), device="cpu", precision="fp32").fingerprint

    assert print_of(Spots()) == predictor.fingerprint
    changed = Spots()
    changed.mix.weight.data += 1e-6
    assert len({print_of(Spots()), print_of(changed), print_of(Spots(), decode={"max_detections": 3})}) == 3


def test_a_full_list_is_said_once() -> None:
    model = Spots()
    model.config = type("Config", (), {"max_detections": 3})()
    limited = Predictor(model, spots_info(decode={}), device="cpu", precision="fp32", optimize=False)
    with pytest.warns(UserWarning, match="maximum of 3 objects.*--max-detections") as caught:
        limited.predict(spots_image(3))
    assert "eachmask" in Path(caught[0].filename).parts  # commands show our own warnings alone
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        limited.predict(spots_image(3))


def test_more_than_a_model_can_find_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Spots, "max_objects", 5, raising=False)
    predictor = Predictor(Spots(), spots_info(), device="cpu", precision="fp32")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        predictor.predict(spots_image(1), options=DecodeOptions(max_detections=5))
    with pytest.warns(
        UserWarning, match=r"6 objects were asked for, but this model finds at most 5 .*--tile"
    ) as caught:
        for _ in range(2):
            predictor.predict(spots_image(1), options=DecodeOptions(max_detections=6))
    assert len(caught) == 1


def test_wrong_numbers_and_classes_are_named(predictor: Predictor) -> None:
    image = spots_image(1)
    with pytest.raises(UserError, match="an image of int64 must lie in 0..1"):
        predictor.predict(image.astype(np.int64) * 10**5)
    with pytest.raises(UserError, match="a float image must lie in 0..1"):
        predictor.predict(image.astype(np.float32))
    with pytest.raises(UserError, match="classes are names, not 5"):
        predictor.predict(image, classes=5)


class _Types(nn.Module):
    """Notes what the network computes in, and answers with one box."""

    task = INSTANCES

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, images: ImageBatch) -> tuple[torch.Tensor, tuple[tuple[int, int], ...]]:
        return self.conv(images.tensor), images.sizes

    def decode(self, raw: tuple, options: DecodeOptions) -> list[Instances]:
        self.seen = raw[0].dtype
        return [Instances.empty(size) for size in raw[1]]


def test_precision_is_that_of_the_network() -> None:
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        predictor = Predictor(_Types(), spots_info(), device="cpu", precision=name)
        predictor.predict(spots_image(0))
        assert predictor.model.seen == dtype


def test_devices_and_precisions_that_are_not_there() -> None:
    assert find_device("cpu") == torch.device("cpu")
    with pytest.raises(UserError, match="no device 'gpu'"):
        find_device("gpu")
    with pytest.raises(UserError, match="no cuda:99"):
        find_device("cuda:99")
    with pytest.raises(UserError, match="unknown precision 'int4'"):
        find_precision("int4", torch.device("cpu"))
    with pytest.raises(UserError, match="fp16 is for GPUs"):
        find_precision("fp16", torch.device("cpu"))
    assert find_precision("auto", torch.device("cuda")) == torch.float16


def test_a_missing_model_is_one_sentence(tmp_path: Path) -> None:
    for name in (tmp_path / "none.safetensors", "no-such-model"):
        with pytest.raises(UserError) as error:
            load(name)
        assert str(name) in str(error.value) and "\n" not in str(error.value)


def test_the_side_that_the_network_sees_can_be_chosen() -> None:
    seen: list[tuple[int, ...]] = []
    usual, smaller = load("objects", device="cpu"), load("objects", device="cpu", side=160)
    for predictor in (usual, smaller):
        predictor.model.register_forward_pre_hook(lambda _, inputs: seen.append(tuple(inputs[0].tensor.shape[2:])))
        found = predictor.predict(np.zeros((480, 640, 3), np.uint8))
        assert found.image_size == (480, 640)
    assert seen == [(256, 320), (480, 640), (64, 96), (128, 160)] and usual.fingerprint != smaller.fingerprint
    with pytest.raises(UserError, match="own size"):
        load("nuclei", device="cpu", side=512)


def test_results_show_themselves(tmp_path: Path, predictor: Predictor) -> None:
    image = spots_image(3)
    Image.fromarray(image).save(tmp_path / "spots.png")
    (found,) = predictor.predict([tmp_path / "spots.png"])
    assert np.array_equal(found.render(), predictor.predict(image).render())
    assert (found.render() != image).any() and found._repr_png_().startswith(b"\x89PNG")
    found.save(tmp_path / "over.png")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "over.png")), found.render())


def test_classes_and_scores_can_be_asked_for(predictor: Predictor) -> None:
    image = spots_image(3)
    everything = predictor.predict(image)
    small = predictor.predict(image, classes=["small spot"])
    assert 0 < len(small) < len(everything) and set(small.label_names) == {"small spot"}
    least = float(everything.scores.median())
    assert len(predictor.predict(image, score=least)) == int((everything.scores >= least).sum())
    with pytest.raises(UserError, match="small spot"):
        predictor.predict(image, classes=["smal spot"])


def test_a_list_can_be_watched(predictor: Predictor) -> None:
    images = [spots_image(seed) for seed in range(3)]
    plain, watched = predictor.predict(images), predictor.predict(images, progress=True)
    assert [len(found) for found in watched] == [len(found) for found in plain]


@pytest.mark.parametrize("progress", [False, True])
def test_a_list_with_a_missing_file_gives_the_others(predictor: Predictor, tmp_path: Path, progress: bool) -> None:
    Image.fromarray(spots_image(3, 60, 90)).save(tmp_path / "a.png")
    (tmp_path / "torn.png").write_bytes(b"no image")
    names = [tmp_path / "none.png", tmp_path / "a.png", tmp_path / "torn.png"]
    with pytest.warns(UserWarning, match=r"None in the list: .*(none|torn)\.png") as said:
        found = predictor.predict(names, progress=progress)
    assert len(said) == 2 and found[0] is None and found[2] is None
    assert torch.equal(found[1].boxes, predictor.predict(tmp_path / "a.png").boxes) and len(found[1])
    with pytest.raises(UserError, match=r"none\.png"):
        predictor.predict(names[:1], progress=progress)
    with pytest.raises(UserError):
        predictor.predict([tmp_path / "a.png", None], progress=progress)


def test_a_folder_and_a_pattern_are_lists(tmp_path: Path, predictor: Predictor) -> None:
    for seed in range(3):
        Image.fromarray(spots_image(seed)).save(tmp_path / f"{seed}.png")
    whole = predictor.predict(tmp_path)
    assert [len(found) for found in whole] == [len(predictor.predict(spots_image(seed))) for seed in range(3)]
    assert len(predictor.predict(str(tmp_path / "[12].png"))) == 2
    with pytest.raises(UserError, match="nothing matches the pattern"):
        predictor.predict(tmp_path / "none*.png")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p, image: p.predict(None), "not nothing"),
        (lambda p, image: p.predict(open(__file__, "rb")), "not BufferedReader"),
        (lambda p, image: p.predict(image, score="0.5"), "score threshold must be a number, not '0.5'"),
        (lambda p, image: p.predict(image, score=1.5), r"must lie in 0\.\.1, not 1.5"),
        (lambda p, image: p.predict(image, tile="512"), "side of tiles must be a whole number"),
        (lambda p, image: p.predict(image, overlap="a"), "overlap of tiles must be a number"),
        (lambda p, image: p.predict(image, options={"score": 0.5}), r"must be DecodeOptions\(...\), not dict"),
        (lambda p, image: DecodeOptions(paste="x"), "paste must be one of accurate, compatible, torchvision, not 'x'"),
        (lambda p, image: DecodeOptions(suppression="x"), "must be one of hard, soft, fast, matrix, not 'x'"),
        (lambda p, image: DecodeOptions(max_detections=0), "max_detections.* must be at least 1, not 0"),
        (lambda p, image: DecodeOptions(score_threshold=1.5), "score threshold must lie"),
        (lambda p, image: DecodeOptions(nms_threshold=5.0), "nms threshold must lie"),
        (lambda p, image: p.predict(image).filter(score="a"), "score must be a number"),
        (lambda p, image: load(None), "not by nothing"),
        (lambda p, image: load("objects", side=31), "must be at least 32, not 31"),
        (lambda p, image: load("objects", side="x"), "must be a whole number, not 'x'"),
        (lambda p, image: load("nuclei", device=None), "there is no device nothing"),
        (lambda p, image: eachmask.draw.overlay("none.png", p.predict(image)), "none.png does not exist"),
        (lambda p, image: eachmask.draw.overlay(image, None), "nothing cannot be drawn"),
        (lambda p, image: eachmask.draw.overlay(image[:9], p.predict(image)), "for instances on"),
        (lambda p, image: p.predict(image).filter(classes=2.5), "a class is a name or a label, not 2.5"),
        (lambda p, image: p.predict(image).save(None), "must be a path, not nothing"),
        (lambda p, image: p.predict(image).save("/no/such/folder/a.png"), "cannot be written"),
        (lambda p, image: p.predict(image, classes=[None]), "classes are names, not nothing"),
        (lambda p, image: eachmask.data.read(None), "data set must be a path, not nothing"),
        (lambda p, image: eachmask.evaluate(None, "."), "a model or its predictions are needed"),
        (lambda p, image: eachmask.evaluate(p, None), "samples, not nothing"),
        (lambda p, image: eachmask.train(None, ".", "a"), "by a model variant or a recipe, not by nothing"),
        (lambda p, image: eachmask.train("mask_rcnn_r50_fpn", None, "a"), "data set must be a path, not nothing"),
        (lambda p, image: eachmask.train("mask_rcnn_r50_fpn", ".", None), "must be a path, not nothing"),
        (lambda p, image: eachmask.train("mask_rcnn_r50_fpn", ".", "a", steps="x"), "must be a number, not 'x'"),
        (lambda p, image: eachmask.train("mask_rcnn_r50_fpn", ".", "a", size=31), "must be at least 32, not 31"),
    ],
)
def test_wrong_calls_are_sentences(predictor: Predictor, call: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        call(predictor, spots_image(0))  # type: ignore[operator]


def test_who_asks_for_cats_gets_the_animals_that_are_likeliest_cats() -> None:
    photographs = load("objects", device="cpu", precision="fp32")
    cats = photographs.predict(skimage.data.chelsea(), classes=["cat"])
    assert cats.label_names == ["cat"]
    assert len(photographs.predict(skimage.data.chelsea(), classes="animal")) == 1
    assert not len(photographs.predict(skimage.data.chelsea(), classes=["dog"]))
