"""How fast do the runtimes predict on this CPU, image in to RLE out, and how fast beside Ultralytics' YOLO11?

    python benchmarks/runtimes.py [--models objects clicks ...] [--rounds 3] [--images 5]
                                  [--runtimes torch-fp32 ...] [--objects 20] [--ultralytics PYTHON]

Each pair of a model and a runtime (torch in fp32 and bf16, ONNX Runtime in fp32 and int8, OpenVINO in fp32 and bf16) is
a process of its own that loads the model as a user does and predicts photographs that come with scikit-image, resized
to 640 x 480 px, all masks as RLE; ``clicks`` looks at each and answers one click. Pairs take turns, round by round, so
that a busy machine slows all alike. Models that are not bundled have random weights, and a threshold of their scores
that leaves ``--objects`` on every image; RTMDet-Ins' masks are made as large as COCO's objects (``bounded_masks``).
int8 is calibrated on the photographs, and its AP is not looked at here.

``--ultralytics`` is the Python of another environment, in which the packages ultralytics and scikit-image are installed
(eachmask neither imports nor needs the first): YOLO11n-seg and YOLO11s-seg with random weights, ``YOLO.predict`` at
640 px on the same images, and as many objects.

The last line is JSON: ``ms`` (pair -> median over rounds of medians over images), ``speedup_vs_yolo11n`` and
``speedup_vs_yolo11s`` (pair -> their time / its own; null without ``--ultralytics``), ``load`` of the machine,
``failed`` (pair -> why).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

import torch
from torch import nn

MODELS = ("objects", "nuclei", "mask_rcnn_r50_fpn", "rtmdet_ins_tiny", "clicks")
RUNTIMES = ("torch-fp32", "torch-bf16", "onnx-fp32", "onnx-int8", "openvino-fp32", "openvino-bf16")
YOLO = ("yolo11n", "yolo11s")
HEAD = f"""
import statistics, sys, time
import torch
sys.path.append({str(Path(__file__).parent)!r})
from random_weights import enliven, photographs
name, number, objects = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
images = photographs()
def measure(run, scores):
    # With `objects` every image gets the threshold that leaves so many.
    thresholds = [float(min(scores(image), default=0)) if objects else None for image in images]
    times = []
    for i in range(number + 1):
        image, threshold = images[i % len(images)], thresholds[i % len(images)]
        start = time.perf_counter()
        run(image, threshold)
        times.append(time.perf_counter() - start)
    print(1000 * statistics.median(times[1:]))
"""
OURS = (
    HEAD
    + """
from eachmask.accel.spinning import sleep_soon
sleep_soon()
import eachmask
from eachmask.inference.prompt_predictor import PromptPredictor
from eachmask.structures import DecodeOptions, Prompts
predictor = eachmask.load(name, device="cpu", precision=sys.argv[4])
def run(image, score):
    click = Prompts(image.shape[:2], points=[[image.shape[1] / 2, image.shape[0] / 2]], signs=[True])
    asked = isinstance(predictor, PromptPredictor)
    found = predictor.predict(image, click) if asked else predictor.predict(image, score=score)
    found.masks.to_rle()
def scores(image):
    return predictor.predict(image, options=DecodeOptions(score_threshold=0, max_detections=objects)).scores
measure(run, scores)
"""
)
THEIRS = (
    HEAD
    + """
from ultralytics import YOLO
model = YOLO(name + "-seg.yaml")
enliven(model.model, lambda: model.model(torch.stack([torch.from_numpy(i).permute(2, 0, 1) / 255 for i in images])))
def predict(image, **wishes):
    return model.predict(image[..., ::-1], imgsz=640, device="cpu", verbose=False, **wishes)[0]
def run(image, score):
    found = predict(image, **({} if score is None else {"conf": score})).masks
    return None if found is None else found.data.numpy()
def scores(image):
    return predict(image, conf=0, max_det=objects).boxes.conf
measure(run, scores)
"""
)


def model_file(name: str, folder: Path) -> str:
    """A bundled model's name, or a file of the network with random weights."""
    from random_weights import enliven, photographs

    from eachmask import models
    from eachmask.weights.catalogue import bundled, find
    from eachmask.weights.file import save_model

    if name in bundled():
        return name
    info = find(name).info()
    model = models.variant(name)(num_classes=len(info.categories), **info.config)
    enliven(model, lambda: model(info.preprocess(photographs())))
    if name.startswith("rtmdet_ins"):
        bounded_masks(model.heads)
    return str(save_model(folder / f"{name}.safetensors", model, info))


def bounded_masks(heads: nn.Module) -> None:
    """Networks of RTMDet-Ins' masks that draw a diamond about their place: 1.2 - |x| - |y|.

    Those of random numbers draw 38 % of the image, with ragged outlines, for every object. COCO's objects take 4 % on
    average (val2017's of coco-mini), and so do these, at the finest level. The same networks are computed.
    """
    first, second, third = torch.zeros(8, 10), torch.zeros(8, 8), torch.zeros(8)
    first[:4, :2] = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])  # x, -x, y, -y, each through ReLU
    second[0, :4] = 1.0
    third[0] = -1.0
    diamond = torch.cat([first.flatten(), second.flatten(), third, torch.zeros(8 + 8), torch.tensor([1.2])])
    with torch.no_grad():
        for kernels in heads.kernels:
            kernels.weight.zero_()
            kernels.bias.copy_(diamond)


def exported(model: str, runtime: str, folder: Path) -> str:
    """The file that the runtime runs."""
    from random_weights import photographs

    from eachmask import export
    from eachmask.exporting.int8 import network_inputs, quantize
    from eachmask.inference.load import load

    to, precision = runtime.split("-")
    out = folder / f"{Path(model).stem}-{precision}.{'onnx' if to == 'onnx' else 'xml'}"
    if precision != "int8":
        return str(export(model, out, to=to, precision=precision))
    plain = folder / f"{Path(model).stem}-fp32.onnx"
    plain = plain if plain.is_file() else export(model, plain)
    predictor = load(plain)
    quantize(plain, out, network_inputs(predictor, photographs()))
    return str(out)


def milliseconds(python: str, program: str, arguments: list[str]) -> float:
    """What a process of its own measures.

    Raises:
        RuntimeError: it failed; with its last line.
    """
    done = subprocess.run([python, "-c", program, *arguments], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError((done.stderr.strip() or "nothing said").splitlines()[-1][:200])
    return float(done.stdout.split()[-1])


def in_turns(calls: dict[str, tuple[str, str, list[str]]], rounds: int) -> tuple[dict[str, float], dict[str, str]]:
    """Median milliseconds of each call of :func:`milliseconds`, and why others failed; they take turns."""
    times: dict[str, list[float]] = {}
    failed: dict[str, str] = {}
    for _ in range(rounds):
        for name, call in calls.items():
            try:
                times.setdefault(name, []).append(milliseconds(*call))
            except RuntimeError as error:
                failed[name] = str(error)
    return {name: round(median(found), 1) for name, found in times.items() if found}, failed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=MODELS, help="names in the catalogue")
    parser.add_argument("--runtimes", nargs="+", default=RUNTIMES, choices=RUNTIMES)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, default=5)
    parser.add_argument("--objects", type=int, default=20, help="that models with random weights draw on an image")
    parser.add_argument("--ultralytics", metavar="PYTHON", help="of the environment that has it")
    options = parser.parse_args()
    from eachmask.weights.catalogue import bundled

    pairs: dict[str, tuple[str, str, list[str]]] = {}
    failed: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in options.models:
            model = model_file(name, Path(folder))
            for runtime in options.runtimes:
                pair, own = f"{name} {runtime}", runtime.startswith("torch")
                try:
                    file = model if own else exported(model, runtime, Path(folder))
                except Exception as error:
                    failed[pair] = str(error)[:200]
                    continue
                precision = runtime.split("-")[1] if own else "auto"
                objects = 0 if name in bundled() else options.objects
                pairs[pair] = (sys.executable, OURS, [file, str(options.images), str(objects), precision])
        for name in YOLO if options.ultralytics else ():
            pairs[name] = (options.ultralytics, THEIRS, [name, str(options.images), str(options.objects)])
        ms, stopped = in_turns(pairs, options.rounds)
    for pair, time in ms.items():
        print(f"{pair:40} {time:9.1f} ms")
    speedups = {
        f"speedup_vs_{name}": {p: round(ms[name] / t, 2) for p, t in ms.items() if p not in YOLO}
        if name in ms
        else None
        for name in YOLO
    }
    load = [round(value, 1) for value in os.getloadavg()]
    print(json.dumps({"ms": ms} | speedups | {"cores": os.cpu_count(), "load": load, "failed": failed | stopped}))


if __name__ == "__main__":
    main()
