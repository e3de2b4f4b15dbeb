"""Every system under one equal, small budget: the same light backbone, images, steps, batch and seed.

Not a league table of the papers (their budgets are a thousand times larger), but what a student sees who trains each
of them for a few minutes on a processor: which learn fast, which are fast, what the masks look like.

    python benchmarks/methods.py --packs FOLDER [--steps 400] [--size 256] [--only solov2_lite0 ...] [--write]

FOLDER holds the packs ``dsb2018`` and ``coco-mini`` in COCO's layout. Each system is trained in a process of its own; a
system that is done is not trained again (``results/methods/*.json``), so the benchmark can be stopped and continued.
``--write`` makes docs/methods.md and its pictures of what is done so far. The last line is JSON: rows by pack.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from peak_memory import peak_mb

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "results" / "methods"
PACKS = ("dsb2018", "coco-mini")
BATCH = 4
SEED = 0
VAL_IMAGES = 60
COLUMNS = ("mask AP", "AP50", "AP75", "boundary AP", "box AP", "parameters (M)", "train images/s", "predict ms/image",
           "memory (MB)")  # fmt: skip


def light_variants() -> list[str]:
    """The small variant of every system, in the order of the catalogue of models."""
    from eachmask.models import VARIANTS

    return [name for name in VARIANTS if name.endswith(("_lite0", "_lite0_fpn", "_light"))]


# One system on one pack, in its own process ---------------------------------------------------------------------------


def measure(variant: str, pack: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Train, score, time; returns the row."""
    import torch

    from eachmask.data.annotated import merged_categories
    from eachmask.data.convert import read_any
    from eachmask.data.pictures import PictureSamples
    from eachmask.draw import overlay
    from eachmask.metrics.boundary_ap import boundary_ap
    from eachmask.metrics.coco_ap import coco_ap
    from eachmask.predict import load
    from eachmask.train.loop import train
    from eachmask.train.recipe import Run

    data, _ = read_any(pack)
    if len(data.categories) > 1:  # localisation is what is compared: one class for all
        data = merged_categories(data, lambda category: "object")
    train_data, val_data = (PictureSamples(data.splits[split], data.categories) for split in ("train", "val"))
    out = RESULTS / pack.name / variant
    begin = time.perf_counter()
    path = train(recipe(variant, options), train_data, _First(val_data, 0), Run(out, seed=SEED, device=options.device))
    seconds = time.perf_counter() - begin
    predictor = load(path, device=options.device, precision="fp32")
    samples = [val_data[i] for i in range(min(VAL_IMAGES, len(val_data)))]
    predictor.predict(samples[0].image)
    begin = time.perf_counter()
    found = [predictor.predict(sample.image) for sample in samples]
    packed = [instances.masks.to_rle() if instances.masks is not None else None for instances in found]
    milliseconds = 1000 * (time.perf_counter() - begin) / len(samples)
    targets = [sample.targets for sample in samples]
    boxes = coco_ap(found, targets, kind="bbox")
    row: dict[str, Any] = {"box AP": boxes["ap"]}
    if packed[0] is not None:
        masks = coco_ap(found, targets)
        row |= {"mask AP": masks["ap"], "AP50": masks["ap50"], "AP75": masks["ap75"]}
        row["boundary AP"] = boundary_ap(found, targets, 1)["ap"]
    row |= {
        "parameters (M)": sum(p.numel() for p in predictor.model.parameters()) / 1e6,
        "train images/s": options.steps * BATCH / seconds,
        "predict ms/image": milliseconds,
        "memory (MB)": peak_mb(),
        "steps": options.steps, "size": options.size, "batch": BATCH, "threads": torch.get_num_threads(),
    }  # fmt: skip
    from PIL import Image

    shown = samples[1]
    sure = found[1].filter(score=0.3)
    Image.fromarray(overlay(shown.image, sure)).save(RESULTS / f"{variant}-{pack.name}.jpg", quality=80)
    return row


class _First:
    """The first so many samples: training needs one to choose by, the real scores come afterwards."""

    def __init__(self, samples: Any, last: int) -> None:
        self.samples, self.categories, self.last = samples, samples.categories, last

    def __len__(self) -> int:
        return self.last + 1

    def __getitem__(self, index: int) -> Any:
        return self.samples[index]


def recipe(variant: str, options: argparse.Namespace) -> Any:
    """The same for every system; only the variant differs."""
    from eachmask.data.transforms.crop import LargeScaleJitter
    from eachmask.recipes.own_data import JitterAndLight, box_scores, is_scored_by_boxes, mask_scores
    from eachmask.structures import Preprocess
    from eachmask.train.recipe import Recipe
    from eachmask.train.start import FromBackbone
    from eachmask.weights.from_efficientnet_lite import MEAN, STD

    side = options.size
    return Recipe(
        variant=variant,
        preprocess=Preprocess(mean=MEAN, std=STD, short_side=side, long_side=side),
        augment=JitterAndLight(LargeScaleJitter(size=(side, side), scale=(0.6, 1.6))),
        score=box_scores if is_scored_by_boxes(variant) else mask_scores,
        best="ap",
        start=FromBackbone(),
        steps=options.steps,
        batch_size=BATCH,
        learning_rate=5e-4,
        weight_decay=0.05,
        warmup_steps=50,
        frozen_stages=2,
        ema_decay=0.99,
        evaluate_every=options.steps,
    )


# All systems ----------------------------------------------------------------------------------------------------------


def run_all(options: argparse.Namespace) -> None:
    """Train what is not done yet, one process after the other; a failure is noted and does not stop the rest."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    for pack in PACKS:
        for variant in options.only or light_variants():
            target = RESULTS / f"{variant}-{pack}.json"
            if target.is_file():
                continue
            command = [sys.executable, __file__, "--packs", str(options.packs), "--one", variant, pack, "--steps",
                       str(options.steps), "--size", str(options.size), "--device", options.device]  # fmt: skip
            print(f"{variant} on {pack} ...", file=sys.stderr, flush=True)
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                print(f"{variant} on {pack} failed: {done.stderr[-2000:]}", file=sys.stderr, flush=True)


def rows() -> dict[str, dict[str, Any]]:
    """What is done, by pack and variant."""
    found: dict[str, dict[str, Any]] = {pack: {} for pack in PACKS}
    for pack in PACKS:
        for path in sorted(RESULTS.glob(f"*-{pack}.json")):
            found[pack][path.name.removesuffix(f"-{pack}.json")] = json.loads(path.read_text())
    return found


def page(found: dict[str, dict[str, Any]]) -> str:
    """docs/methods.md."""
    lines = [
        "# Every method under one small budget",
        "",
        "Written by `python benchmarks/methods.py --packs FOLDER --write` from its measurements. The same light",
        "backbone (EfficientNet-Lite0, ImageNet weights), images, steps, batch and seed for all; one class. The",
        "papers' budgets are about a thousand times larger: this says how fast a method learns, not how far it goes.",
        "",
    ]
    for pack, table in found.items():
        if not table:
            continue
        first = next(iter(table.values()))
        lines += [f"## {pack}", "", f"{first['steps']} steps of {first['batch']} images at {first['size']} px, "
                  f"{first['threads']} thread(s); the first {VAL_IMAGES} val images.", ""]  # fmt: skip
        lines += ["| system | " + " | ".join(COLUMNS) + " | |", "|---|" + "---|" * (len(COLUMNS) + 1)]
        ordered = sorted(table.items(), key=lambda item: -item[1].get("mask AP", -1))
        for variant, row in ordered:
            cells = [_cell(name, row.get(name)) for name in COLUMNS]
            lines.append(f"| `{variant}` | " + " | ".join(cells) + f" | [picture](pictures/{variant}-{pack}.jpg) |")
        lines.append("")
    return "\n".join(lines)


def _cell(name: str, value: float | None) -> str:
    if value is None:
        return "-"
    digits = 3 if "AP" in name else 0 if name.startswith(("memory", "predict")) else 1
    return f"{value:.{digits}f}"


def write(found: dict[str, dict[str, Any]]) -> None:
    """The page and its pictures."""
    import shutil

    pictures = ROOT / "docs" / "pictures"
    pictures.mkdir(exist_ok=True)
    for path in RESULTS.glob("*.jpg"):
        shutil.copyfile(path, pictures / path.name)
    (ROOT / "docs" / "methods.md").write_text(page(found), encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packs", type=Path, required=True, help="folder with the packs")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--size", type=int, default=256, help="side of the training window, px")
    parser.add_argument("--only", nargs="*", default=[], help="variants; all light ones by default")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--write", action="store_true", help="write docs/methods.md of what is done")
    parser.add_argument("--one", nargs=2, metavar=("VARIANT", "PACK"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        variant, pack = options.one
        row = measure(variant, options.packs / pack, options)
        part = RESULTS / f"{variant}-{pack}.part"
        part.write_text(json.dumps(row, indent=1))
        os.replace(part, RESULTS / f"{variant}-{pack}.json")
        return 0
    run_all(options)
    found = rows()
    if options.write:
        write(found)
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
