"""The doctor's report as one HTML page: findings, class balance, sizes, thumbnails of the worst.

Everything is inside the file (images as data URIs), no script runs, and every name from the data set is escaped.
"""

from __future__ import annotations

from collections import Counter
from html import escape

import cv2
import numpy as np
from numpy.typing import NDArray

from eachmask.data.check.doctor import Examination
from eachmask.data.images.read import read_image, unit_range
from eachmask.data.split import AnnotatedImage
from eachmask.data.targets import masks_of
from eachmask.files import html
from eachmask.files.jpeg import jpeg_text
from eachmask.structures import UserError

_SIDE = 240
MAX_ROWS = 500
_STYLE = """
.thumbs{display:grid;gap:18px;grid-template-columns:repeat(auto-fill,minmax(240px,1fr))}
.thumbs figure{margin:0}.thumbs img{max-width:240px;border-radius:8px;display:block}
.thumbs figcaption{font-size:13px;color:var(--soft);overflow-wrap:anywhere;margin-top:4px}
"""


def page(result: Examination, most_images: int = 24) -> str:
    """The report as HTML text."""
    counts = Counter(f.severity for f in result.findings)
    images = ", ".join(f"{split}: {len(p)}" for split, p in result.data.splits.items())
    title = f"Examination of {result.source}"
    values = [(f"{counts[kind]:,}", f"{kind}s") for kind in ("error", "warning", "note")]
    header = html.headline("doctor", title, values, f"Format {result.source_format.name}; images {images}.")
    main = (
        html.part("Findings", _findings(result))
        + html.part("Worst images", _figures(result, most_images))
        + html.part("Objects per class", _balance(result))
        + (html.part("Sizes of the objects", _bars(result.sizes)) if result.sizes else "")
    )
    return html.page(title, header, main, style=_STYLE)


def _findings(result: Examination) -> str:
    if not result.findings:
        return "<p>Nothing is wrong.</p>"
    kinds = Counter((f.severity, f.kind) for f in result.findings)
    rows = [(f.severity, f.file, f.annotation, f.what, f.remedy) for f in result.findings[:MAX_ROWS]]
    heads = ("", "file", "annotation", "what", "remedy")
    listed = html.table(heads, rows, left=True, kinds={i: f.severity for i, f in enumerate(result.findings)})
    more = len(result.findings) - len(rows)
    return (
        html.remark("; ".join(f"{kind}: {n}" for (_, kind), n in kinds.most_common()))
        + listed
        + html.remark(f"... and {more} more" if more else "")
    )


def _figures(result: Examination, most: int) -> str:
    if not result.suspects:
        return "<p>None.</p>"
    return f'<div class="thumbs">{"".join(_figure(*suspect) for suspect in result.suspects[:most])}</div>'


def _figure(split: str, record: AnnotatedImage, number: int, why: str) -> str:
    data = thumbnail(record, number)
    image = f'<img alt="" src="data:image/jpeg;base64,{data}">' if data else "<p>cannot be shown</p>"
    return f"<figure>{image}<figcaption>{escape(f'{split}/{record.name}: {why}')}</figcaption></figure>"


def thumbnail(record: AnnotatedImage, number: int = -1) -> str:
    """A JPEG in base64, at most 240 pixels wide and high; object ``number`` in red, the others in yellow. "" if
    the image cannot be read."""
    try:
        pixels = _eight_bit(read_image(record.path))
    except UserError:
        return ""
    height, width = pixels.shape[:2]
    scale = min(1.0, _SIDE / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = np.ascontiguousarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)[..., ::-1])
    factor = np.array([size[0], size[1]]) / np.array(record.image_size[::-1])
    polygons = masks_of(record.targets).to_polygons()
    for i, rings in enumerate(polygons.outers):
        color = (0, 0, 255) if i == number else (0, 215, 255)
        points = [np.rint(ring * factor).astype(np.int32) for ring in rings]
        cv2.polylines(small, points, True, color, 2 if i == number else 1, cv2.LINE_AA)
    return jpeg_text(np.asarray(small[..., ::-1], np.uint8), 80)


def _eight_bit(pixels: NDArray[np.generic]) -> NDArray[np.uint8]:
    if pixels.dtype == np.uint8:
        return np.asarray(pixels, np.uint8)
    share = unit_range(pixels.astype(np.float32))
    return np.asarray(share * 255, np.uint8)


def _balance(result: Examination) -> str:
    splits = list(result.class_balance)
    names = list(next(iter(result.class_balance.values()), {}))
    return html.table(("class", *splits), [(n, *(str(result.class_balance[s][n]) for s in splits)) for n in names])


def _bars(counts: dict[str, int]) -> str:
    most = max([1, *counts.values()])
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td class="meter"><i style="width:{100 * n / most:.1f}%"></i></td>'
        f"<td>{n:,}</td></tr>"
        for name, n in counts.items()
    )
    return f'<div class="classes"><table>{rows}</table></div>'
