"""Objects that are marked in the first frame of clips: a model against simpler ways, as DAVIS measures.

    python benchmarks/video.py DATA --model memory [--clips dog blackswan] [--frames 40]
    python benchmarks/video.py DATA --moving [--model objects] [--clips dog blackswan] [--frames 40]
    python benchmarks/video.py --long 10000 --model memory

DATA has ``images/CLIP/*.jpg`` and ``masks/CLIP/*.png`` (label maps); without ``--clips`` the clips of split ``val``
in its video_instances.json are taken, which no recipe learns from. The last line is JSON: ``j_and_f`` of the
model, ``j_and_f_repeat`` (the first mask again and again), ``j_and_f_flow`` (carried by optical flow),
``j_and_f_linked`` (what the bundled ``objects`` finds in each frame, linked by IoU), ``fps`` at 854 x 480 on two
threads, ``peak_mb``.

``--moving`` measures the task in which nobody marks anything, as `eachmask track --moving` does it with a model that
finds objects, and without --moving (``_all``): ``j_and_f`` of DAVIS 2017 (each object gets the track that fits best),
and ``union`` of DAVIS 2016 (all tracks together against all objects: what does not move is wrong). ``core_seconds`` is
the CPU time of a frame, of both together.

``--long`` follows two squares through so many frames of 128 x 96 px and prints the memory that the process takes on the
way.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from peak_memory import held_mb, peak_mb

from eachmask.batch.track import TrackOptions, track
from eachmask.data.formats.label_maps import numbers_in
from eachmask.data.images.video import VideoFrame, frames_of
from eachmask.inference.following import follow, load_follower
from eachmask.inference.load import load
from eachmask.inference.video_predictor import VideoPredictor
from eachmask.metrics import davis
from eachmask.ops.optical_flow import carried, flow
from eachmask.ops.tracking import TrackerConfig
from eachmask.structures import RLE, Prompts

Labels = NDArray[np.int64]


def repeated(frames: list[VideoFrame], first: Labels) -> Iterator[Labels]:
    """The first mask."""
    return (first for _ in frames)


def flowing(frames: list[VideoFrame], first: Labels) -> Iterator[Labels]:
    """The mask of the frame before, carried by optical flow."""
    labels, before = first.astype(np.uint8), frames[0].image
    for frame in frames:
        if frame.number:
            labels = carried(labels, flow(frame.image, before))
        before = frame.image
        yield labels


def linked(frames: list[VideoFrame], first: Labels) -> Iterator[Labels]:
    """Of what is found in each frame, for each object what overlaps most with where it was."""
    predictor = load("objects", device="cpu")
    numbers = [int(k) for k in np.unique(first) if k]
    last = RLE.from_bitmaps(np.stack([first == k for k in numbers]))
    for frame in frames:
        if frame.number:
            found = predictor.predict(frame.image, score=0.05)
            iou = last.iou(found.masks) if len(found) else np.zeros((len(numbers), 0))
            rows = [int(row.argmax()) if row.size and row.max() > 0.1 else -1 for row in iou]
            masks = found.masks.to_rle()
            last = RLE.cat([masks[at] if at >= 0 else last[k] for k, at in enumerate(rows)])
        labels = np.zeros(first.shape, np.int64)
        for number, mask in zip(numbers, last.decode(), strict=True):
            labels[mask] = number
        yield labels


def measure(data: Path, clips: list[str], model: str, most: int | None) -> dict[str, float]:
    """J&F of all ways."""
    predictor, scores = load_follower(model, "cpu"), {}
    ways = {"": lambda frames, first: follow(predictor, frames, first), "_repeat": repeated, "_flow": flowing,
            "_linked": linked}  # fmt: skip
    for clip in clips:
        frames = list(frames_of(data / "images" / clip))[:most]
        targets = [numbers_in(path) for path in sorted((data / "masks" / clip).glob("*.png"))[:most]]
        first = np.where(targets[0] == davis.VOID, 0, targets[0]).astype(np.int64)
        for name, way in ways.items():
            found = davis.semi_supervised(way(frames, first), targets)
            scores.setdefault(name, []).append(found)
            print(f"{clip:<16}{name or 'model':<10}{davis.summary([found])['J&F-Mean']:.3f}", flush=True)
    return {f"j_and_f{name}": round(davis.summary(found)["J&F-Mean"], 4) for name, found in scores.items()}


def unmarked(data: Path, clips: list[str], model: str, most: int | None) -> dict[str, float]:
    """J&F where nobody says what is meant, of what moves and of all that is found."""
    predictor, scores, frames, begin = load(model, device="cpu"), {}, 0, time.process_time()
    tracker = TrackerConfig(predictor.decode_options().score_threshold or TrackerConfig.sure)
    for clip in clips:
        targets = [numbers_in(path) for path in sorted((data / "masks" / clip).glob("*.png"))[:most]]
        frames += len(targets)
        for name, moves in (("", True), ("_all", False)):
            with tempfile.TemporaryDirectory() as folder:
                wishes = TrackOptions(tracker=tracker, moving=moves, frames=most, save=("davis",))
                track(predictor, data / "images" / clip, Path(folder), wishes)
                found = [numbers_in(path) for path in sorted((Path(folder) / "davis").glob("*.png"))]
            both = (davis.unsupervised(found, targets), davis.semi_supervised(*_joined(found, targets)))
            for kind, one in zip(("j_and_f", "union"), both, strict=True):
                scores.setdefault(kind + name, []).append(one)
                print(f"{clip:<16}{kind + name:<12}{davis.summary([one])['J&F-Mean']:.3f}", flush=True)
    spent = (time.process_time() - begin) / frames
    means = {name: round(davis.summary(found)["J&F-Mean"], 4) for name, found in scores.items()}
    return means | {"core_seconds": round(spent, 2)}


def _joined(found: list[Labels], targets: list[Labels]) -> tuple[list[Labels], list[Labels]]:
    """All objects as one; the first frame has it, as what is measured wants."""
    one = [np.where(labels == davis.VOID, 0, labels > 0).astype(np.int64) for labels in targets]
    return [(labels > 0).astype(np.int64) for labels in found], one


def speed(data: Path, clip: str, model: str) -> float:
    """Frames per second of 854 x 480 px, one object, once memory has filled."""
    torch.set_num_threads(2)
    video, state, times = load_follower(model, "cpu"), None, []
    first = numbers_in(next(iter(sorted((data / "masks" / clip).glob("*.png"))))) == 1
    mask = cv2.resize(first.astype(np.uint8), (854, 480), interpolation=cv2.INTER_NEAREST) > 0
    for frame in frames_of(data / "images" / clip):
        image = cv2.resize(frame.image, (854, 480))
        prompts = Prompts((480, 854), masks=RLE.from_bitmaps(mask[None])) if state is None else None
        begin = time.perf_counter()
        _, state = video.step(image, state, prompts)
        times.append(time.perf_counter() - begin)
        if len(times) == 40:
            break
    return round(1 / float(np.median(times[10:])), 2)


def long(number: int, model: str) -> None:
    """Memory of the process while a long video is followed."""
    video, first = VideoPredictor(load(model, device="cpu", side=128)), np.zeros((96, 128), np.int64)
    first[20:40, 20:40], first[60:80, 80:100] = 1, 2

    def frames() -> Iterator[VideoFrame]:
        for t in range(number):
            image = np.full((96, 128, 3), 60, np.uint8)
            shift = round(15 * np.sin(t / 20))
            image[20:40, 20 + shift : 40 + shift], image[60 - shift : 80 - shift, 80:100] = (220, 40, 40), (40, 40, 220)
            yield VideoFrame(t, t / 25, image)

    for t, _ in enumerate(follow(video, frames(), first), start=1):
        if t in (100, 500, 1000) or t % 2000 == 0:
            print(f"{t} frames: {held_mb():.0f} MB", flush=True)


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("--model", help="memory, or objects with --moving")
    parser.add_argument("--moving", action="store_true")
    parser.add_argument("--clips", nargs="*", default=[])
    parser.add_argument("--frames", type=int)
    parser.add_argument("--long", type=int)
    options = parser.parse_args()
    if options.long:
        return long(options.long, options.model or "memory")
    videos = json.loads((options.data / "video_instances.json").read_text())["videos"]
    clips = options.clips or [video["name"] for video in videos if video.get("split") == "val"]
    if options.moving:
        found = unmarked(options.data, clips, options.model or "objects", options.frames)
        return print(json.dumps({**found, "clips": clips}))
    result = measure(options.data, clips, options.model or "memory", options.frames)
    fps = speed(options.data, clips[0], options.model or "memory")
    print(json.dumps({**result, "fps": fps, "peak_mb": round(peak_mb()), "clips": clips}))


if __name__ == "__main__":
    main()
