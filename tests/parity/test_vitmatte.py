"""ViTMatte through transformers, with recorded weights, against recorded outputs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from parity.dense import dense, open_dense
from parity.recorded import check_raw, deterministic, recorded, weights

import eachmask
from eachmask.structures import ImageBatch, Trimap

SIZE = r"make_input\((\d+), (\d+), (\d+)\) and make_trimap\(make_alpha\(\d+, \d+, (\d+)\)\)"


def saved(folder: Path, fixture: Any) -> Path:
    """As transformers' ``save_pretrained`` writes a model, with the recorded weights under their recorded names."""
    transformers = pytest.importorskip("transformers", reason="needs the package transformers, which is not here")
    from safetensors.torch import save_file

    said = fixture.manifest["config"]
    own = {name: value for name, value in said.items() if name != "backbone"}
    backbone = transformers.VitDetConfig(**said["backbone"])
    config = transformers.VitMatteConfig(backbone_config=backbone, hidden_size=backbone.hidden_size, **own)
    config.architectures = ["VitMatteForImageMatting"]
    config.save_pretrained(folder)
    transformers.VitMatteImageProcessor().save_pretrained(folder)
    tensors = {name: value.contiguous() for name, value in weights(fixture).items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize("stem", recorded("transformers_vitmatte"))
def test_opacities(stem: str, tmp_path: Path) -> None:
    fixture: Any = open_dense(stem)
    model = eachmask.load(f"hf:{saved(tmp_path, fixture)}", device="cpu", precision="fp32").model
    match = re.search(SIZE, fixture.manifest["made"]["pixel_values"]["how"])
    assert match is not None
    height, width, seed, own_seed = (int(number) for number in match.groups())
    image = torch.from_numpy(np.asarray(deterministic().make_input(height, width, seed), np.float32))
    trimap = dense().make_trimap(dense().make_alpha(height, width, own_seed))
    batch = ImageBatch(image.reshape(1, 3, height, width), ((height, width),))
    given = Trimap.from_gray(np.round(trimap * 255).astype(np.uint8))
    known = torch.from_numpy(trimap)[None, None]
    with torch.inference_mode():
        planes = torch.cat([known == 1, known == 0.5, known == 0], 1).float()
        opacities = model.opacities(batch, planes)
        raw = model(batch, [given])
    check_raw(fixture, "alphas", opacities)
    assert np.abs(np.round(opacities[0, 0].numpy() * 255) - fixture.full("alpha8")).max() <= 1
    assert torch.equal(raw.alpha, torch.where(known == 0.5, opacities, known.float()))
