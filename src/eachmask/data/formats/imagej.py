"""ImageJ's regions: ``NAME_rois.zip``, ``NAME.zip`` or ``NAME.roi`` beside the image (``RoiSet.zip`` beside one).

Each file is big-endian: 64 bytes of header, coordinates, and a second header with the name (``ij.io.RoiDecoder`` of
ImageJ 1, public domain). Read are polygon, freehand, traced, rectangle, oval and composite; ImageJ has no classes, so
ours are kept in the names: ``nut-0001``.
"""

from __future__ import annotations

import re
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from eachmask.data.dataset import Dataset
from eachmask.data.elsewhere import ImageFolder
from eachmask.data.formats.classes_file import write_categories
from eachmask.data.formats.drawn import Drawing, Entry, data_of, drawings_in, ellipse, rings_to_write
from eachmask.data.formats.format import Format
from eachmask.data.formats.segmentations import corners
from eachmask.data.formats.yolo_write import one_ring
from eachmask.data.images.files import copy_image, files_below, find_image, image_files
from eachmask.data.problems import NoAreaError, Problem, unread
from eachmask.files.progress import Progress, no_progress
from eachmask.structures import UserError

_OUTLINES = {0, 7, 8}
"""Polygon, freehand and traced."""
_RECTANGLE, _OVAL, _SUB_PIXEL, _HEADER = 1, 2, 128, 64
_OURS = re.compile(r"(.*[^\W\d].*)-\d{4}")
CROWD = " (crowd)"
MAX_BYTES = 1 << 24
"""Of one region, and of an archive's list of names: more is no outline, and no list that a tool has written."""
MAX_END = 65557
"""Bytes at an archive's end that say where its list of names is, with the longest comment."""


def read_imagej(source: Path, progress: Progress = no_progress, *, images: Path | None = None) -> Dataset:
    """Read all regions below a folder, or of one file.

    Raises:
        UserError: there are none.
    """
    files = _files(source)
    if not files:
        raise UserError(f"{source} holds no regions of ImageJ: save them from the ROI Manager as NAME_rois.zip")
    folder, problems = source if source.is_dir() else source.parent, list[Problem]()
    known = ImageFolder(images or folder)

    def entries(file: Path) -> Iterator[Entry]:
        found = _image_of(file) or known.of_stem((file.parent.relative_to(folder) / _stem(file)).as_posix())
        yield found, f"image {_stem(file)}", lambda page: _add_rois(page, problems)

    return data_of(folder, drawings_in(files, entries, problems, progress), problems, images)


def write_imagej(target: Path, data: Dataset, progress: Progress = no_progress) -> list[str]:
    """Write SPLIT/NAME_rois.zip beside the images; an object with holes or parts is one bridged outline."""
    for split, image in progress("writing", list(data.images())):
        copy_image(image, target / split / image.name)
        path = target / split / f"{image.stem}_rois.zip"
        path.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(path, "w") as archive:
            for number, (name, crowd, ring) in enumerate(rings_to_write(image), start=1):
                title = f"{name}{CROWD if crowd else ''}-{number:04d}"
                archive.writestr(_entry(title), encode_roi(np.array(ring, float), title))
    write_categories(target, data)
    return ["other programs take crowd regions for objects"]


def _entry(title: str) -> zipfile.ZipInfo:
    """A file of the archive; without the time of writing, so that the same data give the same bytes."""
    entry = zipfile.ZipInfo(f"{title.replace('/', '_')}.roi")
    entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
    return entry


def decode_roi(data: bytes, title: str = "") -> tuple[str, list[list[float]]]:
    """A region -> its name and its rings x1, y1, x2, y2 ...

    Raises:
        ValueError: it is no region, is cut short, or has no area.
    """
    if data[:4] != b"Iout" or len(data) < _HEADER:
        raise ValueError("it is no region of ImageJ")
    kind, (top, left, bottom, right, number) = data[6], struct.unpack_from(">4hH", data, 8)
    try:
        (shape_size,) = struct.unpack_from(">i", data, 36)
        (options,), (second,) = struct.unpack_from(">h", data, 50), struct.unpack_from(">i", data, 60)
        title = _name_in(data, second) or title
        if shape_size > 0:
            return title, _composite(np.frombuffer(data, ">f4", shape_size, _HEADER).astype(float))
        sub_pixel = bool(options & _SUB_PIXEL)
        if kind in _OUTLINES:
            number = number or struct.unpack_from(">i", data, 18)[0]
            return title, [_outline(data, number, (left, top), sub_pixel)]
        x, y, w, h = struct.unpack_from(">4f", data, 18) if sub_pixel else (left, top, right - left, bottom - top)
    except struct.error:
        raise ValueError("it is cut short") from None
    if kind == _RECTANGLE:
        return title, [corners([float(x), float(y), float(w), float(h)])]
    if kind == _OVAL:
        return title, ellipse(x + w / 2, y + h / 2, w / 2, h / 2)
    raise NoAreaError("line, point or angle")


def encode_roi(ring: NDArray[np.float64], name: str) -> bytes:
    """A ring (K, 2) of x, y as a polygon of ImageJ, with coordinates of its own precision."""
    low, high = np.floor(ring.min(0)), np.ceil(ring.max(0))
    (x1, y1), (x2, y2), number = low.astype(int), high.astype(int), len(ring)
    whole = np.rint(ring - low).astype(">i2")
    body = whole.T.tobytes() + ring.astype(">f4").T.tobytes()
    head, second, text = bytearray(_HEADER), bytearray(64), name.encode("utf-16-be")
    head[:4] = b"Iout"
    struct.pack_into(">hBx4hH", head, 4, 227, 0, y1, x1, y2, x2, number if number < 65536 else 0)
    if number >= 65536:
        struct.pack_into(">i", head, 18, number)
    struct.pack_into(">hxxxxxxxxi", head, 50, _SUB_PIXEL, _HEADER + len(body))
    struct.pack_into(">ii", second, 16, _HEADER + len(body) + 64, len(text) // 2)
    return b"".join((head, body, second, text))


def _outline(data: bytes, number: int, origin: tuple[int, int], sub_pixel: bool) -> list[float]:
    if number < 3:
        raise ValueError("it has fewer than three points")
    if sub_pixel:
        points = np.frombuffer(data, ">f4", 2 * number, _HEADER + 4 * number).astype(float).reshape(2, number)
    else:
        points = np.frombuffer(data, ">i2", 2 * number, _HEADER).astype(float).reshape(2, number)
        points = points + np.array(origin)[:, None]
    ring: list[float] = points.T.ravel().tolist()
    return ring


def _composite(values: NDArray[np.float64]) -> list[list[float]]:
    """Segments of a path, curves by their ends, filled by the even-odd rule: one ring, joined by bridges."""
    rings: list[list[NDArray[np.float64]]] = []
    place, used = 0, {0: 2, 1: 2, 2: 4, 3: 6, 4: 0}
    while place < len(values):
        verb = int(values[place])
        if verb not in used:
            raise ValueError("it is no path")
        own = values[place + 1 : place + 1 + used[verb]]
        if verb == 0:
            rings.append([])
        if len(own) and rings:
            rings[-1].append(own[-2:])
        place += 1 + used[verb]
    kept = [np.stack(ring) for ring in rings if len(ring) > 2]
    return [one_ring(kept, []).ravel().tolist()]


def _name_in(data: bytes, second: int) -> str:
    if not _HEADER <= second <= len(data) - 24:
        return ""
    place, length = struct.unpack_from(">ii", data, second + 16)
    return data[place : place + 2 * length].decode("utf-16-be", "replace") if 0 < length < 4096 and place > 0 else ""


def _slice(data: bytes) -> bytes:
    """What says on which slice of a stack, or of a hyperstack, a region lies."""
    second = int.from_bytes(data[60:64], "big")
    return data[56:60] + (data[second + 4 : second + 16] if second >= _HEADER else b"")


def _add_rois(page: Drawing, problems: list[Problem]) -> None:
    slices = set[bytes]()
    for title, data in _rois(page.file, problems):
        slices.add(_slice(data))
        try:
            name, rings = decode_roi(data, Path(title).stem)
            ours = _OURS.fullmatch(name)
            own = ours[1] if ours else "object"
            page.add(rings, own.removesuffix(CROWD), title, own.endswith(CROWD))
        except NoAreaError as error:
            problems.append(unread(page.file, title, error))
        except ValueError as error:
            what = str(error) if "buffer" not in str(error) else "it is cut short"
            problems.append(Problem(str(page.file), title, what, "draw it anew or delete it"))
    if len(slices) > 1:
        what = f"its regions lie on {len(slices)} slices of a stack, and all are read as of one image"
        problems.append(Problem(str(page.file), "", what, "save each slice with its own regions", "stack", "warning"))


def _rois(file: Path, problems: list[Problem]) -> Iterator[tuple[str, bytes]]:
    if file.suffix.lower() == ".roi":
        yield file.name, file.read_bytes()
        return
    try:
        with _opened(file) as archive:
            for entry in archive.infolist():
                if entry.filename.lower().endswith(".roi") and entry.file_size <= MAX_BYTES:
                    yield entry.filename, archive.read(entry)
    except (zipfile.BadZipFile, OSError, NotImplementedError, RuntimeError) as error:
        problems.append(Problem(str(file), "", f"it cannot be unpacked ({error})", "save it anew", "file"))


def _opened(file: Path) -> zipfile.ZipFile:
    """An archive, whose list of names is read whole: refused where that says it is longer than any tool's.

    Raises:
        zipfile.BadZipFile: it does.
    """
    with file.open("rb") as handle:
        handle.seek(max(0, file.stat().st_size - MAX_END))
        end = handle.read()
    at = end.rfind(b"PK\5\6")
    size = int.from_bytes(end[at + 12 : at + 16], "little") if at >= 0 else 0
    if size > MAX_BYTES or (at >= 20 and end[at - 20 : at - 16] == b"PK\6\7"):
        raise zipfile.BadZipFile("its list of names is too long")
    return zipfile.ZipFile(file)


def _stem(file: Path) -> str:
    return re.sub(r"(?i)[-_. ]?(rois?|roiset)$", "", file.stem)


def _image_of(file: Path) -> Path | None:
    stem = _stem(file)
    beside = file.parent / stem
    found = beside if stem and beside.is_file() else find_image(file.parent, stem)
    near = [path for path in image_files(file.parent) if path.parent == file.parent]
    return found or (near[0] if len(near) == 1 and not stem else None)


def _files(source: Path) -> list[Path]:
    found = [source] if source.is_file() else files_below(source)
    return [path for path in found if path.suffix.lower() == ".roi" or (path.suffix.lower() == ".zip" and _some(path))]


def _some(path: Path) -> bool:
    try:
        with _opened(path) as archive:
            names = archive.namelist()
            return any(name.lower().endswith(".roi") for name in names) or (not names and _stem(path) != path.stem)
    except (zipfile.BadZipFile, OSError):
        return False


FORMAT = Format(
    "imagej",
    lambda source: bool(_files(source)),
    "NAME_rois.zip of ImageJ",
    read_imagej,
    write_imagej,
    takes_images=True,
)
