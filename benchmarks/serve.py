"""A server under load against the loop of a bare predictor, on this machine's loopback interface.

Many clients send images, and among them broken, huge, slow and forged requests. Every answer must be the predictor's
own or a refusal with a reason. Threads of the server are those of the loop; its clients run in this process.

    python benchmarks/serve.py --clients 50 --seconds 60
    python benchmarks/serve.py --clients 20 --seconds 60 --workers 2 --kills 2

With ``--kills`` one of several workers is killed (SIGKILL) now and then: what it was computing is answered with 502.

The last line is JSON: ``throughput`` (share of the loop's images per second), ``images_per_s``, ``loop_images_per_s``,
``throughput_by_cpu`` (the loop's CPU time for an image by the server's, which depends less on what else the machine
does; not with ``--kills``), ``http_share`` (of the server's CPU time, that of the process with the connections, where
there are several), ``images_per_pass``, ``median_ms``, ``p95_ms``, ``wrong``, ``unanswered`` (honest requests that were
cut off), ``statuses``, ``mb_first``, ``mb_last``, ``mb_rested`` (memory of the server and its workers, what they share
counted once: after a quarter of the time, at the end, and when nothing has come for a while).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import httpx
import numpy as np
import psutil
from numpy.typing import NDArray
from skimage import data

import eachmask
from eachmask.server.batcher import REST_SECONDS
from eachmask.server.client import content_of, instances_of

KEY = "a key for a benchmark on loopback"
MODEL = "nuclei"


@contextmanager
def served(port: int, workers: int = 1) -> Iterator[tuple[str, psutil.Process]]:
    """A server of its own process."""
    command = [sys.executable, "-m", "eachmask", "serve", MODEL, "--port", str(port), "--max-mb", "2"]
    command += ["--workers", str(workers)]
    with subprocess.Popen(command, env=os.environ | {"EACHMASK_KEY": KEY}, stderr=subprocess.DEVNULL) as process:
        url = f"http://127.0.0.1:{port}"
        try:
            while not is_ready(url, workers):
                assert process.poll() is None, "the server did not start"
                time.sleep(0.2)
            yield url, psutil.Process(process.pid)
        finally:
            process.terminate()


def is_ready(url: str, workers: int) -> bool:
    """Whether all workers have loaded their model."""
    try:
        return counted(url).get("eachmask_workers") == workers
    except httpx.HTTPError:
        return False


def counted(url: str) -> dict[str, float]:
    """The server's counters that have no labels."""
    text = httpx.get(f"{url}/metrics", headers={"Authorization": f"Bearer {KEY}"}).text
    rows = (line.rsplit(" ", 1) for line in text.splitlines() if line and line[0] != "#" and "{" not in line)
    return {name: float(value) for name, value in rows}


@dataclass
class Tally:
    """What all clients saw."""

    statuses: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    wrong: int = 0
    unanswered: int = 0


def ask(url: str, contents: list[bytes], counts: list[int], end: float, tally: Tally, seed: int) -> None:
    """One client: mostly honest, now and then not."""
    chance = random.Random(seed)
    headers = {"Authorization": f"Bearer {KEY}"}
    with httpx.Client(base_url=url, headers=headers, timeout=120, verify=False) as client:  # plain http
        while time.monotonic() < end:
            kind = chance.choices(("honest", "broken", "huge", "forged", "slow"), (90, 3, 3, 2, 2))[0]
            which = chance.randrange(len(contents))
            begin = time.monotonic()
            try:
                answer = send(client, url, kind, contents[which])
            except (httpx.HTTPError, OSError) as error:
                tally.statuses[f"{kind} {type(error).__name__}"] += 1
                tally.unanswered += kind == "honest"
                continue
            tally.statuses[f"{kind} {answer.status_code}"] += 1
            if answer.status_code == 503:
                wished = float(answer.headers.get("Retry-After", 1)) * chance.uniform(0.2, 1)
                time.sleep(max(0.0, min(wished, end - time.monotonic())))
            if kind == "honest" and answer.is_success:
                tally.seconds.append(time.monotonic() - begin)
                tally.wrong += len(instances_of(answer.json())) != counts[which]
            tally.wrong += kind != "honest" and answer.is_success


def send(client: httpx.Client, url: str, kind: str, content: bytes) -> httpx.Response:
    if kind == "slow":
        return trickle(url, content)
    body = {"broken": content[: len(content) // 2], "huge": bytes(4_000_000)}.get(kind, content)
    headers = {"Authorization": "Bearer forged"} if kind == "forged" else {}
    return client.post("/predict", content=body, headers=headers)


def trickle(url: str, content: bytes) -> httpx.Response:
    """A request that begins and never ends."""
    where = urlsplit(url)
    with socket.create_connection((where.hostname, where.port), timeout=3) as line:
        head = ["POST /predict HTTP/1.1", "Host: 127.0.0.1", f"Authorization: Bearer {KEY}"]
        head += [f"Content-Length: {len(content)}", "", ""]
        line.sendall("\r\n".join(head).encode() + content[:100])
        time.sleep(2)
    return httpx.Response(499)


def processes(server: psutil.Process) -> list[psutil.Process]:
    """The server, and those that compute for it."""
    return [server, *(child for child in server.children() if child.memory_info().rss > 1e8)]


def memory(server: psutil.Process) -> float:
    """MB of all of them; of pages that several have, each counts its share."""
    return sum(one.memory_full_info().pss for one in processes(server)) / 1e6


def cpu_seconds(server: psutil.Process) -> NDArray[np.float64]:
    """Of the server and of all that compute for it, since they began."""
    each = [sum(one.cpu_times()[:2]) for one in processes(server)]
    return np.array([each[0], sum(each)])


def images(number: int = 8, side: int = 256) -> list[NDArray[np.uint8]]:
    """Windows of a photograph of coins, all of one size."""
    coins = data.coins()
    chance = np.random.default_rng(0)
    corners = chance.integers(0, [coins.shape[0] - side, coins.shape[1] - side], (number, 2))
    return [np.ascontiguousarray(np.repeat(coins[y : y + side, x : x + side, None], 3, 2)) for y, x in corners]


def loop(seconds: float, photos: list[NDArray[np.uint8]]) -> tuple[float, float, list[int]]:
    """Of a bare predictor that decodes and encodes as the server does: images per second, CPU seconds for each, and
    how many objects they have."""
    from eachmask.server.answers import answer, read_body

    predictor = eachmask.load(MODEL)
    contents = [content_of(image) for image in photos]
    counts = [len(predictor.predict(image)) for image in photos]
    begin, cpu, done = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - begin < seconds:
        arrays = [predictor.prepare(read_body(content, 10**8)) for content in contents]
        for array, found in zip(arrays, predictor.predict_arrays(arrays), strict=True):
            answer(predictor, array, found, "json")
        done += len(contents)
    return done / (time.perf_counter() - begin), (time.process_time() - cpu) / done, counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--port", type=int, default=8765)
    options = parser.parse_args()
    photos = images()
    contents = [content_of(image) for image in photos]
    bare, bare_cpu, counts = loop(options.seconds / 4, photos)
    tally = Tally()
    with served(options.port, options.workers) as (url, process):
        begin, cpu = time.monotonic(), cpu_seconds(process)
        end = begin + options.seconds
        asking = [
            threading.Thread(target=ask, args=(url, contents, counts, end, tally, seed))
            for seed in range(options.clients)
        ]
        for thread in asking:
            thread.start()
        time.sleep(options.seconds / 4)
        first = memory(process)
        for _ in range(options.kills):
            processes(process)[1].kill()
            time.sleep(options.seconds / 2 / options.kills)
        for thread in asking:
            thread.join()
        took, last, cpu = time.monotonic() - begin, memory(process), cpu_seconds(process) - cpu
        passes = counted(url)
        time.sleep(REST_SECONDS + 5)
        rested = memory(process)
    rate = len(tally.seconds) / took
    milliseconds = sorted(1000 * value for value in tally.seconds) or [math.nan]
    late = milliseconds[int(0.95 * len(milliseconds))]
    computed = passes["eachmask_images_total"] - tally.statuses["broken 422"]  # those that came too late are among them
    figures = {
        "throughput": round(rate / bare, 3), "images_per_s": round(rate, 2), "loop_images_per_s": round(bare, 2),
        "throughput_by_cpu": None if options.kills else round(bare_cpu * computed / cpu[1], 3),
        "http_share": None if options.kills or options.workers == 1 else round(cpu[0] / cpu[1], 3),
        "images_per_pass": round(passes["eachmask_images_total"] / passes["eachmask_batches_total"], 2),
        "median_ms": round(statistics.median(milliseconds), 0), "p95_ms": round(late, 0),
        "wrong": tally.wrong, "unanswered": tally.unanswered, "statuses": dict(sorted(tally.statuses.items())),
        "mb_first": round(first), "mb_last": round(last), "mb_rested": round(rested),
    }  # fmt: skip
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
