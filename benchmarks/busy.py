"""How much other work on the same CPUs slows prediction, with and without threads that sleep soon.

    python benchmarks/busy.py [--model objects] [--busy 2] [--images 10] [--rounds 3]

Each measurement is a process of its own that predicts one photograph (scikit-image's astronaut) on all cores: alone,
and beside ``--busy`` processes that only count. ``spinning`` is what OpenMP does by itself, ``sleeping`` what the
commands set (:mod:`eachmask.accel.spinning`). Rounds alternate between the two.

The last line is JSON: ``alone_spinning_ms``, ``alone_sleeping_ms``, ``busy_spinning_ms``, ``busy_sleeping_ms``, medians
over rounds of medians over images; ``alone_ratio`` and ``busy_ratio``, spinning / sleeping.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from contextlib import contextmanager
from statistics import median
from typing import TYPE_CHECKING

from eachmask.accel.spinning import SETTINGS, SPIN_COUNT

if TYPE_CHECKING:
    from collections.abc import Iterator

PREDICT = """
import statistics, sys, time
import eachmask
from skimage.data import astronaut
predictor, image, times = eachmask.load(sys.argv[1], device="cpu", precision="fp32"), astronaut(), []
for _ in range(2 + int(sys.argv[2])):
    start = time.perf_counter()
    predictor.predict(image)
    times.append(time.perf_counter() - start)
print(1000 * statistics.median(times[2:]))
"""
KINDS = {"spinning": {}, "sleeping": {"GOMP_SPINCOUNT": str(SPIN_COUNT)}}


@contextmanager
def beside(number: int) -> Iterator[None]:
    """Other processes that never rest."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(number)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def milliseconds(model: str, images: int, setting: dict[str, str]) -> float:
    """Of an image, in a process with this environment."""
    plain = {name: value for name, value in os.environ.items() if name not in SETTINGS}
    command = [sys.executable, "-c", PREDICT, model, str(images)]
    return float(subprocess.run(command, env=plain | setting, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="objects", help="name or file")
    parser.add_argument("--busy", type=int, default=2, help="processes beside")
    parser.add_argument("--images", type=int, default=10, help="timed in each process")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    result = {}
    for place, others in {"alone": 0, "busy": options.busy}.items():
        times: dict[str, list[float]] = {kind: [] for kind in KINDS}
        with beside(others):
            for _ in range(options.rounds):
                for kind, setting in KINDS.items():
                    times[kind].append(milliseconds(options.model, options.images, setting))
                    print(f"{place:6} {kind:9} {times[kind][-1]:8.0f} ms", flush=True)
        for kind, found in times.items():
            result[f"{place}_{kind}_ms"] = round(median(found), 1)
        result[f"{place}_ratio"] = round(result[f"{place}_spinning_ms"] / result[f"{place}_sleeping_ms"], 2)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
