"""What a notebook shows of instances: an image beside a table of the first objects."""

from __future__ import annotations

import base64
import io
from html import escape

import numpy as np
from PIL import Image

from eachmask.structures.instances import Instances
from eachmask.structures.masks import Masks
from eachmask.structures.rle import RLE
from eachmask.structures.runs import ColumnRuns

MAX_ROWS = 10
MAX_SIDE = 640
"""Of the rendered photograph, px."""
THUMBNAIL_SIDE = 240
"""Of the masks alone, where the photograph is not known, px."""


def preview(instances: Instances) -> str:
    """HTML: the rendered photograph, or else a thumbnail of the masks, and a table.

    >>> import torch
    >>> preview(Instances((4, 4), torch.tensor([[0.0, 0, 2, 2]])))[:60]
    '<div><p><b>1 object</b> in an image of 4 x 4 pixels</p><tabl'
    """
    height, width = instances.image_size
    rows = []
    for i, name in enumerate(instances.label_names[:MAX_ROWS]):
        score = "" if instances.scores is None else f"{float(instances.scores[i]):.2f}"
        x1, y1, x2, y2 = (f"{v:.0f}" for v in instances.boxes[i].tolist())
        rows.append(f"<tr><td>{i}</td><td>{escape(name)}</td><td>{score}</td><td>{x1}, {y1}, {x2}, {y2}</td></tr>")
    hidden = len(instances) - MAX_ROWS
    number = "1 object" if len(instances) == 1 else f"{len(instances)} objects"
    more = f"<p>... and {hidden} more</p>" if hidden > 0 else ""
    return (
        f"<div><p><b>{number}</b> in an image of {width} x {height} pixels</p>{_image(instances)}"
        "<table><tr><th></th><th>class</th><th>score</th><th>box (x1, y1, x2, y2)</th></tr>"
        f"{''.join(rows)}</table>{more}</div>"
    )


def _image(instances: Instances) -> str:
    if instances.view is not None:
        photograph = Image.fromarray(instances.render())
        photograph.thumbnail((MAX_SIDE, MAX_SIDE))
        return _tag(photograph, "JPEG", "objects")
    return "" if instances.masks is None or not len(instances) else _tag(_thumbnail(instances.masks), "PNG", "masks")


def _thumbnail(masks: Masks) -> Image.Image:
    """The masks in random colors; small objects stay visible."""
    height, width = masks.size
    scale = min(1.0, THUMBNAIL_SIDE / max(height, width))
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    label = _shrunk(masks.to_rle(), size).to_label_map()
    colors = np.random.default_rng(0).integers(60, 256, (len(masks) + 1, 3)).astype(np.uint8)
    colors[0] = 24
    return Image.fromarray(colors[label])


def _tag(image: Image.Image, form: str, alt: str) -> str:
    buffer = io.BytesIO()
    image.save(buffer, form)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    return f'<img alt="{alt}" src="data:image/{form.lower()};base64,{data}">'


def _shrunk(masks: RLE, size: tuple[int, int]) -> RLE:
    """A smaller canvas; a pixel belongs to a mask where any of its own does."""
    scale_y, scale_x = size[0] / masks.size[0], size[1] / masks.size[1]
    p = masks.column_runs()
    x, top, bottom = np.floor(p.x * scale_x), np.floor(p.top * scale_y), np.ceil(p.bottom * scale_y)
    column_runs = ColumnRuns(p.owner, x.astype(np.int64), top.astype(np.int64), bottom.astype(np.int64))
    return RLE.from_column_runs(column_runs, len(masks), size)
