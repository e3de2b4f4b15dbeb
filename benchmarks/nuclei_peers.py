"""``nuclei`` beside what else finds nuclei: Cellpose and StarDist, trained on the same images for the same time.

    pip install --target FOLDER/stardist stardist tensorflow-cpu
    pip install --target FOLDER/cellpose --no-deps cellpose==3.1.1.3 fastremap natsort roifile fill-voids imagecodecs
    python benchmarks/nuclei_peers.py --data ../shared/data/dsb2018 --packages FOLDER [--train-seconds 900]
                                      [--split test] [--images 28] [--only NAME ...]

Systems: ``ours`` (the bundled model), ``budget`` (the same recipe, learnt as the peers are), ``cellpose`` (its network
of versions 1 to 3, from random numbers), ``stardist`` (its U-Net, from random numbers), ``watershed`` (scikit-image's
classical pipeline). Each learns on the pack's train split for ``--train-seconds`` of CPU time of one thread, chooses
its settings on val (``--val-images`` of it) and is measured on ``--split`` by the same code, in processes of its own:
what is learnt and what is chosen stay in ``results/nuclei_peers``, so that measuring can be repeated and a stopped call
goes on.

CPU time is counted, so that a busy machine changes little; wall time is printed too. Prints a table per kind of image.
The last line is one JSON object: ``ours50``, ``budget50``, ``cellpose50``, ``stardist50``, ``watershed50``
(TP/(TP+FP+FN) at IoU 0.5), ``*_mean`` (over 0.5 ... 0.9), ``ms_*`` (median CPU milliseconds of an image, reading left
out), ``wall_ms_*``, ``mb_*`` (peak memory of the process that predicts, the program itself included), ``learnt`` (how
each did), ``kinds`` (scores per kind of image), ``left_out`` (who was not measured, and why), ``images``, ``load`` of
the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

from nuclei import scores
from nuclei_systems import SYSTEMS, read
from peak_memory import peak_mb

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "results" / "nuclei_peers"


def few(samples: Any, kinds: list[str], number: int | None) -> tuple[list[Any], list[str]]:
    """So many of the samples with their kinds, evenly spaced; all by default."""
    step = max(1, len(samples) // (number or len(samples)))
    return [samples[i] for i in range(0, len(samples), step)], kinds[::step]


def learn(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Train."""
    folder = RESULTS / name
    folder.mkdir(parents=True, exist_ok=True)
    samples = read(options.data, "train")[0]
    samples = samples.take(range(0, len(samples), max(1, len(samples) // (options.train_images or len(samples)))))
    done: dict[str, Any] = SYSTEMS[name].learn(options.data, samples, options.train_seconds, folder)
    return done


def choose(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """The setting with the best mean over IoU 0.5 ... 0.9 on val; nothing is tried where there is one only."""
    system = SYSTEMS[name]
    if len(system.settings) == 1:
        return dict(system.settings[0])
    samples, _ = few(*read(options.data, "val"), options.val_images)
    rated = []
    for setting in system.settings:
        find = system.finder(RESULTS / name, setting)
        rated.append(scores([find(sample.image) for sample in samples], [sample.targets for sample in samples]))
        print(f"  {setting}: {rated[-1]['match_mean']:.3f}", flush=True)
    best = max(range(len(rated)), key=lambda i: rated[i]["match_mean"])
    return dict(system.settings[best])


def measure(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Scores of all images and of each kind, time and memory."""
    find = SYSTEMS[name].finder(RESULTS / name, json.loads((RESULTS / name / "choose.json").read_text()))
    samples, kinds = few(*read(options.data, options.split), options.images)
    find(samples[0].image)  # the first one warms up
    found, cpu, wall = [], [], []
    for sample in samples:
        image, begin, begun = sample.image, time.process_time(), time.perf_counter()
        found.append(find(image))
        cpu.append(1000 * (time.process_time() - begin))
        wall.append(1000 * (time.perf_counter() - begun))
    row: dict[str, Any] = {"ms": median(cpu), "wall_ms": median(wall), "mb": peak_mb(), "images": len(samples)}
    for kind in ("all", *sorted(set(kinds))):
        own = [i for i, other in enumerate(kinds) if kind in ("all", other)]
        row[kind] = scores([found[i] for i in own], [samples[i].targets for i in own])
        print(f"  {kind} ({len(own)}): {row[kind]['match50']:.3f} at 0.5, {row[kind]['match_mean']:.3f} on average")
    return row


WORK = {"learn": learn, "choose": choose, "measure": measure}


def work(name: str, task: str, options: argparse.Namespace) -> str:
    """Do a task in a process of its own; returns why it failed, or nothing. What is done is not done again."""
    if task != "measure" and (RESULTS / name / f"{task}.json").is_file():
        return ""
    settings = os.environ | {"OMP_NUM_THREADS": "1", "TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1"}
    paths = [str(options.packages / name)] if options.packages else []
    settings["PYTHONPATH"] = os.pathsep.join([*paths, *filter(None, [settings.get("PYTHONPATH")])])
    command = [sys.executable, __file__, "--one", name, task, "--data", str(options.data), "--split", options.split]
    for option in ("train_seconds", "train_images", "images", "val_images"):
        value = getattr(options, option)
        command += [f"--{option.replace('_', '-')}", str(value)] if value else []
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, env=settings)
    return done.stderr.strip().split("\n")[-1][:300] if done.returncode else ""


def summary(rows: dict[str, dict[str, Any]], left_out: dict[str, str]) -> dict[str, Any]:
    """The last line."""
    result: dict[str, Any] = {"left_out": left_out, "load": [round(value, 1) for value in os.getloadavg()]}
    learnt, kinds = {}, {}
    for name, row in rows.items():
        result |= {f"{name}50": round(row["all"]["match50"], 4), f"{name}_mean": round(row["all"]["match_mean"], 4)}
        result |= {f"{key}_{name}": round(row[key], 1) for key in ("ms", "wall_ms", "mb")}
        result["images"] = row["images"]
        learnt[name] = json.loads((RESULTS / name / "learn.json").read_text())
        kinds[name] = {
            kind: {key: round(value, 3) for key, value in found.items() if key.startswith("match")}
            for kind, found in row.items()
            if isinstance(found, dict)
        }
    return result | {"learnt": learnt, "kinds": kinds}


def main() -> None:
    """Learn, choose and measure all that are there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the dsb2018 pack")
    parser.add_argument("--packages", type=Path, help="folder with a folder of installed packages for each peer")
    parser.add_argument("--train-seconds", type=float, default=900, help="CPU seconds of one thread")
    parser.add_argument("--train-images", type=int, help="so many for the peers, evenly spaced; all by default")
    parser.add_argument("--split", default="test", choices=["val", "test"])
    parser.add_argument("--images", type=int, help="so many of the split, evenly spaced; all by default")
    parser.add_argument("--val-images", type=int, default=14, help="that choose the settings")
    parser.add_argument("--only", nargs="*", default=list(SYSTEMS), choices=list(SYSTEMS))
    parser.add_argument("--one", nargs=2, metavar=("NAME", "TASK"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        name, task = options.one
        done = WORK[task](name, options)
        (RESULTS / name / f"{task}.json").write_text(json.dumps(done, indent=1))
        return
    rows, left_out = {}, {}
    for name in options.only:
        print(name, flush=True)
        reason = next(filter(None, (work(name, task, options) for task in WORK)), "")
        if reason:
            left_out[name] = reason
            print(f"  left out: {reason}")
        else:
            rows[name] = json.loads((RESULTS / name / "measure.json").read_text())
    print(json.dumps(summary(rows, left_out)))


if __name__ == "__main__":
    main()
