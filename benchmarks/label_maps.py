"""Every system that labels pixels under one equal, small budget: the same body, images, steps, batch and seed.

    python benchmarks/label_maps.py --data FOLDER [--panoptic] [--steps 100] [--size 192] [--images 16]

FOLDER is a data set of label maps with the splits train and val (CamVid, the 21-class maps of VOC); with ``--panoptic``
one of panoptic maps, for the systems that tell things apart too. ``--images`` learns from the first so many alone. A
system that is done is not trained again (``OUT/FOLDER/NAME.json``), and one that was stopped resumes. A row takes one
or two minutes of one core. What is printed at last is the table, Markdown, with the relations that the papers lead one
to expect, and JSON of both.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
LITE = {"backbone": "tf_efficientnet_lite0"}
SEMANTIC: dict[str, tuple[str, dict[str, Any]]] = {
    "fcn32s_lite0": ("fcn32s_lite0", {}),
    "fcn16s_lite0": ("fcn16s_lite0", {}),
    "fcn8s_lite0": ("fcn8s_lite0", {}),
    "dilated_context_lite0": ("dilated_context_lite0", {"stride": 16}),
    "dilated_context_lite0-front_end": ("dilated_context_lite0", {"stride": 16, "dilations": []}),
    "unet_lite0-transposed": ("unet_lite0", {"up": "transposed"}),
    "unet_lite0-sub_pixel": ("unet_lite0", {"up": "sub_pixel"}),
    "unet_lite0-bilinear": ("unet_lite0", {"up": "bilinear"}),
    "deeplabv3_lite0": ("deeplabv3_lite0", {}),
    "lraspp_lite0": ("lraspp_lite0", {}),
    "semantic_fpn_lite0": ("semantic_fpn_lite0", {}),
    "pointrend_semantic_lite0": ("pointrend_semantic_lite0", {}),
    "deeplabv3plus_lite0": ("deeplabv3plus_lite0", {}),
    "pspnet_lite0": ("pspnet_lite0", {}),
    "upernet_lite0": ("upernet_lite0", {}),
    "maskformer_semantic_lite0": ("maskformer_semantic_lite0", {}),
    "mask2former_lite0_semantic": ("mask2former_lite0_semantic", {}),
    "segnet_tiny": ("segnet_tiny", {}),
    "deconvnet_tiny": ("deconvnet_tiny", {}),
    "segformer_b0": ("segformer_b0", {}),
    "sliding_window": ("sliding_window", {"widths": [8, 16, 32], "hidden": 32}),
}
"""Row -> variant and what is changed in it. EfficientNet-Lite0 is the body of all but the last four, whose own bodies
start from random numbers."""
PANOPTIC: dict[str, tuple[str, dict[str, Any]]] = {
    "panoptic_fpn_lite0": ("panoptic_fpn_lite0", {}),
    "panoptic_deeplab-lite0": ("panoptic_deeplab_mobilenet_v3_large", LITE),
    "maskformer_panoptic_lite0": ("maskformer_panoptic_lite0", {}),
    "mask2former_lite0": ("mask2former_lite0", {}),
}
RELATIONS = (
    ("a skip helps outlines: FCN-16s over 32s", "boundary_f", "fcn16s_lite0", "fcn32s_lite0"),
    ("a second one does: FCN-8s over 16s", "boundary_f", "fcn8s_lite0", "fcn16s_lite0"),
    ("skips help: FCN-8s over 32s", "miou", "fcn8s_lite0", "fcn32s_lite0"),
    ("dilated layers add context", "miou", "dilated_context_lite0", "dilated_context_lite0-front_end"),
    ("sub-pixel over transposed", "miou", "unet_lite0-sub_pixel", "unet_lite0-transposed"),
    ("points sharpen outlines", "boundary_f", "pointrend_semantic_lite0", "semantic_fpn_lite0"),
    ("a decoder sharpens DeepLab's outlines", "boundary_f", "deeplabv3plus_lite0", "deeplabv3_lite0"),
    ("U-Net over FCN-32s", "miou", "unet_lite0-transposed", "fcn32s_lite0"),
    ("U-Net over DeepLabv3", "miou", "unet_lite0-transposed", "deeplabv3_lite0"),
)
"""(In words, measure, the better one, the other one)."""
MEASURES = {
    False: {"miou": "mIoU", "fwiou": "fwIoU", "pixel_accuracy": "pixel accuracy", "boundary_f": "boundary F"},
    True: {"pq": "PQ", "sq": "SQ", "rq": "RQ", "pq_things": "PQ of things", "pq_stuff": "PQ of stuff"},
}
"""Of label maps and of panoptic ones."""
BATCH = 4
LEARNING_RATE = 1e-3


def measure(row: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Train one system, or what is missing of it, and score it on val."""
    import eachmask
    from eachmask import models
    from eachmask.data.transforms.crop import LargeScaleJitter
    from eachmask.models.config import merged
    from eachmask.recipes.auto_recipe import auto_recipe

    variant, config = (PANOPTIC if options.panoptic else SEMANTIC)[row]
    target = models.model_class(variant).task.target
    data = eachmask.data.read(options.data, target=target)
    train, val = data.splits["train"], data.splits["val"]
    train = train.take(range(options.images or len(train)))
    recipe, _ = auto_recipe(variant, train, start="backbone", size=options.size)
    recipe = replace(
        recipe,
        config=merged(recipe.config, config),
        augment=replace(recipe.augment, jitter=LargeScaleJitter((options.size, options.size), (0.75, 2.0))),
        steps=options.steps,
        batch_size=BATCH,
        learning_rate=LEARNING_RATE,
        warmup_steps=options.steps // 10,
        evaluate_every=options.steps,
    )
    begin = time.perf_counter()
    path = eachmask.train(recipe, data.with_splits({"train": train, "val": val}), folder, device="cpu", seed=0)
    seconds = time.perf_counter() - begin
    found = eachmask.evaluate(path, options.data, folder / "val", split="val", device="cpu", precision="fp32").values()
    parameters = sum(p.numel() for p in eachmask.load(path, device="cpu").model.parameters()) / 1e6
    scores = {name: found[name] for name in MEASURES[options.panoptic]}
    return scores | {"parameters": parameters, "seconds": seconds, "steps": options.steps, "images": len(train)}


def table(rows: dict[str, dict[str, Any]], measures: dict[str, str]) -> str:
    """Markdown, the best row first."""
    first = next(iter(measures))
    lines = [
        f"| system | {' | '.join(measures.values())} | parameters (M) | training, s |",
        "|---|" + "---|" * (len(measures) + 2),
    ]
    for row, values in sorted(rows.items(), key=lambda item: -item[1][first]):
        shown = " | ".join(f"{values[name]:.3f}" for name in measures)
        lines.append(f"| {row} | {shown} | {values['parameters']:.1f} | {values['seconds']:.0f} |")
    return "\n".join(lines)


def held(rows: dict[str, dict[str, Any]]) -> dict[str, bool]:
    """Each relation between two rows that are there, in words and numbers -> whether it holds."""
    return {
        f"{words}, {name} {rows[better][name]:.3f} against {rows[other][name]:.3f}": rows[better][name]
        > rows[other][name]
        for words, name, better, other in RELATIONS
        if {better, other} <= set(rows)
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--panoptic", action="store_true")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--size", type=int, default=192, help="longer side of images, and side of training windows, px")
    parser.add_argument("--images", type=int, help="learn from the first so many alone")
    parser.add_argument("--only", nargs="*", help="so many rows")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "label_maps")
    options = parser.parse_args()
    torch.set_num_threads(1)
    out = options.out / (options.data.resolve().name + (f"-{options.images}" if options.images else ""))
    out.mkdir(parents=True, exist_ok=True)
    rows: dict[str, dict[str, Any]] = {}
    for row in PANOPTIC if options.panoptic else SEMANTIC:
        file = out / f"{row}.json"
        if not file.is_file() and (options.only is None or row in options.only):
            file.write_text(json.dumps(measure(row, out / row, options), indent=1))
            print(f"{row} is done", file=sys.stderr, flush=True)
        if file.is_file():
            rows[row] = json.loads(file.read_text())
    print(table(rows, MEASURES[options.panoptic]))
    for words, true in held(rows).items():
        print(f"- {words}: {'yes' if true else 'no'}")
    print(json.dumps({"rows": rows, "relations": held(rows)}))


if __name__ == "__main__":
    main()
