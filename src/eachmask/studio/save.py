"""Saving in the chosen format: by the formats' own writers, each file whole or not at all, over nobody else's."""

from __future__ import annotations

import tempfile
from pathlib import Path

from eachmask.data.builder import DatasetBuilder
from eachmask.data.dataset import Dataset
from eachmask.data.formats.coco_write import write_coco
from eachmask.data.images.files import images_left_in_place
from eachmask.data.reading import format_named
from eachmask.files.atomic import write_bytes
from eachmask.files.progress import no_progress
from eachmask.structures import UserError
from eachmask.studio.project import Project, digests


class ChangedOnDiskError(Exception):
    """Annotation files are not as the studio knows them."""

    def __init__(self, paths: list[str]) -> None:
        super().__init__("annotation files were changed by somebody else: save again to overwrite them")
        self.paths = paths


def dataset_of(project: Project, pages: Path | None = None) -> Dataset:
    """What is annotated; data sets know no pages, so that each page and each frame is an image of its own.

    Args:
        pages: folder that gets these images, where they are to be read.
    """
    builder = DatasetBuilder(project.categories)
    builder.add_split("all")
    for index in project.annotated():
        item = project.items[index]
        try:
            targets = project.targets(index)
            path = item.path if pages is None or item.is_file else item.store(pages)
        except UserError:  # a broken image: what is drawn on it stays in the journal
            continue
        builder.add("all", item.stored, path, targets)
    return builder.build()


def save(project: Project, form: str | None = None, overwrite: bool = False) -> tuple[Path, int]:
    """Write all annotations; returns where, and of how many images.

    Raises:
        UserError: the folder may not be written to, or there is no such format.
        ChangedOnDiskError: files there are not as they were last read or written, and ``overwrite`` is not said.
    """
    with project.lock:
        if project.cannot_save:
            raise UserError(f"{project.folder} is read-only: start the studio with --labels in a folder of yours")
        chosen = format_named(form or project.format)
        data = dataset_of(project)
        with tempfile.TemporaryDirectory() as scratch, images_left_in_place():
            if project.labels.suffix.lower() == ".json" and chosen.name == "coco":
                path = Path(scratch) / project.labels.name
                write_coco(path, [(image.name, image.targets) for _, image in data.images()])
                made = {project.labels: path}
            else:
                target = Path(scratch) / "new"
                chosen.write(target, data, no_progress)
                made = {project.labels / p.relative_to(target): p for p in sorted(target.rglob("*")) if p.is_file()}
            _refuse_changed(project, list(made), overwrite)
            for place, path in made.items():
                place.parent.mkdir(parents=True, exist_ok=True)
                write_bytes(place, path.read_bytes())
        project.format = chosen.name
        project.saved(digests(project.labels))
        return project.labels, len(data)


def _refuse_changed(project: Project, places: list[Path], overwrite: bool) -> None:
    now = digests(project.labels)
    changed = [name for name, digest in now.items() if project.disk.get(name) != digest]
    gone = [name for name in project.disk if name not in now]
    if (changed or gone) and not overwrite:
        raise ChangedOnDiskError([*changed, *gone])
