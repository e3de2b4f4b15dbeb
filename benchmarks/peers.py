"""How fast are our small models beside those that people use, image in to all masks out, at which published AP?

    python benchmarks/peers.py [--ultralytics PYTHON] [--models rtmdet_ins_tiny ...] [--rounds 3] [--images 5]
                               [--objects 20]

Peers: Ultralytics' YOLO11n-seg and YOLO11s-seg (``YOLO.predict`` at 640 px), torchvision's Mask R-CNN.
``--ultralytics`` is the Python of another environment, as for ``benchmarks/runtimes.py``, whose photographs of 640 x
480 px and programs these are; without it its speed-ups are null. All have random weights, and thresholds of their
scores that leave ``--objects`` on every image, so that all draw as many masks; RTMDet-Ins' are as large as COCO's
objects (``runtimes.bounded_masks``). Ours are runs (RLE), Ultralytics' are bitmaps, torchvision's probabilities, all at
full size. Ours run in torch, and in fp32 in ONNX Runtime too. Each system lives in a process of its own, with as many
threads as torch takes by itself (OMP_NUM_THREADS says otherwise); they take turns. AP: published, of masks on COCO
val2017.

The last line is JSON: ``speedup_fp32_vs_yolo11n``, ``speedup_bf16_vs_yolo11n``, ``speedup_fp32_vs_yolo11s``,
``speedup_bf16_vs_yolo11s`` (their time in fp32, which is all they have on a CPU, over that of our fastest model whose
AP is at least theirs), ``ms``, ``load`` of the machine, ``failed`` (system -> why), and ``reason`` where the CPU has no
bf16 instructions, so that these are null.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

from runtimes import HEAD, OURS, THEIRS, YOLO, exported, in_turns, model_file

MODELS = ("rtmdet_ins_tiny", "rtmdet_ins_s", "yolact_r50", "mask_rcnn_r50_fpn")
PUBLISHED = {"yolo11n": 32.0, "yolo11s": 37.8, "maskrcnn_resnet50_fpn": 34.6}
"""Mask AP of the peers: Ultralytics' table of YOLO11-seg, torchvision's list of weights."""
TORCHVISION = (
    HEAD
    + """
from torchvision.models import detection
model = getattr(detection, name)(weights=None, weights_backbone=None).eval()
@torch.inference_mode()
def run(image, score):
    model.roi_heads.score_thresh = score
    return model([torch.from_numpy(image).permute(2, 0, 1) / 255])[0]
def scores(image):
    model.roi_heads.detections_per_img = objects
    return run(image, 0.0)["scores"]
measure(run, scores)
"""
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ultralytics", metavar="PYTHON", help="of the environment that has it")
    parser.add_argument("--models", nargs="+", default=MODELS, help="ours, by their names in the catalogue")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, default=5)
    parser.add_argument("--objects", type=int, default=20, help="on every image")
    options = parser.parse_args()

    from eachmask.inference.devices import cpu_computes_bf16
    from eachmask.structures.errors import UserError

    precisions = ["fp32", "bf16"] if cpu_computes_bf16() else ["fp32"]
    settings = [str(options.images), str(options.objects)]
    calls = {name: (options.ultralytics, THEIRS, [name, *settings]) for name in YOLO if options.ultralytics}
    calls["maskrcnn_resnet50_fpn"] = (sys.executable, TORCHVISION, ["maskrcnn_resnet50_fpn", *settings])
    ap, failed = dict(PUBLISHED), {}
    with tempfile.TemporaryDirectory() as folder:
        for name in options.models:
            file = model_file(name, Path(folder))
            for precision in precisions:
                calls[f"{name} torch {precision}"] = (sys.executable, OURS, [file, *settings, precision])
            try:
                exports = exported(file, "onnx-fp32", Path(folder))
                calls[f"{name} onnx fp32"] = (sys.executable, OURS, [exports, *settings, "auto"])
            except UserError as error:
                failed[f"{name} onnx fp32"] = str(error)
            ap |= dict.fromkeys((call for call in calls if call.startswith(f"{name} ")), ap_of(name))
        ms, stopped = in_turns(calls, options.rounds)
    print(f"{'':30}{'mask AP':>9}{'ms':>9}" + "".join(f"{'x ' + name:>12}" for name in YOLO))
    for name in sorted(ms, key=ms.__getitem__):
        times = (f"{ms[yolo] / ms[name]:12.2f}" if yolo in ms else f"{'-':>12}" for yolo in YOLO)
        print(f"{name:30}{ap[name]:9.1f}{ms[name]:9.1f}" + "".join(times))
    result = {
        f"speedup_{precision}_vs_{yolo}": speedup(ms, ap, yolo, precision)
        for yolo in YOLO
        for precision in ("fp32", "bf16")
    }
    reason = {} if "bf16" in precisions else {"reason": "this CPU has no bf16 instructions"}
    load = [round(value, 1) for value in os.getloadavg()]
    print(json.dumps(result | {"ms": ms, "load": load, "failed": failed | stopped} | reason))


def ap_of(name: str) -> float:
    """Published mask AP of a model of ours."""
    from eachmask.weights.catalogue import find

    return find(name).by_metric()["mask AP"]


def speedup(ms: dict[str, float], ap: dict[str, float], yolo: str, precision: str) -> float | None:
    """A peer's time over that of our fastest model with at least its AP; None where one is missing."""
    ours = [time for name, time in ms.items() if name.endswith(precision) and ap[name] >= ap[yolo]]
    return round(ms[yolo] / min(ours), 2) if ours and yolo in ms else None


if __name__ == "__main__":
    main()
