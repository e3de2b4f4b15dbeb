"""What the colors of a map mean, in a corner of the image."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from eachmask.draw.options import Color, RGBImage

MAX_SHARE = 0.45
"""Of the image's width or height that a legend may take; what does not fit is counted."""
_OPACITY = 0.75
_PAPER, _INK = (20, 20, 20), (255, 255, 255)


def write_legend(canvas: RGBImage, entries: Sequence[tuple[str, Color]]) -> RGBImage:
    """Names beside patches of their colors, the first ones first, in the lower left corner.

    In images too small for words there is none.
    """
    height, width = canvas.shape[:2]
    size = min(64, max(11, round(0.02 * math.sqrt(height * width))))
    font, line = ImageFont.load_default(size), round(1.4 * size)
    fits = int((MAX_SHARE * height - line // 2) / line)
    if not entries or fits < 1:
        return canvas
    shown = list(entries if len(entries) <= fits else entries[: fits - 1])
    texts = [name for name, _ in shown] + (
        [f"and {len(entries) - len(shown)} more"] if len(shown) < len(entries) else []
    )
    wide = math.ceil(max(font.getlength(text) for text in texts)) + 2 * line
    if wide > MAX_SHARE * width:
        return canvas
    tall = line * len(texts) + line // 2
    image = canvas.copy()
    corner = image[height - tall :, :wide]
    corner[:] = np.rint(corner * (1 - _OPACITY) + np.array(_PAPER) * _OPACITY).astype(np.uint8)
    sheet = Image.fromarray(image)
    pen = ImageDraw.Draw(sheet)
    for i, text in enumerate(texts):
        y = height - tall + line // 4 + i * line
        if i < len(shown):
            pen.rectangle((line // 3, y + line // 6, line, y + line - line // 6), fill=shown[i][1])
        pen.text((line + line // 3, y), text, font=font, fill=_INK)
    return np.array(sheet)
