"""Find the objects in real images with the models that are on this machine, and say where the results are.

    python examples/demo.py
    python examples/demo.py --fetch            # also with a downloaded model for everyday objects
    python examples/demo.py --out elsewhere

The images come with scikit-image, so nothing is downloaded unless asked for.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path

import skimage

from eachmask.cli import main as eachmask
from eachmask.weights.catalogue import bundled, find
from eachmask.weights.fetch import cached

FITTING = {
    "nuclei": ("coins.png", "hubble_deep_field.jpg"),
    "objects": ("astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png"),
    "mask_rcnn_r50_fpn_v2": ("astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg"),
}
"""Model -> images that it fits. Nuclei are compact and stand out from what is around; so do coins and galaxies.
scikit-image's ihc.png is left out: of brown-stained tissue ``nuclei`` finds a part only, as its card says."""
FILES = {
    "report.html": "open it in a browser",
    "overlays": "the images with the objects drawn in",
    "predictions.json": "COCO results, masks as RLE",
    "labels": "label maps: pixel value n is object n of the image",
    "instances.csv": "one row of measures per object",
}


def images(names: tuple[str, ...]) -> list[str]:
    """Those of the images that this version of scikit-image ships."""
    folder = Path(skimage.__file__).parent / "data"
    return [str(folder / name) for name in names if (folder / name).is_file()]


def run(model: str, out: Path) -> bool:
    """One model on its images; tells whether all went well."""
    inputs = images(FITTING[model])
    print(f"\n{model}: {', '.join(Path(path).name for path in inputs)}")
    status = eachmask(["predict", *inputs, "--model", model, "--out", str(out), "--save", "labels", "--overwrite"])
    if status == 0:
        summary = json.loads((out / "summary.json").read_text())
        print(f"{summary['objects']} objects in {summary['done']} images, in {out}:")
        for name, what in FILES.items():
            print(f"  {out / name}  {what}")
    return status == 0


def copy_images(folder: Path) -> None:
    """To a folder of one's own, for the commands in README.md; what is there stays."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in images(FITTING["nuclei"]):
        if not (folder / Path(path).name).exists():
            shutil.copy(path, folder)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("results/demo"), help="results folder")
    parser.add_argument("--fetch", action="store_true", help="download models that are not on this machine")
    parser.add_argument("--images", type=Path, default=Path("images"), help="folder for copies of some of the images")
    options = parser.parse_args()
    copy_images(options.images)
    fine = True
    for model in FITTING:
        if model in bundled() or cached(find(model)) or options.fetch:
            fine &= run(model, options.out / model)
        else:
            entry = find(model)
            print(
                f"\n{model} (for {', '.join(FITTING[model])}) is not on this machine; "
                f"`make demo FETCH=1` gets it once, {entry.size_mb:.0f} MB from {entry.host}."
            )
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
