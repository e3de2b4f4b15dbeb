"""Score and time of systems that say one object after another, against the number of objects.

Plants with 2 to 14 leaves (or ``--counts``) are made (``data/rosettes.py``); each system learns from so many of them.
Then it sees others, grouped by their number of leaves: SBD, the difference in count, the share of leaves that it found
(IoU above 0.5), and the time from image to RLE. ``recall_forgetful`` is that share when the network forgets at every
step what it has said before.

    python benchmarks/sequential.py [--steps 2000] [--size 96] [--images 256] [--counts 2 4 6] [--only NAME ...]
                                    [--svg FOLDER]

A system that is done is not trained again (``--out``), and one that was stopped resumes. The last line is
JSON: rows by system and number of leaves. ``--svg`` draws the curves of all that are done.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
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
        learning_rate=1e-3,
        warmup_steps=50,
        frozen_stages=3,
        ema_decay=0.98,
        evaluate_every=options.steps,
    )
    learnt = Rosettes(options.images, side, (min(options.counts), max(options.counts)), seed=0)
    return train(recipe, learnt, Rosettes(1, side, (5, 5), seed=10**6), Run(out, device=options.device))


def measure(path: Path, options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Number of leaves -> SBD, counts, milliseconds per image, of plants that were not learnt from."""
    from eachmask.inference.load import load
    from eachmask.metrics.counting import counting

    predictor, forgetful = (load(path, device=options.device, precision="fp32") for _ in range(2))
    forget(forgetful.model)
    rows = {}
    for leaves in options.counts:
        plants = Rosettes(options.scored, options.size, (leaves, leaves), seed=2 * 10**6 + 1000 * leaves)
        pairs, times, without = [], [], []
        for sample in plants.plants:
            begin = time.process_time()
            masks = predictor.predict(sample.image).masks.to_rle()
            times.append(1000 * (time.process_time() - begin))
            pairs.append((masks, sample.targets.masks))
            without.append((forgetful.predict(sample.image).masks.to_rle(), sample.targets.masks))
        rows[str(leaves)] = counting(pairs) | {
            "found": mean(len(masks) for masks, _ in pairs),
            "recall": recall(pairs),
            "recall_forgetful": recall(without),
            "ms": median(times),
            "steps_ms": step_time(predictor, leaves),
        }
    return rows


def recall(pairs: list[tuple[Any, Any]]) -> float:
    """Share of the true masks that a found one has an IoU above 0.5 with."""
    hits = [bool((true.iou(found) > 0.5).any()) if len(found) else False for found, all_true in pairs
            for true in (all_true[i : i + 1] for i in range(len(all_true)))]  # fmt: skip
    return mean(map(float, hits))


def forget(model: Any) -> None:
    """From now on each step begins anew."""
    following = model.next_object
    model.next_object = lambda raw, state: following(raw, model.begin(raw))


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
            _, state = model.next_object(raw, state)
        times.append(1000 * (time.process_time() - begin))
    return median(times)


def draw(found: dict[str, dict[str, dict[str, float]]], folder: Path) -> None:
    """Charts against the number of leaves: SBD, the share that was found, and the time of the steps."""
    from eachmask.files.svg import COLORS, Axes

    folder.mkdir(parents=True, exist_ok=True)
    for key, what in (("sbd", "SBD"), ("recall", "share found"), ("steps_ms", "milliseconds of all steps")):
        highest = max(row[key] for rows in found.values() for row in rows.values())
        top = float(np.ceil(highest)) if key == "steps_ms" else 1.0
        axes = Axes(x_end=1 + max(int(leaves) for rows in found.values() for leaves in rows), y_end=top)
        left = 60 if key == "steps_ms" else 500
        parts = [axes.grid(f"leaves ({what})", form="{:.3g}"), axes.legend(list(found), left, 30)]
        for rows, color in zip(found.values(), COLORS, strict=False):
            parts.append(axes.line([int(leaves) for leaves in rows], [row[key] for row in rows.values()], color))
        spoken = f"{what} of {', '.join(found)} against the number of leaves"
        (folder / f"sequential-{key}.svg").write_text(axes.chart("".join(parts), spoken, alone=True))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--size", type=int, default=96, help="side of the plants, px")
    parser.add_argument("--images", type=int, default=256, help="plants to learn from")
    parser.add_argument("--counts", nargs="*", type=int, default=list(COUNTS), help="leaves of the plants")
    parser.add_argument("--scored", type=int, default=12, help="plants of each number of leaves that are scored")
    parser.add_argument("--start", default="", help="model whose backbone training starts from; ImageNet's by default")
    parser.add_argument("--only", nargs="*", default=list(SYSTEMS), help="variants")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "sequential")
    parser.add_argument("--svg", type=Path, help="folder for the charts")
    options = parser.parse_args()
    budget = {key: getattr(options, key) for key in ("steps", "size", "images", "counts", "scored")}
    folder = options.out / "-".join(str(value).strip("[]").replace(", ", "_") for value in budget.values())
    found: dict[str, dict[str, dict[str, float]]] = {}
    for name in options.only:
        target = folder / f"{name}.json"
        if not target.is_file():
            rows = measure(learn(name, options, folder / name), options)
            target.write_text(json.dumps(rows, indent=1))
        found[name] = json.loads(target.read_text())
        print(name, json.dumps(found[name]), flush=True)
    if options.svg:
        draw(found, options.svg)
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
