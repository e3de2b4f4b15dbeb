"""Sessions: one image, many questions, corrections, and what is kept on disk."""

from __future__ import annotations

import copy
import pickle
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from eachmask.inference.embedding_cache import EmbeddingCache
from eachmask.inference.everything import EverythingConfig
from eachmask.inference.prompt_predictor import PromptPredictor
from eachmask.models.promptable.sam import PREPROCESS, sam_vit_b
from eachmask.structures import DecodeOptions, Prompts, UserError
from eachmask.weights.coco_categories import ANYTHING
from eachmask.weights.header import ModelInfo


@pytest.fixture(scope="module")
def small_sam():
    torch.manual_seed(0)
    config = {
        "encoder": {"image_size": 64, "width": 32, "depth": 2, "heads": 2, "window": 3, "everywhere": [1]},
        "prompts": {"width": 32, "mask_width": 8},
        "decoder": {"width": 32, "heads": 2, "mlp": 32, "iou_width": 16},
    }
    preprocess = replace(PREPROCESS, short_side=64, long_side=64, divisor=64)
    info = ModelInfo("sam_vit_b", config, preprocess, ANYTHING)
    return PromptPredictor(sam_vit_b(**config), info, device="cpu", precision="fp32")


def noise(height: int = 48, width: int = 60):
    return np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)


def test_a_session_answers_several_objects_and_alternatives(small_sam):
    session = pickle.loads(pickle.dumps(small_sam.look_at(noise())))
    prompts = Prompts((48, 60), points=[[20, 20], [40, 30]], point_objects=[0, 1])
    best = session.predict(prompts)
    every = session.predict(prompts, alternatives=True)
    assert best.image_size == every.image_size == (48, 60)
    assert set(best.track_ids.tolist()) <= {0, 1} and len(every) >= len(best)
    for number in best.track_ids.unique().tolist():
        scores = every.scores[every.track_ids == number]
        assert torch.equal(scores, scores.sort(descending=True).values)
    assert every.render().shape == (48, 60, 3)


def test_a_correction_starts_from_the_answer_before(small_sam):
    session = small_sam.look_at(noise())
    with pytest.raises(UserError, match="no answer to correct"):
        session.correct(Prompts((48, 60), points=[[20, 20]]))
    first = session.predict(Prompts((48, 60), points=[[20, 20]]))
    if not len(first):
        pytest.skip("untrained weights say there is nothing here")
    more = Prompts((48, 60), points=[[20, 20], [50, 40]], signs=[True, False])
    second = session.correct(more)
    assert not torch.equal(second.masks.logits, session.predict(more).masks.logits)
    with pytest.raises(UserError, match="another size"):
        session.predict(Prompts((40, 60), points=[[1, 1]]), previous=first)


def test_a_second_look_comes_from_the_disk(small_sam, tmp_path):
    predictor = copy.copy(small_sam)
    predictor.cache = EmbeddingCache(tmp_path, max_bytes=1)
    first = predictor.embed(noise())
    (entry,) = tmp_path.iterdir()
    predictor._embed = None  # a second look would fail
    again = predictor.embed(noise())
    assert torch.equal(again.embedding.features, first.embedding.features)
    assert (again.image_size, again.seen_size, again.key) == (first.image_size, first.seen_size, first.key)
    del predictor._embed
    entry.write_bytes(entry.read_bytes()[:100])
    assert torch.equal(predictor.embed(noise()).embedding.features, first.embedding.features)
    predictor.embed(noise(40))
    (left,) = tmp_path.iterdir()
    assert left != entry, "what was not used for longest makes room"


def test_everything_is_looked_for_as_one_wishes(small_sam):
    loose = EverythingConfig(points_per_side=3, iou_threshold=0.0, stability_threshold=0.0, nms_threshold=1.0)
    found = small_sam.everything(noise(), config=loose)
    assert found.image_size == (48, 60) and 0 < len(found) <= 27
    assert len(small_sam.everything(noise(), config=loose, options=DecodeOptions(max_detections=2))) == 2
    assert small_sam.looking(loose).fingerprint != small_sam.fingerprint


def test_the_command_clicks_and_looks_for_everything(small_sam, tmp_path, monkeypatch):
    from eachmask.cli import main
    from eachmask.weights.file import save_model

    monkeypatch.setenv("EACHMASK_CACHE", str(tmp_path / "cache"))
    file, image = tmp_path / "sam.safetensors", tmp_path / "image.png"
    model = sam_vit_b(**small_sam.info.config)
    save_model(file, model, small_sam.info)
    cv2.imwrite(str(image), noise())
    usual = ["segment", str(image), "--model", str(file), "--precision", "fp32"]
    assert main([*usual, "--point", "20,20", "--out", str(tmp_path / "click")]) == 0
    assert len(list((tmp_path / "cache" / "embeddings").iterdir())) == 1
    everything = [*usual, "--everything", "--points-per-side", "2", "--out", str(tmp_path / "all")]
    assert main(everything) == 0
    assert (tmp_path / "all" / "predictions.json").is_file()
    assert main([*usual, "--point", "20,20", "--crop-layers", "1", "--out", str(tmp_path / "no")]) == 2
    assert main([*usual, "--point", "99,20", "--out", str(tmp_path / "no")]) == 2
