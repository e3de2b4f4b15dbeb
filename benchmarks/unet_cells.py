"""U-Net, whose objects are the connected parts of its map, beside systems that tell objects apart, on crowded images.

    python benchmarks/unet_cells.py --packs FOLDER [--on PACK ...] [--steps 120] [--window 128] [--only ROW ...]

U-Net labels pixels. As in its paper (section 3.1) a line of background is cut between objects that touch before it
learns, and ``border_weight=10`` makes such gaps count; without it a row of its own shows what that is worth. All others
have the recipe of benchmarks/methods.py with these steps and windows. Images keep their own scale (sections of 512 px,
nuclei at 256 px). Score thresholds are chosen on four training images that are not learnt from; val is measured.

A row that is done is not trained again (``OUT/PACK/ROW.json``), and one that was stopped resumes. It prints a table for
each of isbi2012-em and dsb2018: TP/(TP+FP+FN) at IoU 0.5 and over 0.5 ... 0.9, the two parts of the variation of
information (bits) and the adapted Rand error within true objects, milliseconds of CPU time per image. The last line is
JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import methods
import numpy as np
import proposal_free
import torch
from nuclei import scores
from nuclei_systems import SMALLEST, instances
from numpy.typing import NDArray

from eachmask.structures import Category, DecodeOptions, Instances, SemanticMap

ROOT = Path(__file__).resolve().parents[1]
SIDES = {"isbi2012-em": 512, "dsb2018": 256}
"""Pack -> longer side of its images, px."""
UNETS: dict[str, tuple[str, dict[str, Any]]] = {
    "unet_tiny-border_weights": ("unet_tiny", {"border_weight": 10.0}),
    "unet_tiny-plain": ("unet_tiny", {}),
    "unet_lite0-border_weights": ("unet_lite0", {"border_weight": 10.0}),
}
"""Row -> variant and what is changed in it."""
OTHERS = (*proposal_free.systems(), "mask_rcnn_lite0_fpn")
CLASSES = (Category(1, "background", is_thing=False), Category(2, "object"))
MOST = 1000
"""Objects of an image."""
HELD = 4
"""Training images that choose the thresholds."""
COLUMNS = {"match50": "at 0.5", "match_mean": "mean of 0.5 ... 0.9", "vi_split": "VI, split", "vi_merge": "VI, merged",
           "rand_error": "Rand error", "parameters": "parameters (M)", "ms": "CPU ms/image"}  # fmt: skip
DIGITS = {"parameters": 1, "ms": 0}


class Part:
    """Some samples, as they are or with maps for targets."""

    def __init__(self, samples: Any, places: range, maps: bool) -> None:
        self.samples, self.places, self.maps = samples, places, maps
        self.categories = CLASSES if maps else samples.categories

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> Any:
        sample = self.samples[self.places[index]]
        return replace(sample, targets=apart(sample.targets)) if self.maps else sample


def apart(targets: Instances) -> SemanticMap:
    """Background and objects, one pixel of background between objects that touch."""
    from scipy.ndimage import generate_binary_structure, maximum_filter

    labels = targets.to_label_map()
    highest = maximum_filter(labels, footprint=generate_binary_structure(2, 1))
    return SemanticMap(torch.from_numpy(((labels > 0) & (labels == highest)).astype(np.int64)), CLASSES)


def parts(labels: NDArray[Any]) -> Instances:
    """(H, W), 1 is object -> its connected parts, specks left out."""
    from scipy.ndimage import label

    numbers, _ = label(labels == 1)
    return instances(numbers * (np.bincount(numbers.ravel()) >= SMALLEST)[numbers])


def recipe(row: str, pack: str, options: argparse.Namespace) -> Any:
    """That of benchmarks/methods.py, at the images' own scale; U-Nets learn maps, the paper's from random numbers."""
    from eachmask.data.transforms.crop import LargeScaleJitter
    from eachmask.models import model_class
    from eachmask.recipes.auto_recipe import PhotoAugment

    variant, config = UNETS.get(row, (row, {}))
    side, window = SIDES[pack], options.window
    scale = (0.8 * side / window, 1.25 * side / window)
    own = argparse.Namespace(size=side, steps=options.steps, start=None)
    changes: dict[str, Any] = {"augment": PhotoAugment(LargeScaleJitter((window, window), scale))}
    if row in UNETS:
        scoring = model_class(variant).task.scoring
        changes |= {"config": config, "score": scoring.scores, "best": scoring.best}
    if variant == "unet_tiny":
        changes |= {"start": None, "frozen_stages": 0}
    return replace(methods.recipe(variant, pack, own), **changes, evaluate_every=options.steps)


def measure(row: str, pack: Path, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Train what is missing of it, and score it on val."""
    from eachmask.inference.load import load
    from eachmask.metrics.partitions import partitions
    from eachmask.training.loop import train
    from eachmask.training.recipe import Run

    learnt, measured = methods.split_samples(pack)
    maps, last = row in UNETS, len(learnt) - HELD
    both = Part(learnt, range(last), maps), Part(learnt, range(last, len(learnt)), maps)
    path = train(recipe(row, pack.name, options), *both, Run(folder, seed=0, device="cpu"))
    predictor = load(path, device="cpu", precision="fp32")
    found, targets, times = [], [], []
    for sample in (measured[i] for i in range(len(measured))):
        begin = time.process_time()
        seen = predictor.predict(sample.image, options=DecodeOptions(max_detections=MOST))
        found.append(parts(seen.labels.numpy()) if maps else replace(seen, masks=seen.masks.to_rle()))
        times.append(1000 * (time.process_time() - begin))
        targets.append(sample.targets)
    values = scores(found, targets) | partitions((a.masks, b.masks) for a, b in zip(found, targets, strict=True))
    parameters = sum(p.numel() for p in predictor.model.parameters()) / 1e6
    shown = {name: values[name] for name in COLUMNS if name in values}
    return shown | {"parameters": parameters, "ms": median(times), "images": len(found), "steps": options.steps}


def table(rows: dict[str, dict[str, Any]]) -> str:
    """Markdown, the best row first."""
    lines = [f"| system | {' | '.join(COLUMNS.values())} |", "|---|" + "---|" * len(COLUMNS)]
    for row, values in sorted(rows.items(), key=lambda item: -item[1]["match50"]):
        cells = [f"{values[name]:.{DIGITS.get(name, 3)}f}" for name in COLUMNS]
        lines.append(f"| {row} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packs", type=Path, required=True, help="folder with the packs")
    parser.add_argument("--on", nargs="*", default=list(SIDES), choices=list(SIDES), help="packs")
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--window", type=int, default=128, help="side of training windows, px")
    parser.add_argument("--only", nargs="*", default=[*UNETS, *OTHERS], choices=[*UNETS, *OTHERS], metavar="ROW")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "unet_cells")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, dict[str, Any]] = {}
    for pack in options.on:
        out = options.out / pack
        out.mkdir(parents=True, exist_ok=True)
        for row in options.only:
            file = out / f"{row}.json"
            if not file.is_file():
                file.write_text(json.dumps(measure(row, options.packs / pack, out / row, options), indent=1))
                print(f"{row} on {pack} is done", file=sys.stderr, flush=True)
        found[pack] = {file.stem: json.loads(file.read_text()) for file in sorted(out.glob("*.json"))}
        print(f"{pack}\n\n{table(found[pack])}\n")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
