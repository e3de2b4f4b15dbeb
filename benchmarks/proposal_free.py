"""Systems that know no boxes under one equal, small budget: do they count and separate what touches?

Every light variant without proposals (and the sequential ones) is trained with the same backbone, images, steps, batch,
learning rate and seed, and measured as leaves are: SBD, |DiC|, Dice of the foreground, coverage.

    python benchmarks/proposal_free.py [--on rosettes] [--packs FOLDER] [--steps 200] [--only NAME ...] [--write]

--on rosettes: made plants; cwfid-plants: thin plants in a field, ignore regions left out; few-nuclei: crops of dsb2018
with 2 to 12 nuclei. FOLDER holds the packs.

Each system is trained in a process of its own with one thread. What is done is kept in
``benchmarks/proposal_free.json`` and not trained again, so the benchmark can be stopped and continued; other --steps
have a table of their own. ``--write`` puts the tables into docs/methods.md. The last line is JSON: the rows of this
data and budget by system.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import methods
import numpy as np
import torch
from PIL import Image

from eachmask.data.sample import Sample
from eachmask.files.atomic import write_text
from eachmask.structures import RLE, Instances

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "results" / "proposal_free"
KEPT = ROOT / "benchmarks" / "proposal_free.json"
"""Rows that are done: data -> steps -> system -> row."""
ROOMS = ("proposal_free", "sequential")
"""Of ``eachmask.models``."""
BESIDE = ("panoptic_deeplab_lite0",)
"""Systems that have their place beside them and are elsewhere."""
FEW = 7
"""Objects: images of so many or fewer, and of more, are also measured apart."""
COLUMNS = {"sbd": "SBD", "abs_dic": "\\|DiC\\|", "fg_dice": "foreground Dice", "weighted_coverage": "weighted coverage",
           "sbd_few": f"SBD, up to {FEW}", "sbd_many": "SBD, more", "ms": "ms/image"}  # fmt: skip
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
HEADINGS = {"rosettes": "Made rosettes", "cwfid-plants": "Plants in a field", "few-nuclei": "Few nuclei"}
START, END = "<!-- written by benchmarks/proposal_free.py -->", "<!-- end of its table -->"


@dataclass(frozen=True)
class Where:
    """What is learnt from, and how it is seen."""

    side: int
    """Longer side of the images, px."""
    window: int
    """Side of the windows that are learnt from, px."""
    said: str


PLACES = {
    "rosettes": Where(128, 128, "64 made plants with 4 to 12 leaves; 24 others are scored"),
    "cwfid-plants": Where(320, 160, "38 photographs of carrots and weeds in a field; the 13 of val are scored"),
    "few-nuclei": Where(128, 128, "crops of 128 px with 2 to 12 nuclei of dsb2018's train; 24 of val are scored"),
}
BATCH = 4
PLANTS, SCORED = 64, 24
FEWEST, MOST = 2, 12
"""Nuclei of a crop."""


def systems() -> list[str]:
    """Light variants of the rooms, in the order of the catalogue."""
    from eachmask.models import VARIANTS

    own = [name for name, file in VARIANTS.items() if file.split(".")[0] in ROOMS and name.endswith("_lite0")]
    return [*own, *BESIDE]


class Images:
    """Samples in memory, as data sets give them."""

    def __init__(self, samples: Sequence[Sample[Instances]]) -> None:
        self.samples, self.categories = samples, samples[0].targets.categories

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample[Instances]:
        return self.samples[index]

    def targets(self, index: int) -> Instances:
        return self.samples[index].targets

    def path(self, index: int) -> Path:
        return Path(f"{index}.png")


def images_of(place: str, packs: Path | None) -> tuple[Images, Images]:
    """What is learnt from, and what is scored."""
    if place == "rosettes":
        from eachmask.data.rosettes import rosette

        return Images([rosette(i) for i in range(PLANTS)]), Images([rosette(20_000 + i) for i in range(SCORED)])
    if packs is None:
        raise SystemExit(f"{place} needs --packs FOLDER")
    if place == "few-nuclei":
        learnt, scored = methods.split_samples(packs / "dsb2018")
        return Images(list(crops(learnt))), Images(list(crops(scored))[:SCORED])
    learnt, scored = methods.split_samples(packs / place)
    folder = packs / place / "ignore"
    return tuple(  # type: ignore[return-value]
        Images([with_ignored(one[i], folder / split) for i in range(len(one))])
        for one, split in ((learnt, "train"), (scored, "val"))
    )


def crops(samples: Any, side: int = 128) -> Iterator[Sample[Instances]]:
    """The middle of each image, where it holds few nuclei."""
    for i in range(len(samples)):
        sample = samples[i]
        top, left = ((length - side) // 2 for length in sample.targets.image_size)
        if min(top, left) < 0:
            continue
        labels = sample.targets.to_label_map()[top : top + side, left : left + side]
        masks = RLE.from_label_map(np.ascontiguousarray(labels))
        if FEWEST <= len(masks) <= MOST:
            boxes = torch.from_numpy(masks.boxes())
            own = Instances((side, side), boxes, masks, categories=sample.targets.categories)
            yield Sample(np.ascontiguousarray(sample.image[top : top + side, left : left + side]), own, sample.path)


def with_ignored(sample: Sample[Instances], folder: Path) -> Sample[Instances]:
    """With the pack's ignore map of its image as a crowd region."""
    ignored = np.asarray(Image.open(folder / f"{sample.path.stem}.png")) == 255
    if not ignored.any():
        return sample
    region = RLE.from_bitmaps(ignored[None])
    crowd = Instances(
        sample.targets.image_size, torch.from_numpy(region.boxes()), region,
        crowd=torch.tensor([True]), categories=sample.targets.categories,
    )  # fmt: skip
    return replace(sample, targets=Instances.cat([sample.targets, crowd]))


def counted(found: Instances, target: Instances) -> tuple[RLE, RLE]:
    """Predicted and true masks without what lies in a crowd region; what lies there for the most part is no object."""
    masks = found.masks.to_rle()  # type: ignore[union-attr]
    true = target.gt_masks.to_rle()
    if not bool(target.crowd.any()):
        return masks, true
    ignored = true[target.crowd.numpy()].union().decode()[0]
    bitmaps = masks.decode()
    left = bitmaps & ~ignored
    kept = left.sum((1, 2)) * 2 > bitmaps.sum((1, 2))
    return RLE.from_bitmaps(left[kept]), true[~target.crowd.numpy()]


def recipe(name: str, place: Where, steps: int) -> Any:
    """The same for every system."""
    from eachmask.data.transforms.crop import LargeScaleJitter
    from eachmask.models import model_class
    from eachmask.recipes.auto_recipe import PhotoAugment
    from eachmask.structures import Preprocess
    from eachmask.training.pretrained import FromBackbone
    from eachmask.training.recipe import Recipe
    from eachmask.weights.from_efficientnet_lite import MEAN, STD

    grown = place.side / place.window  # scale 1 fits the image into the window
    return Recipe(
        variant=name,
        preprocess=Preprocess(mean=MEAN, std=STD, short_side=place.side, long_side=place.side),
        augment=PhotoAugment(LargeScaleJitter(size=(place.window, place.window), scale=(0.8 * grown, 1.25 * grown))),
        score=model_class(name).task.scoring.scores,
        best="ap",
        start=FromBackbone("clicks"),
        steps=steps,
        batch_size=BATCH,
        learning_rate=1e-3,
        weight_decay=0.05,
        warmup_steps=20,
        frozen_stages=3,
        ema_decay=0.97,
        evaluate_every=steps,
    )


def measure(name: str, on: str, options: argparse.Namespace) -> dict[str, Any]:
    """Train and score one system; images that are scored were never learnt from."""
    from eachmask.inference.load import load
    from eachmask.metrics.counting import counting
    from eachmask.metrics.coverage import coverage
    from eachmask.training.loop import train
    from eachmask.training.recipe import Run

    learnt, scored = images_of(on, options.packs)
    run = Run(RESULTS / on / f"{name}-{options.steps}", seed=0)
    begin = time.perf_counter()
    path = train(recipe(name, PLACES[on], options.steps), learnt, Images(scored.samples[:1]), run)
    seconds = time.perf_counter() - begin
    predictor = load(path, device="cpu", precision="fp32")
    pairs, milliseconds = [], []
    for sample in scored.samples:
        begin = time.process_time()
        found = predictor.predict(sample.image)
        milliseconds.append(1000 * (time.process_time() - begin))
        pairs.append(counted(found, sample.targets))
    row: dict[str, Any] = counting(pairs) | coverage(pairs)
    for key, chosen in (
        ("sbd_few", [pair for pair in pairs if len(pair[1]) <= FEW]),
        ("sbd_many", [pair for pair in pairs if len(pair[1]) > FEW]),
    ):
        row[key] = counting(chosen)["sbd"]
    parameters = sum(p.numel() for p in predictor.model.parameters()) / 1e6
    return row | {"ms": median(milliseconds), "parameters (M)": parameters, "train s": seconds, "images": len(pairs)}


def run_one(name: str, options: argparse.Namespace) -> None:
    """In a process of its own, unless it is done; a failure is told and does not stop the rest."""
    if name in rows(options.on, options.steps):
        return
    command = [sys.executable, __file__, "--one", name, "--on", options.on, "--steps", str(options.steps)]
    command += ["--packs", str(options.packs)] if options.packs else []
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    how = f"failed: {done.stderr[-2000:]}" if done.returncode else "done"
    print(f"{name} {how}", file=sys.stderr, flush=True)
    if not done.returncode:
        kept = json.loads(KEPT.read_text()) if KEPT.is_file() else {}
        kept.setdefault(options.on, {}).setdefault(str(options.steps), {})[name] = json.loads(
            done.stdout.strip().splitlines()[-1]
        )
        write_text(KEPT, json.dumps(kept, indent=1) + "\n")


def rows(on: str, steps: int) -> dict[str, dict[str, Any]]:
    """What is done, the best SBD first."""
    kept = json.loads(KEPT.read_text()) if KEPT.is_file() else {}
    found = kept.get(on, {}).get(str(steps), {})
    return dict(sorted(found.items(), key=lambda item: -item[1]["sbd"]))


def table(on: str, steps: int) -> str:
    """What was learnt in so many steps from that data."""
    place = PLACES[on]
    lines = [
        f"`python benchmarks/proposal_free.py --on {on} --steps {steps}`: {steps} steps of {BATCH} windows of "
        f"{place.window} px from {place.said}.",
        "",
        "| system | " + " | ".join(COLUMNS.values()) + " | published |",
        "|---|" + "---|" * (len(COLUMNS) + 1),
    ]
    for name, row in rows(on, steps).items():
        cells = [f"{row[key]:.0f}" if key == "ms" else f"{row[key]:.3f}" for key in COLUMNS]
        said = next((words for start, words in PUBLISHED.items() if name.startswith(start)), "-")
        lines.append(f"| `{name}` | " + " | ".join(cells) + f" | {said} |")
    return "\n".join(lines)


def section() -> str:
    """Of docs/methods.md."""
    kept = json.loads(KEPT.read_text())
    lines = [
        "## Systems without proposals",
        "",
        "Leaves, plants and nuclei, at each model's own threshold. The backbone is a bundled model's on",
        "EfficientNet-Lite0 (`clicks`; of these rows an earlier `objects`), its first three stages fixed. One run",
        "each, one thread, CPU time. Published figures are the papers', under their own conditions, and were not",
        "checked again.",
    ]
    for on in PLACES:
        if on in kept:
            lines += ["", f"### {HEADINGS[on]}"]
        for steps in sorted(kept.get(on, {}), key=int):
            lines += ["", table(on, int(steps))]
    return "\n".join([START, *lines, END])


def write() -> None:
    """Exchange the section of docs/methods.md, or add it at the end."""
    path = ROOT / "docs" / "methods.md"
    before, _, rest = path.read_text(encoding="utf-8").partition(START)
    after = rest.partition(END)[2] or "\n"
    path.write_text(f"{before.rstrip()}\n\n{section()}{after}", encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--on", default="rosettes", choices=list(PLACES))
    parser.add_argument("--packs", type=Path, help="folder with the packs")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--only", nargs="*", default=[], help="variants; all light ones by default")
    parser.add_argument("--write", action="store_true", help="put the tables of what is done into docs/methods.md")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.one, options.on, options)))
        return 0
    for name in options.only or systems():
        run_one(name, options)
    if options.write:
        write()
    print(json.dumps(rows(options.on, options.steps)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
