"""Every system under one equal, small budget: the same light backbone, images, steps, batch and seed.

The backbone starts from ImageNet on ``dsb2018``. Photographs need more than so small a budget: on ``coco-mini`` it
starts from the one of the bundled ``clicks`` (or of another file: ``--start``), which has seen these training
photographs (not the ones that are scored), and objects smaller than an eighth of the image's longer side are ignored,
when learning and when scoring.

Not a league table of the papers (their budgets are a thousand times larger), but what a student sees who trains each
of them for a few minutes on a CPU: which learn fast, which are fast, what the masks look like.

    python benchmarks/methods.py --packs FOLDER [--steps 120] [--size 256] [--jobs 2] [--only NAME ...] [--write]

FOLDER holds the packs ``dsb2018`` and ``coco-mini`` in COCO's layout. Each system is trained in a process of its own
with one thread; a system that is done is not trained again (``results/methods/*.json``), and one that was stopped
resumes at its last checkpoint, so the benchmark can be stopped and continued. ``--write`` makes docs/methods.md and its
images of what is done so far, and puts the rows into the methods' own pages. The last line is JSON: rows by pack, and
which of the relations that the papers lead one to expect held.

    python benchmarks/methods.py --packs FOLDER --on dsb2018 --steps 1200 [--write]

Any other number of steps is a table of its own (``results/methods-1200``), with all learning curves as one image and
without speeds. ``--write`` also keeps its rows in ``benchmarks/methods-1200.json``, so another machine can go on.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from methods_page import CURVE_IMAGES, PACKS, STEPS, relations, results, rows, write
from peak_memory import peak_mb

BATCH = 4
SEED = 0
VAL_IMAGES = 60
CURVE_POINTS = 8
"""So often a system is scored while it learns, for its curve; the last weights count, not the best."""
TIMED = 5
"""Training steps that are timed, and half as many as images."""
LARGEST = 400
"""Images of the packs with a longer side, px, are left out of ``dsb2018``: at 256 px their nuclei are dots."""
SMALL = 1 / 8
"""Objects of ``coco-mini`` whose area is that of a smaller square, as a share of the longer side, are ignored."""
FEW: dict[str, Any] = {
    "roi": {"batch_size": 32},
    "rpn": {"pre_nms_top_n_training": 300, "post_nms_top_n_training": 100},
}
"""For all systems with a proposal network: fewer than the papers' 512 and 2000, as for a small window."""
PROPOSED: dict[str, Any] = {"sampling": {"batch_size": 32}}
"""For those on selective search."""
SHOWN = {"dsb2018": "coins.png", "coco-mini": "astronaut.png"}
"""scikit-image's images that the trained systems are shown."""
EXTRA: dict[str, tuple[str, dict[str, Any]]] = {
    "mask_rcnn_lite0_fpn-roipool": ("mask_rcnn_lite0_fpn", {"roi": {"pooling": "pool"}}),
}
"""Rows of a variant with a switch of its own: name -> (variant, config)."""
OTHER_BODY = ("rtmdet_ins_nano", "yolact_plus_r18")
"""Systems that are not made for the light backbone: theirs starts from random numbers."""


def systems() -> list[str]:
    """The small variant of every system, in the order of the catalogue of models, and the extra rows."""
    from eachmask.models import VARIANTS

    light = [name for name in VARIANTS if name.endswith(("_lite0", "_lite0_fpn")) and "keypoint" not in name]
    return light + list(EXTRA) + list(OTHER_BODY)


# One system on one pack, in its own process ---------------------------------------------------------------------------


def measure(name: str, pack: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Train and score; returns the row."""
    from PIL import Image

    from eachmask.inference.load import load
    from eachmask.metrics.boundary_ap import boundary_ap
    from eachmask.metrics.calibration import calibration
    from eachmask.metrics.coco_ap import coco_ap
    from eachmask.metrics.coco_matches import match
    from eachmask.metrics.sweep import sweep
    from eachmask.training.loop import train
    from eachmask.training.recipe import Run

    train_data, val_data = split_samples(pack)
    out = results(options.steps) / pack.name / name
    chosen, run = recipe(name, pack.name, options), Run(out, seed=SEED, device=options.device)
    train(chosen, train_data, _First(val_data, CURVE_IMAGES), run)
    predictor = load(out / "last.safetensors", device=options.device, precision="fp32")
    samples = [val_data[i] for i in range(min(VAL_IMAGES, len(val_data)))]
    found = [predictor.predict(sample.image, options=predictor.ranked_options()) for sample in samples]
    with_masks = found[0].masks is not None
    for instances in found:
        if instances.masks is not None:
            instances.masks = instances.masks.to_rle()
    targets = [sample.targets for sample in samples]
    row: dict[str, Any] = {"box AP": coco_ap(found, targets, kind="bbox")["ap"]}
    row["threshold"] = 0.3
    if with_masks:
        matches = match(found, targets, num_classes=1)
        error, best = calibration(matches).ece, sweep(matches)
        row["calibration error"] = error if np.isfinite(error) else None  # nothing was found
        row["threshold"] = best.best_threshold if best else 1.0
        masks = coco_ap(found, targets)
        row |= {"mask AP": masks["ap"], "AP50": masks["ap50"], "AP75": masks["ap75"]}
        row["boundary AP"] = boundary_ap(found, targets, 1)["ap"]
    row |= {
        "parameters (M)": sum(p.numel() for p in predictor.model.parameters()) / 1e6,
        "memory (MB)": peak_mb(),
        "steps": options.steps, "size": options.size, "batch": BATCH, "images": len(samples), "curve": curve(out),
    }  # fmt: skip
    Image.fromarray(_drawn(predictor, SHOWN[pack.name], row["threshold"])).save(
        results(options.steps) / f"{name}-{pack.name}.jpg", quality=80
    )
    return row


def curve(run: Path) -> list[tuple[float, float]]:
    """(step, AP on a few val images) of a run, from (0, 0) on."""
    with (run / "log.csv").open(encoding="utf-8") as log:
        return [(0.0, 0.0)] + [(float(row["step"]), float(row["ap"])) for row in csv.DictReader(log)]


def speeds(name: str, pack: Path, options: argparse.Namespace) -> dict[str, float]:
    """Of a trained system: images per second of a training step, milliseconds from image to RLE (medians)."""
    from eachmask.inference.load import load
    from eachmask.training.devices import make_accelerator
    from eachmask.training.loop import new_state, train_step
    from eachmask.training.recipe import Run
    from eachmask.training.sampling import Share, TrainingSequence, batches

    train_data, val_data = split_samples(pack)
    out = results(options.steps) / pack.name / name
    chosen = recipe(name, pack.name, options)
    state, _ = new_state(chosen, train_data.categories, make_accelerator(Run(out, device=options.device)), load=False)
    steps, images = [], []
    begin = time.perf_counter()
    for pieces in batches(TrainingSequence(train_data, chosen, SEED), range(TIMED + 1), Share(), workers=0):
        train_step(state, chosen, pieces)
        steps.append(time.perf_counter() - begin)
        begin = time.perf_counter()
    predictor = load(out / "last.safetensors", device=options.device, precision="fp32")
    for i in range(2 * TIMED + 1):
        pixels = val_data[i].image
        begin = time.perf_counter()
        found = predictor.predict(pixels)
        if found.masks is not None:
            found.masks.to_rle()
        images.append(time.perf_counter() - begin)
    # The first of each warms up.
    return {"train images/s": BATCH / median(steps[1:]), "predict ms/image": 1000 * median(images[1:])}


def split_samples(pack: Path) -> tuple[Any, Any]:
    """The pack's training and val images, all objects of one class: localization is what is compared."""
    from eachmask.data.builder import map_targets
    from eachmask.data.classes import one_class
    from eachmask.data.reading import read_any

    data, _ = read_any(pack)
    if pack.name == "dsb2018":
        data = data.with_splits({name: split.take(_small(split)) for name, split in data.splits.items()})
    if len(data.categories) > 1:
        data = one_class(data)
    if pack.name == "coco-mini":
        data = map_targets(data, _small_ignored)
    return data.splits["train"], data.splits["val"]


def _small(split: Any) -> list[int]:
    """Images of a split that are not too large."""
    return [i for i in range(len(split)) if max(split.targets(i).image_size) <= LARGEST]


def _small_ignored(targets: Any) -> Any:
    """Targets whose small objects are regions to be ignored, as COCO's crowds are."""
    small = torch.from_numpy(np.asarray(targets.masks.area())) < (SMALL * max(targets.image_size)) ** 2
    return replace(targets, crowd=targets.crowd | small)


def _drawn(predictor: Any, name: str, threshold: float) -> Any:
    """(H, W, 3) uint8 of at most 256 px: one of scikit-image's images with what is found in it."""
    import skimage
    from PIL import Image

    from eachmask.draw import overlay, shrink
    from eachmask.structures import DecodeOptions

    with Image.open(Path(skimage.__file__).parent / "data" / name) as image:
        pixels = np.asarray(image.convert("RGB"))
    found = predictor.predict(pixels, options=DecodeOptions(score_threshold=max(threshold, 0.01)))
    return overlay(*shrink(pixels, found, 256))


class _First:
    """The first so many samples, for the learning curve; the real scores come afterwards."""

    def __init__(self, samples: Any, count: int) -> None:
        self.samples, self.categories, self.count = samples, samples.categories, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Any:
        return self.samples[index]


def recipe(name: str, pack: str, options: argparse.Namespace) -> Any:
    """The same for every system; only the variant and its number of proposals differ."""
    from eachmask import models
    from eachmask.data.transforms.crop import LargeScaleJitter
    from eachmask.models import model_class
    from eachmask.models.config import merged
    from eachmask.models.detection import faster_rcnn
    from eachmask.recipes.auto_recipe import PhotoAugment
    from eachmask.structures import Preprocess
    from eachmask.training.pretrained import FromBackbone
    from eachmask.training.recipe import Recipe
    from eachmask.weights.from_efficientnet_lite import MEAN, STD

    variant, config = EXTRA.get(name, (name, {}))
    with torch.device("meta"):
        settings = getattr(models.variant(variant)(num_classes=1), "config", None)
    few = FEW if isinstance(settings, faster_rcnn.Config) else PROPOSED if hasattr(settings, "sampling") else {}
    side, window = options.size, options.size * 3 // 4
    return Recipe(
        variant=variant,
        config=merged(few, config),
        preprocess=Preprocess(mean=MEAN, std=STD, short_side=side, long_side=side),
        augment=PhotoAugment(LargeScaleJitter(size=(window, window), scale=(1.0, 1.8))),
        score=model_class(variant).task.scoring.scores,
        best="ap",
        start=None if variant in OTHER_BODY else FromBackbone(options.start if pack == "coco-mini" else None),
        steps=options.steps,
        batch_size=BATCH,
        learning_rate=5e-4,
        weight_decay=0.05,
        warmup_steps=20,
        frozen_stages=0 if variant in OTHER_BODY else 3,
        ema_decay=0.97,
        evaluate_every=max(1, options.steps // CURVE_POINTS),
    )


# All systems ----------------------------------------------------------------------------------------------------------


def run_all(options: argparse.Namespace) -> None:
    """Train what is not done yet, a process for each, then time alone what is not timed yet.

    A failure is noted and does not stop the rest.
    """
    results(options.steps).mkdir(parents=True, exist_ok=True)
    for task, jobs in (("train", options.jobs), ("time", 1)):
        if task == "time" and options.steps != STEPS:
            continue  # speed does not depend on the budget
        with ThreadPoolExecutor(jobs) as pool:
            for pack in options.on:
                for name in options.only or systems():
                    row = _row(name, pack, options.steps)
                    if not row if task == "train" else row and "predict ms/image" not in row:
                        pool.submit(_run_one, task, name, pack, options)


def _row(name: str, pack: str, steps: int) -> dict[str, Any]:
    """What is known of a system; nothing if it is not trained."""
    row: dict[str, Any] = rows(steps)[pack].get(name, {})
    return row


def _run_one(task: str, name: str, pack: str, options: argparse.Namespace) -> None:
    command = [sys.executable, __file__, "--packs", str(options.packs), "--one", task, name, pack]
    for option in ("steps", "size", "device", "start"):
        command += [f"--{option}", str(getattr(options, option))]
    begin = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    how = f"failed: {done.stderr[-2000:]}" if done.returncode else f"done in {time.perf_counter() - begin:.0f} s"
    print(f"{task} {name} on {pack} {how}", file=sys.stderr, flush=True)


def one(task: str, name: str, pack: str, options: argparse.Namespace) -> None:
    """Do a task in this process and write the row."""
    work = measure if task == "train" else speeds
    row = _row(name, pack, options.steps) | work(name, options.packs / pack, options)
    part = results(options.steps) / f"{name}-{pack}.part"
    part.write_text(json.dumps(row, indent=1))
    os.replace(part, part.with_suffix(".json"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packs", type=Path, required=True, help="folder with the packs")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--size", type=int, default=256, help="longer side of the images, px; windows of 3/4 of it")
    parser.add_argument(
        "--jobs", type=int, default=2, help="systems trained at a time, with one thread each; timed alone"
    )
    parser.add_argument("--on", nargs="*", default=list(PACKS), choices=PACKS, help="packs")
    parser.add_argument("--only", nargs="*", default=[], help="variants; all light ones by default")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--start", default="clicks", help="model whose backbone training on coco-mini starts from")
    parser.add_argument("--write", action="store_true", help="write docs/methods.md of what is done")
    parser.add_argument("--one", nargs=3, metavar=("TASK", "NAME", "PACK"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        one(*options.one, options)
        return 0
    run_all(options)
    found = rows(options.steps)
    if options.write:
        write(found, options.steps)
    print(json.dumps(found | {"relations": relations(found)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
