"""Recorded label maps that were made window by window (MMSegmentation's ``slide`` mode)."""

from __future__ import annotations

import re
from typing import Any

import torch
from parity.recorded import check_raw
from torch import nn

from eachmask.inference.engine import Engine
from eachmask.ops.tile_seams import mean_scores
from eachmask.ops.tiles import sliding_boxes
from eachmask.structures import DecodeOptions, ImageBatch, Preprocess


def check_sliding(fixture: Any, model: nn.Module) -> None:
    """Mean scores of all windows, and the labels that the engine gives for these windows."""
    note = fixture.manifest["raw"]["slide.logits"]["note"]
    crop, stride = (
        tuple(int(n) for n in re.search(rf"{word} \((\d+), (\d+)\)", note).groups()) for word in ("crop", "stride")
    )
    image = torch.from_numpy(fixture.input())
    size = tuple(image.shape[-2:])
    boxes, scores = sliding_boxes(size, crop, stride), []
    for x1, y1, x2, y2 in boxes:
        window = image[..., y1:y2, x1:x2]
        with torch.inference_mode():
            (found,) = model.decode(model(ImageBatch(window, (tuple(window.shape[-2:]),))), DecodeOptions())
        scores.append(found.scores)
    check_raw(fixture, "slide.logits", torch.cat(list(mean_scores(scores, boxes, size, even=True)), dim=1)[None])

    plain = Preprocess(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), short_side=None, long_side=None, divisor=1)
    engine = Engine(model, plain, model.task, device="cpu", precision="fp32")
    (seen,) = engine.predict([image[0].permute(1, 2, 0).numpy()], DecodeOptions(), tile=crop, stride=stride)
    pixels, same = fixture.compare_full("slide.sem_labels", seen.labels.numpy())
    assert same and pixels / seen.labels.numel() <= max(1e-3, 5 * fixture.manifest["stability"]["label_change"])
