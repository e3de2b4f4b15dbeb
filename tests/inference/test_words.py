"""Words to boxes to masks, captions to tags, and inpainting; the networks are stand-ins or tiny and random."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import eachmask
from eachmask.cli import main
from eachmask.inference.inpainting import removed, repainted
from eachmask.inference.words import (
    Captioner,
    Clip,
    Found,
    LikenessPredictor,
    WordDetector,
    as_bytes,
    as_text,
    segment_caption,
    segment_words,
    spans,
    tags,
)
from eachmask.structures import RLE, Instances, UserError

SIZE = (60, 80)


def disk() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    ys, xs = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    inside = (ys - 30) ** 2 + (xs - 35) ** 2 <= 14**2
    image = np.where(inside[..., None], [190.0, 80, 70], [60.0, 90, 150]) + rng.normal(0, 4, (*SIZE, 3))
    return image.clip(0, 255).astype(np.uint8), inside


def chosen(inside: np.ndarray) -> Instances:
    masks = RLE.from_bitmaps(inside[None])
    return Instances(SIZE, torch.from_numpy(masks.boxes()), masks)


def test_words_as_the_detector_has_learnt_them():
    assert as_text(["Bench", " red  cup. "]) == "bench. red cup."
    for words in ([], ["."], ["dog", " "]):
        with pytest.raises(UserError, match="empty word"):
            as_text(words)
    assert spans([101, 7, 8, 1012, 9, 1012, 102]).tolist() == [-1, 0, 0, -1, 1, -1, -1]


def test_a_box_is_of_the_word_that_fits_best_and_duplicates_go():
    detector = WordDetector(None, None)
    logits = torch.full((4, 16), -torch.inf)
    logits[:, :6] = -4.0
    logits[0, 1], logits[1, 3], logits[2, 3] = 2.0, 1.0, 0.5
    logits[3, 0] = 5.0  # the token that begins a text names nothing
    boxes = torch.tensor([[0.5, 0.5, 0.2, 0.4], [0.2, 0.5, 0.6, 0.2], [0.2, 0.5, 0.6, 0.21], [0.5, 0.5, 0.1, 0.1]])
    found = detector.found(logits, boxes, [101, 7, 1012, 9, 1012, 102], (100, 200))
    assert found.labels.tolist() == [0, 1] and found.scores.tolist() == pytest.approx(
        torch.tensor([2.0, 1.0]).sigmoid().tolist()
    )
    assert found.boxes[0].tolist() == pytest.approx([80, 30, 120, 70])
    assert found.boxes[1].tolist() == pytest.approx([0, 40, 100, 60]), "cut at the image's border"
    assert len(detector.found(logits - 9, boxes, [101, 7, 1012, 9, 1012, 102], (100, 200)).boxes) == 0


def test_more_words_than_the_detector_reads():
    tokens = [101, *[7, 8, 1012] * 5, 102]
    logits, boxes = torch.zeros(4, 16), torch.rand(4, 4)
    with pytest.raises(UserError, match="17 tokens, but the detector reads 16: name fewer at a time"):
        WordDetector(None, None).found(logits, boxes, tokens, (100, 200))


class Knows:
    """A detector that has a box for one word."""

    threshold = nms_threshold = 0.5

    def __call__(self, image: np.ndarray, words: Any) -> Found:
        if "disk" not in words:
            return Found(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0))
        number = list(words).index("disk")
        return Found(torch.tensor([[19.0, 14, 51, 46]]), torch.tensor([number]), torch.tensor([0.8]))


def test_words_become_masks():
    image, inside = disk()
    predictor = eachmask.load("grabcut", device="cpu")
    found = segment_words(image, ["cat", "disk"], Knows(), predictor)  # type: ignore[arg-type]
    assert found.label_names == ["disk"] and found.scores.tolist() == pytest.approx([0.8])
    assert float(found.masks.iou(RLE.from_bitmaps(inside[None]))[0, 0]) > 0.9
    assert len(segment_words(image, ["cat"], Knows(), predictor)) == 0  # type: ignore[arg-type]


def test_words_on_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    Image.fromarray(disk()[0]).save(tmp_path / "disk.png")
    words = [
        "segment",
        str(tmp_path / "disk.png"),
        "--model",
        "grabcut",
        "--device",
        "cpu",
        "--out",
        str(tmp_path / "o"),
    ]
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    for more, sentence in (
        (["--text", "disk"], "words need the package transformers: pip install 'eachmask[text]'"),
        (["--text", "disk", "--point", "5,5"], "or with --text"),
        (["--text", " "], "empty word"),
        (["--alternatives", "--text", "disk"], "--alternatives are answers to a --point"),
    ):
        assert main([*words, *more]) == 2
        assert sentence in " ".join(capsys.readouterr().err.split())
    monkeypatch.setattr(WordDetector, "load", staticmethod(lambda name: Knows()))
    assert main([*words, "--text", "cat", "disk"]) == 0
    content = json.loads((tmp_path / "o/predictions.json").read_text())
    (found,) = content["annotations"]
    assert {c["id"]: c["name"] for c in content["categories"]}[found["category_id"]] == "disk"
    assert found["score"] == pytest.approx(0.8) and 500 < found["area"] < 750


class LooksLike:
    """An encoder: what is mostly red is a disk, what is mostly blue is sky."""

    def images(self, crops: Any) -> torch.Tensor:
        return torch.tensor(np.array([crop.reshape(-1, 3).mean(0)[[0, 2]] for crop in crops])).float() - 100

    def texts(self, sentences: Any) -> torch.Tensor:
        return torch.tensor([[1.0, -1.0] if "disk" in sentence else [-1.0, 1.0] for sentence in sentences])


def test_of_everything_what_looks_like_a_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any):
    image, inside = disk()
    Image.fromarray(image).save(tmp_path / "disk.png")
    finder = eachmask.load("clicks", device="cpu")
    everything = Instances(
        SIZE,
        torch.tensor([[0.0, 0, 80, 60], [21, 16, 49, 44]]),
        RLE.from_bitmaps(np.stack([~inside, inside])),
        scores=torch.tensor([0.9, 0.6]),
    )
    monkeypatch.setattr(type(finder), "_found", lambda self, images, options, **_: [everything] * len(images))
    found = LikenessPredictor(finder, ["disk", "sky"], LooksLike()).predict(image)
    assert found.label_names == ["disk", "sky"] and found.scores.tolist() == pytest.approx([0.6, 0.9])
    assert found.masks.area().tolist() == [inside.sum(), (~inside).sum()]
    monkeypatch.setattr(Clip, "load", staticmethod(lambda name: LooksLike()))
    words = ["segment", str(tmp_path / "disk.png"), "--device", "cpu", "--out", str(tmp_path / "o"), "--encoder", "any"]
    assert main([*words, "--text", "disk"]) == 0
    (row,) = json.loads((tmp_path / "o/predictions.json").read_text())["annotations"]
    assert row["area"] == inside.sum() and row["score"] == pytest.approx(0.6)
    for more, sentence in (
        (["--point", "5,5"], "give one of them, and --text"),
        (["--text", "disk", "--detector", "x"], "give one of them, and --text"),
        (["--text", "disk", "--model", "grabcut"], "grabcut finds nothing by itself"),
    ):
        assert main([*words, *more]) == 2
        assert sentence in " ".join(capsys.readouterr().err.split())


def test_images_of_16_bits_are_shown_to_the_detector_as_bytes():
    image = disk()[0]
    deep = as_bytes((image.astype(np.uint16) * 16) + 100)
    assert deep.dtype == np.uint8 and deep.min() == 0 and deep.max() in (254, 255)
    assert as_bytes(image) is image and as_bytes(np.full((4, 4, 3), 7, np.uint16)).max() == 0


def test_captions_become_tags_and_these_masks():
    assert tags("A dog and two dogs on the bench, next to a t-shirt") == ["dog", "dogs", "bench", "t-shirt"]
    image, _ = disk()
    processor = SimpleNamespace(decode=lambda tokens, skip_special_tokens: "a disk on a wall ")
    said: Any = lambda **_: SimpleNamespace(to=lambda device: {})  # noqa: E731
    model = SimpleNamespace(device="cpu", generate=lambda **_: [[1]])

    class Processor:
        decode = staticmethod(processor.decode)

        def __call__(self, **inputs: Any) -> Any:
            return said(**inputs)

    captioner, predictor = Captioner(model, Processor()), eachmask.load("grabcut", device="cpu")
    found, caption = segment_caption(image, captioner, Knows(), predictor)  # type: ignore[arg-type]
    assert caption == "a disk on a wall" and found.label_names == ["disk"]


def test_what_is_chosen_disappears():
    image, inside = disk()
    clean = removed(image, chosen(inside))
    assert np.abs(clean[inside].mean(0) - [60, 90, 150]).max() < 10
    assert np.array_equal(clean[:10], image[:10])
    assert np.array_equal(removed(image, chosen(inside)[:0]), image)
    with pytest.raises(UserError, match="another|of an image"):
        removed(image[:50], chosen(inside))


def test_something_else_is_painted_in_its_place():
    image, inside = disk()

    def pipeline(prompt: str, image: Image.Image, mask_image: Image.Image) -> Any:
        assert prompt == "a green ball" and np.asarray(mask_image)[30, 35] == 255
        return SimpleNamespace(images=[Image.new("RGB", (512, 512), (0, 255, 0))])

    found = repainted(image, chosen(inside), "a green ball", pipeline)
    assert (found[inside] == [0, 255, 0]).all() and np.array_equal(found[:10], image[:10])


def test_tiny_random_clip():
    transformers = pytest.importorskip("transformers", reason="needs transformers, which is not here")
    torch.manual_seed(0)
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = transformers.CLIPConfig(
        text_config=small | {"vocab_size": 100, "max_position_embeddings": 16, "eos_token_id": 98},
        vision_config=small | {"image_size": 32, "patch_size": 16},
        projection_dim=24,
    )

    def processor(images: Any = None, text: Any = None, **_: Any) -> Any:
        if images is not None:
            small_ones = [np.array(Image.fromarray(i).resize((32, 32))) for i in images]
            planes = [torch.from_numpy(i).permute(2, 0, 1) / 255 for i in small_ones]
            return transformers.BatchFeature({"pixel_values": torch.stack(planes)})
        ids = torch.tensor([[1, len(t) % 90 + 2, 98] for t in text])
        return transformers.BatchFeature({"input_ids": ids, "attention_mask": torch.ones_like(ids)})

    clip = Clip(transformers.CLIPModel(config).eval(), processor)
    image, _ = disk()
    images, texts = clip.images([image, image[:20]]), clip.texts(["a", "bench", "cup"])
    assert images.shape == (2, 24) and texts.shape == (3, 24)
    assert images.norm(dim=1).tolist() == pytest.approx([1, 1], abs=1e-5)


def test_without_transformers_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    for kind in (WordDetector, Captioner, Clip):
        with pytest.raises(UserError, match=r"eachmask\[text\]"):
            kind.load("nowhere")
