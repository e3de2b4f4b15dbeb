"""Systems that know no boxes on made rosettes, under one equal, small budget: do they count and separate leaves?

Every light variant without proposals (and the sequential ones, where there are some) is trained with the same backbone,
plants, steps, batch, learning rate and seed, and measured as leaves are: SBD, |DiC|, Dice of the foreground, coverage.

    python benchmarks/proposal_free.py [--steps 150] [--window 96] [--only NAME ...] [--write]

Each system is trained in a process of its own with one thread; one that is done is not trained again
(``results/proposal_free/*.json``), so the benchmark can be stopped and continued. ``--write`` puts the table into
docs/methods.md. The last line is JSON: the rows by system.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "results" / "proposal_free"
ROOMS = ("proposal_free", "sequential", "recurrent")
"""Of ``eachmask.models``."""
BESIDE = ("panoptic_deeplab_lite0",)
"""Systems that have their place beside them and are elsewhere."""
FEW = 7
"""Leaves: plants of so many or fewer, and of more, are also measured apart."""
COLUMNS = {"sbd": "SBD", "abs_dic": "\\|DiC\\|", "fg_dice": "foreground Dice", "weighted_coverage": "weighted coverage",
           "sbd_few": f"SBD, up to {FEW} leaves", "sbd_many": "SBD, more leaves", "ms": "ms/image"}  # fmt: skip
PUBLISHED = {
    "discriminative": "CVPPP A1: SBD 0.842, \\|DiC\\| 1.0, foreground given",
    "recurrent": "CVPPP A1: SBD 0.568, with CRF 0.666",
    "attention": "CVPPP A1: SBD 0.849, \\|DiC\\| 0.8",
    "deep_watershed": "Cityscapes test: AP 0.194",
    "instance_cut": "Cityscapes test: AP 0.130",
    "spatial_embedding": "Cityscapes test: AP 0.276",
    "pfn": "VOC 2012 val: AP^r at 0.5 0.587",
}
"""What the papers say, each under its own conditions, by how a variant's name begins."""
START, END = "<!-- written by benchmarks/proposal_free.py -->", "<!-- end of its table -->"


@dataclass(frozen=True)
class Budget:
    """What every system gets."""

    steps: int = 150
    window: int = 96
    """Side of the windows that it learns from, px."""
    batch: int = 4
    plants: int = 64
    """To learn from; of 128 px."""
    scored: int = 24


def systems() -> list[str]:
    """Light variants of the rooms, in the order of the catalogue."""
    from eachmask.models import VARIANTS

    own = [name for name, file in VARIANTS.items() if file.split(".")[0] in ROOMS and name.endswith("_lite0")]
    return [*own, *BESIDE]


class Rosettes:
    """Made plants as the samples of a data set."""

    def __init__(self, first: int, num: int) -> None:
        from eachmask.data.rosettes import CATEGORIES

        self.first, self.num, self.categories = first, num, CATEGORIES

    def __len__(self) -> int:
        return self.num

    def __getitem__(self, index: int) -> Any:
        from eachmask.data.rosettes import rosette

        return rosette(self.first + index)


def recipe(name: str, budget: Budget) -> Any:
    """The same for every system."""
    from eachmask.data.transforms.crop import LargeScaleJitter
    from eachmask.models import model_class
    from eachmask.recipes.auto_recipe import PhotoAugment
    from eachmask.structures import Preprocess
    from eachmask.training.pretrained import FromBackbone
    from eachmask.training.recipe import Recipe
    from eachmask.weights.from_efficientnet_lite import MEAN, STD

    return Recipe(
        variant=name,
        preprocess=Preprocess(mean=MEAN, std=STD, short_side=128, long_side=128),
        augment=PhotoAugment(LargeScaleJitter(size=(budget.window, budget.window), scale=(0.8, 1.25))),
        score=model_class(name).task.scoring.scores,
        best="ap",
        start=FromBackbone("objects"),
        steps=budget.steps,
        batch_size=budget.batch,
        learning_rate=1e-3,
        weight_decay=0.05,
        warmup_steps=20,
        frozen_stages=3,
        ema_decay=0.97,
        evaluate_every=budget.steps,
    )


def measure(name: str, budget: Budget) -> dict[str, Any]:
    """Train and score one system; plants that are scored were never learnt from."""
    from eachmask.inference.load import load
    from eachmask.metrics.counting import counting
    from eachmask.metrics.coverage import coverage
    from eachmask.training.loop import train
    from eachmask.training.recipe import Run

    begin = time.perf_counter()
    path = train(recipe(name, budget), Rosettes(0, budget.plants), Rosettes(10_000, 1), Run(RESULTS / name, seed=0))
    seconds = time.perf_counter() - begin
    predictor = load(path, device="cpu", precision="fp32")
    pairs, milliseconds = [], []
    for i in range(budget.scored):
        plant = Rosettes(20_000, budget.scored)[i]
        begin = time.perf_counter()
        masks = predictor.predict(plant.image).masks.to_rle()
        milliseconds.append(1000 * (time.perf_counter() - begin))
        pairs.append((masks, plant.targets.masks))
    row: dict[str, Any] = counting(pairs) | coverage(pairs)
    for key, chosen in (
        ("sbd_few", [pair for pair in pairs if len(pair[1]) <= FEW]),
        ("sbd_many", [pair for pair in pairs if len(pair[1]) > FEW]),
    ):
        row[key] = counting(chosen)["sbd"]
    parameters = sum(p.numel() for p in predictor.model.parameters()) / 1e6
    return row | {"ms": sorted(milliseconds)[len(pairs) // 2], "parameters (M)": parameters, "train s": seconds,
                  "budget": asdict(budget)}  # fmt: skip


def run_one(name: str, budget: Budget) -> None:
    """In a process of its own, unless it is done; a failure is noted and does not stop the rest."""
    target = RESULTS / f"{name}.json"
    if target.is_file() and json.loads(target.read_text())["budget"] == asdict(budget):
        return
    command = [sys.executable, __file__, "--one", name, "--steps", str(budget.steps), "--window", str(budget.window)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    how = f"failed: {done.stderr[-2000:]}" if done.returncode else "done"
    print(f"{name} {how}", file=sys.stderr, flush=True)


def rows() -> dict[str, dict[str, Any]]:
    """What is done, the best SBD first."""
    found = {path.stem: json.loads(path.read_text()) for path in RESULTS.glob("*.json")}
    return dict(sorted(found.items(), key=lambda item: -item[1]["sbd"]))


def table(found: dict[str, dict[str, Any]]) -> str:
    """The section of docs/methods.md."""
    budget = next(iter(found.values()))["budget"]
    lines = [
        "## Systems without proposals, on made rosettes",
        "",
        f"`python benchmarks/proposal_free.py`: {budget['steps']} steps of {budget['batch']} windows of "
        f"{budget['window']} px from {budget['plants']} made plants of 128 px with 4 to 12 leaves;",
        f"{budget['scored']} others are scored, at each model's own threshold. The backbone is that of `objects`, its "
        "first three stages fixed. So small a budget",
        "says who learns fast. One run each, one thread. Published figures are the papers', under their own",
        "conditions, and were not checked again.",
        "",
        "| system | " + " | ".join(COLUMNS.values()) + " | published |",
        "|---|" + "---|" * (len(COLUMNS) + 1),
    ]
    for name, row in found.items():
        cells = [f"{row[key]:.0f}" if key == "ms" else f"{row[key]:.3f}" for key in COLUMNS]
        said = next((words for start, words in PUBLISHED.items() if name.startswith(start)), "-")
        lines.append(f"| `{name}` | " + " | ".join(cells) + f" | {said} |")
    return "\n".join([START, *lines, END])


def write(found: dict[str, dict[str, Any]]) -> None:
    """Exchange the section of docs/methods.md, or add it at the end."""
    path = ROOT / "docs" / "methods.md"
    before, _, rest = path.read_text(encoding="utf-8").partition(START)
    after = rest.partition(END)[2] or "\n"
    path.write_text(f"{before.rstrip()}\n\n{table(found)}{after}", encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=Budget.steps)
    parser.add_argument("--window", type=int, default=Budget.window, help="px, a multiple of 32")
    parser.add_argument("--only", nargs="*", default=[], help="variants; all light ones by default")
    parser.add_argument("--write", action="store_true", help="put the table of what is done into docs/methods.md")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    budget = Budget(options.steps, options.window)
    RESULTS.mkdir(parents=True, exist_ok=True)
    if options.one:
        row = measure(options.one, budget)
        (RESULTS / f"{options.one}.json").write_text(json.dumps(row, indent=1))
        return 0
    for name in options.only or systems():
        run_one(name, budget)
    if options.write:
        write(rows())
    print(json.dumps(rows()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
