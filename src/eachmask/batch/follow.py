"""A video in whose first frame the objects are marked: the label maps of all frames, as files."""

from __future__ import annotations

from pathlib import Path

from eachmask.batch.track import DAVIS, label_png
from eachmask.data.formats.label_maps import numbers_in
from eachmask.data.images.video import frames_of
from eachmask.files.atomic import write_bytes
from eachmask.inference.following import follow
from eachmask.inference.video_predictor import VideoPredictor
from eachmask.structures import Instances, UserError


def follow_video(
    predictor: VideoPredictor[Instances], video: str | Path, first: Path, out: Path, *, overwrite: bool = False
) -> tuple[Path, int]:
    """Write DAVIS's PNG of each frame, as it comes; returns their folder in ``out``, and how many there are.

    Args:
        predictor: from :func:`~eachmask.inference.following.load_follower`.
        video: see :func:`~eachmask.data.images.video.frames_of`.
        first: label map of the first frame.
        overwrite: remove earlier ones.

    Raises:
        UserError: the folder holds files, the map does not fit the frames, or the video cannot be read.
    """
    folder, number = out / DAVIS, 0
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()) and not overwrite:
        raise UserError(f"{folder} holds files: --overwrite them, or choose another --out")
    for old in folder.glob("[0-9][0-9][0-9][0-9][0-9].png"):
        old.unlink()
    for number, labels in enumerate(follow(predictor, frames_of(video, out), numbers_in(first)), start=1):
        write_bytes(folder / f"{number - 1:05d}.png", label_png(labels))
    return folder, number
