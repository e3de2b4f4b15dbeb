"""From mask probabilities and boxes to COCO RLE: ours against torchvision's pasting + pycocotools' encoding.

    python benchmarks/paste.py

100 masks of 28 x 28 on one 3000 x 4000 image, boxes of 60 to 760 px, as a detector gives them. Prints a table and, as
its last line, one JSON object: ``speedup`` (time of theirs over ours, in the compatible mode, whose pixels are theirs),
``peak_extra_mb`` (memory that ours needs besides what was there), ``iou`` (the worst of the 100 masks against theirs);
the same of the default, exact boxes, as ``speedup_accurate``, ``iou_accurate`` and ``iou_accurate_median``, and
``iou_accurate_small``, its median IoU with theirs on boxes of 8 to 16 px, where whole-pixel boxes matter most.
Each side's memory is measured in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import time

import numpy as np
import torch
from peak_memory import peak_mb

SMALL = (8.0, 16.0)
"""Sides of small boxes, px."""


def scene(
    num: int, height: int, width: int, sides_from: tuple[float, float] = (60.0, 760.0)
) -> tuple[torch.Tensor, torch.Tensor]:
    """Smooth random blobs (num, 28, 28) in 0..1 and boxes (num, 4) inside the image."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(num, 1, 7, 7, generator=generator)
    noise = torch.nn.functional.interpolate(coarse, size=(28, 28), mode="bicubic")[:, 0]
    ys, xs = torch.meshgrid(torch.linspace(-1, 1, 28), torch.linspace(-1, 1, 28), indexing="ij")
    masks = torch.sigmoid(4 * (1 - (xs**2 + ys**2) * 1.4) + 2 * noise)
    low, high = sides_from
    sides = low + (high - low) * torch.rand(num, 2, generator=generator)
    sides = torch.minimum(sides, torch.tensor([float(width), float(height)]))
    corner = torch.rand(num, 2, generator=generator) * (torch.tensor([width, height]) - sides)
    return masks, torch.cat([corner, corner + sides], dim=1)


def ours(masks: torch.Tensor, boxes: torch.Tensor, size: tuple[int, int], mode: str) -> list[dict]:
    from eachmask.structures import RoIMasks

    return RoIMasks(masks, boxes, size, paste=mode).to_rle().to_coco()  # type: ignore[arg-type]


def theirs(masks: torch.Tensor, boxes: torch.Tensor, size: tuple[int, int]) -> list[dict]:
    from pycocotools import mask as coco
    from torchvision.models.detection.roi_heads import paste_masks_in_image

    pasted = paste_masks_in_image(masks[:, None], boxes, size)[:, 0] > 0.5
    return [coco.encode(np.asfortranarray(mask.numpy().astype(np.uint8))) for mask in pasted]


def measure(which: str, num: int, size: tuple[int, int], repeats: int, pipe) -> None:
    """In a process of its own: times, extra memory and the result."""
    masks, boxes = scene(num, *size)
    small = scene(2, 64, 64)
    if which == "theirs":
        theirs(*small, (64, 64))  # imports and warms up
    else:
        ours(*small, (64, 64), which)
    before = peak_mb()
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        result = theirs(masks, boxes, size) if which == "theirs" else ours(masks, boxes, size, which)
        seconds.append(time.perf_counter() - started)
    extra = peak_mb() - before
    text = [{"size": list(r["size"]), "counts": r["counts"] if isinstance(r["counts"], str) else r["counts"].decode()}
            for r in result]  # fmt: skip
    pipe.send((statistics.median(seconds), extra, text))


def small_iou(num: int = 1000, size: tuple[int, int] = (200, 300)) -> float:
    """Median IoU of the default with torchvision's on small boxes."""
    from pycocotools import mask as coco

    masks, boxes = scene(num, *size, SMALL)
    mine, others = ours(masks, boxes, size, "accurate"), theirs(masks, boxes, size)
    return float(np.median([coco.iou([a], [b], [0])[0, 0] for a, b in zip(mine, others, strict=True)]))


def in_process(which: str, options: argparse.Namespace, repeats: int) -> tuple[float, float, list[dict]]:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    size = (options.height, options.width)
    process = context.Process(target=measure, args=(which, options.num, size, repeats, there))
    process.start()
    result = here.recv()
    process.join()
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--height", type=int, default=3000)
    parser.add_argument("--width", type=int, default=4000)
    parser.add_argument("--num", type=int, default=100, help="masks")
    parser.add_argument("--repeats", type=int, default=15, help="of ours; the median counts")
    parser.add_argument("--peer-repeats", type=int, default=2, help="of torchvision's (9.8 GB of memory each)")
    options = parser.parse_args()
    from pycocotools import mask as coco

    rows = {
        "compatible": in_process("compatible", options, options.repeats),
        "accurate": in_process("accurate", options, options.repeats),
        "theirs": in_process("theirs", options, options.peer_repeats),
    }
    reference = rows["theirs"]
    ious = {k: np.diag(coco.iou(rows[k][2], reference[2], [0] * options.num)) for k in ("compatible", "accurate")}
    print(f"{options.num} masks on {options.height} x {options.width}, {torch.get_num_threads()} threads")
    for name, label in (("compatible", "eachmask, torchvision's pixels"), ("accurate", "eachmask, exact boxes"),
                        ("theirs", "torchvision + pycocotools")):  # fmt: skip
        seconds, extra, _ = rows[name]
        iou = f"  IoU {ious[name].min():.5f} .. {ious[name].mean():.5f}" if name in ious else ""
        print(f"{label:<32} {1000 * seconds:9.1f} ms  {extra:8.0f} MB extra  {reference[0] / seconds:6.0f}x{iou}")
    figures = {
        "speedup": round(reference[0] / rows["compatible"][0], 1),
        "speedup_accurate": round(reference[0] / rows["accurate"][0], 1),
        "iou_accurate": round(float(ious["accurate"].min()), 4),
        "iou_accurate_median": round(float(np.median(ious["accurate"])), 4),
        "iou_accurate_small": round(small_iou(), 4),
        "peak_extra_mb": round(rows["compatible"][1], 1),
        "peer_peak_extra_mb": round(reference[1], 1),
        "iou": round(float(ious["compatible"].min()), 6),
        "ms": round(1000 * rows["compatible"][0], 2),
        "peer_ms": round(1000 * reference[0], 1),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
