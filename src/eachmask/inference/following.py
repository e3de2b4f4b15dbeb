"""Objects whose masks are given in the first frame of a video, followed by XMem."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from eachmask.data.images.video import VideoFrame
from eachmask.models.video.memory import Follower, MemoryConfig
from eachmask.models.video.xmem import MEAN, STD, XMem
from eachmask.structures import Preprocess, UserError

SHORT_SIDE = 480
"""Px as the network sees frames, as the authors measured it; smaller frames are not enlarged."""
SAM2_SIDE = 1024
"""Px of the square to which SAM 2's published weights want frames stretched."""
VOID = 255
"""In a label map: nobody knows."""


def load_xmem(path: str | Path, device: str = "cpu") -> XMem:
    """The network with the weights of a checkpoint, as its authors publish it (XMem.pth, MIT license).

    Raises:
        UserError: the file is not there, or holds other weights.
    """
    if not Path(path).is_file():
        raise UserError(f"{path} is no file: name a checkpoint of XMem, such as XMem.pth of its authors")
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
        return XMem.of(weights).to(device)
    except Exception as error:  # pickles, archives and tensors of any other kind
        reason = str(error).split("\n")[0][:80]
        raise UserError(f"{path} holds no weights of XMem ({type(error).__name__}: {reason})") from None


def sam2_frame(image: NDArray[Any], side: int = SAM2_SIDE) -> Tensor:
    """A frame as SAM 2 sees it in videos: (H, W, 3) -> (3, side, side), stretched in 8 bit as PIL does."""
    values = (Preprocess().to_float(image) * 255).round().byte().permute(1, 2, 0).numpy()
    small = np.asarray(Image.fromarray(values).resize((side, side), Image.Resampling.BICUBIC))
    return _normalized(small)


def follow(
    network: XMem,
    frames: Iterable[VideoFrame],
    first: NDArray[Any],
    *,
    config: MemoryConfig | None = None,
    short_side: int = SHORT_SIDE,
) -> Iterator[NDArray[np.int64]]:
    """Label maps (H, W) of the frames, as they come; memory does not grow with their number.

    Args:
        first: label map of the first frame: the numbers of the objects, 0 for background, 255 for what nobody knows.
        short_side: larger frames are reduced to it, px.

    Raises:
        UserError: the map is of another size than the frames, or there is no object in it.
    """
    numbers = [int(k) for k in np.unique(first) if k not in (0, VOID)]
    if not numbers:
        raise UserError("the first mask has no object: give a label map with a number above 0 at each object's pixels")
    follower, names = Follower(network, config), np.array([0, *numbers])
    device = next(network.parameters()).device
    for frame in frames:
        size = frame.image.shape[:2]
        if size != first.shape:
            (height, width), (own_height, own_width) = size, first.shape
            raise UserError(
                f"the first mask has {own_width} x {own_height} px and frame {frame.number} {width} x {height}: they "
                "must be alike"
            )
        image = _reduced(_normalized(frame.image).to(device), short_side)
        masks = None
        if frame.number == 0:
            maps = np.stack([first == number for number in numbers])
            masks = _reduced(torch.from_numpy(maps).float().to(device), short_side) > 0.5
        found = follower.step(image, masks)
        large = F.interpolate(found[None], size, mode="bilinear", align_corners=False)[0]
        yield names[large.argmax(0).cpu().numpy()]


def _normalized(image: NDArray[Any]) -> Tensor:
    """(H, W, 3) of any depth -> (3, H, W)."""
    values = Preprocess().to_float(image)
    return (values - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


def _reduced(values: Tensor, short_side: int) -> Tensor:
    """(C, H, W), the shorter side of at most so many px."""
    share = short_side / min(values.shape[1:])
    if share >= 1:
        return values
    size = [round(side * share) for side in values.shape[1:]]
    return F.interpolate(values[None], size, mode="bilinear", antialias=True, align_corners=False)[0]
