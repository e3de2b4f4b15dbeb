"""Score and time of systems that say one object after another, against the number of objects.

Plants with 2 to 14 leaves (or ``--counts``) are made (``data/rosettes.py``); each system learns from so many of them
for a few minutes.
Then it sees others, grouped by their number of leaves: SBD, the difference in count, and the time from image to RLE.

    python benchmarks/sequential.py [--steps 150] [--size 96] [--images 64] [--counts 2 4 6] [--only NAME ...]
                                    [--svg FOLDER]

The last line is JSON: rows by system and number of leaves. ``--svg`` draws both curves.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np
import torch

SYSTEMS = ("recurrent_instance_lite0", "recurrent_attention_lite0", "actor_critic_lite0")
COUNTS = (2, 5, 8, 11, 14)
"""Leaves of the plants that are scored; those to learn from have any number in between."""
BATCH = 4


class Rosettes:
    """Made plants, the i-th from seed + i."""

    def __init__(self, num: int, size: int, leaves: tuple[int, int], seed: int) -> None:
        from eachmask.data.rosettes import CATEGORIES, rosette

        self.categories = CATEGORIES
        self.plants = [rosette(seed + i, (size, size), leaves) for i in range(num)]

    def __len__(self) -> int:
        return len(self.plants)

    def __getitem__(self, index: int) -> Any:
        return self.plants[index]


def learn(name: str, options: argparse.Namespace, out: Path) -> Path:
    """Train with ImageNet's backbone where it is at hand; returns the model file."""
    from eachmask.data.transforms.crop import LargeScaleJitter
    from eachmask.models import model_class
    from eachmask.recipes.auto_recipe import PhotoAugment
    from eachmask.structures import Preprocess
    from eachmask.training.loop import train
    from eachmask.training.pretrained import FromBackbone
    from eachmask.training.recipe import Recipe, Run
    from eachmask.weights.from_efficientnet_lite import MEAN, STD

    side = options.size
    recipe = Recipe(
        variant=name,
        preprocess=Preprocess(mean=MEAN, std=STD, short_side=side, long_side=side),
        augment=PhotoAugment(LargeScaleJitter(size=(side, side), scale=(0.9, 1.1))),
        score=model_class(name).task.scoring.scores,
        best="ap",
        start=FromBackbone(options.start or None),
        steps=options.steps,
        batch_size=BATCH,
        learning_rate=2e-3,
        warmup_steps=10,
        frozen_stages=3,
        ema_decay=0.95,
        evaluate_every=options.steps,
    )
    learnt = Rosettes(options.images, side, (min(options.counts), max(options.counts)), seed=0)
    return train(recipe, learnt, Rosettes(1, side, (5, 5), seed=10**6), Run(out, device=options.device))


def measure(path: Path, options: argparse.Namespace) -> dict[int, dict[str, float]]:
    """Number of leaves -> SBD, counts, milliseconds per image, of plants that were not learnt from."""
    from eachmask.inference.load import load
    from eachmask.metrics.counting import counting

    predictor = load(path, device=options.device, precision="fp32")
    rows = {}
    for leaves in options.counts:
        plants = Rosettes(options.scored, options.size, (leaves, leaves), seed=2 * 10**6 + 1000 * leaves)
        pairs, times = [], []
        for sample in plants.plants:
            begin = time.process_time()
            masks = predictor.predict(sample.image).masks.to_rle()
            times.append(1000 * (time.process_time() - begin))
            pairs.append((masks, sample.targets.masks))
        rows[leaves] = counting(pairs) | {
            "found": mean(len(masks) for masks, _ in pairs),
            "ms": median(times),
            "steps_ms": step_time(predictor, leaves),
        }
    return rows


@torch.inference_mode()
def step_time(predictor: Any, steps: int) -> float:
    """Milliseconds of CPU time that so many steps take after the features, whatever they find."""
    from eachmask.structures import ImageBatch

    model = predictor.model
    raw = model(ImageBatch(torch.zeros(1, 3, 128, 128), ((128, 128),)))
    times = []
    for _ in range(5):
        begin, state = time.process_time(), model.begin(raw)
        for _ in range(steps):
            _, state = model.step(raw, state)
        times.append(1000 * (time.process_time() - begin))
    return median(times)


def draw(found: dict[str, dict[int, dict[str, float]]], folder: Path) -> None:
    """Two charts against the number of leaves: SBD, and the time of the steps."""
    from eachmask.files.svg import COLORS, Axes

    folder.mkdir(parents=True, exist_ok=True)
    for key, what in (("sbd", "SBD"), ("steps_ms", "milliseconds of all steps")):
        top = 1.0 if key == "sbd" else float(np.ceil(max(row[key] for rows in found.values() for row in rows.values())))
        axes = Axes(x_end=1 + max(leaves for rows in found.values() for leaves in rows), y_end=top)
        parts = [axes.grid(f"leaves ({what})", form="{:.3g}"), axes.legend(list(found), 60, 30)]
        for rows, color in zip(found.values(), COLORS, strict=False):
            parts.append(axes.line(list(rows), [row[key] for row in rows.values()], color))
        spoken = f"{what} of {', '.join(found)} against the number of leaves"
        (folder / f"sequential-{key}.svg").write_text(axes.chart("".join(parts), spoken, alone=True))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--size", type=int, default=96, help="side of the plants, px")
    parser.add_argument("--images", type=int, default=64, help="plants to learn from")
    parser.add_argument("--counts", nargs="*", type=int, default=list(COUNTS), help="leaves of the plants")
    parser.add_argument("--scored", type=int, default=6, help="plants of each number of leaves that are scored")
    parser.add_argument("--start", default="", help="model whose backbone training starts from; ImageNet's by default")
    parser.add_argument("--only", nargs="*", default=list(SYSTEMS), help="variants")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--svg", type=Path, help="folder for the charts")
    options = parser.parse_args()
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in options.only:
            found[name] = measure(learn(name, options, Path(folder) / name), options)
            print(name, json.dumps(found[name]), flush=True)
    if options.svg:
        draw(found, options.svg)
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
