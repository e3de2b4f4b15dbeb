"""How fast an image becomes a label map, against torchvision's same network in the same run.

python benchmarks/semantic.py [deeplabv3_mobilenet_v3_large] [--size 520 693] [--repeats 5] [--threads 2]

Both have the same random weights and the same image, from (H, W, 3) bytes to (H, W) labels; torchvision's way is the
one that its documentation shows: normalize, forward, argmax of the logits at full size. The last line is JSON:
``speedup`` (median of the pairs, each pair measured back to back), ``peak_mb`` and ``peak_mb_peer`` (of a process that
does nothing else).
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from peak_memory import peak_mb
from torch.nn import functional as F

from eachmask import models
from eachmask.accel.lazy_dynamo import torchvision
from eachmask.inference.predictor import Predictor
from eachmask.structures import Preprocess
from eachmask.weights.coco_categories import VOC
from eachmask.weights.from_torchvision_semantic import convert
from eachmask.weights.header import ModelInfo
from eachmask.weights.renaming import fill

MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])


def image_of(size: tuple[int, int]) -> np.ndarray:
    """Smooth blobs of color, as photographs have them."""
    rng = np.random.default_rng(0)
    coarse = torch.from_numpy(rng.random((1, 3, 8, 10), np.float32))
    smooth = F.interpolate(coarse, size=size, mode="bicubic", align_corners=False).clamp(0, 1)
    return (smooth[0].permute(1, 2, 0) * 255).byte().numpy()


def peer(variant: str) -> torch.nn.Module:
    """torchvision's network with random weights, normalized so that labels vary."""
    torch.manual_seed(0)
    aux = {} if variant.startswith("lraspp") else {"aux_loss": True}
    build = getattr(torchvision().models.segmentation, variant)
    return build(weights=None, weights_backbone=None, num_classes=21, **aux).eval()


def theirs(variant: str) -> Callable[[np.ndarray], np.ndarray]:
    """torchvision's way."""
    network = peer(variant)

    def run(image: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            x = torch.from_numpy(image).permute(2, 0, 1).float() / 255
            x = (x - MEAN[:, None, None]) / STD[:, None, None]
            return network(x[None])["out"].argmax(1)[0].byte().numpy()

    return run


def ours(variant: str) -> Callable[[np.ndarray], np.ndarray]:
    """A predictor with the same weights."""
    network = models.variant(variant)(num_classes=21).eval()
    fill(network, convert(peer(variant).state_dict()))
    plain = Preprocess(short_side=None, long_side=None, divisor=1)
    predictor = Predictor(network, ModelInfo(variant, {}, plain, VOC, name=variant), device="cpu", in_place=True)
    return lambda image: predictor.predict(image).labels.numpy()


def peak_of(side: str, args: argparse.Namespace) -> float:
    """Of a process of its own, see :func:`peak_mb`."""
    command = [sys.executable, __file__, args.variant, "--size", *map(str, args.size), "--side", side]
    done = subprocess.run([*command, "--threads", str(args.threads)], capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("variant", nargs="?", default="deeplabv3_mobilenet_v3_large")
    parser.add_argument("--size", type=int, nargs=2, default=(520, 693))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--side", choices=("ours", "theirs"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    image = image_of(tuple(args.size))
    if args.side:
        run = (ours if args.side == "ours" else theirs)(args.variant)
        run(image)
        print(peak_mb())
        return
    mine, other = ours(args.variant), theirs(args.variant)
    same = float((mine(image) == other(image)).mean())
    times: list[tuple[float, float]] = []
    for _ in range(args.repeats):
        pair = []
        for run in (mine, other):
            start = time.perf_counter()
            run(image)
            pair.append(time.perf_counter() - start)
        times.append((pair[0], pair[1]))
    own, peers = (statistics.median(column) for column in zip(*times, strict=True))
    print(f"{args.variant}, {args.size[0]} x {args.size[1]}: {own * 1e3:.0f} ms, torchvision {peers * 1e3:.0f} ms")
    print(f"{same:.2%} of the labels are the same")
    result = {
        "variant": args.variant,
        "speedup": round(statistics.median(b / a for a, b in times), 2),
        "peak_mb": round(peak_of("ours", args)),
        "peak_mb_peer": round(peak_of("theirs", args)),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
