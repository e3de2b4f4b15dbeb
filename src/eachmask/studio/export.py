"""What is annotated as one file: a table, or a zip of any format."""

from __future__ import annotations

import io
import tempfile
import zipfile
from pathlib import Path, PurePosixPath

from eachmask.data.formats.geojson import to_geojson
from eachmask.data.formats.label_maps import write_label_map
from eachmask.data.images.files import images_left_in_place
from eachmask.data.reading import format_named
from eachmask.data.targets import masks_of
from eachmask.files.journal import compact_json
from eachmask.files.progress import no_progress
from eachmask.structures import UserError
from eachmask.studio.measure import Measures
from eachmask.studio.project import Project
from eachmask.studio.save import dataset_of

FORMATS = ("csv", "coco", "yolo", "geojson", "label-tiff")


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
            with images_left_in_place():
                format_named(form).write(folder, dataset_of(project), no_progress)
        else:
            _one_by_one(project, form, folder)
        return f"{form}.zip", _zipped(folder)


def _one_by_one(project: Project, form: str, folder: Path) -> None:
    for index in project.annotated():
        name = PurePosixPath(project.names[index])
        place = folder / name.with_name(name.name + (".geojson" if form == "geojson" else ".tif"))
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            targets = project.targets(index)
        except UserError:
            continue
        if form == "geojson":
            place.write_text(compact_json(to_geojson(targets)), encoding="utf-8")
        else:
            write_label_map(place, masks_of(targets))


def _zipped(folder: Path) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            archive.write(path, path.relative_to(folder).as_posix())
    return buffer.getvalue()
