"""Every system that labels pixels under one equal, small budget: the same body, images, steps, batch and seed.

    python benchmarks/label_maps.py --data FOLDER [--steps 400] [--size 256] [--only NAME ...]

FOLDER is a data set of label maps with the splits train and val (CamVid, the 21-class maps of VOC). A system that is
done is not trained again (``results/label_maps/FOLDER/NAME.json``), and one that was stopped resumes. A row takes a few
minutes of one core. What is printed at last is the table, Markdown, and JSON: the rows, and which of the relations
that the papers lead one to expect held.
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
SYSTEMS: dict[str, tuple[str, dict[str, Any]]] = {
    **{
        name: (name, {})
        for name in (
            "fcn32s_lite0", "fcn16s_lite0", "fcn8s_lite0", "unet_lite0", "dilated_context_lite0", "deeplabv3_lite0",
            "lraspp_lite0", "deeplabv3plus_lite0", "pspnet_lite0", "upernet_lite0", "semantic_fpn_lite0",
            "pointrend_semantic_lite0", "maskformer_semantic_lite0", "mask2former_lite0_semantic",
        )
    },
    "unet_lite0-transposed": ("unet_lite0", {"up": "transposed"}),
    "unet_lite0-sub_pixel": ("unet_lite0", {"up": "sub_pixel"}),
    "segnet_tiny": ("segnet_tiny", {}),
}  # fmt: skip
"""Row -> variant and what is changed in it. All but the last have EfficientNet-Lite0 for a body."""
RELATIONS = (
    ("skips help: FCN-16s over 32s", "boundary_f", "fcn16s_lite0", "fcn32s_lite0"),
    ("skips help: FCN-8s over 16s", "boundary_f", "fcn8s_lite0", "fcn16s_lite0"),
    ("dilation enlarges context", "miou", "dilated_context_lite0", "fcn32s_lite0"),
    ("sub-pixel over transposed", "miou", "unet_lite0-sub_pixel", "unet_lite0-transposed"),
    ("points sharpen outlines", "boundary_f", "pointrend_semantic_lite0", "semantic_fpn_lite0"),
)
"""(In words, measure, the better one, the other one)."""
MEASURES = ("miou", "fwiou", "pixel_accuracy", "boundary_f")


def measure(row: str, out: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Train one system, or what is missing of it, and score it on val."""
    import eachmask
    from eachmask.models.config import merged
    from eachmask.recipes.auto_recipe import auto_recipe
    from eachmask.structures import SemanticMap

    variant, config = SYSTEMS[row]
    splits = eachmask.data.read(options.data, target=SemanticMap).splits
    recipe, _ = auto_recipe(variant, splits["train"], start=options.start, size=options.size)
    recipe = replace(
        recipe, config=merged(recipe.config, config), steps=options.steps, batch_size=4, evaluate_every=options.steps
    )
    begin = time.perf_counter()
    path = eachmask.train(recipe, options.data, out / row, val=options.data, device="cpu", seed=0)
    seconds = time.perf_counter() - begin
    found = eachmask.evaluate(path, options.data, out / row / "val", device="cpu", precision="fp32").values()
    return {name: found[name] for name in MEASURES if name in found} | {"seconds": seconds, "steps": options.steps}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--start", default="backbone", help="as of `eachmask train --start`")
    parser.add_argument("--only", nargs="*", choices=list(SYSTEMS), default=list(SYSTEMS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    out = ROOT / "results" / "label_maps" / options.data.resolve().name
    rows: dict[str, dict[str, Any]] = {}
    for row in SYSTEMS:
        file = out / f"{row}.json"
        if row in options.only and not file.is_file():
            out.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(measure(row, out, options), indent=1))
            print(f"{row} is done", file=sys.stderr, flush=True)
        if file.is_file():
            rows[row] = json.loads(file.read_text())
    print("| system |", " | ".join(MEASURES), "| seconds |\n|---|" + "---|" * (len(MEASURES) + 1))
    for row, values in rows.items():
        shown = (f"{values[name]:.3f}" if name in values else "-" for name in MEASURES)
        print(f"| `{row}` |", " | ".join(shown), f"| {values['seconds']:.0f} |")
    held = {
        words: rows[better][measured] > rows[other][measured]
        for words, measured, better, other in RELATIONS
        if {better, other} <= set(rows)
    }
    print(json.dumps({"rows": rows, "relations": held}))


if __name__ == "__main__":
    main()
