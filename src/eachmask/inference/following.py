"""Objects whose masks are given in the first frame of a video, followed by XMem or SAM 2."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
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
from eachmask.models.video.sam2_session import Session
from eachmask.models.video.sam2_video import PUBLISHED, SAM2Video
from eachmask.models.video.xmem import XMem
from eachmask.structures import Preprocess, UserError
from eachmask.weights.from_sam2 import convert_video
from eachmask.weights.renaming import fill, unwrapped

SHORT_SIDE = 480
"""Px as the network sees frames, as the authors measured it; smaller frames are not enlarged."""
VOID = 255
"""In a label map: nobody knows."""


def load_follower(path: str | Path, device: str = "cpu") -> XMem | SAM2Video:
    """The network with the weights of a checkpoint, as its authors publish it.

    Args:
        path: XMem.pth (MIT license), or one of SAM 2.1's, such as sam2.1_hiera_tiny.pt (Apache-2.0).

    Raises:
        UserError: the file is not there, or holds other weights.
    """
    if not Path(path).is_file():
        raise UserError(
            f"{path} is no file: name a checkpoint of XMem, such as XMem.pth of its authors, or of SAM 2.1, such as "
            "sam2.1_hiera_tiny.pt"
        )
    try:
        weights = unwrapped(torch.load(path, map_location="cpu", weights_only=True))
        network = _sam2(weights) if "maskmem_tpos_enc" in weights else XMem.of(weights)
        return network.to(device)
    except Exception as error:  # pickles, archives and tensors of any other kind
        reason = str(error).split("\n")[0][:80]
        raise UserError(f"{path} holds no weights of XMem or SAM 2.1 ({type(error).__name__}: {reason})") from None


def _sam2(weights: Mapping[str, Tensor]) -> SAM2Video:
    """Of the published variant whose encoder these weights fit."""
    own = convert_video(weights)
    width = len(own["encoder.patches.weight"])
    blocks = len({name.split(".")[2] for name in own if name.startswith("encoder.blocks.")})
    for config in PUBLISHED:
        if (config.encoder.width, sum(config.encoder.depths)) == (width, blocks):
            network = SAM2Video(config=config)
            fill(network, own)
            return network.eval()
    raise UserError(f"an encoder of {blocks} blocks and {width} channels is not published")


def sam2_frame(image: NDArray[Any], side: int) -> Tensor:
    """A frame as SAM 2 sees it in videos: (H, W, 3) -> (3, side, side), stretched in 8 bit as PIL does."""
    values = (Preprocess().to_float(image) * 255).round().byte().permute(1, 2, 0).numpy()
    small = np.asarray(Image.fromarray(values).resize((side, side), Image.Resampling.BICUBIC))
    return _normalized(small)


def follow(
    network: XMem | SAM2Video,
    frames: Iterable[VideoFrame],
    first: NDArray[Any],
    *,
    config: MemoryConfig | None = None,
    short_side: int = SHORT_SIDE,
) -> Iterator[NDArray[np.int64]]:
    """Label maps (H, W) of the frames, as they come; memory does not grow with their number.

    Args:
        first: label map of the first frame: the numbers of the objects, 0 for background, 255 for what nobody knows.
        config: of XMem's memory.
        short_side: larger frames are reduced to it by XMem, px; SAM 2 has its own square.

    Raises:
        UserError: the map is of another size than the frames, or there is no object in it.
    """
    numbers = [int(k) for k in np.unique(first) if k not in (0, VOID)]
    if not numbers:
        raise UserError("the first mask has no object: give a label map with a number above 0 at each object's pixels")
    if isinstance(network, SAM2Video):
        yield from _carried(network, _alike(frames, first), first, numbers)
        return
    follower, names = Follower(network, config), np.array([0, *numbers])
    device = next(network.parameters()).device
    for frame in _alike(frames, first):
        size = frame.image.shape[:2]
        image = _reduced(_normalized(frame.image).to(device), short_side)
        masks = None
        if frame.number == 0:
            maps = np.stack([first == number for number in numbers])
            masks = _reduced(torch.from_numpy(maps).float().to(device), short_side) > 0.5
        found = follower.step(image, masks)
        large = F.interpolate(found[None], size, mode="bilinear", align_corners=False)[0]
        yield names[large.argmax(0).cpu().numpy()]


def _carried(
    network: SAM2Video, frames: Iterable[VideoFrame], first: NDArray[Any], numbers: Sequence[int]
) -> Iterator[NDArray[np.int64]]:
    """Label maps by SAM 2; each object is carried on by itself, and has the pixels where it says so most."""
    device, names, memory = next(network.parameters()).device, np.array([0, *numbers]), network.config.memory
    current: list[Tensor] = []
    session = Session(network, lambda _: current[0], (first.shape[0], first.shape[1]))
    for number, frame in enumerate(frames):
        current[:] = [sam2_frame(frame.image, network.config.side).to(device)]
        if number == 0:
            for one in numbers:
                session.mask(0, one, torch.from_numpy(first == one))
            session.settle()
            yield np.where(first == VOID, 0, first).astype(np.int64)
            continue
        logits = session.carry(number)
        session.forget(number - max(memory.frames, memory.pointers))
        yield names[torch.cat([torch.zeros_like(logits[:1]), logits]).argmax(0).numpy()]


def _alike(frames: Iterable[VideoFrame], first: NDArray[Any]) -> Iterator[VideoFrame]:
    """The frames, which must be of the first mask's size."""
    for frame in frames:
        if frame.image.shape[:2] != first.shape:
            (height, width), (own_height, own_width) = frame.image.shape[:2], first.shape
            raise UserError(
                f"the first mask has {own_width} x {own_height} px and frame {frame.number} {width} x {height}: they "
                "must be alike"
            )
        yield frame


def _normalized(image: NDArray[Any]) -> Tensor:
    """(H, W, 3) of any depth -> (3, H, W)."""
    preprocess = Preprocess()
    return preprocess.normalize(preprocess.to_float(image))


def _reduced(values: Tensor, short_side: int) -> Tensor:
    """(C, H, W), the shorter side of at most so many px."""
    share = short_side / min(values.shape[1:])
    if share >= 1:
        return values
    size = [round(side * share) for side in values.shape[1:]]
    return F.interpolate(values[None], size, mode="bilinear", antialias=True, align_corners=False)[0]
