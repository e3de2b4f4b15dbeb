"""``eachmask link``: which objects of consecutive pages are one."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from eachmask.files.text import say

if TYPE_CHECKING:
    from eachmask.data.split import AnnotatedImage

TABLE = "tracks.csv"
COLUMNS = ("image", "page", "label", "track", "x", "y", "area", "unit")


@dataclass(frozen=True)
class LinkOptions:
    """Link the objects that `eachmask predict` found over the pages of stacks and time series.

    Pages of one file belong together, else the images of one folder, in the order of their names. Objects that overlap
    are one, the largest overlaps first; `--distance` also links those that have moved farther. RESULTS/tracks.csv then
    has the track of each object, its center and its area, in micrometers where the size of a pixel is known: `label` is
    the object's number in its image, as in instances.csv.

    Examples:
      eachmask predict movie.tif --model nuclei --out results
      eachmask link results --distance 20
      eachmask link results --pixel-size 0.65
    """

    results: Annotated[Path, tyro.conf.Positional]
    """Folder of results, or a data set in any format."""
    iou: float = 0.1
    """Least overlap of what is one object, 0 to 1."""
    distance: float | None = None
    """Largest distance between the centers of what is one object without such an overlap, px."""
    gap: int = 0
    """Pages that an object may be missing."""
    pixel_size: float | None = None
    """Micrometers per pixel; read from OME-TIFF and ImageJ files if not given."""


def link(options: LinkOptions) -> int:
    """Run the command; exit status 1 if there is nothing to link."""
    from eachmask.data.reading import read_any
    from eachmask.files.atomic import atomic
    from eachmask.structures import UserError

    if not 0 <= options.iou <= 1 or options.gap < 0:
        raise UserError("--iou must be from 0 to 1, and --gap not below 0")
    if options.pixel_size is not None and options.pixel_size <= 0:
        raise UserError("--pixel-size must be above 0")
    data, _ = read_any(options.results)
    groups = list(series([image for _, image in data.images()]))
    folder = options.results if options.results.is_dir() else options.results.parent
    with atomic(folder / TABLE) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for group in groups:
            rows = list(tracks_of(group, options))
            writer.writerows(rows)
            say(f"{group[0].name}: {len(group)} pages, {len({row[3] for row in rows})} tracks of {len(rows)} objects")
    say(str(folder / TABLE))
    return 0 if any(len(group) > 1 for group in groups) else 1


def series(images: list[AnnotatedImage]) -> Iterator[list[AnnotatedImage]]:
    """Images that belong together: pages of one file, else those of one folder by name."""
    files: dict[Path, list[AnnotatedImage]] = {}
    for image in images:
        files.setdefault(image.path, []).append(image)
    folders: dict[Path, list[AnnotatedImage]] = {}
    for path, own in files.items():
        if len(own) > 1:
            yield own
        else:
            folders.setdefault(path.parent, []).extend(own)
    for own in folders.values():
        yield sorted(own, key=lambda image: image.name)


def tracks_of(group: list[AnnotatedImage], options: LinkOptions) -> Iterator[tuple[Any, ...]]:
    """The table's rows of one series."""
    from eachmask.data.images.pixel_size import pixel_size
    from eachmask.data.targets import masks_of
    from eachmask.ops.linking import centers
    from eachmask.ops.linking import link as link_pages

    pages = [masks_of(image.targets) for image in group]
    size = options.pixel_size or pixel_size(group[0].path)
    scale, unit = (size, "um") if size else (1.0, "px")
    linked = link_pages(pages, options.iou, options.distance, options.gap)
    for page, (image, masks, tracks) in enumerate(zip(group, pages, linked, strict=True), start=1):
        middle, area = centers(masks) * scale, masks.area() * scale**2
        for i, track in enumerate(tracks.tolist()):
            values = (f"{value:.6g}" for value in (*middle[i], area[i]))
            yield (image.name, page, i + 1, track, *values, unit)
