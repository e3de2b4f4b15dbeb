"""What `eachmask predict` takes for a folder of photographs beside the bare loop over the same predictor.

    python benchmarks/folder.py --images FOLDER [--model objects] [--rounds 2]

The loop predicts one photograph after the other, from its file to RLE, and writes nothing. The command also draws
overlays, measures every object, and writes tables and a page. Both begin with a start of Python; they take turns. A
third side is the loop in a process of which another Python thread has computed something with torch once, and then
waits: see :mod:`eachmask.accel.spinning`.

The last line is JSON: ``ms`` per photograph of ``command``, ``loop`` and ``two_threads`` (the best of all rounds, with
their starts), and ``command_per_loop``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LOOP = """
import sys, threading, warnings
from eachmask.accel.spinning import sleep_soon
sleep_soon()
import eachmask, torch
warnings.simplefilter("ignore")
other, model, *files = sys.argv[1:]
if other == "two_threads":
    computed = threading.Event()
    def compute_once():
        torch.ones(1000, 1000).relu_()
        computed.set()
        threading.Event().wait()
    threading.Thread(target=compute_once, daemon=True).start()
    computed.wait()
predictor = eachmask.load(model)
for file in files:
    predictor.predict(file).masks.to_rle()
"""


def seconds(arguments: list[str]) -> float:
    """Of a process of Python, from its start to its end."""
    begin = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - begin


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="folder of photographs")
    parser.add_argument("--model", default="objects")
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    files = sorted(str(path) for path in options.images.iterdir() if path.suffix.lower() in (".jpg", ".png"))
    taken: dict[str, list[float]] = {"command": [], "loop": [], "two_threads": []}
    for _ in range(options.rounds):
        for side, found in taken.items():
            with tempfile.TemporaryDirectory() as out:
                command = ["-m", "eachmask", "predict", *files, "--model", options.model, "--out", out]
                found.append(seconds(command if side == "command" else ["-c", LOOP, side, options.model, *files]))
            print(f"{side}: {1000 * found[-1] / len(files):.0f} ms a photograph", file=sys.stderr)
    ms = {side: round(1000 * min(found) / len(files), 1) for side, found in taken.items()}
    print(json.dumps({"ms": ms, "command_per_loop": round(ms["command"] / ms["loop"], 2), "images": len(files)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
