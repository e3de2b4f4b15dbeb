"""CLIP and BLIP through our adapters against what transformers recorded of tiny random configurations."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from parity.clicked import open_extra
from parity.recorded import deterministic, recorded, weights

from eachmask.inference.words import Captioner, Clip
from eachmask.weights.renaming import fill


def fixture_of(request: pytest.FixtureRequest) -> Any:
    pytest.importorskip("transformers", reason="needs transformers, which is not here")
    return open_extra(request.param)


@pytest.fixture(scope="module", params=recorded("clip"))
def clip(request: pytest.FixtureRequest) -> Any:
    return fixture_of(request)


@pytest.fixture(scope="module", params=recorded("blip"))
def blip(request: pytest.FixtureRequest) -> Any:
    return fixture_of(request)


def test_embeddings(clip):
    import transformers

    said = clip.manifest["config"]
    act = {"hidden_act": said["hidden_act"]}
    config = transformers.CLIPConfig(
        text_config=said["text"] | act, vision_config=said["vision"] | act, projection_dim=said["projection_dim"]
    )
    model = transformers.CLIPModel(config).eval()
    fill(model, {name: value for name, value in weights(clip).items() if name in model.state_dict()} | ids(model))
    spec = clip.manifest["input"]
    images = [deterministic().make_input(spec["height"], spec["width"], spec["seed"] + k) for k in range(2)]

    def processor(images: Any = None, **_: Any) -> Any:
        if images is not None:
            return transformers.BatchFeature({"pixel_values": torch.from_numpy(np.concatenate(images))})
        tokens, mask = (torch.from_numpy(clip.arr(name)).long() for name in ("input_ids", "attention_mask"))
        return transformers.BatchFeature({"input_ids": tokens, "attention_mask": mask})

    adapter = Clip(model, processor)
    assert clip.compare_arr("image_embeds", adapter.images(images).numpy()) < 1e-3
    assert clip.compare_arr("text_embeds", adapter.texts(["", "", "", ""]).numpy()) < 1e-3


def ids(model: Any) -> dict[str, torch.Tensor]:
    """Whole numbers of the state dict, which are no weights."""
    return {name: value for name, value in model.state_dict().items() if not value.is_floating_point()}


def test_captions(blip):
    import transformers

    said = blip.manifest["config"]
    config = transformers.BlipConfig(text_config=said["text"], vision_config=said["vision"])
    model = transformers.BlipForConditionalGeneration(config).eval()
    fill(model, {name: value for name, value in weights(blip).items() if name in model.state_dict()} | ids(model))
    seen: list[list[int]] = []

    class Processor:
        def __call__(self, **_: Any) -> Any:
            return transformers.BatchFeature({"pixel_values": torch.from_numpy(blip.input())})

        def decode(self, tokens: torch.Tensor, skip_special_tokens: bool) -> str:
            seen.append(tokens.tolist())
            return "a cup "

    expected = blip.arr("greedy.tokens").tolist()
    assert Captioner(model, Processor())(np.zeros((4, 4, 3), np.uint8)) == "a cup"
    assert [tokens[: len(expected)] for tokens in seen] == [expected]
