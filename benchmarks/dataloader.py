"""Do data-loader workers grow? Resident memory of two workers over two epochs of a made set of 100,000 annotations.

A COCO file is made (images of 64 x 64 px, so that reading them costs little; the annotations are polygons) and read,
and every sample is drawn twice by workers of torch's DataLoader that live through both epochs. Memory is what only the
workers hold (``uss``: pages that they wrote to since they were forked are theirs alone, shared ones are not counted)
and resident memory (``rss``).

    python benchmarks/dataloader.py [--annotations 100000] [--images 10000] [--workers 2] [--kept-as split]

``--kept-as`` chooses how the annotations are held: ``split``, as ``eachmask train`` does whatever the format, or
``list``, as Python's own objects, the way that grows. The last line is JSON: images per second, MB of all workers after
the first tenth of the first epoch and at the end of the second, bytes of annotations, CPU seconds of reading them.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from eachmask.data import Split, read

SIDE = 64
POINTS = 12


def make(folder: Path, num_images: int, num_annotations: int) -> Path:
    """A COCO file whose images are all links to one image."""
    rng = np.random.default_rng(0)
    (folder / "images").mkdir()
    pixels = rng.integers(0, 256, (SIDE, SIDE, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(folder / "images" / "0.png")
    for i in range(1, num_images):
        (folder / "images" / f"{i}.png").hardlink_to(folder / "images" / "0.png")
    images = [{"id": i, "file_name": f"{i}.png", "height": SIDE, "width": SIDE} for i in range(num_images)]
    angle = np.linspace(0, 2 * np.pi, POINTS, endpoint=False)
    annotations = []
    for i in range(num_annotations):
        center, radius = rng.uniform(12, SIDE - 12, 2), rng.uniform(4, 11, POINTS)
        ring = (center + np.stack([np.cos(angle), np.sin(angle)], 1) * radius[:, None]).round(1)
        (x1, y1), (x2, y2) = ring.min(0), ring.max(0)
        annotations.append(
            {"id": i + 1, "image_id": i % num_images, "category_id": i % 3 + 1, "iscrowd": 0,
             "segmentation": [ring.ravel().tolist()], "bbox": [x1, y1, x2 - x1, y2 - y1]}
        )  # fmt: skip
    content = {"images": images, "annotations": annotations,
               "categories": [{"id": k, "name": str(k)} for k in (1, 2, 3)]}  # fmt: skip
    path = folder / "instances.json"
    path.write_text(json.dumps(content))
    return path


class Listed(Dataset[int]):
    """The annotations as Python objects: every look at one writes its reference count."""

    def __init__(self, path: Path) -> None:
        content = json.loads(path.read_text())
        self.groups: list[list[dict[str, Any]]] = [[] for _ in content["images"]]
        for row in content["annotations"]:
            self.groups[row["image_id"]].append(row)

    def __len__(self) -> int:
        return len(self.groups)

    def __getitem__(self, index: int) -> int:
        return sum(len(np.asarray(row["segmentation"][0])) for row in self.groups[index])


class TrainingSample(Dataset[int]):
    """Samples reduced to their number of objects: what is measured is reading, not sending."""

    def __init__(self, data: Split) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> int:
        return len(self.data[index].targets)


def memory(exclude: set[int]) -> tuple[float, float]:
    """(uss, rss) of this process's children, MB."""
    found = [p.memory_full_info() for p in psutil.Process().children() if p.pid not in exclude]
    return sum(m.uss for m in found) / 1e6, sum(m.rss for m in found) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--annotations", type=int, default=100_000)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--kept-as", choices=("split", "list"), default="split")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        path = make(Path(name), options.images, options.annotations)
        begun = time.process_time()
        data = Listed(path) if options.kept_as == "list" else read(path).splits["all"]
        load = time.process_time() - begun
        print(f"{options.annotations} annotations read in {load:.1f} s of one core")
        held = data.nbytes if isinstance(data, Split) else None
        result = measure(TrainingSample(data) if isinstance(data, Split) else data, options.workers)
    result |= {
        "annotations": options.annotations,
        "annotation_bytes": held,
        "load_cpu_seconds": round(load, 1),
        "kept_as": options.kept_as,
    }
    print(json.dumps(result))


def measure(data: Dataset[int], workers: int) -> dict[str, Any]:
    """Two epochs; the start is taken when each worker has warmed up."""
    others = {p.pid for p in psutil.Process().children()}
    loader = DataLoader(data, batch_size=20, shuffle=True, num_workers=workers, persistent_workers=True)
    first, objects, begun = None, 0, time.perf_counter()
    for epoch in range(2):
        for number, batch in enumerate(loader):
            objects += int(batch.sum())
            if epoch == 0 and number == len(loader) // 10:
                first = memory(others)
        last = memory(others)
        print(f"epoch {epoch + 1}: workers hold {last[0]:.1f} MB of their own, {last[1]:.1f} MB resident")
    seconds = time.perf_counter() - begun
    assert first is not None
    return {
        "images_per_second": round(2 * len(data) / seconds, 1),  # type: ignore[arg-type]
        "objects_drawn": objects,
        "own_mb_start": round(first[0], 1),
        "own_mb_end": round(last[0], 1),
        "resident_mb_start": round(first[1], 1),
        "resident_mb_end": round(last[1], 1),
        "workers": workers,
    }


if __name__ == "__main__":
    main()
