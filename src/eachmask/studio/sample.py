"""Sample images for who has none at hand: those that scikit-image carries."""

from __future__ import annotations

import shutil
from pathlib import Path

from eachmask.structures import UserError

NAMES = ("coins.png", "astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "hubble_deep_field.jpg")


def sample_folder(folder: Path) -> Path:
    """Copy the images that are there; what is in the folder stays.

    Raises:
        UserError: this installation of scikit-image carries none.
    """
    import skimage

    carried = Path(skimage.__file__).parent / "data"
    found = [carried / name for name in NAMES if (carried / name).is_file()]
    if not found:
        raise UserError("scikit-image carries no sample images here: name a folder of your own")
    folder.mkdir(parents=True, exist_ok=True)
    for path in found:
        if not (folder / path.name).exists():
            shutil.copyfile(path, folder / path.name)
    return folder
