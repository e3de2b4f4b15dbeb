"""How fast is Mask R-CNN R50-FPN on the CPU: ours against torchvision's, image in to RLE out?

Both get the same random weights (repeatable, with scores spread over 0..1 and up to 100 detections per
image), the same photographs, as many threads, and torchvision's default sizes. torchvision's side is the usual
loop: model, masks > 0.5, ``pycocotools.mask.encode``. Our side is ``Predictor.predict`` as a user gets it.

Each side lives in a process of its own, so that neither lives with the other's settings or memory; the runs
alternate, so that a busy machine slows both alike; medians are compared.

    python benchmarks/predict_cpu.py [--repeats 5] [--short-side 800] [--threads N] [--images coffee ...]
                                     [--enlarged 4000]

The images have 300 to 512 rows; ``--enlarged`` makes their longer sides as long as a camera's. The networks see
them at the same size then, but masks are expected for all pixels.

The last line is JSON: ``speedup_fp32``; ``speedup_bf16`` (null on CPUs without bf16 instructions, with the
``reason``); ``changed_by_bf16``: share of the float32 detections that have no partner in the bf16 run (or the other
way round, whichever is larger) of the same class with mask IoU >= 0.9 and a score within 0.05. Without bf16
instructions it is measured with emulated bf16: inputs, weights and outputs of all layers rounded to bf16, sums in
float32, as the instructions do. Random weights make it large: their scores lie so close together that rounding decides
which hundred of thousands of boxes are kept. ``changed_by_bf16_trained`` is the same share for the bundled models, on
sample photographs and on a slide.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import sys
import time
import zlib
from multiprocessing.connection import Connection
from typing import Any

NUM_CLASSES = 90
IMAGES = ("astronaut", "coffee", "chelsea", "rocket")
TRAINED = {"objects": IMAGES, "nuclei": ("immunohistochemistry",)}
SIDES = {"torchvision": "torchvision + pycocotools", "fp32": "eachmask, float32", "bf16": "eachmask, bfloat16"}


# One side, in its own process ----------------------------------------------------------------------------------------


def live(side: str, threads: int, short_side: int, enlarged: int | None, line: Connection) -> None:
    """Answer image names with (seconds, CPU seconds, detections) until None comes."""
    os.environ["OMP_NUM_THREADS"] = str(threads)
    run = _torchvision(short_side) if side == "torchvision" else _eachmask(short_side, side)
    import torch

    torch.set_num_threads(threads)
    while (name := line.recv()) is not None:
        image = photograph(name, enlarged)
        wall, cpu = time.perf_counter(), time.process_time()
        found = run(image)
        line.send((time.perf_counter() - wall, time.process_time() - cpu, found))


def photograph(name: str, enlarged: int | None) -> Any:
    """One of scikit-image's sample images, (H, W, 3) uint8, perhaps with another longer side."""
    import cv2
    import skimage.data

    image = getattr(skimage.data, name)()
    if enlarged is None:
        return image
    scale = enlarged / max(image.shape[:2])
    return cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)


def random_weights(name: str, shape: tuple[int, ...], is_float: bool) -> Any:
    """Repeatable values that keep activations and scores in a realiztic range."""
    import torch

    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    if not is_float:
        return torch.zeros(shape, dtype=torch.int64)
    if name.endswith("running_var") or (len(shape) == 1 and name.endswith("weight")):
        scale = 0.3 if "bn3" in name and name.endswith("weight") else 1.0  # tame the residual sums
        return scale * (0.8 + 0.4 * torch.rand(shape, generator=generator))
    noise = torch.randn(shape, generator=generator)
    if len(shape) == 1:
        return 0.05 * noise
    gain = 0.3 if "cls_score" in name else 0.1 if "bbox_pred" in name else 2.0**0.5
    return noise * (gain / noise[0].numel() ** 0.5)


def _reference(short_side: int) -> Any:
    import torch
    from torchvision.models.detection import maskrcnn_resnet50_fpn

    with torch.device("meta"):
        model = maskrcnn_resnet50_fpn(
            weights=None, weights_backbone=None, num_classes=NUM_CLASSES + 1, min_size=short_side
        )
    state = {k: random_weights(k, tuple(v.shape), v.is_floating_point()) for k, v in model.state_dict().items()}
    model.load_state_dict(state, assign=True)
    return model.eval()


def _torchvision(short_side: int) -> Any:
    import numpy as np
    import torch
    from pycocotools import mask as coco_mask

    model = _reference(short_side)

    @torch.inference_mode()
    def run(image: Any) -> Any:
        tensor = torch.from_numpy(image).permute(2, 0, 1).float() / 255
        (found,) = model([tensor])
        masks = (found["masks"][:, 0] > 0.5).numpy().astype(np.uint8)
        rles = coco_mask.encode(np.asfortranarray(masks.transpose(1, 2, 0)))
        return found["boxes"].numpy(), found["scores"].numpy(), found["labels"].numpy() - 1, rles

    return run


def _eachmask(short_side: int, side: str) -> Any:
    from eachmask.inference.predictor import Predictor
    from eachmask.models.instance.mask_rcnn import mask_rcnn_r50_fpn
    from eachmask.structures import Category, DecodeOptions, Preprocess
    from eachmask.weights.file import ModelInfo
    from eachmask.weights.from_torchvision import convert

    model = mask_rcnn_r50_fpn(num_classes=NUM_CLASSES)
    model.load_state_dict(convert(_reference(short_side).state_dict()))
    info = ModelInfo(
        variant="mask_rcnn_r50_fpn",
        preprocess=Preprocess(short_side=short_side),
        categories=tuple(Category(i + 1, f"class {i}") for i in range(NUM_CLASSES)),
    )
    emulated = side == "emulated bf16"
    predictor = Predictor(model, info, device="cpu", precision="fp32" if emulated else side)
    if emulated:
        emulate_bf16(predictor.model)
    options = DecodeOptions(paste="compatible")

    def run(image: Any) -> Any:
        return _detections(predictor.predict(image, options=options))

    return run


def changed_in_trained(has_bf16: bool) -> dict[str, float]:
    """Bundled model -> share of its detections that bf16 changes."""
    import eachmask

    shares = {}
    for name, images in TRAINED.items():
        exact = eachmask.load(name, device="cpu", precision="fp32")
        rounded = eachmask.load(name, device="cpu", precision="bf16" if has_bf16 else "fp32")
        if not has_bf16:
            emulate_bf16(rounded.model)
        lost, count = 0.0, 0
        for image in images:
            a, b = (_detections(predictor.predict(photograph(image, None))) for predictor in (exact, rounded))
            size = max(len(a[1]), len(b[1]))
            lost, count = lost + changed(a, b) * size, count + size
        shares[name] = round(lost / count, 4)
    return shares


def _detections(found: Any) -> Any:
    return found.boxes.numpy(), found.scores.numpy(), found.labels.numpy(), found.masks.to_rle().to_coco()


def emulate_bf16(model: Any) -> None:
    """Round weights, inputs and outputs of every convolution and linear layer to bf16; sums stay float32."""
    import torch
    from torch import nn

    def rounded(x: Any) -> Any:
        return x.bfloat16().float() if isinstance(x, torch.Tensor) and x.is_floating_point() else x

    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            for parameter in module.parameters():
                parameter.data = rounded(parameter.data)
            module.register_forward_pre_hook(lambda _, inputs: tuple(rounded(x) for x in inputs))
            module.register_forward_hook(lambda _, __, output: rounded(output))


# All sides, in turn --------------------------------------------------------------------------------------------------


class Side:
    """A process and its connection."""

    def __init__(self, name: str, threads: int, short_side: int, enlarged: int | None) -> None:
        context = multiprocessing.get_context("spawn")
        self.line, theirs = context.Pipe()
        self.process = context.Process(target=live, args=(name, threads, short_side, enlarged, theirs), daemon=True)
        self.process.start()

    def __call__(self, image: str) -> tuple[float, float, Any]:
        self.line.send(image)
        return self.line.recv()

    def close(self) -> None:
        self.line.send(None)
        self.process.join()


def agreement(a: Any, b: Any) -> dict[str, float]:
    """How far two runs' detections of one image lie apart, in the worst pair of the best one-to-one pairing."""
    import numpy as np
    from pycocotools import mask as coco_mask
    from scipy.optimize import linear_sum_assignment

    if len(a[1]) != len(b[1]):
        return {"boxes": float("inf"), "scores": float("inf"), "iou": 0.0}
    boxes = abs(a[0][:, None] - b[0][None]).max(-1) + 1e6 * (a[2][:, None] != b[2][None])
    scores = abs(a[1][:, None] - b[1][None])
    iou = np.asarray(coco_mask.iou(a[3], b[3], [0] * len(b[3]))).reshape(scores.shape)
    empty = (coco_mask.area(a[3]) == 0)[:, None] & (coco_mask.area(b[3]) == 0)[None]
    pairs = linear_sum_assignment(boxes + scores)
    return {
        "boxes": float(boxes[pairs].max(initial=0)),
        "scores": float(scores[pairs].max(initial=0)),
        "iou": float(np.where(empty, 1.0, iou)[pairs].min(initial=1)),
    }


def changed(a: Any, b: Any) -> float:
    """Share of detections without a partner: same class, mask IoU >= 0.9, scores within 0.05; one to one."""
    import numpy as np
    from pycocotools import mask as coco_mask
    from scipy.optimize import linear_sum_assignment

    if not len(a[1]) or not len(b[1]):
        return float(len(a[1]) != len(b[1]))
    iou = np.asarray(coco_mask.iou(a[3], b[3], [0] * len(b[3]))).reshape(len(a[1]), len(b[1]))
    partners = (iou >= 0.9) & (a[2][:, None] == b[2][None]) & (abs(a[1][:, None] - b[1][None]) <= 0.05)
    rows, columns = linear_sum_assignment(partners, maximize=True)
    return 1 - int(partners[rows, columns].sum()) / max(len(a[1]), len(b[1]))


def measure(sides: dict[str, Side], images: list[str], repeats: int) -> dict[str, dict[str, Any]]:
    """image -> side -> (median seconds, median CPU seconds, detections)."""
    result: dict[str, dict[str, Any]] = {}
    for image in images:
        runs: dict[str, list[Any]] = {name: [] for name in sides}
        for turn in range(repeats + 1):  # the first one warms up
            for name, side in sides.items():
                answer = side(image)
                if turn:
                    runs[name].append(answer)
        result[image] = {
            name: (statistics.median(r[0] for r in all_), statistics.median(r[1] for r in all_), all_[-1][2])
            for name, all_ in runs.items()
        }
    return result


def show(result: dict[str, dict[str, Any]], sides: list[str]) -> None:
    width = max(len(p) for p in result) + 2
    print("seconds per image (CPU seconds)\n" + " " * width + "".join(f"{SIDES[s]:>28}" for s in sides))
    for image, by_side in result.items():
        cells = (f"{by_side[s][0]:.2f} ({by_side[s][1]:.2f})" for s in sides)
        count = len(by_side["torchvision"][2][1])
        print(f"{image:<{width}}" + "".join(f"{c:>28}" for c in cells) + f"   {count} objects")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--short-side", type=int, default=800)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--images", nargs="+", default=list(IMAGES), help="names in skimage.data")
    parser.add_argument("--enlarged", type=int, help="longer side that the images are enlarged to, px")
    args = parser.parse_args()

    from eachmask.inference.devices import cpu_computes_bf16

    has_bf16 = cpu_computes_bf16()
    names = ["torchvision", "fp32"] + (["bf16"] if has_bf16 else [])
    sides = {name: Side(name, args.threads, args.short_side, args.enlarged) for name in names}
    result = measure(sides, args.images, args.repeats)
    for side in sides.values():
        side.close()
    show(result, names)

    apart = [agreement(r["torchvision"][2], r["fp32"][2]) for r in result.values()]
    worst = {k: (min if k == "iou" else max)(a[k] for a in apart) for k in apart[0]}
    print(f"float32 against torchvision: boxes {worst['boxes']:.1e} px, scores {worst['scores']:.1e}, "
          f"mask IoU {worst['iou']:.4f} (worst detection)")  # fmt: skip

    if not has_bf16:
        emulation = Side("emulated bf16", args.threads, args.short_side, args.enlarged)
        for image, by_side in result.items():
            by_side["bf16"] = emulation(image)
        emulation.close()
    seconds = {name: sum(r[name][0] for r in result.values()) for name in names}
    report = {
        "speedup_fp32": round(seconds["torchvision"] / seconds["fp32"], 2),
        "speedup_bf16": round(seconds["torchvision"] / seconds["bf16"], 2) if has_bf16 else None,
        "changed_by_bf16": round(statistics.mean(changed(r["fp32"][2], r["bf16"][2]) for r in result.values()), 4),
        "changed_by_bf16_trained": changed_in_trained(has_bf16),
        **({} if has_bf16 else {"reason": "this CPU has no bf16 instructions; changes measured by emulation"}),
        "speedup_fp32_by_image": {p: round(r["torchvision"][0] / r["fp32"][0], 2) for p, r in result.items()},
        "processor_seconds_ratio": round(
            sum(r["torchvision"][1] for r in result.values()) / sum(r["fp32"][1] for r in result.values()), 2
        ),
        "seconds": {name: {p: round(r[name][0], 3) for p, r in result.items()} for name in names},
        "largest_difference": {k: float(f"{v:.3g}") for k, v in worst.items()},
        "threads": args.threads,
        "repeats": args.repeats,
        "short_side": args.short_side,
    }
    print(json.dumps(report))


if __name__ == "__main__":
    sys.exit(main())
