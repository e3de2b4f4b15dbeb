"""Three generations: seconds per image of R-CNN, Fast R-CNN and Faster R-CNN, on the same images.

All three have the same backbone (EfficientNet-Lite0) and the same number of classes; the first two also have the same
proposals of selective search, whose time is counted apart, as it was in the papers. Weights are random: the work
does not depend on them. What the papers say: R-CNN pays for the network once per proposal, Fast R-CNN once per
image, and then the proposals are what takes time, until Faster R-CNN makes them with the network too.

    python benchmarks/rcnn_story.py [--short-side 300] [--proposals 300] [--crop-side 128] [--repeats 3] [--threads 1]

The papers' own setting is ``--short-side 600 --proposals 2000 --crop-side 227``. The last line is JSON: seconds per
image (medians) of each part, and how many times faster each system is than the one before.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import skimage.data
import torch

from eachmask import models
from eachmask.models.detection import fast_rcnn, rcnn
from eachmask.ops.selective_search import search_batch
from eachmask.structures import DecodeOptions, ImageBatch, Preprocess

IMAGES = ("astronaut", "coffee", "chelsea")
OPTIONS = DecodeOptions(score_threshold=0.5)  # random weights find nothing: suppression is free, for all three


def seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    """How long it took, and what came of it."""
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def image_times(systems: dict[str, Any], batch: ImageBatch) -> dict[str, float]:
    """Seconds of every part on one image."""
    times = {}
    times["selective search"], proposals = seconds(
        lambda: tuple(search_batch(batch, systems["R-CNN"].config.search.options))
    )
    model = systems["R-CNN"]
    raw: Any = rcnn.Raw(batch.tensor, proposals, batch.sizes)
    times["R-CNN, network"], _ = seconds(lambda: model.decode(raw, OPTIONS))
    fast = systems["Fast R-CNN"]
    times["Fast R-CNN, network"], _ = seconds(
        lambda: fast.decode(fast_rcnn.Raw(fast.backbone(batch.tensor), proposals, batch.sizes), OPTIONS)
    )
    faster = systems["Faster R-CNN"]
    times["Faster R-CNN, network"], _ = seconds(lambda: faster.decode(faster(batch), OPTIONS))
    return times | {"proposals": float(len(proposals[0].boxes))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short-side", type=int, default=300, help="px of the image")
    parser.add_argument("--proposals", type=int, default=300, help="at most so many, for all three")
    parser.add_argument("--crop-side", type=int, default=128, help="px of R-CNN's crops")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    search = {"strategies": "fast", "side": 500, "proposals": given.proposals}
    context = round(16 / 227 * given.crop_side)
    systems = {
        "R-CNN": models.rcnn_lite0(20, search=search, crop={"side": given.crop_side, "context": context}).eval(),
        "Fast R-CNN": models.fast_rcnn_lite0(20, search=search).eval(),
        "Faster R-CNN": models.faster_rcnn_lite0_fpn(20, rpn={"post_nms_top_n": given.proposals}).eval(),
    }
    preprocess = Preprocess(short_side=given.short_side, long_side=2 * given.short_side)
    batches = [preprocess([getattr(skimage.data, name)()]) for name in IMAGES]
    with torch.inference_mode():
        systems["Faster R-CNN"](batches[0])  # the first call warms up
        measured = [image_times(systems, batch) for _ in range(given.repeats) for batch in batches]
    parts = {name: statistics.median(m[name] for m in measured) for name in measured[0]}
    search_time = parts["selective search"]
    totals = {
        "R-CNN": search_time + parts["R-CNN, network"],
        "Fast R-CNN": search_time + parts["Fast R-CNN, network"],
        "Faster R-CNN": parts["Faster R-CNN, network"],
    }
    print(f"{'seconds per image':22}{'proposals':>12}{'network':>12}{'together':>12}")
    for name, total in totals.items():
        network = parts[f"{name}, network"]
        print(f"{name:22}{total - network:12.3f}{network:12.3f}{total:12.3f}")
    result = {
        "seconds": {name: round(total, 4) for name, total in totals.items()},
        "seconds_of_parts": {name: round(value, 4) for name, value in parts.items() if name != "proposals"},
        "proposals": parts["proposals"],
        "fast_over_rcnn": round(totals["R-CNN"] / totals["Fast R-CNN"], 2),
        "fast_network_over_rcnn_network": round(parts["R-CNN, network"] / parts["Fast R-CNN, network"], 2),
        "faster_over_fast": round(totals["Fast R-CNN"] / totals["Faster R-CNN"], 2),
        "threads": given.threads,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
