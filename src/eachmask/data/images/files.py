"""Image files of a data set: found by name, measured by their headers, copied."""

from __future__ import annotations

import os
import re
import shutil
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from PIL import Image

from eachmask.data.images.embedded import image_bytes, is_embedded
from eachmask.data.images.read import SUFFIXES, open_with_pillow
from eachmask.structures import UserError

if TYPE_CHECKING:
    from eachmask.data.image_files import ImageView

_ORIENTATION = 274
_DRIVE = re.compile(r"[A-Za-z]:[\\/]")
"""Windows' ``C:\\``; a colon elsewhere is part of a name."""
_CLUTTER = ("__macosx", "thumbs.db", "desktop.ini", "@eadir", "$recycle.bin", "__pycache__")
_PNG_EXIF = (b"eXIf", b"Raw profile type", b"XML:com.adobe.xmp")
"""One of these is in every PNG that has an orientation, in plain letters."""


def spelled(name: str) -> str:
    """A name as all its spellings have it: letters of either case, umlauts of one sign or (macOS) of two, blanks or
    what uploads make of them.

    >>> spelled("Mu\\u0308cke 1.PNG") == spelled("m\\u00fccke_1.png")
    True
    """
    return unicodedata.normalize("NFC", name).casefold().replace(" ", "_")


def alike(path: Path) -> Path | None:
    """The file or folder of that path, or the only one whose names are spelled otherwise (:func:`spelled`), as of a
    data set that was made on a computer which does not tell them apart; None where there is none, or several."""
    if path.exists() or path.parent == path:
        return path
    folder = alike(path.parent)
    if folder is None or not folder.is_dir():
        return None
    found = _spellings(folder, folder.stat().st_mtime_ns).get(spelled(path.name), ())
    return found[0] if len(found) == 1 else None


def first_file(places: Sequence[Path]) -> Path | None:
    """The first of them that is a file, else the first that is one by another spelling of its names."""
    found = next((place for place in places if place.is_file()), None) or next(filter(None, map(alike, places)), None)
    return found if found is not None and found.is_file() else None


@lru_cache(maxsize=64)
def _spellings(folder: Path, changed: int) -> dict[str, tuple[Path, ...]]:
    """What is in a folder, by the names' common spelling."""
    del changed
    found: dict[str, tuple[Path, ...]] = {}
    for path in sorted(folder.iterdir()):
        found[spelled(path.name)] = (*found.get(spelled(path.name), ()), path)
    return found


def find_image(folder: Path, stem: str) -> Path | None:
    """The image file of that name (without suffix) in a folder, or None."""
    suffixes = [".jpg", ".png", *sorted(SUFFIXES)]
    exact = (folder / (stem + own) for suffix in suffixes for own in (suffix, suffix.upper()))
    found = next((path for path in exact if path.is_file()), None)
    if found is None and folder.is_dir():
        others = (alike(folder / (stem + suffix)) for suffix in suffixes)
        found = next((path for path in others if path is not None and path.is_file()), None)
    return found


def image_files(folder: Path) -> list[Path]:
    """All images below a folder, sorted; what other programs leave behind is left out."""
    return [path for path in files_below(folder) if path.suffix.lower() in SUFFIXES]


def files_below(folder: Path, pattern: str = "*") -> list[Path]:
    """All files of such names below a folder, sorted; what other programs leave behind is left out."""
    return [path for path in below(folder, pattern) if path.is_file()]


def below(folder: Path, pattern: str) -> list[Path]:
    """The same, folders too."""
    return sorted(path for path in folder.rglob(pattern) if not is_clutter(path.relative_to(folder)))


def matching(folder: Path, pattern: str) -> list[Path]:
    """What matches a pattern in a folder, sorted, without what other programs leave behind."""
    return sorted(path for path in folder.glob(pattern) if not is_clutter(path.relative_to(folder)))


def is_clutter(path: Path) -> bool:
    """Whether a relative path is hidden, or something that an operating system or a notebook leaves behind."""
    return any(part.startswith(".") or part.casefold() in _CLUTTER for part in path.parts if part != "..")


def clutter_in(folder: Path) -> list[str]:
    """What other programs have left behind in a folder, by relative names; what is in it is not looked at."""
    found = []
    for base, folders, files in os.walk(folder):
        own = [name for name in (*folders, *files) if is_clutter(Path(name))]
        folders[:] = [name for name in folders if name not in own]
        found += [Path(base, name).relative_to(folder).as_posix() for name in own]
    return sorted(found)


def image_size(path: Path, upright: bool = True) -> tuple[int, int]:
    """(height, width) from the header alone, turned by the EXIF orientation where ``upright``.

    Raises:
        UserError: the file is missing or no image.
    """
    try:
        with open_with_pillow(path) as image:
            width, height = image.size
            turned = upright and _may_be_turned(image, path) and image.getexif().get(_ORIENTATION, 1) >= 5
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: put the image there or remove its annotations") from None
    except Exception:
        from eachmask.data.images.read import read_image  # a kind of TIFF that Pillow does not know

        height, width = read_image(path, upright=upright).shape[:2]
        turned = False
    return (width, height) if turned else (height, width)


def _may_be_turned(image: Image.Image, path: Path) -> bool:
    """Whether the EXIF orientation is worth asking for: Pillow decodes all of a PNG to find that there is none."""
    return image.format != "PNG" or any(mark in path.read_bytes() for mark in _PNG_EXIF)


def safe_name(name: str, file: Path) -> str:
    """A file name out of a data set, as a relative POSIX path that cannot leave its folder.

    Raises:
        UserError: it is absolute, climbs out with ``..``, is empty, or has a NUL in it.
    """
    if not name or "\0" in name:
        raise UserError(f"{file}: {name!r} is no name of an image: write that of its file")
    plain = PurePosixPath(name.replace("\\", "/"))
    if plain.is_absolute() or ".." in plain.parts or not plain.name or _has_drive(name):
        raise UserError(f"{file}: the image name {name!r} leads out of the data set: make it relative")
    return str(plain)


def _has_drive(name: str) -> bool:
    return bool(_DRIVE.match(name)) or (os.name == "nt" and ":" in name)


_ALL = Path("/")
_COPIED: ContextVar[Path | None] = ContextVar("copied", default=_ALL)
"""Images below it are copied; None: none is."""


@contextmanager
def images_left_in_place(but: Path | None = None) -> Iterator[None]:
    """Writers of data sets that are called within write annotations alone.

    Args:
        but: images below this folder are copied all the same.
    """
    token = _COPIED.set(but)
    try:
        yield
    finally:
        _COPIED.reset(token)


def _is_copied(path: Path) -> bool:
    within = _COPIED.get()
    return within is _ALL or (within is not None and path.is_relative_to(within))


def copy_image(image: ImageView[Any], target: Path) -> bool:
    """Copy an image's file; False where it is missing, or within :func:`images_left_in_place`.

    Annotations made on the pixels as stored, in a file that EXIF turns, would no longer fit for a reader
    that turns it: then the copy loses its orientation tag.
    """
    path, annotated_size = image.path, image.image_size
    if not _is_copied(path) or not path.is_file():
        return False
    target.parent.mkdir(parents=True, exist_ok=True)
    if is_embedded(path):
        target.write_bytes(image_bytes(path))
        return True
    try:
        turned = image_size(path) != annotated_size
        if turned and image_size(path, upright=False) == annotated_size:
            _without_orientation(path, target)
            return True
    except UserError:
        pass  # a damaged image is copied as it is
    shutil.copyfile(path, target)
    return True


def _without_orientation(source: Path, target: Path) -> None:
    with Image.open(source) as image:
        exif = image.getexif()
        exif[_ORIENTATION] = 1
        extra: dict[str, Any] = {"quality": "keep"} if image.format == "JPEG" else {}
        image.save(target, format=image.format, exif=exif, **extra)
