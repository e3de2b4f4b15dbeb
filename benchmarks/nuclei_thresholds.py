"""What prediction of the bundled ``nuclei`` model is set to: a grid of its four numbers, compared on the val images.

    python benchmarks/nuclei_thresholds.py --data ../shared/data/dsb2018 [--images 10] [--model RUN/model.safetensors]

Foreground threshold, merge distance (px of the enlarged image), score threshold and magnification are no weights but
numbers that only prediction reads. Of each combination: TP/(TP+FP+FN) at IoU 0.5 and its mean over IoU 0.5 ... 0.9,
pooled over the images; the combination with the best mean of these two is the choice. Test images are not looked at.

The best ten are printed and, as the last line, one JSON object: ``best`` with its numbers and scores, ``own`` with
those of the model's file, and how many combinations and images there were.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from rich.progress import track

import eachmask
from eachmask.data.formats.coco_read import read_coco
from eachmask.data.split import Split
from eachmask.inference.predictor import Predictor
from eachmask.recipes.nuclei import matches
from eachmask.structures import DecodeOptions, Instances

MAGNIFICATIONS = (1.2, 1.4, 1.6, 1.8)
FOREGROUNDS = (0.4, 0.5, 0.6)
DISTANCES = (4.0, 6.0, 8.0, 10.0)
SCORES = (0.5, 0.6, 0.7, 0.8)
Choice = tuple[float, float, float, float]
"""Magnification, foreground threshold, merge distance, score threshold."""


def scores(found: list[Instances], gt: list[Instances], least: float) -> dict[str, float]:
    """Of the objects whose score is at least this."""
    row = matches([instances[instances.scores >= least] for instances in found], gt)
    return {name: row[name] for name in ("match50", "match_mean")} | {"both": (row["match50"] + row["match_mean"]) / 2}


def compared(predictor: Predictor, data: Split, images: range) -> Iterator[tuple[Choice, dict[str, float]]]:
    """Every combination with its scores."""
    gt = [data.stated_targets(i) for i in images]
    options = DecodeOptions(score_threshold=min(SCORES))
    config = predictor.model.config
    settings = list(itertools.product(MAGNIFICATIONS, FOREGROUNDS, DISTANCES))
    for magnification, foreground, distance in track(settings, "comparing"):
        predictor.engine.preprocess = replace(predictor.engine.preprocess, magnification=magnification)
        predictor.model.config = replace(config, foreground_threshold=foreground, merge_distance=distance)
        found = [predictor.predict(data.path(i), options=options) for i in images]
        for least in SCORES:
            yield (magnification, foreground, distance, least), scores(found, gt, least)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the dsb2018 pack")
    parser.add_argument("--model", default="nuclei")
    parser.add_argument("--images", type=int, help="only so many of the val images")
    options = parser.parse_args()
    annotations = options.data / "instances_val.json"
    (data,) = read_coco(annotations, images=options.data / "images" / "val", strict=True).splits.values()
    predictor = eachmask.load(options.model, precision="fp32")
    config, info = predictor.model.config, predictor.info
    own = (
        info.preprocess.magnification,
        config.foreground_threshold,
        config.merge_distance,
        predictor.decode_options().score_threshold,
    )
    images = range(len(data))[: options.images]
    rows = dict(compared(predictor, data, images))
    ranked = sorted(rows, key=lambda choice: -rows[choice]["both"])
    names = ("magnification", "foreground", "distance", "score")
    print("  ".join((*names, *rows[ranked[0]])))
    for choice in ranked[:10]:
        print("  ".join(f"{value:g}" for value in choice) + "  " + "  ".join(f"{v:.4f}" for v in rows[choice].values()))

    def described(choice: Choice) -> dict[str, float]:
        return dict(zip(names, choice, strict=True)) | {k: round(v, 4) for k, v in rows.get(choice, {}).items()}

    figures = {"best": described(ranked[0]), "own": described(own), "compared": len(rows), "images": len(images)}
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
