"""How many images per second does training see: our Mask R-CNN step against torchvision's, same model and batch?

Both train Mask R-CNN R50-FPN from random weights on the same made scenes, as many threads, AdamW. torchvision's side
is its reference step: model.train(), losses summed, backward, step. Our side is ``train.loop.train_step`` as a user
gets it (channels-last, averaged weights and gradient clipping included).

Each side lives in a process of its own; the steps alternate, so that a busy machine slows both alike.

    python benchmarks/train_step.py [--size 512] [--batch 2] [--steps 6] [--device cpu] [--precision fp32]
                                    [--without NAME,NAME [--variant NAME]]

``--without`` compares with our own step, these parts of ``eachmask.accel`` turned off, in place of torchvision's; then
any ``--variant`` that predicts instances can be measured.

The last line is JSON: ``speedup`` (images per second, ours over the other side's), both rates, device and precision.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

NUM_CLASSES = 3
NUM_OBJECTS = 8


def scenes(batch: int, size: int) -> tuple[Any, list[Any]]:
    """Images (B, 3, S, S) and per image (boxes, labels, bitmaps) of filled ellipses."""
    import numpy as np
    import torch

    rng = np.random.default_rng(0)
    ys, xs = np.mgrid[:size, :size]
    images, targets = rng.normal(0, 0.3, (batch, 3, size, size)).astype(np.float32), []
    for image in images:
        bitmaps, labels = [], []
        for _ in range(NUM_OBJECTS):
            cy, cx = rng.uniform(0.2, 0.8, 2) * size
            ry, rx = rng.uniform(0.05, 0.2, 2) * size
            bitmaps.append(((ys - cy) / ry) ** 2 + ((xs - cx) / rx) ** 2 <= 1)
            labels.append(int(rng.integers(NUM_CLASSES)))
            image[labels[-1]] += bitmaps[-1]
        boxes = [[b.any(0).argmax(), b.any(1).argmax(), size - b.any(0)[::-1].argmax(), size - b.any(1)[::-1].argmax()]
                 for b in bitmaps]  # fmt: skip
        targets.append((torch.tensor(boxes, dtype=torch.float32), torch.tensor(labels), np.stack(bitmaps)))
    return torch.from_numpy(images), targets


def live(side: str, options: argparse.Namespace, line: Connection) -> None:
    """Do one step for every True that comes and answer with its seconds."""
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    if side == "without":
        os.environ["EACHMASK_ACCEL_OFF"] = options.without
    import torch

    torch.set_num_threads(options.threads)
    step = (torchvision_step if side == "torchvision" else eachmask_step)(options)
    while line.recv():
        begin = time.perf_counter()
        step()
        if options.device.startswith("cuda"):
            torch.cuda.synchronize()
        line.send(time.perf_counter() - begin)


def torchvision_step(options: argparse.Namespace) -> Any:
    import torch
    from torchvision.models.detection import maskrcnn_resnet50_fpn

    torch.manual_seed(0)
    model = maskrcnn_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=NUM_CLASSES + 1, min_size=options.size, max_size=options.size,
        trainable_backbone_layers=5,
    ).to(options.device)  # fmt: skip
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    images, targets = scenes(options.batch, options.size)
    images = [image.to(options.device) for image in images]
    expected = [{"boxes": boxes.to(options.device), "labels": labels.to(options.device) + 1,
               "masks": torch.from_numpy(bitmaps).to(options.device, torch.uint8)}
              for boxes, labels, bitmaps in targets]  # fmt: skip
    kind = "cuda" if options.device.startswith("cuda") else "cpu"
    bf16 = options.precision == "bf16"
    model.train()

    def step() -> None:
        with torch.autocast(kind, torch.bfloat16, enabled=bf16):
            losses = model(images, expected)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()

    return step


def eachmask_step(options: argparse.Namespace) -> Any:
    import tempfile

    from eachmask.structures import RLE, Category, ImageBatch, Instances, Preprocess
    from eachmask.tasks.boxes import box_scores
    from eachmask.training.devices import make_accelerator
    from eachmask.training.loop import new_state, train_step
    from eachmask.training.recipe import Recipe, Run
    from eachmask.training.sampling import Batch

    categories = tuple(Category(i + 1, f"class {i}") for i in range(NUM_CLASSES))
    recipe = Recipe(
        options.variant,
        Preprocess(),
        augment=lambda sample, rng: sample,
        score=box_scores,
        best="ap",
        steps=10_000,
        learning_rate=1e-4,
        backbone_rate=1.0,
    )
    run = Run(Path(tempfile.mkdtemp()), device=options.device, precision=options.precision)
    state, _ = new_state(recipe, categories, make_accelerator(run))
    images, targets = scenes(options.batch, options.size)
    size = (options.size, options.size)
    instances = [Instances(image_size=size, boxes=boxes, labels=labels, masks=RLE.from_bitmaps(bitmaps))
                 for boxes, labels, bitmaps in targets]  # fmt: skip
    batch = Batch(ImageBatch(images, (size,) * options.batch), instances, None, [""] * options.batch, [])
    return lambda: train_step(state, recipe, [batch])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=512, help="side of the square images, px")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--steps", type=int, default=6, help="measured steps; one more warms up")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"])
    parser.add_argument("--variant", default="mask_rcnn_r50_fpn", help="ours; another one only --without")
    parser.add_argument("--without", help="names of files of eachmask.accel, separated by commas")
    options = parser.parse_args()
    other = "without" if options.without else "torchvision"
    if other == "torchvision" and options.variant != parser.get_default("variant"):
        parser.error("torchvision's side is Mask R-CNN R50-FPN: say --without to compare another variant with itself")
    context = multiprocessing.get_context("spawn")
    lines, times = {}, {other: [], "eachmask": []}
    for side in times:
        ours, theirs = context.Pipe()
        context.Process(target=live, args=(side, options, theirs), daemon=True).start()
        lines[side] = ours
    for step in range(options.steps + 1):
        for side, line in lines.items():
            line.send(True)
            seconds = line.recv()
            if step:
                times[side].append(seconds)
            print(f"{'warm-up' if not step else f'step {step}'}: {side} {seconds:.2f} s", file=sys.stderr, flush=True)
    rates = {side: options.batch / statistics.median(seconds) for side, seconds in times.items()}
    for line in lines.values():
        line.send(False)
    print(json.dumps({
        "speedup": round(rates["eachmask"] / rates[other], 2),
        "images_per_second": {side: round(rate, 3) for side, rate in rates.items()},
        "variant": options.variant,
        "device": options.device, "precision": options.precision, "size": options.size, "batch": options.batch,
        "threads": options.threads,
    }))  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
