"""``eachmask models``: what can be loaded by name, where it comes from, what it may be used for, how good it is."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eachmask.files.text import say
from eachmask.structures.errors import UserError

if TYPE_CHECKING:
    from eachmask.weights.catalogue import Entry, Follower


WIDTH = 80
"""Columns of a table that fits any terminal."""


@dataclass(frozen=True)
class ModelsOptions:
    """List the models that can be loaded by name: bundled ones first, then downloads.

    Scores with a star are measured by us, the others published by their makers; `eachmask show NAME` has more.

    Examples:
      eachmask models
      eachmask models --variants
      eachmask models --compare --out models.html
      eachmask models --json
    """

    json: bool = False
    """Print a JSON list for programs instead of a table."""
    variants: bool = False
    """List the network variants that `eachmask train` takes, instead of the trained models."""
    compare: bool = False
    """Time the downloadable models of objects on this machine, without downloading them, and list AP against time.
    Each is timed once and remembered."""
    out: Path | None = None
    """With --compare: a page (.html) with the chart of AP against time."""


@dataclass(frozen=True)
class Row:
    """One model of the list."""

    name: str
    summary: str
    where: str
    """bundled | cache | download"""
    source: str
    size_mb: float
    """Of the file, in units of a million bytes."""
    classes: int
    measured: dict[str, float]
    """Fractions 0..1."""
    published: dict[str, float]
    """Per cent, as their makers give them."""
    license: str


def list_models(options: ModelsOptions) -> int:
    """Run the command; returns the exit status."""
    from eachmask.weights.fetch import cache_dir

    if options.out is not None and not options.compare:
        raise UserError("--out is where --compare writes its page: add --compare")
    if options.compare:
        return _compare(options)
    if options.variants:
        variants = all_variants()
        say(json.dumps(variants, indent=2) if options.json else _variants_text(variants))
        return 0
    rows = all_rows()
    if options.json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
        return 0
    say(_table(rows))
    say(NOTES.format(cache=cache_dir()))
    return 0


def _compare(options: ModelsOptions) -> int:
    from eachmask.files.atomic import write_text
    from eachmask.files.progress import bar_after_a_while
    from eachmask.inference.speed import front, measured, rated
    from eachmask.inference.speed_page import speed_page

    with bar_after_a_while() as progress:
        rivals = measured(rated(), progress)
    ahead = front(rivals)
    if options.json:
        say(json.dumps([{"name": r.entry.name, "mask_ap": r.ap, "seconds": r.seconds} for r in rivals], indent=2))
    else:
        names = max(len(rival.entry.name) for rival in rivals)
        say(f"{'name':<{names}}  mask AP      ms    MB")
        for rival in sorted(rivals, key=lambda rival: rival.seconds):
            numbers = f"{rival.ap:7.1f} {1000 * rival.seconds:7.0f} {rival.entry.size_mb:5.0f}"
            say(f"{rival.entry.name:<{names}}  {numbers}{'  *' if rival in ahead else ''}")
        say(
            "\n* no other is better in less time. AP as published (COCO val2017); ms of one image of 640 x 480 px here."
        )
    if options.out is not None:
        write_text(options.out, speed_page(rivals))
        say(options.out, error=True)
    return 0


def all_variants() -> dict[str, str]:
    """Variant function -> the first line of its docstring."""
    from eachmask.models import VARIANTS, variant

    return {name: (inspect.getdoc(variant(name)) or "").split("\n")[0] for name in VARIANTS}


def _variants_text(variants: Mapping[str, str]) -> str:
    width = max(map(len, variants))
    lines = [f"{name:<{width}}  {summary}" for name, summary in sorted(variants.items())]
    return "\n".join([*lines, "Train one on your own images: eachmask train NAME --data DATA --out RUN"])


def all_rows() -> list[Row]:
    """Bundled models, then the catalogue."""
    from eachmask.weights.catalogue import bundled, entries, followers
    from eachmask.weights.file import read_info

    rows = []
    for name, path in bundled().items():
        info = read_info(path)
        rows.append(
            Row(
                name=name,
                summary=_summary(info.card) or info.variant,
                where="bundled",
                source="comes with eachmask",
                size_mb=round(path.stat().st_size / 1e6, 1),
                classes=len(info.categories),
                measured=_numbers(info.scores),
                published={},
                license=info.license,
            )
        )
    alone = [known for name, known in followers().items() if name not in entries()]
    return [*rows, *map(_catalogue_row, entries().values()), *map(_follower_row, alone)]


def _catalogue_row(entry: Entry) -> Row:
    from eachmask.weights.fetch import cached

    return Row(
        name=entry.name,
        summary=entry.summary,
        where="cache" if cached(entry) else "download",
        source=f"{entry.source}, {entry.host}",
        size_mb=entry.size_mb,
        classes=entry.num_classes,
        measured={},
        published=entry.by_metric(),
        license=entry.license,
    )


def _follower_row(known: Follower) -> Row:
    from eachmask.weights.fetch import checkpoint_file

    return Row(
        name=known.name,
        summary=known.summary,
        where="cache" if checkpoint_file(known).is_file() else "download",
        source=f"{known.source}, {known.host}",
        size_mb=known.size_mb,
        classes=1,
        measured={},
        published={},
        license=known.license,
    )


def _summary(card: str) -> str:
    """The card's first sentence: what follows its title."""
    lines = [line.strip() for line in card.splitlines()]
    paragraph = " ".join(lines[1:]).strip() if lines and lines[0].startswith("#") else " ".join(lines)
    return paragraph.split(". ")[0].rstrip(".")[:120]


def _numbers(scores: Mapping[str, Any]) -> dict[str, float]:
    return {name: value for name, value in scores.items() if isinstance(value, int | float)}


def _table(rows: Sequence[Row]) -> str:
    """One line per model, in the width of any terminal."""
    names = max(len(row.name) for row in rows)
    whats = WIDTH - names - len(f" {'':>5}  {'':>5} {'':<10} ")
    lines = [f"{'name':<{names}} {'what':<{whats}} {'AP':>5}  {'MB':>5} license"]
    for row in rows:
        what = _fitted(row.summary.removeprefix("Everyday objects, ").split(":")[0], whats)
        size = f"{row.size_mb:.0f}" if row.where == "download" else "here"
        line = (
            f"{row.name:<{names}} {what:<{whats}} {_main_score(row):<6} {size:>5} {_fitted(weights_license(row), 10)}"
        )
        lines.append(line.rstrip())
    return "\n".join(lines)


def _fitted(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 3].rstrip(" ,:") + "..."


def _main_score(row: Row) -> str:
    """AP in per cent, with a star where it is measured by us."""
    measured = [value for name, value in row.measured.items() if "AP" in name]
    if measured:
        return f"{100 * measured[0]:5.1f}*"
    return f"{list(row.published.values())[-1]:5.1f} " if row.published else f"{'-':>5} "


def weights_license(row: Row) -> str:
    """The license of the weights in a word or two; the card has all of it."""
    first = row.license.split(";")[0].split(" (")[0]
    return first.rsplit(", weights ")[-1]


NOTES = """
AP in per cent, of masks where a model makes them, else of keypoints or boxes:
published by its makers (COCO val2017), or * measured by us (see its card).
MB are downloaded when first used and kept in {cache}.
eachmask show NAME prints a model's card."""
