"""Many small images on a Ray cluster whose nodes are killed at random, against one process that has one thread.

The nodes are processes of this machine (``ray.cluster_utils``). The head has no cores; of the others, which have one
each, one is killed now and then and another takes its place. Both results folders must be equal, byte for byte.

    python benchmarks/cluster.py --images 20000 --nodes 2 --every 30     # minutes on an idle machine
    python benchmarks/cluster.py --images 300 --every 10                 # a small one

The last line is JSON: ``equal``, ``images``, ``failed``, ``kills``, ``object_store_mb`` (most that any node held),
``cpu_ms_alone``, ``cpu_ms_cluster`` and ``cpu_ms_ray`` (CPU time for an image: one process; all workers, their start
and what kills cost included; all that Ray started), ``cpu_ms_driver`` (the process that shares out and gathers: its
inverse is the most images per second that a cluster of any size gives), ``per_core`` (``cpu_ms_alone`` by
``cpu_ms_cluster``; with ``--every 0`` nothing is killed), ``images_per_s_alone``, ``images_per_s_cluster`` (by the
clock).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np  # noqa: E402 (after the number of threads)
import psutil  # noqa: E402
import ray  # noqa: E402
import torch  # noqa: E402
from PIL import Image  # noqa: E402
from ray.cluster_utils import Cluster as Nodes  # noqa: E402

import eachmask  # noqa: E402
from eachmask.batch.cluster import Cluster  # noqa: E402
from eachmask.batch.options import BatchOptions  # noqa: E402
from eachmask.batch.run import run  # noqa: E402
from eachmask.data.images.inputs import find_inputs  # noqa: E402

SIDE = 64
STORE = 150_000_000
"""Bytes of a node's object store."""


def write_images(folder: Path, number: int) -> None:
    """Gray disks on noise."""
    yy, xx = np.mgrid[:SIDE, :SIDE]
    for i in range(number):
        chance = np.random.default_rng(i)
        image = chance.integers(0, 40, (SIDE, SIDE), dtype=np.uint8)
        for y, x, radius in chance.integers([8, 8, 4], [56, 56, 9], (3, 3)):
            image[(yy - y) ** 2 + (xx - x) ** 2 < radius**2] = chance.integers(120, 250)
        Image.fromarray(image).save(folder / f"{i:05d}.png", compress_level=1)


class Watch(threading.Thread):
    """What Ray's processes use, and now and then one node less."""

    def __init__(self, nodes: Nodes, workers: list[Any], every: float) -> None:
        super().__init__(daemon=True)
        self.nodes, self.workers, self.every = nodes, workers, every
        self.seconds: dict[tuple[int, float], tuple[float, bool]] = {}
        """Process -> CPU seconds, and whether it is a worker."""
        self.store, self.kills, self.ended = 0, 0, threading.Event()

    def run(self) -> None:
        chance, last = random.Random(0), time.monotonic()
        while not self.ended.wait(0.5):
            self._look()
            if self.every and time.monotonic() - last > self.every * chance.uniform(0.5, 1.5):
                self.nodes.remove_node(self.workers.pop(chance.randrange(len(self.workers))), allow_graceful=False)
                with patch("signal.signal"):  # which only the main thread may call, and this one need not
                    self.workers.append(self.nodes.add_node(num_cpus=1, object_store_memory=STORE))
                self.kills, last = self.kills + 1, time.monotonic()

    def _look(self) -> None:
        for process in psutil.Process().children(recursive=True):
            try:
                used, name = sum(process.cpu_times()[:2]), " ".join(process.cmdline()[:1])
                key = process.pid, process.create_time()
                was = self.seconds.get(key, (0.0, False))[1]  # at its end a worker goes by another name
                self.seconds[key] = used, was or name.startswith("ray::Worker")
                if process.name() == "raylet":
                    self.store = max(self.store, process.memory_info().shared)
            except psutil.Error:
                continue


@contextmanager
def watched(number: int, every: float) -> Iterator[tuple[str, Watch]]:
    """A cluster's address, and who looks at it."""
    nodes = Nodes(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": STORE})
    workers = [nodes.add_node(num_cpus=1, object_store_memory=STORE) for _ in range(number)]
    watch = Watch(nodes, workers, every)
    watch.start()
    try:
        yield nodes.address, watch
    finally:
        watch.ended.set()
        watch.join()
        ray.shutdown()
        nodes.shutdown()


def made(folder: Path) -> dict[str, bytes]:
    """All results, but the journal."""
    files = [path for path in folder.rglob("*") if path.is_file() and ".journal" not in path.parts]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def cpu() -> float:
    """Seconds of this process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--nodes", type=int, default=2)
    parser.add_argument("--every", type=float, default=30, help="seconds between kills, about; 0: none")
    parser.add_argument("--model", default="nuclei")
    options = parser.parse_args()
    torch.set_num_threads(1)
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)  # workers find the same eachmask
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "in").mkdir()
        write_images(folder / "in", options.images)
        predictor = eachmask.load(options.model, device="cpu", precision="fp32")
        predictor.predict(folder / "in/00000.png")  # what is laid out once is
        inputs, wishes = find_inputs([folder / "in"]), BatchOptions()
        begin, used = time.perf_counter(), cpu()
        run(predictor, inputs, folder / "one", wishes)
        alone, alone_cpu = time.perf_counter() - begin, cpu() - used
        with watched(options.nodes, options.every) as (address, watch):
            begin, used = time.perf_counter(), cpu()
            summary = run(predictor, inputs, folder / "many", wishes, cluster=Cluster(address, workers=options.nodes))
            took, driver = time.perf_counter() - begin, cpu() - used
        equal = made(folder / "one") == made(folder / "many")
    all_of_ray = sum(used for used, _ in watch.seconds.values())
    predicting = sum(used for used, predicts in watch.seconds.values() if predicts)
    print(json.dumps({
        "equal": equal, "images": summary.done, "failed": summary.failed, "kills": watch.kills,
        "object_store_mb": round(watch.store / 1e6), "cpu_ms_alone": round(1000 * alone_cpu / options.images, 2),
        "cpu_ms_cluster": round(1000 * predicting / options.images, 2),
        "cpu_ms_ray": round(1000 * all_of_ray / options.images, 2),
        "cpu_ms_driver": round(1000 * driver / options.images, 2), "per_core": round(alone_cpu / predicting, 3),
        "images_per_s_alone": round(options.images / alone, 2), "images_per_s_cluster": round(options.images / took, 2),
    }))  # fmt: skip


if __name__ == "__main__":
    main()
