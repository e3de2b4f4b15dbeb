"""``eachmask demo``: the objects in real images, found by the models that are on this machine."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from eachmask.files.text import say

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


@dataclass(frozen=True)
class DemoOptions:
    """Find the objects in images that come with scikit-image, and say where the results are.

    Nothing is downloaded unless asked for.

    Examples:
      eachmask demo
      eachmask demo --fetch
    """

    out: Path = Path("results/demo")
    """Results folder, with one folder for each model."""
    fetch: bool = False
    """Download the models for it that are not on this machine."""
    images: Path = Path("images")
    """Gets copies of some of the images, to go on with."""


def demo(options: DemoOptions) -> int:
    """Run the command; returns the exit status."""
    from eachmask.weights.catalogue import bundled, find
    from eachmask.weights.fetch import cached

    _copy_images(options.images)
    fine = True
    for model in FITTING:
        if model in bundled() or cached(find(model)) or options.fetch:
            fine &= _run(model, options.out / model)
        else:
            entry = find(model)
            say(
                f"\n{model} (for {', '.join(FITTING[model])}) is not on this machine; "
                f"eachmask demo --fetch gets it once, {entry.size_mb:.0f} MB from {entry.host}."
            )
    return 0 if fine else 1


def _run(model: str, out: Path) -> bool:
    """One model on its images; tells whether all went well."""
    from eachmask.cli.predict import PredictOptions, predict

    inputs = _images(FITTING[model])
    say(f"\n{model}: {', '.join(Path(path).name for path in inputs)}")
    status = predict(PredictOptions(inputs, model=model, out=out, save=("labels",), overwrite=True))
    if status == 0:
        summary = json.loads((out / "summary.json").read_text())
        say(f"{summary['objects']} objects in {summary['done']} images, in {out}:")
        for name, what in FILES.items():
            say(f"  {out / name}  {what}")
    return status == 0


def _images(names: tuple[str, ...]) -> tuple[str, ...]:
    """Those of the images that this version of scikit-image ships."""
    import skimage

    folder = Path(skimage.__file__).parent / "data"
    return tuple(str(folder / name) for name in names if (folder / name).is_file())


def _copy_images(folder: Path) -> None:
    """To a folder of one's own, for the commands in README.md; what is there stays."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in _images(FITTING["nuclei"]):
        if not (folder / Path(path).name).exists():
            shutil.copy(path, folder)
