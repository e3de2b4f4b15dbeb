"""The shell of every page that the package writes: one file, readable without a network, everything foreign escaped.

No page fetches anything: its policy allows images within the file (or beside it) alone, and a script only where the
page has one. Large pages are streamed, ``opening`` and ``closing`` around what the caller writes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from eachmask.files.jpeg import jpeg_text

if TYPE_CHECKING:
    from eachmask.files.sections import Chart, Figure, Section, Table


def page(title: str, header: str, main: str, footer: str = "", *, style: str = "") -> str:
    """A whole page with charts, without a script.

    Args:
        title: of the window, not escaped yet.
        header, main, footer: HTML.
        style: further CSS.
    """
    foot = f"<footer>{footer}</footer>" if footer else ""
    styles = asset("charts.css") + style
    return f"{opening(title, style=styles)}<header>{header}</header>\n<main>{main}</main>\n{foot}{closing()}"


def opening(title: str, *, style: str = "", images: str = "data:", scripted: bool = False) -> str:
    """From the first byte into the body.

    Args:
        style: CSS besides ``page.css``.
        images: sources that the policy allows.
        scripted: whether ``closing`` brings a script.
    """
    scripts = "; script-src 'unsafe-inline'" if scripted else ""
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src {images}; style-src 'unsafe-inline'{scripts}">
<meta name="color-scheme" content="light dark">
<title>{escape(title)}</title>
<style>{asset("page.css")}{style}</style></head><body>
"""


def closing(script: str = "") -> str:
    """The end of the body and of the file."""
    return f"<script>{script}</script></body></html>\n" if script else "</body></html>\n"


def asset(name: str) -> str:
    """A style sheet or script of this folder."""
    return (files("eachmask.files") / name).read_text(encoding="utf-8")


def headline(kicker: str, heading: str, values: Iterable[tuple[str, str]] = (), note: str = "") -> str:
    """The top of a page: what it is about and its main numbers.

    Args:
        values: (number, what it is) each.
    """
    numbers = "".join(figure(value, label) for value, label in values)
    return (
        f'<div><p class="kicker">eachmask &middot; {escape(kicker)}</p><h1>{escape(heading)}</h1>\n'
        f"{remark(note)}"
        f'<div class="figures">{numbers}</div></div>'
    )


def figure(value: str, label: str, kind: str = "") -> str:
    """A large number above what it is."""
    return f'<div class="figure {kind}"><b>{escape(value)}</b><span>{escape(label)}</span></div>'


def remark(text: str) -> str:
    """A paragraph in small type; nothing where there is nothing to say."""
    return f'<p class="note">{escape(text)}</p>\n' if text else ""


def part(title: str, content: str) -> str:
    """A part of a page; nothing where it has no content."""
    return f"<section><h2>{escape(title)}</h2>{content}</section>\n" if content else ""


def rendered(section: Section) -> str:
    """A section as a part of a page; nothing where it is for machines alone."""
    tables = [_table(one) for one in section.tables]
    shown = tables[0] if len(tables) == 1 else _columns(f"<div>{one}</div>" for one in tables)
    shown += _columns(_panel(chart) for chart in section.charts)
    for heading, figures in (section.gallery or {}).items():
        title = f"<h3>{escape(heading)}</h3>" if heading else ""
        shown += f'{title}<div class="pair">{"".join(_images(one) for one in figures)}</div>' if figures else ""
    return part(section.title, remark(section.note) + shown) if shown else ""


def table(
    heads: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    left: bool = False,
    kinds: Mapping[int, str] | None = None,
) -> str:
    """Rows of text; the first cell of a row names it.

    Args:
        left: words, which begin at the left, instead of numbers.
        kinds: row -> CSS class: ``best``, ``error``, ``warning``.
    """
    kind = ' class="left"' if left else ""
    head = "".join(f'<th scope="col"{kind}>{escape(name)}</th>' for name in heads)
    body = []
    for i, (first, *rest) in enumerate(rows):
        cells = "".join(f"<td{kind}>{escape(cell)}</td>" for cell in rest)
        mark = f' class="{kinds[i]}"' if kinds and i in kinds else ""
        body.append(f'<tr{mark}><th scope="row">{escape(first)}</th>{cells}</tr>')
    return (
        f'<div class="scroll"><table class="all"><thead><tr>{head}</tr></thead><tbody>{"".join(body)}</tbody>'
        "</table></div>"
    )


def facts(values: Mapping[str, Any]) -> str:
    """Names and values; of a list its entries, of nothing a dash."""

    def shown(value: Any) -> str:
        words = ", ".join(str(v) for v in value) if isinstance(value, list) else str(value)
        return "&ndash;" if value is None else escape(words)

    rows = "".join(f"<dt>{escape(str(name))}</dt><dd>{shown(value)}</dd>" for name, value in values.items())
    return f"<dl>{rows}</dl>"


def notes(texts: Sequence[str]) -> str:
    """A list; nothing where it is empty."""
    return f"<ul>{''.join(f'<li>{escape(text)}</li>' for text in texts)}</ul>" if texts else ""


def _table(one: Table) -> str:
    return table(one.heads, one.rows) + remark(one.note)


def _panel(chart: Chart) -> str:
    note = f"<p>{escape(chart.note)}</p>" if chart.note else ""
    return f'<div class="panel"><h3>{escape(chart.title)}</h3>{chart.svg}{note}</div>'


def _columns(parts: Iterable[str]) -> str:
    content = "".join(parts)
    return f'<div class="grid2">{content}</div>' if content else ""


def _images(one: Figure) -> str:
    images = "".join(
        f'<img alt="{escape(f"{name}: {one.caption}" if name else one.caption)}" '
        f'src="data:image/jpeg;base64,{jpeg_text(image)}">'
        for name, image in one.images
    )
    return f"<figure><div>{images}</div><figcaption>{escape(one.caption)}</figcaption></figure>"
