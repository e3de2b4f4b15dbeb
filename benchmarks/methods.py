"""Every system under one equal, small budget: the same light backbone, images, steps, batch and seed.

The backbone starts from ImageNet on ``dsb2018``. Photographs need more than so small a budget: on ``coco-mini`` it
starts from the one of the bundled ``objects`` (or of another file: ``--start``), which has seen these training
photographs (not the ones that are scored), and objects smaller than an eighth of the image's longer side are ignored,
when learning and when scoring.

Not a league table of the papers (their budgets are a thousand times larger), but what a student sees who trains each
of them for a few minutes on a CPU: which learn fast, which are fast, what the masks look like.

    python benchmarks/methods.py --packs FOLDER [--steps 120] [--size 256] [--jobs 2] [--only NAME ...] [--write]

FOLDER holds the packs ``dsb2018`` and ``coco-mini`` in COCO's layout. Each system is trained in a process of its own
with one thread; a system that is done is not trained again (``results/methods/*.json``), so the benchmark can be
stopped and continued. ``--write`` makes docs/methods.md and its images of what is done so far, and puts the rows into
the methods' own pages. The last line is JSON: rows by pack, and which of the relations that the papers lead one to
expect held.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
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
from peak_memory import peak_mb

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "results" / "methods"
PACKS = ("dsb2018", "coco-mini")
BATCH = 4
SEED = 0
VAL_IMAGES = 60
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
COLUMNS = ("mask AP", "AP50", "AP75", "boundary AP", "box AP", "calibration error", "parameters (M)", "train images/s",
           "predict ms/image", "memory (MB)")  # fmt: skip
SHOWN = {"dsb2018": "coins.png", "coco-mini": "astronaut.png"}
"""scikit-image's images that the trained systems are shown."""
EXTRA: dict[str, tuple[str, dict[str, Any]]] = {
    "mask_rcnn_lite0_fpn-roipool": ("mask_rcnn_lite0_fpn", {"roi": {"pooling": "pool"}}),
}
"""Rows of a variant with a switch of its own: name -> (variant, config)."""
OTHER_BODY = ("rtmdet_ins_nano", "yolact_plus_r18")
"""Systems that are not made for the light backbone: theirs starts from random numbers."""
RELATIONS = (
    ("RoIAlign beats RoIPool", "AP75", "mask_rcnn_lite0_fpn", "mask_rcnn_lite0_fpn-roipool"),
    ("Cascade is ahead at strict overlaps", "AP75", "cascade_mask_rcnn_lite0_fpn", "mask_rcnn_lite0_fpn"),
    ("PointRend has the better outlines", "boundary AP", "pointrend_lite0_fpn", "mask_rcnn_lite0_fpn"),
    ("Mask Scoring is better calibrated", "calibration error", "mask_scoring_rcnn_lite0_fpn", "mask_rcnn_lite0_fpn"),
)
"""What the papers lead one to expect: (in words, measure, the better one, the other one)."""


START, END = "<!-- written by benchmarks/methods.py -->", "<!-- end of what it wrote -->"
PAGES = {"cascade_mask_rcnn": "cascade_rcnn", "implicit_pointrend": "pointrend", "decoupled_solo": "solo",
         "yolo_v1": "yolo"}  # fmt: skip
"""Pages whose names are not how their variants' names begin."""


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

    train_data, val_data = _samples(pack)
    out = RESULTS / pack.name / name
    chosen, run = recipe(name, pack.name, options), Run(out, seed=SEED, device=options.device)
    path = train(chosen, train_data, _First(val_data, 0), run)
    predictor = load(path, device=options.device, precision="fp32")
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
        "steps": options.steps, "size": options.size, "batch": BATCH, "images": len(samples),
    }  # fmt: skip
    Image.fromarray(_drawn(predictor, SHOWN[pack.name], row["threshold"])).save(
        RESULTS / f"{name}-{pack.name}.jpg", quality=80
    )
    return row


def speeds(name: str, pack: Path, options: argparse.Namespace) -> dict[str, float]:
    """Of a trained system: images per second of a training step, milliseconds from image to RLE (medians)."""
    from eachmask.inference.load import load
    from eachmask.training.devices import make_accelerator
    from eachmask.training.loop import new_state, train_step
    from eachmask.training.recipe import Run
    from eachmask.training.sampling import Share, TrainingSequence, batches

    train_data, val_data = _samples(pack)
    out = RESULTS / pack.name / name
    chosen = recipe(name, pack.name, options)
    state, _ = new_state(chosen, train_data.categories, make_accelerator(Run(out, device=options.device)), load=False)
    steps, images = [], []
    begin = time.perf_counter()
    for pieces in batches(TrainingSequence(train_data, chosen, SEED), range(TIMED + 1), Share(), workers=0):
        train_step(state, chosen, pieces)
        steps.append(time.perf_counter() - begin)
        begin = time.perf_counter()
    predictor = load(out / "model.safetensors", device=options.device, precision="fp32")
    for i in range(2 * TIMED + 1):
        pixels = val_data[i].image
        begin = time.perf_counter()
        found = predictor.predict(pixels)
        if found.masks is not None:
            found.masks.to_rle()
        images.append(time.perf_counter() - begin)
    # The first of each warms up.
    return {"train images/s": BATCH / median(steps[1:]), "predict ms/image": 1000 * median(images[1:])}


def _samples(pack: Path) -> tuple[Any, Any]:
    """The pack's training and val images, all objects of one class: localization is what is compared."""
    from eachmask.data.classes import one_class
    from eachmask.data.reading import read_any

    data, _ = read_any(pack)
    if pack.name == "dsb2018":
        data = replace(data, splits={name: [p for p in split if max(p.targets.image_size) <= LARGEST]
                                     for name, split in data.splits.items()})  # fmt: skip
    if len(data.categories) > 1:
        data = one_class(data)
    if pack.name == "coco-mini":
        data = replace(data, splits={name: [_small_ignored(p) for p in split] for name, split in data.splits.items()})
    train_data, val_data = (data.splits[split] for split in ("train", "val"))
    return train_data, val_data


def _small_ignored(image: Any) -> Any:
    """An image whose small objects are regions to be ignored, as COCO's crowds are."""
    targets = image.targets
    small = np.asarray(targets.masks.area()) < (SMALL * max(targets.image_size)) ** 2
    ignored = small if targets.crowd is None else small | targets.crowd.numpy()
    return replace(image, targets=replace(targets, crowd=torch.from_numpy(ignored)))


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
    """The first so many samples: training needs one to choose by, the real scores come afterwards."""

    def __init__(self, samples: Any, last: int) -> None:
        self.samples, self.categories, self.last = samples, samples.categories, last

    def __len__(self) -> int:
        return self.last + 1

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
        evaluate_every=options.steps,
    )


# All systems ----------------------------------------------------------------------------------------------------------


def run_all(options: argparse.Namespace) -> None:
    """Train what is not done yet, a process for each, then time alone what is not timed yet.

    A failure is noted and does not stop the rest.
    """
    RESULTS.mkdir(parents=True, exist_ok=True)
    for task, jobs in (("train", options.jobs), ("time", 1)):
        with ThreadPoolExecutor(jobs) as pool:
            for pack in options.on:
                for name in options.only or systems():
                    row = _row(name, pack)
                    if not row if task == "train" else row and "predict ms/image" not in row:
                        pool.submit(_run_one, task, name, pack, options)


def _row(name: str, pack: str) -> dict[str, Any]:
    """What is known of a system; nothing if it is not trained."""
    path = RESULTS / f"{name}-{pack}.json"
    row: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
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
    row = _row(name, pack) | work(name, options.packs / pack, options)
    part = RESULTS / f"{name}-{pack}.part"
    part.write_text(json.dumps(row, indent=1))
    os.replace(part, RESULTS / f"{name}-{pack}.json")


def rows() -> dict[str, dict[str, Any]]:
    """What is done, by pack and variant."""
    found: dict[str, dict[str, Any]] = {pack: {} for pack in PACKS}
    for pack in PACKS:
        for path in sorted(RESULTS.glob(f"*-{pack}.json")):
            found[pack][path.name.removesuffix(f"-{pack}.json")] = json.loads(path.read_text())
    return found


def relations(found: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Pack -> relation -> both values, and whether it held; only where both systems are done."""
    checked: dict[str, dict[str, Any]] = {}
    for pack, table in found.items():
        for words, measure, better, other in RELATIONS:
            values = [table.get(name, {}).get(measure) for name in (better, other)]
            if None not in values:
                held = values[0] < values[1] if measure == "calibration error" else values[0] > values[1]
                checked.setdefault(pack, {})[words] = {"better": values[0], "other": values[1], "held": held}
    return checked


def page(found: dict[str, dict[str, Any]]) -> str:
    """The measured part of docs/methods.md; what is said about it below is written by hand."""
    lines = [
        "# Every method under one small budget",
        "",
        "Written by `python benchmarks/methods.py --packs FOLDER --write` from its measurements. The same light",
        "backbone (EfficientNet-Lite0, its first three stages fixed), images, steps, batch, learning rate and seed",
        "for all; one class; at most 32 proposals per image where a system has proposals. The papers' budgets are a",
        "thousand times larger: this says how fast a method learns, not how far it goes. One run each, so",
        "differences of a few hundredths of AP are the seed's. `rtmdet_ins_nano` and `yolact_plus_r18` have backbones",
        "of their own, which start from random numbers: their rows say less. Speeds are those of one thread, memory",
        "is the peak of the process that trained and predicted.",
        "",
        "On `dsb2018` the backbone starts from ImageNet. So small a budget teaches next to nothing of photographs,",
        "so on `coco-mini` it starts from that of the first bundled `objects`, a Mask R-CNN (commit 2450e5b;",
        "`--start FILE`), which has seen these training photographs and none of those that are scored; objects",
        "smaller than an eighth of the image's longer side are ignored there, when learning and when scoring.",
        "",
    ]
    for pack, table in found.items():
        if table:
            lines += _table(pack, table)
    lines += ["## What one expects", "", "| the papers say | measure | pack | expected better | other | held |",
              "|---|---|---|---|---|---|"]  # fmt: skip
    measures = {words: measure for words, measure, _, _ in RELATIONS}
    for pack, checked in relations(found).items():
        for words, result in checked.items():
            lines.append(f"| {words} | {measures[words]} | {pack} | {result['better']:.3f} | {result['other']:.3f} | "
                         f"{'yes' if result['held'] else 'no'} |")  # fmt: skip
    return "\n".join([START, *lines, END])


def _table(pack: str, table: dict[str, Any]) -> list[str]:
    first = next(iter(table.values()))
    budget = (
        f"{first['steps']} steps of {first['batch']} windows of {first['size'] * 3 // 4} px from images of "
        f"{first['size']} px; {first['images']} val images."
    )
    lines = [f"## {pack}", "", budget, ""]
    lines += ["| system | " + " | ".join(COLUMNS) + " | |", "|---|" + "---|" * (len(COLUMNS) + 1)]
    for name, row in sorted(table.items(), key=lambda item: -item[1].get("mask AP", item[1]["box AP"] - 1)):
        cells = [_cell(column, row.get(column)) for column in COLUMNS]
        lines.append(f"| `{name}` | " + " | ".join(cells) + f" | [image](images/{name}-{pack}.jpg) |")
    return [*lines, ""]


def _cell(name: str, value: float | None) -> str:
    if value is None:
        return "-"
    digits = 3 if "AP" in name or "error" in name else 0 if name.startswith(("memory", "predict")) else 1
    return f"{value:.{digits}f}"


def block(stem: str, found: dict[str, dict[str, Any]]) -> str:
    """The rows of one method's page, docs/methods/STEM.md; empty where there is none."""
    columns = ("mask AP", "AP50", "boundary AP", "box AP", "train images/s", "predict ms/image")
    rows, shots = [], []
    for pack, table in found.items():
        for name, row in table.items():
            if _page_of(name) == stem:
                rows.append(f"| `{name}` | {pack} | " + " | ".join(_cell(c, row.get(c)) for c in columns) + " |")
                shots.append(f"![{name}, {pack}](../images/{name}-{pack}.jpg)")
    if not rows:
        return ""
    head = "Under [one small budget](../methods.md) with all other systems, on one thread, and what it then sees:"
    lines = [head, "", "| variant | pack | " + " | ".join(columns) + " |", "|---|---|" + "---|" * len(columns)]
    return "\n".join([START, *lines, *rows, "", *shots, END])


def _page_of(name: str) -> str:
    """The page of docs/methods/ that a row belongs to: the one with the longest name that fits."""
    stems = {path.stem: path.stem for path in (ROOT / "docs" / "methods").glob("*.md")} | PAGES
    return stems[max((start for start in stems if name.startswith(start)), key=len, default="README")]


def write(found: dict[str, dict[str, Any]]) -> None:
    """The page, its images, and the rows in the methods' own pages."""
    docs = ROOT / "docs"
    (docs / "images").mkdir(exist_ok=True)
    for image in RESULTS.glob("*.jpg"):
        shutil.copyfile(image, docs / "images" / image.name)
    _replace(docs / "methods.md", page(found))
    for path in (docs / "methods").glob("*.md"):
        if path.stem != "README" and (rows_of_it := block(path.stem, found)):
            _replace(path, rows_of_it)


def _replace(path: Path, written: str) -> None:
    """Exchange what is between the marks, or add it at the end."""
    before, _, rest = (path.read_text(encoding="utf-8") if path.is_file() else "").partition(START)
    after = rest.partition(END)[2] or "\n"
    path.write_text(f"{before.rstrip()}\n\n{written}{after}".lstrip("\n"), encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packs", type=Path, required=True, help="folder with the packs")
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--size", type=int, default=256, help="longer side of the images, px; windows of 3/4 of it")
    parser.add_argument(
        "--jobs", type=int, default=2, help="systems trained at a time, with one thread each; timed alone"
    )
    parser.add_argument("--on", nargs="*", default=list(PACKS), choices=PACKS, help="packs")
    parser.add_argument("--only", nargs="*", default=[], help="variants; all light ones by default")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--start", default="objects", help="model whose backbone training on coco-mini starts from")
    parser.add_argument("--write", action="store_true", help="write docs/methods.md of what is done")
    parser.add_argument("--one", nargs=3, metavar=("TASK", "NAME", "PACK"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        one(*options.one, options)
        return 0
    run_all(options)
    found = rows()
    if options.write:
        write(found)
    print(json.dumps(found | {"relations": relations(found)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
