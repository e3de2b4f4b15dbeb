"""Everything mode of SAM, ViT-B, against the authors' automatic mask generator: seconds and peak memory.

    python benchmarks/everything.py --side 4000 --points 8 --reference FOLDER

Both look at one made image with the same random weights and settings, each in a process of its own. FOLDER is where the
authors' package lies (``pip install --no-deps --target FOLDER segment-anything``); without it only ours is measured.
Random weights judge their masks at random, so the head that predicts IoUs is shifted to let about half of them pass.
The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from typing import Any

import numpy as np
import torch
from peak_memory import peak_mb
from torch import Tensor

IOU, STABILITY = 0.88, 0.3


def made_image(side: int) -> np.ndarray:
    """(side, side, 3) uint8: smooth noise."""
    import cv2

    coarse = np.random.default_rng(0).integers(0, 255, (24, 24, 3), dtype=np.uint8)
    return cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC)


def shifted(state: dict[str, Tensor], name: str) -> None:
    """Predicted IoUs around the threshold."""
    state[f"{name}.weight"] *= 0.12
    state[f"{name}.bias"] += IOU


def ours(side: int, points: int) -> dict[str, Any]:
    """Of the package."""
    from eachmask.inference.everything import EverythingConfig
    from eachmask.inference.prompt_predictor import PromptPredictor
    from eachmask.models.promptable.sam import PREPROCESS, sam_vit_b
    from eachmask.weights.coco_categories import ANYTHING
    from eachmask.weights.header import ModelInfo

    torch.manual_seed(0)
    model = sam_vit_b()
    state = model.state_dict()
    shifted(state, "decoder.iou.layers.2")
    info = ModelInfo("sam_vit_b", preprocess=PREPROCESS, categories=ANYTHING)
    predictor = PromptPredictor(model, info, device="cpu", precision="fp32", in_place=True)
    config = EverythingConfig(points_per_side=points, iou_threshold=IOU, stability_threshold=STABILITY)
    image = made_image(side)
    start = time.perf_counter()
    found = predictor.everything(image, config=config)
    return {"seconds": time.perf_counter() - start, "masks": len(found)}


def theirs(side: int, points: int) -> dict[str, Any]:
    """Of the authors' package."""
    from segment_anything import SamAutomaticMaskGenerator, sam_model_registry

    torch.manual_seed(0)
    model = sam_model_registry["vit_b"]().eval()
    shifted(model.state_dict(), "mask_decoder.iou_prediction_head.layers.2")
    generator = SamAutomaticMaskGenerator(
        model,
        points_per_side=points,
        pred_iou_thresh=IOU,
        stability_score_thresh=STABILITY,
        output_mode="uncompressed_rle",
    )
    image = made_image(side)
    start = time.perf_counter()
    with torch.no_grad():
        found = generator.generate(image)
    return {"seconds": time.perf_counter() - start, "masks": len(found)}


def measured(which: str, options: argparse.Namespace) -> dict[str, Any]:
    """In a process of its own."""
    command = [sys.executable, __file__, "--only", which, "--side", str(options.side), "--points", str(options.points)]
    command += ["--threads", str(options.threads), "--reference", options.reference]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    return json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else {"failed": done.returncode}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=4000, help="of the image, px")
    parser.add_argument("--points", type=int, default=8, help="along each side of the grid")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--reference", default="", help="folder of the authors' package")
    parser.add_argument("--only", choices=("ours", "theirs"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.reference:
        sys.path.append(options.reference)
    if options.only:
        result = (ours if options.only == "ours" else theirs)(options.side, options.points)
        print(json.dumps(result | {"peak_mb": round(peak_mb())}))
        return
    results = {"ours": measured("ours", options)}
    if options.reference:
        results["theirs"] = measured("theirs", options)
        if all("seconds" in one for one in results.values()):
            results["times_faster"] = round(results["theirs"]["seconds"] / results["ours"]["seconds"], 2)
    print(json.dumps({"side": options.side, "points": options.points, **results}))


if __name__ == "__main__":
    main()
