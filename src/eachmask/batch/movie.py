"""Movies: frames in, a video file out, one frame in memory at a time."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eachmask.data.images.video import pyav
from eachmask.files.atomic import put_in_place

CODECS = {".mp4": ("libx264", "yuv420p"), ".mov": ("prores_ks", "yuva444p10le"), ".webm": ("libvpx-vp9", "yuva420p")}
"""Suffix of the file -> codec and the layout of its pixels: H.264; ProRes 4444 and VP9, which keep transparency."""
LOOKAHEAD = {"libx264": {"rc-lookahead": "8"}}
"""H.264 looks 40 frames ahead by itself, of which each takes 45 MB in 4K."""
TICK = Fraction(1, 10000)
"""Frames keep their times to so many seconds; WebM to a thousandth."""


class Movie:
    """A video file in which every frame keeps its time; even sides, as H.264 wants them.

    The file has its name once it is closed; until then ``NAME.part.SUFFIX``.

    Args:
        path: mp4 (H.264), mov (ProRes 4444) or webm (VP9).

    Raises:
        UserError: PyAV is not installed.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.part = path, path.with_name(f"{path.stem}.part{path.suffix}")
        self.container: Any = pyav().open(str(self.part), "w")
        self.stream: Any = None

    def add(self, seconds: float, image: NDArray[np.uint8]) -> None:
        """One frame, (H, W, 3) RGB or (H, W, 4) with transparency."""
        height, width = (side // 2 * 2 for side in image.shape[:2])
        if self.stream is None:
            codec, layout = CODECS[self.path.suffix]
            self.stream = self.container.add_stream(codec, rate=25, options=LOOKAHEAD.get(codec, {}))
            self.stream.width, self.stream.height, self.stream.pix_fmt = width, height, layout
            self.stream.codec_context.time_base = TICK
        kind = "rgb24" if image.shape[2] == 3 else "rgba"
        frame = pyav().VideoFrame.from_ndarray(np.ascontiguousarray(image[:height, :width]), format=kind)
        frame.pts, frame.time_base = round(seconds / TICK), TICK
        self.container.mux(self.stream.encode(frame))

    def close(self) -> None:
        """Finish the file and give it its name."""
        self.container.mux(self.stream.encode())
        self.container.close()
        put_in_place(self.part, self.path)
