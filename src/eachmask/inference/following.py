"""Objects whose masks are given in the first frame of a video, followed by any model that remembers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eachmask.data.images.video import VideoFrame
from eachmask.inference.load import load
from eachmask.inference.predictor import Predictor
from eachmask.inference.video_predictor import VideoPredictor
from eachmask.models.promptable.clicks import Clicks
from eachmask.models.video.marked import MarkedObjects, SAM2Follower, XMemFollower
from eachmask.models.video.memory import MemoryConfig
from eachmask.models.video.sam2_video import PUBLISHED, SAM2Video
from eachmask.models.video.xmem import XMem
from eachmask.structures import RLE, Category, Instances, Preprocess, Prompts, UserError
from eachmask.weights.catalogue import followers
from eachmask.weights.fetch import fetch_checkpoint, locate
from eachmask.weights.file import load_model, read_info
from eachmask.weights.from_sam2 import convert_video
from eachmask.weights.header import ModelInfo
from eachmask.weights.renaming import fill, unwrapped

CHECKPOINTS = (".pth", ".pt")
"""Of files as authors publish them."""
SHORT_SIDE = 480
"""Px as XMem sees frames, as its authors measured it."""
ONE_SHOT = "osvos"
"""The name of what learns the first frame."""
VOID = 255
"""In a label map: nobody knows."""


def load_follower(name_or_path: str | Path, device: str = "auto", precision: str = "auto") -> VideoPredictor[Instances]:
    """What follows marked objects.

    Args:
        name_or_path: a model's name or file, see :func:`~eachmask.inference.load.load`; ``osvos``, see
            :mod:`eachmask.models.video.osvos`; ``xmem`` or one of SAM 2.1's such as ``sam2_hiera_t``, which are fetched
            on first use; or their checkpoint as the authors publish it: XMem.pth (MIT license), sam2.1_hiera_tiny.pt
            (Apache-2.0).

    Raises:
        UserError: the file is not there or holds other weights, or the model does not follow what is marked.
    """
    path = Path(name_or_path)
    if str(path) == ONE_SHOT and not path.exists():
        return _one_shot(device)
    if str(path) in followers() and not path.exists():
        path = fetch_checkpoint(followers()[str(path)])
    if path.suffix not in CHECKPOINTS:
        predictor = load(name_or_path, device=device, precision=precision)
        if not isinstance(predictor.model, MarkedObjects):
            name = predictor.info.name or predictor.info.variant
            raise UserError(f"{name} does not follow what is marked in a first frame: memory, osvos, xmem, SAM 2 do")
        return VideoPredictor(predictor)
    if not path.is_file():
        raise UserError(
            f"{path} is no file: name a checkpoint of XMem, such as XMem.pth of its authors, or of SAM 2.1, such as "
            "sam2.1_hiera_tiny.pt"
        )
    try:
        weights = unwrapped(torch.load(path, map_location="cpu", weights_only=True))
        network = _sam2(weights) if "maskmem_tpos_enc" in weights else XMem.of(weights)
    except Exception as error:  # pickles, archives and tensors of any other kind
        reason = str(error).split("\n")[0][:80]
        raise UserError(f"{path} holds no weights of XMem or SAM 2.1 ({type(error).__name__}: {reason})") from None
    return follower_of(network, device=device)


def follower_of(
    network: XMem | SAM2Video, *, config: MemoryConfig | None = None, short_side: int = SHORT_SIDE, device: str = "auto"
) -> VideoPredictor[Instances]:
    """A network with its weights, ready to follow.

    Args:
        config: of XMem's memory.
        short_side: of frames as XMem sees them, px; SAM 2 has its own square.
    """
    if isinstance(network, SAM2Video):
        return _ready(SAM2Follower(network), sam2_preprocess(network.config.side), "SAM 2.1", device)
    preprocess = Preprocess(
        short_side=short_side, long_side=None, divisor=1, resampling="antialias", rounding="nearest"
    )
    return _ready(XMemFollower(network, config), preprocess, "XMem", device)


def _ready(model: MarkedObjects, preprocess: Preprocess, name: str, device: str) -> VideoPredictor[Instances]:
    info = ModelInfo(name, preprocess=preprocess, categories=(Category(1, "object"),), name=name)
    return VideoPredictor(Predictor(model, info, device=device, precision="fp32", optimize=False))


def _one_shot(device: str) -> VideoPredictor[Instances]:
    """OSVOS on the backbone of the bundled ``clicks``, which sees frames as ``memory`` does."""
    from eachmask.models.video.osvos import OSVOS

    known, _ = load_model(locate("clicks"))
    assert isinstance(known, Clicks)
    return _ready(OSVOS(known.backbone, known.neck), read_info(locate("memory")).preprocess, ONE_SHOT, device)


def sam2_preprocess(side: int) -> Preprocess:
    """Frames as SAM 2 sees them in videos: squares of ``side`` px, resized in 8 bit as PIL does."""
    return Preprocess(short_side=None, fixed_size=(side, side), divisor=1, resampling="pil-bicubic")


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


def follow(
    predictor: VideoPredictor[Instances], frames: Iterable[VideoFrame], first: NDArray[Any]
) -> Iterator[NDArray[np.int64]]:
    """Label maps (H, W) of the frames, as they come; memory does not grow with their number.

    Args:
        first: label map of the first frame: the numbers of the objects, 0 for background, 255 for what nobody knows.

    Raises:
        UserError: the map is of another size than the frames, or there is no object in it.
    """
    return (labels for labels, _ in follow_scored(predictor, frames, first))


def follow_scored(
    predictor: VideoPredictor[Instances], frames: Iterable[VideoFrame], first: NDArray[Any]
) -> Iterator[tuple[NDArray[np.int64], dict[int, float]]]:
    """:func:`follow`, with the score 0..1 of each object that is in a frame, by its number."""
    numbers = numbers_of_objects(first)
    marked = Prompts(first.shape, masks=RLE.from_bitmaps(np.stack([first == number for number in numbers])))
    images = (frame.image for frame in _alike(frames, first))
    for number, found in enumerate(predictor.track(images, marked)):
        if number == 0:
            yield np.where(first == VOID, 0, first).astype(np.int64), dict.fromkeys(numbers, 1.0)
        else:
            assert found.track_ids is not None and found.scores is not None
            rows = zip(found.track_ids.tolist(), found.scores.tolist(), strict=True)
            yield numbered(found, numbers), {numbers[k]: score for k, score in rows}


def numbers_of_objects(first: NDArray[Any]) -> list[int]:
    """Of a label map.

    Raises:
        UserError: there is no object in it.
    """
    numbers = [int(k) for k in np.unique(first) if k not in (0, VOID)]
    if not numbers:
        raise UserError("the first mask has no object: give a label map with a number above 0 at each object's pixels")
    return numbers


def numbered(found: Instances, numbers: list[int]) -> NDArray[np.int64]:
    """(H, W) label map of what was followed: object k gets ``numbers[k]``."""
    assert found.masks is not None and found.track_ids is not None
    names = np.array([0, *(numbers[k] for k in found.track_ids.tolist())], np.int64)
    labels: NDArray[np.int64] = names[found.masks.to_label_map()]
    return labels


def _alike(frames: Iterable[VideoFrame], first: NDArray[Any]) -> Iterator[VideoFrame]:
    """The frames, which must be of the first mask's size."""
    for frame in frames:
        check_size(frame, first)
        yield frame


def check_size(frame: VideoFrame, first: NDArray[Any]) -> None:
    """Raises a UserError where a frame is not of the first mask's size."""
    if frame.image.shape[:2] != first.shape:
        (height, width), (own_height, own_width) = frame.image.shape[:2], first.shape
        raise UserError(
            f"the first mask has {own_width} x {own_height} px and frame {frame.number} {width} x {height}: they "
            "must be alike"
        )
