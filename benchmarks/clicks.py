"""The bundled ``clicks`` model against GrabCut, geodesic distances and random walks, all with the same rule of clicks.

    python benchmarks/clicks.py [--packs FOLDER] [--model clicks] [--objects 150] [--no-baselines] [--out FOLDER]

FOLDER holds the packs ``grabcut50`` (one object in each of its photographs) and ``coco-mini``. Objects of coco-mini's
val photographs whose box is more than 32 px long and wide are asked about, the four largest of each photograph, evenly
thinned out to --objects. Writes a page with curves. The last line is JSON: of grabcut50 noc85, noc90 (at most 20
clicks), iou1, iou3, iou5 and noc85_grabcut; box_iou of coco-mini; embed_ms, click_ms and clicks64_ms (64 at once) of an
image of 640 x 480 px, which are all without --packs; and under ``all`` everything by data set and method.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

import eachmask
from eachmask.data.sample import Sample
from eachmask.evaluation.interactive import Bits, ByPredictor, ask_all, curve_chart, numbers_of
from eachmask.files import html
from eachmask.files.atomic import write_text
from eachmask.metrics.clicks import mean_curve
from eachmask.ops.clicks import Click
from eachmask.structures import RLE, Instances, Prompts

RADIUS = 5
"""Of the disk that a click marks for the baselines, px."""
REDUCED = 256
"""Longer side at which random walks and geodesic distances are computed, px."""
SMALLEST = 32


class Listed:
    """Samples in memory, as data sets give them."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        return self.samples[index]

    def targets(self, index: int) -> Instances:
        return self.samples[index].targets

    def path(self, index: int) -> Path:
        return self.samples[index].path


def grabcut50(folder: Path) -> Listed:
    """Photographs with one object each; the band around it does not count."""
    samples = []
    for path in sorted((folder / "images").glob("*")):
        (mask,) = (folder / "masks").glob(f"{path.stem}.*")
        labels = np.asarray(Image.open(mask).convert("L"))
        masks = RLE.from_bitmaps(np.stack([labels == 255, labels == 128]))
        targets = Instances(
            labels.shape, torch.from_numpy(masks.boxes()), masks, crowd=torch.tensor([False, True])
        )  # fmt: skip
        samples.append(Sample(np.asarray(Image.open(path).convert("RGB")), targets, path))
    return Listed(samples)


def coco_mini(folder: Path, most: int) -> Listed:
    """Val photographs with those of their objects that are large enough; about so many objects in all."""
    data = eachmask.data.read(folder / "instances_val.json")
    (split,) = data.splits.values()
    samples, number = [], 0
    for i in range(len(split)):
        targets = split.targets(i)
        sides = targets.boxes[:, 2:] - targets.boxes[:, :2]
        kept = (sides > SMALLEST).all(1) & ~targets.crowd
        areas = torch.from_numpy(np.asarray(targets.gt_masks.area())) * kept
        order = torch.argsort(areas, descending=True, stable=True)[: min(4, int(kept.sum()))]
        chosen = torch.cat([order, torch.nonzero(targets.crowd).flatten()])
        if len(order):
            number += len(order)
            samples.append((i, chosen))
    step = max(1, round(number / most))
    result = []
    for i, chosen in samples[::step]:
        sample = split[i]
        result.append(Sample(sample.image, sample.targets[chosen], sample.path))
    return Listed(result)


# Baselines ------------------------------------------------------------------------------------------------------------


def seeds(clicks: Sequence[Click], shape: tuple[int, int], scale: float = 1.0) -> NDArray[np.uint8]:
    """1 on disks around clicks on the object, 2 on those beside it and, without any of these, on the image's border."""
    labels = np.zeros(shape, np.uint8)
    if all(click.positive for click in clicks):
        labels[[0, -1]] = labels[:, [0, -1]] = 2
    for click in clicks:
        center = (min(round(click.column * scale), shape[1] - 1), min(round(click.row * scale), shape[0] - 1))
        cv2.circle(labels, center, max(1, round(RADIUS * scale)), 1 if click.positive else 2, cv2.FILLED)
    return labels


@dataclass
class GrabCut:
    """OpenCV's GrabCut (Rother et al., 2004): clicks are sure, the rest begins as what was answered before."""

    image: NDArray[np.uint8]

    def clicks(self, clicks: Sequence[Click], previous: Bits | None) -> Bits:
        shape = self.image.shape[:2]
        sure = seeds([c for c in clicks], shape)
        if previous is None or not previous.any():
            near = np.zeros(shape, np.uint8)
            for click in clicks:
                cv2.circle(near, (click.column, click.row), min(shape) // 4, 1, cv2.FILLED)
            previous = near.astype(bool)
        labels = np.where(previous, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
        labels[sure == 1], labels[sure == 2] = cv2.GC_FGD, cv2.GC_BGD
        models = np.zeros((1, 65)), np.zeros((1, 65))
        cv2.setRNGSeed(0)
        try:
            cv2.grabCut(self.image[..., ::-1].copy(), labels, None, *models, 3, cv2.GC_INIT_WITH_MASK)
        except cv2.error:  # too few pixels of one kind for its mixtures
            return sure == 1
        return (labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD)

    def box(self, box: Sequence[float]) -> Bits:
        x1, y1, x2, y2 = (int(v) for v in box)
        labels = np.zeros(self.image.shape[:2], np.uint8)
        models = np.zeros((1, 65)), np.zeros((1, 65))
        cv2.setRNGSeed(0)
        try:
            cv2.grabCut(
                self.image[..., ::-1].copy(), labels, (x1, y1, x2 - x1, y2 - y1), *models, 5, cv2.GC_INIT_WITH_RECT
            )
        except cv2.error:
            labels[y1:y2, x1:x2] = cv2.GC_FGD
        return (labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD)


class Reduced:
    """What is computed on a smaller image."""

    def __init__(self, image: NDArray[np.uint8]) -> None:
        height, width = image.shape[:2]
        self.size, self.scale = (height, width), min(1.0, REDUCED / max(height, width))
        small = (max(8, round(width * self.scale)), max(8, round(height * self.scale)))
        self.image = cv2.resize(image, small, interpolation=cv2.INTER_AREA).astype(np.float32) / 255

    def enlarged(self, inside: NDArray[np.float32]) -> Bits:
        """Values (h, w) -> where they are above 0 at full size."""
        return np.asarray(cv2.resize(inside, self.size[::-1], interpolation=cv2.INTER_LINEAR) > 0)


class Geodesic(Reduced):
    """Each pixel goes to the clicks that are nearer along paths that avoid edges (Bai & Sapiro, 2007)."""

    def __init__(self, image: NDArray[np.uint8]) -> None:
        super().__init__(image)
        smooth = cv2.GaussianBlur(self.image, (0, 0), 1)
        edges = sum(np.hypot(*np.gradient(smooth[..., i])) for i in range(3))
        self.costs = 0.01 + np.asarray(edges)

    def clicks(self, clicks: Sequence[Click], previous: Bits | None) -> Bits:
        from skimage.graph import MCP_Geometric

        labels = seeds(clicks, self.costs.shape, self.scale)
        near, far = (MCP_Geometric(self.costs).find_costs(np.argwhere(labels == kind))[0] for kind in (1, 2))
        return self.enlarged((far - near).astype(np.float32))


class RandomWalker(Reduced):
    """Each pixel goes to the clicks that a random walk from it reaches first (Grady, 2006; scikit-image)."""

    def clicks(self, clicks: Sequence[Click], previous: Bits | None) -> Bits:
        from skimage.segmentation import random_walker

        labels = seeds(clicks, self.image.shape[:2], self.scale)
        walked = random_walker(self.image, labels, beta=400, mode="cg_j", channel_axis=-1, return_full_prob=True)
        return self.enlarged((walked[0] - walked[1]).astype(np.float32))


# Speed ----------------------------------------------------------------------------------------------------------------


def speed(predictor: Any) -> dict[str, float]:
    """Milliseconds (medians of 5) with a photograph of 640 x 480 px: to look, to answer a click, to answer 64."""
    image = cv2.resize(np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8), (640, 480))
    many = torch.rand(64, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor([640.0, 480.0])
    one, all_of_them = Prompts((480, 640), points=many[:1]), Prompts(
        (480, 640), points=many, point_objects=torch.arange(64)
    )  # fmt: skip
    embedded = predictor.embed(image)
    tasks = {
        "embed_ms": lambda: predictor.embed(image),
        "click_ms": lambda: predictor.predict(embedded, one),
        "clicks64_ms": lambda: predictor.predict(embedded, all_of_them),
    }
    return {name: 1000 * median(_seconds(task) for _ in range(5)) for name, task in tasks.items()}


def _seconds(task: Any) -> float:
    start = time.perf_counter()
    task()
    return time.perf_counter() - start


def main() -> None:
    """Run all, print a row each, and JSON last."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--packs", type=Path, help="folder of the packs; without it times alone are measured")
    parser.add_argument("--model", default="clicks")
    parser.add_argument("--objects", type=int, default=150)
    parser.add_argument("--baselines", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--out", type=Path, default=Path("results/clicks"))
    options = parser.parse_args()
    predictor: Any = eachmask.load(options.model, device="cpu")
    if options.packs is None:
        print(json.dumps(speed(predictor)))
        return
    methods: dict[str, Any] = {"clicks": ByPredictor(predictor)}
    if options.baselines:
        methods |= {"grabcut": GrabCut, "geodesic": Geodesic, "random_walker": RandomWalker}
    sets = {"grabcut50": grabcut50(options.packs / "grabcut50")}
    sets["coco-mini"] = coco_mini(options.packs / "coco-mini", options.objects)
    everything: dict[str, dict[str, Any]] = {}
    panels = []
    for data, samples in sets.items():
        curves = {}
        for name, look in methods.items():
            tried, times = ask_all(look, samples, "clicks")
            found = numbers_of(tried, times, "clicks")
            curves[name] = mean_curve([one.result for one in tried])
            if hasattr(look, "predictor") or hasattr(look, "box"):
                boxed, own = ask_all(look, samples, "boxes")
                found |= {k: v for k, v in numbers_of(boxed, own, "boxes").items() if k.startswith("box")}
            everything.setdefault(data, {})[name] = found
            print(f"{data:10} {name:14}", "  ".join(f"{k} {v:.3g}" for k, v in found.items()), flush=True)
        panels.append(html.part(data, curve_chart(curves)))
    options.out.mkdir(parents=True, exist_ok=True)
    write_text(options.out / "report.html", html.page("Clicks", html.headline("benchmark", "Clicks"), "".join(panels)))
    own, other = everything["grabcut50"]["clicks"], everything["grabcut50"].get("grabcut", {})
    result = {name: own[name] for name in ("noc85", "noc90", "iou1", "iou3", "iou5")}
    result |= {"box_iou": everything["coco-mini"]["clicks"]["box_iou"], "noc85_grabcut": other.get("noc85")}
    print(json.dumps(result | speed(predictor) | {"all": everything}))


if __name__ == "__main__":
    main()
