"""The doctor's report as one HTML page: findings, class balance, sizes, thumbnails of the worst.

Everything is inside the file (images as data URIs), no script runs, and every name from the data set is escaped.
"""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Iterator
from html import escape

import cv2
import numpy as np
from numpy.typing import NDArray

from eachmask.data.check.doctor import Examination
from eachmask.data.dataset import AnnotatedImage, masks_of
from eachmask.data.images.read import read_image, unit_range
from eachmask.structures import UserError

_SIDE = 240
_MOST_ROWS = 500

_STYLE = """
body{font:15px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem;color:#1b1f24;background:#fff}
table{border-collapse:collapse;margin:.5rem 0 1.5rem}
td,th{text-align:left;padding:.25rem .7rem;border-bottom:1px solid #d8dee4;vertical-align:top;overflow-wrap:anywhere}
.error{color:#b42318;font-weight:600}.warning{color:#8a5a00;font-weight:600}.note{color:#4b5563}
.bar{display:inline-block;height:.7rem;background:#3b6fb6;vertical-align:middle;margin-right:.4rem}
figure{display:inline-block;width:240px;margin:0 1rem 1rem 0;vertical-align:top}figure img{max-width:240px}
figcaption{font-size:13px;overflow-wrap:anywhere}
@media(prefers-color-scheme:dark){body{background:#14171a;color:#e6e8ea}td,th{border-color:#3a4148}
.error{color:#ff8a80}.warning{color:#f2c14e}.note{color:#b0b7bf}}
"""


def page(result: Examination, most_images: int = 24) -> str:
    """The report as HTML text."""
    counts = Counter(f.severity for f in result.findings)
    title = f"Examination of {escape(str(result.source))}"
    images = ", ".join(f"{escape(split)}: {len(p)}" for split, p in result.data.splits.items())
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width">',
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'\">",
        f"<title>{title}</title><style>{_STYLE}</style></head><body><h1>{title}</h1>",
        f"<p>Format {result.source_format.name}; images {images}. <span class=error>{counts['error']} errors</span>, "
        f"<span class=warning>{counts['warning']} warnings</span>, {counts['note']} notes.</p>",
        "<h2>Findings</h2>",
        *_findings(result),
        "<h2>Worst images</h2>",
        *_figures(result, most_images),
        "<h2>Objects per class</h2>",
        *_balance(result),
        "<h2>Sizes of the objects</h2>",
        _bars(result.sizes),
        "</body></html>",
    ]
    return "\n".join(parts)


def _findings(result: Examination) -> Iterator[str]:
    if not result.findings:
        yield "<p>Nothing is wrong.</p>"
        return
    kinds = Counter((f.severity, f.kind) for f in result.findings)
    yield "<p>" + "; ".join(f"{escape(kind)}: {n}" for (_, kind), n in kinds.most_common()) + "</p>"
    yield "<table><tr><th></th><th>file</th><th>annotation</th><th>what</th><th>remedy</th></tr>"
    for f in result.findings[:_MOST_ROWS]:
        cells = "".join(f"<td>{escape(text)}</td>" for text in (f.file, f.annotation, f.what, f.remedy))
        yield f'<tr><td class="{f.severity}">{f.severity}</td>{cells}</tr>'
    yield "</table>"
    if len(result.findings) > _MOST_ROWS:
        yield f"<p>... and {len(result.findings) - _MOST_ROWS} more</p>"


def _figures(result: Examination, most: int) -> Iterator[str]:
    if not result.suspects:
        yield "<p>None.</p>"
    for split, record, number, why in result.suspects[:most]:
        data = thumbnail(record, number)
        image = f'<img alt="" src="data:image/jpeg;base64,{data}">' if data else "<p>cannot be shown</p>"
        yield f"<figure>{image}<figcaption>{escape(f'{split}/{record.name}: {why}')}</figcaption></figure>"


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
    factor = np.array([size[0], size[1]]) / np.array(record.targets.image_size[::-1])
    polygons = masks_of(record.targets).to_polygons()
    for i, rings in enumerate(polygons.outers):
        color = (0, 0, 255) if i == number else (0, 215, 255)
        points = [np.rint(ring * factor).astype(np.int32) for ring in rings]
        cv2.polylines(small, points, True, color, 2 if i == number else 1, cv2.LINE_AA)
    return base64.b64encode(bytes(cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 80])[1])).decode("ascii")


def _eight_bit(pixels: NDArray[np.generic]) -> NDArray[np.uint8]:
    if pixels.dtype == np.uint8:
        return np.asarray(pixels, np.uint8)
    share = unit_range(pixels.astype(np.float32))
    return np.asarray(share * 255, np.uint8)


def _balance(result: Examination) -> Iterator[str]:
    splits = list(result.class_balance)
    names = list(next(iter(result.class_balance.values()), {}))
    yield "<table><tr><th>class</th>" + "".join(f"<th>{escape(split)}</th>" for split in splits) + "</tr>"
    for name in names:
        cells = "".join(f"<td>{result.class_balance[split][name]}</td>" for split in splits)
        yield f"<tr><td>{escape(name)}</td>{cells}</tr>"
    yield "</table>"


def _bars(counts: dict[str, int]) -> str:
    most = max([1, *counts.values()])
    rows = (
        f"<tr><td>{escape(name)}</td><td><span class=bar style='width:{300 * n // most}px'></span>{n}</td></tr>"
        for name, n in counts.items()
    )
    return f"<table>{''.join(rows)}</table>"
