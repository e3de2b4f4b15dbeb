"""Mattes from automatic trimaps, against solvers and the hard mask; and what refining patches alone saves.

    python benchmarks/matting.py mattes FOLDER --methods mattes closed_form [--masks clicks] --json out.json
    python benchmarks/matting.py composed FOLDER --foreground lemur/foreground_estimated.png \\
        --alpha lemur/alpha_estimated.png --behind lemur/new_background.png beach.jpg
    python benchmarks/matting.py refinement --size 1080 1920
    python benchmarks/matting.py video --frames 100 --size 2160 3840

FOLDER has images/ and alpha/, perhaps in splits. The trimap of each image is made of its hard mask (alpha above one
half), as `eachmask matte` makes one of the mask that a model finds: no method sees more of the true matte than that.
With `--masks clicks` it is made of the mask with which the model clicks answers the box around that hard mask; the
row `hard_mask` is then that mask's. Smoke and glass, which no mask means, are left out there.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from peak_memory import held_mb, peak_mb

from eachmask import models
from eachmask.batch.matte_video import matte_video
from eachmask.batch.movie import Movie
from eachmask.data.formats import mattes
from eachmask.data.images.read import read_image
from eachmask.data.reading import read
from eachmask.data.transforms.trimaps import is_thin
from eachmask.files.png import png
from eachmask.inference.load import load
from eachmask.inference.matting import MattePredictor
from eachmask.metrics.mattes import matte_errors
from eachmask.structures import RLE, Category, ImageBatch, Matte, Preprocess, Prompts, Trimap, UserError
from eachmask.structures.backdrop import Backdrop
from eachmask.tasks.matting import covering
from eachmask.weights.file import ModelInfo, save_model


def against_each_other(
    folder: Path, methods: list[str], band: float, most: int, finder: str | None = None
) -> dict[str, dict[str, float]]:
    """Mean errors of each method, of the hard mask, and of a band in which all is right."""
    asked = None if finder is None else load(finder)
    predictors = {name: load(name) for name in methods}
    found: dict[str, list[Matte]] = {name: [] for name in ("hard_mask", "perfect_band", *methods)}
    seconds = dict.fromkeys(found, 0.0)
    targets = []
    for split in read(folder, target=Matte).splits.values():
        for i in range(min(len(split), most)):
            sample = split[i]
            if asked is not None and is_thin(sample.targets):
                continue
            mask = RLE.from_bitmaps((sample.targets.alpha > 0.5).numpy()[None])
            if asked is not None:
                box = Prompts(mask.size, boxes=torch.from_numpy(mask.boxes()))
                mask = asked.look_at(sample.image).predict(box).masks.to_rle()
            trimap, hard = Trimap.from_mask(mask, band), torch.from_numpy(mask.decode()[0]).bool()
            targets.append(sample.targets)
            found["hard_mask"].append(Matte(hard.float()))
            right = torch.where(trimap.unknown, sample.targets.alpha, trimap.foreground.float())
            found["perfect_band"].append(Matte(right))
            for name, predictor in predictors.items():
                begin = time.process_time()
                try:
                    found[name].append(Matte(MattePredictor(predictor, trimap).predict(sample.image).alpha))
                except UserError:  # no foreground, or no background, is left to solve from
                    found[name].append(Matte(hard.float()))
                seconds[name] += time.process_time() - begin
    if not targets:
        raise SystemExit(f"{folder}: not one image with a solid foreground")
    num = len(targets)
    return {name: matte_errors(own, targets) | {"seconds": seconds[name] / num} for name, own in found.items()}


def composed(folder: Path, foreground: Path, alpha: Path, behind: list[Path]) -> dict[str, float]:
    """A foreground before each of the images, whose matte is known therefore."""
    front, matte = read_image(foreground), mattes.matte(alpha, (), {})
    share = matte.alpha.double().numpy()[..., None]
    for number, path in enumerate(behind):
        back = covering(read_image(path), matte.image_size)
        image = np.rint(share * front[..., :3] + (1 - share) * back).astype(np.uint8)
        layers = {"images": image, "alpha": np.rint(share[..., 0] * 65535).astype(np.uint16)}
        for kind, pixels in layers.items():
            (folder / kind).mkdir(parents=True, exist_ok=True)
            (folder / kind / f"{number:05d}.png").write_bytes(png(pixels))
    return {"images": len(behind)}


@torch.inference_mode()
def refinement(size: tuple[int, int], repeats: int) -> dict[str, float]:
    """Seconds of Background Matting V2 with MobileNetV2 that refines some cells, and all of them."""
    image, behind = torch.rand(3, *size), Backdrop(torch.rand(3, *size))
    batch, times = ImageBatch.from_tensors([image], divisor=1), {}
    for mode in ("sampling", "full"):
        model = models.variant("background_matting_v2_mobilenetv2")(mode=mode).eval()
        own = []
        for _ in range(repeats + 1):
            begin = time.process_time()
            model(batch, [behind])
            own.append(time.process_time() - begin)
        times[mode] = min(own[1:])
    return times | {"ratio": times["full"] / times["sampling"]}


def long_video(frames: int, size: tuple[int, int]) -> dict[str, Any]:
    """Memory of this process while Robust Video Matting (random weights) cuts a disk out of a made video, ProRes and
    16-bit alpha included."""
    variant, memory = "robust_video_matting_mobilenetv3", {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = models.variant(variant)().eval()
        info = ModelInfo(variant, {}, model.preprocess or Preprocess(), (Category(1, "foreground"),))
        predictor = MattePredictor(load(save_model(folder / "model.safetensors", model, info), device="cpu"))
        movie = Movie(folder / "clip.mp4")
        for number in range(frames):
            image = np.full((*size, 3), 90, np.uint8)
            cv2.circle(
                image, (size[1] // 4 + 8 * number % (size[1] // 2), size[0] // 2), size[0] // 4, (220, 140, 40), -1
            )
            movie.add(number / 25, image)
        movie.close()

        def count() -> None:
            memory[len(memory) + 1] = round(held_mb())

        begin = time.process_time()
        matte_video(predictor, folder / "clip.mp4", folder / "out", ("rgba", "alpha"), on_frame=count)
        seconds = (time.process_time() - begin) / frames
    shown = {done: mb for done, mb in memory.items() if done in (2, 10) or done % max(25, frames // 10) == 0}
    return {"frames": len(memory), "mb": shown, "peak_mb": round(peak_mb()), "seconds": round(seconds, 2)}


def main() -> None:
    """Run one of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_subparsers(dest="what", required=True)
    first = what.add_parser("mattes")
    first.add_argument("folder", type=Path)
    first.add_argument("--methods", nargs="+", default=["closed_form"], help="names or model files")
    first.add_argument("--band", type=float, default=0.05, help="as of `eachmask matte`")
    first.add_argument("--masks", metavar="MODEL", help="that answers the box of each object (default: the true ones)")
    first.add_argument("--most", type=int, default=1000, help="images of each split")
    made = what.add_parser("composed")
    made.add_argument("folder", type=Path, help="to write")
    made.add_argument("--foreground", type=Path, required=True)
    made.add_argument("--alpha", type=Path, required=True)
    made.add_argument("--behind", type=Path, nargs="+", required=True)
    second = what.add_parser("refinement")
    second.add_argument("--size", type=int, nargs=2, default=(1080, 1920), help="height and width, px")
    second.add_argument("--repeats", type=int, default=2)
    third = what.add_parser("video")
    third.add_argument("--frames", type=int, default=100)
    third.add_argument("--size", type=int, nargs=2, default=(2160, 3840), help="height and width, px")
    for one in (first, made, second, third):
        one.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.what == "mattes":
        result = against_each_other(options.folder, options.methods, options.band, options.most, options.masks)
    elif options.what == "composed":
        result = composed(options.folder, options.foreground, options.alpha, options.behind)
    elif options.what == "video":
        result = long_video(options.frames, tuple(options.size))
    else:
        result = refinement(tuple(options.size), options.repeats)
    print(json.dumps(result))
    if options.json:
        options.json.write_text(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
