"""Damaged images and model files: one sentence, or a result; never a traceback, a hang or endless memory."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from chaos.forked import COUNTS, forked, seeds
from chaos.test_annotations import damaged_bytes
from PIL import Image
from tiny_model import spots_image

from eachmask.data.images.read import num_pages, read_image
from eachmask.structures import UserError
from eachmask.weights.file import load_model

KINDS = (
    "a.png", "a.jpg", "a.webp", "a.bmp", "a.gif", "a.tif", "a.jp2", "16.png", "16.tif", "stack.tif", "palette.png",
)  # fmt: skip


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    image = spots_image(1, 40, 50)
    deep = image.astype(np.uint16) * 257
    for kind in KINDS:
        if kind == "stack.tif":
            tifffile.imwrite(folder / kind, np.stack([deep[..., 0]] * 3), imagej=True)
        elif kind == "16.tif":
            tifffile.imwrite(folder / kind, deep, compression="zlib")
        elif kind == "16.png":
            Image.fromarray(deep[..., 0]).save(folder / kind)
        else:
            shown = Image.fromarray(image)
            (shown.quantize() if kind == "palette.png" else shown).save(folder / kind)
    return folder


def read_all(path: Path) -> int:
    try:
        for page in range(1, min(num_pages(path), 5) + 1):
            read_image(path, page=page, max_pixels=10_000_000)
    except UserError as error:
        assert str(path) in str(error)
        return 2
    return 0


@seeds(22, 2000)
def test_images(images: Path, tmp_path: Path, seeds: range) -> None:
    for seed in seeds:
        numbers, kind = random.Random(seed), KINDS[seed % len(KINDS)]
        path = tmp_path / f"x{kind}"
        path.write_bytes(damaged_bytes((images / kind).read_bytes(), numbers))
        outcome = forked(lambda path=path: read_all(path), megabytes=1500)
        COUNTS[f"image {'refused' if outcome.status else 'read'}"] += 1
        assert outcome.is_sound, f"{seed} {kind}\n{outcome.output}"


@seeds(8, 300)
def test_model_files(tmp_path: Path, seeds: range, monkeypatch: pytest.MonkeyPatch) -> None:
    from tiny_model import Spots, spots_info

    from eachmask import models
    from eachmask.weights.file import save_model

    monkeypatch.setattr(models, "variant", lambda name: Spots)
    save_model(tmp_path / "whole.safetensors", Spots(), spots_info())
    whole = (tmp_path / "whole.safetensors").read_bytes()

    def load(path: Path) -> int:
        torch.set_num_threads(1)
        try:
            load_model(path)
        except UserError as error:
            assert str(path) in str(error)
            return 2
        return 0

    for seed in seeds:
        path = tmp_path / f"{seed}.safetensors"
        path.write_bytes(damaged_bytes(whole, random.Random(seed)))
        outcome = forked(lambda path=path: load(path), megabytes=1500)
        COUNTS[f"model {'refused' if outcome.status else 'read'}"] += 1
        assert outcome.is_sound, f"{seed}\n{outcome.output}"
