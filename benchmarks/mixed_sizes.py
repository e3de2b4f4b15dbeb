"""What it costs that photographs of a folder have many sizes: with oneDNN's own number of kept kernels and with ours.

    python benchmarks/mixed_sizes.py --images FOLDER [--model objects] [--most 100]

Each side is a process of its own that predicts all photographs twice, one by one, to RLE; the second time counts, when
every size has been seen (:mod:`eachmask.accel.kernels`). The last line is JSON: ``ms`` and ``mb`` (resident at the end)
of both, ``speedup``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

LOOP = """
import sys, time, warnings
from pathlib import Path
import eachmask
warnings.simplefilter("ignore")
model, *files = sys.argv[1:]
predictor = eachmask.load(model)
for _ in range(2):
    begin = time.perf_counter()
    for file in files:
        predictor.predict(file).masks.to_rle()
pages = int(Path("/proc/self/statm").read_text().split()[1])
print(1000 * (time.perf_counter() - begin) / len(files), pages * 4096 / 1e6)
"""


def run(model: str, files: list[str], off: str) -> tuple[float, float]:
    """Milliseconds a photograph and resident MB with parts of accel turned off."""
    environment = os.environ | {"EACHMASK_ACCEL_OFF": off}
    done = subprocess.run(
        [sys.executable, "-c", LOOP, model, *files], env=environment, check=True, capture_output=True, text=True
    )
    ms, mb = map(float, done.stdout.split())
    return ms, mb


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="folder of photographs")
    parser.add_argument("--model", default="objects")
    parser.add_argument("--most", type=int, default=100, help="photographs, the first by name")
    options = parser.parse_args()
    files = sorted(str(path) for path in options.images.iterdir() if path.suffix.lower() in (".jpg", ".png"))
    sides = {name: run(options.model, files[: options.most], off) for name, off in (("own", "kernels"), ("ours", ""))}
    for name, (ms, mb) in sides.items():
        print(f"{name}: {ms:.0f} ms, {mb:.0f} MB", file=sys.stderr)
    figures = {
        "ms": {name: round(ms, 1) for name, (ms, _) in sides.items()},
        "mb": {name: round(mb) for name, (_, mb) in sides.items()},
        "speedup": round(sides["own"][0] / sides["ours"][0], 2),
    }
    print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
