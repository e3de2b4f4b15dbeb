"""OneFormer through transformers, with recorded weights and task tokens, against recorded outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from parity.dense import open_dense
from parity.recorded import batch, check_raw, recorded, weights

from eachmask.inference.hf_models import wrapped
from eachmask.structures import DecodeOptions


def network(folder: Path, fixture: Any) -> Any:
    """transformers' network, from a folder as ``save_pretrained`` writes it, with the recorded weights."""
    transformers = pytest.importorskip("transformers", reason="needs the package transformers, which is not here")
    from safetensors.torch import save_file

    said = dict(fixture.manifest["config"])
    config = transformers.OneFormerConfig(backbone_config=transformers.SwinConfig(**said.pop("backbone")), **said)
    config.save_pretrained(folder)
    tensors = {name: value.contiguous() for name, value in weights(fixture).items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return transformers.OneFormerForUniversalSegmentation.from_pretrained(folder).eval()


@pytest.mark.parametrize("stem", recorded("transformers_oneformer"))
def test_answers_of_both_tasks(stem: str, tmp_path: Path) -> None:
    fixture: Any = open_dense(stem)
    net, said = network(tmp_path, fixture), fixture.manifest["config"]
    names = {i: str(i) for i in range(said["num_labels"])}
    for kind, known in fixture.manifest["task_tokens"].items():
        tokens = torch.zeros(1, said["task_seq_len"], dtype=torch.int64)
        tokens[0, : len(known)] = torch.tensor(known)
        model: Any = wrapped(net, names, kind, tokens)[0]
        raw = model(batch(fixture))
        check_raw(fixture, f"{kind}.class_queries_logits", raw.classes)
        check_raw(fixture, f"{kind}.masks_queries_logits", raw.masks)
        (found,) = model.decode(raw, DecodeOptions(score_threshold=0.0))
        assert found.image_size == batch(fixture).sizes[0]
