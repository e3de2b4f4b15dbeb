"""A network without weights to speak of: bright spots are objects. For tests of everything around a model."""

from __future__ import annotations

import io
import os
import tarfile
import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from skimage.measure import label
from torch import Tensor, nn

from eachmask.structures import RLE, Category, DecodeOptions, ImageBatch, Instances, Preprocess, Prompts
from eachmask.tasks.instances import INSTANCES
from eachmask.weights.file import ModelInfo


class Raw(NamedTuple):
    brightness: Tensor  # (B, H, W)
    sizes: tuple[tuple[int, int], ...]


class Spots(nn.Module):
    """Connected bright regions; large ones are of class 1. Slow on wish, so that a run can be interrupted."""

    task = INSTANCES

    def __init__(self, num_classes: int = 2) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.mix = nn.Conv2d(3, 1, 1, bias=False)
        nn.init.constant_(self.mix.weight, 1 / 3)

    def forward(self, images: ImageBatch) -> Raw:
        time.sleep(float(os.environ.get("SPOTS_SECONDS", "0")))
        return Raw(self.mix(images.tensor)[:, 0], images.sizes)

    def decode(self, raw: Raw, options: DecodeOptions) -> list[Instances]:
        return [self._spots(v[:h, :w].float().cpu().numpy(), options) for v, (h, w) in zip(*raw, strict=True)]

    def _spots(self, values: np.ndarray, options: DecodeOptions) -> Instances:
        regions = label(values > 0.5, connectivity=1)
        masks = RLE.from_label_map(regions)
        total = np.bincount(regions.ravel(), values.ravel(), minlength=len(masks) + 1)[1:]
        found = Instances(
            image_size=(values.shape[0], values.shape[1]),
            boxes=torch.from_numpy(masks.boxes()),
            masks=masks,
            labels=torch.from_numpy((masks.area() > 150).astype(np.int64)),
            scores=torch.from_numpy((total / np.maximum(masks.area(), 1)).clip(0, 1).astype(np.float32)),
        )
        order = torch.argsort(found.scores, descending=True, stable=True)
        return found[order].filter(score=options.score_threshold)[: options.max_detections]


class Asked(NamedTuple):
    raw: Raw
    prompts: Sequence[Prompts]


class ClickedSpots(Spots):
    """Bright spots, of which prompts choose those that contain one of their points."""

    encoded = 0

    def encode(self, images: ImageBatch) -> Raw:
        self.encoded += 1
        return self.forward(images)

    def prompted(self, embedding: Raw, prompts: Sequence[Prompts]) -> Asked:
        return Asked(embedding, prompts)

    def decode(self, raw: Raw | Asked, options: DecodeOptions) -> list[Instances]:
        if isinstance(raw, Raw):
            return super().decode(raw, options)
        found = super().decode(raw.raw, options)
        return [self._meant(some, prompts) for some, prompts in zip(found, raw.prompts, strict=True)]

    def _meant(self, found: Instances, prompts: Prompts) -> Instances:
        assert found.masks is not None
        label = torch.from_numpy(found.masks.to_label_map().astype(np.int64))
        hit = {int(label[int(y), int(x)]) for x, y in prompts.points[prompts.signs].tolist()}
        return found[[i for i in range(len(found)) if i + 1 in hit]]


def spots_info(**changes: object) -> ModelInfo:
    """Its header: pixels as they are, two classes whose ids have a gap."""
    settings: dict[str, object] = {
        "variant": "spots",
        "preprocess": Preprocess(mean=(0, 0, 0), std=(1, 1, 1), short_side=None, long_side=None, divisor=8),
        "categories": (Category(3, "small spot"), Category(7, "<large> & spot")),
        "license": "CC0-1.0",
        "name": "spots",
    }
    return ModelInfo(**(settings | changes))  # type: ignore[arg-type]


def spots_image(seed: int, height: int = 96, width: int = 128, num: int = 6) -> np.ndarray:
    """(H, W, 3) uint8: dark noise with bright discs."""
    import cv2

    rng = np.random.default_rng(seed)
    image = rng.integers(0, 40, (height, width, 3)).astype(np.uint8)
    for _ in range(num):
        x, y = int(rng.integers(8, width - 8)), int(rng.integers(8, height - 8))
        tint = tuple(int(v) for v in rng.integers(180, 256, 3))
        cv2.circle(image, (x, y), int(rng.integers(3, 11)), tint, -1)
    return image


def main_with_spots(words: list[str]) -> int:
    """The command line where model files of ``Spots`` can be read, in a process of its own."""
    from eachmask import models
    from eachmask.cli import main

    models.variant = lambda name: Spots  # type: ignore[assignment]
    return main(words)


def png(number: int) -> bytes:
    """The image as a file."""
    buffer = io.BytesIO()
    Image.fromarray(spots_image(number)).save(buffer, "PNG")
    return buffer.getvalue()


def tar_of(contents: dict[str, bytes]) -> bytes:
    """Name -> content as an archive."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in contents.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()
