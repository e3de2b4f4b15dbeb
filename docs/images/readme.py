"""The image of README.md: what the bundled models find in two images that come with scikit-image.

    python docs/images/readme.py

coins (Brooklyn Museum, no known copyright restrictions) and chelsea (CC0, Stefan van der Walt).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import skimage.data
from PIL import Image

import eachmask

HEIGHT, GAP = 300, 8


def main() -> None:
    coins = eachmask.load("nuclei", precision="fp32").predict(skimage.data.coins())
    cat = eachmask.load("objects", precision="fp32").predict(skimage.data.chelsea(), classes=["cat"])
    images = [result.render()[:HEIGHT] for result in (coins, cat)]
    white = np.full((HEIGHT, GAP, 3), 255, np.uint8)
    Image.fromarray(np.hstack([images[0], white, images[1]])).save(Path(__file__).parent / "readme.jpg", quality=85)


if __name__ == "__main__":
    main()
