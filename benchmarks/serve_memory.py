"""Where the memory of a server's worker goes, and whether it grows: images of one size, or of many, through its works.

    python benchmarks/serve_memory.py --images 320              # 100 to 520 px a side
    python benchmarks/serve_memory.py --side 256 --batch 8      # all of one size
    python benchmarks/serve_memory.py --limit 99999             # as if malloc kept all that it likes

The last line is JSON: ``mb_imported``, ``mb_loaded``, ``mb`` (resident after each eighth of the images), ``mb_lent``
(of it what malloc has lent out, likewise), ``mb_rested``, ``cpu_ms`` (of an image, with making it).
"""

from __future__ import annotations

import argparse
import ctypes
import json
import random
import time
from pathlib import Path

import numpy as np
from PIL import Image
from skimage import data

import eachmask.accel.malloc as malloc
from eachmask.server.client import content_of
from eachmask.server.models import Models
from eachmask.server.settings import ServerSettings
from eachmask.server.works import Predict, Rest
from eachmask.structures import DecodeOptions


def resident() -> int:
    """MB of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 // 10**6


def lent() -> int:
    """MB that malloc has lent out."""
    ask = ctypes.CDLL(None).mallinfo2
    ask.restype = malloc._Mallinfo
    found = ask()
    return int(found.uordblks + found.hblkhd) // 10**6


def contents(chance: random.Random, number: int, side: int | None) -> list[bytes]:
    """Files of a photograph of coins, stretched."""
    coins = Image.fromarray(np.repeat(data.coins()[..., None], 3, 2))
    sizes = [(side, side) if side else (chance.randint(100, 520), chance.randint(100, 520)) for _ in range(number)]
    return [content_of(np.asarray(coins.resize(size))) for size in sizes]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="nuclei")
    parser.add_argument("--images", type=int, default=320)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--side", type=int)
    parser.add_argument("--limit", type=int, default=malloc.MAX_UNUSED >> 20, help="MB that malloc may keep")
    options = parser.parse_args()
    malloc.MAX_UNUSED = options.limit << 20
    imported = resident()
    models = Models(ServerSettings((options.model,), ("no client asks",), device="cpu", precision="fp32"))
    loaded, work, chance = resident(), Predict(None, DecodeOptions()), random.Random(0)
    begin, rows = time.process_time(), list[tuple[int, int]]()
    for done in range(0, options.images, options.batch):
        found = models.run(work, contents(chance, options.batch, options.side))
        assert not any(isinstance(answer, Exception) for answer in found), found
        if done * 8 // options.images < (done + options.batch) * 8 // options.images:
            rows.append((resident(), lent()))
    cpu = time.process_time() - begin
    models.run(Rest(), ())
    print(json.dumps({
        "mb_imported": imported, "mb_loaded": loaded, "mb": [row[0] for row in rows],
        "mb_lent": [row[1] for row in rows], "mb_rested": resident(), "cpu_ms": round(1000 * cpu / options.images),
    }))  # fmt: skip


if __name__ == "__main__":
    main()
