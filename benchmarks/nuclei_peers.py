"""The bundled ``nuclei`` beside what else finds nuclei: scikit-image's classical pipeline and, where they are installed
and have their weights at hand, Cellpose and StarDist. The same images, the same measure, the same machine; nothing is
trained here.

    python benchmarks/nuclei_peers.py --data ../shared/data/dsb2018 [--split test] [--images 40] [--threads 1]

Classical: a Gaussian, Otsu's threshold (the brighter or the darker side, whichever is smaller), holes filled, and a
watershed from the maxima of the distance to the background. Prints a table per kind of image. The last line is one JSON
object: ``ours50``, ``watershed50``, ``cellpose50``, ``stardist50`` (TP/(TP+FP+FN) at IoU 0.5), ``*_mean`` (over
0.5 ... 0.9), ``ms_*`` (median of an image, reading left out), ``left_out`` (who was not measured, and why), ``images``.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from nuclei import scores
from numpy.typing import NDArray

import eachmask
from eachmask.data.formats.coco_read import read_coco
from eachmask.structures import RLE, Instances

Finder = Callable[[NDArray[Any]], Instances]
SMALLEST = 10
"""Objects of the classical pipeline have at least so many pixels."""


def instances(labels: NDArray[Any]) -> Instances:
    """A label map (H, W), 0 is background -> objects."""
    masks = RLE.from_label_map(np.ascontiguousarray(labels, dtype=np.int32))
    size = (labels.shape[0], labels.shape[1])
    return Instances(size, torch.from_numpy(masks.boxes()), masks, scores=torch.ones(len(masks)))


def watershed(image: NDArray[Any]) -> Instances:
    """What a first script in scikit-image does."""
    from scipy.ndimage import binary_fill_holes, distance_transform_edt
    from skimage.feature import peak_local_max
    from skimage.filters import gaussian, threshold_otsu
    from skimage.measure import label
    from skimage.segmentation import watershed as flooded

    gray = gaussian(image.astype(np.float64).mean(2), 1)
    if gray.min() == gray.max():
        return instances(np.zeros(gray.shape, np.int32))
    inside = gray > threshold_otsu(gray)
    inside = binary_fill_holes(~inside if inside.mean() > 0.5 else inside)
    numbers = label(inside)
    inside &= (np.bincount(numbers.ravel()) >= SMALLEST)[numbers]
    distance = gaussian(distance_transform_edt(inside), 1)
    seeds = np.zeros(gray.shape, np.int32)
    peaks = peak_local_max(distance, min_distance=4, labels=label(inside))
    seeds[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    return instances(flooded(-distance, seeds, mask=inside))


def ours() -> Finder:
    """The bundled model."""
    predictor = eachmask.load("nuclei", device="cpu")
    return lambda image: predictor.predict(image)


def cellpose() -> Finder:
    """Cellpose's own nuclei, as its package loads them."""
    from cellpose import models

    model = models.Cellpose(model_type="nuclei") if hasattr(models, "Cellpose") else models.CellposeModel()
    return lambda image: instances(model.eval(image, channels=[0, 0])[0])


def stardist() -> Finder:
    """StarDist's fluorescence model, as its package loads it."""
    from csbdeep.utils import normalize
    from stardist.models import StarDist2D

    model = StarDist2D.from_pretrained("2D_versatile_fluo")
    return lambda image: instances(model.predict_instances(normalize(image.mean(2)))[0])


def measure(find: Finder, samples: list[Any], kinds: list[str]) -> tuple[dict[str, float], float]:
    """Scores of all images, a row of every kind of image printed, and milliseconds."""
    found, times = [], []
    for sample in samples:
        begin = time.perf_counter()
        found.append(find(sample.image))
        times.append(1000 * (time.perf_counter() - begin))
    rows = {}
    for kind in ("all", *sorted(set(kinds))):
        own = [i for i, other in enumerate(kinds) if kind in ("all", other)]
        rows[kind] = scores([found[i] for i in own], [samples[i].targets for i in own])
        print(f"  {kind} ({len(own)}): {rows[kind]['match50']:.3f} at 0.5, {rows[kind]['match_mean']:.3f} on average")
    return rows["all"], median(times)


def main() -> None:
    """Measure all that are there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the dsb2018 pack")
    parser.add_argument("--split", default="test", choices=["val", "test"])
    parser.add_argument("--images", type=int, help="so many, evenly spaced; all by default")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    annotations = options.data / f"instances_{options.split}.json"
    modality = {image["id"]: image["modality"] for image in json.loads(annotations.read_text())["images"]}
    (data,) = read_coco(annotations, images=options.data / "images" / options.split, strict=True).splits.values()
    step = max(1, len(data) // (options.images or len(data)))
    samples = [data[i] for i in range(0, len(data), step)]
    kinds = [modality[sample.image_id] for sample in samples]
    result: dict[str, Any] = {"images": len(samples), "split": options.split, "left_out": {}}
    peers = {"ours": ours, "watershed": lambda: watershed, "cellpose": cellpose, "stardist": stardist}
    for name, load in peers.items():
        print(name)
        try:
            find = load()
        except Exception as error:  # not installed, or its weights are on a hub that is out of reach
            result["left_out"][name] = str(error).split("\n")[0][:200]
            print(f"  left out: {result['left_out'][name]}")
            continue
        row, milliseconds = measure(find, samples, kinds)
        result |= {f"{name}50": round(row["match50"], 4), f"{name}_mean": round(row["match_mean"], 4)}
        result[f"ms_{name}"] = round(milliseconds, 1)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
