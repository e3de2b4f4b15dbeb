"""A data set of made rosettes: plants from above whose leaves overlap, for systems that count and separate leaves.

    python examples/rosettes.py leaves --train 60 --val 20 --test 20
    eachmask train discriminative_lite0 --data leaves --out runs/leaves
    eachmask evaluate runs/leaves --data leaves --split test

The folder has the layout of the CVPPP leaf challenges, whose own photographs must be asked for.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from eachmask.data.rosettes import write_rosettes


def main(arguments: list[str] | None = None) -> None:
    """Write the folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="new folder")
    for split, num in (("train", 60), ("val", 20), ("test", 20)):
        parser.add_argument(f"--{split}", type=int, default=num, help=f"plants (default {num})")
    parser.add_argument("--size", type=int, default=128, help="of the images, px (default 128)")
    parser.add_argument("--leaves", type=int, nargs=2, default=(4, 12), help="fewest and most (default 4 12)")
    parser.add_argument("--seed", type=int, default=0, help="of the first plant (default 0)")
    options = parser.parse_args(arguments)
    if options.folder.exists():
        parser.error(f"{options.folder} exists: name a new folder")
    splits = {split: getattr(options, split) for split in ("train", "val", "test")}
    write_rosettes(options.folder, splits, options.seed, (options.size, options.size), tuple(options.leaves))
    print(f"{sum(splits.values())} plants in {options.folder}")


if __name__ == "__main__":
    main()
