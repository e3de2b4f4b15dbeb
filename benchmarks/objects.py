"""Scores and speed of the bundled ``objects`` model on photographs.

    python benchmarks/objects.py --data ../shared/data/coco-mini [--split val] [--model objects] [--no-speed]
                                 [--side 416] [--precision fp32] [--plain] [--page docs/images/objects-val.jpg]

Every photograph is predicted as a user would: from its file, through ``eachmask.load(...).predict``. Scores are COCO
mask AP: over all objects as one class, by size, over the 12 supercategories, and of persons alone; calibration is the
expected error of the score as a probability of IoU >= 0.5. Of the objects that a user is shown and that are objects:
the share that gets one of COCO's 80 names, and how many of these names are right. Of all that are shown: the share that
says a better one again, by an IoU above 0.5 or since nine tenths of one lie in the other. Speed is image in to RLE out
on two threads, against torchvision's ``maskrcnn_resnet50_fpn`` (random weights, 20 masks kept) + pycocotools on the
same files, each in a process of its own. ``--side`` makes the photographs' longer side another number of pixels;
``--precision`` is of our arithmetic (auto: bf16 on CPUs that compute in it); with ``--plain`` masks
do not rank the detections and boxes that overlap by 0.6 are suppressed, as FCOS does it. ``--page`` draws ten of the
photographs, without the photographs: what is annotated beside what is shown to a user.

The last line is JSON: ``ap``, ``ap50``, ``ar100``, ``supercategory_ap``, ``person_ap``, ``ms_per_image``, ``speedup``
and more; scores are fractions 0..1.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import sys
import time
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from peak_memory import peak_mb

TIMED = 12
"""Photographs that are timed."""


@dataclass(frozen=True)
class Subject:
    """What is measured: a model, perhaps with other choices than its file's."""

    model: str
    """Name or file."""
    side: int | None
    precision: str
    plain: bool

    def load(self) -> Any:
        import eachmask

        predictor = eachmask.load(self.model, side=self.side, precision=self.precision)
        if self.plain:
            from eachmask.models.config import changed

            predictor.model.config = changed(predictor.model.config, {"ranking": {"sigma": None}, "nms_threshold": 0.6})
        return predictor


def scores(predictor: Any, data: Path, split: str, page: Path | None) -> dict[str, float]:
    """Predict the split and measure; perhaps draw ten of it."""
    from rich.progress import track

    from eachmask.data.classes import supercategories
    from eachmask.data.matching import match_categories
    from eachmask.data.reading import read_any
    from eachmask.metrics.calibration import calibration
    from eachmask.metrics.coco_ap import coco_ap
    from eachmask.metrics.coco_matches import match
    from eachmask.metrics.sweep import sweep

    original = read_any(data)[0]
    annotated = supercategories(original)
    samples = annotated.splits[split]
    names = {category.name: label for label, category in enumerate(samples.categories)}
    lookup, _ = match_categories(predictor.categories, samples.categories)
    found, targets, named_right = [], [], []
    shown_from = predictor.decode_options().score_threshold or 0.0
    for index in track(range(len(samples)), description="predicting", disable=not sys.stderr.isatty()):
        sample = samples[index]
        instances = predictor.predict(sample.path, options=predictor.ranked_options())
        instances.masks = instances.masks.to_rle()
        named_right += names_right(
            instances.filter(score=shown_from), original.splits[split][index].targets, original.categories
        )
        instances.labels = instances.labels.new_tensor([lookup[label] for label in instances.labels.tolist()])
        found.append(instances)
        targets.append(sample.targets)
        assert original.splits[split][index].path == sample.path
    anything = coco_ap(found, targets, class_agnostic=True)
    named = coco_ap(found, targets)
    person = [i[i.labels == names["person"]] for i in found], [t[t.labels == names["person"]] for t in targets]
    one = [_one_class(i) for i in found], [_one_class(t) for t in targets]
    figures = {key: anything[key] for key in ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large", "ar100",
                                              "ar_small", "ar_medium", "ar_large")}  # fmt: skip
    figures |= {"supercategory_ap": named["ap"], "supercategory_ap50": named["ap50"]}
    figures |= {"person_ap": coco_ap(*person)["ap"], "person_ap50": coco_ap(*person)["ap50"]}
    matches = match(*one, num_classes=1)
    figures["calibration_error"] = calibration(matches).ece
    best = sweep(matches)
    assert best is not None
    figures |= {"best_f1": best.best_f1, "best_threshold": best.best_threshold}
    given = [right for right in named_right if right is not None]
    figures |= {"fine_named": len(given) / max(1, len(named_right)), "fine_right": sum(given) / max(1, len(given))}
    shown = [instances.filter(score=shown_from) for instances in found]
    figures["shown"] = sum(map(len, shown))
    figures["duplicates"] = sum(map(repeated, shown)) / max(1, figures["shown"])
    real = [target[~target.crowd] for target in targets]
    figures["annotated_duplicates"] = sum(map(repeated, real)) / max(1, sum(map(len, real)))
    figures["images"] = len(samples)
    if page is not None:
        annotations = [replace(p.targets, categories=original.categories) for p in original.splits[split]]
        draw(shown, annotations, [p.path.stem for p in original.splits[split]], page)
    return figures


def repeated(shown: Any) -> int:
    """How many of one image's objects, the best first, lie over a better one, in it or around it."""
    iou, common, areas = shown.masks.iou(shown.masks), shown.masks.intersection(shown.masks), shown.masks.area()
    alike = (iou > 0.5) | (common > 0.9 * np.minimum(areas[:, None], areas))
    return int(np.tril(alike, -1).any(1).sum())


def names_right(shown: Any, targets: Any, categories: Any) -> list[bool | None]:
    """Of each shown object that is one (mask IoU >= 0.5): whether its narrowest name is right; None where the model
    only says of what kind it is."""
    if not len(shown) or not len(targets):
        return []
    overlap = shown.masks.iou(targets.masks)
    best = overlap.argmax(1)
    labels, wide = targets.labels.tolist(), {category.parent for category in shown.categories}
    return [
        None if name in wide else name == categories[labels[best[i]]].name
        for i, name in enumerate(shown.label_names)
        if overlap[i, best[i]] >= 0.5
    ]


def draw(shown: list[Any], annotations: list[Any], names: list[str], page: Path) -> None:
    """Ten pairs of silhouettes, annotated and shown, at even ranks from the best image to the worst.

    Ranks are those of the images in an evaluation's report.
    """
    from PIL import Image, ImageDraw, ImageFont

    from eachmask.draw import overlay, shrink, write_names
    from eachmask.evaluation.gallery import ranking
    from eachmask.tasks.instances import INSTANCES

    order, verdicts = ranking(INSTANCES, shown, annotations)
    chosen = [order[round(k * (len(order) - 1) / 9)] for k in range(10)]
    side, line = 300, 22
    rows = []
    for i in chosen:
        pair = []
        for instances in (annotations[i][~annotations[i].crowd], shown[i]):
            blank = np.full((*instances.image_size, 3), 235, np.uint8)
            small, drawn = shrink(blank, replace(instances, keypoints=None), side - 8)
            pair.append(Image.fromarray(write_names(overlay(small, drawn), drawn)))
        row = Image.new("RGB", (2 * side, pair[0].height + line + 8), "white")
        said = f"{names[i]}: {verdicts[i].words}"
        ImageDraw.Draw(row).text((4, 3), said, fill="black", font=ImageFont.load_default(13))
        row.paste(pair[0], (4, line))
        row.paste(pair[1], (side + 4, line))
        rows.append(row)
    columns = [rows[:5], rows[5:]]
    sheet = Image.new("RGB", (4 * side, max(sum(row.height for row in column) for column in columns)), "white")
    for x, column in enumerate(columns):
        y = 0
        for row in column:
            sheet.paste(row, (2 * side * x, y))
            y += row.height
    page.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(page, quality=80)


def _one_class(instances: Any) -> Any:
    return replace(instances, labels=instances.labels * 0)


# Speed ----------------------------------------------------------------------------------------------------------------


def live(who: str, subject: Subject, threads: int, line: Connection) -> None:
    """Answer file names with (seconds, peak resident MB) until None comes."""
    os.environ["OMP_NUM_THREADS"] = str(threads)
    run = _torchvision() if who == "torchvision" else _eachmask(subject)
    import torch

    torch.set_num_threads(threads)
    while (name := line.recv()) is not None:
        begin = time.perf_counter()
        run(name)
        line.send((time.perf_counter() - begin, peak_mb()))


def _eachmask(subject: Subject) -> Any:
    predictor = subject.load()
    return lambda name: predictor.predict(name).masks.to_rle()


def _torchvision() -> Any:
    import torch
    from PIL import Image
    from pycocotools.mask import encode
    from torchvision.models.detection import maskrcnn_resnet50_fpn

    torch.manual_seed(0)
    model = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, box_score_thresh=0.0).eval()

    @torch.inference_mode()
    def run(name: str) -> Any:
        image = torch.from_numpy(np.array(Image.open(name).convert("RGB"))).permute(2, 0, 1) / 255
        masks = model([image])[0]["masks"][:20, 0] > 0.5
        return encode(np.asfortranarray(masks.permute(1, 2, 0).numpy().astype(np.uint8)))

    return run


def speed(subject: Subject, files: list[str], threads: int) -> dict[str, float]:
    """Median milliseconds of both sides on the same files, taking turns; each has seen all sizes of images before."""
    context = multiprocessing.get_context("spawn")
    lines, seconds, memory = {}, {"torchvision": [], "eachmask": []}, {}
    for who in seconds:
        ours, theirs = context.Pipe()
        context.Process(target=live, args=(who, subject, threads, theirs), daemon=True).start()
        lines[who] = ours
    for i, name in enumerate([*files, *files]):
        for who, line in lines.items():
            line.send(name)
            taken, memory[who] = line.recv()
            if i >= len(files):
                seconds[who].append(taken)
    for line in lines.values():
        line.send(None)
    ms = {who: 1000 * statistics.median(values) for who, values in seconds.items()}
    return {
        "ms_per_image": round(ms["eachmask"], 1),
        "ms_per_image_torchvision": round(ms["torchvision"], 1),
        "speedup": round(ms["torchvision"] / ms["eachmask"], 2),
        "peak_mb": round(memory["eachmask"]),
        "peak_mb_torchvision": round(memory["torchvision"]),
        "threads": threads,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the coco-mini pack")
    parser.add_argument("--split", default="val", choices=["train", "val"])
    parser.add_argument("--model", default="objects", help="name or file")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--no-speed", action="store_true")
    parser.add_argument("--no-scores", action="store_true")
    parser.add_argument("--side", type=int, help="longer side of what the network sees, px, instead of the file's")
    parser.add_argument("--precision", default="auto", choices=["auto", "fp32", "bf16"])
    parser.add_argument("--plain", action="store_true", help="without the ranking by masks")
    parser.add_argument("--page", type=Path, help="draw ten of the photographs' annotated and found objects here")
    options = parser.parse_args()
    subject = Subject(options.model, options.side, options.precision, options.plain)
    figures: dict[str, float] = {}
    if not options.no_scores:
        figures |= scores(subject.load(), options.data, options.split, options.page)
    if not options.no_speed:
        files = sorted(str(p) for p in (options.data / "images" / options.split).glob("*.jpg"))[:TIMED]
        figures |= speed(subject, files, options.threads)
    for name, value in figures.items():
        print(f"{name:<26}{value:.4f}" if isinstance(value, float) else f"{name:<26}{value}")
    print(json.dumps({name: round(value, 4) for name, value in figures.items()}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
