"""Made foregrounds before photographs: images whose mattes are known exactly, as a data set that trains matting.

``examples/mattes.py`` is the command line of :func:`write_made_mattes`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from eachmask.data.foregrounds import KINDS, Foreground, Rng, Values, cutout, in_motion, out_of_focus
from eachmask.data.formats.mattes import BACKGROUNDS, FOLDERS, TRIMAPS
from eachmask.data.images.read import read_image
from eachmask.data.sample import Sample
from eachmask.data.samples import Samples
from eachmask.data.transforms.trimaps import Trimapped
from eachmask.files.png import png
from eachmask.structures import RLE, Instances, Matte, Preprocess, Trimap, UserError
from eachmask.structures.backdrop import Backdrop

CUT_OUT = 0.6
"""Share of images whose foreground is an object of a photograph, where there are some."""
LEAST_AREA = 0.03
"""Of an object that is cut out, as a share of its photograph."""
ATTEMPTS = 8
"""So many photographs are looked at for an object that is large enough."""


def made_matte(
    seed: int,
    photographs: Sequence[Path],
    objects: Samples[Instances] | None = None,
    size: tuple[int, int] = (512, 512),
    *,
    backgrounds: bool = False,
) -> Sample[Matte]:
    """One image.

    Args:
        seed: everything follows from it.
        photographs: what is behind, and what drawn things wear.
        objects: photographs with masks, from which foregrounds are cut; None: all are drawn.
        size: (height, width), px.
        backgrounds: the background alone is handed over, as a second photograph shows it, instead of a trimap.

    Returns:
        image (H, W, 3) uint8; its matte with the foreground's colors, for which I = alpha F + (1 - alpha) B up to
        rounding; ``given`` is a trimap or a backdrop.
    """
    rng = np.random.default_rng(seed)
    behind = _photograph(rng, photographs, size)
    front = None if objects is None or rng.random() >= CUT_OUT else _object(rng, objects, size)
    if front is None:
        front = KINDS[rng.choice(sorted(KINDS))](rng, _photograph(rng, photographs, size))
    if rng.random() < 0.3:
        front = front.blurred((out_of_focus if rng.random() < 0.6 else in_motion)(rng, min(size)))
    alpha = front.alpha[..., None]
    image = np.rint((alpha * front.colors + (1 - alpha) * behind) * 255).astype(np.uint8)
    colors = torch.from_numpy(front.colors).permute(2, 0, 1).contiguous()
    sample = Sample(image, Matte(torch.from_numpy(front.alpha), colors))
    return replace(sample, given=_second_photograph(rng, behind)) if backgrounds else Trimapped()(sample, rng)


def write_made_mattes(
    folder: Path,
    splits: Mapping[str, tuple[int, Sequence[Path], Samples[Instances] | None]],
    seed: int = 0,
    size: tuple[int, int] = (512, 512),
    *,
    backgrounds: bool = False,
) -> None:
    """Write what ``eachmask train --data`` takes: ``images/SPLIT``, ``alpha/SPLIT`` (16 bits), and ``trimaps/SPLIT``
    or ``backgrounds/SPLIT``.

    Args:
        splits: name -> number of images, photographs and objects, see :func:`made_matte`.
        seed: of the first image; the others follow, so that no two splits share one.

    Raises:
        UserError: there is no photograph.
    """
    for split, (num, photographs, objects) in splits.items():
        if num and not photographs:
            raise UserError(f"{split}: made foregrounds need at least one photograph to lie before")
        for number in range(num):
            sample, seed = made_matte(seed, photographs, objects, size, backgrounds=backgrounds), seed + 1
            alpha = np.rint(sample.targets.alpha.double().numpy() * 65535).astype(np.uint16)
            layers = {
                "images": sample.image,
                FOLDERS[0]: alpha,
                (BACKGROUNDS if backgrounds else TRIMAPS)[0]: _pixels(sample.given),
            }
            for kind, pixels in layers.items():
                path = folder / kind / split / f"{number:05d}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(png(pixels))


def _second_photograph(rng: Rng, behind: Values) -> Backdrop:
    """The background (H, W, 3) taken again: the hand moved a little, the light changed a little, and there is noise."""
    shift = np.array([[1, 0, rng.uniform(-1.5, 1.5)], [0, 1, rng.uniform(-1.5, 1.5)]])
    moved = cv2.warpAffine(behind, shift, (behind.shape[1], behind.shape[0]), borderMode=cv2.BORDER_REPLICATE)
    noise = rng.normal(0, rng.uniform(0.002, 0.012), behind.shape)
    lit = moved * rng.uniform(0.96, 1.04) + rng.uniform(-0.01, 0.01) + noise
    return Backdrop(torch.from_numpy(lit.clip(0, 1).astype(np.float32)).permute(2, 0, 1).contiguous())


def _pixels(given: Any) -> NDArray[np.uint8]:
    """What is handed over as an image of 8 bits."""
    if isinstance(given, Trimap):
        return given.values.numpy()
    colors: NDArray[np.float32] = given.colors.permute(1, 2, 0).numpy()
    return np.rint(colors * 255).astype(np.uint8)


def _photograph(rng: Rng, photographs: Sequence[Path], size: tuple[int, int]) -> Values:
    """A random window of one of them, (H, W, 3)."""
    image = _floats(read_image(photographs[int(rng.integers(len(photographs)))]))
    scale = max(size[0] / image.shape[0], size[1] / image.shape[1]) * rng.uniform(1, 1.5)
    wide = [max(side, round(own * scale)) for side, own in zip(size, image.shape[:2], strict=True)]
    top, left = (int(rng.integers(0, w - s + 1)) for w, s in zip(wide, size, strict=True))
    image = cv2.resize(image, (wide[1], wide[0]), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    image = image[top : top + size[0], left : left + size[1]]
    return np.ascontiguousarray(image[:, ::-1] if rng.random() < 0.5 else image, np.float32)


def _object(rng: Rng, objects: Samples[Instances], size: tuple[int, int]) -> Foreground | None:
    """One that is large enough in its photograph, at a random size and place; None where none was found."""
    for _ in range(ATTEMPTS):
        sample = objects[int(rng.integers(len(objects)))]
        targets = sample.targets[~sample.targets.crowd]
        areas = np.zeros(0) if targets.masks is None else targets.masks.area() / np.prod(targets.image_size)
        large = np.flatnonzero(areas > LEAST_AREA)
        if len(large):
            return _placed(rng, sample.image, targets[[int(rng.choice(large))]], size)
    return None


def _placed(rng: Rng, photograph: NDArray[Any], chosen: Instances, size: tuple[int, int]) -> Foreground | None:
    """One object cut out of its photograph, None where nothing of it is left on the canvas."""
    x1, y1, x2, y2 = chosen.boxes[0].tolist()
    scale = min(size[0] / (y2 - y1), size[1] / (x2 - x1)) * rng.uniform(0.5, 1.1)
    left = size[1] * rng.uniform(0.3, 0.7) - scale * (x1 + x2) / 2
    bottom = size[0] if y2 > photograph.shape[0] - 3 else size[0] * rng.uniform(0.7, 1)  # what was cut off, stays so
    place = np.array([[scale, 0, left], [0, scale, bottom - scale * y2]])
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    image = cv2.warpAffine(_floats(photograph), place, size[::-1], flags=how, borderMode=cv2.BORDER_REPLICATE)
    mask: NDArray[Any] = chosen.gt_masks.to_rle().decode()[0].astype(np.uint8)
    mask = cv2.warpAffine(mask, place, size[::-1], flags=cv2.INTER_NEAREST)
    if not mask.any():
        return None
    return cutout(rng, image, RLE.from_bitmaps(mask[None].astype(bool)))


def _floats(image: NDArray[Any]) -> Values:
    """(H, W, 3) of any type in 0..1."""
    return Preprocess().to_float(image).permute(1, 2, 0).contiguous().numpy()
