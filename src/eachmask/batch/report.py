"""``report.html``: one file that shows a run to anybody, without a network and without this software.

Thumbnails are in the file; full overlays are linked relative to it, so the results folder can be moved or
mailed as a whole. Everything that comes from outside (file names, class names, reasons) is escaped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape
from itertools import islice
from typing import IO, TYPE_CHECKING
from urllib.parse import quote

from eachmask.files import html
from eachmask.files.text import counted, plural

if TYPE_CHECKING:
    from eachmask.batch.results import Failure, Summary

MAX_THUMBNAILS = 500
"""Cards with a thumbnail; further images are in the table only, so that the file opens at once."""
_TABLE_HEAD = """</section><section><h2>All images</h2><div class="scroll"><table class="all"><thead><tr>
<th scope="col"><button type="button" data-key="name">Image</button></th>
<th scope="col"><button type="button" data-key="objects">{things}</button></th>
<th scope="col"><button type="button" data-key="score">Mean score</button></th>
<th scope="col">Size, px</th><th scope="col" class="left">Classes</th></tr></thead>
<tbody id="rows">
"""
_MAX_CLASSES = 8
_MAX_CHIPS = 4


@dataclass(frozen=True)
class ReportImage:
    """One row of the report."""

    name: str
    width: int
    height: int
    objects: int
    mean_score: float | None
    classes: dict[str, int]
    thumbnail: str
    """JPEG, base64."""
    overlay: str
    """Path relative to the report; empty if there is none."""


def write_report(
    handle: IO[bytes],
    summary: Summary,
    images: Callable[[], Iterable[ReportImage]],
    *,
    noun: str = "object",
    data: Sequence[str] = ("predictions.json", "instances.csv"),
) -> None:
    """Write the page to a binary file.

    Args:
        images: gives them in the order of the inputs; called twice, for the gallery and for the table.
        noun: what is counted, in the singular.
        data: the files about all images that lie beside the page.
    """

    def write(text: str) -> None:
        handle.write(text.encode("utf-8", "backslashreplace"))

    write(_head(summary, noun, (*data, "summary.json")))
    for number, entry in enumerate(islice(images(), MAX_THUMBNAILS)):
        write(_card(entry, number, noun, chips=len(summary.objects_per_class) > 1))
    write("</ol>\n")
    if summary.done > MAX_THUMBNAILS:
        write(
            f'<p class="note">The gallery shows the first {MAX_THUMBNAILS:,} of {summary.done:,} images; '
            "the table below has all.</p>\n"
        )
    write(_TABLE_HEAD.format(things=_many(noun).capitalize()))
    for number, entry in enumerate(images()):
        write(_row(entry, number))
    write("</tbody></table></div></section>\n")
    write(_problems("Not done", summary.failures))
    write(_problems("Skipped: no images", summary.skipped_files))
    write(_foot(summary))


def _head(summary: Summary, noun: str, data: Sequence[str]) -> str:
    model = summary.model
    per_image = f"{summary.objects / summary.done:,.1f}" if summary.done else "0"
    figures = [(f"{_many(noun)} per image", per_image, ""), ("images not done", f"{summary.failed:,}", "bad")]
    if summary.skipped:
        figures.append(("other files skipped", f"{summary.skipped:,}", ""))
    if summary.animations:
        figures.append(("animations, of which the first frame was read", f"{summary.animations:,}", ""))
    numbers = "".join(html.figure(value, label, kind if value != "0" else "") for label, value, kind in figures)
    found = f"{counted(summary.number_of(noun), noun)} in {counted(summary.done, 'image')}"
    links = ", ".join(f'<a href="{escape(quote(name))}">{escape(name)}</a>' for name in data)
    opening = html.opening(found, images="'self' file: data:", scripted=True)
    return f"""{opening}<header><div><p class="kicker">eachmask &middot; {escape(model["name"])}</p>
<h1>{found}</h1>
<div class="figures">{numbers}</div>
<p class="files">Data: {links}</p></div>
{_classes(summary.objects_per_class, noun)}</header>
<main><section aria-labeledby="gallery-title"><div class="bar"><h2 id="gallery-title">Gallery</h2>
<label class="search">Find <input id="find" type="search" placeholder="part of a name or class"></label>
<div class="sort" role="group" aria-label="Sort by">
<button type="button" data-key="place" aria-pressed="true">as given</button>
<button type="button" data-key="name">name</button>
<button type="button" data-key="objects">{_many(noun)}</button>
<button type="button" data-key="score">mean score</button></div></div>
<ol class="gallery" id="gallery">
"""


def _classes(per_class: dict[str, int], noun: str) -> str:
    """Bars of the most frequent classes; nothing where there is one class or none."""
    if len(per_class) < 2:
        return ""
    largest = max(per_class.values())
    shown = list(per_class.items())[:_MAX_CLASSES]
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td class="meter"><i style="width:{100 * count / largest:.1f}%"></i>'
        f"</td><td>{count:,}</td></tr>"
        for name, count in shown
    )
    rest = len(per_class) - len(shown)
    more = f'<p class="note">and {rest} more {plural(rest, "class")}</p>' if rest else ""
    return (
        f'<div class="classes"><table><caption>{_many(noun).capitalize()} per class</caption>{rows}</table>{more}</div>'
    )


def _card(entry: ReportImage, number: int, noun: str, chips: bool) -> str:
    classes = sorted(entry.classes.items(), key=lambda item: (-item[1], item[0])) if chips else []
    shown = "".join(f"<li>{escape(name)} <b>{count}</b></li>" for name, count in classes[:_MAX_CHIPS])
    shown += f"<li>+{len(classes) - _MAX_CHIPS}</li>" if len(classes) > _MAX_CHIPS else ""
    link = escape(quote(entry.overlay)) if entry.overlay else ""
    image = (
        f'<img src="data:image/jpeg;base64,{entry.thumbnail}" loading="lazy" decoding="async" '
        f'alt="{escape(entry.name)} with {entry.objects} {_many(noun)} marked">'
    )
    score = "" if entry.mean_score is None else f" &middot; mean score {entry.mean_score:.2f}"
    return (
        f'<li {_attributes(entry, number)}><a class="shot" href="{link or "#"}">{image}</a>'
        f'<div class="text">{_titled(entry.name)}'
        f"<span>{entry.objects:,} {plural(entry.objects, noun)}{score}</span>"
        f"<ul>{shown}</ul></div></li>\n"
    )


def _row(entry: ReportImage, number: int) -> str:
    name = _breakable(entry.name)
    linked = f'<a href="{escape(quote(entry.overlay))}">{name}</a>' if entry.overlay else name
    score = "" if entry.mean_score is None else f"{entry.mean_score:.3f}"
    classes = ", ".join(f"{escape(label)} {count}" for label, count in entry.classes.items())
    return (
        f'<tr {_attributes(entry, number)}><th scope="row">{linked}</th><td>{entry.objects:,}</td>'
        f'<td>{score}</td><td>{entry.width} &times; {entry.height}</td><td class="left">{classes}</td></tr>\n'
    )


def _attributes(entry: ReportImage, number: int) -> str:
    score = -1 if entry.mean_score is None else entry.mean_score
    find = escape(f"{entry.name} {' '.join(entry.classes)}".lower())
    return (
        f'data-place="{number}" data-name="{escape(entry.name)}" data-objects="{entry.objects}" '
        f'data-score="{score}" data-find="{find}"'
    )


def _problems(title: str, failures: list[Failure]) -> str:
    if not failures:
        return ""
    rows = "".join(
        f'<tr><th scope="row">{_breakable(f.file)}</th><td class="left">{escape(f.reason)}</td></tr>\n'
        for f in failures
    )
    return (
        f'<section><h2>{escape(title)} <small>{len(failures):,}</small></h2><div class="scroll"><table class="all">'
        f'<thead><tr><th scope="col">File</th><th scope="col" class="left">Reason</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div></section>\n"
    )


def _foot(summary: Summary) -> str:
    settings = "".join(
        f"<dt>{escape(str(key))}</dt><dd>{escape(_setting(value))}</dd>" for key, value in summary.settings.items()
    )
    license = escape(str(summary.model.get("license") or "not stated"))
    return f"""</main><footer><details><summary>How this was made</summary><dl>{settings}
<dt>license of the model</dt><dd>{license}</dd></dl></details></footer>
<dialog id="large"><figure><img alt=""><figcaption></figcaption></figure>
<form method="dialog"><button aria-label="Close">&times;</button></form></dialog>
{html.closing(html.asset("page.js"))}"""


def _setting(value: object) -> str:
    if value is None or value == []:
        return "default" if value is None else "all"
    return ", ".join(str(v) for v in value) if isinstance(value, list) else str(value)


def _titled(name: str) -> str:
    """The file's name, its folders small above it."""
    folder, slash, file = name.rpartition("/")
    above = f"<small>{_breakable(folder + slash)}</small>" if folder else ""
    return f'{above}<strong title="{escape(name)}">{escape(file)}</strong>'


def _breakable(name: str) -> str:
    """A path that may break after its slashes, escaped."""
    return escape(name).replace("/", "/<wbr>")


def _many(noun: str) -> str:
    return plural(2, noun)
