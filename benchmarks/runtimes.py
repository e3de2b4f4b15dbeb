"""How fast do the runtimes predict on this CPU, image in to RLE out, and how fast beside Ultralytics' YOLO11?

    python benchmarks/runtimes.py [--models objects clicks ...] [--rounds 3] [--images 5]
                                  [--runtimes torch-fp32 ...] [--ultralytics PYTHON]

Each pair of a model and a runtime (torch in fp32 and bf16, ONNX Runtime in fp32 and int8, OpenVINO in fp32 and bf16) is
a process of its own that loads the model as a user does and predicts photographs that come with scikit-image, all
masks as RLE; ``clicks`` looks at each and answers one click. Pairs take turns, round by round, so that a busy machine
slows all alike. Models that are not bundled have random weights: their networks cost the same, what follows them hardly
anything. int8 is calibrated on the photographs, and its AP is not looked at here.

``--ultralytics`` is the Python of another environment, in which the package ultralytics is installed (eachmask
neither imports nor needs it): YOLO11n-seg and YOLO11s-seg with random weights, ``YOLO.predict`` at 640 px on the
same images.

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

MODELS = ("objects", "nuclei", "mask_rcnn_r50_fpn", "rtmdet_ins_tiny", "clicks")
RUNTIMES = ("torch-fp32", "torch-bf16", "onnx-fp32", "onnx-int8", "openvino-fp32", "openvino-bf16")
YOLO = ("yolo11n", "yolo11s")
PHOTOGRAPHS = ("astronaut", "coffee", "chelsea", "rocket")
HEAD = f"""
import statistics, sys, time
import skimage.data
images = [getattr(skimage.data, name)() for name in {PHOTOGRAPHS}]
def measure(run):
    run(images[0])
    times = []
    for number in range(int(sys.argv[2])):
        start = time.perf_counter()
        run(images[number % len(images)])
        times.append(time.perf_counter() - start)
    print(1000 * statistics.median(times))
"""
OURS = (
    HEAD
    + """
from eachmask.accel.spinning import sleep_soon
sleep_soon()
import eachmask
from eachmask.inference.prompt_predictor import PromptPredictor
from eachmask.structures import Prompts
predictor = eachmask.load(sys.argv[1], device="cpu", precision=sys.argv[3])
def run(image):
    click = Prompts(image.shape[:2], points=[[image.shape[1] / 2, image.shape[0] / 2]], signs=[True])
    found = predictor.predict(image, click) if isinstance(predictor, PromptPredictor) else predictor.predict(image)
    found.masks.to_rle()
measure(run)
"""
)
THEIRS = (
    HEAD
    + """
from ultralytics import YOLO
model = YOLO(sys.argv[1] + "-seg.yaml")
def run(image):
    found = model.predict(image[..., ::-1], imgsz=640, device="cpu", verbose=False)[0].masks
    return None if found is None else found.data.numpy()
measure(run)
"""
)


def model_file(name: str, folder: Path) -> str:
    """A bundled model's name, or a file of the network with random weights."""
    import torch

    from eachmask import models
    from eachmask.weights.catalogue import bundled, find
    from eachmask.weights.file import save_model

    if name in bundled():
        return name
    torch.manual_seed(0)
    info = find(name).info()
    model = models.variant(name)(num_classes=len(info.categories), **info.config)
    return str(save_model(folder / f"{name}.safetensors", model, info))


def exported(model: str, runtime: str, folder: Path) -> str:
    """The file that the runtime runs."""
    import skimage.data

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
    quantize(plain, out, network_inputs(predictor, [getattr(skimage.data, name)() for name in PHOTOGRAPHS]))
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=MODELS, choices=MODELS)
    parser.add_argument("--runtimes", nargs="+", default=RUNTIMES, choices=RUNTIMES)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, default=5)
    parser.add_argument("--ultralytics", metavar="PYTHON", help="of the environment that has it")
    options = parser.parse_args()
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
                pairs[pair] = (sys.executable, OURS, [file, str(options.images), precision])
        for name in YOLO if options.ultralytics else ():
            pairs[name] = (options.ultralytics, THEIRS, [name, str(options.images)])
        times: dict[str, list[float]] = {}
        for _ in range(options.rounds):
            for pair, call in pairs.items():
                try:
                    times.setdefault(pair, []).append(milliseconds(*call))
                except RuntimeError as error:
                    failed[pair] = str(error)
    ms = {pair: round(median(found), 1) for pair, found in times.items() if found}
    for pair, time in ms.items():
        print(f"{pair:40} {time:9.1f} ms")
    speedups = {
        f"speedup_vs_{name}": {p: round(ms[name] / t, 2) for p, t in ms.items() if p not in YOLO}
        if name in ms
        else None
        for name in YOLO
    }
    load = [round(value, 1) for value in os.getloadavg()]
    print(json.dumps({"ms": ms} | speedups | {"cores": os.cpu_count(), "load": load, "failed": failed}))


if __name__ == "__main__":
    main()
