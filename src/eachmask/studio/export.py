"""What is annotated as one file: a table, or a zip of any format."""

from __future__ import annotations

import contextlib
import io
import itertools
import tempfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from eachmask.data.formats.geojson import to_geojson
from eachmask.data.formats.label_maps import write_label_map
from eachmask.data.images.files import files_below, images_left_in_place
from eachmask.data.reading import format_named
from eachmask.data.targets import masks_of
from eachmask.files.atomic import replacing
from eachmask.files.journal import compact_json
from eachmask.files.progress import no_progress
from eachmask.structures import UserError
from eachmask.studio.measure import Measures
from eachmask.studio.project import Project
from eachmask.studio.save import dataset_of
from eachmask.studio.track_export import write_tracks

FORMATS = ("csv", "coco", "yolo", "geojson", "label-tiff", "tracks")


def exported(measures: Measures, form: str) -> tuple[str, bytes]:
    """A file's name and content.

    Raises:
        UserError: there is no such format.
    """
    if form not in FORMATS:
        raise UserError(f"there is no export {form!r}: choose one of {', '.join(FORMATS)}")
    if form == "csv":
        return "objects.csv", measures.csv().encode()
    project = measures.project
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "export"
        folder.mkdir()
        if form in ("coco", "yolo"):
            pages = Path(scratch) / "pages"  # which nobody finds in a stack or a video: they go along
            with images_left_in_place(but=pages):
                format_named(form).write(folder, dataset_of(project, pages), no_progress)
        elif form == "tracks":
            write_tracks(project, folder)
        elif form == "geojson":
            _write_geojson(project, folder)
        else:
            _write_label_maps(project, folder)
        return f"{form}.zip", _zipped(folder)


def _write_geojson(project: Project, folder: Path) -> None:
    for index in project.annotated():
        place = _place(folder, project.items[index].stored, ".geojson")
        with contextlib.suppress(UserError):  # a broken image
            place.write_text(compact_json(to_geojson(project.targets(index))), encoding="utf-8")


def _write_label_maps(project: Project, folder: Path) -> None:
    """One file for each image file: of a stack or a video with a page for each of theirs."""
    annotated = set(project.annotated())
    for path, group in itertools.groupby(range(len(project.items)), key=lambda index: project.items[index].path):
        indices = list(group)
        if annotated.isdisjoint(indices):
            continue
        place = _place(folder, path.relative_to(project.folder).as_posix(), ".tif")
        with contextlib.suppress(UserError):
            if len(indices) == 1:
                write_label_map(place, masks_of(project.targets(indices[0])))
            else:
                _write_label_stack(place, (masks_of(project.targets(index)).to_label_map() for index in indices))


def _write_label_stack(place: Path, pages: Iterable[NDArray[np.int32]]) -> None:
    import tifffile

    with replacing(place) as part, tifffile.TiffWriter(part, bigtiff=True) as file:
        for page in pages:
            file.write(page.astype(np.uint16), compression="zlib", metadata=None)


def _place(folder: Path, name: str, suffix: str) -> Path:
    place = folder / (name + suffix)
    place.parent.mkdir(parents=True, exist_ok=True)
    return place


def _zipped(folder: Path) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in files_below(folder):
            archive.write(path, path.relative_to(folder).as_posix())
    return buffer.getvalue()
