"""A data set of made foregrounds before photographs, whose mattes are known exactly.

    python examples/mattes.py made --data coco-mini coco-person-single --train 1500 --val 60
    eachmask train mattes --data made --out runs/mattes
    eachmask evaluate runs/mattes --data made --split val

Hair, fur, leaves, smoke and glass are drawn; objects are cut out of the photographs of --data, which are data sets with
masks in any format that `eachmask convert` reads. Images of a split are made of photographs of that split alone.

    python examples/mattes.py made --data coco-mini --backgrounds
    eachmask train background_matting_small --data made --out runs/background
"""

from __future__ import annotations

import argparse
from pathlib import Path

from eachmask.data.classes import one_class
from eachmask.data.joined import joined
from eachmask.data.made_mattes import write_made_mattes
from eachmask.data.reading import read
from eachmask.structures import Instances


def main(arguments: list[str] | None = None) -> None:
    """Write the folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="new folder")
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="data sets with masks of objects")
    for split, num in (("train", 1500), ("val", 60)):
        parser.add_argument(f"--{split}", type=int, default=num, help=f"images (default {num})")
    parser.add_argument("--size", type=int, default=512, help="of the images, px (default 512)")
    parser.add_argument("--seed", type=int, default=0, help="of the first image (default 0)")
    help_of_backgrounds = "write the background of each image as a second photograph shows it, instead of a trimap"
    parser.add_argument("--backgrounds", action="store_true", help=help_of_backgrounds)
    options = parser.parse_args(arguments)
    if options.folder.exists():
        parser.error(f"{options.folder} exists: name a new folder")
    sets = [one_class(read(path, target=Instances)) for path in options.data]
    splits = {}
    for split in ("train", "val"):
        objects = joined([data.splits[split] for data in sets])
        splits[split] = (getattr(options, split), [objects.path(i) for i in range(len(objects))], objects)
    size = (options.size, options.size)
    write_made_mattes(options.folder, splits, options.seed, size, backgrounds=options.backgrounds)
    print(f"{options.train + options.val} images in {options.folder}")


if __name__ == "__main__":
    main()
