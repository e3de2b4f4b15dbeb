"""``eachmask doctor``: what is wrong with a data set, and a repaired copy."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from eachmask.files.atomic import write_text
from eachmask.files.text import counted, say


@dataclass(frozen=True)
class DoctorOptions:
    """Examine a data set before training on it.

    Looks for missing, damaged, turned and duplicate images, the same image in two splits, broken, empty, double
    and tiny annotations, classes without objects. Each finding names the file, the annotation and the remedy.
    Exit status 1 if there are errors.

    Examples:
      eachmask doctor my-data
      eachmask doctor my-data --html findings.html --fix my-data-repaired
    """

    data: Annotated[Path, tyro.conf.Positional]
    """Folder of the data set, in any format that `eachmask convert` reads, or its annotation file."""
    html: Path | None = None
    """Write a page with all findings and images of the worst."""
    fix: Path | None = None
    """Write a repaired copy to this new folder; of maps and mattes one without what is damaged or double."""
    from_: Annotated[str | None, tyro.conf.arg(name="from")] = None
    """Format of the data set, if it is not to be found out."""
    images: Path | None = None
    """Folder of the images, where they are not in the data set's own."""
    show: int = 20
    """Print at most so many findings."""


def doctor(options: DoctorOptions) -> int:
    """Run the command; returns the exit status."""
    from eachmask.data.check.doctor import examine, write_repaired
    from eachmask.data.check.page import page
    from eachmask.data.problems import SEVERITIES
    from eachmask.files.progress import bar_after_a_while

    with bar_after_a_while() as progress:
        result = examine(options.data, options.from_, progress, options.images)
    for finding in result.findings[: options.show]:
        say(f"{finding.severity}: {finding}")
    if len(result.findings) > options.show:
        say(f"... and {len(result.findings) - options.show} more; --html FILE lists them")
    counts = Counter(finding.severity for finding in result.findings)
    objects = f", {counted(sum(result.sizes.values()), 'object')}" if result.sizes else ""
    say(
        f"{counted(len(result.data), 'image')}{objects} ({result.source_format.name}): "
        + ", ".join(counted(counts[severity], severity) for severity in SEVERITIES)
    )
    if result.sizes:
        say("sizes: " + "; ".join(f"{name}: {n}" for name, n in result.sizes.items()))
    if options.html is not None:
        options.html.parent.mkdir(parents=True, exist_ok=True)
        write_text(options.html, page(result))
        say(f"The report is {options.html}")
    if options.fix is not None:
        with bar_after_a_while() as progress:
            notes = write_repaired(result, options.fix, progress)
        for note in notes:
            say(f"note: {note}")
        say(f"The repaired copy is {options.fix}")
    return 1 if result.num_errors else 0
