"""How fast is the one-stage family, image in to RLE out, and how little memory do its masks need?

Three measurements, each part in a process of its own:

- *speed*: YOLACT-550 (ResNet-50 and 101) and SOLOv2-light (ResNet-50) beside our Mask R-CNN and torchvision's, with
  random weights, on scikit-image's photographs, preprocessing and RLE included. The statistics of the batch
  normalization are taken from the photographs, and for each photograph the score threshold is the one at which every
  system finds 100 objects, as many as it is asked for at most: the usual work after the network. Masks of random
  weights are more ragged than learnt ones, so their RLE takes longer. On the CPU in fp32, and in bf16 where it
  computes in it; on a GPU, where there is one, in fp32, fp16 and bf16, and in fp16 through ``torch.compile`` with
  CUDA graphs. Medians of the repeats; the first runs warm up.
- *suppression*: greedy, Fast and Matrix NMS on the same made detections: time, and AP.
- *memory*: 500 objects in an image of 4000 x 4000, peak of the whole process (torch's libraries included).

    python benchmarks/one_stage.py [--repeats 5] [--images coffee ...] [--threads N] [--only speed suppression memory]

A system that is not there, or that fails, is reported with the reason and does not end the run. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from peak_memory import peak_mb

IMAGES = ("astronaut", "coffee", "chelsea", "rocket")
NUM_CLASSES = 80
OBJECTS = 100


@dataclass(frozen=True)
class System:
    """A network and the size at which it sees images."""

    variant: str
    preprocess: dict[str, Any] = field(default_factory=dict)
    num_classes: int = NUM_CLASSES


SQUARE = {"fixed_size": (550, 550), "divisor": 1}
USUAL = {"short_side": 800, "long_side": 1333}
SMALL = {"short_side": 448, "long_side": 768}
SPEED = {
    "torchvision mask_rcnn": System("torchvision", USUAL),
    "mask_rcnn_r50_fpn": System("mask_rcnn_r50_fpn", USUAL),
    "yolact_r50": System("yolact_r50", SQUARE),
    "yolact_r101": System("yolact_r101", SQUARE),
    "solov2_light_r50_fpn": System("solov2_light_r50_fpn", SMALL),
}
"""Sizes are those of the papers: 800, 550 and 448 px."""
MEMORY = {
    name: System(name, preprocess, 1 if name.startswith(("fastsam", "solo", "decoupled_solo")) else NUM_CLASSES)
    for names, preprocess in (
        (
            (
                "yolact_lite0", "yolact_r50", "yolact_r101", "yolact_plus_r18", "yolact_plus_r50", "yolact_plus_r101",
            ),
            SQUARE,
        ),
        (
            (
                "mask_rcnn_lite0_fpn", "solo_lite0", "decoupled_solo_lite0", "decoupled_solo_light_r50_fpn",
                "solov2_lite0", "solov2_light_r18_fpn", "solov2_light_r50_fpn", "condinst_lite0_fpn",
                "blendmask_lite0_fpn", "centermask_lite0_fpn", "polarmask_lite0_fpn", "tensormask_lite0_fpn",
                "fastsam_lite0", "fcos_lite0_fpn", "retinanet_lite0_fpn", "yolo_v1_lite0", "yolo_v1_r18",
            ),
            SMALL,
        ),
        (("rtmdet_ins_nano", "rtmdet_ins_m", "rtmdet_ins_x"), {"short_side": 640, "long_side": 640}),
        (
            (
                "solo_r50_fpn", "decoupled_solo_r50_fpn", "solov2_r50_fpn", "solov2_r101_fpn", "solov2_r101_dcn_fpn",
                "condinst_r50_fpn",
                "blendmask_r50_fpn", "centermask_r50_fpn", "centermask_v39_fpn", "polarmask_r50_fpn",
                "tensormask_r50_fpn", "fcos_r50_fpn", "retinanet_r50_fpn",
            ),
            USUAL,
        ),
        (("fastsam_r50",), {"short_side": 1024, "long_side": 1024}),
    )
    for name in names
}  # fmt: skip
"""Each system's small and large variants at the sizes they are made for. SOLO's have one class: with random weights
nearly every cell is a candidate, for each class."""
COVERED = 0.01
"""Share of the image that a mask may have on average: 500 objects do not cover more than the image five times."""


# Networks with random weights -----------------------------------------------------------------------------------------


def photograph(name: str) -> Any:
    """One of scikit-image's sample images, (H, W, 3) uint8."""
    import skimage.data

    return getattr(skimage.data, name)()


def settle(model: Any, run: Callable[[], Any]) -> None:
    """Batch normalization gets the statistics of an image, so that activations stay in a realiztic range."""
    from torch import nn

    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
        norm.train()
    run()
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()


def predictor_of(system: System, device: str, precision: str, usual: Any = None) -> Any:
    """Ours, with repeatable random weights.

    Args:
        usual: the photograph (H, W, 3) whose statistics batch normalization gets; None: scikit-image's coffee.
    """
    from eachmask.inference.predictor import Predictor

    model, info = model_of(system, usual)
    return Predictor(model, info, device=device, precision=precision, in_place=True)  # as load does


def model_of(system: System, usual: Any = None) -> tuple[Any, Any]:
    """The network itself, and what its file says."""
    import torch

    from eachmask import models
    from eachmask.structures import Category, Preprocess
    from eachmask.weights.file import ModelInfo

    torch.manual_seed(0)
    usual = photograph("coffee") if usual is None else usual
    model = models.variant(system.variant)(num_classes=system.num_classes).eval()
    preprocess = Preprocess(**system.preprocess)
    with torch.no_grad():
        settle(model, lambda: model(preprocess([usual])))
    info = ModelInfo(
        variant=system.variant,
        preprocess=preprocess,
        categories=tuple(Category(i + 1, f"class {i}") for i in range(system.num_classes)),
    )
    return model, info


def threshold_for(count: Callable[[float], int], expected: int) -> float:
    """The highest score threshold that leaves the wanted number of objects, or 0."""
    low, high = 0.0, 1.0
    for _ in range(12):
        middle = (low + high) / 2
        low, high = (middle, high) if count(middle) >= expected else (low, middle)
    return low


def ours(system: System, device: str, precision: str, compiled: bool) -> Callable[[Any, str], int]:
    """(image, its name) -> number of objects whose RLE was made."""
    import torch

    from eachmask.structures import DecodeOptions

    predictor = predictor_of(system, device, precision)
    if compiled:
        predictor.model.forward = torch.compile(predictor.model.forward, mode="reduce-overhead")
    thresholds: dict[str, DecodeOptions] = {}

    def run(image: Any, name: str) -> int:
        if name not in thresholds:
            thresholds[name] = options_for(predictor, image, OBJECTS)
        found = predictor.predict(image, options=thresholds[name])
        return len(found.masks.to_rle().to_coco())

    return run


def options_for(predictor: Any, image: Any, objects: int, with_masks: bool = False) -> Any:
    """Options under which an image has so many objects, found with one pass of the network.

    Args:
        with_masks: also choose the masks' threshold, such that they cover no more than ``COVERED``, where that leaves
            enough objects; and see the masks in every trial, since they change the scores of some systems.
    """
    import torch

    from eachmask.inference.preprocessing import preprocessed
    from eachmask.structures import DecodeOptions

    preprocess = predictor.info.preprocess
    options = DecodeOptions(score_threshold=0.0, max_detections=objects, with_masks=with_masks)
    with torch.inference_mode(), predictor.engine.autocast():
        raw = predictor.model(preprocessed(preprocess, image, preprocess.limits(image)).to(predictor.device))

        def found(options: Any) -> Any:
            return predictor.model.decode(raw, options)[0]

        low, high = 0.5, 1.0
        for trial in range(12 if with_masks else 0):
            expected = replace(options, mask_threshold=low if trial == 0 else (low + high) / 2)
            instances = found(expected)
            if instances.masks is None or (trial == 0 and len(instances) < objects):
                break
            if len(instances) < objects:
                high = expected.mask_threshold
                continue
            options, low = expected, expected.mask_threshold
            height, width = instances.image_size
            if instances.masks.area().mean() <= COVERED * height * width:
                break

        def count(threshold: float) -> int:
            return len(found(replace(options, score_threshold=threshold)))

        return replace(options, score_threshold=threshold_for(count, objects), with_masks=True)


def torchvisions(system: System, device: str, precision: str, compiled: bool) -> Callable[[Any, str], int]:
    """torchvision's Mask R-CNN in the usual loop: model, masks > 0.5, pycocotools."""
    import numpy as np
    import torch
    from pycocotools import mask as coco_mask
    from torchvision.models.detection import maskrcnn_resnet50_fpn

    if compiled:
        raise RuntimeError("torchvision's detectors leave the graph in every step; not compiled")
    torch.manual_seed(0)
    model: Any = maskrcnn_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=NUM_CLASSES + 1, min_size=system.preprocess["short_side"]
    ).eval()

    def tensor(image: Any) -> Any:
        return torch.from_numpy(image).permute(2, 0, 1).to(device).float() / 255

    with torch.no_grad():
        model.to(device)
        settle(model, lambda: model([tensor(photograph("coffee"))]))
    dtype = {"fp32": None, "fp16": torch.float16, "bf16": torch.bfloat16}[precision]
    thresholds: dict[str, float] = {}

    @torch.inference_mode()
    def run(image: Any, name: str) -> int:
        if name not in thresholds:

            def count(threshold: float) -> int:
                model.roi_heads.score_thresh = threshold
                return len(model([tensor(image)])[0]["scores"])

            thresholds[name] = threshold_for(count, OBJECTS)
        model.roi_heads.score_thresh = thresholds[name]
        with torch.autocast(device, dtype=dtype, enabled=dtype is not None):
            (found,) = model([tensor(image)])
        masks = (found["masks"][:, 0] > 0.5).cpu().numpy().astype(np.uint8)
        return len(coco_mask.encode(np.asfortranarray(masks.transpose(1, 2, 0))))

    return run


# Speed ----------------------------------------------------------------------------------------------------------------


def time_one(name: str, device: str, precision: str, compiled: bool, args: argparse.Namespace) -> dict[str, Any]:
    """Seconds per image of one system in one precision; runs in a process of its own."""
    import torch

    torch.set_num_threads(args.threads)
    system = SPEED[name]
    build = torchvisions if system.variant == "torchvision" else ours
    run = build(system, device, precision, compiled)
    seconds, objects = {}, {}
    for name in args.images:
        image = photograph(name)
        for _ in range(3 if device == "cuda" else 1):
            objects[name] = run(image, name)
        times = []
        for _ in range(args.repeats):
            start = time.perf_counter()
            run(image, name)
            if device == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - start)
        seconds[name] = statistics.median(times)
    return {
        "images_per_second": round(len(seconds) / sum(seconds.values()), 2),
        "seconds": {k: round(v, 4) for k, v in seconds.items()},
        "objects": objects,
    }


def modes() -> list[tuple[str, str, bool]]:
    """(device, precision, compiled) that this machine can run."""
    import torch

    from eachmask.inference.devices import cpu_computes_bf16

    result = [("cpu", "fp32", False)] + ([("cpu", "bf16", False)] if cpu_computes_bf16() else [])
    if torch.cuda.is_available():
        result += [("cuda", precision, False) for precision in ("fp32", "fp16", "bf16")] + [("cuda", "fp16", True)]
    return result


def speed(args: argparse.Namespace) -> dict[str, Any]:
    """System -> mode -> images per second and the rest, or why not."""
    report: dict[str, Any] = {}
    for name in SPEED:
        if args.systems and name not in args.systems:
            continue
        report[name] = {}
        for device, precision, compiled in modes():
            mode = f"{device} {precision}{' compiled' if compiled else ''}"
            report[name][mode] = one = alone(time_one, name, device, precision, compiled, args)
            said = one.get("missing") or f"{one['images_per_second']:8.2f} images/s"
            print(f"{name:24}{mode:22}{said}", flush=True)
    return report


# Suppression ----------------------------------------------------------------------------------------------------------


def made_detections(num_images: int, copies: int) -> list[tuple[Any, Any, Any, Any, Any]]:
    """Images of ellipses with several noisy detections of each, and false ones.

    Returns:
        (targets, boxes, bitmaps (N, 128, 128), scores, labels) of each image.
    """
    import numpy as np
    import torch

    from eachmask.structures import RLE, Instances

    side, num_classes = 128, 5
    ys, xs = np.mgrid[:side, :side] + 0.5
    rng = np.random.default_rng(0)
    result = []
    for _ in range(num_images):
        count = int(rng.integers(8, 25))
        shapes = np.column_stack([rng.uniform(10, side - 10, (count, 2)), rng.uniform(5, 20, (count, 2))])
        kinds = rng.integers(0, num_classes, count)

        def drawn(ellipses: Any) -> Any:
            x, y, rx, ry = (ellipses[:, i, None, None] for i in range(4))
            return ((xs - x) / rx) ** 2 + ((ys - y) / ry) ** 2 <= 1

        gt = drawn(shapes)
        masks = RLE.from_bitmaps(gt)
        targets = Instances((side, side), torch.from_numpy(masks.boxes()), masks, torch.from_numpy(kinds))
        noisy = np.repeat(shapes, copies, axis=0)
        spread = rng.exponential(0.12, len(noisy))[:, None]
        noisy = noisy + rng.normal(size=noisy.shape) * spread * np.repeat(noisy[:, 2:], 2, axis=1)[:, [0, 2, 0, 2]]
        false = np.column_stack([rng.uniform(0, side, (count, 2)), rng.uniform(3, 25, (count, 2))])
        noisy = np.concatenate([noisy, false])
        noisy[:, 2:] = noisy[:, 2:].clip(2)
        labels = np.concatenate([np.repeat(kinds, copies), rng.integers(0, num_classes, count)])
        scores = np.concatenate([np.exp(-3 * spread[:, 0]), rng.uniform(0.05, 0.6, count)])
        scores = (scores + rng.normal(0, 0.05, len(scores))).clip(0.06, 0.999)
        bitmaps = drawn(noisy)
        boxes = RLE.from_bitmaps(bitmaps).boxes()
        result.append((targets, *(torch.from_numpy(v) for v in (boxes, bitmaps, scores.astype(np.float32), labels))))
    return result


def suppression(args: argparse.Namespace) -> dict[str, Any]:
    """Milliseconds and AP of each way to suppress, on the same detections; no more than 100 are kept."""
    import torch

    torch.set_num_threads(args.threads)
    from eachmask.metrics.coco_ap import coco_ap
    from eachmask.ops import nms
    from eachmask.structures import RLE, Instances

    def iou_of(bitmaps: Any) -> Any:
        flat = bitmaps.flatten(1).float()
        common, area = flat @ flat.T, flat.sum(1)
        return common / (area[:, None] + area[None] - common).clamp(min=1)

    def greedy_boxes(boxes: Any, iou: Any, scores: Any, labels: Any) -> Any:
        keep = nms.nms(boxes, scores, labels, 0.5)
        return keep, scores[keep]

    def fast_boxes(boxes: Any, iou: Any, scores: Any, labels: Any) -> Any:
        each = scores.new_zeros(len(scores), 5).scatter_(1, labels[:, None], scores[:, None])
        keep, _ = nms.fast_nms_of_classes(boxes, each, 0.5, 200, 0.05)
        keep = keep[scores[keep].argsort(descending=True)]
        return keep, scores[keep]

    def greedy_masks(boxes: Any, iou: Any, scores: Any, labels: Any) -> Any:
        keep = nms.mask_nms(iou * (labels[:, None] == labels[None]), scores, 0.5)
        return keep, scores[keep]

    def matrix_masks(boxes: Any, iou: Any, scores: Any, labels: Any) -> Any:
        faded = nms.matrix_nms(iou, scores, labels)
        keep = faded.argsort(descending=True)
        keep = keep[faded[keep] > 0.05]
        return keep, faded[keep]

    ways = {"greedy boxes": greedy_boxes, "fast boxes": fast_boxes, "greedy masks": greedy_masks,
            "matrix masks": matrix_masks}  # fmt: skip
    images = made_detections(num_images=10 * args.repeats, copies=10)
    report: dict[str, Any] = {"detections_per_image": round(statistics.mean(len(p[3]) for p in images))}
    for device in ["cpu"] + ["cuda"] * torch.cuda.is_available():
        report[device] = {}
        for way, function in ways.items():
            times, predictions = [], []
            for targets, boxes, bitmaps, scores, labels in images:
                # Mask IoU is the same work for both; box IoU is a part of the suppression.
                inputs = [v.to(device) for v in (boxes, iou_of(bitmaps), scores, labels)]
                seconds = []
                for _ in range(3):
                    start = time.perf_counter()
                    keep, kept_scores = (v[:100].cpu() for v in function(*inputs))
                    seconds.append(time.perf_counter() - start)
                times.append(min(seconds))
                masks = RLE.from_bitmaps(bitmaps[keep].numpy())
                predictions.append(Instances(targets.image_size, boxes[keep], masks, labels[keep], kept_scores))
            kind = "bbox" if way.endswith("boxes") else "segm"
            ap = coco_ap(predictions, [p[0] for p in images], kind=kind)["ap"]  # type: ignore[arg-type]
            report[device][way] = {"milliseconds": round(1000 * statistics.median(times), 3), "ap": round(ap, 4)}
            print(f"{way:24}{device:6}{report[device][way]['milliseconds']:10.3f} ms   AP {ap:.4f}", flush=True)
        for new, old in (("fast boxes", "greedy boxes"), ("matrix masks", "greedy masks")):
            report[device][f"{new} less {old}"] = round(report[device][new]["ap"] - report[device][old]["ap"], 4)
    return report


# Memory ---------------------------------------------------------------------------------------------------------------


def prepared(name: str, usual: Any, side: int, objects: int, file: str) -> dict[str, Any]:
    """Write a model file with random weights; the options under which a large image has so many objects.

    Args:
        usual: a photograph (H, W, 3), made larger here; read elsewhere, since scikit-image needs memory too.
    """
    import cv2
    import torch

    from eachmask.inference.load import load
    from eachmask.weights.file import save_model

    torch.set_num_threads(1)
    save_model(file, *model_of(MEMORY[name], usual))
    options = options_for(load(file, device="cpu", precision="fp32"), cv2.resize(usual, (side, side)), objects, True)
    return {"options": options}


def peak_of(usual: Any, side: int, file: str, options: Any) -> dict[str, Any]:
    """Peak memory of a process that loads the model and finds the objects, as a user's would."""
    import cv2
    import torch

    from eachmask.inference.load import load

    torch.set_num_threads(1)
    image = cv2.resize(usual, (side, side))
    predictor = load(file, device="cpu", precision="fp32")
    before = peak_mb()
    found = predictor.predict(image, options=options)
    rle = None if found.masks is None else found.masks.to_rle()  # detectors have boxes only
    strings = [] if rle is None else rle.to_coco()
    result = {"peak_mb": round(peak_mb()), "loaded_mb": round(before), "objects": len(found)}
    if rle is not None:
        result["covered"] = round(float(rle.area().mean()) / side**2, 4)
        result["mb_of_rle"] = round(sum(len(one["counts"]) for one in strings) / (1 << 20), 1)
        result["mask_threshold"] = options.mask_threshold
    return result


def memory(args: argparse.Namespace) -> dict[str, Any]:
    """System -> peak of its process, or why not."""
    report: dict[str, Any] = {}
    usual = photograph("coffee")
    for name in MEMORY:
        if args.systems and name not in args.systems:
            continue
        with tempfile.TemporaryDirectory() as folder:
            file = f"{folder}/model.safetensors"
            one = alone(prepared, name, usual, args.side, args.objects, file)  # searching takes memory, too
            if "options" in one:
                one = alone(peak_of, usual, args.side, file, one["options"])
        report[name] = one
        said = one.get("missing") or f"{one['peak_mb']:6} MB for {one['objects']} objects"
        print(f"{name:28}{said}", flush=True)
    return report


# Processes ------------------------------------------------------------------------------------------------------------


def alone(function: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """The function's answer from a fresh process, or ``{"missing": why}``."""
    context = multiprocessing.get_context("spawn")
    line, theirs = context.Pipe()
    process = context.Process(target=_answer, args=(theirs, function, arguments))
    process.start()
    theirs.close()
    try:
        answer: dict[str, Any] = line.recv()
    except EOFError:
        process.join()
        answer = {"missing": f"the process ended with code {process.exitcode}"}
    process.join()
    return answer


def _answer(line: Any, function: Callable[..., dict[str, Any]], arguments: tuple[Any, ...]) -> None:
    try:
        line.send(function(*arguments))
    except Exception as error:
        said = str(error).strip().splitlines()
        line.send({"missing": f"{type(error).__name__}: {said[0] if said else ''}"[:300]})


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    listed = subprocess.run(["lscpu"], capture_output=True, text=True).stdout if sys.platform == "linux" else ""
    cpu = next((row.split(":")[1].strip() for row in listed.splitlines() if row.startswith("Model name")), "unknown")
    return {"cpu": cpu, "gpu": gpu, "torch": torch.__version__, "load": round(os.getloadavg()[0], 1)}


PARTS = {"speed": speed, "suppression": suppression, "memory": memory}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--images", nargs="+", default=list(IMAGES), help="names in skimage.data")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--systems", nargs="+", default=[], help="only these, of speed and of memory")
    parser.add_argument("--side", type=int, default=4000, help="of the image whose memory is measured")
    parser.add_argument("--objects", type=int, default=500, help="in that image")
    args = parser.parse_args()
    report = {"machine": machine(), "threads": args.threads, "repeats": args.repeats, "images": args.images}
    for part in args.only:
        print(f"-- {part}", flush=True)
        report[part] = PARTS[part](args)
    print(json.dumps(report))


if __name__ == "__main__":
    sys.exit(main())
