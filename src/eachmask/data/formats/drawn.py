"""Outlines of named classes to a data set: what readers of drawing programs share, which list shapes by image."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
from numpy.typing import ArrayLike

from eachmask.data.builder import DatasetBuilder
from eachmask.data.dataset import Dataset
from eachmask.data.elsewhere import ImageFolder, before_upload
from eachmask.data.formats.classes_file import CLASSES_FILE, known_categories, with_categories
from eachmask.data.formats.coco_fields import whole_number
from eachmask.data.formats.segmentations import LEAVES, Rows, Size, rasterize_readable, without_pixels
from eachmask.data.formats.yolo_write import one_rings
from eachmask.data.images.files import files_below, image_size, spelled
from eachmask.data.problems import Problem, reason
from eachmask.data.split import AnnotatedImage
from eachmask.data.targets import instances_of, masks_of, united
from eachmask.files.progress import Progress, no_progress
from eachmask.structures import UserError

_ONE_IMAGE = re.compile(rb"<annotation[\s>]")

BROKEN = (LookupError, TypeError, ValueError, AttributeError)
"""What reading a file of another shape than expected raises; a ``UserError`` is one of them."""
MAX_LOOKED_AT = 1 << 22
"""Bytes that are looked at to know a format."""
MAX_XML_FILES = 20
"""... and files."""


@dataclass
class Drawing:
    """An image with the shapes that are drawn on it."""

    file: Path
    """Where they are written."""
    image: Path
    size: Size
    rows: list[dict[str, Any]] = field(default_factory=list)
    """Each shape's ``segmentation``, as COCO writes it."""
    names: list[str] = field(default_factory=list)
    """Each shape's class."""
    where: list[str] = field(default_factory=list)
    crowd: list[bool] = field(default_factory=list)
    scores: list[float | None] = field(default_factory=list)
    objects: list[Hashable] = field(default_factory=list)
    """Which object each shape is a part of."""
    place: tuple[str, str] | None = None
    """(split, name) of the image, where its folder does not say it."""

    def add(
        self, segmentation: Any, name: str, where: str, crowd: bool = False, score: float | None = None,
        part_of: Hashable = None,
    ) -> None:  # fmt: skip
        """One more shape; of predictions with its score. Shapes of equal ``part_of`` are one object."""
        self.objects.append((len(self.rows),) if part_of is None else part_of)
        self.rows.append({"segmentation": segmentation})
        self.names.append(name)
        self.where.append(where)
        self.crowd.append(crowd)
        self.scores.append(score)

    def drawn_on(self, height: Any, width: Any, in_pixels: bool = True) -> None:
        """The size that the file states counts where it is that of the stored pixels, which EXIF turns, or, of shapes
        ``in_pixels``, that of a larger or smaller copy of the image."""
        stated = (whole_number(height) or 0, whole_number(width) or 0)
        if min(stated) < 1 or max(abs(a - b) for a, b in zip(stated, self.size, strict=True)) <= 1:
            return
        is_copy = abs(stated[0] * self.size[1] - stated[1] * self.size[0]) <= max(self.size)
        if (is_copy and in_pixels) or stated == image_size(self.image, upright=False):
            self.size = stated


Entry = tuple[Path | None, str, Callable[[Drawing], None]]
"""An image, if it is there; what the file calls it; and what draws its shapes."""


def drawing_on(image: Path | None, file: Path, what: str, result: list[Problem]) -> Drawing | None:
    """An empty drawing on an image; None, and a problem, where the image is not there or cannot be read.

    Args:
        what: the image's name as the file has it.
    """
    if image is None:
        remedy = "put it in the data set's folder, where links that lead out of it are not followed"
        result.append(Problem(str(file), what, "there is no such image, or several of that name", remedy, "missing"))
        return None
    try:
        return Drawing(file, image, image_size(image))
    except UserError as error:
        result.append(Problem(str(image), "", f"the size cannot be read ({error})", "replace the image", "image"))
        return None


def drawings_in(
    files: Sequence[Path],
    entries: Callable[[Path], Iterable[Entry]],
    problems: list[Problem],
    progress: Progress = no_progress,
) -> Iterator[Drawing]:
    """The drawings of all files; one that cannot be read becomes a problem, unless it is the only one.

    Args:
        entries: file -> the images that it speaks of.

    Raises:
        UserError: the only file cannot be read.
    """
    found: list[tuple[Path, Entry]] = []
    for file in files:
        try:
            found += [(file, entry) for entry in entries(file)]
        except BROKEN as error:
            if len(files) == 1:
                raise
            problems.append(Problem(str(file), "", f"it cannot be read ({reason(error)})", "export it again", "file"))
    for file, (image, what, draw) in progress("reading", found):
        page = drawing_on(image, file, what, problems)
        if page is not None:
            draw(page)
            yield page


def beginning(path: Path) -> bytes:
    """What a file begins with, by which its format is known; of UTF-16 the letters."""
    with open(path, "rb") as handle:
        return handle.read(MAX_LOOKED_AT).replace(b"\0", b"")


def is_of_one_image(path: Path) -> bool:
    """Whether an XML file is about one image, as VOC and LabelMe write them."""
    return bool(_ONE_IMAGE.search(beginning(path)))


def xml_files_with(source: Path, *marks: bytes) -> list[Path]:
    """The XML files about one image each below a folder, or the file itself, if one of the first has one of the
    marks."""
    files = [path for path in ([source] if source.is_file() else files_below(source)) if path.suffix.lower() == ".xml"]
    some = (path for path in files[:MAX_XML_FILES] if is_of_one_image(path))
    return files if any(mark in beginning(path) for path in some for mark in marks) else []


def data_of(source: Path, drawings: Iterable[Drawing], problems: list[Problem], images: Path | None = None) -> Dataset:
    """The data set of some drawings; folders of the first level, of the set or of the images, are its splits. Classes
    are those of classes.json, then others in alphabetical order.
    """
    known = known_categories(source / CLASSES_FILE)
    label_of = {name: i for i, name in enumerate(known)}
    result = DatasetBuilder()
    for page, drawn, mistakes in rasterize_readable(_numbered(drawings, label_of)):
        for i in mistakes.outside:
            result.report(Problem(str(page.file), page.where[i], *LEAVES))
        for problem in without_pixels(page.file, page.where, drawn, mistakes).values():
            result.report(problem)
        base = source if images is None or page.image.is_relative_to(source) else images
        split, name = page.place or split_of(page.image, base)
        columns = [label_of[own] for own in page.names], page.crowd, page.scores
        masks, (labels, crowd, scores) = united(drawn, page.objects, columns)
        result.add(split, name, page.image, instances_of(masks, labels, crowd, (), scores))
    data = result.build()
    data.problems[:0] = problems
    return with_categories(data, known, label_of)


def _numbered(drawings: Iterable[Drawing], label_of: dict[str, int]) -> Iterator[tuple[Drawing, Rows, Size]]:
    for page in drawings:
        for name in page.names:
            label_of.setdefault(name, len(label_of))
        yield page, page.rows, page.size


def split_of(image: Path, source: Path) -> tuple[str, str]:
    """(split, name): the first folder below the set, but for one of images; ``all`` where there is none."""
    parts = image.relative_to(source).parts
    parts = parts[1:] if parts[0].casefold() in ("images", "jpegimages") else parts
    return ("all", parts[0]) if len(parts) == 1 else (parts[0], "/".join(parts[1:]))


def image_named(name: str, images: ImageFolder, near: Path | None = None) -> Path | None:
    """The one image of the last name of a path or URL, percent codes decoded, with or without the prefix of an upload.

    Args:
        near: of several the one in this folder, else the one that the folders of the name tell from the others.
    """
    place = name.replace("\\", "/")
    address = unquote(urlsplit(place).path).rsplit("/", 1)[-1] if "://" in place else ""  # without its signature
    last = re.split(r"[/=]", unquote(place))[-1]
    for spelling in (address, last, before_upload(unquote(place))):
        found = images.by_name.get(spelled(spelling), [])
        exact = [path for path in found if path.name == spelling] or found
        close = [path for path in exact if path.parent == near]
        if len(close) == 1 or len(exact) == 1:
            return (close or exact)[0]
        if exact:
            return images.best(exact, PurePosixPath(unquote(place).rpartition("=")[2]))
    return None


def ellipse(x: float, y: float, rx: float, ry: float, degrees: float = 0.0) -> list[list[float]]:
    """The ring of an ellipse about (x, y), turned clockwise as seen on the screen.

    Raises:
        ValueError: a radius is not above 0.
    """
    if not (rx > 0 and ry > 0):
        raise ValueError("its radius must be above 0")
    angle = np.linspace(0, 2 * np.pi, 120, endpoint=False)
    return [turned(np.stack([x + rx * np.cos(angle), y + ry * np.sin(angle)], 1), degrees, (x, y))]


def turned(points: ArrayLike, degrees: float, about: ArrayLike) -> list[float]:
    """The ring x1, y1, x2, y2 ... of (N, 2) points, turned clockwise as seen on the screen about a place."""
    ring = np.asarray(points, float)
    if degrees:
        turn, center = np.deg2rad(degrees), np.asarray(about, float)
        clockwise = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])  # y points down
        ring = (ring - center) @ clockwise + center
    numbers: list[float] = ring.ravel().tolist()
    return numbers


def turned_box(x: float, y: float, w: float, h: float, degrees: float) -> list[float]:
    """The corners of a box of w x h px about its center (x, y), turned clockwise about it."""
    return turned(np.array([[-w, -h], [w, -h], [w, h], [-w, h]]) / 2 + [x, y], degrees, (x, y))


def rings_to_write(image: AnnotatedImage) -> Iterator[tuple[str, bool, list[list[float]]]]:
    """Each object's class, whether it is a crowd region, and one ring of x, y, joined by bridges of no width."""
    targets = image.targets
    rings = one_rings(masks_of(targets))
    for name, crowd, ring in zip(targets.label_names, targets.crowd.tolist(), rings, strict=True):
        yield name, crowd, np.asarray(ring, float).tolist()


BRIDGED = (
    "objects with holes or several parts become one bridged ring each; other programs take crowd regions for objects"
)
